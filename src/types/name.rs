//! Names: registry hosts, the spec's `<name>`, and the one name a repository has whichever way a client came.

use std::{fmt, str::FromStr};

use super::digest::shown;

/// Docker Hub, under the name its images are known by. The hosts that serve it are spellings of this one.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_ALIASES: [&str; 2] = ["registry-1.docker.io", "index.docker.io"];

/// Longest `<name>` accepted. Clients such as docker stop at 255 characters, their registry's host included.
pub const NAME_LIMIT: usize = 255;

/// A registry's host, with its port unless that is 443: lower-case, IPv6 in brackets, and Docker Hub's other hosts
/// (`registry-1.docker.io`, `index.docker.io`) folded into `docker.io`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegistryHost {
    host: Box<str>,
    port: Option<u16>,
}

impl RegistryHost {
    /// Docker Hub.
    pub fn docker_hub() -> Self {
        Self {
            host: DOCKER_HUB.into(),
            port: None,
        }
    }

    /// The host alone; an IPv6 address keeps its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, if it is not 443.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    pub fn is_docker_hub(&self) -> bool {
        self.port.is_none() && *self.host == *DOCKER_HUB
    }

    /// Reads the first component of a name, where a port is spelled `HOST_PORT`. `None` if it can be no host at all.
    pub fn from_component(component: &str) -> Option<Self> {
        match component.rsplit_once('_') {
            Some((host, port)) => format!("{host}:{port}").parse().ok(),
            None => component.parse().ok(),
        }
    }

    /// The host as the first component of a name and as a directory: a port behind an underscore.
    pub fn component(&self) -> String {
        match self.port {
            Some(port) => format!("{}_{port}", self.host),
            None => self.host.to_string(),
        }
    }

    /// Whether a first component that reads so is a host although no such registry is configured: docker's own rule,
    /// without the port.
    pub fn looks_like_host(&self) -> bool {
        self.host.contains('.') || *self.host == *"localhost"
    }
}

impl FromStr for RegistryHost {
    type Err = InvalidHost;

    fn from_str(s: &str) -> Result<Self, InvalidHost> {
        let invalid = || InvalidHost(shown(s));
        let lower = s.to_ascii_lowercase();
        let (host, port) = match lower.strip_prefix('[') {
            Some(rest) => {
                let (address, rest) = rest.split_once(']').ok_or_else(invalid)?;
                let address: std::net::Ipv6Addr = address.parse().map_err(|_| invalid())?;
                let port = if rest.is_empty() {
                    None
                } else {
                    Some(rest.strip_prefix(':').ok_or_else(invalid)?)
                };
                (format!("[{address}]"), port)
            }
            None => match lower.split_once(':') {
                Some((host, port)) => (host.to_owned(), Some(port)),
                None => (lower, None),
            },
        };
        let port = match port {
            None => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => Some(
                digits
                    .parse::<u16>()
                    .ok()
                    .filter(|port| *port != 0)
                    .ok_or_else(invalid)?,
            ),
            Some(_) => return Err(invalid()),
        };
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if !host.starts_with('[') && (host.len() > 253 || !host.split('.').all(label)) {
            return Err(invalid());
        }
        let port = port.filter(|port| *port != 443);
        if port.is_none() && DOCKER_HUB_ALIASES.contains(&host.as_str()) {
            return Ok(Self::docker_hub());
        }
        Ok(Self {
            host: host.into(),
            port,
        })
    }
}

impl fmt::Display for RegistryHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

impl serde::Serialize for RegistryHost {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for RegistryHost {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_parsed(deserializer)
    }
}

/// Not `HOST` or `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a registry's HOST or HOST:PORT")]
pub struct InvalidHost(String);

/// The spec's `<name>`: components of `[a-z0-9]+` joined inside by `.`, `_`, `__` or dashes, and to each other by `/`.
///
/// No component can begin with `_` or be `..`, so a name is safe as a relative path beside entries of our own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RepositoryName(Box<str>);

impl RepositoryName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The first component and the name behind it, if there is more than one.
    pub fn split_first(&self) -> Option<(&str, RepositoryName)> {
        let (first, rest) = self.0.split_once('/')?;
        Some((first, Self(rest.into())))
    }

    /// This name with `component` before it.
    fn under(&self, component: &str) -> Self {
        Self(format!("{component}/{}", self.0).into())
    }
}

impl FromStr for RepositoryName {
    type Err = InvalidName;

