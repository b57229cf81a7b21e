//! What was only pulled, and how it is taken away again. Which of it goes is decided above.
//!
//! - Entries go first and content last, so that nothing visible is without what it needs, wherever the process ends. What
//!   stays then is content that nothing names, which is counted at the next start and can be evicted like all else.
//! - Whether content may go is looked up at its own key in the moment it goes; a plan may be out of date.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use super::{Error, Holder, InUse, Op, Pin, Reason, Store, layout, layout::Key, uses::PROMISE};
use crate::types::{CanonicalName, Digest, Namespace};

/// The medium learns of a manifest's use once in so long, so that a pull writes nothing.
const NOTED_EVERY: Duration = Duration::from_secs(60);

/// A manifest that was pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedManifest {
    pub name: CanonicalName,
    pub digest: Digest,
    /// When it was last asked for, or fetched. After a restart it may be a minute early.
    pub used: SystemTime,
    /// What it makes a member of its repository.
    pub names: Vec<Digest>,
}

/// Content that is only cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedContent {
    /// In bytes.
    pub size: u64,
    /// When it was fetched.
    pub since: SystemTime,
}

/// All that was pulled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cached {
    pub manifests: Vec<CachedManifest>,
    pub contents: HashMap<Digest, CachedContent>,
    pub in_use: HashMap<Digest, InUse>,
}

/// When manifests were last used, more exactly than the medium knows.
#[derive(Default)]
pub(super) struct Recency(Mutex<HashMap<(CanonicalName, Digest), Use>>);

struct Use {
    last: SystemTime,
    noted: SystemTime,
}

impl Store {
    /// Keeps the content from being evicted for as long as the pin lives. It need not be here.
    pub fn pin(&self, digest: &Digest) -> Pin {
        self.uses.pin(digest)
    }

    /// A client was told that the content is here: it is not evicted for ten minutes, in which a manifest that names it
    /// may come.
    pub fn promise(&self, digest: &Digest) {
        self.uses.promise(digest, PROMISE);
    }

    /// Notes that a pulled manifest was asked for.
    pub fn use_manifest(&self, name: &CanonicalName, digest: &Digest) -> Result<(), Error> {
        const KEPT: usize = 4096;
        let now = SystemTime::now();
        let old = |time: SystemTime| now.duration_since(time).is_ok_and(|age| age >= NOTED_EVERY);
        {
            let mut uses = self
                .recency
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = uses.get_mut(&(name.clone(), digest.clone())) {
                known.last = now;
                if !old(known.noted) {
                    return Ok(());
                }
                known.noted = now;
            } else {
                if uses.len() >= KEPT {
                    // Of these the medium knows to the minute.
                    uses.retain(|_, known| !old(known.last));
                }
                let known = Use {
                    last: now,
                    noted: now,
                };
                uses.insert((name.clone(), digest.clone()), known);
            }
        }
        let key = layout::manifest(Namespace::Upstream, name, digest);
        self.backend
            .touch(&key)
            .map_err(Error::io(Op::Write, key.clone()))
    }

    /// Looks through all that was pulled. Costs by the size of the cache.
    pub fn cached(&self) -> Result<Cached, Error> {
        // Content first: what comes in meanwhile is not offered for eviction.
        let mut contents = HashMap::new();
        for (digest, size) in self.counted() {
            if let Some(since) = self.written(&layout::content(&digest))? {
                contents.insert(digest, CachedContent { size, since });
            }
        }
        let mut manifests = Vec::new();
        for name in self.names(Namespace::Upstream)? {
            self.collect_cached(&name, &mut manifests)?;
        }
        Ok(Cached {
            manifests,
            contents,
            in_use: self.uses.all(),
        })
    }

