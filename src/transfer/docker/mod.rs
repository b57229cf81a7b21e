//! An archive as `docker save` writes it, and podman, skopeo, buildah, kaniko and others after it: `manifest.json`, configs,
//! and layers that are mostly not compressed.
//!
//! Such an archive has no manifests, so they are made here, of docker's own types: by an OCI manifest podman and buildah
//! would leave HEALTHCHECK, ONBUILD and SHELL of the config aside. The config is kept byte for byte, so the image keeps its ID.
//!
//! <https://github.com/moby/docker-image-spec/blob/main/v1.2.md#combined-image-json--filesystem-changeset-format>

mod layer;
mod listing;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use serde::Serialize;

use self::{
    layer::{Packed, Packer},
    listing::Layer,
};
use super::{
    Error, Image, ImageName, Layers, Observer, Open, Origin, Pace, compression::Compression,
    files::Files as _, gzip::Compressor, tarball::Tarball,
};
use crate::types::{Algorithm, Descriptor, Digest, MediaType, Role};

pub(super) use listing::{Listed, numbered};

/// A docker archive. Everything in it is untrusted: each layer is held against the config that names it.
pub(super) struct DockerArchive<'a> {
    files: Tarball,
    images: Vec<Listed>,
    layers: Layers,
    compressor: Compressor,
    scratch: &'a (dyn Fn() -> io::Result<File> + Sync),
    observer: &'a dyn Observer,
    pace: &'a Pace,
    known: Mutex<Known>,
}

/// What was found out, by reading.
#[derive(Default)]
struct Known {
    /// By where the archive has it and what it has to be.
    layers: HashMap<(u64, Digest), Packed>,
    /// Which image and which of its layers has these bytes, and how.
    blobs: HashMap<Digest, ((usize, usize), Packed)>,
    manifests: HashMap<Digest, Bytes>,
}

/// Takes a layer that had to be compressed, while its bytes are at hand.
pub(super) type Take<'a> = dyn Fn(&Descriptor, &Open<'_>) -> Result<(), Error> + Sync + 'a;

impl<'a> DockerArchive<'a> {
    /// Reads what the archive says of its images, and none of the layers. `scratch` makes files without a name.
    pub(super) fn new(
        files: Tarball,
        layers: Layers,
        scratch: &'a (dyn Fn() -> io::Result<File> + Sync),
        observer: &'a dyn Observer,
        pace: &'a Pace,
    ) -> Result<Self, Error> {
        let images = listing::images(&files)?;
        let compressor = Compressor::new(pace.jobs)
            .map_err(|error| files.wrong("", format!("threads can't be started: {error}")))?;
        Ok(Self {
            files,
            images,
            layers,
            compressor,
            scratch,
            observer,
            pace,
            known: Mutex::default(),
        })
    }

    pub(super) fn files(&self) -> &Tarball {
        &self.files
    }

    pub(super) fn listed(&self) -> &[Listed] {
        &self.images
    }

    /// Reads all layers of an image, several at once, and makes its manifest. Those that have to be compressed go to `take`
    /// one by one.
    pub(super) fn prepare(&self, nth: usize, take: &Take<'_>) -> Result<Image, Error> {
        // Damage that comes of a change is told as what it is.
        self.prepared(nth, take).map_err(|error| match error {
            Error::Origin { .. } => self.files.check().err().unwrap_or(error),
            other => other,
        })
    }

