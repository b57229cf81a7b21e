//! The client of other registries: asks, streams, and says plainly what went wrong.
//!
//! It stores nothing and knows no rules of ours. Absence (404) is `Ok(None)`; everything else that keeps an answer from
//! us is an [`Error`] that names the registry and the true cause. What comes from an upstream is untrusted: sizes are
//! bounded here, digests are verified by whoever stores or passes on the bytes.

mod auth;
mod challenge;
mod credentials;
mod listing;

use std::{collections::BTreeMap, iter, sync::OnceLock, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use reqwest::{
    Method, Response, StatusCode,
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap,
        HeaderValue, RANGE, RETRY_AFTER,
    },
    redirect::Policy,
};
use tokio::time::{Instant, timeout_at};

use crate::types::{
    Digest, MediaType, Reference, RegistryHost, RepositoryName, UpstreamUrl, manifest,
};

use auth::{Authority, Scope};

pub use credentials::{Credentials, Keyring, Login};
pub use listing::RemoteTags;

/// An upstream has so long to answer with headers. Clients such as containerd give up after 30 seconds.
pub const HEADER_BUDGET: Duration = Duration::from_secs(25);

/// A body may fall silent for so long; then it counts as cut short.
const SILENCE: Duration = Duration::from_secs(15);

/// How hard an upstream is tried before it counts as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Patience {
    /// Whatever may help within the budget.
    Full,
    /// One try: whoever asks does as well without the answer.
    Once,
}

/// The registries that may be asked, and no others ever are.
pub struct Upstreams {
    registries: BTreeMap<RegistryHost, UpstreamUrl>,
    authorities: BTreeMap<RegistryHost, Authority>,
    manifest_limit: usize,
    client: OnceLock<reqwest::Client>,
    token_client: OnceLock<reqwest::Client>,
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
}

impl Upstreams {
    /// No manifest of more than `manifest_limit` bytes is taken from any of them.
    pub fn new(registries: BTreeMap<RegistryHost, UpstreamUrl>, manifest_limit: usize) -> Self {
        Self {
            registries,
            authorities: BTreeMap::new(),
            manifest_limit,
            client: OnceLock::new(),
            token_client: OnceLock::new(),
        }
        .with_keyring(&Keyring::empty())
    }

    /// Logs in where `keyring` has a log-in, under the registry's name or that of the host it is really at.
    pub fn with_keyring(mut self, keyring: &Keyring) -> Self {
        let authority = |(host, url): (&RegistryHost, &UpstreamUrl)| {
            let real = url.as_str().split("://").nth(1);
            let real = real.and_then(|rest| rest.split('/').next()?.parse().ok());
            let credentials =
                Credentials::looked_up(keyring.clone(), iter::once(host.clone()).chain(real));
            let authority = Authority::new(host.clone(), url.clone(), credentials);
            (host.clone(), authority)
        };
        self.authorities = self.registries.iter().map(authority).collect();
        self
    }

