//! What is sent to one endpoint: uploads and manifests, each in one try. How often is tried is not known here.
//!
//! <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#push>

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use reqwest::{
    Body, Method, Response, StatusCode, Url,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION},
};
use tokio::time::{Instant, sleep, timeout};

use super::{
    super::{Cause, Pace, content_digest, guard, text},
    CHALLENGES, Endpoint, Failure, REDIRECTS,
    refusal::refusal,
    rewritten,
};
use crate::{
    types::{Digest, Reference, RepositoryName, Zone},
    upstream::{
        auth::{Access, Scope},
        push::Pieces,
    },
};

/// A blob to be sent.
#[derive(Clone, Copy)]
pub(in super::super) struct Upload<'a> {
    pub(in super::super) name: &'a RepositoryName,
    pub(in super::super) digest: &'a Digest,
    /// In bytes.
    pub(in super::super) size: u64,
}

/// A manifest to be sent.
#[derive(Clone, Copy)]
pub(in super::super) struct Manifest<'a> {
    pub(in super::super) name: &'a RepositoryName,
    pub(in super::super) reference: &'a Reference,
    pub(in super::super) digest: &'a Digest,
    pub(in super::super) media_type: &'a str,
    pub(in super::super) bytes: &'a Bytes,
}

/// What a registry says to whoever begins an upload.
pub(in super::super) enum Opened {
    /// Nothing is to be sent: it has mounted the blob.
    Mounted,
    Session(Session),
}

/// An upload under way.
pub(in super::super) struct Session {
    scope: Scope,
    /// Where it goes on.
    at: Url,
    reach: Zone,
}

/// One request that changes something.
struct Sending<'a> {
    method: Method,
    url: Url,
    reach: Zone,
    scope: &'a Scope,
    content_type: Option<&'a str>,
}

enum Payload<'a> {
    Whole(&'a Bytes),
    /// Sent once and never again.
    Stream(Pieces, u64),
}

impl Endpoint {
    /// Opens a session (end-4a), or has the blob mounted `from` another repository (end-11).
    pub(in super::super) async fn open_upload(
        &self,
        upload: Upload<'_>,
        from: Option<&RepositoryName>,
        pace: &Pace,
    ) -> Result<Opened, Failure> {
        let name = self.own_name(upload.name)?;
        let from = from.map(|from| self.own_name(from)).transpose()?;
        let scope = match &from {
            None => Scope::new(&name, Access::Push),
            Some(from) => Scope::mount(&name, from),
        };
        let mut url = self.url(&name, "blobs/uploads/")?;
        if let Some(from) = &from {
            url.query_pairs_mut()
                .append_pair("mount", &upload.digest.to_string())
                .append_pair("from", from.as_str());
        }
        let sending = Sending {
            method: Method::POST,
            url,
            reach: Zone::Public,
            scope: &scope,
            content_type: None,
        };
        let (response, reach) = self
            .in_time(
                pace,
                self.send(sending, Payload::Whole(&Bytes::new()), pace),
            )
            .await?;
        match response.status() {
            StatusCode::CREATED if from.is_some() => Ok(Opened::Mounted),
            StatusCode::ACCEPTED | StatusCode::CREATED => Ok(Opened::Session(Session {
                at: location(&response)?,
                // Of an upload nothing but pushing is left to do.
                scope: Scope::new(&name, Access::Push),
                reach,
            })),
            _ => Err(refusal(response).await),
        }
    }