    fn prepared(&self, nth: usize, take: &Take<'_>) -> Result<Image, Error> {
        let Some(listed) = self.images.get(nth) else {
            return Err(self.files.wrong("", format!("it has no image {nth}")));
        };
        self.observer.expects(self.unread(listed)?);
        let packed: Mutex<Vec<Option<Packed>>> = Mutex::new(vec![None; listed.layers.len()]);
        let failed = Mutex::new(None);
        let stop = AtomicBool::new(false);
        let next = AtomicUsize::new(0);
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(layer) = listed.layers.get(at) else {
                    break;
                };
                if layer.foreign.is_some() {
                    continue;
                }
                match self.layer((nth, at), layer, &stop, take) {
                    Ok(found) => lock(&packed)[at] = Some(found),
                    Err(error) => {
                        // The others end because of the first, whose reason counts.
                        lock(&failed).get_or_insert(error);
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.pace.jobs.get().min(listed.layers.len()) {
                scope.spawn(work);
            }
        });
        if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let packed = packed.into_inner().unwrap_or_else(PoisonError::into_inner);
        let manifest =
            written(listed, &packed).map_err(|error| self.files.wrong("", error.to_string()))?;
        let root = Descriptor {
            digest: Digest::of(Algorithm::Sha256, &manifest.bytes),
            size: manifest.bytes.len() as u64,
            media_type: MediaType::parse(manifest.media_type),
            role: Role::Manifest,
        };
        let mut known = lock(&self.known);
        known.manifests.insert(root.digest.clone(), manifest.bytes);
        Ok(Image {
            name: ImageName::default(),
            root,
        })
    }

    /// Bytes of its layers that were not looked at for another image.
    fn unread(&self, listed: &Listed) -> Result<u64, Error> {
        let mut bytes = 0;
        for layer in &listed.layers {
            let known = lock(&self.known).layers.contains_key(&self.key(layer)?);
            if !known && let Some(opened) = self.files.open(&layer.entry)? {
                bytes += opened.size;
            }
        }
        Ok(bytes)
    }

    /// Where the archive has the layer, behind all links, and what it has to be.
    fn key(&self, layer: &Layer) -> Result<(u64, Digest), Error> {
        let offset = self.files.behind(&layer.entry)?;
        Ok((offset.unwrap_or(u64::MAX), layer.diff_id.clone()))
    }

    fn layer(
        &self,
        place: (usize, usize),
        layer: &Layer,
        stop: &AtomicBool,
        take: &Take<'_>,
    ) -> Result<Packed, Error> {
        let key = self.key(layer)?;
        if let Some(packed) = lock(&self.known).layers.get(&key) {
            return Ok(packed.clone());
        }
        let packer = self.packer(stop);
        let packed = match packer.inspect(layer)? {
            Some(found) => found,
            None => {
                let (packed, file) = packer.pack(layer)?;
                let open = || reader(&file);
                take(&descriptor(&packed), &open)?;
                packed
            }
        };
        let mut known = lock(&self.known);
        known
            .blobs
            .insert(packed.digest.clone(), (place, packed.clone()));
        known.layers.insert(key, packed.clone());
        Ok(packed)
    }

    fn packer<'b>(&'b self, stop: &'b AtomicBool) -> Packer<'b> {
        Packer {
            files: &self.files,
            layers: self.layers,
            compressor: &self.compressor,
            scratch: self.scratch,
            observer: self.observer,
            cancel: &self.pace.cancel,
            stop,
        }
    }

    /// The layer of that digest, and what it became.
    fn found(&self, digest: &Digest) -> Option<(&Layer, Packed)> {
        let known = lock(&self.known);
        let ((image, at), packed) = known.blobs.get(digest)?;
        Some((self.images.get(*image)?.layers.get(*at)?, packed.clone()))
    }
}

