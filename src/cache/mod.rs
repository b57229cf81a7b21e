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
//! - An upstream that fails is made up for as far as it can be: a broken body goes on where it ended, and a tag is
//!   answered with what it last was. An outage is never taken for an absence.

mod absent;
mod body;
mod discovery;
mod download;
mod fill;
mod manifest;
mod plan;
mod size;
#[cfg(test)]
pub(crate) mod testing;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::runtime::Handle;

use crate::{
    activity::Activity,
    metrics::Origin,
    storage::{self, ManifestEntry, Store, blocking},
    types::{CanonicalName, Digest, Reference, RegistryHost},
    upstream::{Effort, Upstreams},
};
use manifest::Freshness;

pub use crate::upstream::{Cause, Error as UpstreamError, HEADER_BUDGET, Patience};
pub use body::Body;
pub use discovery::TagPage;
pub use download::Pace;
pub use plan::{Goal, Plan, Step, plan};
pub use size::{CacheSize, Keep, MaxSize};

/// A manifest to be answered with.
#[derive(Clone, Debug)]
pub struct PulledManifest {
    pub digest: Digest,
    pub entry: ManifestEntry,
    /// Absent where only its description was wanted.
    pub bytes: Option<Bytes>,
    /// Why the upstream could not say whether this is still what the tag means.
    pub stale: Option<UpstreamError>,
    pub origin: Origin,
    /// For how long the upstream was waited for.
    pub waited: Duration,
}

/// How much of a manifest is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Want {
    /// Digest, type and size.
    Description,
    Bytes,
}

/// How long what upstreams said is good, and how they are asked again.
#[derive(Clone)]
pub struct Settings {
    pub tag_ttl: TagTtl,
    /// How long an upstream's 404 to a manifest is good.
    pub negative_ttl: Duration,
    pub pace: Pace,
    /// What is kept of what is pulled.
    pub keep: Keep,
    pub activity: Arc<Activity>,
}

/// How long an upstream's answer for a tag of this repository is good.
pub type TagTtl = Arc<dyn Fn(&CanonicalName) -> Duration + Send + Sync>;

/// The pull-through cache. Cheap to clone.
#[derive(Clone)]
pub struct Cache(Arc<Shelf>);

struct Shelf {
    store: Arc<Store>,
    upstreams: Upstreams,
    /// Where fetches run: outlives every request.
    runtime: Handle,
    tag_ttl: TagTtl,
    pace: Pace,
    activity: Arc<Activity>,
    size: Arc<size::Size>,
    fills: fill::Fills,
    listings: discovery::Listings,
    manifests: manifest::Flights,
    absences: absent::Absences,
}

impl Cache {
    /// `runtime` must have timers and I/O, and outlive the cache's users.
    pub fn new(
        store: Arc<Store>,
        upstreams: Upstreams,
        settings: Settings,
        runtime: Handle,
    ) -> Self {
        let size = Arc::new(size::Size::new(Arc::clone(&store), settings.keep));
        Self(Arc::new(Shelf {
            store,
            upstreams,
            runtime,
            tag_ttl: settings.tag_ttl,
            pace: settings.pace,
            activity: settings.activity,
            size,
            fills: fill::Fills::default(),
            listings: discovery::Listings::default(),
            manifests: Mutex::default(),
            absences: absent::Absences::new(settings.negative_ttl),
        }))
    }

    /// Whether this registry may be asked at all.
    pub fn is_configured(&self, registry: &RegistryHost) -> bool {
        self.0.upstreams.is_configured(registry)
    }

    /// Whether what is fetched from this registry is not for everyone, since there is a log-in for it.
    pub fn is_private(&self, registry: &RegistryHost) -> bool {
        let upstreams = &self.0.upstreams;
        upstreams.has_login(registry) && !upstreams.is_public(registry)
    }

    /// The manifest, from the cache if it is fresh, else from the upstream, else from the cache however old, if it is
    /// usable. `None`: the upstream has none.
    pub async fn manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
        want: Want,
        patience: Patience,
    ) -> Result<Option<PulledManifest>, Error> {
        let fresh = {
            let (cache, name, reference) = (self.clone(), name.clone(), reference.clone());
            blocking(move || {
                let limit = (cache.0.tag_ttl)(&name);
                cache.held(&name, &reference, want, Freshness::Within(limit))
            })
            .await?
        };
        if fresh.is_some() {
            return Ok(fresh);
        }
        if self.0.absences.holds(name, reference, Instant::now()) {
            return Ok(None);
        }
        let asked = Instant::now();
        let answered = self.flight(name, reference, want, patience).await;
        let waited = asked.elapsed();
        let error = match answered {
            Err(Error::Upstream(error)) => error,
            Ok(Some(manifest)) => return Ok(Some(PulledManifest { waited, ..manifest })),
            answered => return answered,
        };
        match self.held_manifest(name, reference, want).await {
            Ok(Some(manifest)) => {
                log::warn!(
                    "{name}: {reference} is served as it was last known, {}, since {error}",
                    manifest.digest
                );
                Ok(Some(PulledManifest {
                    stale: Some(error),
                    origin: Origin::Stale,
                    waited,
                    ..manifest
                }))
            }
            Ok(None) => Err(error.into()),
            Err(unreadable) => {
                log::warn!("{name}: what {reference} was can't be told: {unreadable}");
                Err(error.into())
            }
        }
    }

    /// The manifest as far as it is here, however old, if all that it takes to use it is here as well: every blob of an
    /// image, a whole child of an index.
    pub async fn held_manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
        want: Want,
    ) -> Result<Option<PulledManifest>, Error> {
        let (cache, name, reference) = (self.clone(), name.clone(), reference.clone());
        blocking(move || cache.usable(&name, &reference, want)).await
    }

    /// Forgets that manifests of that name are absent.
    pub fn forget_absences(&self, name: &CanonicalName) {
        self.0.absences.forget(name);
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
                .head_manifest(
                    name.source(),
                    name.repository(),
                    &reference,
                    Patience::Full.into(),
                )
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

    /// Notes what an upstream did after it had answered; of requests that fail it is noted where they are made.
    fn note_trouble(&self, error: &UpstreamError) {
        if let Some(outcome) = error.cause.outcome() {
            let (registry, cause) = (error.registry.to_string(), error.cause.to_string());
            self.0.activity.trouble(&registry, outcome, &cause);
        }
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
