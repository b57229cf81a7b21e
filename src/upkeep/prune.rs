//! What of a data directory may go between two jobs, and how it goes.
//!
//! - What was pulled goes by the rules of eviction, least recently used first ([`plan`]).
//! - What was pushed goes only if its name is asked for.
//! - What no manifest names goes in any case, whoever brought it: nobody can ask for it by a name.
//! - The plan is made from what is there before anything goes, so that a rehearsal tells what would be done.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, SystemTime},
};

use super::{
    Error, Watch,
    images::{Manifests, labels},
    verify::tags_of,
};
use crate::{
    cache::{Goal, MaxSize, Plan, plan},
    storage::{
        self, Cached, CachedManifest, Odd, Oddity, Reason, Record, Repository, Store, Survey,
    },
    types::{CanonicalName, Digest, Namespace, Pattern, Role, Tag},
};

/// What is to go, besides what no manifest names.
#[derive(Clone, Debug, Default)]
pub struct Pruning {
    /// What was pulled, down to this much.
    pub cache: Option<MaxSize>,
    /// What was pulled and not used since then, and of `local` what was not pushed since then.
    pub unused_since: Option<SystemTime>,
    /// All that was pulled.
    pub all_cached: bool,
    /// What was pushed under these names.
    pub local: Vec<Pattern>,
    /// What repairs set aside.
    pub quarantine: bool,
}

/// What went, or would.
#[derive(Clone, Debug, Default)]
pub struct Pruned {
    /// In the order in which they went.
    pub manifests: Vec<Gone>,
    /// Contents that no manifest named, and their bytes.
    pub unnamed: usize,
    pub unnamed_bytes: u64,
    /// What repairs had set aside.
    pub quarantined_bytes: u64,
    /// All of that.
    pub bytes: u64,
    /// Bytes of content that are left, and of it what was only pulled.
    pub left: u64,
    pub left_cached: u64,
}

/// A manifest that went.
#[derive(Clone, Debug)]
pub struct Gone {
    pub local: bool,
    /// By its tags, or else by its digest.
    pub names: Vec<String>,
    pub digest: Digest,
    /// What went with it, and with none before it.
    pub bytes: u64,
    pub used: SystemTime,
}

/// Takes away what `pruning` says, or with `rehearse` only tells what that is.
///
/// # Errors
/// The medium failed, or it was interrupted: what is left is whole, and the next pruning goes on.
pub fn prune(
    store: &Store,
    pruning: &Pruning,
    rehearse: bool,
    watch: &dyn Watch,
) -> Result<Pruned, Error> {
    let mut survey = store.survey(false);
    let mut pruned = Pruned::default();
    // Whether it names something can't be told, so nothing is safe to go.
    let opaque = |odd: &&Odd| {
        !matches!(odd.record, Record::Content(_)) && !matches!(odd.why, Oddity::Foreign)
    };
    if let Some(odd) = survey.odd.iter().find(opaque) {
        return Err(Error::Opaque(odd.record.to_string()));
    }
    let local = chosen(store, &survey, pruning);
    let mut claims: HashMap<Digest, usize> = HashMap::new();
    for (name, digest) in &local {
        let (gone, contents) = forget(&mut survey, name, digest);
        for content in contents {
            claims.entry(content).or_insert(pruned.manifests.len());
        }
        pruned.manifests.push(gone);
    }
    let unserved = unserved(&mut survey);
    let stale = survey.stale_holders();
    let cached = cached(&survey);
    let used: u64 = cached.contents.values().map(|content| content.size).sum();
    let plan = planned(store, pruning, &cached, used)?;
    let work = Work {
        store,
        watch,
        rehearse,
    };
    for (name, digest) in &local {
        work.step(|store| store.delete_manifest(Namespace::Local, name, digest))?;
    }
    for record in unserved.iter().chain(&stale) {
        work.step(|store| store.drop_entry(record))?;
    }
    for step in &plan.steps {
        let mut bytes = 0;
        if let Some((name, digest)) = &step.manifest {
            work.step(|store| store.evict_manifest(name, digest))?;
        }
        for digest in &step.contents {
            let size = cached.contents[digest].size;
            let evicted = work.step(|store| store.evict_content(digest))?;
            let size = evicted.map_or(size, Option::unwrap_or_default);
            pruned.bytes += size;
            match claims.get(digest).copied() {
                _ if step.manifest.is_some() => bytes += size,
                Some(manifest) => pruned.manifests[manifest].bytes += size,
                None => {
                    pruned.unnamed += 1;
                    pruned.unnamed_bytes += size;
                }
            }
        }
        if let Some((name, digest)) = &step.manifest {
            let repository = survey
                .repositories
                .get(&(Namespace::Upstream, name.clone()));
            let held = repository.and_then(|repository| repository.manifests.get(digest));
            let tags = repository.map_or(Vec::new(), |repository| tags_of(repository, digest));
            pruned.manifests.push(Gone {
                local: false,
                names: labels(name, digest, &tags),
                digest: digest.clone(),
                bytes,
                used: held.map_or(SystemTime::UNIX_EPOCH, |held| held.used),
            });
        }
    }
    if pruning.all_cached {
        for (name, tag) in heard_of(&survey) {
            work.step(|store| store.delete_tag(Namespace::Upstream, name, tag))?;
        }
    }
    work.step(|store| {
        store.tidy_up();
        Ok(())
    })?;
    pruned.left_cached = used - pruned.bytes;
    pruned.left = survey.contents.values().map(|content| content.size).sum();
    pruned.left -= pruned.bytes;
    if pruning.quarantine {
        work.step(Store::empty_quarantine)?;
        pruned.quarantined_bytes = survey.quarantined;
        pruned.bytes += survey.quarantined;
    }
    Ok(pruned)
}

