//! What `manifest.json` says an archive holds, and what the images' own configs say.

use std::{collections::HashMap, rc::Rc};

use bytes::Bytes;
use serde::Deserialize;

use crate::{
    transfer::{
        Error, ImageName, Platform,
        files::{Files as _, read, required},
        platform,
        tarball::Tarball,
    },
    types::{Algorithm, Digest, MediaType, manifest::Object},
};

/// An image of the archive.
pub(in crate::transfer) struct Listed {
    /// By `docker tag`; one that is empty stands for none.
    pub(in crate::transfer) names: Vec<ImageName>,
    /// Of its config, which docker calls the image's ID.
    pub(in crate::transfer) id: Digest,
    pub(super) config: Bytes,
    pub(in crate::transfer) platform: Option<Platform>,
    /// From the lowest on.
    pub(super) layers: Vec<Layer>,
}

/// A layer as the archive and the config name it.
pub(super) struct Layer {
    pub(super) entry: String,
    /// Of its bytes when they are not compressed.
    pub(super) diff_id: Digest,
    /// Where else it is to be had, if it is one that registries need not hold.
    pub(super) foreign: Option<Foreign>,
}

/// The descriptor of a layer that is fetched from its maker's own address.
#[derive(Clone, Deserialize)]
pub(super) struct Foreign {
    #[serde(rename = "mediaType")]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default)]
    pub(super) urls: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    // Go writes null for none.
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
    layer_sources: Option<HashMap<String, Object<Foreign>>>,
}

impl Entry {
    /// Those that are none of ours are left out.
    fn names(&self) -> Vec<ImageName> {
        let names = self.repo_tags.iter().flatten();
        let names = names.map(|name| ImageName::lenient(name));
        names.filter(|name| *name != ImageName::default()).collect()
    }
}

#[derive(Deserialize)]
struct Config {
    rootfs: Option<Object<RootFs>>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<Digest>>,
}

/// All images of the archive.
pub(super) fn images(files: &Tarball) -> Result<Vec<Listed>, Error> {
    let Some(entries) = entries(files)? else {
        let why = match files.open("repositories")? {
            Some(_) => {
                "it was saved by a docker before 1.10: load it into a newer one and save it there"
            }
            None => {
                "it is no docker archive, or was cut off; an OCI layout in an archive is oci-archive:FILE"
            }
        };
        return Err(files.wrong("", format!("it has no {LISTING}: {why}")));
    };
    let mut configs = Configs::default();
    let mut images = Vec::with_capacity(entries.len());
    let mut layers = 0;
    for entry in entries {
        let image = image(files, entry, &mut configs)?;
        layers += image.layers.len();
        if layers > MOST_LAYERS {
            let why = format!("its images have more than {MOST_LAYERS} layers together");
            return Err(files.wrong(LISTING, why));
        }
        images.push(image);
    }
    Ok(images)
}

/// What the archive says of its images before any of them is looked at; `None` if it does not.
fn entries(files: &Tarball) -> Result<Option<Vec<Entry>>, Error> {
    let Some(listing) = read(files, LISTING, LISTING_LIMIT)? else {
        return Ok(None);
    };
    let entries: Vec<Object<Entry>> = serde_json::from_slice(&listing)
        .map_err(|error| files.wrong(LISTING, format!("it can't be read: {error}")))?;
    let entries: Vec<Entry> = entries.into_iter().map(|Object(entry)| entry).collect();
    if entries.is_empty() {
        return Err(files.wrong(LISTING, "it names no image at all"));
    }
    let tags = entries.iter().flat_map(|entry| &entry.repo_tags);
    let names: usize = tags.map(Vec::len).sum();
    for (count, what, most) in [
        (entries.len(), "images", MOST_IMAGES),
        (names, "tags", MOST_NAMES),
    ] {
        if count > most {
            let why = format!("it names {count} {what}, and {most} are read at most");
            return Err(files.wrong(LISTING, why));
        }
    }
    Ok(Some(entries))
}

/// An image as `manifest.json` tells it from the others.
pub(in crate::transfer) struct Numbered {
    pub(in crate::transfer) names: Vec<ImageName>,
    /// Its config's digest, where that is named by it.
    pub(in crate::transfer) id: Option<Digest>,
}

