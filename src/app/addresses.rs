//! Where clients reach us: the listeners, and every name and address that they may know us by.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
};

use anyhow::Context as _;

use crate::{
    config::{Config, San},
    registry::OwnNames,
};

pub(super) fn bind(addresses: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
    let bind = |address: &SocketAddr| {
        TcpListener::bind(address).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => anyhow::anyhow!(
                "{address} is in use: stop what listens there, or give --listen another port (0 picks a free one)"
            ),
            io::ErrorKind::AddrNotAvailable => {
                anyhow::anyhow!("{address} is no address of this machine: give --listen one that is")
            }
            io::ErrorKind::PermissionDenied => {
                anyhow::anyhow!("{address} may not be listened on by this user: give --listen a port above 1023")
            }
            _ => anyhow::anyhow!("can't listen on {address}: {error}"),
        })
    };
    addresses.iter().map(bind).collect()
}

pub(super) fn local_addresses(listeners: &[TcpListener]) -> anyhow::Result<Vec<SocketAddr>> {
    listeners
        .iter()
        .map(|listener| listener.local_addr().context("a listener has no address"))
        .collect()
}

/// Every name and address that clients may know us by.
pub(super) fn own_names(config: &Config, listeners: &[SocketAddr]) -> OwnNames {
    let mut own = OwnNames {
        names: BTreeSet::from(["localhost".to_owned()]),
        addresses: BTreeSet::new(),
        ports: listeners.iter().map(SocketAddr::port).collect(),
        external: None,
    };
    for listener in listeners {
        if !listener.ip().is_loopback() {
            // What docker calls this machine in its containers.
            own.names.insert("host.docker.internal".to_owned());
        }
        match listener.ip() {
            ip if !ip.is_unspecified() => {
                own.addresses.insert(ip);
            }
            wildcard => own.addresses.extend(machine_addresses(wildcard)),
        }
    }
    for san in &config.san {
        match san {
            San::Name(name) => {
                own.names.insert(name.clone());
            }
            San::Address(address) => {
                own.addresses.insert(*address);
            }
        }
    }
    if let Some(url) = &config.external_url {
        let bare = url.host().trim_matches(['[', ']']);
        match bare.parse() {
            Ok(address) => {
                own.addresses.insert(address);
            }
            Err(_) => {
                own.names.insert(bare.to_owned());
            }
        }
        own.external = format!("{}:{}", url.host(), url.port()).parse().ok();
    }
    own
}

/// What a wildcard stands for: `[::]` takes IPv4 as well.
fn machine_addresses(wildcard: IpAddr) -> Vec<IpAddr> {
    match if_addrs::get_if_addrs() {
        Ok(interfaces) => interfaces
            .iter()
            .map(if_addrs::Interface::ip)
            .filter(|ip| ip.is_ipv4() || wildcard.is_ipv6())
            .collect(),
        Err(error) => {
            log::warn!(
                "this machine's addresses can't be read ({error}): name those that clients use with --san"
            );
            Vec::new()
        }
    }
}
