//! What can be seeded, as somebody writes it: `oci:DIR[:TAG]` and its like, by skopeo's names of transports.

use std::{fmt, path::PathBuf, str::FromStr};

use super::{Choice, Platform, Wanted};
use crate::types::{InvalidName, RegistryHost, RepositoryName, Tag, digest::shown};

/// Images to be put into a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    pub source: Source,
    /// What to call them, if not as the source does.
    pub name: Option<SeedName>,
    /// Further tags, in place of the source's.
    pub tags: Vec<Tag>,
    /// The only platforms of an index to take; all if there are none.
    pub platforms: Vec<Platform>,
    /// `None` leaves it to the archive: what docker 25 and newer save has manifests of its own, which are kept.
    pub layers: Option<Layers>,
}

/// Where images are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An OCI layout, and the only one of its images to take, as its index names it.
    Layout { dir: PathBuf, tag: Option<Tag> },
    /// An OCI layout in a tar archive.
    OciArchive { input: Input, tag: Option<Tag> },
    /// What `docker save` writes.
    DockerArchive {
        input: Input,
        image: Option<Selector>,
    },
    /// A registry's image, had through the destination.
    Registry(Wanted),
    /// An image of podman's, by its own name for it.
    ContainersStorage(String),
    /// An image of a docker daemon's, by its own name for it.
    DockerDaemon(String),
}

/// Where an archive is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Absolute.
    File(PathBuf),
    Stdin,
}

/// One of a docker archive's images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    Name(SeedName),
    /// `@N`, from 0 on.
    Index(usize),
}

/// What becomes of a docker archive's layers that are not compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layers {
    #[default]
    Gzip,
    Uncompressed,
}

/// A name as a client of ours would write it; which registry it belongs to is decided where all names are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeedName {
    /// A registry's port is spelled `HOST_PORT`.
    pub repository: RepositoryName,
    pub tag: Option<Tag>,
}

impl Seed {
    pub fn new(source: Source) -> Self {
        Self {
            source,
            name: None,
            tags: Vec::new(),
            platforms: Vec::new(),
            layers: None,
        }
    }

    /// `SOURCE[=NAME[:TAG]]`. The last equals sign begins NAME; `path` makes a path absolute.
    ///
    /// # Errors
    /// A sentence that quotes the text and says what would be right.
    pub fn parse(
        text: &str,
        path: impl Fn(&str) -> Result<PathBuf, String>,
    ) -> Result<Self, String> {
        let (source, name) = match text.rsplit_once('=') {
            Some((source, name)) => (source, Some(name.parse()?)),
            None => (text, None),
        };
        Ok(Self {
            name,
            ..Self::new(Source::parse(source, path)?)
        })
    }

    /// Whether it is read from standard input.
    pub fn reads_input(&self) -> bool {
        matches!(
            &self.source,
            Source::OciArchive { input, .. } | Source::DockerArchive { input, .. } if *input == Input::Stdin
        )
    }

    pub(super) fn choice(&self) -> Choice {
        match self.platforms.is_empty() {
            true => Choice::Whole,
            false => Choice::Platforms(self.platforms.clone()),
        }
    }

    /// Whether an image that is for that platform alone is to be taken.
    pub(super) fn means(&self, platform: Option<&Platform>) -> bool {
        let asked = |platform| self.platforms.iter().any(|asked| asked.matches(platform));
        self.platforms.is_empty() || platform.is_some_and(asked)
    }
}

