//! What a CA may vouch for: hosts, and the name constraints that hold a CA to them.
//!
//! Knows X.509 name constraints and how they are compared; knows neither keys nor files.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rcgen::{CidrSubnet, GeneralSubtree, NameConstraints, SanType};
use rustls::pki_types::DnsName;
use x509_parser::{certificate::X509Certificate, error::X509Error, extensions::GeneralName};

/// A DNS name, lower-case and without a trailing dot, or an address. A certificate spells the two differently.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Host {
    Name(Box<str>),
    Address(IpAddr),
}

impl Host {
    /// Reads a name, an IPv4 address, or an IPv6 address with or without brackets.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Some(Self::address(address));
        }
        DnsName::try_from(text).ok()?;
        let name = text.strip_suffix('.').unwrap_or(text);
        Some(Self::Name(name.to_ascii_lowercase().into()))
    }

    /// An IPv4 address that a dual-stack listener shows as IPv6 is the IPv4 address.
    pub(super) fn address(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }

    /// As a certificate's subject alternative name.
    pub(super) fn subject(&self) -> Result<SanType, rcgen::Error> {
        Ok(match self {
            Self::Name(name) => SanType::DnsName(name.to_string().try_into()?),
            Self::Address(address) => SanType::IpAddress(*address),
        })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// The subtrees a CA is held to.
///
/// - A name permits itself and every name below it.
/// - No subtrees of a kind at all permit everything of that kind, as X.509 has it. A CA of ours always has both kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Permits {
    names: BTreeSet<Box<str>>,
    networks: BTreeSet<Network>,
}

impl Permits {
    /// Exactly these hosts, and loopback.
    pub(super) fn exactly(hosts: &BTreeSet<Host>) -> Self {
        let mut permits = Self {
            names: BTreeSet::new(),
            networks: BTreeSet::from([
                Network::new(Ipv4Addr::new(127, 0, 0, 0).into(), 8),
                Network::new(Ipv6Addr::LOCALHOST.into(), 128),
            ]),
        };
        for host in hosts {
            match host {
                Host::Name(name) => {
                    permits.names.insert(name.clone());
                }
                Host::Address(address) if !permits.covers(host) => {
                    permits.networks.insert(Network::host(*address));
                }
                Host::Address(_) => {}
            }
        }
        permits
    }

    /// Reads back what a certificate's constraints permit.
    pub(super) fn of(certificate: &X509Certificate<'_>) -> Result<Self, X509Error> {
        let mut permits = Self {
            names: BTreeSet::new(),
            networks: BTreeSet::new(),
        };
        let constraints = certificate.name_constraints()?;
        let subtrees = constraints
            .and_then(|found| found.value.permitted_subtrees.as_deref())
            .unwrap_or_default();
        for subtree in subtrees {
            match &subtree.base {
                GeneralName::DNSName(name) => {
                    permits.names.insert(name.to_ascii_lowercase().into());
                }
                GeneralName::IPAddress(bytes) => permits.networks.extend(Network::parse(bytes)),
                _ => {}
            }
        }
        Ok(permits)
    }

    pub(super) fn covers(&self, host: &Host) -> bool {
        match host {
            Host::Name(name) => {
                self.names.is_empty()
                    || self.names.iter().any(|permitted| {
                        name.strip_suffix(&**permitted)
                            .is_some_and(|below| below.is_empty() || below.ends_with('.'))
                    })
            }
            Host::Address(address) => {
                self.networks.is_empty()
                    || self
                        .networks
                        .iter()
                        .any(|network| network.contains(Network::host(*address)))
            }
        }
    }

    /// What `wanted` permits and this does not, in words.
    pub(super) fn missing(&self, wanted: &Self) -> Vec<String> {
        let names = wanted
            .names
            .iter()
            .filter(|name| !self.covers(&Host::Name((*name).clone())))
            .map(|name| name.to_string());
        let networks = wanted
            .networks
            .iter()
            .filter(|wanted| {
                !self.networks.is_empty()
                    && !self
                        .networks
                        .iter()
                        .any(|network| network.contains(**wanted))
            })
            .map(Network::to_string);
        names.chain(networks).collect()
    }

