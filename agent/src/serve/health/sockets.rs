//! The listening sockets of the health listener and of the agent-check.

use std::{io, net::SocketAddr, os::fd::AsRawFd};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpSocket;

use tocsin_runtime::http::bind;

use crate::serve::health::settings;

/// Sockets that are bound and do not listen yet: one for each of the two ports, which all threads accept from. With
/// `SO_REUSEPORT` and a socket for each thread, any process of the same user could bind another one and answer a share of
/// the load balancers in the agent's name.
#[derive(Debug)]
pub struct BoundSockets {
    /// Of the health listener.
    pub health: TcpSocket,
    /// Of the agent-check.
    pub agent_check: TcpSocket,
}

impl BoundSockets {
    /// Binds both ports. An error names the listener and the address.
    pub fn bind(
        health: SocketAddr,
        agent_check: SocketAddr,
    ) -> Result<Self, (&'static str, SocketAddr, io::Error)> {
        let bind = |name, addr| bind_port(addr).map_err(|error| (name, addr, error));
        Ok(Self {
            health: bind("health listener", health)?,
            agent_check: bind("agent-check listener", agent_check)?,
        })
    }
}

fn bind_port(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = bind(addr)?;
    set_options(&socket)?;
    Ok(socket)
}

/// Sets options that accepted connections inherit.
fn set_options(socket: &TcpSocket) -> io::Result<()> {
    let socket = SockRef::from(socket);
    // A response is one small segment: waiting for more to send would only delay it.
    socket.set_tcp_nodelay(true)?;
    // A load balancer that lost its power leaves no open connection behind for long.
    let keepalive = TcpKeepalive::new()
        .with_time(settings::KEEPALIVE_IDLE)
        .with_interval(settings::KEEPALIVE_INTERVAL)
        .with_retries(settings::KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)
}

/// Has the kernel keep a connection until its first byte arrives, for [`settings::DEFER_ACCEPT`] at most. Nearly all
/// connections can then be answered when they are accepted, and one that never sends anything costs no more than that.
pub fn defer_accept(listener: &TcpSocket) -> io::Result<()> {
    let seconds = libc::c_int::try_from(settings::DEFER_ACCEPT.as_secs()).unwrap_or(1);
    let size = libc::socklen_t::try_from(size_of_val(&seconds)).unwrap_or_default();
    // SAFETY: the pointer is to an integer that outlives the call, and `size` is that integer's.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            size,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
