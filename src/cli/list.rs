//! `standin list`: what a data directory holds.

use clap::Args;
use serde::Serialize;

use super::{
    serve,
    upkeep::{ago, look, pattern, patterns, table, timestamp},
};
use crate::{
    activity::words::{count, size},
    config::{Config, Flags, Sources},
    types::{Digest, MediaType, Tag},
    upkeep::{self, Image, Listed, Listing, Totals},
};

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Names to list, such as 'acme/**' or quay.io/acme/tool{n}[default: all]
    #[arg(value_name = "PATTERN", value_parser = pattern)]
    patterns: Vec<String>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    directories: serve::Directories,
    #[command(flatten)]
    file: serve::File,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let directories = self.directories.or_of_the_named()?;
        let flags = directories.add_to(Flags::new(self.file.config));
        let sources = Sources::read(flags, std::env::vars_os().collect())?;
        let config = Config::from_sources(&sources)?;
        let patterns = patterns(&self.patterns, &config)?;
        let listing = match look(&config)? {
            Some(store) => upkeep::list(&store, &patterns),
            None => Listing::default(),
        };
        if !listing.odd.is_empty() {
            log::warn!(
                "{} in {} can't be read or are none of standin's: `standin verify` says which",
                count(listing.odd.len() as u64, "file", "files"),
                config.data.display()
            );
        }
        if self.json {
            let json = Json {
                images: listing.images.iter().map(JsonImage::from).collect(),
                totals: JsonTotals::from(&listing.totals),
            };
            return super::print(serde_json::to_string(&json)?);
        }
        let mut rows = Vec::new();
        for listed in &listing.images {
            rows.extend(self::rows(listed));
        }
        if !rows.is_empty() {
            let head = ["IMAGE", "DIGEST", "SIZE", "SHARED", "USED", "KEPT", "STATE"];
            rows.insert(0, head.map(str::to_owned).to_vec());
            super::print(format_args!("{}\n", table(&rows)))?;
        }
        super::print(summary(&listing.totals))
    }
}

/// One row for each tag.
fn rows(listed: &Listed) -> Vec<Vec<String>> {
    let image = &listed.image;
    let names = match image.tags.is_empty() {
        true => vec![image.name.to_string()],
        false => image.labels(),
    };
    let kept = if image.is_local() { "local" } else { "cached" };
    let row = |name: String| {
        vec![
            name,
            short(&image.digest),
            size(image.bytes()),
            size(listed.shared),
            ago(image.used),
            kept.to_owned(),
            state(image),
        ]
    };
    names.into_iter().map(row).collect()
}

/// As much of it as nobody mistakes for another's.
fn short(digest: &Digest) -> String {
    format!("{}:{}", digest.algorithm(), &digest.hex()[..12])
}

fn state(image: &Image) -> String {
    let platforms = || {
        image
            .children
            .iter()
            .filter_map(|child| child.platform.as_deref())
    };
    if image.is_whole() {
        return match platforms().next() {
            None => "whole".to_owned(),
            Some(_) => format!("whole: {}", platforms().collect::<Vec<_>>().join(", ")),
        };
    }
    if platforms().next().is_none() {
        return format!("{} of {} missing", image.absent(), image.named.len());
    }
    let here = image.children.iter().filter(|child| child.whole);
    let here: Vec<&str> = here.filter_map(|child| child.platform.as_deref()).collect();
    let of = format!("{} of {} platforms", here.len(), platforms().count());
    match here.is_empty() {
        true => of,
        false => format!("{of}: {}", here.join(", ")),
    }
}

fn summary(totals: &Totals) -> String {
    let mut text = format!(
        "{}, {} on disk: {} local, {} cached; {} of it in more than one image, {} in none",
        count(totals.images as u64, "image", "images"),
        size(totals.bytes),
        size(totals.local),
        size(totals.cached),
        size(totals.shared),
        size(totals.unnamed)
    );
    if totals.quarantined > 0 {
        text.push_str(&format!(
            "; {} in quarantine besides",
            size(totals.quarantined)
        ));
    }
    text
}

#[derive(Serialize)]
struct Json<'a> {
    images: Vec<JsonImage<'a>>,
    totals: JsonTotals,
}

#[derive(Serialize)]
struct JsonImage<'a> {
    name: String,
    registry: String,
    tags: Vec<String>,
    digest: &'a Digest,
    media_type: &'a MediaType,
    local: bool,
    bytes: u64,
    shared_bytes: u64,
    used: Option<String>,
    whole: bool,
    missing: usize,
    platforms: Vec<JsonPlatform<'a>>,
}

#[derive(Serialize)]
struct JsonPlatform<'a> {
    platform: Option<&'a str>,
    digest: &'a Digest,
    whole: bool,
}

#[derive(Serialize)]
struct JsonTotals {
    images: usize,
    bytes: u64,
    local_bytes: u64,
    cached_bytes: u64,
    shared_bytes: u64,
    unnamed_bytes: u64,
    quarantined_bytes: u64,
}

impl<'a> From<&'a Listed> for JsonImage<'a> {
    fn from(listed: &'a Listed) -> Self {
        let image = &listed.image;
        let platforms = image.children.iter().map(|child| JsonPlatform {
            platform: child.platform.as_deref(),
            digest: &child.digest,
            whole: child.whole,
        });
        Self {
            name: image.name.to_string(),
            registry: image.name.source().to_string(),
            tags: image.tags.iter().map(Tag::to_string).collect(),
            digest: &image.digest,
            media_type: &image.media_type,
            local: image.is_local(),
            bytes: image.bytes(),
            shared_bytes: listed.shared,
            used: timestamp(image.used),
            whole: image.is_whole(),
            missing: image.absent(),
            platforms: platforms.collect(),
        }
    }
}

impl From<&Totals> for JsonTotals {
    fn from(totals: &Totals) -> Self {
        Self {
            images: totals.images,
            bytes: totals.bytes,
            local_bytes: totals.local,
            cached_bytes: totals.cached,
            shared_bytes: totals.shared,
            unnamed_bytes: totals.unnamed,
            quarantined_bytes: totals.quarantined,
        }
    }
}

const AFTER_HELP: &str = "\
One line for each tag, and for each image without one: its name in full, the bytes of it that are here, \
how many of them other images have too (the rest is what its removal frees), and when it was last pulled \
or, if it was pushed or seeded (\"local\"), pushed. An index is whole if all its platforms are here. A \
standin may be at work on the directory. The last line, and \"totals\", are about the whole directory.

Examples:
  standin list
  standin list 'acme/**' quay.io/acme/tool
  standin list --json | jq -r '.images[] | select(.whole | not) | .name'
  standin list --json --data /cache/standin | jq .totals.cached_bytes";
