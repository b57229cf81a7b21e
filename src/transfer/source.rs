//! What can be seeded, as somebody writes it: `oci:DIR[:TAG]` and its like, by skopeo's names of them.

use std::{fmt, path::PathBuf, str::FromStr};

use super::{Choice, Platform};
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
}

/// Where images are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// An OCI layout, and the only one of its images to take, as its index names it.
    Layout { dir: PathBuf, tag: Option<Tag> },
    /// An OCI layout in a tar archive, absolute.
    OciArchive { file: PathBuf, tag: Option<Tag> },
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

    pub(super) fn choice(&self) -> Choice {
        match self.platforms.is_empty() {
            true => Choice::Whole,
            false => Choice::Platforms(self.platforms.clone()),
        }
    }
}

impl Source {
    /// As for skopeo, the first colon ends a path.
    pub fn parse(
        text: &str,
        path: impl Fn(&str) -> Result<PathBuf, String>,
    ) -> Result<Self, String> {
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
        match transport {
            "oci" if place.is_empty() => Err(format!(
                "{} names no directory: a SOURCE is oci:DIR[:TAG]",
                shown(text)
            )),
            "oci" => Ok(Self::Layout {
                tag: tag(detail)?,
                dir: path(place)?,
            }),
            "oci-archive" if place.is_empty() => Err(format!(
                "{} names no file: a SOURCE is oci-archive:FILE[:TAG]",
                shown(text)
            )),
            "oci-archive" => Ok(Self::OciArchive {
                tag: tag(detail)?,
                file: path(place)?,
            }),
            _ => Err(unknown(text)),
        }
    }
}

fn unknown(text: &str) -> String {
    format!(
        "{} cannot be seeded: a SOURCE is oci:DIR[:TAG] or oci-archive:FILE[:TAG], an OCI layout, optionally with \
         =NAME[:TAG] behind it, or a list of them, FILE.yaml",
        shown(text)
    )
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
                    file: "/w/a.tar".into(),
                    tag: None,
                },
            ),
        ] {
            assert_eq!(parse(text).unwrap().source, expected, "{text}");
            let named = parse(&format!("{text}=acme/x:9")).unwrap();
            assert_eq!(named.source, expected, "{text}");
            assert_eq!(named.name.unwrap().to_string(), "acme/x:9");
        }
        for (bad, fragment) in [
            ("", "cannot be seeded"),
            ("app.tar", "oci-archive:FILE"),
            ("docker-archive:app.tar", "cannot be seeded"),
            ("dir:x", "cannot be seeded"),
            ("oci:", "names no directory"),
            ("oci:a:b:c", "no tag"),
            ("oci-archive:", "names no file"),
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
