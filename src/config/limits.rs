//! The limits: sizes, numbers and times that bound what one client may take up. Each room's own struct has the defaults.

use std::{ops::RangeInclusive, str::FromStr, time::Duration};

use super::{
    source::{ConfigError, Key, Sources},
    value,
};
use crate::{
    cache::MaxSize,
    http, proxy, registry,
    types::{digest::shown, manifest::MANIFEST_LIMIT, name::NAME_LIMIT},
};

/// The limits, room by room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub registry: registry::Limits,
    pub http: http::Limits,
    /// How long a client may take for its first byte, its TLS handshake, and its request's head.
    pub head: Duration,
}

impl Limits {
    pub(super) fn from_sources(sources: &Sources) -> Result<Self, ConfigError> {
        let number = |key, range: RangeInclusive<usize>| {
            sources.one(key, |given| number(&given.text, range.clone()))
        };
        let time = |key| sources.one(key, |given| time(&given.text));
        let (registry, http) = (registry::Limits::default(), http::Limits::default());
        Ok(Self {
            registry: registry::Limits {
                manifest: sources
                    .one(Key::MaxManifestSize, |given| size(&given.text))?
                    .unwrap_or(registry.manifest),
                name: number(Key::MaxNameLength, 1..=NAME_LIMIT)?.unwrap_or(registry.name),
                uploads: number(Key::MaxUploads, 1..=MOST_UPLOADS)?.unwrap_or(registry.uploads),
                upload_lifetime: time(Key::UploadLifetime)?.unwrap_or(registry.upload_lifetime),
            },
            http: http::Limits {
                silence: time(Key::BodyTimeout)?.unwrap_or(http.silence),
                page: number(Key::PageSize, 1..=LONGEST_PAGE)?.unwrap_or(http.page),
            },
            head: time(Key::HeadTimeout)?.unwrap_or(proxy::Limits::default().head),
        })
    }

    pub(super) fn warnings(&self) -> Vec<String> {
        let manifest = self.registry.manifest;
        let small = (manifest < MANIFEST_LIMIT).then(|| {
            format!(
                "manifests of more than {manifest} bytes are refused, and the distribution-spec asks for {MANIFEST_LIMIT} \
                 to be taken: some images may not be had; --max-manifest-size 4MiB or more takes them"
            )
        });
        small.into_iter().collect()
    }
}

/// A whole number within `range`.
pub(super) fn number(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.filter(|_| digits).ok_or_else(|| {
        format!(
            "{} is no whole number from {} to {}",
            shown(text),
            range.start(),
            range.end()
        )
    })
}

/// A whole number of bytes with its unit.
fn size(text: &str) -> Result<usize, String> {
    let (number, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    let no_size = || {
        format!(
            "{} is no size: write a whole number and its unit, such as 512KiB, 4MiB or 1GiB",
            shown(text)
        )
    };
    let bytes_per_unit: usize = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" if !number.is_empty() => {
            return Err(format!(
                "{} has no unit: write {number}B, {number}KiB, {number}MiB or {number}GiB",
                shown(text)
            ));
        }
        _ => return Err(no_size()),
    };
    let number: usize = number.parse().map_err(|_| no_size())?;
    number
        .checked_mul(bytes_per_unit)
        .filter(|size| (1..=LARGEST_MANIFEST).contains(size))
        .ok_or_else(|| format!("{} is not between 1B and 1GiB", shown(text)))
}

/// `80%`, a whole number of bytes with its unit, or `0`.
impl FromStr for MaxSize {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        const UNITS: [(&str, u64); 6] = [
            ("%", 1),
            ("B", 1),
            ("KiB", 1 << 10),
            ("MiB", 1 << 20),
            ("GiB", 1 << 30),
            ("TiB", 1 << 40),
        ];
        let no_size = || {
            format!(
                "{} is no size of a cache: write a whole number and its unit, such as 500MiB, 20GiB or 1TiB, a share of what is \
                 free, such as 80%, or 0 to keep nothing",
                shown(s)
            )
        };
        let digits = s.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = s.split_at(digits);
        let number: u64 = number.parse().map_err(|_| no_size())?;
        if unit.is_empty() && number == 0 {
            return Ok(Self::Bytes(0));
        }
        let (unit, bytes) = UNITS
            .into_iter()
            .find(|(known, _)| *known == unit)
            .ok_or_else(no_size)?;
        if unit == "%" {
            return match u8::try_from(number) {
                Ok(0) => Ok(Self::Bytes(0)),
                Ok(percent @ ..=100) => Ok(Self::Share(percent)),
                _ => Err(format!("{} is more than 100%", shown(s))),
            };
        }
        number
            .checked_mul(bytes)
            .map(Self::Bytes)
            .ok_or_else(no_size)
    }
}

