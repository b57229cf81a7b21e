//! All that a data directory holds, looked through once, and what of it is not as it should be.
//!
//! Nothing that is wrong ends the look, and neither does what another process adds or takes away meanwhile. Entries are
//! read before the content that they speak of, so that what vanishes on the way is taken for absent and never for wrong.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::SystemTime,
};

use serde::de::DeserializeOwned;

use super::{
    CachedContent, Error, Holder, ManifestEntry, Member, Owed, Reason, Record, Store, TagEntry,
    backend::Leaf,
    layout::{self, Key},
};
use crate::types::{CanonicalName, Digest, Namespace, Referrer, Tag};

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    pub contents: BTreeMap<Digest, CachedContent>,
    pub repositories: BTreeMap<(Namespace, CanonicalName), Repository>,
    /// Records of who holds a content, by the name that the layout gives the repository.
    pub holders: BTreeMap<Digest, BTreeSet<String>>,
    /// What is still to be fetched, by whom a push got it accepted.
    pub owed: Vec<(Record, Owed)>,
    pub odd: Vec<Odd>,
    /// Bytes that repairs set aside.
    pub quarantined: u64,
}

/// What one repository of one namespace holds.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    pub manifests: BTreeMap<Digest, HeldManifest>,
    pub tags: BTreeMap<Tag, HeldTag>,
    pub members: BTreeMap<Digest, Vec<Reason>>,
}

#[derive(Clone, Debug)]
pub struct HeldManifest {
    pub entry: ManifestEntry,
    /// When it was last asked for, if it was pulled; when it came, if it was pushed.
    pub used: SystemTime,
}

#[derive(Clone, Debug)]
pub struct HeldTag {
    pub digest: Digest,
    /// When it was pushed, or last heard of.
    pub written: SystemTime,
}

/// A file that is not as it should be.
#[derive(Clone, Debug)]
pub struct Odd {
    pub record: Record,
    pub why: Oddity,
}

#[derive(Clone, Debug)]
pub enum Oddity {
    /// It is none of standin's.
    Foreign,
    /// It holds what standin never wrote.
    Damaged(String),
    Unreadable(String),
    /// This user may not read it, which says nothing of what is in it.
    Forbidden(String),
}

impl Store {
    /// Looks through everything. With `every_record` also those are read whose path says enough.
    pub fn survey(&self, every_record: bool) -> Survey {
        let mut surveyor = Surveyor {
            store: self,
            every_record,
            survey: Survey::default(),
        };
        let top = match self.list(&layout::root()) {
            Ok(names) => names,
            Err(error) => {
                surveyor.note(Record::Foreign(String::new()), unreadable(&error));
                Vec::new()
            }
        };
        for place in IN_ORDER {
            let key = layout::below(&layout::root(), place);
            self.backend
                .walk(&key, &mut |key, leaf| surveyor.visit(&key, leaf));
        }
        for name in top {
            if !IN_ORDER.contains(&name.as_str()) && !PASSED_OVER.contains(&name.as_str()) {
                let key = layout::below(&layout::root(), &name);
                self.backend
                    .walk(&key, &mut |key, leaf| surveyor.visit(&key, leaf));
            }
        }
        self.backend.walk(&layout::quarantine(), &mut |_, leaf| {
            if let Leaf::File(size) = leaf {
                surveyor.survey.quarantined += size;
            }
        });
        surveyor.survey
    }

    /// What is wrong with the record now, if anything is. An absent one is not wrong.
    pub fn check(&self, record: &Record) -> Option<Oddity> {
        let key = &record.key();
        match record {
            Record::Content(digest) => match self.content(digest) {
                Ok(_) => None,
                Err(error) => Some(unreadable(&error)),
            },
            Record::Manifest(..) => self.parses::<ManifestEntry>(key),
            Record::Tag(..) => self.parses::<TagEntry>(key),
            Record::Member(..) => self.parses::<Member>(key),
            Record::Referrer(..) => self.parses::<Referrer>(key),
            Record::Owed(_) => self.parses::<Owed>(key),
            Record::Holder(_, id) => match self.entry::<Holder>(key) {
                Ok(Some(holder)) if holder.id() != *id => {
                    let why = format!("it speaks of {}, which has another place", holder.name);
                    Some(Oddity::Damaged(why))
                }
                Ok(_) => None,
                Err(error) => Some(unreadable(&error)),
            },
            Record::Foreign(_) => Some(Oddity::Foreign),
        }
    }

    /// Whether there is such a record at this moment.
    pub fn has(&self, record: &Record) -> bool {
        matches!(self.backend.written(&record.key()), Ok(Some(_)))
    }

    /// Whether the content is owed at this moment.
    pub fn is_owed(&self, digest: &Digest) -> bool {
        let ids = self.list(&layout::all_owed()).unwrap_or_default();
        let ids = ids.iter().filter_map(|id| id.parse().ok());
        ids.map(|id| self.entry::<Owed>(&layout::owed(id)))
            .any(|owed| matches!(owed, Ok(Some(owed)) if owed.digest == *digest))
    }