    /// Whether there is a log-in for this registry, or may be one: what is fetched from it may be private.
    pub fn has_login(&self, registry: &RegistryHost) -> bool {
        let authority = self.authorities.get(registry);
        authority.is_some_and(Authority::has_login)
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

    /// `HEAD /v2/<name>/manifests/<reference>` (end-3).
    pub async fn head_manifest(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
        reference: &Reference,
        _patience: Patience,
    ) -> Result<Option<RemoteManifest>, Error> {
        let path = format!("{name}/manifests/{reference}");
        let Some(response) = self
            .send(
                registry,
                name,
                Method::HEAD,
                &path,
                &[(ACCEPT, &manifest::ACCEPTED.join(", "))],
            )
            .await?
        else {
            return Ok(None);
        };
        let headers = response.headers();
        if is_page(headers) {
            return Err(a_page(registry));
        }
        Ok(Some(RemoteManifest {
            digest: content_digest(headers),
            media_type: text(headers, CONTENT_TYPE).and_then(|value| MediaType::parse(&value)),
            size: content_length(headers),
        }))
    }

    /// `GET /v2/<name>/manifests/<reference>` (end-3).
    pub async fn get_manifest(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
        reference: &Reference,
        _patience: Patience,
    ) -> Result<Option<FetchedManifest>, Error> {
        let path = format!("{name}/manifests/{reference}");
        let Some(response) = self
            .send(
                registry,
                name,
                Method::GET,
                &path,
                &[(ACCEPT, &manifest::ACCEPTED.join(", "))],
            )
            .await?
        else {
            return Ok(None);
        };
        let headers = response.headers();
        let content_type = text(headers, CONTENT_TYPE);
        let digest = content_digest(headers);
        let bytes = self
            .read_whole(registry, response, self.manifest_limit)
            .await?;
        Ok(Some(FetchedManifest {
            bytes,
            content_type,
            digest,
        }))
    }

    /// `HEAD /v2/<name>/blobs/<digest>` (end-2); the blob's size, if the upstream says it.
    pub async fn head_blob(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<Option<u64>>, Error> {
        let path = format!("{name}/blobs/{digest}");
        let response = self
            .send(
                registry,
                name,
                Method::HEAD,
                &path,
                &[(ACCEPT_ENCODING, "identity")],
            )
            .await?;
        match response {
            Some(response) if is_page(response.headers()) => Err(a_page(registry)),
            response => Ok(response.map(|response| content_length(response.headers()))),
        }
    }

    /// `GET /v2/<name>/blobs/<digest>` (end-2) from byte `from` on. Returns when the headers are there.
    pub async fn get_blob(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
        digest: &Digest,
        from: u64,
    ) -> Result<Option<RemoteBlob>, Error> {
        let path = format!("{name}/blobs/{digest}");
        let range = format!("bytes={from}-");
        let mut headers = vec![(ACCEPT_ENCODING, "identity")];
        if from > 0 {
            headers.push((RANGE, &range));
        }
        let Some(response) = self
            .send(registry, name, Method::GET, &path, &headers)
            .await?
        else {
            return Ok(None);
        };
        let length = content_length(response.headers());
        // An upstream may ignore the range and send everything; what is known already is then read past.
        let (size, skip) = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = text(response.headers(), CONTENT_RANGE).unwrap_or_default();
                if !range.starts_with(&format!("bytes {from}-")) {
                    return Err(Error::new(
                        registry,
                        Cause::Protocol(format!("it answered {range:?} to a request for {from}-")),
                    ));
                }
                (length.map(|length| from + length), 0)
            }
            _ => (length, from),
        };
        let registry = registry.clone();
        let body = response
            .bytes_stream()
            .map(move |piece| piece.map_err(|error| Error::transport(&registry, &error)));
        Ok(Some(RemoteBlob {
            size,
            body: skipping(body, skip).boxed(),
        }))
    }

    async fn send(
        &self,
        registry: &RegistryHost,
        name: &RepositoryName,
        method: Method,
        path: &str,
        headers: &[(reqwest::header::HeaderName, &str)],
    ) -> Result<Option<Response>, Error> {
        let (Some(base), Some(authority)) = (
            self.registries.get(registry),
            self.authorities.get(registry),
        ) else {
            return Err(Error::new(registry, Cause::NotConfigured));
        };
        let url = format!("{base}/v2/{path}");
        let deadline = Instant::now() + HEADER_BUDGET;
        let ask = async |authorization: Option<HeaderValue>| {
            let mut request = self.client().request(method.clone(), &url);
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            if let Some(authorization) = authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            log::debug!("upstream {method} {url}");
            match timeout_at(deadline, request.send()).await {
                Ok(answered) => answered.map_err(|error| Error::transport(registry, &error)),
                Err(_) => Err(Error::new(registry, Cause::Timeout(HEADER_BUDGET))),
            }
        };
        let scope = Scope::pull(name);
        let first = authority.ready(&scope).await;
        let mut response = ask(first.clone()).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let (client, challenges) = (self.token_client(), response.headers());
            let second = authority
                .answer(client, challenges, &scope, first.as_ref(), deadline)
                .await?;
            if let Some(second) = second {
                response = ask(Some(second)).await?;
            }
        }
        let status = response.status();
        log::debug!("upstream {method} {url}: {status}");
        match status {
            status if status.is_success() => Ok(Some(response)),
            StatusCode::NOT_FOUND => Ok(None),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(Error::new(registry, Cause::Unauthorized(status.as_u16())))
            }
            StatusCode::TOO_MANY_REQUESTS => Err(Error::new(
                registry,
                Cause::RateLimited {
                    retry_after: text(response.headers(), RETRY_AFTER),
                },
            )),
            status => Err(Error::new(registry, Cause::Status(status.as_u16()))),
        }
    }

    fn client(&self) -> &reqwest::Client {
        self.client.get_or_init(|| Self::made(Policy::default))
    }

    /// For what carries log-ins.
    fn token_client(&self) -> &reqwest::Client {
        self.token_client.get_or_init(|| Self::made(Policy::none))
    }

    /// Made at the first use: reading the system's certificates takes longer than all the rest of a start.
    fn made(redirects: fn() -> Policy) -> reqwest::Client {
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("standin/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(Duration::from_secs(10))
                .read_timeout(SILENCE)
                // HTTPS_PROXY in a job's environment may well be ourselves.
                .no_proxy()
        };
        let trusting = builder().redirect(redirects());
        trusting.build().unwrap_or_else(|error| {
            log::warn!("no system certificates can be used ({error}): upstreams over https will not be trusted");
            let distrusting = builder().redirect(redirects()).tls_certs_only([]);
            distrusting.build().unwrap_or_default()
        })
    }

    async fn read_whole(
        &self,
        registry: &RegistryHost,
        response: Response,
        limit: usize,
    ) -> Result<Bytes, Error> {
        let too_large = || {
            Error::new(
                registry,
                Cause::Protocol(format!("its answer is larger than {limit} bytes")),
            )
        };
        if content_length(response.headers()).is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let mut body = response.bytes_stream();
        let mut whole = BytesMut::new();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| Error::transport(registry, &error))?;
            if whole.len() + piece.len() > limit {
                return Err(too_large());
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }
}

