//! Messages of rtnetlink, from bytes to next hops and links: pure.
//!
//! Only the fixed headers and a few attributes are read, so an attribute that a newer kernel adds does no harm.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::NlasIterator;
use netlink_packet_route::{
    AddressFamily,
    link::{LinkFlags, LinkHeader},
    route::{RouteHeader, RouteType},
};

/// Lengths of `rtmsg`, `ifinfomsg` and `rtnexthop`.
const ROUTE: usize = 12;
const LINK: usize = 16;
const NEXT_HOP: usize = 8;
/// `RTA_NH_ID` (linux/rtnetlink.h, 5.3 and later), which libc does not have.
const RTA_NH_ID: u16 = 30;

/// A next hop of a default route; a multipath route has several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NextHop {
    /// The gateway; `None` on a point-to-point link.
    pub(super) gateway: Option<IpAddr>,
    /// The index of the link; 0 where the kernel does not tell it.
    pub(super) link: u32,
}

/// A network link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) flags: LinkFlags,
}

/// The result in a `struct nlmsgerr`: a negative errno, or 0.
pub(super) fn error_of(payload: &[u8]) -> io::Result<()> {
    match payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The next hops of a route, if it is a default route of the main table.
pub(super) fn next_hops_of(payload: &[u8], family: AddressFamily) -> Vec<NextHop> {
    let Ok(header) = RouteHeader::parse(payload) else { return Vec::new() };
    let mut table = u32::from(header.table);
    let mut hop = NextHop { gateway: None, link: 0 };
    let mut hops = Vec::new();
    let mut is_by_object = false;
    attributes(payload, ROUTE, |kind, value| match kind {
        libc::RTA_TABLE => table = number(value).unwrap_or(table),
        libc::RTA_OIF => hop.link = number(value).unwrap_or_default(),
        libc::RTA_GATEWAY | libc::RTA_VIA => hop.gateway = address(kind, value),
        libc::RTA_MULTIPATH => hops = multipath_of(value),
        RTA_NH_ID => is_by_object = true,
        _ => {}
    });
    let is_default = header.destination_prefix_length == 0
        && header.kind == RouteType::Unicast
        && header.address_family == family
        && table == u32::from(RouteHeader::RT_TABLE_MAIN);
    if !is_default {
        return Vec::new();
    }
    if !hops.is_empty() {
        return hops;
    }
    // With net.ipv4.nexthop_compat_mode=0 a route has only the number of a nexthop object, which is not looked up.
    if hop.link == 0 && !is_by_object { Vec::new() } else { vec![hop] }
}

/// The next hops of a multipath route: each is a `struct rtnexthop` with attributes of its own.
fn multipath_of(mut bytes: &[u8]) -> Vec<NextHop> {
    let mut hops = Vec::new();
    while let Some(&[low, high, _flags, _weight, a, b, c, d]) = bytes.first_chunk::<NEXT_HOP>() {
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let Some(one) = bytes.get(..length).filter(|one| one.len() >= NEXT_HOP) else { break };
        let mut hop = NextHop { gateway: None, link: u32::from_ne_bytes([a, b, c, d]) };
        attributes(one, NEXT_HOP, |kind, value| {
            if matches!(kind, libc::RTA_GATEWAY | libc::RTA_VIA) {
                hop.gateway = address(kind, value);
            }
        });
        hops.push(hop);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hops
}

/// The link in an `RTM_NEWLINK` message.
pub(super) fn link_of(payload: &[u8]) -> Option<Link> {
    let header = LinkHeader::parse(payload).ok()?;
    let mut name = None;
    attributes(payload, LINK, |kind, value| {
        if kind == libc::IFLA_IFNAME {
            name = Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
    });
    name.map(|name| Link { name, flags: header.flags })
}

/// Calls `each` with every attribute after a header of that length, up to the first damaged one.
fn attributes(payload: &[u8], header: usize, mut each: impl FnMut(u16, &[u8])) {
    let rest = payload.get(header..).unwrap_or_default();
    for attribute in NlasIterator::new(rest).map_while(Result::ok) {
        each(attribute.kind(), attribute.value());
    }
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The address in `RTA_GATEWAY`, which is of the route's family, or in `RTA_VIA`, where the family precedes it.
fn address(kind: u16, value: &[u8]) -> Option<IpAddr> {
    let bytes = if kind == libc::RTA_VIA { value.get(2..)? } else { value };
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(Ipv6Addr::from(v6).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// `struct rtmsg` with a prefix of that length in that table, of that type, and attributes.
    fn route(family: i32, prefix: u8, table: u8, kind: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let family = u8::try_from(family).unwrap();
        let mut bytes = vec![family, prefix, 0, 0, table, 3, 0, kind, 0, 0, 0, 0];
        bytes.extend(attributes.concat());
        bytes
    }

    fn hop_bytes(link: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
        let rest = attributes.concat();
        let length = u16::try_from(8 + rest.len()).unwrap();
        [&length.to_ne_bytes()[..], &[0, 0], &link.to_ne_bytes(), &rest].concat()
    }

    fn hop(gateway: &str, link: u32) -> NextHop {
        NextHop { gateway: gateway.parse().ok(), link }
    }

    #[test]
    fn default_routes_of_the_main_table() {
        let v4 = |last: u8| attribute(libc::RTA_GATEWAY, &[10, 0, 0, last]);
        let mut link_local = [0; 16];
        (link_local[0], link_local[1], link_local[15]) = (0xfe, 0x80, 1);
        let v6 = attribute(libc::RTA_GATEWAY, &link_local);
        let via = attribute(libc::RTA_VIA, &[&[10, 0][..], &link_local].concat());
        let out = |link: u32| attribute(libc::RTA_OIF, &link.to_ne_bytes());
        let table = |table: u32| attribute(libc::RTA_TABLE, &table.to_ne_bytes());
        let hops = attribute(
            libc::RTA_MULTIPATH,
            &[hop_bytes(2, &[v4(1)]), hop_bytes(3, std::slice::from_ref(&via)), hop_bytes(4, &[])]
                .concat(),
        );
        let object = attribute(RTA_NH_ID, &7_u32.to_ne_bytes());
        let unknown = attribute(999, b"what a newer kernel says");
        let (inet, inet6) = (libc::AF_INET, libc::AF_INET6);
        for (payload, expected) in [
            (route(inet, 0, 254, 1, &[table(254), v4(1), out(2)]), vec![hop("10.0.0.1", 2)]),
            (route(inet, 0, 254, 1, &[unknown, v4(1), out(2)]), vec![hop("10.0.0.1", 2)]),
            // A route that leads straight into a link.
            (route(inet, 0, 254, 1, &[out(2)]), vec![hop("", 2)]),
            (route(inet, 0, 254, 1, &[via, out(2)]), vec![hop("fe80::1", 2)]),
            (
                route(inet, 0, 254, 1, &[hops]),
                vec![hop("10.0.0.1", 2), hop("fe80::1", 3), hop("", 4)],
            ),
            (route(inet, 0, 254, 1, &[object]), vec![hop("", 0)]),
            (route(inet, 0, 254, 1, &[]), vec![]),
            // Not a default route; not in this table, by the head or by the attribute; blackhole, unreachable.
            (route(inet, 24, 254, 1, &[out(2)]), vec![]),
            (route(inet, 0, 255, 1, &[out(2)]), vec![]),
            (route(inet, 0, 252, 1, &[table(1000), v4(1), out(2)]), vec![]),
            (route(inet, 0, 254, 6, &[out(2)]), vec![]),
            (route(inet, 0, 254, 7, &[out(1)]), vec![]),
            // The answer of a kernel without IPv6 to a request for IPv6 routes.
            (route(inet6, 0, 254, 1, &[v6, out(2)]), vec![]),
            (vec![2, 0, 0], vec![]),
            (Vec::new(), vec![]),
        ] {
            assert_eq!(next_hops_of(&payload, AddressFamily::Inet), expected, "{payload:?}");
        }
        let payload = route(inet6, 0, 254, 1, &[attribute(libc::RTA_GATEWAY, &link_local), out(2)]);
        assert_eq!(next_hops_of(&payload, AddressFamily::Inet6), [hop("fe80::1", 2)]);
    }

    #[test]
    fn links_have_names_and_flags() {
        let head = [&[0, 0, 1, 0][..], &5_u32.to_ne_bytes(), &0x1_0043_u32.to_ne_bytes(), &[0; 4]]
            .concat();
        let payload = [
            head.clone(),
            attribute(libc::IFLA_MTU, &[1, 2, 3, 4]),
            attribute(libc::IFLA_IFNAME, b"eth0\0"),
        ]
        .concat();
        let link = link_of(&payload).unwrap();
        assert_eq!(link.name, "eth0");
        assert!(link.flags.contains(LinkFlags::Up | LinkFlags::LowerUp));
        assert_eq!(link_of(&head), None);
        assert_eq!(link_of(&[]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            next_hops_of(&bytes, AddressFamily::Inet);
            multipath_of(&bytes);
            link_of(&bytes);
            let _refused = error_of(&bytes);
        }

        #[test]
        fn nor_do_damaged_attributes(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0_u16..32) {
            let mut payload = route(libc::AF_INET, 0, 254, 1, &[attribute(kind, &bytes)]);
            payload.extend(bytes);
            next_hops_of(&payload, AddressFamily::Inet);
        }
    }
}
