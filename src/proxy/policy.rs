//! Where tunnels may lead. A pure decision on names and addresses: nothing is resolved or dialled here.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use crate::types::{
    Network, Zone,
    digest::shown,
    url::{parse_port, split_port},
};

/// What a CONNECT asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) host: Host,
    pub(super) port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// Lower-case, without a dot at the end.
    Name(String),
    Address(IpAddr),
}

impl Host {
    /// Reads a DNS name, an IPv4 address of four decimal numbers, or an IPv6 address, with or without brackets. What some
    /// systems take for an address (`2130706433`, `0x7f.1`, `0177.0.0.1`) is none here, and no name either.
    fn parse(text: &str) -> Option<Self> {
        let bracketed = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        if let Some(address) = bracketed {
            let address: Ipv6Addr = address.parse().ok()?;
            return Some(Self::Address(IpAddr::V6(address).to_canonical()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Some(Self::Address(address.into()));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let label = |label: &str| {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            (1..=63).contains(&label.len()) && label.bytes().all(allowed)
        };
        // RFC 6943, section 3.1.1: a name whose last label is a number is an address to some.
        let last = name.rsplit('.').next().unwrap_or_default();
        let hex = last.strip_prefix("0x");
        let numeric = hex.map_or_else(
            || last.bytes().all(|b| b.is_ascii_digit()),
            |hex| hex.bytes().all(|b| b.is_ascii_hexdigit()),
        );
        (name.len() <= 253 && !numeric && name.split('.').all(label)).then_some(Self::Name(name))
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let (host, port) = split_port(s);
        let port = port
            .and_then(parse_port)
            .filter(|port| *port != 0)
            .ok_or_else(|| format!("{} has no port: CONNECT takes HOST:PORT", shown(s)))?;
        let host = Host::parse(host).ok_or_else(|| {
            format!(
                "{} is neither a DNS name nor an address: those are written 192.0.2.1 and [2001:db8::1]",
                shown(host)
            )
        })?;
        Ok(Self { host, port })
    }
}

impl Target {
    /// The host as a URL has it.
    pub(super) fn host(&self) -> String {
        match &self.host {
            Host::Name(name) => name.clone(),
            Host::Address(IpAddr::V6(address)) => format!("[{address}]"),
            Host::Address(address) => address.to_string(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host(), self.port)
    }
}

/// An entry of `--tunnel`. Without a port it is for 443 and 80.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelPattern {
    /// `public`: every address of the internet.
    Public,
    Listed {
        hosts: TunnelHosts,
        port: Option<u16>,
    },
}

/// Whom an entry of `--tunnel` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelHosts {
    /// One name, wherever it leads: whoever lists it knows the machine.
    Name(String),
    /// The names below it, wherever they lead but for this machine and its link, which no DNS server should open.
    Below(String),
    /// Addresses, under whichever name.
    Network(Network),
}

impl FromStr for TunnelPattern {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let invalid = || {
            format!(
                "{} says nothing about tunnels: write none, public, or a HOST, *.SUFFIX, ADDRESS or NETWORK/BITS, each with \
                 :PORT if it is not for 443 and 80 (IPv6 with a port in brackets)",
                shown(s)
            )
        };
        if s == "public" {
            return Ok(Self::Public);
        }
        let listed = |hosts, port| Ok(Self::Listed { hosts, port });
        if let Ok(network) = s.parse() {
            return listed(TunnelHosts::Network(network), None);
        }
        let (host, port) = split_port(s);
        let port = match port {
            Some(digits) => Some(
                parse_port(digits)
                    .filter(|port| *port != 0)
                    .ok_or_else(invalid)?,
            ),
            None => None,
        };
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if let Ok(network) = bracketed.unwrap_or(host).parse() {
            return listed(TunnelHosts::Network(network), port);
        }
        let (below, host) = match host.strip_prefix("*.") {
            Some(suffix) => (true, suffix),
            None => (false, host),
        };
        match Host::parse(host) {
            Some(Host::Name(name)) if below => listed(TunnelHosts::Below(name), port),
            Some(Host::Name(name)) if name != "none" => listed(TunnelHosts::Name(name), port),
            _ => Err(invalid()),
        }
    }
}

impl TunnelPattern {
    fn is_for_port(&self, port: u16) -> bool {
        match self {
            Self::Listed {
                port: Some(listed), ..
            } => port == *listed,
            Self::Public | Self::Listed { port: None, .. } => matches!(port, 80 | 443),
        }
    }

