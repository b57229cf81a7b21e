//! Whom the client of a proxy wants to reach: us, a registry in whose place we answer, or anyone else.

use std::net::SocketAddr;

use super::{Asked, Registry, Sources};
use crate::types::RegistryHost;

/// A registry in whose place we answer, on a connection that was asked for with CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intercepted {
    /// As the CONNECT names it: lower-case, without port; IPv6 in brackets.
    pub host: String,
    pub registry: RegistryHost,
}

/// What is at a host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    Us,
    Registry(RegistryHost),
    /// A configured registry's host, at a port that is none of the registry's.
    BesideRegistry(RegistryHost),
    Elsewhere,
}

impl Sources {
    /// What `host` (IPv6 in brackets) and `port` are, by their names alone. A configured registry is at its own port, and
    /// at 443 and 80.
    pub fn reached(&self, host: &str, port: u16) -> Reached {
        let bare = host.trim_end_matches('.');
        let (Ok(exact), Ok(at_443)) = (
            format!("{bare}:{port}").parse::<RegistryHost>(),
            bare.parse::<RegistryHost>(),
        ) else {
            return Reached::Elsewhere;
        };
        if self.is_us(&exact, None) {
            return Reached::Us;
        }
        if self.configured.contains(&exact) {
            return Reached::Registry(exact);
        }
        let mut of_host = self
            .configured
            .iter()
            .filter(|registry| registry.host() == at_443.host());
        let Some(first) = of_host.next() else {
            return Reached::Elsewhere;
        };
        let only = of_host.next().is_none();
        match port {
            // The one without a port sorts first.
            80 | 443 if only || first.port().is_none() => Reached::Registry(first.clone()),
            _ => Reached::BesideRegistry(first.clone()),
        }
    }

    /// Whether a connection to `address` would come back to us.
    pub fn loops(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        // Any loopback address leads to a listener on a wildcard.
        self.own.ports.contains(&address.port())
            && (ip.is_loopback() || ip.is_unspecified() || self.own.addresses.contains(&ip))
    }
}

impl Registry {
    /// Whether the client believes it talks to another registry.
    pub fn stands_in(&self, asked: &Asked<'_>) -> bool {
        self.0.rules.sources.stands_in(asked)
    }

    /// See [`Sources::reached`].
    pub fn reached(&self, host: &str, port: u16) -> Reached {
        self.0.rules.sources.reached(host, port)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::registry::{Error, OwnNames, Rule};

    fn sources() -> Sources {
        Sources {
            own: OwnNames {
                names: ["localhost".to_owned(), "registry.ci".to_owned()].into(),
                addresses: ["127.0.0.1", "192.0.2.5"]
                    .map(|ip| ip.parse().unwrap())
                    .into(),
                ports: [5000].into(),
                external: Some("standin.example".parse().unwrap()),
            },
            configured: [
                "docker.io",
                "quay.io",
                "quay.io:8443",
                "private.example:8443",
                "two.example:1",
                "two.example:2",
                "10.0.0.5:5000",
                "[2001:db8::5]",
            ]
            .map(|host| host.parse().unwrap())
            .into(),
            default: RegistryHost::docker_hub(),
        }
    }

    #[test]
    fn what_a_proxys_client_reaches() {
        let registry = |host: &str| Reached::Registry(host.parse().unwrap());
        let beside = |host: &str| Reached::BesideRegistry(host.parse().unwrap());
        for (host, port, expected) in [
            ("quay.io", 443, registry("quay.io")),
            ("QUAY.io.", 443, registry("quay.io")),
            ("quay.io", 80, registry("quay.io")),
            ("quay.io", 8443, registry("quay.io:8443")),
            ("quay.io", 22, beside("quay.io")),
            ("docker.io", 443, registry("docker.io")),
            ("registry-1.docker.io", 443, registry("docker.io")),
            ("index.docker.io", 80, registry("docker.io")),
            ("auth.docker.io", 443, Reached::Elsewhere),
            ("private.example", 8443, registry("private.example:8443")),
            ("private.example", 443, registry("private.example:8443")),
            ("private.example", 80, registry("private.example:8443")),
            ("private.example", 8080, beside("private.example:8443")),
            ("two.example", 2, registry("two.example:2")),
            ("two.example", 443, beside("two.example:1")),
            ("10.0.0.5", 5000, registry("10.0.0.5:5000")),
            ("10.0.0.5", 443, registry("10.0.0.5:5000")),
            ("[2001:DB8:0::5]", 443, registry("[2001:db8::5]")),
            ("localhost", 5000, Reached::Us),
            ("localhost", 5001, Reached::Elsewhere),
            ("192.0.2.5", 5000, Reached::Us),
            ("standin.example", 443, Reached::Us),
            ("cdn.quay.io", 443, Reached::Elsewhere),
            ("pypi.org", 443, Reached::Elsewhere),
            ("a..b", 443, Reached::Elsewhere),
        ] {
            assert_eq!(sources().reached(host, port), expected, "{host}:{port}");
        }
    }

    #[test]
    fn what_would_come_back() {
        for address in [
            "127.0.0.1:5000",
            "127.9.9.9:5000",
            "[::1]:5000",
            "0.0.0.0:5000",
            "[::ffff:192.0.2.5]:5000",
        ] {
            assert!(sources().loops(address.parse().unwrap()), "{address}");
        }
        for address in ["127.0.0.1:5001", "192.0.2.6:5000", "1.1.1.1:443"] {
            assert!(!sources().loops(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn behind_a_connect_its_target_is_the_source() {
        let connect = Intercepted {
            host: "private.example".to_owned(),
            registry: "private.example:8443".parse().unwrap(),
        };
        let ask = |host, server_name| {
            sources().resolve(&Asked {
                name: "acme/app",
                host: Some(host),
                server_name,
                tls: server_name.is_some(),
                connect: Some(&connect),
                ..Asked::default()
            })
        };
        for (host, server_name) in [
            ("private.example", None),
            ("private.example:8443", None),
            ("Private.Example.", Some("private.example")),
        ] {
            let target = ask(host, server_name).unwrap();
            assert_eq!(target.name.to_string(), "private.example_8443/acme/app");
            assert_eq!(target.rule, Rule::Host);
        }
        for (host, server_name) in [
            ("quay.io", None),
            ("other.example", None),
            ("private.example", Some("quay.io")),
            ("quay.io", Some("private.example")),
        ] {
            let refused = ask(host, server_name).unwrap_err();
            assert!(
                matches!(refused, Error::Misdirected { .. }),
                "{host} {server_name:?}"
            );
        }
    }
}
