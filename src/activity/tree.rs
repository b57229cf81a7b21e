//! What manifests name, as far as it takes to know which requests belong together.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, LazyLock},
};

use crate::types::{Digest, Manifest, manifest::Role};

/// A digest, as far as it takes to tell it from others that are about: an eighth of its size. The key is this process's
/// own, so nobody can make two that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id(u64);

impl Id {
    pub(super) fn of(digest: &Digest) -> Self {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(KEY.hash_one(digest))
    }
}

/// What one manifest names.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Configs and layers.
    pub(super) blobs: HashSet<Id>,
    /// Children of an index.
    pub(super) manifests: HashSet<Id>,
}

impl Tree {
    pub(super) fn read(bytes: &[u8], media_type: &str) -> Self {
        let manifest = Manifest::pulled(bytes, Some(media_type));
        let mut tree = Self::default();
        for reference in manifest.references.into_iter().take(NAMED) {
            match reference.role {
                Role::Manifest => tree.manifests.insert(Id::of(&reference.digest)),
                Role::Blob | Role::NonDistributable => tree.blobs.insert(Id::of(&reference.digest)),
            };
        }
        tree
    }

    pub(super) fn names(&self, id: Id) -> bool {
        self.blobs.contains(&id) || self.manifests.contains(&id)
    }
}

/// Those that were read lately.
#[derive(Default)]
pub(super) struct Trees(HashMap<Digest, Arc<Tree>>);

impl Trees {
    pub(super) fn of(&self, digest: &Digest) -> Option<Arc<Tree>> {
        self.0.get(digest).cloned()
    }

    pub(super) fn keep(&mut self, digest: &Digest, tree: &Arc<Tree>) {
        if self.0.len() >= KEPT {
            self.0.clear();
        }
        self.0.insert(digest.clone(), Arc::clone(tree));
    }
}

/// More than any image has layers, or any index platforms.
const NAMED: usize = 256;

const KEPT: usize = 128;
