//! Gzip that depends on its input alone: the same bytes are compressed to the same bytes, on any machine and by any number
//! of threads. That makes a layer's digest, so that an image that is seeded twice is the same image.
//!
//! The input is cut into pieces that know nothing of each other. Each becomes a run of deflate blocks that ends on a whole
//! byte, and one behind the other they are one stream, of one gzip member.
//!
//! <https://www.rfc-editor.org/rfc/rfc1952>

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use flate2::{Compress, Compression, Crc, FlushCompress};

/// Threads that compress pieces, for as long as this lives.
pub(super) struct Compressor {
    pieces: Option<mpsc::Sender<Piece>>,
    threads: Vec<thread::JoinHandle<()>>,
}

struct Piece {
    bytes: Vec<u8>,
    packed: mpsc::SyncSender<Vec<u8>>,
}

/// Which side could not go on.
#[derive(Debug)]
pub(super) enum Fault {
    Read(io::Error),
    Write(io::Error),
}

impl Compressor {
    pub(super) fn new(threads: NonZeroUsize) -> io::Result<Self> {
        let (sender, pieces) = mpsc::channel::<Piece>();
        let pieces = Arc::new(Mutex::new(pieces));
        let mut all = Vec::new();
        for _ in 0..threads.get() {
            let pieces = Arc::clone(&pieces);
            let work = move || {
                let mut deflate = Compress::new(Compression::fast(), false);
                loop {
                    let next = pieces.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(Piece { bytes, packed }) = next else {
                        break;
                    };
                    // Whoever wanted it may have given up.
                    let _ = packed.send(deflated(&mut deflate, &bytes));
                }
            };
            let named = thread::Builder::new().name("standin-gzip".to_owned());
            all.push(named.spawn(work)?);
        }
        Ok(Self {
            pieces: Some(sender),
            threads: all,
        })
    }

    /// Compresses all of `content`. Several may do so at once.
    pub(super) fn gzip(&self, mut content: impl Read, out: &mut impl Write) -> Result<(), Fault> {
        let mut crc = Crc::new();
        let mut pending = VecDeque::new();
        out.write_all(&HEADER).map_err(Fault::Write)?;
        loop {
            let mut bytes = Vec::with_capacity(PIECE);
            let read = content.by_ref().take(PIECE as u64).read_to_end(&mut bytes);
            if read.map_err(Fault::Read)? == 0 {
                break;
            }
            crc.update(&bytes);
            let (packed, receiver) = mpsc::sync_channel(1);
            if let Some(pieces) = &self.pieces {
                let sent = pieces.send(Piece { bytes, packed });
                sent.map_err(|_| Fault::Write(io::ErrorKind::BrokenPipe.into()))?;
            }
            pending.push_back(receiver);
            if pending.len() >= AHEAD {
                write_next(&mut pending, out)?;
            }
        }
        while !pending.is_empty() {
            write_next(&mut pending, out)?;
        }
        let mut end = LAST_BLOCK.to_vec();
        end.extend_from_slice(&crc.sum().to_le_bytes());
        end.extend_from_slice(&crc.amount().to_le_bytes());
        out.write_all(&end).map_err(Fault::Write)
    }
}

impl Drop for Compressor {
    fn drop(&mut self) {
        self.pieces = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn write_next(
    pending: &mut VecDeque<mpsc::Receiver<Vec<u8>>>,
    out: &mut impl Write,
) -> Result<(), Fault> {
    let Some(next) = pending.pop_front() else {
        return Ok(());
    };
    let packed = next
        .recv()
        .map_err(|_| Fault::Write(io::ErrorKind::BrokenPipe.into()))?;
    out.write_all(&packed).map_err(Fault::Write)
}

/// Blocks that end on a whole byte, none of them the last.
fn deflated(deflate: &mut Compress, bytes: &[u8]) -> Vec<u8> {
    deflate.reset();
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 64 + 1024);
    loop {
        let done = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
        let rest = bytes.get(done..).unwrap_or_default();
        // It can fail only where it was made for another use.
        let _ = deflate.compress_vec(rest, &mut out, FlushCompress::Sync);
        if out.len() < out.capacity() && deflate.total_in() == bytes.len() as u64 {
            return out;
        }
        out.reserve(64 << 10);
    }
}

/// No name, no time, no operating system: nothing but what was compressed.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 0xff];
/// An empty one.
const LAST_BLOCK: [u8; 2] = [3, 0];
const PIECE: usize = 512 << 10;
/// Pieces on their way for one content: enough that a lone one has all threads of a usual machine busy.
const AHEAD: usize = 8;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use flate2::read::GzDecoder;

    use super::*;
    use crate::types::{Algorithm, Digest};

    fn packed(threads: usize, content: &[u8]) -> Vec<u8> {
        let compressor = Compressor::new(NonZeroUsize::new(threads).unwrap()).unwrap();
        let mut out = Vec::new();
        compressor.gzip(content, &mut out).unwrap();
        out
    }

    /// Text with some noise in it, and noise alone behind.
    fn content(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let mut bytes = Vec::with_capacity(length);
        for nth in 0..length {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let noise = (state >> 33) as u8;
            bytes.push(if nth < length / 2 {
                b'a' + noise % 4
            } else {
                noise
            });
        }
        bytes
    }

    #[test]
    fn what_is_packed_unpacks_to_the_same_whatever_its_length() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE + 12345] {
            let content = content(length);
            let packed = packed(3, &content);
            let mut back = Vec::new();
            // Of one member, so that readers who stop after the first get all.
            GzDecoder::new(&*packed).read_to_end(&mut back).unwrap();
            assert!(
                back == content,
                "of {length} bytes {} came back",
                back.len()
            );
        }
    }

    #[test]
    fn the_bytes_depend_on_the_content_alone() {
        let content = content(3 * PIECE + 7);
        let one = packed(1, &content);
        assert!(one == packed(4, &content));
        // Whoever updates the library sees here that digests of seeded images change, which is worth a line in the changelog.
        assert_eq!(
            Digest::of(Algorithm::Sha256, &one).to_string(),
            "sha256:e1c9069a311dc338ffc9b867e694194e7fbc36f142a908e37a5f88ac30985f64"
        );
    }

    #[test]
    fn whose_fault_it_is() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        struct Torn;
        impl Read for Torn {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        }
        let compressor = Compressor::new(NonZeroUsize::MIN).unwrap();
        let full = compressor.gzip(&b"x"[..], &mut Full).unwrap_err();
        assert!(matches!(full, Fault::Write(_)), "{full:?}");
        let torn = compressor.gzip(Torn, &mut Vec::new()).unwrap_err();
        assert!(matches!(torn, Fault::Read(_)), "{torn:?}");
    }
}