impl Source {
    /// As for skopeo, the first colon ends a path.
    pub fn parse(
        text: &str,
        path: impl Fn(&str) -> Result<PathBuf, String>,
    ) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("docker://") {
            return Self::registry(text, name);
        }
        let Some((transport, rest)) = text.split_once(':') else {
            return Err(unknown(text));
        };
        let (place, detail) = match rest.split_once(':') {
            Some((place, detail)) => (place, Some(detail)),
            None => (rest, None),
        };
        let tag = |detail: Option<&str>| {
            let tag = detail.map(str::parse::<Tag>).transpose();
            tag.map_err(|error| error.to_string())
        };
        let file = |what: &str| match place {
            "" => Err(format!("{} names no file: a SOURCE is {what}", shown(text))),
            "-" => Ok(Input::Stdin),
            place => Ok(Input::File(path(place)?)),
        };
        match transport {
            "oci" if place.is_empty() => Err(format!(
                "{} names no directory: a SOURCE is oci:DIR[:TAG]",
                shown(text)
            )),
            "oci" => Ok(Self::Layout {
                tag: tag(detail)?,
                dir: path(place)?,
            }),
            "oci-archive" => Ok(Self::OciArchive {
                tag: tag(detail)?,
                input: file("oci-archive:FILE[:TAG]")?,
            }),
            "docker-archive" => Ok(Self::DockerArchive {
                image: detail.map(str::parse).transpose()?,
                input: file("docker-archive:FILE[:NAME]")?,
            }),
            "containers-storage" | "docker-daemon" if rest.is_empty() || rest.starts_with('-') => {
                Err(format!(
                    "{} names no image: a SOURCE is {transport}:NAME[:TAG]",
                    shown(text)
                ))
            }
            "containers-storage" => Ok(Self::ContainersStorage(rest.to_owned())),
            "docker-daemon" => Ok(Self::DockerDaemon(rest.to_owned())),
            _ => Err(unknown(text)),
        }
    }

    fn registry(text: &str, name: &str) -> Result<Self, String> {
        if name.is_empty() {
            return Err(format!(
                "{} names no image: a SOURCE is docker://NAME[:TAG]",
                shown(text)
            ));
        }
        let wanted = name.parse::<Wanted>();
        Ok(Self::Registry(wanted.map_err(|error| error.to_string())?))
    }
}

fn unknown(text: &str) -> String {
    format!(
        "{} cannot be seeded: a SOURCE is oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME], docker://NAME, \
         containers-storage:NAME, docker-daemon:NAME, optionally with =NAME[:TAG] behind it, or a list of them, FILE.yaml",
        shown(text)
    )
}

/// As one would write it.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let behind = |detail: Option<String>| detail.map_or(String::new(), |of| format!(":{of}"));
        let tagged = |tag: &Option<Tag>| behind(tag.as_ref().map(Tag::to_string));
        match self {
            Self::Layout { dir, tag } => write!(f, "oci:{}{}", dir.display(), tagged(tag)),
            Self::OciArchive { input, tag } => write!(f, "oci-archive:{input}{}", tagged(tag)),
            Self::DockerArchive { input, image } => {
                let image = behind(image.as_ref().map(Selector::to_string));
                write!(f, "docker-archive:{input}{image}")
            }
            Self::Registry(wanted) => write!(f, "docker://{wanted}"),
            Self::ContainersStorage(name) => write!(f, "containers-storage:{name}"),
            Self::DockerDaemon(name) => write!(f, "docker-daemon:{name}"),
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Stdin => f.write_str("standard input"),
        }
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.strip_prefix('@') {
            Some(index) => match index.parse() {
                Ok(index) => Ok(Self::Index(index)),
                Err(_) => Err(format!(
                    "{} is no image of an archive: write its NAME[:TAG], or @0 for its first one",
                    shown(s)
                )),
            },
            None => s.parse().map(Self::Name),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Index(index) => write!(f, "@{index}"),
        }
    }
}

impl FromStr for Layers {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "gzip" => Ok(Self::Gzip),
            "uncompressed" => Ok(Self::Uncompressed),
            other => Err(format!("{} is neither gzip nor uncompressed", shown(other))),
        }
    }
}

impl FromStr for SeedName {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if s.contains('@') {
            return Err(format!(
                "{} holds a digest, which follows from the content: name it NAME or NAME:TAG",
                shown(s)
            ));
        }
        // Behind the last slash a colon begins the tag, before it a registry's port.
        let (name, tag) = match s.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => {
                let tag = tag.parse::<Tag>().map_err(|e| e.to_string())?;
                (name, Some(tag))
            }
            _ => (s, None),
        };
        let repository = match name.split_once('/') {
            Some((host, rest)) if host.contains(':') => {
                let host: RegistryHost = host.parse().map_err(|e| format!("{e}"))?;
                format!("{}/{rest}", host.component()).parse()
            }
            _ => name.parse(),
        };
        Ok(Self {
            repository: repository.map_err(|e: InvalidName| e.to_string())?,
            tag,
        })
    }
}