struct Work<'a> {
    store: &'a Store,
    watch: &'a dyn Watch,
    rehearse: bool,
}

impl Work<'_> {
    /// `None`: it is only rehearsed.
    fn step<T>(
        &self,
        step: impl FnOnce(&Store) -> Result<T, storage::Error>,
    ) -> Result<Option<T>, Error> {
        if self.watch.is_over() {
            return Err(Error::Interrupted);
        }
        match self.rehearse {
            true => Ok(None),
            false => Ok(Some(step(self.store)?)),
        }
    }
}

/// The pushed manifests that are to go, an index before its children.
fn chosen(store: &Store, survey: &Survey, pruning: &Pruning) -> Vec<(CanonicalName, Digest)> {
    let mut manifests = Manifests::new(store, survey);
    let mut chosen = Vec::new();
    for ((namespace, name), repository) in &survey.repositories {
        let asked_for = pruning.local.iter().any(|pattern| pattern.matches(name));
        if *namespace != Namespace::Local || !asked_for {
            continue;
        }
        let mut parents: BTreeMap<&Digest, BTreeSet<Digest>> = BTreeMap::new();
        for (digest, held) in &repository.manifests {
            let parsed = manifests.get(digest, Some(&held.entry.media_type));
            for reference in parsed.iter().flat_map(|parsed| &parsed.manifest.references) {
                if reference.role == Role::Manifest
                    && let Some((child, _)) = repository.manifests.get_key_value(&reference.digest)
                {
                    parents.entry(child).or_default().insert(digest.clone());
                }
            }
        }
        let is_old = |digest: &Digest| match pruning.unused_since {
            None => true,
            Some(since) => pushed(repository, digest).is_none_or(|pushed| pushed < since),
        };
        let mut left: BTreeSet<&Digest> = repository.manifests.keys().collect();
        // Whatever is needed by what stays, stays. A manifest can't name itself, so that each round finds some.
        loop {
            let ready: Vec<&Digest> = left
                .iter()
                .copied()
                .filter(|digest| is_old(digest))
                .filter(|digest| {
                    let parents = parents.get(digest).into_iter().flatten();
                    parents.into_iter().all(|parent| !left.contains(parent))
                })
                .collect();
            if ready.is_empty() {
                break;
            }
            for digest in ready {
                left.remove(digest);
                chosen.push((name.clone(), digest.clone()));
            }
        }
    }
    chosen
}

/// When it was pushed last, by whichever name.
fn pushed(repository: &Repository, digest: &Digest) -> Option<SystemTime> {
    let manifest = repository.manifests.get(digest).map(|held| held.used);
    let tags = repository
        .tags
        .values()
        .filter(|tag| tag.digest == *digest)
        .map(|tag| tag.written);
    tags.chain(manifest).max()
}

/// Takes a pushed manifest out of the survey as a deletion does from the store, and tells what it named.
fn forget(survey: &mut Survey, name: &CanonicalName, digest: &Digest) -> (Gone, Vec<Digest>) {
    let key = (Namespace::Local, name.clone());
    let repository = survey.repositories.entry(key).or_default();
    let tags = tags_of(repository, digest);
    let gone = Gone {
        local: true,
        names: labels(name, digest, &tags),
        digest: digest.clone(),
        bytes: 0,
        used: pushed(repository, digest).unwrap_or(SystemTime::UNIX_EPOCH),
    };
    repository.tags.retain(|_, tag| tag.digest != *digest);
    repository.manifests.remove(digest);
    let reason = Reason::Named(digest.clone());
    let named = repository.members.iter();
    let named = named.filter(|(_, reasons)| reasons.contains(&reason));
    let mut named: Vec<Digest> = named.map(|(named, _)| named.clone()).collect();
    named.push(digest.clone());
    (gone, named)
}

