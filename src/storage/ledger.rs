//! How many bytes of content are only cached: here, and named by nothing in `_local`.
//!
//! After every change that may make content cached, or no longer, the content is counted anew from what is on the medium,
//! one counting of a content at a time. So whatever runs at the same time, the last counting has seen all of it.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{Error, Store, layout};
use crate::types::{Algorithm, Digest};

/// So that countings of different contents seldom wait for each other.
const STRIPES: usize = 16;

/// The content that was counted as cached, and its size.
#[derive(Default)]
pub(super) struct Ledger {
    stripes: [Mutex<HashMap<Digest, u64>>; STRIPES],
    total: AtomicU64,
}

impl Ledger {
    fn stripe(&self, digest: &Digest) -> MutexGuard<'_, HashMap<Digest, u64>> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(digest);
        let stripe = &self.stripes[hash as usize % STRIPES];
        stripe.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Bytes of content that is only cached, as far as it was counted.
    pub fn cached_bytes(&self) -> u64 {
        self.ledger.total.load(Ordering::SeqCst)
    }

    /// Counts everything there is. Until it was called once, only what came since the start is counted.
    pub fn count_cached(&self) -> Result<(), Error> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for fan in self.list(&layout::contents(algorithm))? {
                for hex in self.list(&layout::contents_below(algorithm, &fan))? {
                    if let Ok(digest) = format!("{algorithm}:{hex}").parse() {
                        self.recount(&digest)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Counts the content anew: it has come or gone, or what names it has.
    pub fn recount(&self, digest: &Digest) -> Result<(), Error> {
        let mut counted = self.ledger.stripe(digest);
        let size = match self.stat(digest)? {
            Some(size) if !self.is_local(digest)? => Some(size),
            _ => None,
        };
        let before = match size {
            Some(size) => counted.insert(digest.clone(), size),
            None => counted.remove(digest),
        };
        let (before, now) = (before.unwrap_or(0), size.unwrap_or(0));
        let total = &self.ledger.total;
        if now >= before {
            total.fetch_add(now - before, Ordering::SeqCst);
        } else {
            total.fetch_sub(before - now, Ordering::SeqCst);
        }
        Ok(())
    }

    /// `recount` of content that may have become local; what is not counted can't become less.
    pub(super) fn recount_if_counted(&self, digest: &Digest) -> Result<(), Error> {
        let counted = self.ledger.stripe(digest).contains_key(digest);
        match counted {
            true => self.recount(digest),
            false => Ok(()),
        }
    }

    /// Whether something in `_local` may serve the content: then it is not cache.
    pub fn is_local(&self, digest: &Digest) -> Result<bool, Error> {
        self.any_holder(digest, |holder| holder.local)
    }

    /// What was counted, with its size.
    pub(super) fn counted(&self) -> HashMap<Digest, u64> {
        let mut all = HashMap::new();
        for stripe in &self.ledger.stripes {
            let stripe = stripe.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(stripe.iter().map(|(digest, size)| (digest.clone(), *size)));
        }
        all
    }
}