    /// Sends a blob whole and finishes the session (end-6); a registry that takes it in no other way gets it as a chunk
    /// (end-5) before. `open` gives the bytes from the first on, or nothing if they can't be had.
    pub(in super::super) async fn upload(
        &self,
        upload: Upload<'_>,
        session: Session,
        open: &mut (dyn FnMut() -> Option<Pieces> + Send),
        pace: &Pace,
    ) -> Result<(), Failure> {
        let sent = self.monolithic(upload, &session, open, pace).await;
        match sent {
            Err(failure) if takes_chunks_only(&failure.cause) => {
                log::debug!(
                    "{}: {}; it is sent as a chunk",
                    self.registry,
                    failure.cause
                );
                let Opened::Session(anew) = self.open_upload(upload, None, pace).await? else {
                    return Ok(());
                };
                self.chunked(upload, anew, open, pace).await
            }
            Err(failure) => {
                self.cancel(session, pace).await;
                Err(failure)
            }
            sent => sent,
        }
    }

    async fn monolithic(
        &self,
        upload: Upload<'_>,
        session: &Session,
        open: &mut (dyn FnMut() -> Option<Pieces> + Send),
        pace: &Pace,
    ) -> Result<(), Failure> {
        let sending = Sending {
            method: Method::PUT,
            url: with_digest(session.at.clone(), upload.digest),
            reach: session.reach,
            scope: &session.scope,
            content_type: Some(OCTETS),
        };
        let response = self.stream(sending, upload, open, pace).await?;
        match response.status() {
            StatusCode::CREATED | StatusCode::NO_CONTENT | StatusCode::OK => Ok(()),
            _ => Err(refusal(response).await),
        }
    }

    async fn chunked(
        &self,
        upload: Upload<'_>,
        session: Session,
        open: &mut (dyn FnMut() -> Option<Pieces> + Send),
        pace: &Pace,
    ) -> Result<(), Failure> {
        let Session { scope, at, reach } = session;
        let sending = Sending {
            method: Method::PATCH,
            url: at,
            reach,
            scope: &scope,
            content_type: Some(OCTETS),
        };
        let response = self.stream(sending, upload, open, pace).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let sending = Sending {
            method: Method::PUT,
            url: with_digest(location(&response)?, upload.digest),
            reach,
            scope: &scope,
            content_type: Some(OCTETS),
        };
        let nothing = Bytes::new();
        let finishing = self.send(sending, Payload::Whole(&nothing), pace);
        let finished = timeout(VERIFYING, finishing).await;
        let (response, _) = finished.map_err(|_| Cause::Timeout(VERIFYING))??;
        match response.status().is_success() {
            true => Ok(()),
            false => Err(refusal(response).await),
        }
    }

    /// Gives a session back that came to nothing, as far as that is possible.
    pub(in super::super) async fn cancel(&self, session: Session, pace: &Pace) {
        let sending = Sending {
            method: Method::DELETE,
            url: session.at,
            reach: session.reach,
            scope: &session.scope,
            content_type: None,
        };
        let nothing = Bytes::new();
        let cancelling = self.send(sending, Payload::Whole(&nothing), pace);
        let _ = timeout(pace.connect, cancelling).await;
    }

    /// `PUT /v2/<name>/manifests/<reference>` (end-7).
    pub(in super::super) async fn push_manifest(
        &self,
        manifest: Manifest<'_>,
        pace: &Pace,
    ) -> Result<(), Failure> {
        let name = self.own_name(manifest.name)?;
        let scope = Scope::new(&name, Access::Push);
        let sending = Sending {
            method: Method::PUT,
            url: self.url(&name, &format!("manifests/{}", manifest.reference))?,
            reach: Zone::Public,
            scope: &scope,
            content_type: Some(manifest.media_type),
        };
        let (response, _) = self
            .in_time(
                pace,
                self.send(sending, Payload::Whole(manifest.bytes), pace),
            )
            .await?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        match content_digest(response.headers()) {
            Some(found) if found != *manifest.digest && is_comparable(&found, manifest.digest) => {
                let why = format!(
                    "it has stored {found} when it was sent {}: it does not keep manifests as they are",
                    manifest.digest
                );
                Err(Cause::Protocol(why).into())
            }
            _ => Ok(()),
        }
    }

    fn own_name(&self, name: &RepositoryName) -> Result<RepositoryName, Failure> {
        rewritten(&self.rewrite, name)
            .map_err(|name| Cause::Protocol(format!("{name} is too long for a name there")).into())
    }

