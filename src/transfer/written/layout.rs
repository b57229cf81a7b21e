//! An OCI layout as a destination: a directory, or an archive of one.
//!
//! <https://github.com/opencontainers/image-spec/blob/main/image-layout.md>

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};
use serde_json::{Value, json};

use super::{
    Names,
    archive::Target,
    names,
    staged::{EXPORTS, Staged, beside, blob_name, copy, failed, followed},
};
use crate::{
    transfer::{Destination, Error, Open, Verified},
    types::{Descriptor, Digest, Manifest, RepositoryName, Tag, manifest},
};

/// A layout that is being written.
pub struct LayoutWriter {
    place: Place,
    staged: Staged,
    names: Names,
    parts: Mutex<Parts>,
}

enum Place {
    /// It becomes this directory, which was not there when it began.
    New(PathBuf),
    /// It is added to what this directory has.
    Present(PathBuf),
    Archive(Target),
}

#[derive(Default)]
struct Parts {
    /// What the index is to name, in the order of coming.
    entries: Vec<Entry>,
    /// What was put here, and is not merely in the directory already.
    contents: BTreeSet<Digest>,
}

struct Entry {
    root: Descriptor,
    media_type: String,
    /// `docker.io/library/app`, and the tag.
    name: Option<(String, String)>,
}

impl LayoutWriter {
    /// Into a directory: a new one, an empty one, or one that is a layout.
    pub fn directory(path: &Path, names: Names) -> Result<Self, Error> {
        let (path, shown) = followed(path)?;
        let (place, parent) = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = beside(&path);
                (Place::New(path), parent)
            }
            Err(error) => return Err(failed(&shown, &error)),
            Ok(_) => {
                check_is_layout(&path).map_err(|why| Error::Destination {
                    place: shown.clone(),
                    why,
                })?;
                (Place::Present(path.clone()), path)
            }
        };
        Ok(Self {
            staged: Staged::below(&parent, &shown).map_err(|error| failed(&shown, &error))?,
            place,
            names,
            parts: Mutex::default(),
        })
    }

    /// Into an archive.
    pub fn archive(target: Target, names: Names) -> Result<Self, Error> {
        Ok(Self {
            staged: target.stage()?,
            place: Place::Archive(target),
            names,
            parts: Mutex::default(),
        })
    }

    fn note(&self, digest: &Digest) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.contents.insert(digest.clone());
    }

    fn put(&self, content: &Descriptor, bytes: &[u8]) -> Result<(), Error> {
        self.staged
            .bytes(&inside(&blob_name(&content.digest)), bytes)?;
        self.note(&content.digest);
        Ok(())
    }

    /// Writes what is behind the blobs: the version, and an index of what is `held` and what is new.
    fn describe(&self, held: Option<Value>, parts: &Parts) -> Result<(), Error> {
        let mut index = held.unwrap_or_else(
            || json!({"schemaVersion": 2, "mediaType": manifest::OCI_INDEX, "manifests": []}),
        );
        if let Some(Value::Array(manifests)) = index.get_mut("manifests") {
            for entry in &parts.entries {
                manifests.retain(|held| !entry.replaces(held));
                let others = parts.entries.iter().filter_map(|other| other.name.as_ref());
                let is_shared = entry.name.as_ref().is_some_and(|(name, tag)| {
                    let mut others = others.filter(|(other, _)| other != name);
                    others.any(|(_, other)| other == tag)
                        || manifests
                            .iter()
                            .any(|held| annotation(held, REF_NAME) == Some(tag))
                });
                manifests.push(entry.descriptor(is_shared));
            }
        }
        let index = serde_json::to_vec(&index).map_err(|error| self.staged.failed(error.into()))?;
        self.staged.bytes(&inside(INDEX), &index)?;
        let version = br#"{"imageLayoutVersion":"1.0.0"}"#;
        self.staged.bytes(&inside(VERSION), version)
    }

    /// Becomes `path`, or is added to what has come there since.
    fn become_directory(&self, path: &Path, parts: &Parts) -> Result<(), Error> {
        self.describe(None, parts)?;
        match fs::rename(self.staged.path(WHOLE), path) {
            Err(_) if path.exists() => self.add_to(path, parts),
            renamed => renamed.map_err(|error| self.staged.failed(error)),
        }
    }

    /// Moves what was put into the directory, and names it last. Whoever else would meanwhile waits.
    fn add_to(&self, path: &Path, parts: &Parts) -> Result<(), Error> {
        let here = |error| self.staged.failed(error);
        let turn = File::open(path).map_err(here)?;
        flock(&turn, FlockOperation::LockExclusive).map_err(|error| here(error.into()))?;
        check_is_layout(path).map_err(|why| here(io::Error::other(why)))?;
        self.describe(held_index(path)?, parts)?;
        // First of all: who finds blobs without it takes the directory for something else.
        if !path.join(VERSION).exists() {
            fs::rename(self.staged.path(&inside(VERSION)), path.join(VERSION)).map_err(here)?;
        }
        for digest in &parts.contents {
            let name = blob_name(digest);
            let target = path.join(&name);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(here)?;
            }
            fs::rename(self.staged.path(&inside(&name)), target).map_err(here)?;
        }
        fs::rename(self.staged.path(&inside(INDEX)), path.join(INDEX)).map_err(here)
    }

    fn pack(&self, target: &Target, parts: &Parts) -> Result<(), Error> {
        target.write(&self.staged, |archive| {
            let mut made = BTreeSet::new();
            let mut names: Vec<String> = parts.contents.iter().map(blob_name).collect();
            names.sort_unstable();
            for name in &names {
                for (at, _) in name.match_indices('/') {
                    if made.insert(name[..at].to_owned()) {
                        archive.directory(&name[..at])?;
                    }
                }
                archive.staged(name, &inside(name))?;
            }
            archive.staged(INDEX, &inside(INDEX))?;
            archive.staged(VERSION, &inside(VERSION))
        })
    }
}