    fn from_str(s: &str) -> Result<Self, InvalidName> {
        if s.len() > NAME_LIMIT {
            return Err(InvalidName(format!(
                "{} is longer than {NAME_LIMIT} characters",
                shown(s)
            )));
        }
        if s.split('/').all(is_component) {
            Ok(Self(s.into()))
        } else {
            Err(InvalidName(format!(
                "{} is no repository name: lower-case letters and digits, joined by one '.', one or two '_', or dashes, in \
                 components parted by '/'",
                shown(s)
            )))
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(component: &str) -> bool {
    let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !word(first) || !word(last) {
        return false;
    }
    bytes.split(word).all(|separator| match separator {
        [] | [b'.'] | [b'_'] | [b'_', b'_'] => true,
        dashes => dashes.iter().all(|b| *b == b'-'),
    })
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Not a repository name; the text says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidName(String);

/// `<source>/<repository>`: the one name a repository has, whichever way a client came to it.
///
/// - `localhost:5000/acme/app`, a docker mirror's `acme/app`, `?ns=docker.io` and `docker.io/acme/app` are all
///   `docker.io/acme/app`.
/// - A name of one component on Docker Hub has `library/` before it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CanonicalName {
    source: RegistryHost,
    repository: RepositoryName,
}

impl CanonicalName {
    pub fn new(source: RegistryHost, repository: RepositoryName) -> Self {
        let single = repository.components().nth(1).is_none();
        let repository = if source.is_docker_hub() && single {
            repository.under("library")
        } else {
            repository
        };
        Self { source, repository }
    }

    /// The registry the name belongs to.
    pub fn source(&self) -> &RegistryHost {
        &self.source
    }

    /// The name within that registry.
    pub fn repository(&self) -> &RepositoryName {
        &self.repository
    }
}

impl FromStr for CanonicalName {
    type Err = InvalidName;

    /// Reads what `Display` wrote: the source is always spelled out.
    fn from_str(s: &str) -> Result<Self, InvalidName> {
        let parts = s
            .split_once('/')
            .and_then(|(source, rest)| Some((RegistryHost::from_component(source)?, rest)));
        let (source, rest) =
            parts.ok_or_else(|| InvalidName(format!("{} is not <registry>/<name>", shown(s))))?;
        Ok(Self::new(source, rest.parse()?))
    }
}

impl fmt::Display for CanonicalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.source.component(), self.repository)
    }
}

impl serde::Serialize for CanonicalName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for CanonicalName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_parsed(deserializer)
    }
}

/// The registry whose content is served for a canonical name: ours, or the one the name belongs to. Each is isolated
/// from the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Namespace {
    /// `_local`: what was pushed or seeded here.
    Local,
    /// The source's own: what was pulled through from it.
    Upstream,
}

/// Deserializes any of our values through its own parser, so that a file can hold no value that a request could not.
pub(super) fn deserialize_parsed<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: FromStr<Err: fmt::Display>,
{
    let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn host(s: &str) -> RegistryHost {
        s.parse().unwrap()
    }

    #[test]
    fn hosts_have_one_spelling() {
        for (given, shown, component) in [
            ("quay.io", "quay.io", "quay.io"),
            ("Quay.IO:443", "quay.io", "quay.io"),
            ("registry-1.docker.io", "docker.io", "docker.io"),
            ("index.docker.io:443", "docker.io", "docker.io"),
            ("localhost:5000", "localhost:5000", "localhost_5000"),
            ("127.0.0.1:80", "127.0.0.1:80", "127.0.0.1_80"),
            ("[::1]:5000", "[::1]:5000", "[::1]_5000"),
            ("[0:0::1]", "[::1]", "[::1]"),
        ] {
            let host = host(given);
            assert_eq!(host.to_string(), shown);
            assert_eq!(host.component(), component);
            assert_eq!(RegistryHost::from_component(component), Some(host));
        }
    }

    #[test]
    fn what_is_no_host() {
        let long_label = "a".repeat(64);
        let long = format!("{}.io", "a.".repeat(130));
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            "-a.io",
            "a-.io",
            "a_b.io",
            "a/b",
            "a b",
            "quay.io:",
            "quay.io:0",
            "quay.io:65536",
            "quay.io:+1",
            "::1",
            "[::1",
            "[::g]",
            "[::1]x",
            "é.io",
            "a\n.io",
            &long_label,
            &long,
        ] {
            assert!(bad.parse::<RegistryHost>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn name_grammar() {
        let longest = "a".repeat(255);
        for good in [
            "a",
            "0",
            "library/alpine",
            "a.b",
            "a_b",
            "a__b",
            "a-b",
            "a---b",
            "a/b/c/d/e/f",
            "127.0.0.1_5000/x",
            &longest,
        ] {
            assert_eq!(good.parse::<RepositoryName>().unwrap().as_str(), good);
        }
        let too_long = "a".repeat(256);
        for bad in [
            "", "/", "a/", "/a", "a//b", "A", "a..b", "a___b", "a._b", "a.-b", "_a", "a_", "-a",
            "a-", ".a", "a.", "..", "a/../b", "a b", "a:b", "a@b", "é", "a\0", "a%2fb", "_local/a",
            &too_long,
        ] {
            assert!(bad.parse::<RepositoryName>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn canonical_names() {
        let name = |source: &str, repository: &str| {
            CanonicalName::new(host(source), repository.parse().unwrap()).to_string()
        };
        assert_eq!(name("docker.io", "alpine"), "docker.io/library/alpine");
        assert_eq!(name("index.docker.io", "acme/app"), "docker.io/acme/app");
        assert_eq!(name("quay.io", "app"), "quay.io/app");
        assert_eq!(name("localhost:5001", "app"), "localhost_5001/app");
        let back: CanonicalName = "localhost_5001/app".parse().unwrap();
        assert_eq!(back.source(), &host("localhost:5001"));
        assert!("app".parse::<CanonicalName>().is_err());
    }
}
