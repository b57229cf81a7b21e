//! An archive as `docker save` writes it and `docker load` reads it: `manifest.json`, configs, and layers that are not
//! compressed, under their diff ids.
//!
//! <https://github.com/moby/docker-image-spec/blob/main/v1.2.md#combined-image-json--filesystem-changeset-format>

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufWriter, Write},
    rc::Rc,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use super::{
    Names,
    archive::Target,
    names,
    staged::{Failed, Staged, copy},
};
use crate::{
    transfer::{
        Destination, Error, Open,
        compression::{Compression, MAGIC},
    },
    types::{Algorithm, Descriptor, Digest, Kind, Manifest, RepositoryName, Tag, digest::Hasher},
};

/// A docker archive that is being written.
pub struct DockerWriter {
    target: Target,
    staged: Staged,
    names: Names,
    parts: Mutex<Parts>,
}

#[derive(Default)]
struct Parts {
    /// What each blob is when it is not compressed.
    blobs: HashMap<Digest, Digest>,
    images: Vec<Written>,
}

/// An entry of `manifest.json`.
#[derive(PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Written {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Image {
    config: Named,
    layers: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    digest: String,
    #[serde(rename = "mediaType", default)]
    media_type: String,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

impl DockerWriter {
    pub fn new(target: Target, names: Names) -> Result<Self, Error> {
        Ok(Self {
            staged: target.stage()?,
            target,
            names,
            parts: Mutex::default(),
        })
    }

    /// What the archive is to say of an image.
    fn describe(&self, bytes: &[u8], blobs: &HashMap<Digest, Digest>) -> Result<Written, String> {
        let image: Image = serde_json::from_slice(bytes)
            .map_err(|error| format!("its manifest can't be read: {error}"))?;
        let plain = |named: &Named| {
            let digest: Digest = named
                .digest
                .parse()
                .map_err(|error| format!("its manifest can't be read: {error}"))?;
            let plain = blobs.get(&digest).cloned().ok_or_else(|| {
                format!(
                    "its layer {digest} is of a kind that registries need not hold ({}), and docker loads no image without",
                    named.media_type
                )
            })?;
            Ok::<_, String>((digest, plain))
        };
        let (config, held) = plain(&image.config)?;
        let held = std::fs::read(self.staged.path(held.hex()));
        let held: Option<Config> = held
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(Config { rootfs }) = held else {
            return Err(format!(
                "it is no image that docker runs, by its config of type {}: an OCI layout can hold it",
                image.config.media_type
            ));
        };
        let mut layers = Vec::new();
        for (nth, layer) in image.layers.iter().enumerate() {
            let (digest, plain) = plain(layer)?;
            let named = rootfs.diff_ids.get(nth).map(String::as_str);
            if named != Some(&*plain.to_string()) {
                return Err(format!(
                    "its layer {digest} ({}) unpacks to {plain}, and its config says {}",
                    layer.media_type,
                    named.unwrap_or("that there is none")
                ));
            }
            layers.push(format!("{}.tar", plain.hex()));
        }
        Ok(Written {
            config: format!("{}.json", config.hex()),
            repo_tags: Vec::new(),
            layers,
        })
    }
}

