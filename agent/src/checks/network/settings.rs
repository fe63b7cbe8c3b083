//! `network`: deadlines and bounds, each with its unit and its reason.

use std::time::Duration;

/// The file of this process. In a pod with `dnsPolicy: Default` it is a copy of the node's.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// 0.5 seconds for a file of a few lines. It may be on a disk that hangs; then its last contents are used.
pub const RESOLV_CONF_DEADLINE: Duration = Duration::from_millis(500);
/// 3 nameservers: the C libraries use the first three (`MAXNS`) and no others, so another one that answers helps no
/// program.
pub const NAMESERVERS: usize = 3;
/// The default domain of a cluster.
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// 1 second for the answer of a nameserver, TCP included. A resolver on the host or in its network needs some
/// milliseconds for a name that it knows.
pub const DNS_TIMEOUT: Duration = Duration::from_secs(1);
/// 0.4 seconds until a query is sent again: twice within [`DNS_TIMEOUT`], so that one lost packet is no failure.
pub const DNS_RETRY: Duration = Duration::from_millis(400);
/// 0.1 seconds until the next nameserver is asked too: where the first one is healthy, the others get no query.
pub const DNS_STAGGER: Duration = Duration::from_millis(100);
/// 1 second for netlink, which takes less than a millisecond unless the kernel's network configuration is locked.
pub const NETLINK_DEADLINE: Duration = Duration::from_secs(1);
/// Default routes that change all the time are read again after 40 times the time that it took to read them. On most
/// hosts that is at every sample; with a million routes it costs 2.5 percent of a core.
pub const ROUTES_PAUSE: u32 = 40;
/// 5 seconds after which default routes are read again without a notification: the kernel sends one for nearly every
/// change, but not for all.
pub const ROUTES_MAX_AGE: Duration = Duration::from_secs(5);
/// 4 KiB for notifications of changes: it only matters whether there are any.
pub const ROUTE_CHANGES_BUFFER: usize = 4 * 1024;
/// 3 attempts at reading routes that change while they are read.
pub const DUMP_ATTEMPTS: usize = 3;
/// 32 next hops, counting each one of a multipath route: twice as many as a router with two times eight uplinks has.
pub const NEXT_HOPS: usize = 32;
/// 1 second for a gateway's answer to an echo; it includes the answer to ARP or neighbour discovery.
pub const ECHO_TIMEOUT: Duration = Duration::from_secs(1);
/// 0.4 seconds until an echo is sent again, as for [`DNS_RETRY`].
pub const ECHO_RETRY: Duration = Duration::from_millis(400);
/// 4 seconds for a sample. Its parts end earlier, with a reason: a sample takes 1 s where a server does not answer, and
/// 3 s where netlink does not either.
pub const NETWORK_TIMEOUT: Duration = Duration::from_secs(4);
