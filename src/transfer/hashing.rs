//! Bytes that are hashed and counted as they pass, in either direction.

use std::io::{self, Read, Write};

use crate::types::{Algorithm, Digest, digest::Hasher};

/// Reads or writes, and knows the SHA-256 of what has passed.
pub(super) struct Hashing<T> {
    inner: T,
    hasher: Hasher,
    passed: u64,
}

impl<T> Hashing<T> {
    pub(super) fn new(inner: T) -> Self {
        Self {
            inner,
            hasher: Hasher::new(Algorithm::Sha256),
            passed: 0,
        }
    }

    /// What it wrapped, the digest, and how many bytes.
    pub(super) fn finish(self) -> (T, Digest, u64) {
        (self.inner, self.hasher.finish(), self.passed)
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.passed += bytes.len() as u64;
    }
}

impl<R: Read> Hashing<R> {
    /// Reads all that is left.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.pass(&buffer[..count]);
        Ok(count)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.pass(&buffer[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