impl fmt::Display for SeedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repository.fmt(f)?;
        match &self.tag {
            Some(tag) => write!(f, ":{tag}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Seed, String> {
        Seed::parse(text, |path| Ok(PathBuf::from("/w").join(path)))
    }

    #[test]
    fn sources() {
        let tag = |tag: &str| Some(tag.parse().unwrap());
        let file = |path: &str| Input::File(path.into());
        for (text, expected) in [
            (
                "oci:a/b:v1",
                Source::Layout {
                    dir: "/w/a/b".into(),
                    tag: tag("v1"),
                },
            ),
            (
                "oci-archive:a.tar",
                Source::OciArchive {
                    input: file("/w/a.tar"),
                    tag: None,
                },
            ),
            (
                "docker-archive:-",
                Source::DockerArchive {
                    input: Input::Stdin,
                    image: None,
                },
            ),
            (
                "docker-archive:a.tar:acme/app:1",
                Source::DockerArchive {
                    input: file("/w/a.tar"),
                    image: Some(Selector::Name("acme/app:1".parse().unwrap())),
                },
            ),
            (
                "docker-archive:a.tar:@2",
                Source::DockerArchive {
                    input: file("/w/a.tar"),
                    image: Some(Selector::Index(2)),
                },
            ),
            (
                "docker://quay.io/acme/app:1",
                Source::Registry("quay.io/acme/app:1".parse().unwrap()),
            ),
            (
                "containers-storage:localhost/app:1",
                Source::ContainersStorage("localhost/app:1".to_owned()),
            ),
            (
                "docker-daemon:app:1",
                Source::DockerDaemon("app:1".to_owned()),
            ),
        ] {
            assert_eq!(parse(text).unwrap().source, expected, "{text}");
            let named = parse(&format!("{text}=acme/x:9")).unwrap();
            assert_eq!(named.source, expected, "{text}");
            assert_eq!(named.name.unwrap().to_string(), "acme/x:9");
        }
        for (bad, fragment) in [
            ("", "cannot be seeded"),
            ("app.tar", "docker-archive:FILE"),
            ("dir:x", "cannot be seeded"),
            ("oci:", "names no directory"),
            ("oci:a:b:c", "no tag"),
            ("oci-archive:", "names no file"),
            ("docker-archive:a:@x", "@0"),
            ("docker-archive:a:App", "no repository name"),
            ("docker://", "names no image"),
            ("docker://a@sha256:1", "sha256"),
            ("docker-daemon:", "names no image"),
            ("docker-daemon:--output", "names no image"),
            ("oci:a=b@sha256:1", "holds a digest"),
        ] {
            let message = parse(bad).unwrap_err();
            assert!(message.contains(fragment), "{bad:?}: {message}");
        }
    }

    #[test]
    fn names_of_seeds() {
        for (text, repository, tag) in [
            ("acme/app", "acme/app", None),
            ("acme/app:1.0", "acme/app", Some("1.0")),
            ("quay.io/acme/app:1", "quay.io/acme/app", Some("1")),
            ("localhost:5001/app", "localhost_5001/app", None),
            ("localhost:5001/app:1", "localhost_5001/app", Some("1")),
        ] {
            let name: SeedName = text.parse().unwrap();
            assert_eq!(name.repository.as_str(), repository);
            assert_eq!(name.tag.as_ref().map(Tag::as_str), tag);
        }
        for (bad, fragment) in [
            ("", "no repository name"),
            ("App", "no repository name"),
            ("app:", "no tag"),
            ("app:.1", "no tag"),
            ("app@sha256:00", "holds a digest"),
            ("a:b:1/app", "HOST:PORT"),
        ] {
            let message = bad.parse::<SeedName>().unwrap_err();
            assert!(message.contains(fragment), "{bad:?}: {message}");
        }
    }
}