/// `body` without its first `skip` bytes.
fn skipping(
    body: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
    mut skip: u64,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    body.map(move |piece| {
        piece.map(|mut piece| {
            let dropped = usize::try_from(skip).unwrap_or(usize::MAX).min(piece.len());
            skip -= dropped as u64;
            piece.split_off(dropped)
        })
    })
}

fn text(headers: &HeaderMap, name: reqwest::header::HeaderName) -> Option<String> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned)
}

/// Whether this is for people to read: a login page or a proxy's apology under a 200, which no registry's content is.
fn is_page(headers: &HeaderMap) -> bool {
    text(headers, CONTENT_TYPE)
        .is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/html"))
}

fn a_page(registry: &RegistryHost) -> Error {
    let why = "it answered with text/html, which is no content of a registry";
    Error::new(registry, Cause::Protocol(why.to_owned()))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, reqwest::header::CONTENT_LENGTH)?.parse().ok()
}

fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers
        .get("docker-content-digest")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
}

/// An upstream could not answer. Says which and why, in words for whoever reads the client's message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{registry}: {cause}")]
pub struct Error {
    pub registry: RegistryHost,
    pub cause: Cause,
}

/// The true cause of an upstream's failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    #[error("the registry is not configured: name it with --registry {{HOST}}")]
    NotConfigured,
    #[error("it can't be reached{0}")]
    Unreachable(String),
    #[error("no answer within {} seconds", .0.as_secs())]
    Timeout(Duration),
    #[error("it answered {0}")]
    Status(u16),
    /// Says as much as "absent": a registry does not tell strangers what it has.
    #[error(
        "it answered {0}: that does not exist there, or needs a log-in (docker login, or --authfile) that may pull it"
    )]
    Unauthorized(u16),
    /// Where its tokens come from.
    #[error("its token server {realm}: {cause}")]
    Token { realm: String, cause: Box<Self> },
    #[error("it answered 429, too many requests{}", .retry_after.as_ref().map(|after| format!(", retry after {after}")).unwrap_or_default())]
    RateLimited { retry_after: Option<String> },
    #[error("{0}")]
    Protocol(String),
    #[error("it sent content of digest {found} when asked for {wanted}")]
    DigestMismatch { wanted: Digest, found: Digest },
}

impl Cause {
    /// What happened, wherever.
    pub fn essence(&self) -> &Self {
        self
    }

    /// Of a body that broke off, or of asking for its rest: whether it may yet go on where it ended.
    pub fn is_resumable(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Timeout(_) | Self::RateLimited { .. } => true,
            Self::Status(status) => *status == 408 || *status >= 500,
            Self::Token { cause, .. } => cause.is_resumable(),
            Self::NotConfigured
            | Self::Unauthorized(_)
            | Self::Protocol(_)
            | Self::DigestMismatch { .. } => false,
        }
    }
}

impl Error {
    pub fn new(registry: &RegistryHost, cause: Cause) -> Self {
        Self {
            registry: registry.clone(),
            cause,
        }
    }

    fn transport(registry: &RegistryHost, error: &reqwest::Error) -> Self {
        Self::new(registry, Cause::of_transport(error))
    }
}

impl Cause {
    fn of_transport(error: &reqwest::Error) -> Self {
        if error.is_timeout() && !error.is_connect() {
            return Self::Timeout(SILENCE);
        }
        // reqwest's own text only repeats the URL; what happened is at the end of the chain.
        let mut deepest: &dyn std::error::Error = error;
        while let Some(source) = deepest.source() {
            deepest = source;
        }
        // Whoever reads "quay.io" and has a mirror configured for it must see which of them it was.
        let at = error.url().map_or_else(String::new, |url| {
            format!(" at {}", url.origin().ascii_serialization())
        });
        let deepest = deepest.to_string();
        let hint = if deepest.contains("UnknownIssuer") {
            ": this machine does not trust who issued it; SSL_CERT_FILE may name further authorities"
        } else if deepest.contains("InvalidContentType") {
            ": it does not speak TLS; one over plain HTTP is configured with --registry HOST=http://…"
        } else {
            ""
        };
        Self::Unreachable(format!("{at}: {deepest}{hint}"))
    }
}
