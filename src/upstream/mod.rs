//! The client of other registries: asks, streams, and says plainly what went wrong.
//!
//! It stores nothing and knows no rules of ours. Absence (404) is `Ok(None)`; everything else that keeps an answer from
//! us is an [`Error`] that names the registry and the true cause. What comes from an upstream is untrusted: sizes are
//! bounded here, digests are verified by whoever stores or passes on the bytes.
//!
//! What is pushed goes to the registry itself, never to a mirror (`push`).
//!
//! A question goes through `exchange` (which endpoint, how long), `endpoint` (tries, log-in, redirects) and `body`.
//! `circuit` and `limits` may keep it from being asked, `guard` from going where a registry must not lead us.

mod answer;
mod auth;
mod body;
mod challenge;
mod circuit;
mod credentials;
mod dialer;
mod endpoint;
mod error;
mod exchange;
mod guard;
mod limits;
mod listing;
mod options;
mod push;
mod quota;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    iter,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use tokio::time::Instant;

use self::{
    answer::{Answer, Content},
    auth::Access,
    dialer::Dialer,
    endpoint::{Ask, Counted, Endpoint, Want},
    exchange::Order,
};
use crate::{
    activity::Activity,
    types::{
        Digest, MediaType, Reference, RegistryHost, RepositoryName, UpstreamProxy, UpstreamUrl,
        manifest,
    },
};

pub use self::{
    circuit::Rest,
    credentials::{Credentials, Keyring, Login},
    error::{Cause, Error},
    listing::RemoteTags,
    options::{Mirror, Options, Rewrite, Trust},
    push::{BlobPush, Pieces},
};

/// An upstream has so long to answer with headers, redirects, log-ins, retries and mirrors included. Clients such as
/// containerd give up after 30 seconds.
pub const HEADER_BUDGET: Duration = Duration::from_secs(25);

/// How hard an upstream is tried before it counts as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Patience {
    /// Whatever may help within the budget.
    Full,
    /// One try at each endpoint: whoever asks does as well without the answer.
    Once,
}

/// What is done for one answer of ours, which may take several questions: they share the time.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    patience: Patience,
    until: Instant,
    explained: bool,
}

impl Effort {
    /// What the registry does not give is an error in its own words, also what does not exist there.
    pub fn explained(self) -> Self {
        Self {
            explained: true,
            ..self
        }
    }
}

impl From<Patience> for Effort {
    /// From now on.
    fn from(patience: Patience) -> Self {
        Self {
            patience,
            until: Instant::now() + HEADER_BUDGET,
            explained: false,
        }
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// For all that one question needs.
    pub budget: Duration,
    /// For a connection, with the look-up of the name and TLS.
    pub connect: Duration,
    /// A body may send nothing for so long; then it counts as cut.
    pub silence: Duration,
    /// Tries at one endpoint behind the first.
    pub retries: u32,
    /// The same of a blob, whose failure is the end of a pull for many a client: enough to outlast the restart of a
    /// registry.
    pub blob_retries: u32,
    /// Before the first retry; it doubles with each, up to eight times as much.
    pub backoff: Duration,
    pub rest: Rest,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            budget: HEADER_BUDGET,
            connect: Duration::from_secs(5),
            silence: Duration::from_secs(15),
            retries: 4,
            blob_retries: 8,
            backoff: Duration::from_millis(200),
            rest: Rest {
                first: Duration::from_secs(5),
                longest: Duration::from_secs(60),
            },
        }
    }
}

impl Pace {
    /// Before the next try; half of it is left to chance, so that those who failed together do not come back together.
    fn backoff(&self, tried: u32) -> Duration {
        let chance = RandomState::new().hash_one(tried) % 1000;
        let whole = self.backoff * 2_u32.pow(tried.min(3));
        whole / 2 + whole * chance as u32 / 2000
    }
}

/// What holds for all registries.
pub struct Settings {
    /// No manifest of more bytes is taken from any of them.
    pub manifest_limit: usize,
    /// Where log-ins are that the configuration does not give.
    pub keyring: Keyring,
    /// The proxy that registries are reached through, if there is one.
    pub proxy: Option<UpstreamProxy>,
    pub pace: Pace,
    pub activity: Arc<Activity>,
}

