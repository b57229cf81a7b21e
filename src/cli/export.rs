//! `standin export`: which registry the images come from, and where they go.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::Serialize;

use super::{interrupt, progress::Progress, reach, which::Which};
use crate::{
    app,
    config::{Config, Key},
    transfer::{
        Cancel, Choice, Destination, DockerWriter, LayoutWriter, Names, Origin, Pace, Platform,
        Remote, Target, Walk, Wanted,
    },
    types::{RegistryHost, Tag, UpstreamUrl, manifest::MANIFEST_LIMIT},
};

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP, after_long_help = AFTER_HELP)]
pub(super) struct Arguments {
    /// Images as for docker pull, NAME[:TAG][@DIGEST], and behind them where they go: oci:DIR[:TAG],
    /// oci-archive:FILE or docker-archive:FILE; - as FILE is standard output
    #[arg(required = true, num_args = 2.., value_names = ["NAME", "DESTINATION"])]
    images: Vec<String>,
    /// Only the image for this platform, such as linux/arm64{n}[default: all that an index names; in a docker archive,
    /// this machine's]
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<Platform>,
    /// Print what was exported as JSON
    #[arg(long)]
    json: bool,

    /// Registry to export from{n}[default: the standin that runs, else --data]
    #[arg(long, value_name = "URL", help_heading = "From a registry", conflicts_with_all = ["data", "state", "ready_file"])]
    from: Option<UpstreamUrl>,
    /// Certificate authority to trust, PEM
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "From a registry",
        requires = "from"
    )]
    ca: Option<PathBuf>,
    /// Log in with this, also at the standin that runs{n}[default: what docker login and podman login keep]
    #[arg(long, value_name = "NAME:PASSWORD", help_heading = "From a registry")]
    user: Option<String>,

    /// Ask no registry for what is not in --data
    #[arg(long, help_heading = "Storage")]
    offline: bool,
    #[command(flatten)]
    which: Which,
}

/// An image that is there now.
#[derive(Serialize)]
struct Exported {
    name: String,
    digest: String,
    blobs: usize,
    bytes: u64,
}

impl Arguments {
    pub(super) fn run(mut self) -> anyhow::Result<()> {
        let destination = self.images.pop().unwrap_or_default();
        let wanted = self.images.iter().map(|name| name.parse());
        let wanted = wanted.collect::<Result<Vec<Wanted>, _>>()?;
        let destination: Place = destination.parse().map_err(anyhow::Error::msg)?;
        if let Place::Layout { tag: Some(tag), .. } = &destination {
            ensure!(
                wanted.len() == 1,
                "one tag, {tag}, can't be given to {} images: leave it out, and each keeps its own",
                wanted.len()
            );
        }
        let cancel = Cancel::default();
        interrupt::cancels(&cancel)?;
        let platform = self.platform.take();
        let (to_output, json) = (destination.is_output(), self.json);
        let exported = match self.origin()? {
            From::Remote(remote) => {
                let names = destination.names(RegistryHost::docker_hub());
                carry(
                    &remote.images(wanted),
                    &destination,
                    names,
                    platform,
                    &cancel,
                )
            }
            From::Data(config) => {
                ensure!(
                    config.data.join("version").exists(),
                    "there is no standin's content in {}: give --data the directory of one, or --from the URL of a registry",
                    config.data.display()
                );
                let default = config.default_registry.clone();
                let assembly = app::offline(&config)?;
                let runtime = assembly.runtime.handle();
                let served = app::served(&assembly.registry, runtime, &config, wanted);
                carry(
                    &served,
                    &destination,
                    destination.names(default),
                    platform,
                    &cancel,
                )
            }
        }?;
        let text = match json {
            true => serde_json::to_string(&exported)?,
            false => exported
                .iter()
                .map(|image| format!("{} {}", image.name, image.digest))
                .collect::<Vec<String>>()
                .join("\n"),
        };
        match to_output {
            true => eprintln!("{text}"),
            false => super::print(text)?,
        }
        Ok(())
    }

    fn origin(self) -> anyhow::Result<From> {
        if let Some(url) = &self.from {
            let remote = reach::remote(url, self.ca.as_deref(), self.user.as_deref())?;
            return Ok(From::Remote(remote));
        }
        let offline = self.offline.then(|| "true".to_owned());
        let found = self
            .which
            .running(|flags| flags.with(Key::Offline, offline));
        let (instance, sources) = found?;
        match reach::running(instance, self.user.as_deref(), "--from")? {
            Some(remote) => Ok(From::Remote(remote)),
            None => Ok(From::Data(Box::new(Config::from_sources(&sources)?))),
        }
    }
}