impl Destination for LayoutWriter {
    fn has_blob(&self, _: &RepositoryName, blob: &Descriptor) -> Result<bool, Error> {
        let name = blob_name(&blob.digest);
        if self.staged.size(&inside(&name)) == Some(blob.size) {
            return Ok(true);
        }
        let Place::Present(path) = &self.place else {
            return Ok(false);
        };
        // What is damaged is written anew.
        Ok(File::open(path.join(name)).is_ok_and(|file| is_whole(&file, blob)))
    }

    fn put_blob(
        &self,
        _: &RepositoryName,
        blob: &Descriptor,
        content: &Open<'_>,
    ) -> Result<(), Error> {
        self.staged
            .file(&inside(&blob_name(&blob.digest)), |file| {
                copy(blob, content, |piece| {
                    std::io::Write::write_all(file, piece)
                })
            })?;
        self.note(&blob.digest);
        Ok(())
    }

    fn put_manifest(
        &self,
        _: &RepositoryName,
        manifest: &Descriptor,
        bytes: &Bytes,
    ) -> Result<(), Error> {
        self.put(manifest, bytes)
    }

    fn put_image(
        &self,
        name: &RepositoryName,
        tag: Option<&Tag>,
        root: &Descriptor,
        bytes: &Bytes,
    ) -> Result<(), Error> {
        self.put(root, bytes)?;
        let declared = root.media_type.as_ref().map(|kind| kind.as_str());
        let tag = self.names.tag.as_ref().or(tag);
        let entry = Entry {
            root: root.clone(),
            media_type: Manifest::pulled(bytes, declared).media_type.to_string(),
            name: tag.map(|tag| (names::full(name, &self.names.default), tag.to_string())),
        };
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.entries.push(entry);
        Ok(())
    }

