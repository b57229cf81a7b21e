//! An OCI layout as an origin, in a directory or in an archive.
//!
//! <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>

use std::io::Read;

use bytes::Bytes;

use super::{
    Error, Image, ImageName, Origin,
    files::{Directory, Files, read, required},
};
use crate::types::{Descriptor, Digest, Manifest, Role, manifest};

/// Bytes of a layout's own files, at most.
const INDEX_LIMIT: usize = 4 << 20;

/// An OCI layout. Everything in it is untrusted: names of blobs are made from parsed digests only.
pub(super) struct Layout<F> {
    files: F,
    images: Vec<Image>,
    manifest_limit: usize,
}

impl Layout<Directory> {
    pub(super) fn in_directory(
        path: &std::path::Path,
        manifest_limit: usize,
    ) -> Result<Self, Error> {
        Self::open(Directory::open(path)?, manifest_limit)
    }
}

impl<F: Files> Layout<F> {
    pub(super) fn open(files: F, manifest_limit: usize) -> Result<Self, Error> {
        let Some(version) = read(&files, VERSION_FILE, INDEX_LIMIT)? else {
            let hint = match files.open(DOCKER_LISTING)? {
                Some(_) => ": this is what docker save writes, docker-archive:FILE",
                None => "",
            };
            return Err(files.wrong(VERSION_FILE, format!("it is not there{hint}")));
        };
        let version: Result<serde_json::Value, _> = serde_json::from_slice(&version);
        if !version.is_ok_and(|version| {
            version
                .get("imageLayoutVersion")
                .is_some_and(serde_json::Value::is_string)
        }) {
            return Err(files.wrong(VERSION_FILE, "it is no OCI layout's version file"));
        }
        let index = required(&files, INDEX_FILE, INDEX_LIMIT)?;
        let entries = manifest::layout_index(&index)
            .map_err(|error| files.wrong(INDEX_FILE, error.to_string()))?;
        let image = |entry: manifest::LayoutEntry| {
            let name = NAMES.iter().find_map(|key| entry.annotations.get(*key));
            Image {
                name: name
                    .map(|text| ImageName::lenient(text))
                    .unwrap_or_default(),
                root: entry.descriptor,
            }
        };
        Ok(Self {
            images: entries.into_iter().map(image).collect(),
            files,
            manifest_limit,
        })
    }

    pub(super) fn files(&self) -> &F {
        &self.files
    }

    /// The configs of `image`, or of those images of an index that are here; what can't be read has none.
    pub(super) fn configs(&self, image: &Image) -> Result<Vec<Digest>, Error> {
        let parsed = |manifest: &Descriptor| {
            let bytes = read(
                &self.files,
                &blob_name(&manifest.digest),
                self.manifest_limit,
            )?;
            let media_type = manifest.media_type.as_ref().map(|kind| kind.as_str());
            Ok(bytes.map(|bytes| Manifest::pulled(&bytes, media_type)))
        };
        let Some(root) = parsed(&image.root)? else {
            return Ok(Vec::new());
        };
        let mut configs: Vec<Digest> = Vec::new();
        configs.extend(root.config().map(|config| config.digest.clone()));
        let children = root.references.iter();
        for child in children.filter(|child| child.role == Role::Manifest) {
            let child = parsed(child)?;
            let config = child.as_ref().and_then(Manifest::config);
            configs.extend(config.map(|config| config.digest.clone()));
        }
        Ok(configs)
    }

    fn open_blob(&self, digest: &Digest) -> Result<Box<dyn Read + Send + '_>, Error> {
        let name = blob_name(digest);
        match self.files.open(&name)? {
            Some(opened) => Ok(opened.content),
            None => Err(self
                .files
                .wrong(&name, "it is not there, and the image needs it")),
        }
    }
}

impl<F: Files> Origin for Layout<F> {
    fn images(&self) -> Result<Vec<Image>, Error> {
        Ok(self.images.clone())
    }

    fn manifest(&self, _: &Image, manifest: &Descriptor) -> Result<Bytes, Error> {
        let name = blob_name(&manifest.digest);
        match read(&self.files, &name, self.manifest_limit)? {
            Some(bytes) => Ok(bytes.into()),
            None => {
                let why = "it is not there, and the image needs it; --platform takes an image of an index alone";
                Err(self.files.wrong(&name, why))
            }
        }
    }

    fn blob(&self, _: &Image, blob: &Descriptor) -> Result<Box<dyn Read + Send + '_>, Error> {
        self.open_blob(&blob.digest)
    }

    fn holds(&self, _: &Image, blob: &Descriptor) -> Result<(), Error> {
        let name = blob_name(&blob.digest);
        match self.files.open(&name)? {
            Some(opened) if opened.size == blob.size => Ok(()),
            Some(opened) => Err(self.files.wrong(
                &name,
                format!(
                    "it has {} bytes, and should have {}",
                    opened.size, blob.size
                ),
            )),
            None => self.open_blob(&blob.digest).map(drop),
        }
    }

    fn place(&self, content: &Descriptor) -> String {
        self.files.place(&blob_name(&content.digest))
    }

    fn has(&self, manifest: &Descriptor) -> Result<bool, Error> {
        let name = blob_name(&manifest.digest);
        let Some(bytes) = read(&self.files, &name, self.manifest_limit)? else {
            return Ok(false);
        };
        let parsed = Manifest::pulled(
            &bytes,
            manifest.media_type.as_ref().map(|kind| kind.as_str()),
        );
        for reference in &parsed.references {
            let there = match reference.role {
                Role::NonDistributable => true,
                Role::Blob | Role::Manifest => {
                    self.files.open(&blob_name(&reference.digest))?.is_some()
                }
            };
            if !there {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn check(&self) -> Result<(), Error> {
        self.files.check()
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

pub(super) const VERSION_FILE: &str = "oci-layout";
pub(super) const INDEX_FILE: &str = "index.json";
/// What a docker archive has in place of the two.
const DOCKER_LISTING: &str = "manifest.json";
const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];
