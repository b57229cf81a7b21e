//! An image as somebody asks for it.

use std::{fmt, str::FromStr};

use crate::types::{Digest, Reference, RegistryHost, RepositoryName, Tag, digest::shown};

/// `NAME[:TAG][@DIGEST]`, as a client would write it. With a digest that decides, and the tag is only what the image is
/// called; with neither the tag is `latest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The port of a registry in it is spelled `HOST_PORT`.
    pub name: RepositoryName,
    pub tag: Option<Tag>,
    pub digest: Option<Digest>,
}

impl Wanted {
    /// What to ask a registry for.
    pub fn reference(&self) -> Option<Reference> {
        let digest = self.digest.clone().map(Reference::Digest);
        digest.or_else(|| self.tag.clone().map(Reference::Tag))
    }
}

impl FromStr for Wanted {
    type Err = InvalidWanted;

    fn from_str(s: &str) -> Result<Self, InvalidWanted> {
        let invalid = |why: String| {
            InvalidWanted(format!(
                "{} is no image: write NAME[:TAG][@DIGEST], as for docker pull: {why}",
                shown(s)
            ))
        };
        let (rest, digest) = match s.split_once('@') {
            None => (s, None),
            Some((rest, digest)) => {
                let digest = digest
                    .parse::<Digest>()
                    .map_err(|error| invalid(error.to_string()))?;
                (rest, Some(digest))
            }
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let tag = match (tag, &digest) {
            (None, Some(_)) => None,
            (tag, _) => {
                let tag = tag.unwrap_or("latest").parse::<Tag>();
                Some(tag.map_err(|error| invalid(error.to_string()))?)
            }
        };
        let name = match name.split_once('/') {
            Some((host, rest)) if host.contains(':') => {
                let host: RegistryHost =
                    host.parse().map_err(|error| invalid(format!("{error}")))?;
                format!("{}/{rest}", host.component())
            }
            _ => name.to_owned(),
        };
        let name = name
            .parse::<RepositoryName>()
            .map_err(|error| invalid(error.to_string()))?;
        Ok(Self { name, tag, digest })
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// The text says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidWanted(String);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_images_are_called() {
        let hex = "a".repeat(64);
        for (text, read) in [
            ("app", "app:latest".to_owned()),
            ("acme/app:1", "acme/app:1".to_owned()),
            ("quay.io/acme/app:1", "quay.io/acme/app:1".to_owned()),
            ("localhost:5001/app", "localhost_5001/app:latest".to_owned()),
            ("127.0.0.1:5001/a/b:x", "127.0.0.1_5001/a/b:x".to_owned()),
            (&format!("app@sha256:{hex}"), format!("app@sha256:{hex}")),
            (
                &format!("app:1@sha256:{hex}"),
                format!("app:1@sha256:{hex}"),
            ),
        ] {
            assert_eq!(text.parse::<Wanted>().unwrap().to_string(), read);
        }
        for (text, fragment) in [
            ("", "repository name"),
            ("App", "repository name"),
            ("app:", "tag"),
            ("app:a b", "tag"),
            ("app@sha256:1", "hex"),
            ("app@latest", "<hex>"),
            ("https://quay.io/app", "HOST"),
        ] {
            let error = text.parse::<Wanted>().unwrap_err().to_string();
            assert!(
                error.contains(fragment) && error.contains("NAME[:TAG]"),
                "{error}"
            );
        }
    }
}