/// The registries that may be asked, and no others ever are.
pub struct Upstreams {
    registries: BTreeMap<RegistryHost, Upstream>,
    manifest_limit: usize,
    pace: Pace,
}

struct Upstream {
    options: Options,
    mirrors: Vec<Endpoint>,
    itself: Endpoint,
}

/// What an upstream says of a manifest without sending it.
#[derive(Clone, Debug)]
pub struct RemoteManifest {
    pub digest: Option<Digest>,
    pub media_type: Option<MediaType>,
    pub size: Option<u64>,
}

/// A manifest as an upstream sent it.
#[derive(Clone, Debug)]
pub struct FetchedManifest {
    pub bytes: Bytes,
    pub content_type: Option<String>,
    /// What the upstream says the digest is.
    pub digest: Option<Digest>,
}

/// A blob whose headers have come.
pub struct RemoteBlob {
    /// Length of the whole blob, if the upstream said so.
    pub size: Option<u64>,
    pub body: BoxStream<'static, Result<Bytes, Error>>,
    registry: RegistryHost,
}

impl RemoteBlob {
    /// Itself, as the rest of a blob of `known` bytes.
    ///
    /// # Errors
    /// [`Cause::Protocol`]: it is the rest of another.
    pub fn continuing(self, known: Option<u64>) -> Result<Self, Error> {
        match (self.size, known) {
            (Some(size), Some(known)) if size != known => {
                let why = format!("its content has changed: {known} bytes before, {size} now");
                Err(Error::new(&self.registry, Cause::Protocol(why)))
            }
            _ => Ok(self),
        }
    }
}

impl Upstreams {
    /// The registries that may be asked.
    pub fn new(registries: BTreeMap<RegistryHost, Options>, settings: Settings) -> Self {
        let Settings {
            manifest_limit,
            keyring,
            proxy,
            pace,
            activity,
        } = settings;
        let dialer = |trust| Arc::new(Dialer::new(trust, pace.connect, proxy.clone()));
        let usual = dialer(Trust::default());
        let upstream = |(host, options): (RegistryHost, Options)| {
            let dialer = match options.trust.is_usual() {
                true => Arc::clone(&usual),
                false => dialer(options.trust.clone()),
            };
            let found = |hosts: Vec<RegistryHost>| Credentials::looked_up(keyring.clone(), hosts);
            let login = match &options.login {
                Some(Login::Password { user, password }) => Credentials::fixed(user, password),
                _ => found(
                    iter::once(host.clone())
                        .chain(host_of(&options.url))
                        .collect(),
                ),
            };
            let endpoint = |label, at: (&UpstreamUrl, &[Rewrite]), credentials: Credentials| {
                let credentials = credentials.with_realms(options.realms.clone());
                let counted = Counted {
                    activity: Arc::clone(&activity),
                    label,
                };
                Endpoint::new(&host, at, &options, credentials, &dialer, counted, &pace)
            };
            let mirror = |mirror: &Mirror| {
                let login = found(host_of(&mirror.url).into_iter().collect());
                let label = format!("{host} by {}", mirror.url);
                endpoint(label, (&mirror.url, &mirror.rewrite), login)
            };
            let upstream = Upstream {
                mirrors: options.mirrors.iter().map(mirror).collect(),
                itself: endpoint(host.to_string(), (&options.url, &options.rewrite), login),
                options: options.clone(),
            };
            (host, upstream)
        };
        Self {
            registries: registries.into_iter().map(upstream).collect(),
            manifest_limit,
            pace,
        }
    }

    /// Whether this registry may be asked at all.
    pub fn is_configured(&self, registry: &RegistryHost) -> bool {
        self.registries.contains_key(registry)
    }

    /// Bytes of a manifest, at most.
    pub fn manifest_limit(&self) -> usize {
        self.manifest_limit
    }

    /// The registries that may be asked.
    pub fn registries(&self) -> impl Iterator<Item = &RegistryHost> {
        self.registries.keys()
    }

