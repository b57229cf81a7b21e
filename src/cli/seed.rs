//! `standin seed`: images from layouts and archives, put into a registry that runs or into a data directory.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{interrupt, reach, serve};
use crate::{
    app,
    config::{Config, Flags, Key, Sources},
    transfer::{Cancel, Destination, Local, Pace, Seed, SeededImage, Seeder},
    types::{UpstreamUrl, manifest::MANIFEST_LIMIT},
};

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Images: oci:DIR[:TAG] or oci-archive:FILE[:TAG], an OCI layout, with =NAME[:TAG] behind it to call it otherwise; or
    /// FILE.yaml, a list of them
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<String>,
    /// Print what was seeded as JSON
    #[arg(long)]
    json: bool,

    /// Registry to put them into{n}[default: the standin that runs on --data, else --data itself]
    #[arg(long, value_name = "URL", help_heading = "To a registry", conflicts_with_all = ["data", "state"])]
    to: Option<UpstreamUrl>,
    /// Certificate authority to trust, PEM
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "To a registry",
        requires = "to"
    )]
    ca: Option<PathBuf>,
    /// Log in with this{n}[default: what docker login and podman login keep]
    #[arg(
        long,
        value_name = "NAME:PASSWORD",
        help_heading = "To a registry",
        requires = "to"
    )]
    user: Option<String>,

    #[command(flatten)]
    directories: serve::Directories,
    #[command(flatten)]
    file: serve::File,
}

/// An image that can be pulled now.
#[derive(Serialize)]
struct Seeded {
    name: String,
    digest: String,
    /// What had to be sent; the rest was there.
    blobs: usize,
    bytes: u64,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let flags = self.directories.add_to(Flags::new(self.file.config));
        let sources = Sources::read(
            flags.with(Key::Seed, self.sources),
            std::env::vars_os().collect(),
        )?;
        let config = Config::from_sources(&sources)?;
        let remote = match &self.to {
            Some(url) => Some(reach::remote(
                url,
                self.ca.as_deref(),
                self.user.as_deref(),
            )?),
            None => reach::running(&sources)?,
        };
        let cancel = Cancel::default();
        interrupt::cancels(&cancel)?;
        match remote {
            Some(remote) => put(&remote, &config.seeds, MANIFEST_LIMIT, cancel, self.json),
            None => {
                let assembly = app::offline(&config)?;
                let limit = assembly.registry.limits().manifest;
                let local = Local::new(&assembly.registry);
                put(&local, &config.seeds, limit, cancel, self.json)
            }
        }
    }
}

/// Each image is told of once it can be pulled, so that what a failure leaves is known.
fn put(
    destination: &dyn Destination,
    seeds: &[Seed],
    manifest_limit: usize,
    cancel: Cancel,
    json: bool,
) -> anyhow::Result<()> {
    let pace = Pace {
        cancel,
        ..Pace::usual(manifest_limit)
    };
    let seeder = Seeder {
        destination,
        observer: &(),
        pace: &pace,
    };
    let mut seeded = Vec::new();
    let mut unprinted = None;
    for seed in seeds {
        seeder.seed(seed, &mut |image: SeededImage| {
            let name = format!("{}:{}", image.name, image.tag);
            if !json && let Err(error) = super::print(format_args!("{name} {}", image.digest)) {
                unprinted.get_or_insert(error);
            }
            seeded.push(Seeded {
                name,
                digest: image.digest.to_string(),
                blobs: image.blobs,
                bytes: image.bytes,
            });
        })?;
    }
    destination.finish()?;
    if let Some(error) = unprinted {
        return Err(error);
    }
    match json {
        true => super::print(serde_json::to_string(&seeded)?),
        false => Ok(()),
    }
}

const AFTER_HELP: &str = "\
Images go to the standin that runs on --data; if none runs, into that directory, for the next one to serve. \
What is there already is not sent again, and an image can be pulled once all of it is there. Each is told of \
then, with its digest.

Examples:
  standin seed oci:images
  standin seed oci-archive:images.tar oci:base:1=acme/base:1
  standin seed images.yaml --json
  standin seed --to https://registry.example.com --user me:secret oci:app=team/app:1";