    fn finish(&self) -> Result<(), Error> {
        let parts = std::mem::take(&mut *self.parts.lock().unwrap_or_else(PoisonError::into_inner));
        match &self.place {
            Place::Archive(target) => {
                self.describe(None, &parts)?;
                self.pack(target, &parts)
            }
            Place::Present(path) => self.add_to(path, &parts),
            Place::New(path) => self.become_directory(path, &parts),
        }
    }
}

impl Entry {
    /// Clients choose an image of several by its reference name, which is the tag, as docker has it; the whole name if the tag
    /// `is_shared` with another image, as podman has it.
    fn descriptor(&self, is_shared: bool) -> Value {
        let mut descriptor = json!({
            "mediaType": self.media_type,
            "digest": self.root.digest.to_string(),
            "size": self.root.size,
        });
        if let Some((name, tag)) = &self.name {
            let whole = format!("{name}:{tag}");
            descriptor["annotations"] = json!({
                REF_NAME: if is_shared { &whole } else { tag },
                NAME: whole,
            });
        }
        descriptor
    }

    /// Whether what an index names already is called the same; images without a name are the same if they are.
    fn replaces(&self, held: &Value) -> bool {
        match &self.name {
            None => {
                annotation(held, REF_NAME).is_none()
                    && held.get("digest").and_then(Value::as_str)
                        == Some(&*self.root.digest.to_string())
            }
            Some((name, tag)) => {
                let whole = format!("{name}:{tag}");
                match annotation(held, NAME) {
                    Some(held) => held == whole,
                    None => {
                        annotation(held, REF_NAME).is_some_and(|held| held == tag || held == whole)
                    }
                }
            }
        }
    }
}

fn annotation<'a>(held: &'a Value, key: &str) -> Option<&'a str> {
    held.get("annotations")?.get(key)?.as_str()
}

/// Where it is staged: what becomes the directory is not what is locked while it is written.
fn inside(name: &str) -> String {
    format!("{WHOLE}/{name}")
}

fn is_whole(file: &File, blob: &Descriptor) -> bool {
    let mut content = Verified::new(file, blob);
    let mut buffer = vec![0; 256 << 10];
    let sized = file.metadata();
    sized.is_ok_and(|found| found.is_file() && found.len() == blob.size)
        && loop {
            match content.read(&mut buffer) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
        }
}

/// What the index of a directory says by now.
fn held_index(path: &Path) -> Result<Option<Value>, Error> {
    let file = path.join(INDEX);
    let shown = file.display().to_string();
    let refused = |why: String| Error::Destination {
        place: shown.clone(),
        why,
    };
    let bytes = match fs::read(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|error| failed(&shown, &error))?,
    };
    manifest::layout_index(&bytes).map_err(|error| refused(error.to_string()))?;
    let index = serde_json::from_slice(&bytes);
    index.map(Some).map_err(|error| refused(error.to_string()))
}

/// Whether an image may be added to what is there; if not, why.
fn check_is_layout(path: &Path) -> Result<(), String> {
    if !path.is_dir() {
        return Err("it is there, and no directory".to_owned());
    }
    let entries = fs::read_dir(path).map_err(|error| error.to_string())?;
    let mut found = None;
    for entry in entries {
        let name = entry.map_err(|error| error.to_string())?.file_name();
        let name = name.to_string_lossy().into_owned();
        // What an export leaves that was killed.
        if !EXPORTS.include(&name) {
            found = Some(name);
        }
    }
    let Some(found) = found else {
        return Ok(());
    };
    let version = fs::read(path.join(VERSION)).ok();
    let version: Option<Value> = version.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match version.and_then(|version| {
        version
            .get("imageLayoutVersion")?
            .as_str()
            .map(str::to_owned)
    }) {
        Some(version) if version.starts_with("1.") => Ok(()),
        Some(version) => Err(format!(
            "it is an OCI layout of version {version:?}, which is not known"
        )),
        None => Err(format!(
            "it is no OCI layout, but holds {found:?}: name a new directory, or an empty one"
        )),
    }
}

const WHOLE: &str = "layout";
const VERSION: &str = "oci-layout";
const INDEX: &str = "index.json";
const NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
