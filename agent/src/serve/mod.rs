//! Listeners. Each answers from memory, and none can be made to wait or to grow without bound.

pub mod admin;
pub mod agent_check;
pub mod control;
pub mod health;
pub mod metrics;
pub mod reason;
pub mod settings;
pub mod state_file;
pub mod tls;
pub mod weight;

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::pin,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tocsin_runtime::tasks::Stop;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket},
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tracing::{debug, warn};

/// What every handler gives.
pub type Reply = Response<Full<Bytes>>;

/// Takes a port without accepting anything on it yet: a port in use is an error before anything else
/// is set up, and nobody is answered before the answer is right.
pub fn bind(addr: SocketAddr) -> io::Result<TcpSocket> {
    bind_one(addr, false).or_else(|error: io::Error| {
        // A host without IPv6.
        let none = error
            .raw_os_error()
            .is_some_and(|e| e == libc::EAFNOSUPPORT || e == libc::EADDRNOTAVAIL);
        if none && addr.is_ipv6() && addr.ip().is_unspecified() {
            return bind_one(
                SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), addr.port()),
                false,
            );
        }
        Err(error)
    })
}

/// Takes a port that [`bind`] took once more, for another thread.
pub fn bind_beside(addr: SocketAddr) -> io::Result<TcpSocket> {
    bind_one(addr, true)
}

fn bind_one(addr: SocketAddr, beside: bool) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    if addr.is_ipv6() && addr.ip().is_unspecified() {
        // Both families, whatever net.ipv6.bindv6only says.
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    }
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(beside)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Connections waiting to be accepted; what the kernel allows by default (net.core.somaxconn).
pub const BACKLOG: u32 = 4096;

/// Something to accept connections from.
pub trait Accept {
    /// The connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next one.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        let (stream, _) = Self::accept(self).await?;
        // An answer is one small segment: waiting for more to send would only delay it.
        let _delayed = stream.set_nodelay(true);
        Ok(stream)
    }
}

impl Accept for tokio::net::UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        loop {
            let (stream, _) = Self::accept(self).await?;
            // The file's mode says the same; this holds wherever the operator put the file.
            let own = rustix::process::geteuid().as_raw();
            if stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own) {
                return Ok(stream);
            }
        }
    }
}

/// Serves `limit` connections at once until `stop` says so, then lets requests that are being answered finish.
pub async fn serve<L, H, F>(name: &'static str, limit: usize, listener: L, handler: H, stop: Stop)
where
    L: Accept,
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let mut connections = JoinSet::new();
    // In the order in which they came.
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = tokio::select! {
            biased;
            () = stop.requested() => break,
            // Reaped here, so that the set does not grow.
            Some(_ended) = connections.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    accept_failed(name, &error).await;
                    continue;
                }
            },
        };
        open.retain(|handle| !handle.is_finished());
        // An answer takes microseconds, so the oldest connection is an idle one: whoever holds connections open
        // (or sends its header byte by byte) does not keep a load balancer out.
        if open.len() >= limit
            && let Some(oldest) = open.pop_front()
        {
            debug!(listener = name, "too many connections: ending the oldest");
            oldest.abort();
        }
        open.push_back(connections.spawn(connection(stream, handler.clone(), stop.clone())));
    }
    drop(listener);
    let drain = async { while connections.join_next().await.is_some() {} };
    if timeout(settings::DRAIN, drain).await.is_err() {
        warn!(listener = name, "connections did not end in time");
    }
}

/// What to do about it.
async fn accept_failed(listener: &'static str, error: &io::Error) {
    // Gone before it was accepted: no reason to keep the next one waiting.
    if error.kind() == io::ErrorKind::ConnectionAborted {
        return;
    }
    // Out of file descriptors, say: the connection stays in the backlog.
    warn!(listener, %error, "accept failed");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn connection<S, H, F>(stream: S, handler: H, stop: Stop)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Reply>,
{
    let service = service_fn(|request| {
        let reply = handler(request);
        async move { Ok::<_, Infallible>(reply.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings::ADMIN_TIMEOUT)
        .max_buf_size(settings::HEADER_BYTES)
        // A client may shut down its half after the request.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        result = connection.as_mut() => {
            if let Err(error) = result {
                debug!(%error, "connection ended");
            }
            return;
        }
        () = stop.requested() => {}
    }
    connection.as_mut().graceful_shutdown();
    if let Err(error) = connection.await {
        debug!(%error, "connection ended");
    }
}

/// A reply that nobody may cache.
#[must_use]
pub fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// `application/json`
pub const JSON: &str = "application/json";
/// `text/plain`
pub const TEXT: &str = "text/plain; charset=utf-8";

/// An error as JSON: `{"error":"…"}`.
#[must_use]
pub fn error(status: StatusCode, message: &str) -> Reply {
    reply(status, JSON, serde_json::json!({ "error": message }).to_string())
}

/// 405 with what is allowed.
#[must_use]
pub fn not_allowed(allow: &'static str) -> Reply {
    let mut reply = error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    reply
}
