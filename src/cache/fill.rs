//! One download for everyone: a detached task writes a growing file and hashes; every client reads behind it.
//!
//! ```text
//! Asking -> Filling (readable grows) -> Complete
//!      \-> Absent        \-> NoRoom: everyone goes on alone, unstored
//!                         \-> Failed
//! ```
//!
//! The last byte is readable only once the digest is verified and the blob committed: a body that does not hash to its
//! name can't be received to its end.

use std::{
    collections::HashMap,
    io,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream, stream::BoxStream};
use tokio::sync::watch;

use super::{Cache, Cause, Error, UpstreamError};
use crate::{
    storage::{
        Batches, Content, Interrupted, Member, Reason, StagedBytes, Staging, Store, blocking,
        receive,
    },
    types::{CanonicalName, Digest, Hasher, Namespace},
};

/// Downloads under way, by digest.
#[derive(Default)]
pub(super) struct Fills(Mutex<HashMap<Digest, Fill>>);

#[derive(Clone)]
struct Fill {
    /// Under which name the upstream is asked.
    name: CanonicalName,
    progress: watch::Receiver<Progress>,
}

#[derive(Clone)]
enum Progress {
    Asking,
    Filling {
        size: Option<u64>,
        readable: u64,
        bytes: StagedBytes,
    },
    Complete {
        size: u64,
    },
    Absent,
    NoRoom,
    Failed(Error),
}

/// A blob's bytes on their way to a client.
pub struct Body {
    size: Option<u64>,
    source: Source,
}

enum Source {
    Stored(Content),
    Filling(Reader),
    Unstored(BoxStream<'static, io::Result<Bytes>>),
}

impl Body {
    pub fn stored(content: Content) -> Self {
        Self {
            size: Some(content.size()),
            source: Source::Stored(content),
        }
    }

    /// In bytes; unknown where an upstream did not say.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The bytes of `range`, or all of them, in pieces of at most `piece` where they come from a disk. An error means that
    /// the rest can't be had, and that what came may be wrong. Only of a body whose size is known a range can be had.
    pub fn stream(
        self,
        range: Option<Range<u64>>,
        piece: usize,
    ) -> BoxStream<'static, io::Result<Bytes>> {
        match self.source {
            Source::Stored(content) => {
                let range = range.unwrap_or(0..content.size());
                content.stream(range, piece).boxed()
            }
            Source::Filling(reader) => reader.stream(range, piece).boxed(),
            Source::Unstored(stream) => match range {
                Some(range) => within(stream, range).boxed(),
                None => stream,
            },
        }
    }
}

impl Cache {
    /// The blob, from the store or from the upstream while it is being fetched. Returns when its first bytes can be had
    /// or the upstream's answer is known. `None`: the upstream has no such blob. `expected` is its size as a manifest
    /// gives it.
    pub async fn blob(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        expected: Option<u64>,
    ) -> Result<Option<Body>, Error> {
        loop {
            let fill = self.join(name, digest, expected);
            let mut progress = fill.progress.clone();
            let state = match progress
                .wait_for(|state| !matches!(state, Progress::Asking))
                .await
            {
                Ok(state) => state.clone(),
                Err(_) => return Err(interrupted(name)),
            };
            let own = fill.name == *name;
            match state {
                Progress::Asking => {}
                Progress::Filling { size, bytes, .. } => {
                    let reader = Reader {
                        cache: self.clone(),
                        name: name.clone(),
                        digest: digest.clone(),
                        progress,
                        bytes,
                        offset: 0,
                        until: None,
                    };
                    return Ok(Some(Body {
                        size,
                        source: Source::Filling(reader),
                    }));
                }
                Progress::Complete { .. } => {
                    let (cache, digest) = (self.clone(), digest.clone());
                    if let Some(content) = blocking(move || cache.0.store.content(&digest)).await? {
                        return Ok(Some(Body::stored(content)));
                    }
                }
                Progress::NoRoom => return self.unstored(name, digest, None).await,
                // Another name's upstream said so; ours may know better.
                Progress::Absent | Progress::Failed(_) if !own => {}
                Progress::Absent => return Ok(None),
                Progress::Failed(error) => return Err(error),
            }
        }
    }

    /// Fetches the blob into the store without reading it. `false`: the upstream has none.
    pub async fn fill_blob(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        expected: u64,
    ) -> Result<bool, Error> {
        let mut progress = self.join(name, digest, Some(expected)).progress;
        let ended =
            |state: &Progress| !matches!(state, Progress::Asking | Progress::Filling { .. });
        let state = progress
            .wait_for(ended)
            .await
            .map_err(|_| interrupted(name))?
            .clone();
        match state {
            Progress::Complete { .. } => Ok(true),
            Progress::Failed(error) => Err(error),
            Progress::NoRoom => Err(UpstreamError::new(
                name.source(),
                Cause::Protocol("there is no room to keep it".to_owned()),
            )
            .into()),
            Progress::Absent | Progress::Asking | Progress::Filling { .. } => Ok(false),
        }
    }

