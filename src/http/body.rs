//! Bodies: what comes in, with a limit on silence and on size, and how large the pieces are that go out.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use actix_web::{error::PayloadError, web};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};

/// A client that sends nothing for so long has gone.
const SILENCE: Duration = Duration::from_secs(60);

/// A request's body, which ends with an error when the client falls silent.
pub(super) fn incoming(payload: web::Payload) -> impl Stream<Item = Result<Bytes, Broken>> + Unpin {
    Box::pin(stream::unfold(Some(payload), |payload| async move {
        let mut payload = payload?;
        match tokio::time::timeout(SILENCE, payload.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(bytes))) => Some((Ok(bytes), Some(payload))),
            Ok(Some(Err(error))) => Some((Err(Broken::Connection(error)), None)),
            Err(_) => Some((Err(Broken::Silent), None)),
        }
    }))
}

/// All of a body, or `None` if it is larger than `limit`.
pub(super) async fn whole(payload: web::Payload, limit: usize) -> Result<Option<Bytes>, Broken> {
    let mut body = incoming(payload);
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece = piece?;
        if bytes.len() + piece.len() > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(bytes.freeze()))
}

/// Why a body did not come whole.
#[derive(Debug)]
pub(super) enum Broken {
    Connection(PayloadError),
    Silent,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(PayloadError::Incomplete(_)) => {
                f.write_str("the client closed the connection")
            }
            Self::Connection(error) => error.fmt(f),
            Self::Silent => write!(f, "nothing came for {} seconds", SILENCE.as_secs()),
        }
    }
}

/// Downloads under way, all workers together: the more there are, the smaller the pieces, so that memory grows with their number
/// and no faster.
#[derive(Clone, Default)]
pub struct Downloads(Arc<AtomicUsize>);

impl Downloads {
    /// The size of pieces for one more download, and its place among the others.
    pub(super) fn enter(&self, tls: bool) -> (usize, Place) {
        const FEW: usize = 16;
        const MANY: usize = 128;
        let others = self.0.fetch_add(1, Ordering::Relaxed);
        // TLS splits pieces into records and copies each: larger ones only cost cache misses.
        let largest = if tls { 256 << 10 } else { 1 << 20 };
        let piece = match others {
            _ if others < FEW => largest,
            _ if others < MANY => largest / 4,
            _ => largest / 16,
        };
        (piece, Place(self.clone()))
    }
}

/// A download's place among those under way, until it is dropped.
pub(super) struct Place(Downloads);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
