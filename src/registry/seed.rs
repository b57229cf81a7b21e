//! Seeding: content put into `_local` by this process itself. What a seed is made of, and in which order it comes, is not
//! known here.

use std::{
    fs::File,
    io::{self, Read},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;

use super::{Asked, Error, Registry};
use crate::{
    storage::{Pin, Staging},
    types::{CanonicalName, Descriptor, Digest, Manifest, Namespace, RepositoryName, Tag},
};

/// Content on its way into `_local`. What was put stays out of eviction's reach until this is dropped, by when a manifest
/// has to name it. Its methods block.
pub struct Seeding {
    registry: Registry,
    pins: Mutex<Vec<Pin>>,
}

impl Registry {
    pub fn seeding(&self) -> Seeding {
        Seeding {
            registry: self.clone(),
            pins: Mutex::default(),
        }
    }
}

impl Seeding {
    /// What a client of ours means by the name.
    pub fn resolve(&self, name: &RepositoryName) -> Result<CanonicalName, Error> {
        let asked = Asked {
            name: name.as_str(),
            ..Asked::default()
        };
        Ok(self.registry.resolve(&asked)?.name)
    }

    /// Whether the bytes are here, whichever repository brought them.
    pub fn has_content(&self, wanted: &Descriptor) -> Result<bool, Error> {
        let store = &self.registry.0.store;
        let pin = store.pin(&wanted.digest);
        let here = store.stat(&wanted.digest)? == Some(wanted.size);
        if here {
            self.keep(pin);
        }
        Ok(here)
    }

    /// Takes content whole, or leaves no trace of it. No repository has it yet.
    pub fn put_content(&self, wanted: &Descriptor, content: &mut dyn Read) -> Result<(), Error> {
        let store = &self.registry.0.store;
        let pin = store.pin(&wanted.digest);
        let mut staging = store.stage(wanted.digest.algorithm())?;
        let free = store.free_space()?;
        if free < wanted.size {
            return Err(Error::NoRoom(format!(
                "{} has {} bytes and {free} are free",
                wanted.digest, wanted.size
            )));
        }
        staging.reserve(wanted.size)?;
        fill(&mut staging, wanted, content)?;
        let blob = staging.verify(&wanted.digest)?.map_err(|found| {
            Error::DigestInvalid(format!(
                "its bytes have digest {found}, not {}",
                wanted.digest
            ))
        })?;
        store.commit(blob)?;
        self.keep(pin);
        Ok(())
    }

    /// Makes a manifest visible by its digest, and under `tag`. What it names and is not here is not the repository's.
    pub fn put_manifest(
        &self,
        name: &CanonicalName,
        tag: Option<&Tag>,
        wanted: &Descriptor,
        bytes: &Bytes,
    ) -> Result<(), Error> {
        let registry = &self.registry.0;
        let media_type = wanted.media_type.as_ref();
        let mut manifest = Manifest::pushed(bytes, media_type.map(|kind| kind.as_str()))
            .map_err(|error| Error::ManifestInvalid(error.to_string()))?;
        let mut here = Vec::with_capacity(manifest.references.len());
        for reference in std::mem::take(&mut manifest.references) {
            if registry.store.stat(&reference.digest)?.is_some() {
                here.push(reference);
            }
        }
        manifest.references = here;
        let tags: Vec<Tag> = tag.cloned().into_iter().collect();
        registry.store.put_manifest_and_tags(
            Namespace::Local,
            name,
            &wanted.digest,
            bytes,
            &manifest,
            &tags,
        )?;
        registry.catalog.note_push(&registry.store, name)?;
        registry.cache.forget_absences(name);
        Ok(())
    }

    /// A file without a name on the data directory's disk.
    pub fn scratch(&self) -> io::Result<File> {
        self.registry.0.store.scratch()
    }

    fn keep(&self, pin: Pin) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.push(pin);
    }
}

fn fill(staging: &mut Staging, wanted: &Descriptor, content: &mut dyn Read) -> Result<(), Error> {
    const PIECE: usize = 1 << 20;
    let mut buffer = vec![0; PIECE];
    loop {
        let read = match content.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::BlobUploadInvalid(error.to_string())),
        };
        if staging.offset() + read as u64 > wanted.size {
            let why = format!(
                "it has more than the {} bytes that it should have",
                wanted.size
            );
            return Err(Error::SizeInvalid(why));
        }
        staging.write(&buffer[..read])?;
    }
    if staging.offset() < wanted.size {
        return Err(Error::SizeInvalid(format!(
            "it ends after {} bytes, and should have {}",
            staging.offset(),
            wanted.size
        )));
    }
    Ok(())
}

/// An image that can be pulled now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeded {
    pub name: CanonicalName,
    pub tag: Tag,
    pub digest: Digest,
}