    /// The download of `digest` that is under way, or a new one.
    fn join(&self, name: &CanonicalName, digest: &Digest, expected: Option<u64>) -> Fill {
        let mut fills = self.0.fills.lock();
        if let Some(fill) = fills.get(digest) {
            return fill.clone();
        }
        let (sender, progress) = watch::channel(Progress::Asking);
        let fill = Fill {
            name: name.clone(),
            progress,
        };
        fills.insert(digest.clone(), fill.clone());
        let running = Running {
            cache: self.clone(),
            digest: digest.clone(),
        };
        let (cache, name, digest) = (self.clone(), name.clone(), digest.clone());
        self.0.runtime.spawn(async move {
            let outcome = cache.download(&name, &digest, expected, &sender).await;
            if let Progress::Failed(error) = &outcome {
                log::warn!("{name}: fetching {digest} failed: {error}");
            }
            // First off the board, then the news: whoever comes later finds the blob in the store or asks anew.
            drop(running);
            sender.send_replace(outcome);
        });
        fill
    }

    async fn download(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        expected: Option<u64>,
        progress: &watch::Sender<Progress>,
    ) -> Progress {
        let prepared = {
            let (cache, digest) = (self.clone(), digest.clone());
            blocking(move || prepare(&cache.0.store, &digest, expected)).await
        };
        let staging = match prepared {
            Ok(Prepared::Staging(staging)) => *staging,
            Ok(Prepared::Here { size }) => return Progress::Complete { size },
            Ok(Prepared::NoRoom) => return Progress::NoRoom,
            Err(error) => return Progress::Failed(error.into()),
        };
        let remote = match self
            .0
            .upstreams
            .get_blob(name.source(), name.repository(), digest, 0)
            .await
        {
            Ok(Some(remote)) => remote,
            Ok(None) => return Progress::Absent,
            Err(error) => return Progress::Failed(error.into()),
        };
        let size = remote.size.or(expected);
        let reserved = blocking(move || {
            let reserved = size.map_or(Ok(()), |size| staging.reserve(size));
            (staging, reserved)
        });
        let staging = match reserved.await {
            (staging, Ok(())) => staging,
            (_, Err(error)) if error.is_no_room() => return Progress::NoRoom,
            (_, Err(error)) => return Progress::Failed(error.into()),
        };
        progress.send_replace(Progress::Filling {
            size,
            readable: 0,
            bytes: staging.reader(),
        });
        let body = bounded(remote.body, name.clone(), size);
        let received = receive(
            staging,
            body.boxed(),
            Batches::Eager,
            |staging: &Staging| {
                let written = staging.offset();
                progress.send_modify(|state| {
                    if let Progress::Filling { size, readable, .. } = state {
                        *readable =
                            size.map_or(written, |size| written.min(size.saturating_sub(1)));
                    }
                });
            },
        );
        let received = match received.await {
            Ok(received) => received,
            Err(Interrupted::Body { error, .. }) => return Progress::Failed(error.into()),
            Err(Interrupted::Sink { error, .. }) if error.is_no_room() => return Progress::NoRoom,
            Err(Interrupted::Sink { error, .. }) => return Progress::Failed(error.into()),
        };
        let (cache, canonical, wanted) = (self.clone(), name.clone(), digest.clone());
        let committed = blocking(move || {
            let mut staging = received.sink;
            staging.write(&received.tail)?;
            let size = staging.offset();
            match staging.verify(&wanted)? {
                Ok(blob) => cache.0.store.commit(blob)?,
                Err(found) => {
                    let cause = Cause::DigestMismatch { wanted, found };
                    return Err(Error::Upstream(UpstreamError::new(
                        canonical.source(),
                        cause,
                    )));
                }
            }
            if cache
                .0
                .store
                .membership(Namespace::Upstream, &canonical, &wanted)?
                .is_none()
            {
                let member = Member {
                    size,
                    media_type: None,
                };
                cache.0.store.add_member(
                    Namespace::Upstream,
                    &canonical,
                    &wanted,
                    &Reason::Pulled,
                    &member,
                )?;
            }
            Ok(size)
        });
        match committed.await {
            Ok(size) => Progress::Complete { size },
            Err(Error::Storage(error)) if error.is_no_room() => Progress::NoRoom,
            Err(error) => Progress::Failed(error),
        }
    }

