//! What a request means: which registry's repository a name speaks of, whichever way the client came.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Error, Intercepted, View};
use crate::types::{CanonicalName, RegistryHost, RepositoryName};

/// The parts of a request that tell which registry it means.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    /// The spec's `<name>` as the path spells it.
    pub name: &'a str,
    /// Every `ns` parameter, decoded.
    pub ns: &'a [String],
    /// The `Host` header, or the authority of the request's target.
    pub host: Option<&'a str>,
    /// The name in the TLS handshake.
    pub server_name: Option<&'a str>,
    pub tls: bool,
    /// The registry that a CONNECT led to.
    pub connect: Option<&'a Intercepted>,
}

/// Which of the rules found the source, first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `?ns=HOST`
    Parameter,
    /// The client believes it talks to that host: it has no next one to try.
    Host,
    /// The first component of the name.
    Prefix,
    /// Nothing named one.
    Default,
}

/// A repository, and how the request came to mean it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub name: CanonicalName,
    pub rule: Rule,
    /// `ns` as it was given, to be echoed.
    pub ns: Option<String>,
}

/// The names under which this registry itself is reached. They mean *us* only with their port.
#[derive(Clone, Debug, Default)]
pub struct OwnNames {
    /// Lower-case DNS names.
    pub names: BTreeSet<String>,
    pub addresses: BTreeSet<IpAddr>,
    pub ports: BTreeSet<u16>,
    /// `--external-url`'s host and port.
    pub external: Option<RegistryHost>,
}

/// What decides a name's source.
#[derive(Clone, Debug)]
pub struct Sources {
    pub own: OwnNames,
    pub configured: BTreeSet<RegistryHost>,
    pub default: RegistryHost,
}

impl Sources {
    /// The repository that the request means.
    pub fn resolve(&self, asked: &Asked<'_>) -> Result<Target, Error> {
        let name: RepositoryName = asked
            .name
            .parse()
            .map_err(|error| Error::NameInvalid(format!("{error}")))?;
        self.check_host(asked)?;
        let request_port = asked
            .host
            .and_then(|host| Authority::parse(host, asked.tls))
            .map(|host| host.port);

        let ns = asked.ns.first().cloned();
        if let Some(source) = self.parameter(asked, request_port)? {
            let name = match name.split_first() {
                Some((first, rest))
                    if RegistryHost::from_component(first).as_ref() == Some(&source) =>
                {
                    rest
                }
                _ => name,
            };
            let name = CanonicalName::new(source, name);
            return Ok(Target {
                name,
                rule: Rule::Parameter,
                ns,
            });
        }
        if let Some(source) = self.believed(asked, request_port) {
            return Ok(Target {
                name: CanonicalName::new(source, name),
                rule: Rule::Host,
                ns,
            });
        }
        if let Some((first, rest)) = name.split_first()
            && let Some(source) = RegistryHost::from_component(first)
            && (source.looks_like_host() || self.configured.contains(&source))
        {
            return Ok(Target {
                name: CanonicalName::new(source, rest),
                rule: Rule::Prefix,
                ns,
            });
        }
        Ok(Target {
            name: CanonicalName::new(self.default.clone(), name),
            rule: Rule::Default,
            ns,
        })
    }

    /// Which repositories a client sees that came this way.
    pub(super) fn view(&self, asked: &Asked<'_>) -> Result<View, Error> {
        self.check_host(asked)?;
        let request_port = asked
            .host
            .and_then(|host| Authority::parse(host, asked.tls))
            .map(|host| host.port);
        if let Some(source) = self.parameter(asked, request_port)? {
            return Ok(View::Source(source));
        }
        Ok(self
            .believed(asked, request_port)
            .map_or(View::Everything, View::Source))
    }

    /// The registry that `ns` names, unless that is us.
    fn parameter(
        &self,
        asked: &Asked<'_>,
        request_port: Option<u16>,
    ) -> Result<Option<RegistryHost>, Error> {
        let Some(ns) = asked.ns.first() else {
            return Ok(None);
        };
        if asked.ns.iter().any(|other| other != ns) {
            let why = "the request has two different ns parameters";
            return Err(Error::NameInvalid(why.to_owned()));
        }
        let source: RegistryHost = ns
            .parse()
            .map_err(|error| Error::NameInvalid(format!("ns: {error}")))?;
        Ok((!self.is_us(&source, request_port)).then_some(source))
    }

    /// The configured registry that the client believes it talks to.
    fn believed(&self, asked: &Asked<'_>, request_port: Option<u16>) -> Option<RegistryHost> {
        if let Some(connect) = asked.connect {
            return Some(connect.registry.clone());
        }
        let authority = Authority::parse(asked.host?, asked.tls)?;
        // A registry on 443 is one on 80 too, where a client speaks plain HTTP to it.
        let spelled = match authority.port {
            80 | 443 => authority.host.clone(),
            port => format!("{}:{port}", authority.host),
        };
        let registry: RegistryHost = spelled.parse().ok()?;
        (self.configured.contains(&registry) && !self.is_us(&registry, request_port))
            .then_some(registry)
    }

