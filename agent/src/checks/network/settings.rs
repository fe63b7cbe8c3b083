//! `network`: deadlines and bounds, each with its unit and its reason.

use std::time::Duration;

/// This process's own: with `dnsPolicy: Default` in a pod, a copy of the node's.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Half a second for a file of a few lines, which may be on a disk that hangs: then what it said last has to do.
pub const RESOLV_CONF_DEADLINE: Duration = Duration::from_millis(500);
/// The C libraries ask the first three nameservers (`MAXNS`) and know no others; one more that answers helps nobody.
pub const NAMESERVERS: usize = 3;
/// The domain of nearly every cluster.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// 1 second for an answer of a nameserver, TCP included. A resolver on the host or the same network needs some
/// milliseconds for what it knows.
pub const DNS_TIMEOUT: Duration = Duration::from_secs(1);
/// 0.4 seconds until a question is sent again: twice in [`DNS_TIMEOUT`], so that one lost packet is no failure.
pub const DNS_AGAIN: Duration = Duration::from_millis(400);
/// A tenth of a second until the next nameserver is asked too: a healthy first one leaves the others alone.
pub const DNS_STAGGER: Duration = Duration::from_millis(100);
/// 1 second for netlink, which needs less than a millisecond unless the kernel's network configuration is locked.
pub const NETLINK_DEADLINE: Duration = Duration::from_secs(1);
/// Where they change all the time, default routes are read again after this many times the time that it took: at every
/// sample on most hosts, at 2.5 percent of a core with a million routes.
pub const ROUTES_REST: u32 = 40;
/// 5 seconds after which they are read again although the kernel told of no change: it tells of nearly all.
pub const ROUTES_KEPT: Duration = Duration::from_secs(5);
/// 4 KiB for what it tells of changes, of which it only matters that there are some.
pub const ROUTES_NEWS: usize = 4 * 1024;
/// Attempts at reading routes that change meanwhile.
pub const DUMP_ATTEMPTS: usize = 3;
/// Ways out that are looked at, each leg of a multipath route for itself: twice what a router with two times eight
/// uplinks has.
pub const GATEWAYS: usize = 32;
/// 1 second for a gateway's answer to an echo, which includes its answer to ARP or neighbour discovery.
pub const ECHO_TIMEOUT: Duration = Duration::from_secs(1);
/// 0.4 seconds until an echo is sent again, as with [`DNS_AGAIN`].
pub const ECHO_AGAIN: Duration = Duration::from_millis(400);
/// 4 seconds for a sample: every part ends before, and says why. One takes 1 s where something does not answer, 3 s
/// where netlink does not either.
pub const NETWORK_TIMEOUT: Duration = Duration::from_secs(4);