    /// The upstream's own stream, kept nowhere. Behind `prefix`, which was delivered already, it goes on where that ends.
    async fn unstored(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        prefix: Option<(StagedBytes, u64)>,
    ) -> Result<Option<Body>, Error> {
        log::warn!(
            "{name}: no room to keep {digest} in the data directory, so it is passed on without a copy"
        );
        let (hasher, from) = match prefix {
            None => (Hasher::new(digest.algorithm()), 0),
            Some((bytes, length)) => {
                let hasher = Hasher::new(digest.algorithm());
                (
                    blocking(move || rehash(&bytes, length, hasher)).await?,
                    length,
                )
            }
        };
        let (cache, canonical, wanted) = (self.clone(), name.clone(), digest.clone());
        let remote = self
            .background(async move {
                cache
                    .0
                    .upstreams
                    .get_blob(canonical.source(), canonical.repository(), &wanted, from)
                    .await
            })
            .await?;
        let Some(remote) = remote else {
            return Ok(None);
        };
        let body = verified(remote.body, hasher, digest.clone());
        Ok(Some(Body {
            size: remote.size,
            source: Source::Unstored(body.boxed()),
        }))
    }
}

impl Fills {
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Fill>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a download off the board when it ends, however it ends.
struct Running {
    cache: Cache,
    digest: Digest,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cache.0.fills.lock().remove(&self.digest);
    }
}

enum Prepared {
    Staging(Box<Staging>),
    Here { size: u64 },
    NoRoom,
}

fn prepare(
    store: &Store,
    digest: &Digest,
    expected: Option<u64>,
) -> Result<Prepared, crate::storage::Error> {
    // It may have been committed between the request's own look and this task.
    if let Some(size) = store.stat(digest)? {
        return Ok(Prepared::Here { size });
    }
    if expected.is_some_and(|expected| store.free_space().is_ok_and(|free| free < expected)) {
        return Ok(Prepared::NoRoom);
    }
    match store.stage(digest.algorithm()) {
        Ok(staging) => Ok(Prepared::Staging(Box::new(staging))),
        Err(error) if error.is_no_room() => Ok(Prepared::NoRoom),
        Err(error) => Err(error),
    }
}

/// A client's place behind the download.
struct Reader {
    cache: Cache,
    name: CanonicalName,
    digest: Digest,
    progress: watch::Receiver<Progress>,
    bytes: StagedBytes,
    offset: u64,
    /// Where the range ends that is read; else the blob's end.
    until: Option<u64>,
}

impl Reader {
    fn stream(
        mut self,
        range: Option<Range<u64>>,
        piece: usize,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        if let Some(range) = range {
            self.offset = range.start;
            self.until = Some(range.end);
        }
        enum State {
            Behind(Reader),
            Alone(BoxStream<'static, io::Result<Bytes>>),
            Ended,
        }
        stream::unfold(State::Behind(self), move |mut state| async move {
            loop {
                state = match state {
                    State::Ended => return None,
                    State::Alone(mut rest) => {
                        let next = rest.next().await?;
                        return Some((next, State::Alone(rest)));
                    }
                    State::Behind(mut reader) => match reader.next(piece as u64).await {
                        Ok(Step::Bytes(bytes)) => return Some((Ok(bytes), State::Behind(reader))),
                        Ok(Step::End) => return None,
                        Ok(Step::GoOnAlone(rest)) => State::Alone(rest),
                        Err(error) => return Some((Err(error), State::Ended)),
                    },
                }
            }
        })
    }

    async fn next(&mut self, piece: u64) -> io::Result<Step> {
        loop {
            if self.until.is_some_and(|until| self.offset >= until) {
                return Ok(Step::End);
            }
            let readable = match &*self.progress.borrow_and_update() {
                Progress::Filling { readable, .. } => *readable,
                Progress::Complete { size } if self.offset == *size => return Ok(Step::End),
                Progress::Complete { size } => *size,
                Progress::NoRoom => 0,
                Progress::Failed(error) => return Err(io::Error::other(error.clone())),
                Progress::Asking | Progress::Absent => {
                    return Err(io::Error::other("the download went backwards"));
                }
            };
            let readable = readable.min(self.until.unwrap_or(u64::MAX));
            if readable > self.offset {
                let (bytes, offset) = (self.bytes.clone(), self.offset);
                let length = piece.min(readable - offset);
                let read = blocking(move || read_piece(&bytes, offset, length)).await?;
                self.offset += read.len() as u64;
                return Ok(Step::Bytes(read));
            }
            if matches!(&*self.progress.borrow(), Progress::NoRoom) {
                return Ok(Step::GoOnAlone(self.rest(piece).await?));
            }
            if self.progress.changed().await.is_err() {
                return Err(io::Error::other(interrupted(&self.name)));
            }
        }
    }

    /// What is still to be read, from the upstream itself.
    async fn rest(&self, piece: u64) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        // Only what was read from the start on can be verified together with the rest.
        let (prefix, range) = match self.until {
            None => (Some((self.bytes.clone(), self.offset)), None),
            Some(until) => (None, Some(self.offset..until)),
        };
        let rest = self.cache.unstored(&self.name, &self.digest, prefix).await;
        let rest = rest.map_err(io::Error::other)?;
        let rest = rest.ok_or_else(|| io::Error::other("the upstream has the blob no more"))?;
        Ok(rest.stream(range, usize::try_from(piece).unwrap_or(usize::MAX)))
    }
}