impl Destination for DockerWriter {
    fn has_blob(&self, _: &RepositoryName, blob: &Descriptor) -> Result<bool, Error> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(parts.blobs.contains_key(&blob.digest))
    }

    fn put_blob(
        &self,
        _: &RepositoryName,
        blob: &Descriptor,
        content: &Open<'_>,
    ) -> Result<(), Error> {
        let unpacked = format!("unpacked-{}", blob.digest.hex());
        let plain = self.staged.file(&unpacked, |file| {
            let full = Rc::new(Cell::new(false));
            let mut unpacking = Unpacking::new(file, Rc::clone(&full));
            // Unless it is the file that fails, it is what is unpacked.
            let judged = |failed| match failed {
                Failed::Here(error) if !full.get() => Failed::Origin(Error::Origin {
                    place: format!("blob {}", blob.digest),
                    why: format!("it can't be decompressed: {error}"),
                }),
                other => other,
            };
            copy(blob, content, |piece| unpacking.write(piece)).map_err(judged)?;
            unpacking.finish().map_err(Failed::Here).map_err(judged)
        })?;
        let renamed = std::fs::rename(self.staged.path(&unpacked), self.staged.path(plain.hex()));
        renamed.map_err(|error| self.staged.failed(error))?;
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.blobs.insert(blob.digest.clone(), plain);
        Ok(())
    }

    fn put_manifest(&self, _: &RepositoryName, _: &Descriptor, _: &Bytes) -> Result<(), Error> {
        // A child of an index that can't be put.
        Ok(())
    }

    fn put_image(
        &self,
        name: &RepositoryName,
        tag: Option<&Tag>,
        root: &Descriptor,
        bytes: &Bytes,
    ) -> Result<(), Error> {
        let refused = |why: String| Error::Destination {
            place: self.target.to_string(),
            why: format!("{name}: {why}"),
        };
        let declared = root.media_type.as_ref().map(|kind| kind.as_str());
        let kind = Manifest::pulled(bytes, declared).kind;
        if kind != Kind::Image {
            let why = match kind {
                Kind::Index => {
                    "a docker archive holds no index: choose one of its images with --platform"
                }
                _ => "a docker archive holds images alone: an OCI layout can hold it",
            };
            return Err(refused(why.to_owned()));
        }
        let tag = self.names.tag.as_ref().or(tag);
        let full = names::full(name, &self.names.default);
        // In full: podman takes a name without a registry for one of its own machine.
        let repo_tag = tag.map(|tag| format!("{full}:{tag}"));
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self.describe(bytes, &parts.blobs).map_err(refused)?;
        if let Some(repo_tag) = &repo_tag {
            for image in &mut parts.images {
                image.repo_tags.retain(|held| held != repo_tag);
            }
        }
        let same =
            |image: &&mut Written| image.config == written.config && image.layers == written.layers;
        match parts.images.iter_mut().find(same) {
            Some(image) => image.repo_tags.extend(repo_tag),
            None => parts.images.push(Written {
                repo_tags: repo_tag.into_iter().collect(),
                ..written
            }),
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), Error> {
        let parts = std::mem::take(&mut *self.parts.lock().unwrap_or_else(PoisonError::into_inner));
        let listing = serde_json::to_vec(&parts.images);
        let listing = listing.map_err(|error| self.staged.failed(error.into()))?;
        self.staged.bytes(LISTING, &listing)?;
        let mut entries = BTreeMap::from([(LISTING.to_owned(), LISTING.to_owned())]);
        for image in &parts.images {
            for name in image.layers.iter().chain([&image.config]) {
                let hex = name.split('.').next().unwrap_or_default();
                entries.insert(name.clone(), hex.to_owned());
            }
        }
        self.target.write(&self.staged, |archive| {
            entries
                .iter()
                .try_for_each(|(name, file)| archive.staged(name, file))
        })
    }
}

/// Writes what comes as it is or decompressed, by its first bytes, and hashes what it writes.
struct Unpacking<'a> {
    /// Until there is enough to tell by.
    head: Vec<u8>,
    state: Option<State<'a>>,
    file: Option<Hashed<'a>>,
}

enum State<'a> {
    Plain(Box<Hashed<'a>>),
    Gzip(Box<MultiGzDecoder<Hashed<'a>>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Hashed<'a>>>),
}

impl<'a> Unpacking<'a> {
    /// `full` is set when the file takes no more.
    fn new(file: &'a mut File, full: Rc<Cell<bool>>) -> Self {
        Self {
            head: Vec::new(),
            state: None,
            file: Some(Hashed {
                file: BufWriter::with_capacity(256 << 10, file),
                hasher: Hasher::new(Algorithm::Sha256),
                full,
            }),
        }
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        let Some(state) = &mut self.state else {
            self.head.extend_from_slice(piece);
            return match self.head.len() >= MAGIC {
                true => self.begin(),
                false => Ok(()),
            };
        };
        state.write(piece)
    }

    fn begin(&mut self) -> io::Result<()> {
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        let mut state = match Compression::of(&self.head) {
            Compression::Gzip => State::Gzip(Box::new(MultiGzDecoder::new(file))),
            Compression::Zstd => State::Zstd(Box::new(zstd::stream::write::Decoder::new(file)?)),
            Compression::None | Compression::Other(_) => State::Plain(Box::new(file)),
        };
        state.write(&std::mem::take(&mut self.head))?;
        self.state = Some(state);
        Ok(())
    }

    /// The digest of what was written.
    fn finish(mut self) -> io::Result<Digest> {
        if self.state.is_none() {
            self.begin()?;
        }
        let out = match self.state {
            Some(State::Plain(out)) => *out,
            Some(State::Gzip(decoder)) => decoder.finish()?,
            Some(State::Zstd(mut decoder)) => {
                decoder.flush()?;
                decoder.into_inner()
            }
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        let mut out = out;
        out.flush()?;
        Ok(out.hasher.finish())
    }
}

impl State<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.write_all(piece),
            Self::Gzip(decoder) => decoder.write_all(piece),
            Self::Zstd(decoder) => decoder.write_all(piece),
        }
    }
}

struct Hashed<'a> {
    file: BufWriter<&'a mut File>,
    hasher: Hasher,
    full: Rc<Cell<bool>>,
}

impl Write for Hashed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.file.write(buffer);
        let count = written.inspect_err(|_| self.full.set(true))?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().inspect_err(|_| self.full.set(true))
    }
}

const LISTING: &str = "manifest.json";
