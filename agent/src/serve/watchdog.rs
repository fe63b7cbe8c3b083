//! systemd's watchdog: the service manager restarts the agent when it does not come back by itself.
//!
//! The agent asks its own health listener for `/livez`, and tells systemd (`sd_notify`, `WATCHDOG=1`) only while the
//! answer is 200. So a standstill of the main thread, of the health listener or of the kernel task each ends in a restart.

use std::{
    env, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::{
        linux::net::SocketAddrExt,
        unix::{ffi::OsStrExt, net as unix},
    },
    time::Duration,
};

use tocsin_runtime::tasks::Stop;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until, timeout_at},
};
use tracing::{debug, warn};

/// 3 questions within systemd's limit: one that is late or lost restarts nothing.
const QUESTIONS: u32 = 3;

/// Tells systemd that the agent listens; nothing where systemd does not wait for it.
pub fn ready() {
    tell("READY=1");
}

/// The time after which systemd restarts an agent that says nothing (`WatchdogSec`); `None` where it never does
/// (`sd_watchdog_enabled(3)`).
#[must_use]
pub fn limit() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_for_us = number("WATCHDOG_PID").is_none_or(|id| id == u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|limit| is_for_us && *limit > 0).map(Duration::from_micros)
}

/// Tells systemd for as long as `health` answers that the agent is well, until `stop`.
pub async fn run(health: SocketAddr, limit: Duration, stop: Stop) {
    let interval = limit / QUESTIONS;
    let mut is_well = true;
    while !stop.is_requested() {
        // A question that is not answered takes the whole interval, and the next one follows at once.
        let next = Instant::now() + interval;
        let answer = timeout_at(next, livez(health)).await;
        let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match &answer {
            // Both, each time: the queue may have had no room for the first word.
            Ok(()) => tell("READY=1\nWATCHDOG=1"),
            Err(error) if is_well => {
                warn!(%error, ?limit, "not well: systemd will restart the agent");
            }
            Err(_) => {}
        }
        is_well = answer.is_ok();
        tokio::select! {
            () = sleep_until(next) => {}
            () = stop.requested() => {}
        }
    }
}

/// Asks the health listener at `address` for `/livez`. An error where the answer is not 200.
async fn livez(address: SocketAddr) -> io::Result<()> {
    // The unspecified IPv6 address takes IPv4 too.
    let any = address.ip().is_unspecified();
    let ip = if any { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
    let mut stream = TcpStream::connect((ip, address.port())).await?;
    stream.write_all(b"GET /livez HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if answer.starts_with("HTTP/1.0 200 ") {
        return Ok(());
    }
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Err(io::Error::other(format!("/livez: {body}")))
}

/// Sends a message to systemd, if it listens (`NOTIFY_SOCKET`, `sd_notify(3)`). It never waits: a systemd that hangs on the
/// failing disk takes nothing out of its queue, and the crates for this protocol would wait for it.
fn tell(message: &str) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else {
        return;
    };
    let send = || -> io::Result<usize> {
        let address = match socket.as_bytes().strip_prefix(b"@") {
            Some(name) => unix::SocketAddr::from_abstract_name(name)?,
            None => unix::SocketAddr::from_pathname(&socket)?,
        };
        let sender = unix::UnixDatagram::unbound()?;
        sender.set_nonblocking(true)?;
        sender.send_to_addr(message.as_bytes(), &address)
    };
    if let Err(error) = send() {
        debug!(%error, "systemd cannot be told");
    }
}
