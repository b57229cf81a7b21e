//! What a registry of this very process serves, as an origin: what was pushed here, then what was pulled, then what its
//! source has, if that may be asked.

use std::io::{self, Read};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::runtime::Handle;

use super::{Error, Image, ImageName, Origin, Wanted};
use crate::{
    registry::{self, Asked, Registry, Target, Want},
    types::{Descriptor, Digest, Reference, RegistryHost, RepositoryName, Role},
};

/// Some images that a registry serves.
pub struct Served {
    registry: Registry,
    runtime: Handle,
    /// The registry of names that name none.
    default: RegistryHost,
    wanted: Vec<Wanted>,
}

impl Served {
    /// `runtime` is not the caller's own.
    pub fn new(
        registry: Registry,
        runtime: Handle,
        default: RegistryHost,
        wanted: Vec<Wanted>,
    ) -> Self {
        Self {
            registry,
            runtime,
            default,
            wanted,
        }
    }

    fn resolve(&self, name: &RepositoryName) -> Result<Target, Error> {
        let asked = Asked {
            name: name.as_str(),
            ..Asked::default()
        };
        let resolved = self.registry.resolve(&asked);
        resolved.map_err(|error| unread(name, &error))
    }

    fn target(&self, image: &Image) -> Result<Target, Error> {
        match &image.name.repository {
            Some(name) => self.resolve(name),
            None => Err(Error::Origin {
                place: image.root.digest.to_string(),
                why: "an image without a name can't be asked for".to_owned(),
            }),
        }
    }

    fn pull(
        &self,
        target: &Target,
        reference: &Reference,
    ) -> Result<(Descriptor, Bytes), registry::Error> {
        let pulling = self.registry.pull_manifest(target, reference, Want::Bytes);
        let (pulled, _) = self.runtime.block_on(pulling)?;
        let bytes = pulled.bytes.unwrap_or_default();
        let descriptor = Descriptor {
            digest: pulled.digest,
            size: bytes.len() as u64,
            media_type: Some(pulled.entry.media_type),
            role: Role::Manifest,
        };
        Ok((descriptor, bytes))
    }
}

impl Origin for Served {
    fn images(&self) -> Result<Vec<Image>, Error> {
        let image = |wanted: &Wanted| {
            let target = self.resolve(&wanted.name)?;
            let canonical = &target.name;
            let repository = match *canonical.source() == self.default {
                true => canonical.repository().clone(),
                false => canonical
                    .to_string()
                    .parse()
                    .map_err(|error| unread(wanted, &error))?,
            };
            let reference = wanted
                .reference()
                .ok_or_else(|| unread(wanted, &"it has neither tag nor digest"))?;
            let (root, _) = self
                .pull(&target, &reference)
                .map_err(|error| unread(wanted, &error))?;
            Ok(Image {
                name: ImageName {
                    repository: Some(repository),
                    tag: wanted.tag.clone(),
                },
                root,
            })
        };
        self.wanted.iter().map(image).collect()
    }

    fn manifest(&self, image: &Image, manifest: &Descriptor) -> Result<Bytes, Error> {
        let reference = Reference::Digest(manifest.digest.clone());
        let pulled = self.pull(&self.target(image)?, &reference);
        let (_, bytes) = pulled.map_err(|error| {
            let hint = match manifest.digest == image.root.digest {
                true => "",
                false => "; --platform takes one image of an index alone",
            };
            unread(&manifest.digest, &format_args!("{error}{hint}"))
        })?;
        Ok(bytes)
    }

    fn blob(&self, image: &Image, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        let target = self.target(image)?;
        let pulling = self.registry.pull_blob(&target, &blob.digest);
        let body = self.runtime.block_on(pulling);
        let (body, _) = body.map_err(|error| unread(&blob.digest, &error))?;
        Ok(Box::new(Reading {
            runtime: &self.runtime,
            digest: blob.digest.clone(),
            pieces: body.stream(None, PIECE),
            piece: Bytes::new(),
        }))
    }
}

fn unread(what: &impl std::fmt::Display, why: &dyn std::fmt::Display) -> Error {
    Error::Origin {
        place: what.to_string(),
        why: why.to_string(),
    }
}

struct Reading<'a> {
    runtime: &'a Handle,
    digest: Digest,
    pieces: BoxStream<'static, io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for Reading<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.runtime.block_on(self.pieces.next()) {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(error)) => {
                    let why = format!("{} could not be had whole: {error}", self.digest);
                    return Err(io::Error::new(error.kind(), why));
                }
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;