enum Step {
    Bytes(Bytes),
    GoOnAlone(BoxStream<'static, io::Result<Bytes>>),
    End,
}

fn read_piece(bytes: &StagedBytes, offset: u64, length: u64) -> io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    if bytes.read_at(offset, &mut buffer)? < buffer.len() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "staged bytes are gone",
        ));
    }
    Ok(buffer.into())
}

fn rehash(bytes: &StagedBytes, length: u64, mut hasher: Hasher) -> io::Result<Hasher> {
    const PIECE: u64 = 1 << 20;
    let mut offset = 0;
    while offset < length {
        let piece = read_piece(bytes, offset, PIECE.min(length - offset))?;
        hasher.update(&piece);
        offset += piece.len() as u64;
    }
    Ok(hasher)
}

/// The bytes `range` of `stream`.
fn within(
    stream: BoxStream<'static, io::Result<Bytes>>,
    range: Range<u64>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::unfold((stream, 0), move |(mut stream, mut offset)| {
        let Range { start, end } = range;
        async move {
            while offset < end {
                let mut piece = match stream.next().await? {
                    Ok(piece) => piece,
                    Err(error) => return Some((Err(error), (stream, end))),
                };
                let first = offset;
                offset += piece.len() as u64;
                let cut = |at: u64| usize::try_from(at.saturating_sub(first)).unwrap_or(usize::MAX);
                piece.truncate(cut(end));
                let skipped = cut(start).min(piece.len());
                if skipped < piece.len() {
                    return Some((Ok(piece.split_off(skipped)), (stream, offset)));
                }
            }
            None
        }
    })
}

/// `body`, broken off where it grows beyond `size`.
fn bounded(
    body: BoxStream<'static, Result<Bytes, UpstreamError>>,
    name: CanonicalName,
    size: Option<u64>,
) -> impl Stream<Item = Result<Bytes, UpstreamError>> + Send + 'static {
    let mut left = size;
    body.map(move |piece| {
        let piece = piece?;
        if let Some(left) = &mut left {
            *left = left.checked_sub(piece.len() as u64).ok_or_else(|| {
                UpstreamError::new(
                    name.source(),
                    Cause::Protocol("it sent more than the blob's size".to_owned()),
                )
            })?;
        }
        Ok(piece)
    })
}

/// `body`, one piece late: the last one leaves only if all of them hash to `digest`.
fn verified(
    body: BoxStream<'static, Result<Bytes, UpstreamError>>,
    hasher: Hasher,
    digest: Digest,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::unfold(Some((body, hasher, Bytes::new())), move |state| {
        let digest = digest.clone();
        async move {
            let (mut body, mut hasher, held) = state?;
            loop {
                match body.next().await {
                    Some(Ok(piece)) if piece.is_empty() => {}
                    Some(Ok(piece)) => {
                        hasher.update(&piece);
                        return Some((Ok(held), Some((body, hasher, piece))));
                    }
                    Some(Err(error)) => return Some((Err(io::Error::other(error)), None)),
                    None => {
                        let found = hasher.finish();
                        let last = if found == digest {
                            Ok(held)
                        } else {
                            Err(io::Error::other(format!(
                                "the upstream sent {found} instead of {digest}"
                            )))
                        };
                        return Some((last, None));
                    }
                }
            }
        }
    })
    // The first piece held back is the empty one before the body.
    .filter(|piece| std::future::ready(!matches!(piece, Ok(bytes) if bytes.is_empty())))
}

fn interrupted(name: &CanonicalName) -> Error {
    UpstreamError::new(
        name.source(),
        Cause::Protocol("the download was interrupted here".to_owned()),
    )
    .into()
}
