//! What options mean: each text becomes a value here or is refused, with the text quoted and the right form named.
//!
//! Where a text came from is not known here; `source` puts that before the refusal.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    str::FromStr,
    time::Duration,
};

use rustix::process::Pid;

use crate::{
    job::Parent,
    storage::Durability,
    types::{
        RegistryHost, UpstreamUrl,
        digest::shown,
        url::{parse_port, split_port},
    },
};

impl FromStr for Durability {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "job" => Ok(Self::Job),
            "full" => Ok(Self::Full),
            other => Err(format!("{} is neither job nor full", shown(other))),
        }
    }
}

/// A further name that our certificate holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum San {
    /// A DNS name, lower-case.
    Name(String),
    Address(IpAddr),
}

impl FromStr for San {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if let Ok(address) = s.parse() {
            return Ok(Self::Address(address));
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // A name whose last label is a number would be an address (RFC 6943, section 3.1.1), and it parsed as none.
        let numeric = s
            .rsplit('.')
            .next()
            .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if s.len() > 253 || numeric || !s.split('.').all(label) {
            return Err(format!(
                "{} is neither a DNS name nor an IP address; ports, brackets and wildcards do not belong here",
                shown(s)
            ));
        }
        Ok(Self::Name(s.to_ascii_lowercase()))
    }
}

/// `true`, `false` and the usual other spellings of the two.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err(format!("{} is neither true nor false", shown(text))),
    }
}

/// Whose end is to be ours as well: `true` for the parent, a process by its id, or nobody's.
pub(super) fn parent(text: &str) -> Result<Option<Parent>, String> {
    match (text.to_ascii_lowercase().as_str(), text.parse()) {
        ("true" | "yes", _) => Ok(Some(Parent::Ours)),
        ("false" | "no" | "0", _) => Ok(None),
        (_, Ok(id)) if id > 0 => Ok(Pid::from_raw(id).map(Parent::Process)),
        (_, Ok(_)) => Err(format!("{} is no process id", shown(text))),
        _ => Err(format!(
            "{} is neither true nor false nor the id of a process, such as $$",
            shown(text)
        )),
    }
}

/// A whole number with its unit, or 0.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    );
    let seconds_per_unit = match unit {
        "ms" => None,
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(60 * 60),
        "d" => Some(24 * 60 * 60),
        "" if !number.is_empty() && number.bytes().all(|b| b == b'0') => Some(1),
        "" if !number.is_empty() => {
            return Err(format!(
                "{} has no unit: write {number}ms, {number}s, {number}m, {number}h or {number}d",
                shown(text)
            ));
        }
        _ => return Err(no_duration(text)),
    };
    let number: u64 = number.parse().map_err(|_| no_duration(text))?;
    let duration = match seconds_per_unit {
        None => Some(Duration::from_millis(number)),
        Some(seconds) => number.checked_mul(seconds).map(Duration::from_secs),
    };
    duration
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| format!("{} is too long: the most is 876000h", shown(text)))
}

fn no_duration(text: &str) -> String {
    format!(
        "{} is no duration: write a whole number and its unit, such as 500ms, 30s, 5m, 1h or 7d, or 0",
        shown(text)
    )
}

/// `ADDRESS:PORT`. A name is resolved, to one address: IPv4 where it has one, since containers list `::1` as localhost
/// where they have no IPv6.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let quoted = shown(text);
    if text == "bridge" {
        return Err(format!("{quoted} has no port: write bridge:5000"));
    }
    if let Some(port) = text.strip_prefix("bridge:").and_then(parse_port) {
        let interfaces = if_addrs::get_if_addrs().map_err(|error| {
            format!("{quoted}: this machine's addresses can't be read: {error}")
        })?;
        let interfaces = interfaces.iter().map(|own| (own.name.as_str(), own.ip()));
        return bridge(interfaces)
            .map(|gateway| SocketAddr::new(gateway, port))
            .ok_or_else(|| {
                format!(
                    "{quoted}: there is no bridge docker0 with an address: start docker first, or write the gateway that \
                     `docker network inspect bridge` names"
                )
            });
    }
    if text.contains("://") {
        return Err(format!(
            "{quoted} is a URL: write ADDRESS:PORT, such as 127.0.0.1:5000"
        ));
    }
    match text.parse() {
        Ok(IpAddr::V4(address)) => {
            return Err(format!("{quoted} has no port: write {address}:5000"));
        }
        Ok(IpAddr::V6(_)) => {
            return Err(format!(
                "{quoted} has no port: an IPv6 address with one is written [::1]:5000"
            ));
        }
        Err(_) => {}
    }
    let (host, port) = match split_port(text) {
        ("", Some(port)) => (None, port),
        (number, None) if parse_port(number).is_some() => (None, number),
        (_, None) => {
            return Err(format!("{quoted} has no port: write {text}:5000"));
        }
        (host, Some(port)) => (Some(host), port),
    };
    let port = parse_port(port)
        .ok_or_else(|| format!("{quoted} has no valid port: it is a number from 0 to 65535"))?;
    let Some(host) = host else {
        return Err(format!(
            "{quoted} has no address: write 127.0.0.1:{port} to serve this machine, 0.0.0.0:{port} or [::]:{port} to \
             serve others too"
        ));
    };
    if host.contains(':') {
        return Err(format!(
            "{quoted}: an IPv6 address is written in brackets, such as [::1]:{port}"
        ));
    }
    let addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("{quoted}: {host} cannot be resolved: {error}"))?
        .collect();
    addresses
        .iter()
        .find(|address| address.is_ipv4())
        .or(addresses.first())
        .copied()
        .ok_or_else(|| format!("{quoted}: {host} has no address"))
}

