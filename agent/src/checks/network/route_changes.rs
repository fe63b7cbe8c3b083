//! The kernel's notifications of what may change a default route.

use std::io;

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};

use super::settings;

/// The multicast groups of links, addresses and routes, of IPv4 and IPv6 (`RTNLGRP_*` in linux/rtnetlink.h). The groups
/// of links and addresses are needed too: an IPv4 route goes without a notification where its link or address does.
const GROUPS: [u32; 5] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
];
/// `RTNLGRP_NEXTHOP`, since Linux 5.3: a route may refer to a nexthop object by its number.
const NEXTHOP_GROUP: u32 = 32;
/// 64 notifications are more than [`settings::ROUTE_CHANGES_BUFFER`] has room for.
const NOTIFICATIONS: usize = 64;

/// A subscription to the notifications.
#[derive(Debug)]
pub(super) struct RouteChanges(Socket);

impl RouteChanges {
    /// Subscribes, in the network namespace of the calling thread.
    pub(super) fn subscribe() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let room =
            libc::c_int::try_from(settings::ROUTE_CHANGES_BUFFER).unwrap_or(libc::c_int::MAX);
        socket.set_rx_buf_sz(room)?;
        socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        let _unknown_before_5_3 = socket.add_membership(NEXTHOP_GROUP);
        Ok(Self(socket))
    }

    /// Whether there was any notification since the last call. What it says is not read.
    pub(super) fn any(&self) -> bool {
        let mut is_any = false;
        for _ in 0..NOTIFICATIONS {
            // The buffer has room for one byte; the kernel drops the rest of the message.
            match self.0.recv(&mut Vec::with_capacity(1), libc::MSG_DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return is_any,
                // Some notifications were lost for want of room, which is as good as one.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => is_any = true,
                Err(_) => return true,
                Ok(_) => is_any = true,
            }
        }
        is_any
    }
}