    fn parses<T: DeserializeOwned>(&self, key: &Key) -> Option<Oddity> {
        self.entry::<T>(key).err().map(|error| unreadable(&error))
    }
}

impl Survey {
    /// Whether the layout's record is there that the repository holds the content.
    pub fn is_held_by(&self, digest: &Digest, namespace: Namespace, name: &CanonicalName) -> bool {
        let id = Holder::new(namespace, name).id();
        self.holders
            .get(digest)
            .is_some_and(|holders| holders.contains(&id))
    }

    /// Records of holders that hold the content no more.
    pub fn stale_holders(&self) -> Vec<Record> {
        let mut real: BTreeSet<(&Digest, String)> = BTreeSet::new();
        for ((namespace, name), repository) in &self.repositories {
            let id = Holder::new(*namespace, name).id();
            let held = repository.manifests.keys();
            let held = held.chain(repository.members.keys());
            real.extend(held.map(|digest| (digest, id.clone())));
        }
        let mut stale = Vec::new();
        for (digest, ids) in &self.holders {
            for id in ids {
                if !real.contains(&(digest, id.clone())) {
                    stale.push(Record::Holder(digest.clone(), id.clone()));
                }
            }
        }
        stale
    }
}

struct Surveyor<'a> {
    store: &'a Store,
    every_record: bool,
    survey: Survey,
}

impl Surveyor<'_> {
    fn visit(&mut self, key: &Key, leaf: Leaf) {
        let record = Record::at(key);
        let size = match leaf {
            Leaf::File(size) => size,
            Leaf::Closed(error) => return self.note(record, closed(&error)),
            Leaf::Hollow => {
                if !matches!(record, Record::Foreign(_)) {
                    let why = "there is a directory in its place".to_owned();
                    self.note(record, Oddity::Unreadable(why));
                }
                return;
            }
        };
        let written = self.store.backend.written(key);
        let Ok(Some(written)) = written else {
            return;
        };
        match &record {
            Record::Foreign(_) => return self.note(record, Oddity::Foreign),
            Record::Content(digest) => {
                let content = CachedContent {
                    size,
                    since: written,
                };
                self.survey.contents.insert(digest.clone(), content);
            }
            Record::Manifest(namespace, name, digest) => {
                if let Some(entry) = self.read::<ManifestEntry>(&record) {
                    let used = written;
                    let held = HeldManifest { entry, used };
                    let repository = self.repository(*namespace, name);
                    repository.manifests.insert(digest.clone(), held);
                }
            }
            Record::Tag(namespace, name, tag) => {
                if let Some(TagEntry { digest, .. }) = self.read(&record) {
                    let held = HeldTag { digest, written };
                    let repository = self.repository(*namespace, name);
                    repository.tags.insert(tag.clone(), held);
                }
            }
            Record::Member(namespace, name, digest, reason) => {
                let members = &mut self.repository(*namespace, name).members;
                let reasons = members.entry(digest.clone()).or_default();
                reasons.push(reason.clone());
            }
            Record::Holder(digest, id) => {
                let holders = self.survey.holders.entry(digest.clone()).or_default();
                holders.insert(id.clone());
            }
            Record::Owed(_) => {
                if let Some(owed) = self.read(&record) {
                    self.survey.owed.push((record.clone(), owed));
                }
            }
            Record::Referrer(..) => {}
        }
        let read_already = matches!(
            record,
            Record::Manifest(..) | Record::Tag(..) | Record::Owed(_) | Record::Content(_)
        );
        if self.every_record
            && !read_already
            && let Some(why) = self.store.check(&record)
        {
            self.note(record, why);
        }
    }

    fn read<T: DeserializeOwned>(&mut self, record: &Record) -> Option<T> {
        match self.store.entry(&record.key()) {
            Ok(entry) => entry,
            Err(error) => {
                self.note(record.clone(), unreadable(&error));
                None
            }
        }
    }

    fn repository(&mut self, namespace: Namespace, name: &CanonicalName) -> &mut Repository {
        let key = (namespace, name.clone());
        self.survey.repositories.entry(key).or_default()
    }

    fn note(&mut self, record: Record, why: Oddity) {
        self.survey.odd.push(Odd { record, why });
    }
}

fn unreadable(error: &Error) -> Oddity {
    match error {
        Error::Corrupt { why, .. } => Oddity::Damaged(why.clone()),
        Error::Io { source, .. } => closed(source),
    }
}

fn closed(error: &io::Error) -> Oddity {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Oddity::Forbidden(error.to_string()),
        _ => Oddity::Unreadable(error.to_string()),
    }
}

/// Entries before content.
const IN_ORDER: [&str; 4] = ["namespaces", "owed", "holders", "blobs"];

/// What is under way, what is no record, what repairs set aside, and what others put into any directory.
const PASSED_OVER: [&str; 7] = [
    "version",
    "lock",
    "uploads",
    "quarantine",
    "lost+found",
    ".gitignore",
    ".gitkeep",
];
