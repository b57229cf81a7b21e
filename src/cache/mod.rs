//! Pull-through: what the store has, else fetched once, streamed while it is fetched, verified, committed.
//!
//! It knows nothing of `_local` and of who shadows whom, and asks every upstream it is told to: the rules are above.
//!
//! - However many ask for a digest, the upstream sends it once; everybody reads behind the one download.
//! - What is fetched outlives whoever asked: fetches run on a runtime of their own, so a client that vanishes ends
//!   nothing.
//! - Nothing is visible, and no client has the whole of a blob, before its digest is verified. A range of a blob that is
//!   still being fetched is given out as it comes: only whoever puts the ranges together can verify them.
//! - A store that takes no more bytes costs the copy, never the pull.

mod body;
mod discovery;
mod fill;
mod manifest;
#[cfg(test)]
pub(crate) mod testing;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::runtime::Handle;

use crate::{
    storage::{self, ManifestEntry, Store, blocking},
    types::{CanonicalName, Digest, Reference, RegistryHost},
    upstream::Upstreams,
};
use manifest::Freshness;

pub use crate::upstream::{Cause, Error as UpstreamError, HEADER_BUDGET};
pub use body::Body;
pub use discovery::TagPage;

/// A manifest to be answered with.
#[derive(Clone, Debug)]
pub struct PulledManifest {
    pub digest: Digest,
    pub entry: ManifestEntry,
    /// Absent where only its description was wanted.
    pub bytes: Option<Bytes>,
}

/// How much of a manifest is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Want {
    /// Digest, type and size.
    Description,
    Bytes,
}

/// The pull-through cache. Cheap to clone.
#[derive(Clone)]
pub struct Cache(Arc<Shelf>);

struct Shelf {
    store: Arc<Store>,
    upstreams: Upstreams,
    /// Where fetches run: outlives every request.
    runtime: Handle,
    tag_ttl: Duration,
    fills: fill::Fills,
    listings: discovery::Listings,
    manifests: manifest::Flights,
}

impl Cache {
    /// `runtime` must have timers and I/O, and outlive the cache's users.
    pub fn new(
        store: Arc<Store>,
        upstreams: Upstreams,
        tag_ttl: Duration,
        runtime: Handle,
    ) -> Self {
        Self(Arc::new(Shelf {
            store,
            upstreams,
            runtime,
            tag_ttl,
            fills: fill::Fills::default(),
            listings: discovery::Listings::default(),
            manifests: Mutex::default(),
        }))
    }

    /// Whether this registry may be asked at all.
    pub fn is_configured(&self, registry: &RegistryHost) -> bool {
        self.0.upstreams.is_configured(registry)
    }

    /// Whether what is fetched from this registry is not for everyone, since there is a log-in for it.
    pub fn is_private(&self, registry: &RegistryHost) -> bool {
        self.0.upstreams.has_login(registry)
    }

    /// The manifest, from the cache if it is fresh, else from the upstream. `None`: the upstream has none.
    pub async fn manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
        want: Want,
    ) -> Result<Option<PulledManifest>, Error> {
        let fresh = {
            let (cache, name, reference) = (self.clone(), name.clone(), reference.clone());
            blocking(move || {
                cache.held(&name, &reference, want, Freshness::Within(cache.0.tag_ttl))
            })
            .await?
        };
        match fresh {
            Some(manifest) => Ok(Some(manifest)),
            None => self.flight(name, reference, want).await,
        }
    }

    /// The manifest as far as it is here, however old, if all that it takes to use it is here as well: every blob of an
    /// image, a whole child of an index.
    pub async fn held_manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
    ) -> Result<Option<PulledManifest>, Error> {
        let (cache, name, reference) = (self.clone(), name.clone(), reference.clone());
        blocking(move || {
            let Some(manifest) = cache.held(&name, &reference, Want::Bytes, Freshness::Any)? else {
                return Ok(None);
            };
            Ok(cache.is_usable(&manifest, 0)?.then_some(manifest))
        })
        .await
    }

    /// Whether the upstream has the manifest, and its size if it says so. Not cached.
    pub async fn head_manifest(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Option<Option<u64>>, Error> {
        let (cache, name, reference) = (
            self.clone(),
            name.clone(),
            Reference::Digest(digest.clone()),
        );
        self.background(async move {
            let found = cache
                .0
                .upstreams
                .head_manifest(name.source(), name.repository(), &reference)
                .await?;
            Ok(found.map(|manifest| manifest.size))
        })
        .await
    }

    /// Whether the upstream has the blob, and its size if it says so. Not cached.
    pub async fn head_blob(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Option<Option<u64>>, Error> {
        let (cache, name, digest) = (self.clone(), name.clone(), digest.clone());
        self.background(async move {
            Ok(cache
                .0
                .upstreams
                .head_blob(name.source(), name.repository(), &digest)
                .await?)
        })
        .await
    }

    /// Runs `work` to its end whatever becomes of the caller.
    async fn background<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        storage::joined(self.0.runtime.spawn(work).await).await
    }
}

/// Why the cache can't answer. Shared by everyone who waited for the same answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Storage(Arc<storage::Error>),
    #[error("content in the data directory can't be read: {0}")]
    Read(Arc<std::io::Error>),
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        Self::Storage(Arc::new(error))
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Read(Arc::new(error))
    }
}

#[cfg(test)]
mod tests;
