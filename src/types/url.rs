//! The two kinds of URL that options take: where an upstream really is, and where clients find us.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use super::{digest::shown, name::RegistryHost};

/// Where an upstream registry is: its API is at this URL followed by `/v2/`.
///
/// - `http` or `https`, a host, and maybe a port and a path; no query, no fragment, no credentials.
/// - One spelling: lower-case scheme and host, no default port, no slash at the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamUrl(Box<str>);

impl UpstreamUrl {
    /// Where a registry is if nothing else is said: HTTPS at its own name, which for Docker Hub is not the name its
    /// images are known by.
    pub fn of_host(host: &RegistryHost) -> Self {
        if host.is_docker_hub() {
            Self(DOCKER_HUB_URL.into())
        } else {
            Self(format!("https://{host}").into())
        }
    }

    /// Without a slash at the end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UpstreamUrl {
    type Err = InvalidUrl;

    fn from_str(s: &str) -> Result<Self, InvalidUrl> {
        let parts = Parts::parse(s)?;
        let path = parts.path.trim_end_matches('/');
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:".contains(&b);
        let segment = |segment: &str| {
            !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(allowed)
        };
        if !path.is_empty() && !path[1..].split('/').all(segment) {
            return Err(InvalidUrl(format!(
                "the path of {} is not one that a URL can have",
                shown(s)
            )));
        }
        if path.ends_with("/v2") || path.contains("/v2/") {
            return Err(InvalidUrl(format!(
                "{} names a registry's API: leave out /v2, which is added",
                shown(s)
            )));
        }
        let scheme = parts.scheme.as_str();
        let port = match parts.port {
            Some(port) if port != parts.scheme.default_port() => format!(":{port}"),
            _ => String::new(),
        };
        Ok(Self(
            format!("{scheme}://{}{port}{path}", parts.host).into(),
        ))
    }
}

impl fmt::Display for UpstreamUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where clients find us, if that is not where we listen: behind a port mapping or a load balancer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalUrl {
    scheme: Scheme,
    host: String,
    port: u16,
}

impl ExternalUrl {
    /// Lower-case; an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The scheme's own port if none was given.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn is_https(&self) -> bool {
        self.scheme == Scheme::Https
    }
}

impl FromStr for ExternalUrl {
    type Err = InvalidUrl;

    fn from_str(s: &str) -> Result<Self, InvalidUrl> {
        let parts = Parts::parse(s)?;
        if !matches!(parts.path, "" | "/") {
            return Err(InvalidUrl(format!(
                "{} has a path, but clients look for a registry at the root of a host",
                shown(s)
            )));
        }
        Ok(Self {
            port: parts.port.unwrap_or(parts.scheme.default_port()),
            scheme: parts.scheme,
            host: parts.host,
        })
    }
}

impl fmt::Display for ExternalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.host)?;
        if self.port == self.scheme.default_port() {
            return Ok(());
        }
        write!(f, ":{}", self.port)
    }
}

/// No URL that we can use; the text says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidUrl(String);

impl InvalidUrl {
    /// A reason of a stricter kind of URL's own.
    pub(crate) fn new(problem: String) -> Self {
        Self(problem)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A base URL taken apart.
struct Parts<'a> {
    scheme: Scheme,
    host: String,
    port: Option<u16>,
    /// Empty, or beginning with a slash.
    path: &'a str,
}

impl<'a> Parts<'a> {
    fn parse(text: &'a str) -> Result<Self, InvalidUrl> {
        // Before anything else is quoted: what stands before an '@' is a secret.
        if let Some((_, rest)) = text.rsplit_once('@') {
            return Err(InvalidUrl(format!(
                "the URL before {} holds a user or password: credentials have no place in it",
                shown(rest)
            )));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| {
            InvalidUrl(format!(
                "{} is no URL: it begins with https:// or http://",
                shown(text)
            ))
        })?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => {
                return Err(InvalidUrl(format!(
                    "{} is neither an https:// nor an http:// URL",
                    shown(text)
                )));
            }
        };
        if rest.contains(['?', '#']) {
            return Err(InvalidUrl(format!(
                "{} has a query or a fragment: leave out what follows '?' or '#'",
                shown(text)
            )));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = split_port(authority);
        let host = host.to_ascii_lowercase();
        if !is_host(&host) {
            return Err(InvalidUrl(format!("{} has no valid host", shown(text))));
        }
        let port = port
            .map(|port| {
                parse_port(port).filter(|port| *port != 0).ok_or_else(|| {
                    InvalidUrl(format!("the port of {} is not 1 to 65535", shown(text)))
                })
            })
            .transpose()?;
        Ok(Self {
            scheme,
            host,
            port,
            path,
        })
    }
}

/// Parts `HOST[:PORT]`; the colons within brackets belong to the host.
pub(crate) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Decimal digits only, where `u16::from_str` takes a sign as well.
pub(crate) fn parse_port(digits: &str) -> Option<u16> {
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        digits.parse().ok()
    } else {
        None
    }
}