    /// Whether what is pulled from this registry with credentials may be read by everyone.
    pub fn is_public(&self, registry: &RegistryHost) -> bool {
        let upstream = self.registries.get(registry);
        upstream.is_some_and(|upstream| upstream.options.public)
    }

    /// Whether this registry or a mirror of it is asked with credentials, or may be.
    pub fn has_login(&self, registry: &RegistryHost) -> bool {
        self.registries.get(registry).is_some_and(|upstream| {
            upstream.itself.has_login() || upstream.mirrors.iter().any(Endpoint::has_login)
        })
    }

    /// `HEAD /v2/<name>/manifests/<reference>` (end-3).
    pub async fn head_manifest(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
        reference: &Reference,
        effort: Effort,
    ) -> Result<Option<RemoteManifest>, Error> {
        let ask = Ask {
            name,
            rest: &format!("manifests/{reference}"),
            accept: Some(&manifest::ACCEPTED.join(", ")),
            access: Access::Pull,
            want: Want::Head,
            effort,
        };
        let answer = self.exchange(registry, ask, Order::MirrorsFirst).await?;
        Ok(answer.map(|Answer { headers, .. }| RemoteManifest {
            digest: content_digest(&headers),
            media_type: text(&headers, CONTENT_TYPE).and_then(|value| MediaType::parse(&value)),
            size: content_length(&headers),
        }))
    }

    /// `GET /v2/<name>/manifests/<reference>` (end-3).
    pub async fn get_manifest(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
        reference: &Reference,
        effort: Effort,
    ) -> Result<Option<FetchedManifest>, Error> {
        let ask = Ask {
            name,
            rest: &format!("manifests/{reference}"),
            accept: Some(&manifest::ACCEPTED.join(", ")),
            access: Access::Pull,
            want: Want::Whole(self.manifest_limit),
            effort,
        };
        let answer = self.exchange(registry, ask, Order::MirrorsFirst).await?;
        Ok(answer.map(|answer| FetchedManifest {
            content_type: text(&answer.headers, CONTENT_TYPE),
            digest: content_digest(&answer.headers),
            bytes: answer.into_bytes(),
        }))
    }

    /// `HEAD /v2/<name>/blobs/<digest>` (end-2); the blob's size, if the upstream says it.
    pub async fn head_blob(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Option<u64>>, Error> {
        let ask = Ask {
            name,
            rest: &format!("blobs/{digest}"),
            accept: None,
            access: Access::Pull,
            want: Want::Head,
            effort: Patience::Full.into(),
        };
        let answer = self.exchange(registry, ask, Order::MirrorsFirst).await?;
        Ok(answer.map(|answer| content_length(&answer.headers)))
    }

    /// `GET /v2/<name>/blobs/<digest>` (end-2) from byte `from` on. Returns when the headers are there; of the body,
    /// [`Cause::is_resumable`] tells what is cut short from what is wrong.
    pub async fn get_blob(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
        digest: &Digest,
        from: u64,
        effort: Effort,
    ) -> Result<Option<RemoteBlob>, Error> {
        let ask = Ask {
            name,
            rest: &format!("blobs/{digest}"),
            accept: None,
            access: Access::Pull,
            want: Want::Stream(from),
            effort,
        };
        let answer = self.exchange(registry, ask, Order::MirrorsFirst).await?;
        let Some(Content::Stream { size, body }) = answer.map(|answer| answer.content) else {
            return Ok(None);
        };
        let of = registry.clone();
        let body = body.map(move |piece| piece.map_err(|cause| Error::new(&of, cause)));
        Ok(Some(RemoteBlob {
            size,
            body: body.boxed(),
            registry: registry.clone(),
        }))
    }
}

/// The host of a URL, as files of log-ins call it.
fn host_of(url: &UpstreamUrl) -> Option<RegistryHost> {
    url.as_str()
        .split("://")
        .nth(1)?
        .split('/')
        .next()?
        .parse()
        .ok()
}

fn text(headers: &HeaderMap, name: reqwest::header::HeaderName) -> Option<String> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, CONTENT_LENGTH)?.parse().ok()
}

fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers
        .get("docker-content-digest")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
}
