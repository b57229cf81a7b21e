//! The proxy that we ourselves reach the world through, and whom we reach without it.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use super::{
    digest::shown,
    network::Network,
    url::{parse_port, split_port},
};

/// An HTTP proxy, which is asked with CONNECT. Its `Debug` and `Display` leave the credentials out.
#[derive(Clone, PartialEq, Eq)]
pub struct UpstreamProxy {
    tls: bool,
    host: String,
    port: u16,
    credentials: Option<(String, String)>,
    except: Vec<Exception>,
}

impl UpstreamProxy {
    /// Whether TLS is spoken to the proxy itself.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// A lower-case name or an address, IPv6 without brackets.
    pub fn host(&self) -> &str {
        self.host.trim_matches(['[', ']'])
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// User and password, decoded.
    pub fn credentials(&self) -> Option<(&str, &str)> {
        let (user, password) = self.credentials.as_ref()?;
        Some((user, password))
    }

    /// With the exceptions of a `NO_PROXY` list. What can't be understood there excepts nobody.
    pub fn except(mut self, list: &str) -> Self {
        let entries = list.split([',', ' ']).filter(|entry| !entry.is_empty());
        self.except.extend(entries.filter_map(Exception::parse));
        self
    }

    /// Whether `host` (a name, or an address with or without brackets) is reached without the proxy. Loopback always is.
    pub fn excepts(&self, host: &str, port: u16) -> bool {
        let bare = host.trim_matches(['[', ']']).trim_end_matches('.');
        let address = bare.parse::<IpAddr>().ok();
        let loopback = address.map_or(bare.eq_ignore_ascii_case("localhost"), |address| {
            address.to_canonical().is_loopback()
        });
        loopback
            || self
                .except
                .iter()
                .any(|exception| exception.covers(bare, address, port))
    }
}

impl FromStr for UpstreamProxy {
    type Err = InvalidProxy;

    fn from_str(s: &str) -> Result<Self, InvalidProxy> {
        let (before, rest) = match s.split_once("://") {
            Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
            None => (None, s),
        };
        let (credentials, rest) = match rest.rsplit_once('@') {
            Some((credentials, rest)) => (Some(credentials), rest),
            None => (None, rest),
        };
        // From here on nothing that may be quoted holds a password.
        let invalid = |why: &str| {
            InvalidProxy(format!(
                "the proxy at {} {why}: write http://HOST:PORT or https://HOST:PORT",
                shown(rest)
            ))
        };
        let tls = match before.as_deref() {
            Some("http") => false,
            Some("https") => true,
            Some(_) => return Err(invalid("is reached neither by http:// nor by https://")),
            None => return Err(invalid("has no scheme")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split_port(authority);
        let host = host.to_ascii_lowercase();
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let is_host = match bracketed {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => {
                let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
                !host.is_empty() && host.bytes().all(allowed)
            }
        };
        if !is_host {
            return Err(invalid("has no valid host"));
        }
        let port = match port {
            None => [80, 443][usize::from(tls)],
            Some(digits) => parse_port(digits)
                .filter(|port| *port != 0)
                .ok_or_else(|| invalid("has no port from 1 to 65535"))?,
        };
        let credentials = credentials
            .map(|credentials| {
                let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
                decoded(user)
                    .zip(decoded(password))
                    .ok_or_else(|| invalid("has credentials that are not percent-encoded"))
            })
            .transpose()?;
        Ok(Self {
            tls,
            host,
            port,
            credentials,
            except: Vec::new(),
        })
    }
}

impl fmt::Display for UpstreamProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for UpstreamProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// No proxy that we can use; the text says what would be right and holds no password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidProxy(String);

/// An entry of `NO_PROXY`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Exception {
    Everyone,
    /// The name and those below it.
    Name(String, Option<u16>),
    Network(Network),
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        if entry == "*" {
            return Some(Self::Everyone);
        }
        if let Ok(network) = entry.trim_matches(['[', ']']).parse() {
            return Some(Self::Network(network));
        }
        let (name, port) = split_port(entry);
        let port = match port {
            Some(digits) => Some(parse_port(digits)?),
            None => None,
        };
        let name = name.strip_prefix('*').unwrap_or(name);
        let name = name.strip_prefix('.').unwrap_or(name);
        (!name.is_empty()).then(|| Self::Name(name.to_ascii_lowercase(), port))
    }

    fn covers(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        match self {
            Self::Everyone => true,
            Self::Network(network) => address.is_some_and(|address| network.contains(address)),
            Self::Name(name, of_port) => {
                let host = host.to_ascii_lowercase();
                let below = host.strip_suffix(name.as_str());
                below.is_some_and(|below| below.is_empty() || below.ends_with('.'))
                    && of_port.is_none_or(|of_port| of_port == port)
            }
        }
    }
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (high, low) = (rest.next()?, rest.next()?);
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn proxies() {
        for (text, shown, credentials) in [
            ("http://Proxy:3128", "http://proxy:3128", None),
            ("http://proxy/", "http://proxy:80", None),
            ("https://[::1]:8443", "https://[::1]:8443", None),
            (
                "http://u:p%40s%3As@proxy:1",
                "http://proxy:1",
                Some(("u", "p@s:s")),
            ),
            ("http://u:p@s@proxy:1", "http://proxy:1", Some(("u", "p@s"))),
            ("HTTPS://u@proxy", "https://proxy:443", Some(("u", ""))),
        ] {
            let proxy: UpstreamProxy = text.parse().unwrap();
            assert_eq!(proxy.to_string(), shown);
            assert_eq!(format!("{proxy:?}"), shown, "no password in the log");
            assert_eq!(proxy.credentials(), credentials);
        }
        for bad in [
            "",
            "proxy:3128",
            "socks5://u:secret@proxy",
            "http://",
            "http://u:secret@",
            "http://u:secret@p:0",
            "http://u:secret@p:99999",
            "http://u:secret@p/path",
            "http://secret%zz@p:1",
            "http://u:secret@a b:1",
        ] {
            let refused = bad.parse::<UpstreamProxy>().unwrap_err().to_string();
            assert!(refused.contains("http://HOST:PORT"), "{refused}");
            assert!(!refused.contains("secret"), "{refused}");
        }
    }

    #[test]
    fn whom_no_proxy_excepts() {
        let proxy: UpstreamProxy = "http://proxy:1".parse().unwrap();
        let list = "internal.example,.corp, *.lab, 10.0.0.0/8,[fd00::1] api.example:8443, :";
        let proxy = proxy.except(list);
        for host in [
            "localhost",
            "127.9.9.9",
            "[::1]",
            "internal.example",
            "A.Internal.Example.",
            "corp",
            "x.corp",
            "lab",
            "x.lab",
            "10.1.2.3",
            "fd00::1",
        ] {
            assert!(proxy.excepts(host, 443), "{host}");
        }
        for host in ["notinternal.example", "quay.io", "11.0.0.1", "api.example"] {
            assert!(!proxy.excepts(host, 443), "{host}");
        }
        assert!(proxy.excepts("api.example", 8443));
        assert!(proxy.except("*").excepts("quay.io", 443));
    }
}
