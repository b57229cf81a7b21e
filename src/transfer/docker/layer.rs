//! One layer of a docker archive: what it is, and what it becomes.

use std::{
    fs::File,
    io::{self, BufWriter, Read, Seek as _, SeekFrom},
    sync::atomic::{AtomicBool, Ordering},
};

use super::listing::Layer;
use crate::{
    transfer::{
        Cancel, Error, Layers, Observer,
        compression::{Bounded, Compression},
        files::Files as _,
        gzip::{Compressor, Fault},
        hashing::Hashing,
        scratch::no_room,
        tarball::Tarball,
    },
    types::Digest,
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
        let mut raw = Hashing::new(content);
        let unpacked = {
            let plain = compression.unpack(Box::new(&mut raw));
            let plain = plain.map_err(|error| self.unread(layer, &error))?;
            let mut plain = Hashing::new(Bounded::new(plain));
            plain.drain().map_err(|error| self.unread(layer, &error))?;
            plain.finish().1
        };
        self.check(layer, unpacked)?;
        // What is behind the last frame.
        raw.drain().map_err(|error| self.unread(layer, &error))?;
        Ok(Some(Packed {
            digest: raw.finish().1,
            size,
            compression,
            kept: true,
        }))
    }

    /// Compresses the layer into a file without a name.
    pub(super) fn pack(&self, layer: &Layer) -> Result<(Packed, File), Error> {
        let (_, _, content) = self.open(layer)?;
        let mut plain = Hashing::new(content);
        let full = |error: io::Error| Error::Destination {
            place: format!("a temporary copy of {}", self.files.place(&layer.entry)),
            why: no_room(&error),
        };
        let file = (self.scratch)().map_err(full)?;
        let mut out = Hashing::new(BufWriter::with_capacity(256 << 10, file));
        let packed = self.compressor.gzip(&mut plain, &mut out);
        packed.map_err(|fault| match fault {
            Fault::Read(error) => self.unread(layer, &error),
            Fault::Write(error) => full(error),
        })?;
        self.check(layer, plain.finish().1)?;
        let (file, digest, size) = out.finish();
        let file = file.into_inner();
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
