//! A blob on its way to one client: from the store, behind the download, or past a store that takes no more.
//!
//! Nothing in here asks for anything on its own, except where the store gave out and a client has to be brought to its end.

use std::{io, ops::Range, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream, stream::BoxStream};
use tokio::sync::watch;

use super::{
    Cache, Error, UpstreamError,
    fill::{Progress, interrupted},
};
use crate::{
    storage::{Content, StagedBytes, blocking},
    types::{CanonicalName, Digest, Hasher},
};

/// A blob's bytes on their way to a client.
pub struct Body {
    pub(super) size: Option<u64>,
    pub(super) source: Source,
}

pub(super) enum Source {
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

    /// Returns when byte `at` can be read, or after `patience`. An error means that it can't be had.
    pub async fn await_byte(&mut self, at: u64, patience: Duration) -> Result<(), Error> {
        let Source::Filling(reader) = &mut self.source else {
            return Ok(());
        };
        let known = reader.progress.wait_for(|progress| match progress {
            Progress::Asking => false,
            Progress::Filling { readable, .. } => *readable > at,
            Progress::Complete { .. }
            | Progress::Absent
            | Progress::NoRoom
            | Progress::Failed(_) => true,
        });
        match tokio::time::timeout(patience, known).await {
            Ok(Ok(progress)) => match &*progress {
                Progress::Failed(error) => Err(error.clone()),
                _ => Ok(()),
            },
            Ok(Err(_)) => Err(interrupted(&reader.name)),
            Err(_) => Ok(()),
        }
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

/// A client's place behind the download.
pub(super) struct Reader {
    pub(super) cache: Cache,
    pub(super) name: CanonicalName,
    pub(super) digest: Digest,
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) bytes: StagedBytes,
    pub(super) offset: u64,
    /// Where the range ends that is read; else the blob's end.
    pub(super) until: Option<u64>,
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

pub(super) fn rehash(bytes: &StagedBytes, length: u64, mut hasher: Hasher) -> io::Result<Hasher> {
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

/// `body`, one piece late: the last one leaves only if all of them hash to `digest`.
pub(super) fn verified(
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
