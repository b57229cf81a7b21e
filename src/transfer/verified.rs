//! Bytes on their way, held against the digest and the size that something else gave them.

use std::{
    fmt,
    io::{self, Read},
};

use crate::types::{Descriptor, Digest, digest::Hasher};

/// Reads content that is what its descriptor says, or fails: whoever has read to the end has exactly that, and whoever
/// has not lacks the last bytes of what is wrong.
pub struct Verified<'a, R> {
    content: R,
    expected: &'a Descriptor,
    hasher: Hasher,
    passed: u64,
}

impl<'a, R: Read> Verified<'a, R> {
    pub fn new(content: R, expected: &'a Descriptor) -> Self {
        Self {
            content,
            expected,
            hasher: Hasher::new(expected.digest.algorithm()),
            passed: 0,
        }
    }

    /// Whether there is nothing behind the last byte, and all before it is right.
    fn check_end(&mut self) -> Result<(), io::Error> {
        let mut beyond = [0];
        if read(&mut self.content, &mut beyond)? > 0 {
            return Err(Mismatch::Longer(self.expected.size).into());
        }
        let found = self.hasher.clone().finish();
        if found == self.expected.digest {
            return Ok(());
        }
        let wanted = self.expected.digest.clone();
        Err(Mismatch::Digest { wanted, found }.into())
    }
}

impl<R: Read> Read for Verified<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.expected.size;
        if buffer.is_empty() || (self.passed == size && size > 0) {
            return Ok(0);
        }
        let left = usize::try_from(size - self.passed).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        let count = read(&mut self.content, &mut buffer[..most])?;
        if count == 0 && self.passed < size {
            let found = self.passed;
            return Err(Mismatch::Shorter { found, size }.into());
        }
        self.hasher.update(&buffer[..count]);
        self.passed += count as u64;
        if self.passed == size {
            self.check_end()?;
        }
        Ok(count)
    }
}

fn read(content: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match content.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The bytes are not those that were named. In an [`io::Error`] of kind `InvalidData`.
#[derive(Debug)]
enum Mismatch {
    Shorter { found: u64, size: u64 },
    Longer(u64),
    Digest { wanted: Digest, found: Digest },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shorter { found, size } => {
                write!(f, "it ends after {found} bytes, and should have {size}")
            }
            Self::Longer(size) => {
                write!(f, "it has more than the {size} bytes that it should have")
            }
            Self::Digest { wanted, found } => {
                write!(
                    f,
                    "its bytes have the digest {found}, and should have {wanted}"
                )
            }
        }
    }
}

impl std::error::Error for Mismatch {}

impl From<Mismatch> for io::Error {
    fn from(mismatch: Mismatch) -> Self {
        Self::new(io::ErrorKind::InvalidData, mismatch)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::{Algorithm, Role};

    fn descriptor(bytes: &[u8], size: u64) -> Descriptor {
        Descriptor {
            digest: Digest::of(Algorithm::Sha256, bytes),
            size,
            media_type: None,
            role: Role::Blob,
        }
    }

    fn told(content: &[u8], expected: &Descriptor) -> (Vec<u8>, Option<String>) {
        let mut out = Vec::new();
        let error = Verified::new(content, expected).read_to_end(&mut out).err();
        (out, error.map(|error| error.to_string()))
    }

    #[test]
    fn right_content_passes_whole() {
        for content in [&b""[..], b"a", &[7; 100_000]] {
            let expected = descriptor(content, content.len() as u64);
            assert_eq!(told(content, &expected), (content.to_vec(), None));
        }
    }

    #[test]
    fn wrong_content_never_passes_whole() {
        for (content, expected, fragment) in [
            (&b"abcd"[..], descriptor(b"abcd", 5), "ends after 4 bytes"),
            (b"abcd", descriptor(b"abcd", 3), "more than the 3 bytes"),
            (
                b"abcd",
                descriptor(b"abce", 4),
                "have the digest sha256:88d4",
            ),
            (b"a", descriptor(b"", 0), "more than the 0 bytes"),
            (b"", descriptor(b"a", 0), "have the digest sha256:e3b0"),
            (b"", descriptor(b"a", 1), "ends after 0 bytes"),
        ] {
            let (passed, error) = told(content, &expected);
            let error = error.unwrap();
            assert!(error.contains(fragment), "{error}");
            assert!((passed.len() as u64) < expected.size.max(1), "{passed:?}");
        }
    }
}
