//! Bodies under suspicion: a silent one is cut, a short one is no end, a long one is an error.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use reqwest::Response;
use tokio::time::timeout;

use super::{Cause, limits::Permit};

/// What is known of a body beforehand.
pub(super) struct Expected {
    /// Bytes that are known already and read past.
    pub(super) skip: u64,
    /// Bytes behind those.
    pub(super) length: Option<u64>,
    /// A body may fall silent for so long.
    pub(super) silence: Duration,
}

/// The body behind what is skipped. An error is the last item; `permit` is held until then.
pub(super) fn stream(
    response: Response,
    expected: Expected,
    permit: Permit,
) -> BoxStream<'static, Result<Bytes, Cause>> {
    let pieces = response
        .bytes_stream()
        .map(|piece| piece.map_err(|error| Cause::of_body(&error)));
    let watched = Watched {
        pieces: pieces.boxed(),
        expected,
        sent: 0,
        _permit: permit,
    };
    stream::unfold(Some(watched), |watched| async move {
        let mut watched = watched?;
        match watched.next().await? {
            Ok(piece) => Some((Ok(piece), Some(watched))),
            Err(cause) => Some((Err(cause), None)),
        }
    })
    .boxed()
}

/// All of a body of at most `limit` bytes.
pub(super) async fn whole(
    mut body: impl Stream<Item = Result<Bytes, Cause>> + Unpin,
    length: Option<u64>,
    limit: usize,
) -> Result<Bytes, Cause> {
    let too_large = || Cause::Protocol(format!("its answer is larger than {limit} bytes"));
    if length.is_some_and(|length| length > limit as u64) {
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece = piece?;
        if whole.len() + piece.len() > limit {
            return Err(too_large());
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

struct Watched {
    pieces: BoxStream<'static, Result<Bytes, Cause>>,
    expected: Expected,
    /// Bytes passed on.
    sent: u64,
    _permit: Permit,
}

impl Watched {
    async fn next(&mut self) -> Option<Result<Bytes, Cause>> {
        loop {
            let Ok(next) = timeout(self.expected.silence, self.pieces.next()).await else {
                return Some(Err(Cause::Cut(format!(
                    "it sent nothing for {} seconds",
                    self.expected.silence.as_secs_f64().round()
                ))));
            };
            let mut piece = match next {
                Some(Ok(piece)) => piece,
                Some(Err(cause)) => return Some(Err(cause)),
                None => return self.end().map(Err),
            };
            let Expected { skip, length, .. } = &mut self.expected;
            let dropped = usize::try_from(*skip)
                .unwrap_or(usize::MAX)
                .min(piece.len());
            *skip -= dropped as u64;
            let piece = piece.split_off(dropped);
            if piece.is_empty() {
                continue;
            }
            self.sent += piece.len() as u64;
            if length.is_some_and(|length| self.sent > length) {
                let why = "it sent more than it said it would".to_owned();
                return Some(Err(Cause::Protocol(why)));
            }
            return Some(Ok(piece));
        }
    }

    /// What is wrong with ending here.
    fn end(&self) -> Option<Cause> {
        let missing = self.expected.length.map_or(0, |length| length - self.sent);
        match self.expected.skip + missing {
            0 => None,
            missing => Some(Cause::Cut(format!("it ended {missing} bytes early"))),
        }
    }
}
