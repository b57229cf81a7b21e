//! Which of an index's images are meant: `linux/amd64`, and what an index says its children are for.

use std::{fmt, str::FromStr};

use serde::Deserialize;

use crate::types::{Digest, digest::shown, manifest::Object};

/// An operating system and a processor, as image indexes name them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(default)]
    pub variant: Option<String>,
}

impl Platform {
    /// What this program was built for, which this machine runs.
    pub fn of_this_machine() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "powerpc64" => "ppc64le",
            "x86" => "386",
            other => other,
        };
        Self {
            os: std::env::consts::OS.to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        }
    }

    /// BuildKit says of its attestations that they are for `unknown`.
    fn is_known(&self) -> bool {
        self.os != "unknown"
    }

    /// Whether a child for `offered` is what somebody means who asks for this one.
    pub fn matches(&self, offered: &Self) -> bool {
        // All arm64 is v8, and few say so; of arm v7 is what is meant.
        let variant = |platform: &Self| match (&*platform.architecture, &platform.variant) {
            ("arm64", None) => Some("v8".to_owned()),
            ("arm", None) => Some("v7".to_owned()),
            (_, variant) => variant.clone(),
        };
        self.os == offered.os
            && self.architecture == offered.architecture
            && (self.variant.is_none() || variant(self) == variant(offered))
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let mut parts = s.split('/');
        let word = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(os), Some(architecture), variant, None)
                if word(os) && word(architecture) && variant.is_none_or(word) =>
            {
                let architecture = match architecture {
                    "x86_64" | "x86-64" => "amd64",
                    "aarch64" => "arm64",
                    other => other,
                };
                Ok(Self {
                    os: os.to_ascii_lowercase(),
                    architecture: architecture.to_owned(),
                    variant: variant.map(str::to_owned),
                })
            }
            _ => Err(format!(
                "{} is no platform: write OS/ARCHITECTURE, such as linux/amd64 or linux/arm/v7",
                shown(s)
            )),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// What an image's config says it is for. What is no image's config, such as a chart's, says nothing.
pub(super) fn of_config(config: &[u8]) -> Option<Platform> {
    #[derive(Deserialize)]
    struct Config {
        os: Option<serde_json::Value>,
        architecture: Option<serde_json::Value>,
        variant: Option<serde_json::Value>,
    }
    let Object(config): Object<Config> = serde_json::from_slice(config).ok()?;
    let text = |value: Option<serde_json::Value>| {
        let text = value?.as_str()?.to_owned();
        (!text.is_empty()).then_some(text)
    };
    let platform = Platform {
        os: text(config.os)?,
        architecture: text(config.architecture)?,
        variant: text(config.variant),
    };
    Some(platform).filter(Platform::is_known)
}

/// What an index says about a child beside its descriptor.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) digest: Digest,
    pub(super) platform: Option<Platform>,
    /// The sibling that it is about: BuildKit's attestations are children for no platform.
    pub(super) about: Option<Digest>,
}

/// The children of an index. Those that can't be read are left out: whoever reads the manifest itself refuses them.
pub(super) fn children(index: &[u8]) -> Vec<Child> {
    #[derive(Deserialize)]
    struct Index {
        #[serde(default)]
        manifests: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        digest: String,
        #[serde(default)]
        platform: Option<serde_json::Value>,
        #[serde(default)]
        annotations: Option<serde_json::Value>,
    }
    let Ok(index) = serde_json::from_slice::<Index>(index) else {
        return Vec::new();
    };
    let child = |entry: Entry| {
        let about = entry
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get("vnd.docker.reference.digest")?.as_str())
            .and_then(|digest| digest.parse().ok());
        let platform: Option<Platform> = entry
            .platform
            .and_then(|platform| serde_json::from_value(platform).ok())
            .map(|Object(platform)| platform);
        Some(Child {
            digest: entry.digest.parse().ok()?,
            platform: platform.filter(Platform::is_known),
            about,
        })
    };
    index.manifests.into_iter().filter_map(child).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_of_platforms() {
        for (text, spelled) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v7"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), spelled);
        }
        for bad in [
            "",
            "amd64",
            "linux/",
            "/amd64",
            "linux/arm/",
            "a/b/c/d",
            "l x/a",
        ] {
            let error = bad.parse::<Platform>().unwrap_err();
            assert!(error.contains("linux/amd64"), "{bad}: {error}");
        }
    }

    #[test]
    fn what_is_asked_for_and_what_is_offered() {
        for (asked, offered, same) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "linux/arm64", false),
            ("linux/amd64", "windows/amd64", false),
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm", "linux/arm/v6", true),
            ("linux/arm/v7", "linux/arm/v6", false),
            ("linux/arm/v7", "linux/arm", true),
            ("linux/arm/v6", "linux/arm", false),
        ] {
            let (one, other): (Platform, Platform) =
                (asked.parse().unwrap(), offered.parse().unwrap());
            assert_eq!(one.matches(&other), same, "{asked} and {offered}");
        }
    }
}
