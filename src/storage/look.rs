//! A backend that reads what another process may be writing, and changes nothing.

use std::{fs::File, io, sync::Arc, time::SystemTime};

use super::{
    backend::{Backend, Leaf, Part, PartFile, ReadAt},
    fs::Fs,
    layout::Key,
};
use crate::types::{Digest, UploadId};

/// Refuses all that would change something, as a read-only medium does.
pub(super) struct ReadOnly(pub(super) Fs);

fn refused<T>() -> io::Result<T> {
    Err(io::ErrorKind::ReadOnlyFilesystem.into())
}

impl Backend for ReadOnly {
    fn read(&self, key: &Key) -> io::Result<Option<Vec<u8>>> {
        self.0.read(key)
    }

    fn write(&self, _: &Key, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn harden(&self, _: &Key) -> io::Result<()> {
        refused()
    }

    fn delete(&self, _: &Key) -> io::Result<bool> {
        refused()
    }

    fn touch(&self, _: &Key) -> io::Result<()> {
        refused()
    }

    fn written(&self, key: &Key) -> io::Result<Option<SystemTime>> {
        self.0.written(key)
    }

    fn tidy(&self, _: &Key) {}

    fn list(&self, prefix: &Key) -> io::Result<Vec<String>> {
        self.0.list(prefix)
    }

    fn any(&self, prefix: &Key, accept: &mut dyn FnMut(&str) -> bool) -> io::Result<bool> {
        self.0.any(prefix, accept)
    }

    fn walk(&self, prefix: &Key, found: &mut dyn FnMut(Key, Leaf)) {
        self.0.walk(prefix, found);
    }

    fn set_aside(&self, _: &Key, _: &Key) -> io::Result<bool> {
        refused()
    }

    fn create_part(&self, _: UploadId) -> io::Result<Arc<dyn PartFile>> {
        refused()
    }

    fn discard(&self, _: UploadId) {}

    fn scratch(&self) -> io::Result<File> {
        refused()
    }

    fn publish(&self, _: &Digest, _: &[Part]) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _: &Digest) -> io::Result<bool> {
        refused()
    }

    fn stat(&self, digest: &Digest) -> io::Result<Option<u64>> {
        self.0.stat(digest)
    }

    fn open(&self, digest: &Digest) -> io::Result<Option<(Arc<dyn ReadAt>, u64)>> {
        self.0.open(digest)
    }

    fn free_space(&self) -> io::Result<u64> {
        self.0.free_space()
    }
}