    pub(super) fn constraints(&self) -> NameConstraints {
        let names = self
            .names
            .iter()
            .map(|name| GeneralSubtree::DnsName(name.to_string()));
        let networks = self.networks.iter().map(|network| {
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(
                network.address,
                network.prefix,
            ))
        });
        NameConstraints {
            permitted_subtrees: names.chain(networks).collect(),
            excluded_subtrees: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    fn new(address: IpAddr, prefix: u8) -> Self {
        Self { address, prefix }
    }

    fn host(address: IpAddr) -> Self {
        Self::new(address, width(address))
    }

    /// Address and mask, as a certificate holds them.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (address, mask) = bytes.split_at(bytes.len() / 2);
        let address = match address.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
            16 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
            _ => return None,
        };
        let mask = mask
            .iter()
            .fold(0, |bits, byte| bits << 8 | u128::from(*byte))
            << (128 - 8 * mask.len());
        let prefix = u8::try_from(mask.leading_ones()).ok()?;
        (mask.leading_ones() == mask.count_ones()).then(|| Self::new(address, prefix))
    }

    fn contains(self, other: Self) -> bool {
        let bits = |address| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let hidden = u32::from(width(self.address) - self.prefix);
        let differing = (bits(self.address) ^ bits(other.address))
            .checked_shr(hidden)
            .unwrap_or(0);
        width(self.address) == width(other.address) && self.prefix <= other.prefix && differing == 0
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix == width(self.address) {
            return self.address.fmt(f);
        }
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Bits of an address.
fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn hosts(texts: &[&str]) -> BTreeSet<Host> {
        texts
            .iter()
            .map(|text| Host::parse(text).unwrap())
            .collect()
    }

    #[test]
    fn hosts_are_read_as_certificates_compare_them() {
        for (text, shown) in [
            ("Quay.IO", "quay.io"),
            ("quay.io.", "quay.io"),
            ("10.0.0.1", "10.0.0.1"),
            ("[::1]", "::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
        ] {
            assert_eq!(Host::parse(text).unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "a b",
            "*.quay.io",
            "quay.io:443",
            "300.1.1.1",
            "[quay.io]",
            "-a.io",
        ] {
            assert_eq!(Host::parse(bad), None, "{bad:?} was taken");
        }
    }

    #[test]
    fn a_name_permits_itself_and_what_is_below_it() {
        let permits = Permits::exactly(&hosts(&["docker.io", "10.0.0.1"]));
        let covers = |text| permits.covers(&Host::parse(text).unwrap());
        for permitted in [
            "docker.io",
            "registry-1.docker.io",
            "127.9.9.9",
            "::1",
            "10.0.0.1",
        ] {
            assert!(covers(permitted), "{permitted}");
        }
        for foreign in ["notdocker.io", "io", "10.0.0.2", "::2", "128.0.0.1"] {
            assert!(!covers(foreign), "{foreign}");
        }
    }

    #[test]
    fn missing_names_what_a_wider_configuration_adds() {
        let old = Permits::exactly(&hosts(&["docker.io", "quay.io"]));
        let narrower = Permits::exactly(&hosts(&["registry-1.docker.io", "127.0.0.2"]));
        assert_eq!(old.missing(&narrower), [""; 0]);
        let wider = Permits::exactly(&hosts(&["quay.io", "ghcr.io", "10.0.0.1", "2001:db8::1"]));
        assert_eq!(old.missing(&wider), ["ghcr.io", "10.0.0.1", "2001:db8::1"]);
    }

    #[test]
    fn masks_with_holes_permit_nothing() {
        let network = |address: [u8; 4], mask: [u8; 4]| Network::parse(&[address, mask].concat());
        let all = network([0; 4], [0; 4]).unwrap();
        assert!(all.contains(Network::host([10, 0, 0, 1].into())));
        assert!(!all.contains(Network::host(Ipv6Addr::LOCALHOST.into())));
        assert_eq!(
            network([10, 1, 0, 0], [255, 254, 0, 0])
                .unwrap()
                .to_string(),
            "10.1.0.0/15"
        );
        for holes in [
            [255, 0, 255, 0],
            [254, 1, 0, 0],
            [254, 128, 0, 0],
            [1, 0, 0, 0],
        ] {
            assert_eq!(network([10, 0, 0, 0], holes), None, "{holes:?}");
        }
        assert_eq!(Network::parse(&[1, 2, 3]), None);
    }
}
