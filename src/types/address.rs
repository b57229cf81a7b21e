//! What kind of place an IP address is, whichever way it is written. What may be reached from where is not known here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who can be at an address. The order is one of nearness: the later, the closer to this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Zone {
    /// The internet.
    Public,
    /// A network of somebody's own: RFC 1918, carriers' NAT (RFC 6598), IPv6 unique local (RFC 4193).
    Private,
    /// This machine.
    Loopback,
    /// No place for a service to be: link-local (where clouds keep their metadata), multicast, broadcast, unspecified,
    /// and what no registry of addresses has given out.
    Forbidden,
}

impl Zone {
    /// The zone of `address`. IPv4 within IPv6 (mapped, compatible, NAT64, 6to4, Teredo) counts as the IPv4 it leads to.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }

    /// In words: "a private address".
    pub fn described(self) -> &'static str {
        match self {
            Self::Public => "a public address",
            Self::Private => "a private address",
            Self::Loopback => "an address of this machine",
            Self::Forbidden => "a link-local, metadata or reserved address",
        }
    }
}

fn of_v4(address: Ipv4Addr) -> Zone {
    match address.octets() {
        [127, ..] => Zone::Loopback,
        // Alibaba Cloud's metadata, in the middle of the carriers' NAT; Oracle's, in what IETF keeps for protocols.
        [100, 100, 100, 200] | [192, 0, 0, _] => Zone::Forbidden,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Zone::Private,
        // "This network", link-local, documentation, benchmarking, multicast, reserved and broadcast.
        [0, ..]
        | [169, 254, ..]
        | [192, 0, 2, _]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [198, 18..=19, ..]
        | [224..=255, ..] => Zone::Forbidden,
        _ => Zone::Public,
    }
}

fn of_v6(address: Ipv6Addr) -> Zone {
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        of_v4(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Zone::Loopback,
        [0, 0, 0, 0, 0, 0, 0, 0] => Zone::Forbidden,
        // ::a.b.c.d, ::ffff:a.b.c.d, and ::ffff:0:a.b.c.d.
        [0, 0, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        // NAT64, RFC 6052.
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        // 6to4, RFC 3056.
        | [0x2002, high, low, ..] => embedded(high, low),
        // Teredo, RFC 4380: the client's address, its bits turned over.
        [0x2001, 0, .., high, low] => embedded(!high, !low),
        // A network's own NAT64 (RFC 8215) puts the IPv4 address where it likes.
        [0x64, 0xff9b, 1, ..] => Zone::Forbidden,
        // AWS's metadata, among the unique local ones.
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Zone::Forbidden,
        [first, ..] if first & 0xfe00 == 0xfc00 => Zone::Private,
        // Documentation.
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Zone::Forbidden,
        // Only 2000::/3 has been given out: the rest is link-local, site-local, multicast, discarded or unused.
        [first, ..] if first & 0xe000 == 0x2000 => Zone::Public,
        _ => Zone::Forbidden,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_an_address_is_seen_through() {
        for (zone, addresses) in [
            (
                Zone::Public,
                &[
                    "1.1.1.1",
                    "172.15.255.255",
                    "172.32.0.0",
                    "100.63.255.255",
                    "100.128.0.0",
                    "192.0.1.0",
                    "223.255.255.255",
                    "2606:4700::1111",
                    "::ffff:1.1.1.1",
                    "64:ff9b::101:101",
                    "2002:101:101::1",
                ][..],
            ),
            (
                Zone::Private,
                &[
                    "10.0.0.1",
                    "172.16.0.1",
                    "172.31.255.255",
                    "192.168.0.1",
                    "100.64.0.1",
                    "100.127.255.255",
                    "fc00::1",
                    "fdff:ffff::1",
                    "::ffff:10.0.0.1",
                    "::10.0.0.1",
                    "64:ff9b::a00:1",
                    "2002:a00:1::1",
                    "2001:0:1::f5ff:fffe",
                ],
            ),
            (
                Zone::Loopback,
                &[
                    "127.0.0.1",
                    "127.255.255.254",
                    "::1",
                    "::ffff:127.0.0.1",
                    "::7f00:1",
                    "::ffff:0:7f00:1",
                    "64:ff9b::7f00:1",
                    "2002:7f00:1::",
                ],
            ),
            (
                Zone::Forbidden,
                &[
                    "0.0.0.0",
                    "0.1.2.3",
                    "169.254.169.254",
                    "169.254.0.1",
                    "100.100.100.200",
                    "192.0.0.192",
                    "192.0.2.1",
                    "198.18.0.1",
                    "224.0.0.1",
                    "240.0.0.1",
                    "255.255.255.255",
                    "::",
                    "fe80::1",
                    "febf::1",
                    "fec0::1",
                    "ff02::1",
                    "100::1",
                    "fd00:ec2::254",
                    "2001:db8::1",
                    "64:ff9b:1::1",
                    "::ffff:169.254.169.254",
                    "64:ff9b::a9fe:a9fe",
                    "2002:a9fe:a9fe::",
                ],
            ),
        ] {
            for address in addresses {
                assert_eq!(Zone::of(address.parse().unwrap()), zone, "{address}");
            }
        }
    }
}
