//! Where an upstream may send us: it is untrusted, and we may stand where it can't reach by itself.
//!
//! - The configured scheme, host and port are always fine: who configured them meant them.
//! - Anywhere else (redirects, token servers) only addresses count that are no nearer to us than the registry's own: one
//!   on the internet leads to the internet, one on a private network there too, one on this machine anywhere but to
//!   link-local, metadata and reserved addresses, to which nobody does.
//! - What counts is the address that is dialled, whatever names and spellings lead to it.
//! - A registry over https never leads to http.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use tokio::net::lookup_host;

use super::Cause;
use crate::types::Zone;

/// How near a registry that was met at `address` may lead us.
pub(super) fn reach(address: Option<SocketAddr>) -> Zone {
    match address.map(|address| Zone::of(address.ip())) {
        Some(zone @ (Zone::Private | Zone::Loopback)) => zone,
        Some(Zone::Public | Zone::Forbidden) | None => Zone::Public,
    }
}

/// What can be told of `target` from its spelling; the rest is up to [`Guarded`].
pub(super) fn check(target: &Url, registry: &Url, reach: Zone) -> Result<(), Cause> {
    let shown = target.origin().ascii_serialization();
    let refuse = |why: String| Err(Cause::Protocol(format!("it leads to {why}")));
    match (target.scheme(), registry.scheme()) {
        ("https", _) | ("http", "http") => {}
        ("http", _) => return refuse(format!("{shown}, away from https")),
        (scheme, _) => return refuse(format!("a URL of scheme {scheme}")),
    }
    if !target.username().is_empty() || target.password().is_some() {
        return refuse(format!("{shown} with a user in the URL"));
    }
    let host = target.host_str().unwrap_or_default();
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    match bare.parse() {
        Ok(address) if !allowed(address, reach) => {
            refuse(Refused::new(host, address, reach).to_string())
        }
        _ => Ok(()),
    }
}

/// What [`Guarded`] checks, for a target that a proxy connects to: what its name resolves to here, if it does.
pub(super) async fn check_beyond_proxy(target: &Url, reach: Zone) -> Result<(), Cause> {
    let name = target.host_str().unwrap_or_default();
    let Ok(all) = lookup_host((name, 0)).await else {
        // Where there is a proxy, there often is no other way to resolve a name of the world.
        return Ok(());
    };
    let all: Vec<SocketAddr> = all.collect();
    let refused = all.iter().find(|address| !allowed(address.ip(), reach));
    refused.map_or(Ok(()), |address| {
        let refused = Refused::new(name, address.ip(), reach);
        Err(Cause::Protocol(format!("it leads to {refused}")))
    })
}

/// Resolves names to the addresses that a registry of this reach may lead to.
pub(super) struct Guarded(pub(super) Zone);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let name = name.as_str();
            let all: Vec<SocketAddr> = lookup_host((name, 0)).await?.collect();
            let fine = |address: &&SocketAddr| allowed(address.ip(), reach);
            let found: Vec<SocketAddr> = all.iter().filter(fine).copied().collect();
            match (found.is_empty(), all.first()) {
                (true, Some(address)) => {
                    Err(Box::new(Refused::new(name, address.ip(), reach)).into())
                }
                _ => Ok::<Addrs, _>(Box::new(found.into_iter())),
            }
        })
    }
}

/// A place that a registry may not lead to.
#[derive(Debug)]
pub(super) struct Refused {
    host: String,
    zone: Zone,
    reach: Zone,
}

impl Refused {
    fn new(host: &str, address: IpAddr, reach: Zone) -> Self {
        Self {
            host: host.to_owned(),
            zone: Zone::of(address),
            reach,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, zone) = (&self.host, self.zone.described());
        write!(f, "{host}, {zone}, where ")?;
        match self.zone {
            Zone::Forbidden => f.write_str("nobody may lead us"),
            Zone::Public | Zone::Private | Zone::Loopback => {
                write!(
                    f,
                    "a registry at {} may not lead us",
                    self.reach.described()
                )
            }
        }
    }
}

impl std::error::Error for Refused {}

fn allowed(address: IpAddr, reach: Zone) -> bool {
    let zone = Zone::of(address);
    zone != Zone::Forbidden && zone <= reach
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn where_a_registry_may_lead() {
        use Zone::{Loopback, Private, Public};
        let https = "https://registry.example.com";
        for (registry, reach, target, refusal) in [
            (https, Public, "https://cdn.example.com/x", None),
            (https, Public, "https://1.1.1.1/x", None),
            (https, Public, "http://cdn.example.com/x", Some("https")),
            (https, Public, "ftp://cdn.example.com/x", Some("ftp")),
            (https, Public, "https://u:p@cdn/x", Some("user")),
            (https, Public, "https://10.0.0.1/", Some("private")),
            (https, Public, "https://127.0.0.1/", Some("this machine")),
            (https, Public, "https://0x7f.1/", Some("this machine")),
            (https, Public, "https://2130706433/", Some("this machine")),
            (https, Public, "https://[::1]/", Some("this machine")),
            (https, Public, "https://[::ffff:10.0.0.1]/", Some("private")),
            (https, Public, "https://169.254.169.254/", Some("metadata")),
            (https, Private, "https://10.9.9.9/", None),
            (https, Private, "https://1.1.1.1/", None),
            (https, Private, "https://127.0.0.1/", Some("this machine")),
            (https, Private, "https://169.254.169.254/", Some("nobody")),
            ("http://10.0.0.1", Private, "http://10.0.0.2/", None),
            ("http://127.0.0.1:1", Loopback, "http://127.0.0.1:2/", None),
            ("http://127.0.0.1:1", Loopback, "http://10.0.0.2/", None),
            (
                "http://127.0.0.1:1",
                Loopback,
                "http://[fe80::1]/",
                Some("nobody"),
            ),
        ] {
            let registry: Url = registry.parse().unwrap();
            let told = check(&target.parse().unwrap(), &registry, reach);
            match (told, refusal) {
                (Ok(()), None) => {}
                (Err(cause), Some(fragment)) => {
                    let cause = cause.to_string();
                    assert!(cause.contains(fragment), "{target}: {cause}");
                }
                (told, _) => panic!("{reach:?} {target}: {told:?}"),
            }
        }
    }

    #[tokio::test]
    async fn names_are_judged_by_what_they_resolve_to() {
        for (reach, fine) in [
            (Zone::Public, false),
            (Zone::Private, false),
            (Zone::Loopback, true),
        ] {
            let found = Guarded(reach).resolve("localhost".parse().unwrap()).await;
            assert_eq!(found.is_ok(), fine, "{reach:?}");
        }
    }
}
