//! Seeding from an OCI layout on disk: an image is copied in whole, verified, and only then visible.
//!
//! <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use super::{Asked, Registry};
use crate::{
    storage::{Member, Reason, TagEntry},
    types::{
        CanonicalName, Descriptor, Digest, Manifest, Namespace, RepositoryName, Role, Tag, manifest,
    },
};
use bytes::Bytes;

/// An image that can be pulled now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seeded {
    pub name: CanonicalName,
    pub tag: Tag,
    pub digest: Digest,
}

impl Registry {
    /// Copies images of the layout in `dir` into `_local`: all that its index names, or the one that it names `only`.
    /// `name` overrides the repository and the tag that the layout gives. What is here already is not copied again.
    /// Blocks.
    pub fn seed(
        &self,
        dir: &Path,
        only: Option<&Tag>,
        name: Option<(&str, Option<&Tag>)>,
    ) -> Result<Vec<Seeded>, SeedError> {
        let layout = Layout { dir };
        let mut chosen = layout.index()?;
        if let Some(only) = only {
            chosen.retain(|entry| {
                entry
                    .name
                    .as_ref()
                    .is_some_and(|name| name.tag.as_ref() == Some(only))
            });
        }
        if chosen.is_empty() {
            let what = only.map_or_else(
                || "no image at all".to_owned(),
                |tag| format!("no image tagged {tag}"),
            );
            return Err(layout.error("index.json", format!("it names {what}")));
        }
        let tags = name.as_ref().and_then(|(_, tag)| *tag);
        if tags.is_some() && chosen.len() > 1 {
            let why = format!(
                "it names {} images, and one name can't be given to all: choose one by its tag",
                chosen.len()
            );
            return Err(layout.error("index.json", why));
        }
        let mut seeded = Vec::new();
        for entry in chosen {
            let own = entry.name.clone().unwrap_or_default();
            let repository = match (name, own.repository) {
                (Some((repository, _)), _) => repository.to_owned(),
                (None, Some(repository)) => repository,
                (None, None) => layout.basename()?,
            };
            let asked = Asked {
                name: &repository,
                ..Asked::default()
            };
            let target = self
                .resolve(&asked)
                .map_err(|error| layout.error("index.json", error.to_string()))?;
            let tag = match tags.cloned().or(own.tag) {
                Some(tag) => tag,
                None => "latest"
                    .parse()
                    .map_err(|error| layout.error("index.json", format!("{error}")))?,
            };
            let digest = self.seed_manifest(&layout, &target.name, &entry.descriptor, 0)?;
            let named = TagEntry {
                digest: digest.clone(),
                manifest: None,
                checked: None,
                previous: None,
            };
            self.0
                .store
                .put_tag(Namespace::Local, &target.name, &tag, &named)
                .map_err(|error| layout.error("index.json", error.to_string()))?;
            seeded.push(Seeded {
                name: target.name,
                tag,
                digest,
            });
        }
        Ok(seeded)
    }

    /// What the manifest names first, the manifest last.
    fn seed_manifest(
        &self,
        layout: &Layout<'_>,
        name: &CanonicalName,
        descriptor: &Descriptor,
        depth: usize,
    ) -> Result<Digest, SeedError> {
        const DEEPEST: usize = 8;
        let digest = &descriptor.digest;
        let path = layout.blob(digest);
        let failed = |why: String| layout.error(&path, why);
        if depth > DEEPEST {
            return Err(failed("indexes are nested too deeply".to_owned()));
        }
        let bytes = layout.read(&path, self.limits().manifest)?;
        let found = Digest::of(digest.algorithm(), &bytes);
        if found != *digest {
            return Err(failed(format!(
                "its bytes have digest {found}: the layout is damaged"
            )));
        }
        if bytes.len() as u64 != descriptor.size {
            return Err(failed(format!(
                "it has {} bytes, and what names it says {}",
                bytes.len(),
                descriptor.size
            )));
        }
        let media_type = descriptor
            .media_type
            .as_ref()
            .map(|media_type| media_type.as_str());
        let manifest =
            Manifest::pushed(&bytes, media_type).map_err(|error| failed(error.to_string()))?;
        for reference in &manifest.references {
            match reference.role {
                Role::NonDistributable => {}
                Role::Manifest => {
                    self.seed_manifest(layout, name, reference, depth + 1)?;
                }
                Role::Blob => self.seed_blob(layout, name, reference)?,
            }
        }
        self.0
            .store
            .put_manifest(Namespace::Local, name, digest, &bytes, &manifest)
            .and_then(|()| self.0.catalog.note_push(&self.0.store, name))
            .map_err(|error| failed(error.to_string()))?;
        Ok(digest.clone())
    }