    fn names(&self, host: &Host) -> bool {
        let (Self::Listed { hosts, .. }, Host::Name(name)) = (self, host) else {
            return false;
        };
        match hosts {
            TunnelHosts::Name(listed) => name == listed,
            TunnelHosts::Below(suffix) => name
                .strip_suffix(suffix.as_str())
                .is_some_and(|below| below.ends_with('.')),
            TunnelHosts::Network(_) => false,
        }
    }

    /// Whether the entry may let this target through, once its address is known.
    fn may_allow(&self, target: &Target) -> bool {
        self.is_for_port(target.port)
            && match (self, &target.host) {
                (_, Host::Address(address)) => self.allows(target, *address),
                (
                    Self::Public
                    | Self::Listed {
                        hosts: TunnelHosts::Network(_),
                        ..
                    },
                    Host::Name(_),
                ) => true,
                (Self::Listed { .. }, host) => self.names(host),
            }
    }

    fn allows(&self, target: &Target, address: IpAddr) -> bool {
        let zone = Zone::of(address);
        self.is_for_port(target.port)
            && match self {
                Self::Public => zone == Zone::Public,
                Self::Listed { hosts, .. } => match hosts {
                    TunnelHosts::Name(_) => self.names(&target.host),
                    TunnelHosts::Below(_) => {
                        self.names(&target.host) && matches!(zone, Zone::Public | Zone::Private)
                    }
                    TunnelHosts::Network(network) => network.contains(address),
                },
            }
    }
}

/// The entries that hold for one listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy<'a>(pub(super) &'a [TunnelPattern]);

impl Policy<'_> {
    /// Whether it is worth asking where the target is.
    pub(super) fn may_allow(self, target: &Target) -> bool {
        self.0.iter().any(|pattern| pattern.may_allow(target))
    }

    /// Whether `address`, which is the target's, may be dialled.
    pub(super) fn allows(self, target: &Target, address: IpAddr) -> bool {
        self.0.iter().any(|pattern| pattern.allows(target, address))
    }

    /// Whether the target may be left to another proxy, which alone knows where it is: names that are listed, and where
    /// any public address may be had, those that could be the internet's.
    pub(super) fn allows_unresolved(self, target: &Target) -> bool {
        let Host::Name(name) = &target.host else {
            return false;
        };
        let internet =
            name.contains('.') && !LOCAL_DOMAINS.iter().any(|local| name.ends_with(local));
        self.0.iter().any(|pattern| {
            pattern.is_for_port(target.port)
                && (pattern.names(&target.host) || (*pattern == TunnelPattern::Public && internet))
        })
    }
}

