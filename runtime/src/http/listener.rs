//! Ports and unix sockets to accept connections from.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use futures_util::FutureExt;
use rustix::{io::Errno, net::sockopt::set_ipv6_v6only, process::geteuid};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, UnixListener},
};
use tracing::{debug, warn};

/// Connections waiting to be accepted; what the kernel allows by default (net.core.somaxconn since Linux 5.4).
pub const BACKLOG: u32 = 4096;

/// 30 seconds without a byte until TCP asks whether the other side is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// 10 seconds between these questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// 3 of them without an answer end the connection: a minute after the last byte.
const KEEPALIVE_PROBES: u32 = 3;
/// 50 milliseconds without accepting, after an error that will be the same at once: out of file descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Takes a port without accepting anything on it yet: a port in use is an error before anything else is set up, and no
/// request is answered before the answer is right.
///
/// The unspecified IPv6 address takes both families, or IPv4 alone on a host without IPv6.
pub fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    bind_one(addr).or_else(|error| {
        let no_ipv6 = Errno::from_io_error(&error)
            .is_some_and(|errno| errno == Errno::AFNOSUPPORT || errno == Errno::ADDRNOTAVAIL);
        if no_ipv6 && addr.is_ipv6() && addr.ip().is_unspecified() {
            let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            return bind_one(SocketAddr::new(any, addr.port()));
        }
        Err(error)
    })
}

fn bind_one(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        // Both families, whatever net.ipv6.bindv6only says.
        set_ipv6_v6only(&socket, false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// The other side of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// An address; an IPv4 address is one, also where the listener has both families.
    Tcp(SocketAddr),
    /// A process of root or of this process's user.
    Unix,
}

/// The byte stream of a connection: TCP, TLS or a unix socket.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A socket that accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// A port.
    Tcp(TcpListener),
    /// A unix socket, for root and for this process's user only.
    Unix(UnixListener),
}

impl Listener {
    /// Waits for the next connection.
    pub(super) async fn accept(&self) -> io::Result<(Box<dyn Transport>, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, addr) = listener.accept().await?;
                // An answer is one small segment: waiting for more to send would only delay it.
                let _delayed = stream.set_nodelay(true);
                let keepalive = TcpKeepalive::new()
                    .with_time(KEEPALIVE_IDLE)
                    .with_interval(KEEPALIVE_INTERVAL)
                    .with_retries(KEEPALIVE_PROBES);
                // Without it, a peer that is gone is noticed by the time-outs.
                let _unasked = SockRef::from(&stream).set_tcp_keepalive(&keepalive);
                let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
                Ok((Box::new(stream), Peer::Tcp(addr)))
            }
            Self::Unix(listener) => loop {
                let (stream, _) = listener.accept().await?;
                // The file's mode says the same; this holds wherever the operator put the file.
                let own = geteuid().as_raw();
                if stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own) {
                    return Ok((Box::new(stream), Peer::Unix));
                }
                debug!("a unix socket refused a process of another user");
            },
        }
    }

    /// The next connection, if one waits.
    pub(super) fn accept_now(&self) -> Option<(Box<dyn Transport>, Peer)> {
        self.accept().now_or_never()?.ok()
    }
}

/// Logs why a connection could not be accepted, and pauses where the next attempt would end the same.
pub async fn accept_failed(listener: &'static str, error: &io::Error) {
    // Gone before it was accepted: no reason to keep the next one waiting.
    if error.kind() == io::ErrorKind::ConnectionAborted {
        return;
    }
    // Out of file descriptors, say: the connection stays in the backlog.
    warn!(listener, %error, "accept failed");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}
