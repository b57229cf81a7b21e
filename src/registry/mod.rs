//! The rules: what a name means, who wins, what a push must bring. Knows no HTTP and no TLS.
//!
//! - Pull: `_local` first, under the canonical name; then the source's namespace: cache, then upstream.
//! - Push: always and only `_local`; a push never leaves the job.
//! - A source that is not configured, or kept local by a pattern, is never asked, and what was cached from it is not
//!   served.

pub mod access;
mod catalog;
mod discovery;
mod mount;
mod needs;
mod owed;
mod pull;
mod push;
mod reach;
mod removal;
mod seed;
mod source;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::runtime::Handle;

use crate::{
    activity::Activity,
    cache::{self, Cache, CacheSize, UpstreamError},
    storage::{self, Store},
    types::{
        CanonicalName, Digest, Pattern, digest::shown, manifest::MANIFEST_LIMIT, name::NAME_LIMIT,
    },
};

use access::{NotSigned, Refusal};

pub use crate::cache::{Body, Cause, PulledManifest, Want};
pub use catalog::View;
pub use discovery::Page;
pub use push::{FinishedUpload, ManifestPush, PushedManifest};
pub use reach::{Intercepted, Reached};
pub use seed::{Seeded, Seeding};
pub use source::{Asked, OwnNames, Rule, Sources, Target};

/// The settings behind the rules.
#[derive(Clone, Debug)]
pub struct Rules {
    pub sources: Sources,
    /// No upstream at all.
    pub offline: bool,
    /// Names that no upstream is asked for.
    pub local_only: Vec<Pattern>,
    /// Names that local content must not hide.
    pub no_shadow: Vec<Pattern>,
    /// Manifests are taken whose content is missing.
    pub allow_sparse: bool,
    pub limits: Limits,
}

/// How much clients may take up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a manifest.
    pub manifest: usize,
    /// Characters of a name, as the client spells it. `RepositoryName` has a limit of its own, so this one can only be lower.
    pub name: usize,
    /// Upload sessions open at once.
    pub uploads: usize,
    /// How long a session stays that no request touches.
    pub upload_lifetime: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            manifest: MANIFEST_LIMIT,
            name: NAME_LIMIT,
            uploads: 1000,
            upload_lifetime: Duration::from_secs(60 * 60),
        }
    }
}

/// The registry. Cheap to clone.
#[derive(Clone)]
pub struct Registry(Arc<Parts>);

struct Parts {
    store: Arc<Store>,
    cache: Cache,
    rules: Rules,
    /// Where background fills run.
    runtime: Handle,
    owed: owed::Throttle,
    /// Names whose first shadow hit was logged.
    shadowed: Mutex<HashSet<CanonicalName>>,
    catalog: catalog::Catalog,
    activity: Arc<Activity>,
}

impl Registry {
    /// `runtime` must have timers and I/O, and outlive every request.
    pub fn new(
        store: Arc<Store>,
        cache: Cache,
        rules: Rules,
        runtime: Handle,
        activity: Arc<Activity>,
    ) -> Self {
        Self(Arc::new(Parts {
            catalog: catalog::Catalog::new(rules.sources.default.clone()),
            store,
            cache,
            rules,
            runtime,
            owed: owed::Throttle::default(),
            shadowed: Mutex::default(),
            activity,
        }))
    }

    /// How full the cache is.
    pub fn cache_size(&self) -> CacheSize {
        self.0.cache.size()
    }

    /// The repository that the request means.
    pub fn resolve(&self, asked: &Asked<'_>) -> Result<Target, Error> {
        let longest = self.limits().name;
        if asked.name.len() > longest {
            return Err(Error::NameInvalid(format!(
                "{} is longer than {longest} characters, the most that --max-name-length allows",
                shown(asked.name)
            )));
        }
        self.0.rules.sources.resolve(asked)
    }

    /// Which repositories a client sees that came this way.
    pub fn view(&self, asked: &Asked<'_>) -> Result<View, Error> {
        self.0.rules.sources.view(asked)
    }

    /// Whether the request was meant for the host that it came to, for requests that name no repository.
    pub fn check_host(&self, asked: &Asked<'_>) -> Result<(), Error> {
        self.0.rules.sources.check_host(asked)
    }

    pub fn limits(&self) -> &Limits {
        &self.0.rules.limits
    }

    /// Frees upload sessions that have outlived their lifetime.
    pub async fn expire_uploads(&self) {
        let (registry, lifetime) = (self.clone(), self.limits().upload_lifetime);
        let expired = storage::blocking(move || registry.0.store.expire_uploads(lifetime)).await;
        if expired > 0 {
            log::info!("{expired} uploads that no client went on with for {lifetime:?} were freed");
        }
    }

