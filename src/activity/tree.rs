//! What manifests name, as far as it takes to know which requests belong together.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::types::{Digest, Manifest, manifest::Role};

/// What one manifest names.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Configs and layers.
    pub(super) blobs: HashSet<Digest>,
    /// Children of an index.
    pub(super) manifests: HashSet<Digest>,
}

impl Tree {
    pub(super) fn read(bytes: &[u8], media_type: &str) -> Self {
        let manifest = Manifest::pulled(bytes, Some(media_type));
        let mut tree = Self::default();
        for reference in manifest.references.into_iter().take(NAMED) {
            match reference.role {
                Role::Manifest => tree.manifests.insert(reference.digest),
                Role::Blob | Role::NonDistributable => tree.blobs.insert(reference.digest),
            };
        }
        tree
    }

    pub(super) fn names(&self, digest: &Digest) -> bool {
        self.blobs.contains(digest) || self.manifests.contains(digest)
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
const NAMED: usize = 512;

const KEPT: usize = 128;
