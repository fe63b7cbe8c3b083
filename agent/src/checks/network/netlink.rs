//! What the kernel knows of default routes, their links and their gateways, asked over rtnetlink.
//!
//! All of it may block for as long as somebody holds the kernel's lock for the network's configuration (a driver that
//! hangs, say), so it runs in [`crate::host::Bounded`].

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST,
    NetlinkBuffer, NetlinkHeader,
};
use netlink_packet_route::{
    AddressFamily,
    link::LinkHeader,
    neighbour::{NeighbourHeader, NeighbourState},
    route::RouteHeader,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::message::{Hop, Link, error_of, hops_of, link_of};
use crate::checks::network::settings;

/// Length of `nlmsghdr`.
const HEADER: usize = 16;

/// 32 KiB: the kernel makes no larger piece of a dump of routes, however much room there is (`netlink_dump` and
/// `netlink_recvmsg` in `net/netlink/af_netlink.c`), and what it says of one link takes some kilobytes at most. Were
/// there ever more, the last message would be cut off, which is an error and no end.
const PIECE: usize = 32 << 10;
/// `RTEXT_FILTER_SKIP_STATS` (linux/rtnetlink.h): without IPv4's and IPv6's counters, a quarter of an answer.
const SKIP_STATS: u32 = 1 << 3;

/// What may change a default route: those of links, addresses and routes, of IPv4 and IPv6 (`RTNLGRP_*` in
/// linux/rtnetlink.h). IPv4's routes go without a word where their link or their address does.
const NEWS: [u32; 5] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
];
/// `RTNLGRP_NEXTHOP`, since 5.3: a route may follow an object's number.
const NEWS_OF_OBJECTS: u32 = 32;

/// A hop, and how things stand with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) hop: Hop,
    /// None: it is gone.
    pub(super) link: Option<Link>,
    /// None: the kernel has no entry for the gateway.
    pub(super) neighbour: Option<NeighbourState>,
}

/// A conversation with the kernel; over when a question fails, as answers to it may follow.
#[derive(Debug)]
pub(super) struct Kernel {
    socket: Socket,
    /// The latest piece.
    piece: Vec<u8>,
    routes: Option<Routes>,
}

/// Default routes that were read, and who tells when they are others.
#[derive(Debug)]
struct Routes {
    hops: Arc<[Hop]>,
    at: Instant,
    /// How long that took.
    took: Duration,
    has_changed: bool,
    /// They were read because of news, which the kernel tells of some changes before it makes them (an address or a
    /// route of IPv4's that goes): they are read once more.
    once_more: bool,
    news: Socket,
}

impl Routes {
    /// Whether they need not be read again.
    fn are_fresh(&mut self) -> bool {
        self.has_changed |= is_told(&self.news);
        let age = self.at.elapsed();
        age < self.took * settings::ROUTES_REST
            || (!self.has_changed && !self.once_more && age < settings::ROUTES_KEPT)
    }
}

/// Whether anything has been told since the last look, which is not read.
fn is_told(news: &Socket) -> bool {
    /// More than there is room for in [`settings::ROUTES_NEWS`].
    const MOST: usize = 64;
    let mut is_any = false;
    for _ in 0..MOST {
        // One byte of room: the rest of a message is thrown away.
        match news.recv(&mut Vec::with_capacity(1), libc::MSG_DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return is_any,
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => return true,
            // More than there is room for, or a message.
            Err(_) | Ok(_) => is_any = true,
        }
    }
    is_any
}

fn listen() -> io::Result<Socket> {
    let mut news = Socket::new(NETLINK_ROUTE)?;
    news.set_rx_buf_sz(libc::c_int::try_from(settings::ROUTES_NEWS).unwrap_or(libc::c_int::MAX))?;
    news.bind_auto()?;
    for group in NEWS {
        news.add_membership(group)?;
    }
    let _none_before_5_3 = news.add_membership(NEWS_OF_OBJECTS);
    Ok(news)
}