    /// Whether the name's source has a say at all: what was cached from it may be served.
    fn has_source(&self, name: &CanonicalName) -> bool {
        self.0.cache.is_configured(name.source())
            && !self
                .0
                .rules
                .local_only
                .iter()
                .any(|pattern| pattern.matches(name))
    }

    /// Whether the name's source may be asked.
    fn may_ask(&self, name: &CanonicalName) -> bool {
        !self.0.rules.offline && self.has_source(name)
    }

    /// Whether local content hides the source's.
    fn shadows(&self, name: &CanonicalName) -> bool {
        !self.has_source(name)
            || !self
                .0
                .rules
                .no_shadow
                .iter()
                .any(|pattern| pattern.matches(name))
    }

    fn note_shadow(&self, name: &CanonicalName, what: &impl std::fmt::Display) {
        if !self.has_source(name) {
            return;
        }
        let mut shadowed = self
            .0
            .shadowed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if shadowed.insert(name.clone()) {
            log::info!(
                "{name}: {what} is served from what was pushed or seeded here, and {} is not asked",
                name.source()
            );
        }
    }
}

/// Why a request is refused: one variant for each code of the spec, and the failures behind them.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    BlobUnknown(String),
    #[error("{0}")]
    BlobUploadInvalid(String),
    #[error(
        "no such upload session: it was finished, refused or cancelled, left alone for longer than --upload-lifetime allows, or standin was restarted; start the upload anew"
    )]
    BlobUploadUnknown,
    #[error("{0}")]
    DigestInvalid(String),
    #[error("the manifest names content that is not here{}: push it first: {}", .unasked.as_ref().map(|why| format!(", and its source could not be asked ({why})")).unwrap_or_default(), listed(.missing))]
    ManifestBlobUnknown {
        missing: Vec<Digest>,
        unasked: Option<UpstreamError>,
    },
    /// Content that a manifest needs is not deleted.
    #[error("{0}")]
    InUse(String),
    #[error("{0}")]
    ManifestInvalid(String),
    #[error("{0}")]
    ManifestUnknown(String),
    #[error("the manifest is larger than {limit} bytes, the most that --max-manifest-size allows")]
    ManifestTooLarge { limit: usize },
    #[error("{0}")]
    NameInvalid(String),
    #[error("{0}")]
    NameUnknown(String),
    #[error("{0}")]
    SizeInvalid(String),
    /// A chunk that does not go on where the session stands.
    #[error("the upload stands at {offset}: {why}")]
    RangeInvalid { offset: u64, why: String },
    /// Whoever sent the request may not do this, or has not shown who they are.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The request for a token is none.
    #[error("{0}")]
    TokenRequest(String),
    #[error("the connection is for {server_name}, and the request is for {host}")]
    Misdirected { server_name: String, host: String },
    #[error(
        "{limit} uploads are open, the most that --max-uploads allows: try again when one is finished, or cancel one"
    )]
    TooManyUploads { limit: usize },
    #[error("{0}")]
    Unsupported(String),
    /// The data directory takes no more.
    #[error("the data directory takes no more: {0}")]
    NoRoom(String),
    #[error(transparent)]
    Upstream(#[from] UpstreamFailure),
    #[error(transparent)]
    Storage(Arc<storage::Error>),
    #[error(transparent)]
    NotSigned(#[from] NotSigned),
    #[error("content in the data directory can't be read: {0}")]
    Read(Arc<std::io::Error>),
}

/// An upstream could not answer, and nothing here could in its place.
#[derive(Debug, thiserror::Error)]
#[error("{what} is not in standin, and can't be had from {error}")]
pub struct UpstreamFailure {
    pub what: String,
    pub error: UpstreamError,
    pub wanted: Wanted,
    /// How the request came to mean this upstream.
    pub rule: Rule,
}

/// docker shows a refusal's message and not its details, so the first digests are in it.
fn listed(digests: &[Digest]) -> String {
    const SHOWN: usize = 3;
    let mut text: Vec<String> = digests.iter().take(SHOWN).map(Digest::to_string).collect();
    if digests.len() > SHOWN {
        text.push(format!("and {} more", digests.len() - SHOWN));
    }
    text.join(", ")
}

impl From<storage::Error> for Error {
    fn from(error: storage::Error) -> Self {
        if error.is_no_room() {
            return Self::NoRoom(error.to_string());
        }
        Self::Storage(Arc::new(error))
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Read(Arc::new(error))
    }
}

/// What an upstream was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Blob,
    Manifest,
    Repository,
}

/// What the cache's failure to get `what` means for the request.
fn unavailable(rule: Rule, what: String, wanted: Wanted, error: cache::Error) -> Error {
    match error {
        cache::Error::Upstream(error) => UpstreamFailure {
            what,
            error,
            wanted,
            rule,
        }
        .into(),
        cache::Error::Storage(error) => Error::Storage(error),
        cache::Error::Read(error) => Error::Read(error),
    }
}

#[cfg(test)]
mod tests;
