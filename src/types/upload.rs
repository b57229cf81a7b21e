//! What a request carries besides names: the id of an upload session, the range a chunk claims, and the request's own id.

use std::{fmt, str::FromStr};

use super::digest::shown;

/// The last segment of an upload's `Location`. A random UUID in its canonical lower-case form, so it is safe as a
/// file name and not to be guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId(uuid::Uuid);

impl UploadId {
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4())
    }
}

impl FromStr for UploadId {
    type Err = InvalidUploadId;

    fn from_str(s: &str) -> Result<Self, InvalidUploadId> {
        let id: uuid::Uuid = s.parse().map_err(|_| InvalidUploadId)?;
        // The parser takes braces, upper case and no dashes too; one session must have one name.
        if id
            .hyphenated()
            .encode_lower(&mut uuid::Uuid::encode_buffer())
            == s
        {
            Ok(Self(id))
        } else {
            Err(InvalidUploadId)
        }
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// By what a client's error and the log speak of the same failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId(uuid::Uuid);

impl RequestId {
    pub fn random() -> Self {
        Self(uuid::Uuid::new_v4())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// The string is no upload id that was ever given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no upload session has such an id")]
pub struct InvalidUploadId;

/// A chunk's `Content-Range`, `<start>-<end>`, both inclusive; `bytes ` before and `/<total>` behind are tolerated,
/// as RFC 9110 spells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    start: u64,
    end: u64,
}

impl ContentRange {
    /// Offset of the chunk's first byte.
    pub fn start(self) -> u64 {
        self.start
    }

    /// Length of the chunk, at least 1.
    pub fn length(self) -> u64 {
        self.end - self.start + 1
    }
}

impl FromStr for ContentRange {
    type Err = InvalidContentRange;

    fn from_str(s: &str) -> Result<Self, InvalidContentRange> {
        let invalid = || InvalidContentRange(shown(s));
        let range = s.trim();
        let range = range
            .strip_prefix("bytes")
            .map_or(range, |rest| rest.trim_start_matches([' ', '=']));
        let range = range.split_once('/').map_or(range, |(range, _total)| range);
        let (start, end) = range.split_once('-').ok_or_else(invalid)?;
        let number = |digits: &str| -> Option<u64> {
            // `u64::from_str` takes a sign, which is no range.
            if digits.bytes().all(|b| b.is_ascii_digit()) {
                digits.parse().ok()
            } else {
                None
            }
        };
        match (number(start), number(end)) {
            (Some(start), Some(end)) if start <= end && end < u64::MAX => Ok(Self { start, end }),
            _ => Err(invalid()),
        }
    }
}

/// The header is no `<start>-<end>`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Content-Range {0} is not <start>-<end>, both inclusive")]
pub struct InvalidContentRange(String);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_spelling() {
        let id = UploadId::random();
        assert_eq!(id.to_string().parse::<UploadId>().unwrap(), id);
        let upper = id.to_string().to_uppercase();
        let bare = id.to_string().replace('-', "");
        for bad in [
            "",
            "..",
            "../../etc/passwd",
            &upper,
            &bare,
            "00000000-0000-0000-0000-00000000000",
        ] {
            assert!(bad.parse::<UploadId>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn content_ranges() {
        for (text, start, length) in [
            ("0-0", 0, 1),
            ("10-19", 10, 10),
            ("bytes 0-9/10", 0, 10),
            ("bytes=5-9", 5, 5),
        ] {
            let range: ContentRange = text.parse().unwrap();
            assert_eq!((range.start(), range.length()), (start, length), "{text}");
        }
        for bad in [
            "",
            "-",
            "5",
            "5-",
            "-5",
            "9-5",
            "+1-2",
            "a-b",
            "0-18446744073709551615",
            "1-2-3",
        ] {
            assert!(bad.parse::<ContentRange>().is_err(), "{bad:?} was taken");
        }
    }
}