impl Kernel {
    /// For this thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The main table alone, where the kernel can (4.20): the local one may have thousands of addresses.
        let _or_all_tables = socket.set_netlink_get_strict_chk(true);
        Ok(Self { socket, piece: Vec::with_capacity(PIECE), routes: None })
    }

    /// The default routes as they are, for as long as this conversation goes on read only when they have changed.
    pub(super) fn routes(&mut self) -> io::Result<Arc<[Hop]>> {
        if let Some(routes) = &mut self.routes
            && routes.are_fresh()
        {
            return Ok(routes.hops.clone());
        }
        let (news, once_more) = match self.routes.take() {
            Some(routes) => (routes.news, routes.has_changed),
            None => (listen()?, false),
        };
        let at = Instant::now();
        let hops: Arc<[Hop]> = self.default_routes()?.into();
        let took = at.elapsed();
        let routes =
            Routes { hops: hops.clone(), at: at + took, took, has_changed: false, once_more, news };
        self.routes = Some(routes);
        Ok(hops)
    }

    /// The ways out of the main table, IPv4 first; at most [`settings::GATEWAYS`].
    fn default_routes(&mut self) -> io::Result<Vec<Hop>> {
        let mut hops = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let header = RouteHeader {
                address_family: family,
                table: RouteHeader::RT_TABLE_MAIN,
                ..RouteHeader::default()
            };
            let request = request(libc::RTM_GETROUTE, NLM_F_DUMP, &header, &[]);
            let mut latest = Vec::new();
            for _attempt in 0..settings::DUMP_ATTEMPTS {
                let mut found = Vec::new();
                let each = |payload: &[u8]| found.extend(hops_of(payload, family));
                let is_whole = match self.ask(&request, libc::RTM_NEWROUTE, each) {
                    // No table yet; no IPv6 on this host.
                    Err(error) if is_nothing(&error) => true,
                    result => result?,
                };
                // Where routes change all the time, what was found has to do.
                latest = found;
                if is_whole {
                    break;
                }
            }
            hops.append(&mut latest);
        }
        hops.truncate(settings::GATEWAYS);
        Ok(hops)
    }

    /// How things stand with these, up to the first one that is `enough`.
    pub(super) fn look(
        &mut self,
        hops: &[Hop],
        enough: impl Fn(&Way) -> bool,
    ) -> io::Result<Vec<Way>> {
        let mut links = BTreeMap::new();
        let mut ways = Vec::new();
        for hop in hops {
            let link = match links.get(&hop.link) {
                Some(known) => Option::clone(known),
                None => self.link(hop.link)?,
            };
            links.insert(hop.link, link.clone());
            let neighbour = match hop.gateway {
                Some(gateway) if link.is_some() => self.neighbour(gateway, hop.link)?,
                _ => None,
            };
            let way = Way { hop: hop.clone(), link, neighbour };
            let is_enough = enough(&way);
            ways.push(way);
            if is_enough {
                break;
            }
        }
        Ok(ways)
    }

    fn link(&mut self, index: u32) -> io::Result<Option<Link>> {
        if index == 0 {
            return Ok(None);
        }
        let header = LinkHeader { index, ..LinkHeader::default() };
        let filter = DefaultNla::new(libc::IFLA_EXT_MASK, SKIP_STATS.to_ne_bytes().to_vec());
        let request = request(libc::RTM_GETLINK, 0, &header, &[filter]);
        let mut link = None;
        match self.ask(&request, libc::RTM_NEWLINK, |payload| link = link_of(payload)) {
            Err(error) if is_nothing(&error) => Ok(None),
            result => result.map(|_| link),
        }
    }

    fn neighbour(&mut self, gateway: IpAddr, link: u32) -> io::Result<Option<NeighbourState>> {
        let (family, bytes) = match gateway {
            IpAddr::V4(ip) => (AddressFamily::Inet, ip.octets().to_vec()),
            IpAddr::V6(ip) => (AddressFamily::Inet6, ip.octets().to_vec()),
        };
        let header = NeighbourHeader { family, ifindex: link, ..NeighbourHeader::default() };
        let address = DefaultNla::new(libc::NDA_DST, bytes);
        let request = request(libc::RTM_GETNEIGH, 0, &header, &[address]);
        let mut state = None;
        let each = |payload: &[u8]| {
            state = NeighbourHeader::parse(payload).ok().map(|header| header.state);
        };
        match self.ask(&request, libc::RTM_NEWNEIGH, each) {
            Err(error) if is_nothing(&error) => Ok(None),
            result => result.map(|_| state),
        }
    }

    /// Sends a request, and gives the payload of each answer of that kind to `each`. False where what they tell of
    /// has changed meanwhile.
    fn ask(&mut self, request: &[u8], kind: u16, mut each: impl FnMut(&[u8])) -> io::Result<bool> {
        self.socket.send(request, 0)?;
        let mut is_whole = true;
        loop {
            self.piece.clear();
            // Not `recv_from_full`: that asks for the length of each first.
            self.socket.recv(&mut self.piece, 0)?;
            let mut rest = &self.piece[..];
            while !rest.is_empty() {
                let bad = |error| io::Error::new(io::ErrorKind::InvalidData, error);
                let message = NetlinkBuffer::new_checked(rest).map_err(bad)?;
                let payload = message.payload();
                is_whole &= message.flags() & NLM_F_DUMP_INTR == 0;
                match i32::from(message.message_type()) {
                    libc::NLMSG_DONE => return Ok(is_whole),
                    libc::NLMSG_ERROR => return error_of(payload).map(|()| is_whole),
                    _ if message.message_type() == kind => each(payload),
                    _ => {}
                }
                if message.flags() & NLM_F_MULTIPART == 0 {
                    return Ok(is_whole);
                }
                let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

fn request(kind: u16, flags: u16, header: &impl Emitable, attributes: &[DefaultNla]) -> Vec<u8> {
    let length = HEADER + header.buffer_len() + attributes.buffer_len();
    let mut bytes = vec![0; length];
    let mut netlink = NetlinkHeader::default();
    netlink.length = u32::try_from(length).unwrap_or(u32::MAX);
    netlink.message_type = kind;
    netlink.flags = NLM_F_REQUEST | flags;
    let (head, rest) = bytes.split_at_mut(HEADER);
    netlink.emit(head);
    let (head, rest) = rest.split_at_mut(header.buffer_len());
    header.emit(head);
    attributes.emit(rest);
    bytes
}

/// The kernel's ways to say that there is no such thing.
fn is_nothing(error: &io::Error) -> bool {
    let nothing = [libc::ENOENT, libc::ENODEV, libc::ESRCH, libc::EOPNOTSUPP, libc::EAFNOSUPPORT];
    error.raw_os_error().is_some_and(|code| nothing.contains(&code))
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkFlags;

    use super::*;

    #[test]
    fn this_kernel_answers() {
        let mut kernel = Kernel::open().unwrap();
        let routes = kernel.routes().unwrap();
        assert!(routes.iter().all(|hop| hop.gateway.is_some() || hop.link != 0), "{routes:?}");
        // The loopback link is always the first one, and nobody is its neighbour.
        let loopback = Hop { gateway: Some([127, 0, 0, 9].into()), link: 1 };
        let gone = Hop { gateway: Some([10, 0, 0, 1].into()), link: 0x7fff_0000 };
        let hops = [loopback.clone(), gone, loopback];
        assert_eq!(kernel.look(&hops, |_| true).unwrap().len(), 1);
        let ways = kernel.look(&hops, |_| false).unwrap();
        let link = ways[0].link.clone().unwrap();
        assert_eq!(link.name, "lo");
        assert!(link.flags.contains(LinkFlags::Loopback));
        assert_eq!((&ways[1].link, &ways[1].neighbour), (&None, &None));
        assert_eq!(ways[0], ways[2]);
    }
}