    /// Whether the client believes it talks to another registry, in whose place we are.
    pub(super) fn stands_in(&self, asked: &Asked<'_>) -> bool {
        let request_port = asked
            .host
            .and_then(|host| Authority::parse(host, asked.tls))
            .map(|host| host.port);
        self.believed(asked, request_port).is_some()
    }

    /// A `Host` that contradicts the name in the TLS handshake is answered 421 (RFC 9110, 7.4), and so is either that
    /// contradicts the CONNECT.
    pub fn check_host(&self, asked: &Asked<'_>) -> Result<(), Error> {
        if let Some(Intercepted { host: meant, .. }) = asked.connect {
            let host = asked
                .host
                .and_then(|host| Authority::parse(host, asked.tls));
            let named = [
                asked.server_name.map(str::to_owned),
                host.map(|host| host.host),
            ];
            for host in named.into_iter().flatten() {
                if !host.trim_end_matches('.').eq_ignore_ascii_case(meant) {
                    return Err(Error::Misdirected {
                        server_name: meant.clone(),
                        host,
                    });
                }
            }
            return Ok(());
        }
        let (Some(server_name), Some(host)) = (asked.server_name, asked.host) else {
            return Ok(());
        };
        let Some(authority) = Authority::parse(host, asked.tls) else {
            return Err(Error::NameInvalid(format!(
                "the Host header {host:?} is no host"
            )));
        };
        if authority
            .host
            .eq_ignore_ascii_case(server_name.trim_end_matches('.'))
        {
            return Ok(());
        }
        let registry = |host: &str| {
            host.parse()
                .is_ok_and(|host| self.configured.contains(&host))
        };
        if registry(server_name) || registry(&authority.host) {
            return Err(Error::Misdirected {
                server_name: server_name.to_owned(),
                host: host.to_owned(),
            });
        }
        Ok(())
    }

    /// Whether `host` is this registry: one of our names or addresses at a port of ours, or at the one that this request
    /// came to (which may have been mapped to ours).
    pub(super) fn is_us(&self, host: &RegistryHost, request_port: Option<u16>) -> bool {
        if self.own.external.as_ref() == Some(host) {
            return true;
        }
        let port = host.port().unwrap_or(443);
        if !self.own.ports.contains(&port) && request_port != Some(port) {
            return false;
        }
        let bare = host.host().trim_matches(['[', ']']);
        match bare.parse::<IpAddr>() {
            Ok(address) => self.own.addresses.contains(&address),
            Err(_) => self.own.names.contains(bare),
        }
    }
}

/// A `Host` header taken apart; a port that is not given is the scheme's. A dot at the name's end, which says that it is
/// whole, is left out.
struct Authority {
    host: String,
    port: u16,
}

