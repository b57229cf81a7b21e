//! What bytes are compressed by, as their first ones tell, and the bytes without that.

use std::io::{self, Cursor, Read};

/// How something in an archive is compressed, or the archive itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
    /// One that is not read here, by its name.
    Other(&'static str),
}

/// Bytes that tell what something is compressed by.
pub(super) const MAGIC: usize = 6;

impl Compression {
    /// By the first [`MAGIC`] bytes, or all there are.
    pub(super) fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            // A frame, or one that is to be skipped.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [b'B', b'Z', b'h', ..] => Self::Other("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Other("xz"),
            _ => Self::None,
        }
    }

    /// What it is, and all the bytes again.
    pub(super) fn sniff<R: Read>(mut content: R) -> io::Result<(Self, impl Read + use<R>)> {
        let mut head = Vec::with_capacity(MAGIC);
        content.by_ref().take(MAGIC as u64).read_to_end(&mut head)?;
        Ok((Self::of(&head), Cursor::new(head).chain(content)))
    }

    /// The bytes without it.
    pub(super) fn unpack<'a>(
        self,
        content: impl Read + Send + 'a,
    ) -> io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Self::None => Box::new(content),
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(content)),
            Self::Zstd => Box::new(zstd::stream::read::Decoder::new(content)?),
            Self::Other(name) => {
                let why =
                    format!("it is compressed by {name}, which is not read here: unpack it first");
                return Err(io::Error::new(io::ErrorKind::Unsupported, why));
            }
        })
    }
}

/// Reads no more than so many bytes: a small file may unpack to one that fills every disk.
pub(super) struct Bounded<R> {
    content: R,
    left: u64,
}

impl<R> Bounded<R> {
    pub(super) fn new(content: R) -> Self {
        Self {
            content,
            left: MOST_UNPACKED,
        }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            let why = format!("it unpacks to more than {} GiB", MOST_UNPACKED >> 30);
            io::Error::new(io::ErrorKind::InvalidData, why)
        })?;
        Ok(count)
    }
}

/// Far more than any layer has, and less than disks that jobs are given.
const MOST_UNPACKED: u64 = 64 << 30;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn unpacked(bytes: &[u8]) -> (Compression, Vec<u8>) {
        let (found, content) = Compression::sniff(bytes).unwrap();
        let mut all = Vec::new();
        found
            .unpack(content)
            .unwrap()
            .read_to_end(&mut all)
            .unwrap();
        (found, all)
    }

    #[test]
    fn what_is_compressed_is_told_by_its_first_bytes() {
        let text = b"a layer".repeat(1000);
        let gzip = |text: &[u8]| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(text).unwrap();
            gzip.finish().unwrap()
        };
        let halves = [gzip(&text[..3000]), gzip(&text[3000..])].concat();
        let zstd = zstd::stream::encode_all(&text[..], 1).unwrap();
        assert_eq!(unpacked(&text), (Compression::None, text.clone()));
        assert_eq!(unpacked(&gzip(&text)), (Compression::Gzip, text.clone()));
        assert_eq!(unpacked(&halves), (Compression::Gzip, text.clone()));
        assert_eq!(unpacked(&zstd), (Compression::Zstd, text.clone()));
        for short in [&b""[..], b"\x1f", b"BZ"] {
            assert_eq!(unpacked(short), (Compression::None, short.to_vec()));
        }
        for (bytes, name) in [(&b"BZh91AY"[..], "bzip2"), (b"\xfd7zXZ\0\0", "xz")] {
            let (found, content) = Compression::sniff(bytes).unwrap();
            let refused = found.unpack(content).err().unwrap().to_string();
            assert!(refused.contains(name), "{refused}");
        }
    }

    #[test]
    fn what_unpacks_without_end_ends() {
        let mut bounded = Bounded {
            content: io::repeat(0),
            left: 1 << 20,
        };
        let refused = io::copy(&mut bounded, &mut io::sink()).unwrap_err();
        assert!(refused.to_string().contains("unpacks to more"), "{refused}");
    }
}
