//! Whether all that is there is as it should be: every content hashes to its name, every entry can be read and speaks of
//! what is there.
//!
//! Another process may work on the directory meanwhile. So what is found missing is looked for again, and counts only if
//! that which needs it is there before and after.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    Error, Image, Watch,
    hash::{FORBIDDEN, hash},
    images::{Manifests, labels},
};
use crate::{
    storage::{Oddity, Reason, Record, Repository, Store, Survey},
    types::{CanonicalName, Digest, Namespace, Role, Tag},
};

/// What was found.
#[derive(Debug, Default)]
pub struct Verified {
    pub checked: Checked,
    pub faults: Vec<Fault>,
    /// Images that were pushed and that a repair had to take out of sight, since they are not whole.
    pub lost: Vec<String>,
    pub(super) survey: Survey,
    /// Content that is here and of no use.
    pub(super) bad: BTreeSet<Digest>,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checked {
    pub contents: usize,
    pub bytes: u64,
    pub manifests: usize,
    pub tags: usize,
}

#[derive(Clone, Debug)]
pub struct Fault {
    pub damage: Damage,
    /// Where it is.
    pub record: Record,
    /// What it is, for a person.
    pub what: String,
    pub hurts: Vec<Hurt>,
    /// A repair has seen to it.
    pub repaired: bool,
    /// Where a repair has put the file, below the data directory.
    pub quarantined: Option<String>,
}

/// An image that can't be had as it should.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hurt {
    pub image: String,
    /// It was pushed or seeded here, so that nobody else has it.
    pub local: bool,
}

/// The kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    /// The bytes do not hash to their name.
    Content,
    /// It can't be read.
    Unreadable,
    /// This user may not read it.
    Forbidden,
    /// A manifest needs it, and it is not there.
    Missing,
    /// It has another size than a manifest or an entry says.
    Size,
    /// A tag names a manifest that is not there.
    Tag,
    /// An entry holds what standin never wrote.
    Entry,
    /// An entry is not there that others need.
    NoEntry,
    /// It is none of standin's.
    Foreign,
}

impl Damage {
    /// One word for programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Unreadable => "unreadable",
            Self::Forbidden => "forbidden",
            Self::Missing => "missing",
            Self::Size => "size",
            Self::Tag => "tag",
            Self::Entry => "entry",
            Self::NoEntry => "no-entry",
            Self::Foreign => "foreign",
        }
    }
}

impl Verified {
    /// Nothing is wrong, or nothing any more and nothing was lost of what was pushed.
    pub fn is_sound(&self) -> bool {
        self.lost.is_empty() && self.faults.iter().all(|fault| fault.repaired)
    }
}

/// Looks at everything. With `sparse` a pushed manifest may lack what it names, as `--allow-sparse` has it.
///
/// # Errors
/// It was interrupted.
pub fn verify(store: &Store, sparse: bool, watch: &dyn Watch) -> Result<Verified, Error> {
    let survey = store.survey(true);
    let unsound = hash(store, &survey, watch)?;
    let mut manifests = Manifests::new(store, &survey);
    let images = manifests.images();
    let mut look = Look {
        store,
        survey: &survey,
        sparse,
        namers: HashMap::new(),
        faults: BTreeMap::new(),
        bad: BTreeSet::new(),
    };
    for image in &images {
        for digest in image.named.keys() {
            look.namers.entry(digest).or_default().push(image);
        }
    }
    for odd in &survey.odd {
        look.odd(&odd.record, &odd.why);
    }
    for (digest, (damage, what)) in unsound {
        if damage != Damage::Forbidden {
            look.bad.insert(digest.clone());
        }
        let hurts = look.namers(&digest);
        look.fault(damage, Record::Content(digest), what, hurts);
    }
    for ((namespace, name), repository) in &survey.repositories {
        look.repository(*namespace, name, repository, &mut manifests);
    }
    let checked = Checked {
        contents: survey.contents.len(),
        bytes: survey.contents.values().map(|content| content.size).sum(),
        manifests: count(&survey, |repository| repository.manifests.len()),
        tags: count(&survey, |repository| repository.tags.len()),
    };
    let Look { faults, bad, .. } = look;
    Ok(Verified {
        checked,
        faults: faults.into_values().collect(),
        lost: Vec::new(),
        bad,
        survey,
    })
}

fn count(survey: &Survey, of: impl Fn(&Repository) -> usize) -> usize {
    survey.repositories.values().map(of).sum()
}