impl Authority {
    fn parse(text: &str, tls: bool) -> Option<Self> {
        let default = if tls { 443 } else { 80 };
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
            _ => (text, default),
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        (!host.is_empty()).then(|| Self {
            host: host.to_ascii_lowercase(),
            port,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sources() -> Sources {
        Sources {
            own: OwnNames {
                names: ["localhost".to_owned(), "registry.ci".to_owned()].into(),
                addresses: ["127.0.0.1".parse().unwrap()].into(),
                ports: [5000].into(),
                external: Some("standin.example".parse().unwrap()),
            },
            configured: [
                "docker.io",
                "quay.io",
                "registry:5001",
                "private.example:8443",
            ]
            .map(|host| host.parse().unwrap())
            .into(),
            default: RegistryHost::docker_hub(),
        }
    }

    fn resolve(name: &str, ns: &[&str], host: &str, tls: bool) -> Result<(String, Rule), Error> {
        let ns: Vec<String> = ns.iter().map(|ns| (*ns).to_owned()).collect();
        let target = sources().resolve(&Asked {
            name,
            ns: &ns,
            host: Some(host),
            server_name: None,
            tls,
            connect: None,
        })?;
        Ok((target.name.to_string(), target.rule))
    }

    #[test]
    fn the_first_rule_that_applies() {
        let us = "127.0.0.1:5000";
        for (name, ns, host, tls, expected, rule) in [
            (
                "acme/app",
                vec![],
                us,
                false,
                "docker.io/acme/app",
                Rule::Default,
            ),
            (
                "alpine",
                vec![],
                us,
                false,
                "docker.io/library/alpine",
                Rule::Default,
            ),
            (
                "quay.io/acme/app",
                vec![],
                us,
                false,
                "quay.io/acme/app",
                Rule::Prefix,
            ),
            (
                "index.docker.io/alpine",
                vec![],
                us,
                false,
                "docker.io/library/alpine",
                Rule::Prefix,
            ),
            (
                "registry_5001/app",
                vec![],
                us,
                false,
                "registry_5001/app",
                Rule::Prefix,
            ),
            (
                "registry/app",
                vec![],
                us,
                false,
                "docker.io/registry/app",
                Rule::Default,
            ),
            (
                "reg.example_5001/app",
                vec![],
                us,
                false,
                "reg.example_5001/app",
                Rule::Prefix,
            ),
            (
                "localhost/app",
                vec![],
                us,
                false,
                "localhost/app",
                Rule::Prefix,
            ),
            (
                "quay.io",
                vec![],
                us,
                false,
                "docker.io/library/quay.io",
                Rule::Default,
            ),
            (
                "acme/app",
                vec!["quay.io"],
                us,
                false,
                "quay.io/acme/app",
                Rule::Parameter,
            ),
            (
                "acme/app",
                vec!["quay.io", "quay.io"],
                us,
                false,
                "quay.io/acme/app",
                Rule::Parameter,
            ),
            (
                "quay.io/acme/app",
                vec!["quay.io"],
                us,
                false,
                "quay.io/acme/app",
                Rule::Parameter,
            ),
            (
                "acme/app",
                vec!["registry-1.docker.io"],
                us,
                false,
                "docker.io/acme/app",
                Rule::Parameter,
            ),
            (
                "acme/app",
                vec!["other.example"],
                us,
                false,
                "other.example/acme/app",
                Rule::Parameter,
            ),
            (
                "acme/app",
                vec!["localhost:5000"],
                us,
                false,
                "docker.io/acme/app",
                Rule::Default,
            ),
            (
                "acme/app",
                vec!["localhost:5001"],
                us,
                false,
                "localhost_5001/acme/app",
                Rule::Parameter,
            ),
            (
                "acme/app",
                vec!["localhost:6000"],
                "localhost:6000",
                false,
                "docker.io/acme/app",
                Rule::Default,
            ),
            (
                "acme/app",
                vec!["standin.example"],
                us,
                false,
                "docker.io/acme/app",
                Rule::Default,
            ),
            (
                "acme/app",
                vec!["127.0.0.1:5000"],
                "quay.io",
                true,
                "quay.io/acme/app",
                Rule::Host,
            ),
            (
                "acme/app",
                vec![],
                "quay.io",
                true,
                "quay.io/acme/app",
                Rule::Host,
            ),
            (
                "acme/app",
                vec![],
                "QUAY.IO:443",
                true,
                "quay.io/acme/app",
                Rule::Host,
            ),
            (
                "acme/app",
                vec![],
                "quay.io",
                false,
                "quay.io/acme/app",
                Rule::Host,
            ),
            (
                "acme/app",
                vec![],
                "registry-1.docker.io",
                true,
                "docker.io/acme/app",
                Rule::Host,
            ),
            (
                "acme/app",
                vec![],
                "private.example:8443",
                true,
                "private.example_8443/acme/app",
                Rule::Host,
            ),
            (
                "acme/app",
                vec![],
                "private.example",
                true,
                "docker.io/acme/app",
                Rule::Default,
            ),
            (
                "acme/app",
                vec![],
                "other.example",
                true,
                "docker.io/acme/app",
                Rule::Default,
            ),
        ] {
            let found = resolve(name, &ns, host, tls).unwrap();
            assert_eq!(
                found,
                (expected.to_owned(), rule),
                "{name} ns={ns:?} host={host} tls={tls}"
            );
        }
    }

    #[test]
    fn what_is_refused() {
        assert!(matches!(
            resolve("a/../b", &[], "x", false),
            Err(Error::NameInvalid(_))
        ));
        assert!(matches!(
            resolve("a", &["quay.io", "docker.io"], "x", false),
            Err(Error::NameInvalid(_))
        ));
        assert!(matches!(
            resolve("a", &["no host"], "x", false),
            Err(Error::NameInvalid(_))
        ));
    }

    #[test]
    fn a_host_that_contradicts_the_handshake_is_misdirected() {
        let check = |server_name, host| {
            let asked = Asked {
                name: "a",
                ns: &[],
                host: Some(host),
                server_name: Some(server_name),
                tls: true,
                connect: None,
            };
            sources().resolve(&asked)
        };
        assert!(matches!(
            check("quay.io", "docker.io"),
            Err(Error::Misdirected { .. })
        ));
        assert!(matches!(
            check("localhost", "quay.io"),
            Err(Error::Misdirected { .. })
        ));
        assert!(matches!(
            check("quay.io", "localhost:5000"),
            Err(Error::Misdirected { .. })
        ));
        assert_eq!(check("quay.io", "Quay.io:443").unwrap().rule, Rule::Host);
        assert_eq!(
            check("localhost", "127.0.0.1:5000").unwrap().rule,
            Rule::Default
        );
    }
}
