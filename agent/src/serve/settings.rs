//! The listeners: ports, deadlines and bounds, each with its unit and its reason.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZero,
    time::Duration,
};

/// All addresses, IPv6 and IPv4: load balancers use the node's address, not loopback.
pub const LISTEN_ADDR: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// The health listener's port: that of the readiness endpoint that Tocsin replaces.
pub const LISTEN_PORT: u16 = 25001;
/// This host alone for the admin listener: the probes of the manifests and `tocsin faults` need no more, and what it
/// tells (names of volumes, UIDs of pods, disks) is nobody else's business unless the operator says so.
pub const ADMIN_ADDR: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The admin listener's port: the next one.
pub const ADMIN_PORT: u16 = 25002;
/// The control socket, below /run: a tmpfs, which only root can write to.
pub const CONTROL_SOCKET: &str = "/run/tocsin/control.sock";
/// A tenth of a second for the kernel task to renew its counters before a scrape, which takes a millisecond; after it,
/// the last reading is shown.
pub const REFRESH_DEADLINE: Duration = Duration::from_millis(100);
/// 8 KiB for a request's line and headers, as nginx and Apache have it: load balancers send some hundred bytes.
pub const HEADER_BYTES: usize = 8 * 1024;
/// Connections served at once on each listener, at most; one more ends the one that never asked or asked longest ago.
/// 64 load balancers with 16 each; 9 MiB if each of them has sent nearly all of a header.
pub const CONNECTIONS: NonZero<usize> = NonZero::new(1024).unwrap();
/// 64 connections to the control socket: people use it, one by one.
pub const CONTROL_CONNECTIONS: usize = 64;
/// The port of `HAProxy`'s agent-check: the next one.
pub const AGENT_CHECK_PORT: u16 = 25003;
/// Agent-check connections of a thread whose end is awaited after the line, each for a second at most.
pub const AGENT_CHECKS: usize = 256;
/// What is spoken on the health listener over TLS (ALPN), the best one first: gRPC needs HTTP/2.
pub const TLS_PROTOCOLS: [&[u8]; 3] = [b"h2", b"http/1.1", b"http/1.0"];
/// 2 seconds for writing a state file, which belongs on a tmpfs.
pub const STATE_FILE_DEADLINE: Duration = Duration::from_secs(2);
/// Open files that are not for connections: disks, filesystems, maps and probes.
pub const OTHER_FILES: usize = 512;
/// 5 seconds for requests that are being answered when the agent stops.
pub const DRAIN: Duration = Duration::from_secs(5);
