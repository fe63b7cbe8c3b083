//! The accept loop of one thread: short connections are answered as they are accepted, the others become tasks.

use std::{io, mem::MaybeUninit, os::fd::OwnedFd, sync::Arc, time::Instant};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown, SocketFlags, accept_with, recv, send, shutdown},
};
use tocsin_runtime::http::accept_failed;
use tokio::{io::unix::AsyncFd, net::TcpStream, time::sleep};
use tracing::warn;

use super::{
    connection::{Accepted, Server},
    connection_table::ConnectionTable,
    http1,
    listener_state::ListenerState,
};
use crate::serve::health::settings;

/// Accepts connections until `stop`, then drains: requests that are on their way are answered.
pub async fn run(listener: AsyncFd<OwnedFd>, server: Arc<Server>, mut table: ConnectionTable) {
    let mut stopping = std::pin::pin!(server.stop.requested());
    for turn in 1_u64.. {
        tokio::select! {
            biased;
            () = stopping.as_mut() => break,
            accepted = accept(&listener) => match accepted {
                Ok(socket) => admit(socket, &server, &mut table),
                Err(error) => accept_failed("health", &error).await,
            },
        }
        if turn.is_multiple_of(settings::ACCEPTS) {
            tokio::task::yield_now().await;
        }
    }
    // Connections that the kernel has accepted already are served.
    while let Ok(socket) = accept_now(&listener) {
        admit(socket, &server, &mut table);
    }
    drop(listener);
    drain(&server.state, &mut table).await;
}

/// Ends connections as they become idle, for [`settings::DRAIN`] at most.
async fn drain(state: &ListenerState, table: &mut ConnectionTable) {
    state.draining.begin();
    // A moment for requests that are on their way.
    sleep(settings::DRAIN_INTERVAL).await;
    let deadline = Instant::now() + settings::DRAIN;
    while table.end_idle() > 0 {
        if Instant::now() >= deadline {
            warn!(listener = "health", "connections did not end in time");
            return;
        }
        sleep(settings::DRAIN_INTERVAL).await;
    }
}

/// Waits for the next connection. It is not registered with epoll yet: many are over before that would pay.
async fn accept(listener: &AsyncFd<OwnedFd>) -> io::Result<OwnedFd> {
    loop {
        let mut ready = listener.readable().await?;
        match accept_now(listener) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            accepted => return accepted,
        }
    }
}

fn accept_now(listener: &AsyncFd<OwnedFd>) -> io::Result<OwnedFd> {
    Ok(accept_with(listener.get_ref(), SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?)
}

/// Serves a new connection: at once if that is possible, else as a task.
fn admit(socket: OwnedFd, server: &Arc<Server>, table: &mut ConnectionTable) {
    let Some(accepted) = serve_at_once(socket, &server.state) else { return };
    let slot = table.allocate();
    let weak = Arc::downgrade(&slot);
    let task = tokio::spawn(server.clone().serve(accepted, slot));
    table.insert(weak, task.abort_handle());
    server.state.trimmer.connection_opened();
}

/// Reads a new connection once. A client that is gone, or that sent one whole request and wants the connection closed
/// after it, is dealt with here, in five system calls: then there is nothing to return. A flood of such connections is
/// served as fast as the kernel accepts them.
///
/// The response waits for the end of the stream (`MSG_MORE`), so that both travel in one segment and wake up the client
/// once. It is `shutdown` that sends them: `close` would reset a connection whose client sent more than a request, and
/// the response would be lost.
fn serve_at_once(socket: OwnedFd, state: &ListenerState) -> Option<Accepted> {
    let mut space = [MaybeUninit::<u8>::uninit(); settings::HEADER_BYTES];
    let received = match recv(&socket, &mut space, RecvFlags::DONTWAIT) {
        Ok((([], _), _)) => return None,
        Ok(((received, _), _)) => &*received,
        Err(Errno::AGAIN) => &[],
        Err(_) => return None,
    };
    let mut unsent = Vec::new();
    if let Some(mut response) = http1::only_response(received, state) {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT | SendFlags::MORE;
        let sent = match send(&socket, &response, flags) {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => 0,
            Err(_) => return None,
        };
        response.drain(..sent);
        if response.is_empty() {
            // A client that has reset the connection meanwhile has no use for the response.
            let _gone = shutdown(&socket, Shutdown::Write);
            return None;
        }
        unsent = response;
    }
    let stream = std::net::TcpStream::from(socket);
    let stream = TcpStream::from_std(stream).inspect_err(|error| warn!(%error, "epoll")).ok()?;
    Some(Accepted { stream, received: received.to_vec(), unsent })
}