    fn url(&self, name: &RepositoryName, rest: &str) -> Result<Url, Failure> {
        Url::parse(&format!("{}/v2/{name}/{rest}", self.base)).map_err(|error| {
            Cause::Protocol(format!("{} is no address: {error}", self.base)).into()
        })
    }

    async fn in_time<T>(
        &self,
        pace: &Pace,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match timeout(pace.budget, work).await {
            Ok(done) => done,
            Err(_) => Err(Cause::Timeout(pace.budget).into()),
        }
    }

    /// Sends a blob's bytes; a connection that takes none of them for a while counts as broken.
    async fn stream(
        &self,
        sending: Sending<'_>,
        upload: Upload<'_>,
        open: &mut (dyn FnMut() -> Option<Pieces> + Send),
        pace: &Pace,
    ) -> Result<Response, Failure> {
        let Some(pieces) = open() else {
            return Err(Cause::Protocol("what was to be sent can't be read".to_owned()).into());
        };
        let progress = Progress::default();
        let watched = progress.watch(pieces);
        let sending = self.send(sending, Payload::Stream(watched, upload.size), pace);
        tokio::select! {
            biased;
            sent = sending => sent.map(|(response, _)| response),
            stalled = progress.stalled(pace.silence) => Err(Cause::Cut(format!(
                "it took nothing of what was sent for {} seconds",
                stalled.as_secs_f64().round()
            )).into()),
        }
    }

    /// One request: with the log-in that is asked for, and redirects where the payload can be sent again. Also tells how
    /// near whoever answered may lead us.
    async fn send(
        &self,
        sending: Sending<'_>,
        payload: Payload<'_>,
        pace: &Pace,
    ) -> Result<(Response, Zone), Failure> {
        let until = Instant::now() + pace.budget;
        let _permit = self.limiter.admit(until).await?;
        let Sending {
            method,
            mut url,
            mut reach,
            scope,
            content_type,
        } = sending;
        let origin = self.origin.clone().unwrap_or_else(|| url.clone());
        let mut authorization = self.authority.ready(scope).await;
        let (whole, mut once) = match payload {
            Payload::Whole(bytes) => (Some(bytes), None),
            Payload::Stream(pieces, size) => (None, Some((pieces, size))),
        };
        let (mut challenges, mut redirects) = (0, 0);
        loop {
            let own = url.origin() == origin.origin();
            let proxied = self.dialer.is_proxied(&url);
            let client = match own {
                true => self.dialer.direct()?,
                false => {
                    guard::check(&url, &origin, reach)?;
                    if proxied {
                        guard::check_beyond_proxy(&url, reach).await?;
                    }
                    self.dialer.guarded(reach)?
                }
            };
            let mut request = client
                .request(method.clone(), url.clone())
                .header(ACCEPT_ENCODING, "identity");
            if let Some(kind) = content_type {
                request = request.header(CONTENT_TYPE, kind);
            }
            if let Some(authorization) = authorization.as_ref().filter(|_| own) {
                request = request.header(AUTHORIZATION, authorization);
            }
            request = match (whole, once.take()) {
                (_, Some((pieces, size))) => request
                    .header(CONTENT_LENGTH, size)
                    .body(Body::wrap_stream(pieces)),
                (Some(bytes), None) => request
                    .header(CONTENT_LENGTH, bytes.len())
                    .body(bytes.clone()),
                (None, None) => {
                    let why = "it wants to be sent once more what can be sent only once";
                    return Err(Cause::Cut(why.to_owned()).into());
                }
            };
            // The query of an upload's address may be a key.
            let shown = format!(
                "{method} {}{}",
                url.origin().ascii_serialization(),
                url.path()
            );
            log::debug!("upstream {shown}");
            let sent = Instant::now();
            let sending = request.send().await;
            self.count(&sending, sent.elapsed());
            let response = sending.map_err(|error| Failure::from(Cause::of_request(&error)))?;
            let status = response.status();
            log::debug!("upstream {shown}: {status}");
            if own {
                reach = guard::reach(response.remote_addr().filter(|_| !proxied));
            }
            match status {
                StatusCode::UNAUTHORIZED if own && challenges < CHALLENGES => {
                    challenges += 1;
                    let answer = self
                        .authority
                        .answer(
                            self.dialer.guarded(reach)?,
                            response.headers(),
                            scope,
                            authorization.as_ref(),
                            until.max(Instant::now() + pace.connect),
                        )
                        .await
                        .map_err(|error| Failure {
                            after: error.cause.retry_after(),
                            ..Failure::from(error.cause)
                        })?;
                    let Some(header) = answer else {
                        return Err(refusal(response).await);
                    };
                    authorization = Some(header);
                }
                StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
                    redirects += 1;
                    if redirects > REDIRECTS {
                        let why = format!("it redirects more than {REDIRECTS} times");
                        return Err(Cause::Protocol(why).into());
                    }
                    url = location(&response)?;
                }
                _ => return Ok((response, reach)),
            }
        }
    }
}