struct Look<'a> {
    store: &'a Store,
    survey: &'a Survey,
    sparse: bool,
    /// The images that name a content.
    namers: HashMap<&'a Digest, Vec<&'a Image>>,
    /// By where they are.
    faults: BTreeMap<(String, Damage), Fault>,
    bad: BTreeSet<Digest>,
}

impl Look<'_> {
    /// One file is told of once for each thing that is wrong with it.
    fn fault(&mut self, damage: Damage, record: Record, what: String, hurts: Vec<Hurt>) {
        let key = (record.to_string(), damage);
        let fault = self.faults.entry(key).or_insert(Fault {
            damage,
            record,
            what,
            hurts: Vec::new(),
            repaired: false,
            quarantined: None,
        });
        fault.hurts.extend(hurts);
        fault.hurts.sort();
        fault.hurts.dedup();
    }

    /// The images that name the content.
    fn namers(&self, digest: &Digest) -> Vec<Hurt> {
        let namers = self.namers.get(digest).into_iter().flatten();
        namers.flat_map(|image| hurt(image)).collect()
    }

    /// Those of one repository.
    fn namers_in(&self, namespace: Namespace, name: &CanonicalName, digest: &Digest) -> Vec<Hurt> {
        let namers = self.namers.get(digest).into_iter().flatten();
        let own = namers.filter(|image| image.namespace == namespace && image.name == *name);
        own.flat_map(|image| hurt(image)).collect()
    }

    fn odd(&mut self, record: &Record, why: &Oddity) {
        let (damage, what) = match why {
            Oddity::Foreign => (Damage::Foreign, "it is none of standin's files".to_owned()),
            Oddity::Damaged(why) => (Damage::Entry, format!("it is no entry of standin's: {why}")),
            Oddity::Unreadable(why) => (Damage::Unreadable, format!("it can't be read: {why}")),
            Oddity::Forbidden(_) => (Damage::Forbidden, FORBIDDEN.to_owned()),
        };
        let hurts = match record {
            Record::Content(digest) => {
                if damage != Damage::Forbidden {
                    self.bad.insert(digest.clone());
                }
                self.namers(digest)
            }
            Record::Holder(digest, _) => self.namers(digest),
            Record::Member(namespace, name, digest, _)
            | Record::Referrer(namespace, name, digest, _) => {
                self.namers_in(*namespace, name, digest)
            }
            Record::Tag(namespace, name, tag) => {
                vec![Hurt {
                    image: format!("{name}:{tag}"),
                    local: *namespace == Namespace::Local,
                }]
            }
            Record::Manifest(namespace, name, digest) => {
                let tags: Vec<Tag> = self
                    .survey
                    .repositories
                    .get(&(*namespace, name.clone()))
                    .map(|repository| tags_of(repository, digest))
                    .unwrap_or_default();
                let local = *namespace == Namespace::Local;
                let labels = labels(name, digest, &tags).into_iter();
                labels.map(|image| Hurt { image, local }).collect()
            }
            Record::Owed(_) | Record::Foreign(_) => Vec::new(),
        };
        self.fault(damage, record.clone(), what, hurts);
    }

    fn repository(
        &mut self,
        namespace: Namespace,
        name: &CanonicalName,
        repository: &Repository,
        manifests: &mut Manifests<'_>,
    ) {
        for (digest, held) in &repository.manifests {
            let record = Record::Manifest(namespace, name.clone(), digest.clone());
            let needed = || self.is_there(&record);
            if self.is_missing(digest, needed) {
                let what = "the manifest is held, and its content is not here".to_owned();
                let hurts = self.namers_in(namespace, name, digest);
                self.fault(
                    Damage::Missing,
                    Record::Content(digest.clone()),
                    what,
                    hurts,
                );
                continue;
            }
            let Some(parsed) = manifests.get(digest, Some(&held.entry.media_type)) else {
                // It has vanished, or is told of as what it is.
                continue;
            };
            let size = self.survey.contents.get(digest).map(|content| content.size);
            if let Some(size) = size.filter(|size| *size != held.entry.size) {
                let what = format!("it says {} bytes of {size}", held.entry.size);
                let hurts = self.namers_in(namespace, name, digest);
                self.fault(Damage::Size, record.clone(), what, hurts);
            }
            self.holder(namespace, name, digest, &record);
            for reference in &parsed.manifest.references {
                if reference.role == Role::NonDistributable {
                    continue;
                }
                let named = &reference.digest;
                let reason = Reason::Named(digest.clone());
                let member = Record::Member(namespace, name.clone(), named.clone(), reason.clone());
                let has_reason = repository
                    .members
                    .get(named)
                    .is_some_and(|reasons| reasons.contains(&reason));
                let gone = || !self.is_there(&member);
                if !has_reason && self.confirmed(gone, || self.is_there(&record)) {
                    let what = format!("without it {name} does not serve {named}");
                    let hurts = self.namers_in(namespace, name, digest);
                    self.fault(Damage::NoEntry, member, what, hurts);
                }
                if self.bad.contains(named) {
                    continue;
                }
                match self.survey.contents.get(named) {
                    Some(content) if content.size != reference.size => {
                        let what = format!(
                            "it has {} bytes, and {digest} says {}",
                            content.size, reference.size
                        );
                        let hurts = self.namers_in(namespace, name, digest);
                        self.fault(Damage::Size, Record::Content(named.clone()), what, hurts);
                    }
                    Some(_) => {}
                    None => {
                        let needed = || self.is_there(&record) && !self.is_owed(named);
                        if namespace == Namespace::Local
                            && !self.sparse
                            && self.is_missing(named, needed)
                        {
                            let what = "what was pushed names it, and it is not here".to_owned();
                            let hurts = self.namers_in(namespace, name, digest);
                            self.fault(
                                Damage::Missing,
                                Record::Content(named.clone()),
                                what,
                                hurts,
                            );
                        }
                    }
                }
            }
        }
        for (digest, reasons) in &repository.members {
            if let Some(reason) = reasons.first() {
                let record =
                    Record::Member(namespace, name.clone(), digest.clone(), reason.clone());
                self.holder(namespace, name, digest, &record);
            }
        }
        if namespace == Namespace::Local {
            for (tag, held) in &repository.tags {
                self.tag(name, tag, &held.digest, repository);
            }
        }
    }

    /// What is held must be known to be, or it could be evicted from under its repository. `by` holds it.
    fn holder(&mut self, namespace: Namespace, name: &CanonicalName, digest: &Digest, by: &Record) {
        if self.survey.is_held_by(digest, namespace, name) {
            return;
        }
        let record = Record::holder(namespace, name, digest);
        // One that is damaged is told of as what it is.
        let path = record.to_string();
        let known = self.faults.range((path.clone(), Damage::Content)..).next();
        let known = known.is_some_and(|((known, _), _)| *known == path);
        let gone = || !self.is_there(&record);
        if !known && self.confirmed(gone, || self.is_there(by)) {
            let what = format!("without it nobody knows that {name} holds {digest}");
            let hurts = self.namers_in(namespace, name, digest);
            self.fault(Damage::NoEntry, record, what, hurts);
        }
    }

    fn tag(&mut self, name: &CanonicalName, tag: &Tag, digest: &Digest, repository: &Repository) {
        if repository.manifests.contains_key(digest) {
            return;
        }
        let record = Record::Tag(Namespace::Local, name.clone(), tag.clone());
        let manifest = Record::Manifest(Namespace::Local, name.clone(), digest.clone());
        let names_it = || {
            let entry = self.store.tag(Namespace::Local, name, tag);
            entry.is_ok_and(|entry| entry.is_some_and(|entry| entry.digest == *digest))
        };
        if self.confirmed(|| !self.is_there(&manifest), names_it) {
            let hurts = vec![Hurt {
                image: format!("{name}:{tag}"),
                local: true,
            }];
            let what = format!("it names {digest}, which is no manifest of {name}");
            self.fault(Damage::Tag, record, what, hurts);
        }
    }

    fn is_missing(&self, digest: &Digest, needed: impl Fn() -> bool) -> bool {
        let absent = || matches!(self.store.stat(digest), Ok(None));
        !self.survey.contents.contains_key(digest)
            && !self.bad.contains(digest)
            && self.confirmed(absent, needed)
    }

    /// Whether it is wrong and was all the time, as far as looking twice can tell.
    fn confirmed(&self, wrong: impl Fn() -> bool, needed: impl Fn() -> bool) -> bool {
        (0..2).all(|_| wrong() && needed()) && wrong()
    }

    fn is_there(&self, record: &Record) -> bool {
        self.store.has(record)
    }

    fn is_owed(&self, digest: &Digest) -> bool {
        self.store.is_owed(digest)
    }
}

fn hurt(image: &Image) -> impl Iterator<Item = Hurt> {
    let local = image.is_local();
    let labels = image.labels().into_iter();
    labels.map(move |image| Hurt { image, local })
}

pub(super) fn tags_of(repository: &Repository, digest: &Digest) -> Vec<Tag> {
    let tags = repository.tags.iter();
    let tags = tags.filter(|(_, tag)| tag.digest == *digest);
    tags.map(|(tag, _)| tag.clone()).collect()
}
