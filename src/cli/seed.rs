//! `standin seed`: images from wherever they are, put into a registry that runs or into a data directory.

use std::{num::NonZeroUsize, path::PathBuf};

use clap::Args;
use serde::Serialize;

use super::{interrupt, progress::Progress, reach, which::Which};
use crate::{
    app,
    config::{Config, Flags, Key, Sources},
    transfer::{Cancel, Layers, Local, Pace, Platform, Seed, SeededImage, Seeder},
    types::{UpstreamUrl, manifest::MANIFEST_LIMIT},
};

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Images to put there, as below; =NAME[:TAG] behind one says what to call it
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<String>,
    /// Only the images for this platform, such as linux/arm64; may be given again{n}[default: all that an index names]
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Vec<Platform>,
    /// What becomes of a docker archive's layers that are not compressed: gzip or uncompressed{n}[default: gzip; what docker
    /// 25 and newer saves stays as it is, with its digest]
    #[arg(long, value_name = "HOW")]
    layers: Option<Layers>,
    /// Layers that are read, compressed and sent at once{n}[default: one for each processor, 2 to 8]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Print what was seeded as JSON
    #[arg(long)]
    json: bool,

    /// Registry to put them into{n}[default: the standin that runs, else --data]
    #[arg(long, value_name = "URL", help_heading = "To a registry", conflicts_with_all = ["data", "state", "ready_file"])]
    to: Option<UpstreamUrl>,
    /// Certificate authority to trust, PEM
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "To a registry",
        requires = "to"
    )]
    ca: Option<PathBuf>,
    /// Log in with this, also at the standin that runs{n}[default: what docker login and podman login keep]
    #[arg(long, value_name = "NAME:PASSWORD", help_heading = "To a registry")]
    user: Option<String>,

    #[command(flatten)]
    which: Which,
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
        let seeds = |flags: Flags| flags.with(Key::Seed, self.sources);
        let (remote, sources) = match &self.to {
            Some(url) => {
                let flags = seeds(self.which.flags());
                let sources = Sources::read(flags, std::env::vars_os().collect())?;
                let remote = reach::remote(url, self.ca.as_deref(), self.user.as_deref())?;
                (Some(remote), sources)
            }
            None => {
                let (instance, sources) = self.which.running(seeds)?;
                if let Some(instance) = &instance {
                    log::info!("images go to the standin at {}", instance.http);
                }
                let user = self.user.as_deref();
                (reach::running(instance, user, "--to")?, sources)
            }
        };
        let mut config = Config::from_sources(&sources)?;
        for seed in &mut config.seeds {
            // What a list says of an image is meant for it.
            if seed.platforms.is_empty() {
                seed.platforms.clone_from(&self.platform);
            }
            seed.layers = seed.layers.or(self.layers);
        }
        let cancel = Cancel::default();
        interrupt::cancels(&cancel)?;
        let pace = |manifest_limit| {
            let usual = Pace::usual(manifest_limit);
            Pace {
                jobs: self.jobs.unwrap_or(usual.jobs),
                cancel: cancel.clone(),
                ..usual
            }
        };
        let progress = Progress::new();
        match remote {
            Some(remote) => {
                let seeder = Seeder {
                    destination: &remote,
                    pulled: &|wanted| Ok(Box::new(remote.images(vec![wanted]))),
                    observer: &progress,
                    pace: &pace(MANIFEST_LIMIT),
                };
                put(&seeder, &config.seeds, &progress, self.json)
            }
            None => {
                log::info!("images go into {}: no standin runs", config.data.display());
                let assembly = app::offline(&config)?;
                let registry = &assembly.registry;
                let runtime = assembly.runtime.handle();
                let seeder = Seeder {
                    destination: &Local::new(registry),
                    pulled: &|wanted| {
                        let served = app::served(registry, runtime, &config, vec![wanted]);
                        Ok(Box::new(served))
                    },
                    observer: &progress,
                    pace: &pace(registry.limits().manifest),
                };
                put(&seeder, &config.seeds, &progress, self.json)
            }
        }
    }
}

/// Each image is told of once it can be pulled, so that what a failure leaves is known.
fn put(seeder: &Seeder<'_>, seeds: &[Seed], progress: &Progress, json: bool) -> anyhow::Result<()> {
    let mut seeded = Vec::new();
    let mut unprinted = None;
    let carried = seeds.iter().try_for_each(|seed| {
        seeder.seed(seed, &mut |image: SeededImage| {
            let name = format!("{}:{}", image.name, image.tag);
            let print = || super::print(format_args!("{name} {}", image.digest));
            if !json && let Err(error) = progress.aside(print) {
                unprinted.get_or_insert(error);
            }
            seeded.push(Seeded {
                name,
                digest: image.digest.to_string(),
                blobs: image.blobs,
                bytes: image.bytes,
            });
        })
    });
    let ended = carried.and_then(|()| seeder.destination.finish());
    // Also of what a failure leaves.
    let printed = match json {
        true if ended.is_err() && seeded.is_empty() => Ok(()),
        true => super::print(serde_json::to_string(&seeded)?),
        false => unprinted.map_or(Ok(()), Err),
    };
    ended?;
    printed
}

const AFTER_HELP: &str = "\
Sources:
  docker-archive:FILE[:NAME[:TAG]]  what docker save and its like write, or one image of it
  oci:DIR[:TAG]                     an OCI layout
  oci-archive:FILE[:TAG]            an OCI layout in a tar archive
  docker://NAME[:TAG][@DIGEST]      what the registry that is seeded pulls through as that
  docker-daemon:NAME[:TAG]          an image of docker's, by docker save
  containers-storage:NAME[:TAG]     an image of podman's or buildah's, by their export
  FILE.yaml                         a list of sources, with name, tags, platforms, layers
A FILE may be -, standard input, and may be compressed by gzip or zstd.

Images go to the standin that runs: within `standin run` that of the run, else the one of --ready-file or on --data. If none \
runs, they go into the data directory, for the next one to serve. Which it is, is told on standard error. \
What is there already is not sent again, and an image can be pulled once all of it is there. Each is told of \
then, with its digest.

Examples:
  docker save acme/base:1 | standin seed docker-archive:-
  standin seed oci:images docker-archive:tools.tar.gz
  standin seed docker://quay.io/acme/tool:1=acme/tool:1
  standin seed images.yaml --json
  standin seed --to https://registry.example.com --user me:secret oci:app=team/app:1";
