//! What `manifest.json` says an archive holds, and what the images' own configs say.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Deserialize;

use crate::{
    transfer::{
        Error, ImageName, Platform,
        files::{Files as _, read, required},
        tarball::Tarball,
    },
    types::{Algorithm, Digest, MediaType},
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
    layer_sources: Option<HashMap<String, Foreign>>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: Option<RootFs>,
    #[serde(flatten)]
    rest: HashMap<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<Digest>>,
}

/// All images of the archive.
pub(super) fn images(files: &Tarball) -> Result<Vec<Listed>, Error> {
    let Some(listing) = read(files, LISTING, LISTING_LIMIT)? else {
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
    let entries: Vec<Entry> = serde_json::from_slice(&listing)
        .map_err(|error| files.wrong(LISTING, format!("it can't be read: {error}")))?;
    if entries.is_empty() {
        return Err(files.wrong(LISTING, "it names no image at all"));
    }
    entries
        .into_iter()
        .map(|entry| image(files, entry))
        .collect()
}

fn image(files: &Tarball, entry: Entry) -> Result<Listed, Error> {
    let bytes = required(files, &entry.config, LISTING_LIMIT)?;
    let wrong = |why: String| files.wrong(&entry.config, why);
    let id = Digest::of(Algorithm::Sha256, &bytes);
    if let Some(named) = hex_in(&entry.config)
        && named != id.hex()
    {
        return Err(wrong(format!(
            "its bytes have the digest {id}, and its name says otherwise"
        )));
    }
    let config: Config = serde_json::from_slice(&bytes)
        .map_err(|error| wrong(format!("it can't be read: {error}")))?;
    let diff_ids = config.rootfs.and_then(|rootfs| rootfs.diff_ids);
    let diff_ids = diff_ids.unwrap_or_default();
    let layers = entry.layers.unwrap_or_default();
    if layers.len() != diff_ids.len() {
        return Err(wrong(format!(
            "it names {} layers, and {LISTING} {}",
            diff_ids.len(),
            layers.len()
        )));
    }
    let mut sources = entry.layer_sources.unwrap_or_default();
    let layer = |(entry, diff_id): (String, Digest)| {
        let source = sources.remove(&diff_id.to_string());
        let is_foreign = |source: &Foreign| {
            let media_type = MediaType::parse(&source.media_type);
            media_type.is_some_and(|kind| !kind.is_distributable()) && !source.urls.is_empty()
        };
        Layer {
            entry,
            foreign: source.filter(is_foreign),
            diff_id,
        }
    };
    let text = |key: &str| Some(config.rest.get(key)?.as_str()?.to_owned());
    let platform = text("os").zip(text("architecture"));
    let mut names: Vec<ImageName> = entry
        .repo_tags
        .iter()
        .flatten()
        .map(|name| ImageName::lenient(name))
        .collect();
    // Those that are none of ours are no loss where another is.
    names.retain(|name| *name != ImageName::default());
    Ok(Listed {
        names: match names.is_empty() {
            true => vec![ImageName::default()],
            false => names,
        },
        platform: platform.map(|(os, architecture)| Platform {
            os,
            architecture,
            variant: text("variant"),
        }),
        layers: layers.into_iter().zip(diff_ids).map(layer).collect(),
        id,
        config: bytes.into(),
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
