//! Receiving a body: hashing and writing overlap with the network, one pass over the bytes, bounded memory.

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::task::JoinHandle;

use super::{Chunk, Error, Staging};

/// Gathered bytes go to the sink in pieces of about this size: large enough that hopping to a blocking thread costs
/// little, small enough that a thousand uploads fit in memory.
const BATCH: usize = 1 << 20;

/// Something that takes bytes in order, blocking.
pub trait Sink: Send + 'static {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error>;
}

impl Sink for Staging {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        Self::write(self, bytes)
    }
}

impl Sink for Chunk {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        Self::write(self, bytes)
    }
}

/// When gathered bytes go to the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batches {
    /// When a batch is full: fewest hops.
    Full,
    /// As soon as the sink is free, since somebody waits to read them.
    Eager,
}

/// A body that came to its end.
pub struct Received<S> {
    pub sink: S,
    /// Bytes not given to the sink yet: writing them belongs into the blocking step that also ends the upload.
    pub tail: Vec<u8>,
}

/// Why a body was not received whole. A sink that is dropped goes back to where it was, or is freed.
pub enum Interrupted<S, E> {
    /// The body broke off; everything that came before is in the sink.
    Body { sink: S, error: E },
    /// The sink refused bytes.
    Sink { sink: S, error: Error },
}

/// Gathers `body` and hands it to `sink` on a blocking thread while the next batch is gathered: two batches are held
/// at most. `written` is called after each batch.
///
/// When the returned future is dropped, a write under way still ends, and only then the sink is dropped.
pub async fn receive<S, B, E>(
    sink: S,
    mut body: B,
    batches: Batches,
    mut written: impl FnMut(&S),
) -> Result<Received<S>, Interrupted<S, E>>
where
    S: Sink,
    B: Stream<Item = Result<Bytes, E>> + Unpin,
{
    let mut idle = Some(sink);
    let mut busy = None;
    let mut gathered = Vec::new();
    let mut spare = Vec::new();
    let broken = loop {
        let due = gathered.len() >= BATCH || (batches == Batches::Eager && !gathered.is_empty());
        if due && let Some(sink) = idle.take() {
            busy = Some(write(
                sink,
                std::mem::replace(&mut gathered, std::mem::take(&mut spare)),
            ));
        }
        tokio::select! {
            biased;
            next = body.next(), if gathered.len() < BATCH => match next {
                Some(Ok(bytes)) => gathered.extend_from_slice(&bytes),
                Some(Err(error)) => break Some(error),
                None => break None,
            },
            (sink, buffer, result) = ended(&mut busy), if busy.is_some() => {
                if let Err(error) = result {
                    return Err(Interrupted::Sink { sink, error });
                }
                written(&sink);
                idle = Some(sink);
                spare = buffer;
            }
        }
    };
    let sink = match idle {
        Some(sink) => sink,
        None => {
            let (sink, _, result) = ended(&mut busy).await;
            if let Err(error) = result {
                return Err(Interrupted::Sink { sink, error });
            }
            written(&sink);
            sink
        }
    };
    let Some(error) = broken else {
        return Ok(Received {
            sink,
            tail: gathered,
        });
    };
    // A caller that goes on where the body broke off must find all of it in the sink.
    let (sink, _, result) = ended(&mut Some(write(sink, gathered))).await;
    if let Err(error) = result {
        return Err(Interrupted::Sink { sink, error });
    }
    written(&sink);
    Err(Interrupted::Body { sink, error })
}

/// A write on a blocking thread, which owns the sink until it has ended.
type Write<S> = JoinHandle<(S, Vec<u8>, Result<(), Error>)>;

fn write<S: Sink>(mut sink: S, mut buffer: Vec<u8>) -> Write<S> {
    tokio::task::spawn_blocking(move || {
        let result = sink.write(&buffer);
        buffer.clear();
        (sink, buffer, result)
    })
}

/// Waits for the write, if there is one, and takes it. Safe to drop and call again.
async fn ended<S>(write: &mut Option<Write<S>>) -> (S, Vec<u8>, Result<(), Error>) {
    let Some(task) = write else {
        return std::future::pending().await;
    };
    let joined = task.await;
    *write = None;
    super::joined(joined).await
}