/// The gateway of docker's bridge, by which its containers reach this machine.
fn bridge<'a>(interfaces: impl Iterator<Item = (&'a str, IpAddr)>) -> Option<IpAddr> {
    let mut of_bridge = interfaces.filter(|(name, _)| *name == "docker0");
    of_bridge.find_map(|(_, address)| address.is_ipv4().then_some(address))
}

/// `HOST[=URL]`; `HOST` alone is where a registry of that name usually is.
pub(super) fn registry(text: &str) -> Result<(RegistryHost, UpstreamUrl), String> {
    let (host, url) = match text.split_once('=') {
        Some((host, url)) => (host, Some(url)),
        None => (text, None),
    };
    if host.contains("://") || host.contains('@') {
        // Not quoted: it may hold a password.
        return Err(
            "HOST[=URL] begins with the registry's name, such as quay.io or \
                    quay.io=http://127.0.0.1:5001, not with a URL"
                .to_owned(),
        );
    }
    if host.trim_end_matches('/').contains('/') {
        return Err(format!(
            "{} names a repository: give the registry's HOST alone",
            shown(host)
        ));
    }
    let host: RegistryHost = host.parse().map_err(|error| format!("{error}"))?;
    let url = match url {
        Some(url) => url.parse().map_err(|error| format!("{host}: {error}"))?,
        None => UpstreamUrl::of_host(&host),
    };
    Ok((host, url))
}

/// A century: far below what a point in time can be moved by.
const LONGEST: Duration = Duration::from_secs(876_000 * 60 * 60);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("0", Duration::ZERO),
            ("0s", Duration::ZERO),
            ("500ms", Duration::from_millis(500)),
            ("30s", Duration::from_secs(30)),
            ("5m", Duration::from_secs(300)),
            ("1h", Duration::from_secs(3600)),
            ("7d", Duration::from_secs(7 * 24 * 3600)),
            ("876000h", LONGEST),
        ] {
            assert_eq!(duration(text).unwrap(), expected, "{text}");
        }
        for (bad, fragment) in [
            ("90", "90s"),
            ("", "5m"),
            ("s", "5m"),
            ("1w", "5m"),
            ("1.5s", "5m"),
            ("-1s", "5m"),
            ("1 s", "5m"),
            ("1h30m", "5m"),
            ("٣s", "5m"),
            ("99999999999999999999s", "5m"),
            ("876001h", "876000h"),
            ("18446744073709551615h", "876000h"),
        ] {
            let message = duration(bad).unwrap_err();
            assert!(message.contains(fragment), "{bad:?}: {message}");
        }
    }

    #[test]
    fn addresses_to_listen_on() {
        for (text, expected) in [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:5000", "[::1]:5000"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("localhost:5000", "127.0.0.1:5000"),
        ] {
            assert_eq!(listen_address(text).unwrap().to_string(), expected);
        }
        let long_label = format!("{}:5000", "a".repeat(64));
        for (bad, fragment) in [
            ("", "has no port"),
            ("5000", "127.0.0.1:5000"),
            (":5000", "0.0.0.0:5000"),
            ("127.0.0.1", "127.0.0.1:5000"),
            ("localhost", "localhost:5000"),
            ("::1", "[::1]:5000"),
            ("::1:5000", "[::1]:5000"),
            ("fe80::1::5000", "in brackets"),
            ("[::1]", "has no port"),
            ("127.0.0.1:", "0 to 65535"),
            ("127.0.0.1:65536", "0 to 65535"),
            ("127.0.0.1:+1", "0 to 65535"),
            ("http://127.0.0.1:5000", "is a URL"),
            // A label too long for DNS is refused without asking a server.
            (&long_label, "cannot be resolved"),
        ] {
            let message = listen_address(bad).unwrap_err();
            assert!(message.contains(fragment), "{bad:?}: {message}");
        }
    }

    #[test]
    fn the_bridge_is_where_docker_has_it() {
        let addresses = [
            ("lo", "127.0.0.1"),
            ("eth0", "10.0.0.7"),
            ("docker0", "fe80::1"),
            ("docker0", "172.17.0.1"),
            ("br-4711", "172.18.0.1"),
        ]
        .map(|(name, address)| (name, address.parse().unwrap()));
        let found = bridge(addresses.into_iter());
        assert_eq!(found, Some("172.17.0.1".parse().unwrap()));
        assert_eq!(bridge(addresses[..2].iter().copied()), None);
    }

    #[test]
    fn names_for_the_certificate() {
        let name = |name: &str| San::Name(name.to_owned());
        for (text, expected) in [
            ("Registry.Example.com", name("registry.example.com")),
            ("registry", name("registry")),
            ("10.0.0.1", San::Address([10, 0, 0, 1].into())),
            ("::1", San::Address(std::net::Ipv6Addr::LOCALHOST.into())),
        ] {
            assert_eq!(text.parse::<San>().unwrap(), expected);
        }
        let long = "a".repeat(64);
        for bad in [
            "",
            "*.a.io",
            "a:5000",
            "[::1]",
            "10.0.0",
            "10.0.0.256",
            "a..b",
            "a/b",
            "-a",
            "é",
            &long,
        ] {
            let message = bad.parse::<San>().unwrap_err();
            assert!(message.contains("neither a DNS name"), "{message}");
        }
    }
}
