//! Reading what is visible: positional, with one piece read ahead.

use std::{io, ops::Range, sync::Arc};

use bytes::Bytes;
use futures_util::{Stream, stream};

use super::{Pin, backend::ReadAt, joined};

/// Open content. Stays readable whatever happens to its key.
#[derive(Clone)]
pub struct Content {
    file: Arc<dyn ReadAt>,
    size: u64,
    pin: Arc<Pin>,
}

impl Content {
    pub(super) fn new(file: Arc<dyn ReadAt>, size: u64, pin: Pin) -> Self {
        Self {
            file,
            size,
            pin: Arc::new(pin),
        }
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// All of it. Blocks. For manifests and configs; blobs are streamed.
    pub fn read(&self) -> io::Result<Bytes> {
        read_piece(&*self.file, 0, self.size)
    }

    /// Fills `buffer` from `offset`; short only at the end. Blocks.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }

    /// The bytes `range` in pieces of `piece` bytes; while one is being sent, the next is read.
    pub fn stream(
        self,
        range: Range<u64>,
        piece: usize,
    ) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let piece = piece.max(1) as u64;
        let end = range.end.min(self.size);
        let Self { file, pin, .. } = self;
        let read = move |offset: u64| {
            let file = Arc::clone(&file);
            let length = piece.min(end - offset);
            tokio::task::spawn_blocking(move || read_piece(&*file, offset, length))
        };
        stream::unfold((range.start, None), move |(offset, ahead)| {
            let read = read.clone();
            // Held by the stream, for as long as that lives.
            let _pin = &pin;
            async move {
                if offset >= end {
                    return None;
                }
                let current = ahead.unwrap_or_else(|| read(offset));
                let bytes = match joined(current.await).await {
                    Ok(bytes) => bytes,
                    Err(error) => return Some((Err(error), (end, None))),
                };
                let next = offset + bytes.len() as u64;
                let ahead = (next < end).then(|| read(next));
                Some((Ok(bytes), (next, ahead)))
            }
        })
    }
}

fn read_piece(file: &dyn ReadAt, offset: u64, length: u64) -> io::Result<Bytes> {
    let length = usize::try_from(length).map_err(io::Error::other)?;
    let mut buffer = vec![0; length];
    if file.read_at(offset, &mut buffer)? < length {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "content in the data directory was cut short",
        ));
    }
    Ok(buffer.into())
}
