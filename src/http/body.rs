//! Bodies: what comes in, with a limit on silence and on size, and how large the pieces are that go out.

use std::{
    cell::RefCell,
    fmt,
    future::poll_fn,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use actix_web::{error::PayloadError, web};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};

use crate::metrics::Metrics;

/// A request's body. Whoever answers without having read all of it reads past the rest, so that the connection lives on.
#[derive(Clone)]
pub(super) struct Incoming {
    /// Absent once it has ended.
    payload: Rc<RefCell<Option<web::Payload>>>,
    silence: Duration,
    metrics: Arc<Metrics>,
}

impl Incoming {
    /// A client that sends nothing for as long as `silence` has gone.
    pub(super) fn new(payload: web::Payload, silence: Duration, metrics: &Arc<Metrics>) -> Self {
        Self {
            payload: Rc::new(RefCell::new(Some(payload))),
            silence,
            metrics: Arc::clone(metrics),
        }
    }

    /// The body from where it was last read; it ends with an error when the client falls silent.
    pub(super) fn stream(&self) -> impl Stream<Item = Result<Bytes, Broken>> + Unpin + use<> {
        Box::pin(stream::unfold(Some(self.clone()), |body| async move {
            let body = body?;
            let next = poll_fn(|cx| match &mut *body.payload.borrow_mut() {
                Some(payload) => payload.poll_next_unpin(cx),
                None => Poll::Ready(None),
            });
            let broken = match tokio::time::timeout(body.silence, next).await {
                Ok(Some(Ok(bytes))) => {
                    body.metrics.received(bytes.len());
                    return Some((Ok(bytes), Some(body)));
                }
                Ok(None) => None,
                Ok(Some(Err(error))) => Some(Broken::Connection(error)),
                Err(_) => Some(Broken::Silent(body.silence)),
            };
            body.payload.borrow_mut().take();
            broken.map(|broken| (Err(broken), None))
        }))
    }

    /// Reads past what is left, unless that takes long: a client with gigabytes to go is better cut off.
    pub(super) async fn drain(&self) {
        const PATIENCE: Duration = Duration::from_secs(5);
        let mut rest = self.stream();
        let drained = async { while let Some(Ok(_)) = rest.next().await {} };
        // Where it takes too long, actix closes the connection behind the answer.
        let _ = tokio::time::timeout(PATIENCE, drained).await;
    }
}

/// All of a body, or `None` if it is larger than `limit`.
pub(super) async fn whole(
    mut body: impl Stream<Item = Result<Bytes, Broken>> + Unpin,
    limit: usize,
) -> Result<Option<Bytes>, Broken> {
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
    /// For so long.
    Silent(Duration),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(PayloadError::Incomplete(_)) => {
                f.write_str("the client closed the connection")
            }
            Self::Connection(error) => error.fmt(f),
            Self::Silent(silence) => write!(f, "nothing came for {silence:?}"),
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
