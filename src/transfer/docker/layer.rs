//! One layer of a docker archive: what it is, and what it becomes.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Seek as _, SeekFrom, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use super::listing::Layer;
use crate::{
    transfer::{
        Cancel, Error, Layers, Observer,
        compression::{Bounded, Compression},
        files::Files as _,
        gzip::{Compressor, Fault},
        no_room,
        tarball::Tarball,
    },
    types::{Algorithm, Digest, digest::Hasher},
};

/// A layer as it is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) compression: Compression,
    /// Whether the archive's own bytes are these.
    pub(super) kept: bool,
}

/// Reads layers, and compresses those that are not.
pub(super) struct Packer<'a> {
    pub(super) files: &'a Tarball,
    pub(super) layers: Layers,
    pub(super) compressor: &'a Compressor,
    pub(super) scratch: &'a (dyn Fn() -> io::Result<File> + Sync),
    pub(super) observer: &'a dyn Observer,
    pub(super) cancel: &'a Cancel,
    /// Set when another layer has failed.
    pub(super) stop: &'a AtomicBool,
}

impl Packer<'_> {
    /// How the archive has it, and all its bytes.
    fn open(&self, layer: &Layer) -> Result<(Compression, u64, impl Read + Send + use<'_>), Error> {
        let Some(opened) = self.files.open(&layer.entry)? else {
            return Err(self.wrong(layer, "it is not there, and the image needs it"));
        };
        let watched = Watched {
            content: opened.content,
            packer: self,
        };
        let sniffed = Compression::sniff(watched);
        let (compression, content) = sniffed.map_err(|error| self.unread(layer, &error))?;
        if let Compression::Other(name) = compression {
            let why = format!(
                "it is compressed by {name}, which no registry takes: load the archive into docker and save it again"
            );
            return Err(self.wrong(layer, why));
        }
        Ok((compression, opened.size, content))
    }

    /// What the layer is without being sent; `None` if only compressing it tells.
    ///
    /// # Errors
    /// It is not the layer that the config means.
    pub(super) fn inspect(&self, layer: &Layer) -> Result<Option<Packed>, Error> {
        let (compression, size, content) = self.open(layer)?;
        if compression == Compression::None && self.layers == Layers::Gzip {
            return Ok(None);
        }
        let mut raw = Hashed::new(content);
        let unpacked = {
            let plain = compression.unpack(Box::new(&mut raw));
            let plain = plain.map_err(|error| self.unread(layer, &error))?;
            let mut plain = Hashed::new(Bounded::new(plain));
            plain.drain().map_err(|error| self.unread(layer, &error))?;
            plain.hasher.finish()
        };
        self.check(layer, unpacked)?;
        // What is behind the last frame.
        raw.drain().map_err(|error| self.unread(layer, &error))?;
        Ok(Some(Packed {
            digest: raw.hasher.finish(),
            size,
            compression,
            kept: true,
        }))
    }

    /// Compresses the layer into a file without a name.
    pub(super) fn pack(&self, layer: &Layer) -> Result<(Packed, File), Error> {
        let (_, _, content) = self.open(layer)?;
        let mut plain = Hashed::new(content);
        let full = |error: io::Error| Error::Destination {
            place: format!("a temporary copy of {}", self.files.place(&layer.entry)),
            why: no_room(&error),
        };
        let mut out = HashedFile {
            file: BufWriter::with_capacity(256 << 10, (self.scratch)().map_err(full)?),
            hasher: Hasher::new(Algorithm::Sha256),
            written: 0,
        };
        let packed = self.compressor.gzip(&mut plain, &mut out);
        packed.map_err(|fault| match fault {
            Fault::Read(error) => self.unread(layer, &error),
            Fault::Write(error) => full(error),
        })?;
        self.check(layer, plain.hasher.finish())?;
        let (digest, size) = (out.hasher.finish(), out.written);
        let file = out.file.into_inner();
        let mut file = file.map_err(|error| full(error.into_error()))?;
        file.seek(SeekFrom::Start(0)).map_err(full)?;
        let packed = Packed {
            digest,
            size,
            compression: Compression::Gzip,
            kept: false,
        };
        Ok((packed, file))
    }

    fn check(&self, layer: &Layer, found: Digest) -> Result<(), Error> {
        if found == layer.diff_id {
            return Ok(());
        }
        let why = format!(
            "it unpacks to {found}, and its image's config says {}",
            layer.diff_id
        );
        Err(self.wrong(layer, why))
    }

    fn unread(&self, layer: &Layer, error: &io::Error) -> Error {
        match self.cancel.is_cancelled() {
            true => Error::Interrupted,
            false => self.wrong(layer, format!("it can't be read: {error}")),
        }
    }

    fn wrong(&self, layer: &Layer, why: impl Into<String>) -> Error {
        self.files.wrong(&layer.entry, why)
    }
}

/// Counted, and ended early when all is to end.
struct Watched<'a> {
    content: Box<dyn Read + Send + 'a>,
    packer: &'a Packer<'a>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.packer.cancel.is_cancelled() || self.packer.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("interrupted"));
        }
        let count = self.content.read(buffer)?;
        self.packer.observer.sends(count as u64);
        Ok(count)
    }
}

struct Hashed<R> {
    content: R,
    hasher: Hasher,
}

impl<R: Read> Hashed<R> {
    fn new(content: R) -> Self {
        Self {
            content,
            hasher: Hasher::new(Algorithm::Sha256),
        }
    }

    fn drain(&mut self) -> io::Result<()> {
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

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.content.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

struct HashedFile {
    file: BufWriter<File>,
    hasher: Hasher,
    written: u64,
}

impl Write for HashedFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.file.write(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
