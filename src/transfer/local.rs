//! The registry of this very process as a destination: no HTTP, no second copy, no credentials.

use std::{fs::File, io};

use bytes::Bytes;

use super::{Destination, Error, Open};
use crate::{
    registry::{self, Registry, Seeding},
    types::{CanonicalName, Descriptor, RepositoryName, Tag},
};

/// Puts images into `_local`.
pub struct Local {
    seeding: Seeding,
}

impl Local {
    pub fn new(registry: &Registry) -> Self {
        Self {
            seeding: registry.seeding(),
        }
    }

    /// The whole name of what is put under `name`.
    pub fn canonical(&self, name: &RepositoryName) -> Result<CanonicalName, Error> {
        self.seeding.resolve(name).map_err(failed(name.as_str()))
    }
}

impl Destination for Local {
    fn identity(&self, name: &RepositoryName) -> String {
        // One that means nothing here is refused when it is put.
        self.canonical(name)
            .map_or_else(|_| name.to_string(), |canonical| canonical.to_string())
    }

    fn has_blob(&self, name: &RepositoryName, blob: &Descriptor) -> Result<bool, Error> {
        self.seeding
            .has_content(blob)
            .map_err(failed(&format!("{name}, blob {}", blob.digest)))
    }

    fn put_blob(
        &self,
        name: &RepositoryName,
        blob: &Descriptor,
        content: &Open<'_>,
    ) -> Result<(), Error> {
        self.seeding
            .put_content(blob, &mut *content()?)
            .map_err(failed(&format!("{name}, blob {}", blob.digest)))
    }

    fn put_manifest(
        &self,
        name: &RepositoryName,
        manifest: &Descriptor,
        bytes: &Bytes,
    ) -> Result<(), Error> {
        let canonical = self.canonical(name)?;
        self.seeding
            .put_manifest(&canonical, None, manifest, bytes)
            .map_err(failed(&format!("{name}, manifest {}", manifest.digest)))
    }

    fn scratch(&self) -> io::Result<File> {
        self.seeding.scratch()
    }

    fn put_image(
        &self,
        name: &RepositoryName,
        tag: Option<&Tag>,
        root: &Descriptor,
        bytes: &Bytes,
    ) -> Result<(), Error> {
        let canonical = self.canonical(name)?;
        self.seeding
            .put_manifest(&canonical, tag, root, bytes)
            .map_err(failed(&format!("{name}, manifest {}", root.digest)))
    }

    fn finish(&self) -> Result<(), Error> {
        Ok(())
    }
}

fn failed(place: &str) -> impl FnOnce(registry::Error) -> Error {
    let place = place.to_owned();
    move |error| Error::Destination {
        place,
        why: error.to_string(),
    }
}