/// Where images come from.
enum From {
    Remote(Remote),
    Data(Box<Config>),
}

/// Where images go.
enum Place {
    Layout { dir: PathBuf, tag: Option<Tag> },
    OciArchive(PathBuf),
    DockerArchive(PathBuf),
}

impl std::str::FromStr for Place {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (transport, rest) = s.split_once(':').unwrap_or((s, ""));
        match transport {
            _ if rest.is_empty() => {}
            "oci" => {
                let (dir, tag) = match rest.rsplit_once(':') {
                    Some((dir, tag)) if !tag.contains('/') && !dir.is_empty() => {
                        let tag = tag.parse::<Tag>().map_err(|error| error.to_string())?;
                        (dir, Some(tag))
                    }
                    _ => (rest, None),
                };
                let dir = dir.into();
                return Ok(Self::Layout { dir, tag });
            }
            "oci-archive" => return Ok(Self::OciArchive(rest.into())),
            "docker-archive" => return Ok(Self::DockerArchive(rest.into())),
            _ => {}
        }
        Err(format!(
            "{s:?} is no place to export to: write oci:DIR[:TAG], oci-archive:FILE or docker-archive:FILE, behind the images"
        ))
    }
}

impl Place {
    fn is_output(&self) -> bool {
        match self {
            Self::Layout { .. } => false,
            Self::OciArchive(file) | Self::DockerArchive(file) => file == Path::new("-"),
        }
    }

    fn names(&self, default: RegistryHost) -> Names {
        let tag = match self {
            Self::Layout { tag, .. } => tag.clone(),
            Self::OciArchive(_) | Self::DockerArchive(_) => None,
        };
        Names { default, tag }
    }
}

/// Carries all images, and makes them visible together.
fn carry(
    origin: &dyn Origin,
    place: &Place,
    names: Names,
    platform: Option<Platform>,
    cancel: &Cancel,
) -> anyhow::Result<Vec<Exported>> {
    let images = origin.images()?;
    let (destination, choice): (Box<dyn Destination>, Option<Platform>) = match place {
        Place::Layout { dir, .. } => (Box::new(LayoutWriter::directory(dir, names)?), platform),
        Place::OciArchive(file) => {
            let target = Target::new(file, cancel)?;
            (Box::new(LayoutWriter::archive(target, names)?), platform)
        }
        Place::DockerArchive(file) => {
            let target = Target::new(file, cancel)?;
            let platform = platform.unwrap_or_else(Platform::of_this_machine);
            (Box::new(DockerWriter::new(target, names)?), Some(platform))
        }
    };
    let choice = choice.map_or(Choice::Whole, |platform| Choice::Platforms(vec![platform]));
    let pace = Pace {
        cancel: cancel.clone(),
        ..Pace::usual(MANIFEST_LIMIT)
    };
    let progress = Progress::new();
    let walk = Walk {
        origin,
        destination: &*destination,
        observer: &progress,
        pace: &pace,
    };
    let mut exported = Vec::new();
    for image in &images {
        let name = image
            .name
            .repository
            .as_ref()
            .context("an image has no name")?;
        let tags: Vec<Tag> = image.name.tag.iter().cloned().collect();
        let copied = walk.copy(image, &choice, name, &tags)?;
        let tag = tags.first().map_or(String::new(), |tag| format!(":{tag}"));
        exported.push(Exported {
            name: format!("{name}{tag}"),
            digest: copied.digest.to_string(),
            blobs: copied.blobs,
            bytes: copied.bytes,
        });
    }
    destination.finish()?;
    Ok(exported)
}

const AFTER_HELP: &str = "\
Images come from the standin that runs, with what it would pull itself: within `standin run` that of the \
run, else the one of --ready-file or on --data. If none runs, they come from the data directory. Manifests \
are written byte for byte, and archives depend on their images alone: the same images make the same file. Nothing is there under the destination's name before all of it is.

A layout that is there gets the images added; one that is called the same is replaced. A docker archive \
holds each image for one platform, with its layers unpacked.

Examples:
  standin export acme/app:1 oci:images
  standin export acme/app acme/tool:2 oci-archive:images.tar
  standin export acme/app docker-archive:- | docker load
  standin export --from https://registry.example.com --user me:secret team/app:1 oci:images:app";
