//! Archives as `docker save` writes them, right and wrong.

use std::{io::Write as _, path::Path};

use serde_json::{Value, json};

use super::image::{random_bytes, sha256};

/// An archive's entries, in their order.
#[derive(Clone, Default)]
pub(crate) struct Saved {
    pub(crate) entries: Vec<(String, Entry)>,
}

#[derive(Clone)]
pub(crate) enum Entry {
    File(Vec<u8>),
    Symlink(String),
}

/// A layer, and how the archive has it.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) plain: Vec<u8>,
    pub(crate) packed: Vec<u8>,
}

impl Layer {
    /// As docker saves it.
    pub(crate) fn plain(seed: u64, length: usize) -> Self {
        let plain = random_bytes(seed, length).to_vec();
        Self {
            packed: plain.clone(),
            plain,
        }
    }

    pub(crate) fn gzip(seed: u64, length: usize) -> Self {
        let layer = Self::plain(seed, length);
        Self {
            packed: gzip(&layer.plain),
            ..layer
        }
    }

    pub(crate) fn zstd(seed: u64, length: usize) -> Self {
        let layer = Self::plain(seed, length);
        Self {
            packed: zstd::stream::encode_all(&*layer.plain, 3).unwrap(),
            ..layer
        }
    }

    pub(crate) fn diff_id(&self) -> String {
        sha256(&self.plain)
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(9));
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// What docker keeps of an image of these layers; what only docker knows is among it.
pub(crate) fn config(layers: &[&Layer]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id()).collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Healthcheck": {"Test": ["CMD", "true"]}, "OnBuild": ["RUN true"]},
        "history": [{"created_by": "COPY / /"}],
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    // Not as any serializer would write it again.
    format!("  {config}\n").into_bytes()
}

impl Saved {
    /// The images one after the other, each by its names.
    pub(crate) fn of(images: &[(&[&str], &[&Layer])]) -> Self {
        let mut saved = Self::default();
        let mut listing = Vec::new();
        for (names, layers) in images {
            let config = config(layers);
            let hex = sha256(&config)["sha256:".len()..].to_owned();
            let mut paths = Vec::new();
            for layer in *layers {
                let path = format!("{}/layer.tar", &layer.diff_id()["sha256:".len()..]);
                saved.put(&path, &layer.packed);
                paths.push(path);
            }
            saved.put(&format!("{hex}.json"), &config);
            listing.push(json!({
                "Config": format!("{hex}.json"),
                "RepoTags": match names.is_empty() { true => Value::Null, false => json!(names) },
                "Layers": paths,
            }));
        }
        saved.put("manifest.json", json!(listing).to_string().as_bytes());
        saved
    }

    /// Adds a file, or replaces it.
    pub(crate) fn put(&mut self, name: &str, bytes: &[u8]) {
        self.set(name, Entry::File(bytes.to_vec()));
    }

    pub(crate) fn set(&mut self, name: &str, entry: Entry) {
        self.remove(name);
        self.entries.push((name.to_owned(), entry));
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.entries.retain(|(held, _)| held != name);
    }

    /// The name of the first entry that ends so.
    pub(crate) fn named(&self, end: &str) -> String {
        let found = self.entries.iter().find(|(name, _)| name.ends_with(end));
        found.unwrap().0.clone()
    }

    pub(crate) fn listing(&mut self, change: impl FnOnce(&mut Value)) {
        let held = self
            .entries
            .iter()
            .find(|(name, _)| name == "manifest.json");
        let Some((_, Entry::File(bytes))) = held else {
            panic!("no listing");
        };
        let mut listing: Value = serde_json::from_slice(bytes).unwrap();
        change(&mut listing);
        self.put("manifest.json", listing.to_string().as_bytes());
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, entry) in &self.entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            match entry {
                Entry::File(bytes) => {
                    header.set_size(bytes.len() as u64);
                    archive.append_data(&mut header, name, &**bytes).unwrap();
                }
                Entry::Symlink(target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_size(0);
                    archive.append_link(&mut header, name, target).unwrap();
                }
            }
        }
        archive.into_inner().unwrap()
    }

    pub(crate) fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).unwrap();
    }
}