/// A duration in which something can happen.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    let time = value::duration(text)?;
    if time.is_zero() {
        return Err(format!(
            "{} leaves no time at all: give more, such as 10s",
            shown(text)
        ));
    }
    Ok(time)
}

/// A manifest is held in memory, by each request that pushes or pulls it.
const LARGEST_MANIFEST: usize = 1 << 30;

/// A session is an open file, and few systems let a process have more.
const MOST_UPLOADS: usize = 1_000_000;

/// What clients read at once without complaint.
const LONGEST_PAGE: usize = 10_000;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("1B", 1),
            ("512KiB", 512 << 10),
            ("4MiB", 4 << 20),
            ("1GiB", 1 << 30),
            ("1024MiB", 1 << 30),
        ] {
            assert_eq!(size(text).unwrap(), expected, "{text}");
        }
        for (bad, fragment) in [
            ("4096", "4096KiB"),
            ("0", "has no unit"),
            ("", "512KiB"),
            ("MiB", "512KiB"),
            ("4MB", "4MiB"),
            ("4mib", "4MiB"),
            ("4 MiB", "4MiB"),
            ("1.5MiB", "4MiB"),
            ("-1MiB", "4MiB"),
            ("99999999999999999999B", "4MiB"),
            ("0MiB", "between 1B and 1GiB"),
            ("1025MiB", "between 1B and 1GiB"),
            ("18446744073709551615GiB", "between 1B and 1GiB"),
        ] {
            let message = size(bad).unwrap_err();
            assert!(message.contains(fragment), "{bad:?}: {message}");
        }
    }

    #[test]
    fn sizes_of_the_cache() {
        for (text, expected) in [
            ("0", MaxSize::Bytes(0)),
            ("0%", MaxSize::Bytes(0)),
            ("0GiB", MaxSize::Bytes(0)),
            ("1%", MaxSize::Share(1)),
            ("100%", MaxSize::Share(100)),
            ("1B", MaxSize::Bytes(1)),
            ("500MiB", MaxSize::Bytes(500 << 20)),
            ("20GiB", MaxSize::Bytes(20 << 30)),
            ("2TiB", MaxSize::Bytes(2 << 40)),
        ] {
            assert_eq!(text.parse::<MaxSize>().unwrap(), expected, "{text}");
        }
        for (bad, fragment) in [
            ("", "20GiB"),
            ("20", "20GiB"),
            ("GiB", "20GiB"),
            ("%", "80%"),
            ("20GB", "20GiB"),
            ("20 GiB", "20GiB"),
            ("-1GiB", "20GiB"),
            ("0.5GiB", "20GiB"),
            ("101%", "more than 100%"),
            ("300%", "more than 100%"),
            ("99999999999TiB", "20GiB"),
        ] {
            let message = bad.parse::<MaxSize>().unwrap_err();
            assert!(message.contains(fragment), "{bad:?}: {message}");
        }
    }

    #[test]
    fn numbers() {
        for (text, expected) in [("1", 1), ("255", 255), ("007", 7)] {
            assert_eq!(number(text, 1..=255).unwrap(), expected, "{text}");
        }
        for bad in [
            "",
            "0",
            "256",
            "+7",
            "-1",
            "1.0",
            "1k",
            " 1",
            "٣",
            "99999999999999999999",
        ] {
            let message = number(bad, 1..=255).unwrap_err();
            assert!(message.contains("from 1 to 255"), "{bad:?}: {message}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(time("1ms").unwrap(), Duration::from_millis(1));
        for (bad, fragment) in [
            ("0", "no time at all"),
            ("0s", "no time at all"),
            ("5", "5s"),
        ] {
            let message = time(bad).unwrap_err();
            assert!(message.contains(fragment), "{bad:?}: {message}");
        }
    }
}
