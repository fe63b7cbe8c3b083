//! Default routes, their links and their gateways, as the kernel tells them over rtnetlink.
//!
//! Every request may block for as long as the kernel's lock for the network configuration is held (by a driver that
//! hangs, say), so all of this runs in [`crate::host::Bounded`].

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

use super::{
    message::{Link, NextHop, error_of, link_of, next_hops_of},
    route_changes::RouteChanges,
    settings,
};

/// Length of `nlmsghdr`.
const HEADER: usize = 16;

/// 32 KiB: the kernel sends a dump of routes in no larger pieces, however much room there is (`netlink_dump` and
/// `netlink_recvmsg` in `net/netlink/af_netlink.c`), and the message about one link takes some kilobytes at most. A
/// larger piece would end with a message that is cut off, which is an error.
const PIECE: usize = 32 << 10;
/// `RTEXT_FILTER_SKIP_STATS` (linux/rtnetlink.h): leaves out the counters of IPv4 and IPv6, which are a quarter of the
/// message about a link.
const SKIP_STATS: u32 = 1 << 3;

/// A next hop, and the state of its link and its gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NextHopState {
    pub(super) hop: NextHop,
    /// The link; `None` if it is gone.
    pub(super) link: Option<Link>,
    /// The state of the gateway's neighbour entry; `None` if the kernel has no entry.
    pub(super) neighbour: Option<NeighbourState>,
}

/// A netlink socket for requests. After a request that failed it cannot be used, since answers may still arrive.
#[derive(Debug)]
pub(super) struct RouteSocket {
    socket: Socket,
    /// The latest piece of an answer.
    piece: Vec<u8>,
    routes: Option<CachedRoutes>,
}

/// Default routes that were read, and the notifications that they may have changed.
#[derive(Debug)]
struct CachedRoutes {
    hops: Arc<[NextHop]>,
    read_at: Instant,
    /// How long it took to read them.
    took: Duration,
    has_changed: bool,
    /// They were read after a notification. The kernel sends some before it makes the change (where an IPv4 address or
    /// route goes), so they are read once more.
    once_more: bool,
    changes: RouteChanges,
}

impl CachedRoutes {
    /// Whether they need not be read again yet.
    fn are_fresh(&mut self) -> bool {
        self.has_changed |= self.changes.any();
        let age = self.read_at.elapsed();
        age < self.took * settings::ROUTES_PAUSE
            || (!self.has_changed && !self.once_more && age < settings::ROUTES_MAX_AGE)
    }
}