/// Names that are nobody's on the internet (RFC 6761, RFC 6762, RFC 8375, and ICANN's `internal`).
const LOCAL_DOMAINS: [&str; 5] = [
    ".localhost",
    ".local",
    ".internal",
    ".home.arpa",
    ".localdomain",
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Vec<TunnelPattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn targets() {
        for (text, shown) in [
            ("Example.COM:443", "example.com:443"),
            ("example.com.:443", "example.com:443"),
            ("a_b:1", "a_b:1"),
            ("10.0.0.1:65535", "10.0.0.1:65535"),
            ("[0:0::1]:80", "[::1]:80"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
        ] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "example.com",
            "example.com:",
            "example.com:0",
            "example.com:65536",
            "example.com:+1",
            ":443",
            "::1:443",
            "[::1]",
            "[fe80::1%eth0]:80",
            "user@example.com:443",
            "a..b:1",
            "2130706433:80",
            "0x7f000001:80",
            "0x7f.1:80",
            "127.1:80",
            "0177.0.0.1:80",
            "127.0.0.01:80",
            "a b:1",
            "256.1.1.1:80",
            "1.2.3.4.5:80",
            "x.0x1f:80",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn patterns_that_mean_nothing() {
        for bad in [
            "",
            "none",
            "*",
            "*.",
            "*.*.io",
            "a.*",
            "10.0.0.1/8",
            "10.0.0.0/8:x",
            "a:0",
            "a:99999",
            "http://a",
            "::1:443:",
            "2130706433",
            "a/b",
        ] {
            let refused = bad.parse::<TunnelPattern>().unwrap_err();
            assert!(refused.contains("none, public"), "{refused}");
        }
    }

    #[test]
    fn what_is_allowed_where() {
        for (entries, target, address, expected) in [
            (&["public"][..], "pypi.org:443", "151.101.0.223", true),
            (&["public"], "pypi.org:80", "2a04:4e42::223", true),
            (&["public"], "pypi.org:22", "151.101.0.223", false),
            (&["public"], "151.101.0.223:443", "151.101.0.223", true),
            (&["public"], "evil.example:443", "127.0.0.1", false),
            (&["public"], "evil.example:443", "169.254.169.254", false),
            (&["public"], "evil.example:443", "10.0.0.1", false),
            (&["public"], "evil.example:443", "::ffff:10.0.0.1", false),
            (&["public"], "evil.example:443", "64:ff9b::7f00:1", false),
            (&["public"], "evil.example:443", "100.64.0.1", false),
            (&[], "pypi.org:443", "151.101.0.223", false),
            (&["pypi.org"], "pypi.org:443", "151.101.0.223", true),
            (&["pypi.org"], "files.pypi.org:443", "151.101.0.223", false),
            (&["db.ci:5432"], "db.ci:5432", "127.0.0.1", true),
            (&["db.ci:5432"], "db.ci:443", "127.0.0.1", false),
            (&["db.ci:5432"], "127.0.0.1:5432", "127.0.0.1", false),
            (&["*.ci"], "db.ci:443", "10.0.0.1", true),
            (&["*.ci"], "ci:443", "10.0.0.1", false),
            (&["*.ci"], "xci:443", "10.0.0.1", false),
            (&["*.ci"], "db.ci:443", "127.0.0.1", false),
            (&["*.ci"], "db.ci:443", "169.254.169.254", false),
            (&["10.0.0.0/8"], "db.ci:443", "10.1.2.3", true),
            (&["10.0.0.0/8"], "10.1.2.3:80", "10.1.2.3", true),
            (&["10.0.0.0/8:8080"], "10.1.2.3:80", "10.1.2.3", false),
            (&["10.0.0.0/8:8080"], "10.1.2.3:8080", "10.1.2.3", true),
            (&["[::1]:8080"], "[::1]:8080", "::1", true),
            (&["fd00::/8"], "[fd00::1]:443", "fd00::1", true),
            (&["[fd00::/8]:1"], "x:1", "fd00::1", true),
        ] {
            let entries = patterns(entries);
            let parsed: Target = target.parse().unwrap();
            let allowed = Policy(&entries).allows(&parsed, address.parse().unwrap());
            assert_eq!(allowed, expected, "{entries:?} {target} {address}");
            if allowed {
                assert!(Policy(&entries).may_allow(&parsed), "{entries:?} {target}");
            }
        }
    }

    #[test]
    fn what_another_proxy_may_be_asked_for() {
        for (entries, target, expected) in [
            (&["public"][..], "pypi.org:443", true),
            (&["public"], "localhost:443", false),
            (&["public"], "db:443", false),
            (&["public"], "db.internal:443", false),
            (&["public"], "pypi.org:22", false),
            (&["public"], "1.1.1.1:443", false),
            (&["db.internal"], "db.internal:443", true),
            (&["10.0.0.0/8"], "pypi.org:443", false),
        ] {
            let entries = patterns(entries);
            let asked = Policy(&entries).allows_unresolved(&target.parse().unwrap());
            assert_eq!(asked, expected, "{entries:?} {target}");
        }
    }
}
