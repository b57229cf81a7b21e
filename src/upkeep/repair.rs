//! What is wrong is set aside, and what manifests tell is written anew.
//!
//! - Nothing is deleted: files are moved into a place of this repair's own, which nothing serves.
//! - What was pulled and is damaged is absent afterwards, so that it is fetched anew when it is asked for.
//! - What was pushed and is not whole can't be had from anybody else: its tags and manifests are set aside, and those of the
//!   indexes that name it, so that nobody is given a part of it. What is left of its content stays for whoever pushes it
//!   again.
//! - Names go first, then entries, then content, each in one step: a process that is killed in between leaves the rest to
//!   the next repair.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Damage, Error, Verified, Watch,
    images::{Manifests, labels},
    verify::tags_of,
};
use crate::{
    storage::{self, Quarantine, Record, Repository, Store, Survey},
    types::{CanonicalName, Digest, Namespace, Role, Tag},
};

/// Sees to all that was found. The directory must be this process's own, and as it was when it was looked at.
///
/// # Errors
/// The medium takes no changes, or it was interrupted. What was done stays done.
pub fn repair(
    store: &Store,
    verified: &mut Verified,
    sparse: bool,
    watch: &dyn Watch,
) -> Result<(), Error> {
    let quarantine = store.quarantine()?;
    let mut work = Work {
        store,
        quarantine,
        watch,
        places: BTreeMap::new(),
    };
    let survey = &verified.survey;
    let mut manifests = Manifests::new(store, survey);
    let useless = useless(survey, &verified.bad, sparse, &mut manifests);
    let mut lost = Vec::new();
    for (namespace, name, digest) in &useless {
        let repository = &survey.repositories[&(*namespace, name.clone())];
        let tags = tags_of(repository, digest);
        // A tag that was pulled may name what is not here: it says what to fetch.
        if *namespace == Namespace::Local {
            for tag in &tags {
                work.take(&Record::Tag(*namespace, name.clone(), tag.clone()))?;
            }
            lost.extend(labels(name, digest, &tags));
        }
        work.take(&Record::Manifest(*namespace, name.clone(), digest.clone()))?;
    }
    for fault in &verified.faults {
        let names_nothing = fault.damage == Damage::Tag;
        let unreadable = matches!(fault.damage, Damage::Entry | Damage::Unreadable);
        if names_nothing || (unreadable && !matches!(fault.record, Record::Content(_))) {
            work.take(&fault.record)?;
            match &fault.record {
                Record::Tag(Namespace::Local, name, tag) => lost.push(format!("{name}:{tag}")),
                Record::Manifest(Namespace::Local, name, digest) => {
                    lost.extend(orphaned(survey, name, digest, &mut work)?);
                }
                _ => {}
            }
        }
    }
    for digest in &verified.bad {
        work.take(&Record::Content(digest.clone()))?;
    }
    for fault in &verified.faults {
        if fault.damage == Damage::Foreign {
            work.take(&fault.record)?;
        }
    }
    restore(&work, verified, &useless, &mut manifests)?;
    let places = work.places;
    for fault in &mut verified.faults {
        fault.repaired = fault.damage != Damage::Forbidden;
        fault.quarantined = places.get(&fault.record.to_string()).cloned();
    }
    lost.sort();
    lost.dedup();
    verified.lost = lost;
    Ok(())
}

struct Work<'a> {
    store: &'a Store,
    quarantine: Quarantine<'a>,
    watch: &'a dyn Watch,
    /// Where records were put, by their paths.
    places: BTreeMap<String, String>,
}

impl Work<'_> {
    fn take(&mut self, record: &Record) -> Result<(), Error> {
        self.go_on()?;
        if let Some(place) = self.quarantine.take(record)? {
            self.places.insert(record.to_string(), place);
        }
        Ok(())
    }

    fn go_on(&self) -> Result<(), Error> {
        match self.watch.is_over() {
            true => Err(Error::Interrupted),
            false => Ok(()),
        }
    }
}