impl RouteSocket {
    /// Opens a socket in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Asks for the main table only (Linux 4.20): the local table may have thousands of addresses.
        let _all_tables_before_4_20 = socket.set_netlink_get_strict_chk(true);
        Ok(Self { socket, piece: Vec::with_capacity(PIECE), routes: None })
    }

    /// The next hops of the default routes. On the same socket, they are read again only after a change.
    pub(super) fn routes(&mut self) -> io::Result<Arc<[NextHop]>> {
        if let Some(routes) = &mut self.routes
            && routes.are_fresh()
        {
            return Ok(routes.hops.clone());
        }
        let (changes, once_more) = match self.routes.take() {
            Some(routes) => (routes.changes, routes.has_changed),
            None => (RouteChanges::subscribe()?, false),
        };
        let at = Instant::now();
        let hops: Arc<[NextHop]> = self.default_routes()?.into();
        let took = at.elapsed();
        let routes = CachedRoutes {
            hops: hops.clone(),
            read_at: at + took,
            took,
            has_changed: false,
            once_more,
            changes,
        };
        self.routes = Some(routes);
        Ok(hops)
    }

    /// Reads the next hops of the default routes in the main table, IPv4 first; at most [`settings::NEXT_HOPS`].
    fn default_routes(&mut self) -> io::Result<Vec<NextHop>> {
        let mut hops = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let header = RouteHeader {
                address_family: family,
                table: RouteHeader::RT_TABLE_MAIN,
                ..RouteHeader::default()
            };
            let message = message(libc::RTM_GETROUTE, NLM_F_DUMP, &header, &[]);
            let mut latest = Vec::new();
            for _attempt in 0..settings::DUMP_ATTEMPTS {
                let mut found = Vec::new();
                let each = |payload: &[u8]| found.extend(next_hops_of(payload, family));
                let is_whole = match self.request(&message, libc::RTM_NEWROUTE, each) {
                    // The table does not exist yet, or this host has no IPv6.
                    Err(error) if is_absent(&error) => true,
                    result => result?,
                };
                // After the last attempt, an incomplete list is better than none.
                latest = found;
                if is_whole {
                    break;
                }
            }
            hops.append(&mut latest);
        }
        hops.truncate(settings::NEXT_HOPS);
        Ok(hops)
    }

    /// The states of these next hops, up to the first one that is `enough`.
    pub(super) fn states(
        &mut self,
        hops: &[NextHop],
        enough: impl Fn(&NextHopState) -> bool,
    ) -> io::Result<Vec<NextHopState>> {
        let mut links = BTreeMap::new();
        let mut states = Vec::new();
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
            let state = NextHopState { hop: hop.clone(), link, neighbour };
            let is_enough = enough(&state);
            states.push(state);
            if is_enough {
                break;
            }
        }
        Ok(states)
    }

    fn link(&mut self, index: u32) -> io::Result<Option<Link>> {
        if index == 0 {
            return Ok(None);
        }
        let header = LinkHeader { index, ..LinkHeader::default() };
        let filter = DefaultNla::new(libc::IFLA_EXT_MASK, SKIP_STATS.to_ne_bytes().to_vec());
        let message = message(libc::RTM_GETLINK, 0, &header, &[filter]);
        let mut link = None;
        match self.request(&message, libc::RTM_NEWLINK, |payload| link = link_of(payload)) {
            Err(error) if is_absent(&error) => Ok(None),
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
        let message = message(libc::RTM_GETNEIGH, 0, &header, &[address]);
        let mut state = None;
        let each = |payload: &[u8]| {
            state = NeighbourHeader::parse(payload).ok().map(|header| header.state);
        };
        match self.request(&message, libc::RTM_NEWNEIGH, each) {
            Err(error) if is_absent(&error) => Ok(None),
            result => result.map(|_| state),
        }
    }

    /// Sends a request, and calls `each` with the payload of every message of that kind in the answer. Returns false
    /// where the data changed while the kernel sent it.
    fn request(
        &mut self,
        request: &[u8],
        kind: u16,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<bool> {
        self.socket.send(request, 0)?;
        let mut is_whole = true;
        loop {
            self.piece.clear();
            // Not `recv_from_full`, which makes another system call for the length of each message.
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

fn message(kind: u16, flags: u16, header: &impl Emitable, attributes: &[DefaultNla]) -> Vec<u8> {
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

/// The kernel's errors that mean "there is no such thing".
fn is_absent(error: &io::Error) -> bool {
    let nothing = [libc::ENOENT, libc::ENODEV, libc::ESRCH, libc::EOPNOTSUPP, libc::EAFNOSUPPORT];
    error.raw_os_error().is_some_and(|code| nothing.contains(&code))
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkFlags;

    use super::*;

    #[test]
    fn this_kernel_answers() {
        let mut socket = RouteSocket::open().unwrap();
        let routes = socket.routes().unwrap();
        assert!(routes.iter().all(|hop| hop.gateway.is_some() || hop.link != 0), "{routes:?}");
        // The loopback link always has index 1 and no neighbours.
        let loopback = NextHop { gateway: Some([127, 0, 0, 9].into()), link: 1 };
        let gone = NextHop { gateway: Some([10, 0, 0, 1].into()), link: 0x7fff_0000 };
        let hops = [loopback.clone(), gone, loopback];
        assert_eq!(socket.states(&hops, |_| true).unwrap().len(), 1);
        let states = socket.states(&hops, |_| false).unwrap();
        let link = states[0].link.clone().unwrap();
        assert_eq!(link.name, "lo");
        assert!(link.flags.contains(LinkFlags::Loopback));
        assert_eq!((&states[1].link, &states[1].neighbour), (&None, &None));
        assert_eq!(states[0], states[2]);
    }
}
