//! Defaults of the command line, each with its unit and its reason.

use std::net::{IpAddr, Ipv6Addr};

/// All addresses, IPv6 and IPv4.
pub const LISTEN_ADDR: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// The port of the controller that this replaces.
pub const PORT: u16 = 8080;
/// For people and Prometheus.
pub const ADMIN_PORT: u16 = 25012;
/// 3,600 requests per hour, one a second: the replaced controller's.
pub const RATE_LIMIT: i64 = 3600;