/// The tags of a manifest whose own entry was damaged go with it.
fn orphaned(
    survey: &Survey,
    name: &CanonicalName,
    digest: &Digest,
    work: &mut Work<'_>,
) -> Result<Vec<String>, Error> {
    let repository = survey.repositories.get(&(Namespace::Local, name.clone()));
    let tags: Vec<Tag> = repository.map_or(Vec::new(), |repository| tags_of(repository, digest));
    for tag in &tags {
        work.take(&Record::Tag(Namespace::Local, name.clone(), tag.clone()))?;
    }
    Ok(labels(name, digest, &tags))
}

type Held = (Namespace, CanonicalName, Digest);

/// The manifests that can't be served as they are held, an index before the children that it suffers from.
fn useless(
    survey: &Survey,
    bad: &BTreeSet<Digest>,
    sparse: bool,
    manifests: &mut Manifests<'_>,
) -> Vec<Held> {
    let owed: BTreeSet<&Digest> = survey.owed.iter().map(|(_, owed)| &owed.digest).collect();
    let mut useless = Vec::new();
    for ((namespace, name), repository) in &survey.repositories {
        let local = *namespace == Namespace::Local;
        let is_bad = |digest: &Digest| bad.contains(digest);
        let mut found: Vec<Digest> = Vec::new();
        // What an index is depends on its children, so it is looked at once more for each that is found.
        loop {
            let before = found.len();
            for (digest, held) in &repository.manifests {
                if found.contains(digest) {
                    continue;
                }
                let parsed = match survey.contents.contains_key(digest) && !is_bad(digest) {
                    true => manifests.get(digest, Some(&held.entry.media_type)),
                    false => None,
                };
                let Some(parsed) = parsed else {
                    // One that this user may not read may be whole.
                    if is_bad(digest) || !survey.contents.contains_key(digest) {
                        found.push(digest.clone());
                    }
                    continue;
                };
                let mut references = parsed.manifest.references.iter();
                let hurt = references.any(|reference| {
                    let named = &reference.digest;
                    if reference.role == Role::NonDistributable {
                        return false;
                    }
                    match survey.contents.get(named) {
                        _ if is_bad(named) => local,
                        Some(content) if content.size != reference.size => true,
                        Some(_) => local && found.contains(named),
                        None => local && !sparse && !owed.contains(named),
                    }
                });
                if hurt {
                    found.push(digest.clone());
                }
            }
            if found.len() == before {
                break;
            }
        }
        // Parents were found after their children.
        let held = |digest| (*namespace, name.clone(), digest);
        useless.extend(found.into_iter().rev().map(held));
    }
    useless
}

/// Writes anew the entries that a manifest which is whole lacks.
fn restore(
    work: &Work<'_>,
    verified: &Verified,
    useless: &[Held],
    manifests: &mut Manifests<'_>,
) -> Result<(), Error> {
    let mut lacking: BTreeSet<(Namespace, CanonicalName)> = BTreeSet::new();
    for fault in &verified.faults {
        match &fault.record {
            Record::Member(namespace, name, ..)
            | Record::Referrer(namespace, name, ..)
            | Record::Manifest(namespace, name, _) => {
                lacking.insert((*namespace, name.clone()));
            }
            Record::Holder(digest, _) => {
                let holds = |repository: &Repository| {
                    repository.manifests.contains_key(digest)
                        || repository.members.contains_key(digest)
                };
                let repositories = verified.survey.repositories.iter();
                for ((namespace, name), _) in repositories.filter(|(_, there)| holds(there)) {
                    work.go_on()?;
                    work.store.add_holder(*namespace, name, digest)?;
                }
            }
            _ => {}
        }
    }
    for (namespace, name) in lacking {
        let Some(repository) = verified.survey.repositories.get(&(namespace, name.clone())) else {
            continue;
        };
        for (digest, held) in &repository.manifests {
            let is_useless = useless.contains(&(namespace, name.clone(), digest.clone()));
            if is_useless || verified.bad.contains(digest) {
                continue;
            }
            work.go_on()?;
            if let Some(parsed) = manifests.get(digest, Some(&held.entry.media_type))
                && let Some(content) = work.store.content(digest)?
            {
                let bytes = content.read().map_err(|source| {
                    storage::Error::unreadable(&Record::Content(digest.clone()), source)
                })?;
                work.store
                    .put_manifest(namespace, &name, digest, &bytes, &parsed.manifest)?;
            }
        }
    }
    Ok(())
}