/// How far the sending of a body has come.
#[derive(Clone, Default)]
struct Progress(Arc<Mutex<Turn>>);

/// Whose turn it is.
#[derive(Clone, Copy, Default)]
enum Turn {
    /// Whoever has the bytes.
    #[default]
    Origin,
    /// The connection, since then.
    Connection(Instant),
    /// The registry, which has it all, since then.
    Registry(Instant),
}

impl Progress {
    fn set(&self, turn: Turn) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = turn;
    }

    fn watch(&self, pieces: Pieces) -> Pieces {
        let progress = self.clone();
        stream::unfold((pieces, progress), |(mut pieces, progress)| async move {
            progress.set(Turn::Origin);
            let piece: Option<io::Result<Bytes>> = pieces.next().await;
            progress.set(match piece {
                Some(_) => Turn::Connection(Instant::now()),
                None => Turn::Registry(Instant::now()),
            });
            piece.map(|piece| (piece, (pieces, progress)))
        })
        .boxed()
    }

    /// Comes back when nothing has moved for too long, and tells how long that was.
    async fn stalled(&self, silence: Duration) -> Duration {
        loop {
            let turn = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (since, most) = match turn {
                Turn::Origin => (Instant::now(), silence),
                Turn::Connection(since) => (since, silence),
                Turn::Registry(since) => (since, VERIFYING.max(silence)),
            };
            let left = (since + most).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return most;
            }
            sleep(left).await;
        }
    }
}

/// Where an upload goes on.
fn location(response: &Response) -> Result<Url, Failure> {
    let location = text(response.headers(), LOCATION);
    let joined = location.as_deref().map(|at| response.url().join(at));
    match joined {
        Some(Ok(mut url)) => {
            url.set_fragment(None);
            Ok(url)
        }
        _ => Err(Cause::Protocol(format!(
            "it answered {} without saying where that goes on",
            response.status()
        ))
        .into()),
    }
}

fn with_digest(mut url: Url, digest: &Digest) -> Url {
    url.query_pairs_mut()
        .append_pair("digest", &digest.to_string());
    url
}

/// A registry may name a manifest by another algorithm than we do.
fn is_comparable(one: &Digest, other: &Digest) -> bool {
    one.algorithm() == other.algorithm()
}

/// What registries answer that take no monolithic upload behind a POST.
fn takes_chunks_only(cause: &Cause) -> bool {
    matches!(
        cause,
        Cause::Refused {
            status: 404 | 405 | 411 | 415 | 501,
            ..
        }
    )
}

const OCTETS: &str = "application/octet-stream";

/// A registry that has a blob whole may take so long to verify it and put it in its place: some copy gigabytes.
const VERIFYING: Duration = Duration::from_secs(300);
