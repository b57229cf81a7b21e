//! How much is kept of what is pulled, and what is evicted when more comes.
//!
//! - Content of `_local` is not counted, not bounded and never evicted.
//! - Each fill has room for what it writes before it writes; where there is none, it goes on unstored.
//! - Until everything was counted that an earlier process left, nothing is evicted, and what comes in may take up no more
//!   than the limit or the given share of what was free at the start.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Cache,
    plan::{Goal, Plan, plan},
};
use crate::{
    storage::{self, Room, Staging, Store},
    types::{CanonicalName, Digest, Manifest, Namespace, Pattern},
};

/// How much may be kept in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxSize {
    Bytes(u64),
    /// Percent of what is free or cached at the start.
    Share(u8),
}

impl MaxSize {
    /// In bytes, where so much is free or cached.
    pub fn of(self, free_or_cached: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Share(percent) => share(percent, free_or_cached),
        }
    }
}

impl Default for MaxSize {
    fn default() -> Self {
        Self::Share(80)
    }
}

/// What is kept of what is pulled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    pub most: MaxSize,
    /// Names under which nothing is.
    pub none: Vec<Pattern>,
}

/// How full the cache is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSize {
    /// Bytes of content that is only cached.
    pub used: u64,
    /// Bytes at most.
    pub cap: u64,
    /// Since the start.
    pub evicted_manifests: u64,
    /// Since the start.
    pub evicted_bytes: u64,
}

pub(super) struct Size {
    store: Arc<Store>,
    keep: Keep,
    state: Mutex<State>,
    /// One eviction at a time.
    eviction: Mutex<Option<Barren>>,
    evicted_manifests: AtomicU64,
    evicted_bytes: AtomicU64,
}

struct State {
    cap: u64,
    /// Everything was counted that was there at the start.
    counted: bool,
    /// Bytes that fills under way have room for.
    reserved: u64,
    filling: HashSet<Digest>,
}

/// There was nothing to evict: looking again at once would be in vain.
struct Barren {
    needed: u64,
    until: Instant,
}

impl Cache {
    /// How full the cache is.
    pub fn size(&self) -> CacheSize {
        let size = &self.0.size;
        CacheSize {
            used: size.store.cached_bytes(),
            cap: size.state().cap,
            evicted_manifests: size.evicted_manifests.load(Ordering::Relaxed),
            evicted_bytes: size.evicted_bytes.load(Ordering::Relaxed),
        }
    }

    /// Counts what an earlier process left, and evicts what is too much. Costs by the size of the store, so it has a
    /// thread of its own, which ends with the process.
    pub fn count_in_background(&self) {
        let size = Arc::clone(&self.0.size);
        let counting = thread::Builder::new().name("standin-count".to_owned());
        if let Err(error) = counting.spawn(move || size.count()) {
            log::warn!("what is cached can't be counted, so that nothing is evicted: {error}");
        }
    }

    /// Whether what is pulled under this name is kept.
    pub fn keeps(&self, name: &CanonicalName) -> bool {
        let keep = &self.0.size.keep;
        keep.most != MaxSize::Bytes(0) && !keep.none.iter().any(|pattern| pattern.matches(name))
    }

    /// A place for a fill's bytes, which refuses those that there is no room for. Blocks.
    pub(super) fn stage(&self, digest: &Digest) -> Result<Staging, storage::Error> {
        let size = &self.0.size;
        let room = Filling::new(size, digest, size.store.is_local(digest)?);
        Ok(size.store.stage(digest.algorithm())?.within(room))
    }

    /// Stores a manifest that was fetched, if what is pulled under this name is kept and there is room. Blocks.
    pub(super) fn keep_manifest(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        bytes: &[u8],
        manifest: &Manifest,
    ) -> Result<(), storage::Error> {
        if !self.keeps(name) {
            return Ok(());
        }
        let size = &self.0.size;
        let mut room = Filling::new(size, digest, size.store.is_local(digest)?);
        if !room.grow(bytes.len() as u64) {
            return Err(storage::Error::no_room_for(digest));
        }
        let kept = size
            .store
            .put_manifest(Namespace::Upstream, name, digest, bytes, manifest);
        room.stored(digest);
        kept?;
        size.store.use_manifest(name, digest)
    }

    /// Notes that a manifest which is held was asked for. Blocks.
    pub(super) fn note_use(&self, name: &CanonicalName, digest: &Digest) {
        if let Err(error) = self.0.size.store.use_manifest(name, digest) {
            log::debug!("{name}: that {digest} was used is not noted: {error}");
        }
    }
}

impl Size {
    pub(super) fn new(store: Arc<Store>, keep: Keep) -> Self {
        let cap = match keep.most {
            MaxSize::Bytes(bytes) => bytes,
            MaxSize::Share(percent) => match store.free_space() {
                Ok(free) => share(percent, free),
                Err(error) => {
                    log::warn!("the cache is bounded by its disk alone: {error}");
                    u64::MAX
                }
            },
        };
        let state = State {
            cap,
            counted: false,
            reserved: 0,
            filling: HashSet::new(),
        };
        Self {
            store,
            keep,
            state: Mutex::new(state),
            eviction: Mutex::default(),
            evicted_manifests: AtomicU64::default(),
            evicted_bytes: AtomicU64::default(),
        }
    }