    fn collect_cached(
        &self,
        name: &CanonicalName,
        found: &mut Vec<CachedManifest>,
    ) -> Result<(), Error> {
        let first = found.len();
        let manifests = layout::manifests(Namespace::Upstream, name);
        for component in self.list(&manifests)? {
            if let Some(digest) = layout::parse_digest(&component)
                && let Some(used) = self.last_use(name, &digest)?
            {
                found.push(CachedManifest {
                    name: name.clone(),
                    digest,
                    used,
                    names: Vec::new(),
                });
            }
        }
        self.add_named(name, &mut found[first..])
    }

    /// Tells the manifests of one repository what they name.
    fn add_named(
        &self,
        name: &CanonicalName,
        manifests: &mut [CachedManifest],
    ) -> Result<(), Error> {
        let places: HashMap<Digest, usize> = manifests
            .iter()
            .enumerate()
            .map(|(place, manifest)| (manifest.digest.clone(), place))
            .collect();
        for component in self.list(&layout::members(Namespace::Upstream, name))? {
            let Some(member) = layout::parse_digest(&component) else {
                continue;
            };
            for reason in self.reasons(Namespace::Upstream, name, &member)? {
                if let Reason::Named(by) = reason
                    && let Some(place) = places.get(&by)
                {
                    manifests[*place].names.push(member.clone());
                }
            }
        }
        Ok(())
    }

    fn last_use(&self, name: &CanonicalName, digest: &Digest) -> Result<Option<SystemTime>, Error> {
        let noted = self.written(&layout::manifest(Namespace::Upstream, name, digest))?;
        let uses = self
            .recency
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = uses.get(&(name.clone(), digest.clone()));
        Ok(noted.map(|noted| known.map_or(noted, |known| known.last.max(noted))))
    }

    fn written(&self, key: &Key) -> Result<Option<SystemTime>, Error> {
        self.backend
            .written(key)
            .map_err(Error::io(Op::Read, key.clone()))
    }

    /// Forgets a pulled manifest with its tags, and what only it lets its repository serve. Content stays.
    pub fn evict_manifest(&self, name: &CanonicalName, digest: &Digest) -> Result<bool, Error> {
        let mut uses = self
            .recency
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        uses.remove(&(name.clone(), digest.clone()));
        drop(uses);
        self.delete_manifest(Namespace::Upstream, name, digest)
    }

    /// Removes content that nothing needs, and tells its size. `None`: it is not here, is in use, or something names it.
    pub fn evict_content(&self, digest: &Digest) -> Result<Option<u64>, Error> {
        let Some(_condemned) = self.uses.condemn(digest) else {
            return Ok(None);
        };
        let Some(size) = self.stat(digest)? else {
            self.recount(digest)?;
            return Ok(None);
        };
        let mut holders: Vec<Holder> = Vec::new();
        self.any_holder(digest, |holder| {
            holders.push(holder.clone());
            false
        })?;
        for holder in &holders {
            if holder.local || self.is_claimed(holder, digest)? {
                return Ok(None);
            }
        }
        for Holder { name, .. } in &holders {
            for reason in self.reasons(Namespace::Upstream, name, digest)? {
                self.remove_member(Namespace::Upstream, name, digest, &reason)?;
            }
            self.remove_holder(Namespace::Upstream, name, digest)?;
        }
        let key = layout::content(digest);
        self.backend
            .remove(digest)
            .map_err(Error::io(Op::Delete, key))?;
        self.recount(digest)?;
        Ok(Some(size))
    }

    /// Whether a repository holds the content as a manifest, or a manifest that names it. One that is just being stored
    /// is pinned, and its entry comes last.
    fn is_claimed(&self, holder: &Holder, digest: &Digest) -> Result<bool, Error> {
        let namespace = Namespace::Upstream;
        if self.manifest(namespace, &holder.name, digest)?.is_some() {
            return Ok(true);
        }
        for reason in self.reasons(namespace, &holder.name, digest)? {
            if let Reason::Named(by) = reason
                && (self.uses.is_pinned(&by)
                    || self.manifest(namespace, &holder.name, &by)?.is_some())
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
