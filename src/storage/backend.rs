//! What a place to keep bytes must be able to do. Private to storage: everyone else speaks to `Store`.
//!
//! Every call blocks; `Store`'s callers run it off the async workers. There is no rename and no append here: an object
//! store has neither. Bytes are written as *parts* nobody can see, and `publish` turns parts into content at once.

use std::{fs::File, io, sync::Arc, time::SystemTime};

use super::layout::Key;
use crate::types::{Digest, UploadId};

pub(super) trait Backend: Send + Sync + 'static {
    /// The whole record at `key`, or `None`.
    fn read(&self, key: &Key) -> io::Result<Option<Vec<u8>>>;

    /// Writes the whole record at `key`; a reader sees the old one or the new one, never a part.
    fn write(&self, key: &Key, bytes: &[u8]) -> io::Result<()>;

    /// What is at `key` already, perhaps since a moment ago and by another's hand, is made to last as long as what `write` and
    /// `publish` put there.
    fn harden(&self, key: &Key) -> io::Result<()>;

    /// Whether there was a record at `key`, which is gone now.
    fn delete(&self, key: &Key) -> io::Result<bool>;

    /// What is at `key`, if anything, counts as written now.
    fn touch(&self, key: &Key) -> io::Result<()>;

    /// When what is at `key` was written or touched, or `None`.
    fn written(&self, key: &Key) -> io::Result<Option<SystemTime>>;

    /// Nothing is below `prefix` any more, as far as the caller knows: whatever an empty one costs is given back. Never
    /// fails; what comes below it at the same moment stays.
    fn tidy(&self, prefix: &Key);

    /// Names directly below `prefix`, in no order.
    fn list(&self, prefix: &Key) -> io::Result<Vec<String>>;

    /// Whether `accept` takes a name directly below `prefix`. None is read behind the first one taken.
    fn any(&self, prefix: &Key, accept: &mut dyn FnMut(&str) -> bool) -> io::Result<bool> {
        Ok(self.list(prefix)?.iter().any(|name| accept(name)))
    }

    /// Tells of everything below `prefix`, or at it, in no order.
    fn walk(&self, prefix: &Key, found: &mut dyn FnMut(Key, Leaf));

    /// Moves what is at `from`, whatever it is, to `to`, where nothing is yet. Whether there was anything.
    fn set_aside(&self, from: &Key, to: &Key) -> io::Result<bool>;

    /// A private place for bytes of the session `id`, empty.
    fn create_part(&self, id: UploadId) -> io::Result<Arc<dyn PartFile>>;

    /// Frees what `create_part` made, published or not. Never fails: a leftover is swept at the next start.
    fn discard(&self, id: UploadId);

    /// A file that has no name, gone once it is closed.
    fn scratch(&self) -> io::Result<File>;

    /// Makes the bytes of `parts`, one behind the other, visible as `digest`: wholly, at once, and for good. Content that is
    /// there already under that digest is a success.
    fn publish(&self, digest: &Digest, parts: &[Part]) -> io::Result<()>;

    /// Whether there was such content, which is gone now, but for whoever has it open.
    fn remove(&self, digest: &Digest) -> io::Result<bool>;

    /// Size of the content, or `None`.
    fn stat(&self, digest: &Digest) -> io::Result<Option<u64>>;

    /// Opens the content for reading, or `None`. What was opened stays readable whatever happens to the key.
    fn open(&self, digest: &Digest) -> io::Result<Option<(Arc<dyn ReadAt>, u64)>>;

    /// Bytes that can still be written, as far as the place can tell.
    fn free_space(&self) -> io::Result<u64>;
}

/// What a walk ends at.
#[derive(Debug)]
pub(super) enum Leaf {
    /// A record or content, as far as its place tells; of so many bytes.
    File(u64),
    /// A directory with nothing in it.
    Hollow,
    /// It can't be looked at, or into.
    Closed(io::Error),
}

/// `length` bytes from the start of a part.
pub(super) struct Part {
    pub(super) id: UploadId,
    pub(super) file: Arc<dyn PartFile>,
    pub(super) length: u64,
}

/// Positional reads; short only at the end.
pub(super) trait ReadAt: Send + Sync {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

/// A part while it grows. Readable behind what was written.
pub(super) trait PartFile: ReadAt {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Asks for room up to `length` bytes, so that a lack of it shows before the bytes come. Changes nothing that can be read.
    fn reserve(&self, length: u64) -> io::Result<()>;

    /// Cuts the part off behind `length`, and gives back the room behind it.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Bytes have reached the medium when this returns.
    fn sync(&self) -> io::Result<()>;

    fn as_read(self: Arc<Self>) -> Arc<dyn ReadAt>;
}