    fn count(self: &Arc<Self>) {
        let begin = Instant::now();
        if let Err(error) = self.store.count_cached() {
            log::warn!("what is cached can't be counted, so that nothing is evicted: {error}");
            return;
        }
        let mut state = self.state();
        let used = self.store.cached_bytes();
        if let MaxSize::Share(percent) = self.keep.most {
            state.cap = state.cap.saturating_add(share(percent, used));
        }
        state.counted = true;
        let cap = state.cap;
        drop(state);
        log::info!(
            "{} MiB are cached, of {} MiB at most (--cache-max-size); counting them took {} ms",
            mebibytes(used),
            mebibytes(cap),
            begin.elapsed().as_millis()
        );
        if !self.admits(0) {
            self.evict(0);
        }
    }

    /// Room for so many bytes, evicting others if need be.
    fn reserve(&self, held: u64, more: u64) -> bool {
        // Another fill may be quicker to take what was freed.
        const TRIES: u32 = 3;
        for _ in 0..TRIES {
            {
                let mut state = self.state();
                if held.saturating_add(more) > state.cap {
                    return false;
                }
                if self.excess(&state, more) == 0 {
                    state.reserved += more;
                    return true;
                }
                if !state.counted {
                    return false;
                }
            }
            if !self.evict(more) {
                return false;
            }
        }
        false
    }

    fn admits(&self, more: u64) -> bool {
        self.excess(&self.state(), more) == 0
    }

    /// By how much the cache would be too large with `more`.
    fn excess(&self, state: &State, more: u64) -> u64 {
        let used = self.store.cached_bytes().saturating_add(state.reserved);
        used.saturating_add(more).saturating_sub(state.cap)
    }

    /// Evicts until there is room for `more`; whether there is.
    fn evict(&self, more: u64) -> bool {
        let mut barren = self.eviction.lock().unwrap_or_else(PoisonError::into_inner);
        let (needed, cap, filling) = {
            let state = self.state();
            (self.excess(&state, more), state.cap, state.filling.clone())
        };
        if needed == 0 {
            return true;
        }
        let begin = Instant::now();
        if barren
            .as_ref()
            .is_some_and(|barren| needed >= barren.needed && begin < barren.until)
        {
            return false;
        }
        // Somewhat more, so that not every fill has to look through the whole cache.
        let goal = Goal {
            needed,
            wanted: needed.max(cap / SPARE),
            due: None,
        };
        let found = self.store.cached();
        let evicted = found.map(|cached| match plan(&cached, &filling, goal) {
            Some(plan) => self.apply(&plan),
            None => log::debug!("{needed} bytes are needed, and nothing can be evicted now"),
        });
        if let Err(error) = evicted {
            log::warn!("nothing can be evicted: {error}");
        }
        let made = self.admits(more);
        *barren = (!made).then(|| Barren {
            needed,
            until: Instant::now() + (10 * begin.elapsed()).max(PAUSE),
        });
        made
    }

    fn apply(&self, plan: &Plan) {
        let (mut manifests, mut bytes) = (0, 0);
        let done = plan.steps.iter().try_for_each(|step| {
            if let Some((name, digest)) = &step.manifest
                && self.store.evict_manifest(name, digest)?
            {
                manifests += 1;
            }
            for digest in &step.contents {
                bytes += self.store.evict_content(digest)?.unwrap_or(0);
            }
            Ok::<_, storage::Error>(())
        });
        if let Err(error) = done {
            log::warn!("evicting ended early: {error}");
        }
        self.evicted_manifests
            .fetch_add(manifests, Ordering::Relaxed);
        self.evicted_bytes.fetch_add(bytes, Ordering::Relaxed);
        log::info!(
            "evicted {manifests} manifests that were pulled and {} MiB with them, least recently used first: {} MiB are \
             cached now, of {} MiB at most (--cache-max-size)",
            mebibytes(bytes),
            mebibytes(self.store.cached_bytes()),
            mebibytes(self.state().cap)
        );
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one content may take up while it is fetched.
struct Filling {
    size: Arc<Size>,
    digest: Digest,
    granted: u64,
    /// It is not cache.
    local: bool,
}

impl Filling {
    fn new(size: &Arc<Size>, digest: &Digest, local: bool) -> Self {
        size.state().filling.insert(digest.clone());
        Self {
            size: Arc::clone(size),
            digest: digest.clone(),
            granted: 0,
            local,
        }
    }
}

impl Room for Filling {
    fn grow(&mut self, more: u64) -> bool {
        if self.local {
            return true;
        }
        if self.size.reserve(self.granted, more) {
            self.granted += more;
            return true;
        }
        // A push may have named it meanwhile.
        self.local = self
            .size
            .store
            .is_local(&self.digest)
            .is_ok_and(|local| local);
        self.local
    }

    fn stored(&mut self, digest: &Digest) {
        // At once, so that it is counted neither twice nor not at all.
        let mut state = self.size.state();
        if let Err(error) = self.size.store.recount(digest) {
            log::warn!("{digest} is cached and not counted: {error}");
        }
        state.reserved -= std::mem::take(&mut self.granted);
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        let mut state = self.size.state();
        state.reserved -= self.granted;
        state.filling.remove(&self.digest);
    }
}

/// Rounded up: what is little is not nothing.
fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

/// So many percent of it.
fn share(percent: u8, of: u64) -> u64 {
    let share = u128::from(of) * u128::from(percent) / 100;
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// The part of the cache that an eviction frees at least, if it can.
const SPARE: u64 = 32;

/// Until nothing is evicted again, where nothing could be.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