/// The images in the order of `manifest.json`; `None` if there is none.
pub(in crate::transfer) fn numbered(files: &Tarball) -> Result<Option<Vec<Numbered>>, Error> {
    let of = |entry: Entry| Numbered {
        names: entry.names(),
        id: hex_in(&entry.config).and_then(|hex| format!("sha256:{hex}").parse().ok()),
    };
    let entries = entries(files)?;
    Ok(entries.map(|entries| entries.into_iter().map(of).collect()))
}

/// Those that were read, by where they are: many images may have one.
#[derive(Default)]
struct Configs {
    read: HashMap<u64, Rc<Held>>,
    bytes: usize,
}

struct Held {
    id: Digest,
    bytes: Bytes,
    diff_ids: Vec<Digest>,
    platform: Option<Platform>,
}

impl Configs {
    fn get(&mut self, files: &Tarball, name: &str) -> Result<Rc<Held>, Error> {
        let place = files.behind(name)?;
        if let Some(held) = place.and_then(|place| self.read.get(&place)) {
            return Ok(Rc::clone(held));
        }
        let bytes = required(files, name, LISTING_LIMIT)?;
        let wrong = |why: String| files.wrong(name, why);
        self.bytes += bytes.len();
        if self.bytes > MOST_CONFIGS {
            let most = MOST_CONFIGS >> 20;
            return Err(wrong(format!(
                "with it the configs have more than {most} MiB"
            )));
        }
        let Object(config): Object<Config> = serde_json::from_slice(&bytes)
            .map_err(|error| wrong(format!("it can't be read: {error}")))?;
        let diff_ids = config.rootfs.and_then(|Object(rootfs)| rootfs.diff_ids);
        let platform = platform::of_config(&bytes);
        let held = Rc::new(Held {
            id: Digest::of(Algorithm::Sha256, &bytes),
            bytes: bytes.into(),
            diff_ids: diff_ids.unwrap_or_default(),
            platform,
        });
        if let Some(place) = place {
            self.read.insert(place, Rc::clone(&held));
        }
        Ok(held)
    }
}

fn image(files: &Tarball, entry: Entry, configs: &mut Configs) -> Result<Listed, Error> {
    let config = configs.get(files, &entry.config)?;
    let wrong = |why: String| files.wrong(&entry.config, why);
    if let Some(named) = hex_in(&entry.config)
        && named != config.id.hex()
    {
        let id = &config.id;
        return Err(wrong(format!(
            "its bytes have the digest {id}, and its name says otherwise"
        )));
    }
    let mut names = entry.names();
    if names.is_empty() {
        names.push(ImageName::default());
    }
    let layers = entry.layers.unwrap_or_default();
    if layers.len() != config.diff_ids.len() {
        return Err(wrong(format!(
            "it names {} layers, and {LISTING} {}",
            config.diff_ids.len(),
            layers.len()
        )));
    }
    let mut sources = entry.layer_sources.unwrap_or_default();
    let layer = |(entry, diff_id): (String, &Digest)| {
        let source = sources.remove(&diff_id.to_string());
        let source = source.map(|Object(source)| source);
        let is_foreign = |source: &Foreign| {
            let media_type = MediaType::parse(&source.media_type);
            media_type.is_some_and(|kind| !kind.is_distributable()) && !source.urls.is_empty()
        };
        Layer {
            entry,
            foreign: source.filter(is_foreign),
            diff_id: diff_id.clone(),
        }
    };
    Ok(Listed {
        names,
        id: config.id.clone(),
        config: config.bytes.clone(),
        platform: config.platform.clone(),
        layers: layers
            .into_iter()
            .zip(&config.diff_ids)
            .map(layer)
            .collect(),
    })
}

/// The digest that a file is named by, as all who write such archives do with configs.
fn hex_in(name: &str) -> Option<&str> {
    let name = name.rsplit('/').next()?;
    let name = name.strip_suffix(".json").unwrap_or(name);
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let is_hex = hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then_some(hex)
}

const LISTING: &str = "manifest.json";
/// Of it, and of a config, in bytes.
const LISTING_LIMIT: usize = 8 << 20;
/// Far more than anybody saves at once, and little to hold.
const MOST_IMAGES: usize = 1000;
const MOST_NAMES: usize = 10_000;
const MOST_LAYERS: usize = 100_000;
/// Of all configs together, in bytes.
const MOST_CONFIGS: usize = 64 << 20;
