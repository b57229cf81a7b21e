//! What follows `/manifests/`: a tag or a digest.

use std::{fmt, str::FromStr};

use super::digest::{Digest, InvalidDigest, shown};

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Box<str>);

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = InvalidReference;

    fn from_str(s: &str) -> Result<Self, InvalidReference> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let mut bytes = s.bytes();
        let head = bytes.next().is_some_and(word);
        if head && s.len() <= 128 && bytes.all(|b| word(b) || b == b'.' || b == b'-') {
            Ok(Self(s.into()))
        } else {
            Err(InvalidReference::Tag(format!(
                "{} is no tag: 1 to 128 of letters, digits, '_', '.' and '-', not starting with '.' or '-'",
                shown(s)
            )))
        }
    }
}

/// So that tags in order can be looked up by any text, such as the `last` of a listing.
impl std::borrow::Borrow<str> for Tag {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The spec's `<reference>`: whatever holds a colon must be a digest, anything else a tag.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    Tag(Tag),
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(s: &str) -> Result<Self, InvalidReference> {
        if s.contains(':') {
            Ok(Self::Digest(s.parse()?))
        } else {
            Ok(Self::Tag(s.parse()?))
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// Neither a tag nor a digest; the text says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReference {
    #[error("{0}")]
    Tag(String),
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tag_grammar() {
        let longest = "a".repeat(128);
        for good in [
            "latest",
            "_",
            "1",
            "A.b-c_d",
            "v1..2",
            "a-",
            longest.as_str(),
        ] {
            assert_eq!(good.parse::<Tag>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(129);
        for bad in [
            "",
            ".a",
            "-a",
            "a/b",
            "a b",
            "a:b",
            "é",
            "..",
            "a\0",
            too_long.as_str(),
        ] {
            assert!(bad.parse::<Tag>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_colon_means_a_digest() {
        assert!(matches!(
            "sha256:bad".parse::<Reference>(),
            Err(InvalidReference::Digest(_))
        ));
        assert!(matches!(
            "latest".parse::<Reference>(),
            Ok(Reference::Tag(_))
        ));
        let digest = Digest::of(super::super::Algorithm::Sha256, b"x").to_string();
        assert!(matches!(
            digest.parse::<Reference>(),
            Ok(Reference::Digest(_))
        ));
    }
}