/// A lower-case DNS name, an IPv4 address, or an IPv6 address in brackets. Underscores are taken: compose files name
/// their services so.
fn is_host(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        return rest
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
    };
    host.len() <= 253 && host.split('.').all(label)
}

const DOCKER_HUB_URL: &str = "https://registry-1.docker.io";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn upstream_urls_have_one_spelling() {
        for (given, expected) in [
            ("https://quay.io", "https://quay.io"),
            ("HTTPS://Quay.IO:443/", "https://quay.io"),
            ("http://127.0.0.1:5001", "http://127.0.0.1:5001"),
            ("http://[::1]:5001/", "http://[::1]:5001"),
            ("http://registry_1:80", "http://registry_1"),
            ("http://quay.io:443", "http://quay.io:443"),
            (
                "https://mirror.example.com/api/docker/Hub/",
                "https://mirror.example.com/api/docker/Hub",
            ),
        ] {
            assert_eq!(given.parse::<UpstreamUrl>().unwrap().as_str(), expected);
        }
    }

    #[test]
    fn what_is_no_upstream_url() {
        for (bad, fragment) in [
            ("", "begins with https://"),
            ("quay.io", "begins with https://"),
            ("quay.io:443", "begins with https://"),
            ("ftp://quay.io", "neither an https://"),
            ("https://", "no valid host"),
            ("https:///x", "no valid host"),
            ("https://a..b", "no valid host"),
            ("https://a b", "no valid host"),
            ("https://[::1", "no valid host"),
            ("https://::1", "no valid host"),
            ("https://a:", "not 1 to 65535"),
            ("https://a:0", "not 1 to 65535"),
            ("https://a:65536", "not 1 to 65535"),
            ("https://a:+1", "not 1 to 65535"),
            ("https://a/?x=1", "query"),
            ("https://a#x", "fragment"),
            ("https://a/b//c", "the path"),
            ("https://a/../b", "the path"),
            ("https://a/b c", "the path"),
            ("https://quay.io/v2/", "leave out /v2"),
            ("https://quay.io/v2", "leave out /v2"),
        ] {
            let message = bad.parse::<UpstreamUrl>().unwrap_err().to_string();
            assert!(message.contains(fragment), "{bad:?}: {message}");
        }
    }

    #[test]
    fn a_password_is_never_repeated() {
        for bad in [
            "https://me:hunter2@quay.io",
            "me:hunter2@quay.io",
            "https://me:hunter2@quay.io/x?y",
        ] {
            let message = bad.parse::<UpstreamUrl>().unwrap_err().to_string();
            assert!(message.contains("credentials"), "{message}");
            assert!(message.contains("quay.io"), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn external_urls() {
        for (given, host, port, https) in [
            (
                "https://Registry.Example.com",
                "registry.example.com",
                443,
                true,
            ),
            ("http://registry/", "registry", 80, false),
            ("http://[::1]:5000", "[::1]", 5000, false),
        ] {
            let url: ExternalUrl = given.parse().unwrap();
            assert_eq!(
                (url.host(), url.port(), url.is_https()),
                (host, port, https)
            );
        }
        let message = "https://a/b".parse::<ExternalUrl>().unwrap_err();
        assert!(message.to_string().contains("has a path"), "{message}");
    }
}