impl Origin for DockerArchive<'_> {
    /// None before they are [prepared](Self::prepare).
    fn images(&self) -> Result<Vec<Image>, Error> {
        Ok(Vec::new())
    }

    fn manifest(&self, _: &Image, manifest: &Descriptor) -> Result<Bytes, Error> {
        let bytes = lock(&self.known).manifests.get(&manifest.digest).cloned();
        bytes.ok_or_else(|| self.files.wrong("", "it was not read yet"))
    }

    fn blob(&self, _: &Image, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        let config = self.images.iter().find(|listed| listed.id == blob.digest);
        if let Some(config) = config {
            return Ok(Box::new(io::Cursor::new(config.config.clone())));
        }
        let missing = || {
            self.files
                .wrong("", format!("it has no blob {}", blob.digest))
        };
        let (layer, packed) = self.found(&blob.digest).ok_or_else(missing)?;
        match packed.kept {
            true => match self.files.open(&layer.entry)? {
                Some(opened) => Ok(opened.content),
                None => Err(missing()),
            },
            // It went to a repository before, from which this one can't have it.
            false => {
                let alone = AtomicBool::new(false);
                Ok(Box::new(self.packer(&alone).pack(layer)?.1))
            }
        }
    }

    fn place(&self, content: &Descriptor) -> String {
        match self.found(&content.digest) {
            Some((layer, _)) => self.files.place(&layer.entry),
            None => self.files.place(""),
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.files.check()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file's bytes, whoever else reads it.
fn reader(file: &File) -> Result<Box<dyn Read + Send + '_>, Error> {
    Ok(Box::new(super::tarball::whole(file)))
}

fn descriptor(packed: &Packed) -> Descriptor {
    Descriptor {
        digest: packed.digest.clone(),
        size: packed.size,
        media_type: None,
        role: Role::Blob,
    }
}

struct Written {
    media_type: &'static str,
    bytes: Bytes,
}

/// The manifest of an image whose layers are these. Foreign ones have none, and stay what they are.
fn written(listed: &Listed, packed: &[Option<Packed>]) -> Result<Written, serde_json::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Manifest<'a> {
        schema_version: u8,
        media_type: &'static str,
        config: Named<'a>,
        layers: Vec<Named<'a>>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Named<'a> {
        media_type: &'a str,
        size: u64,
        digest: &'a Digest,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        urls: &'a [String],
    }
    // Docker's types have none for zstd.
    let is_zstd = |packed: &Option<Packed>| {
        packed
            .as_ref()
            .is_some_and(|packed| packed.compression == Compression::Zstd)
    };
    let types = match packed.iter().any(is_zstd) {
        true => &OCI,
        false => &DOCKER,
    };
    let layers = listed
        .layers
        .iter()
        .zip(packed)
        .filter_map(|(layer, packed)| {
            Some(match (&layer.foreign, packed) {
                (Some(foreign), _) => Named {
                    media_type: &foreign.media_type,
                    size: foreign.size,
                    digest: &foreign.digest,
                    urls: &foreign.urls,
                },
                (None, packed) => {
                    let packed = packed.as_ref()?;
                    Named {
                        media_type: match packed.compression {
                            Compression::Gzip => types.gzip,
                            Compression::Zstd => types.zstd,
                            Compression::None | Compression::Other(_) => types.plain,
                        },
                        size: packed.size,
                        digest: &packed.digest,
                        urls: &[],
                    }
                }
            })
        });
    let manifest = Manifest {
        schema_version: 2,
        media_type: types.manifest,
        config: Named {
            media_type: types.config,
            size: listed.config.len() as u64,
            digest: &listed.id,
            urls: &[],
        },
        layers: layers.collect(),
    };
    Ok(Written {
        media_type: types.manifest,
        bytes: serde_json::to_vec(&manifest)?.into(),
    })
}

struct Types {
    manifest: &'static str,
    config: &'static str,
    plain: &'static str,
    gzip: &'static str,
    zstd: &'static str,
}

const DOCKER: Types = Types {
    manifest: "application/vnd.docker.distribution.manifest.v2+json",
    config: "application/vnd.docker.container.image.v1+json",
    plain: "application/vnd.docker.image.rootfs.diff.tar",
    gzip: "application/vnd.docker.image.rootfs.diff.tar.gzip",
    zstd: "application/vnd.docker.image.rootfs.diff.tar.zstd",
};

const OCI: Types = Types {
    manifest: "application/vnd.oci.image.manifest.v1+json",
    config: "application/vnd.oci.image.config.v1+json",
    plain: "application/vnd.oci.image.layer.v1.tar",
    gzip: "application/vnd.oci.image.layer.v1.tar+gzip",
    zstd: "application/vnd.oci.image.layer.v1.tar+zstd",
};