/// Entries that serve nothing: members for the sake of manifests that are not held, what was pushed and no manifest names,
/// and what is owed to nobody. They are out of the survey then.
fn unserved(survey: &mut Survey) -> Vec<Record> {
    let mut unserved = Vec::new();
    for ((namespace, name), repository) in &mut survey.repositories {
        let manifests = &repository.manifests;
        repository.members.retain(|digest, reasons| {
            let names = |reason: &Reason| match reason {
                Reason::Named(by) => manifests.contains_key(by),
                Reason::Pushed | Reason::Pulled => false,
            };
            let is_named = reasons.iter().any(names);
            reasons.retain(|reason| {
                let stays = match reason {
                    Reason::Named(_) => names(reason),
                    Reason::Pushed => is_named,
                    // It goes with its content.
                    Reason::Pulled => true,
                };
                if !stays {
                    let member = (name.clone(), digest.clone(), reason.clone());
                    let (name, digest, reason) = member;
                    unserved.push(Record::Member(*namespace, name, digest, reason));
                }
                stays
            });
            !reasons.is_empty()
        });
    }
    let wanted = local(survey);
    let owed = survey.owed.iter();
    let owed = owed.filter(|(_, owed)| !wanted.contains(&owed.digest));
    unserved.extend(owed.map(|(record, _)| record.clone()));
    unserved
}

/// Tags that an upstream was asked for, and their manifests were not.
fn heard_of(survey: &Survey) -> impl Iterator<Item = (&CanonicalName, &Tag)> {
    let repositories = survey.repositories.iter();
    let upstream = repositories.filter(|((namespace, _), _)| *namespace == Namespace::Upstream);
    upstream.flat_map(|((_, name), repository)| {
        let tags = repository.tags.iter();
        let absent = tags.filter(|(_, tag)| !repository.manifests.contains_key(&tag.digest));
        absent.map(move |(tag, _)| (name, tag))
    })
}

/// The content that something in `_local` holds.
fn local(survey: &Survey) -> HashSet<Digest> {
    let repositories = survey.repositories.iter();
    let local = repositories.filter(|((namespace, _), _)| *namespace == Namespace::Local);
    let held = local
        .flat_map(|(_, repository)| repository.manifests.keys().chain(repository.members.keys()));
    held.cloned().collect()
}

/// What was pulled, as eviction sees it.
fn cached(survey: &Survey) -> Cached {
    let local = local(survey);
    let contents = survey.contents.iter();
    let contents = contents.filter(|(digest, _)| !local.contains(digest));
    let mut manifests = Vec::new();
    for ((namespace, name), repository) in &survey.repositories {
        if *namespace == Namespace::Local {
            continue;
        }
        let mut names: HashMap<&Digest, Vec<Digest>> = HashMap::new();
        for (member, reasons) in &repository.members {
            for reason in reasons {
                if let Reason::Named(by) = reason {
                    names.entry(by).or_default().push(member.clone());
                }
            }
        }
        for (digest, held) in &repository.manifests {
            manifests.push(CachedManifest {
                name: name.clone(),
                digest: digest.clone(),
                used: held.used,
                names: names.remove(digest).unwrap_or_default(),
            });
        }
    }
    Cached {
        manifests,
        contents: contents
            .map(|(digest, content)| (digest.clone(), *content))
            .collect(),
        in_use: HashMap::new(),
    }
}

fn planned(
    store: &Store,
    pruning: &Pruning,
    cached: &Cached,
    used: u64,
) -> Result<Plan, storage::Error> {
    let wanted = match pruning.cache {
        _ if pruning.all_cached => u64::MAX,
        None => 0,
        Some(share @ MaxSize::Share(_)) => {
            used.saturating_sub(share.of(store.free_space()?.saturating_add(used)))
        }
        Some(bytes) => used.saturating_sub(bytes.of(0)),
    };
    let never = SystemTime::UNIX_EPOCH;
    let due = match pruning.all_cached {
        true => SystemTime::now() + A_DAY,
        false => pruning.unused_since.unwrap_or(never),
    };
    let goal = Goal {
        needed: 0,
        wanted,
        due: Some(due),
    };
    Ok(plan(cached, &HashSet::new(), goal).unwrap_or_default())
}

/// Clocks differ, and a directory may come from another machine.
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);
