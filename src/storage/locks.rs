//! Keeps a deletion apart from whatever else changes the entries of the same repository, so that what was acknowledged a moment
//! before it is either deleted whole or not at all. Those who add don't wait for each other, and nobody waits who reads.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::types::{CanonicalName, Namespace};

/// One lock for every so many repositories.
pub(super) struct Locks {
    hasher: RandomState,
    locks: [RwLock<()>; 64],
}

impl Default for Locks {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            locks: std::array::from_fn(|_| RwLock::default()),
        }
    }
}

impl Locks {
    /// For adding entries.
    pub(super) fn adding(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
    ) -> RwLockReadGuard<'_, ()> {
        self.of(namespace, name)
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// For taking entries away. Must not be asked for while either is held.
    pub(super) fn deleting(
        &self,
        namespace: Namespace,
        name: &CanonicalName,
    ) -> RwLockWriteGuard<'_, ()> {
        self.of(namespace, name)
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, namespace: Namespace, name: &CanonicalName) -> &RwLock<()> {
        let hash = self.hasher.hash_one((namespace, name));
        // Nothing is cut off: there are fewer locks than a byte counts.
        &self.locks[usize::from(hash.to_le_bytes()[0]) % self.locks.len()]
    }
}