    fn seed_blob(
        &self,
        layout: &Layout<'_>,
        name: &CanonicalName,
        blob: &Descriptor,
    ) -> Result<(), SeedError> {
        const PIECE: usize = 1 << 20;
        let store = &self.0.store;
        let path = layout.blob(&blob.digest);
        let failed = |why: String| layout.error(&path, why);
        let stored = |error: crate::storage::Error| layout.error(&path, error.to_string());
        let _pin = store.pin(&blob.digest);
        if store.stat(&blob.digest).map_err(stored)? != Some(blob.size) {
            let mut file = layout.open(&path)?;
            let mut staging = store.stage(blob.digest.algorithm()).map_err(stored)?;
            let mut buffer = vec![0; PIECE];
            loop {
                let read = file
                    .read(&mut buffer)
                    .map_err(|error| failed(format!("it can't be read: {error}")))?;
                if read == 0 {
                    break;
                }
                staging.write(&buffer[..read]).map_err(stored)?;
            }
            if staging.offset() != blob.size {
                return Err(failed(format!(
                    "it has {} bytes, and its manifest says {}",
                    staging.offset(),
                    blob.size
                )));
            }
            let verified = staging
                .verify(&blob.digest)
                .map_err(stored)?
                .map_err(|found| {
                    failed(format!(
                        "its bytes have digest {found}: the layout is damaged"
                    ))
                })?;
            store.commit(verified).map_err(stored)?;
        }
        let member = Member {
            size: blob.size,
            media_type: None,
            source: None,
        };
        store
            .add_member(
                Namespace::Local,
                name,
                &blob.digest,
                &Reason::Pushed,
                &member,
            )
            .map_err(stored)
    }
}

/// Bytes of a layout's own files, at most.
const INDEX_LIMIT: usize = 4 << 20;

/// An OCI layout on disk. Everything in it is untrusted: paths are made from parsed digests only.
struct Layout<'a> {
    dir: &'a Path,
}

/// An image that the layout's index names.
struct Entry {
    descriptor: Descriptor,
    name: Option<ImageName>,
}

/// `REPOSITORY[:TAG]`, or a tag alone.
#[derive(Clone, Default)]
struct ImageName {
    repository: Option<String>,
    tag: Option<Tag>,
}

impl Layout<'_> {
    fn index(&self) -> Result<Vec<Entry>, SeedError> {
        let version = self.read("oci-layout", INDEX_LIMIT)?;
        let version: Result<serde_json::Value, _> = serde_json::from_slice(&version);
        if !version.is_ok_and(|version| {
            version
                .get("imageLayoutVersion")
                .is_some_and(serde_json::Value::is_string)
        }) {
            return Err(self.error(
                "oci-layout",
                "it is no OCI layout's version file".to_owned(),
            ));
        }
        let bytes = self.read("index.json", INDEX_LIMIT)?;
        let entries = manifest::layout_index(&bytes)
            .map_err(|error| self.error("index.json", error.to_string()))?;
        let named = |entry: manifest::LayoutEntry| {
            let name = [
                "io.containerd.image.name",
                "org.opencontainers.image.ref.name",
            ]
            .iter()
            .find_map(|key| entry.annotations.get(*key))
            .map(|text| ImageName::parse(text));
            Entry {
                descriptor: entry.descriptor,
                name,
            }
        };
        Ok(entries.into_iter().map(named).collect())
    }

    /// The directory's own name, for images that the layout gives no repository.
    fn basename(&self) -> Result<String, SeedError> {
        let nameless =
            |why: String| self.error("", format!("{why}: name the image, as in oci:DIR=NAME:TAG"));
        let path = self
            .dir
            .canonicalize()
            .map_err(|error| nameless(error.to_string()))?;
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .map(str::to_ascii_lowercase)
            .unwrap_or_default();
        match name.parse::<RepositoryName>() {
            Ok(_) => Ok(name),
            Err(error) => Err(nameless(error.to_string())),
        }
    }

    fn blob(&self, digest: &Digest) -> String {
        format!("blobs/{}/{}", digest.algorithm(), digest.hex())
    }

    fn open(&self, path: &str) -> Result<File, SeedError> {
        let file = File::open(self.dir.join(path))
            .map_err(|error| self.error(path, format!("it can't be opened: {error}")))?;
        // A pipe or a device would be read for ever.
        if file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            Ok(file)
        } else {
            Err(self.error(path, "it is no regular file".to_owned()))
        }
    }

    fn read(&self, path: &str, limit: usize) -> Result<Bytes, SeedError> {
        let mut bytes = Vec::new();
        let file = self.open(path)?;
        file.take(limit as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| self.error(path, format!("it can't be read: {error}")))?;
        if bytes.len() > limit {
            return Err(self.error(path, format!("it is larger than {limit} bytes")));
        }
        Ok(bytes.into())
    }

    fn error(&self, path: &str, why: String) -> SeedError {
        SeedError {
            path: self.dir.join(path),
            why,
        }
    }
}

impl ImageName {
    fn parse(text: &str) -> Self {
        if let Ok(tag) = text.parse() {
            return Self {
                repository: None,
                tag: Some(tag),
            };
        }
        match text.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => Self {
                repository: Some(repository.to_owned()),
                tag: tag.parse().ok(),
            },
            _ => Self {
                repository: Some(text.to_owned()),
                tag: None,
            },
        }
    }
}

/// A layout that can't be seeded from; the text names the file and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("can't seed from {}: {why}", path.display())]
pub struct SeedError {
    path: PathBuf,
    why: String,
}
