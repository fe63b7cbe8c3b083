//! The thread that serves TLS connections. A handshake takes about a millisecond of a processor: a flood of handshakes
//! delays each other, and no plain request.

use std::{io, sync::Arc, thread};

use tocsin_runtime::{tasks::Stop, tls::Acceptor};
use tokio::{
    net::TcpStream,
    runtime::{self, Handle},
    sync::mpsc,
    task::JoinSet,
};
use tracing::{debug, warn};

use super::{
    connection_slot::ConnectionSlot,
    http1::{self, Ended, Transport},
    http2,
    listener_state::ListenerState,
    prefixed_stream::PrefixedStream,
};
use crate::serve::health::settings;

/// The thread that serves TLS connections, for the threads that accept them. It ends when the last clone is dropped.
#[derive(Clone)]
pub struct TlsThread {
    runtime: Handle,
    service: Arc<TlsService>,
    _in_use: mpsc::Sender<()>,
}

/// What TLS connections are served with.
struct TlsService {
    acceptor: Acceptor,
    state: Arc<ListenerState>,
    stop: Stop,
}

impl TlsThread {
    /// Starts the thread. `on_thread` runs on it first; `on_end` when it ends.
    pub fn start(
        acceptor: Acceptor,
        state: Arc<ListenerState>,
        stop: Stop,
        on_thread: impl FnOnce() + Send + 'static,
        on_end: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (in_use, mut used) = mpsc::channel(1);
        thread::Builder::new().name("tocsin-tls".to_owned()).spawn(move || {
            on_thread();
            // Nothing is ever sent: this is the end of the last sender.
            let _no_sender = runtime.block_on(used.recv());
            on_end();
        })?;
        let service = Arc::new(TlsService { acceptor, state, stop });
        Ok(Self { runtime: handle, service, _in_use: in_use })
    }

    /// Serves a connection until it ends. `received` was read from it already.
    pub async fn serve(&self, stream: TcpStream, received: Vec<u8>, slot: Arc<ConnectionSlot>) {
        // Each runtime has an epoll set of its own.
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => return warn!(%error, "epoll"),
        };
        // The connection table knows the task that is here: when that is aborted, the set aborts the one that is there.
        let mut task = JoinSet::new();
        task.spawn_on(
            serve_connection(self.service.clone(), stream, received, slot),
            &self.runtime,
        );
        let _ended = task.join_next().await;
    }
}

async fn serve_connection(
    service: Arc<TlsService>,
    stream: std::net::TcpStream,
    received: Vec<u8>,
    slot: Arc<ConnectionSlot>,
) {
    let TlsService { acceptor, state, stop } = &*service;
    let stream = match TcpStream::from_std(stream) {
        Ok(stream) => PrefixedStream::new(received, stream),
        Err(error) => return warn!(%error, "epoll"),
    };
    let stream = match acceptor.accept(stream, settings::HEADER_TIMEOUT).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return slot.timed_out(),
        Err(error) => return debug!(%error, "no TLS"),
    };
    let ended = http1::serve_connection(stream, Vec::new(), Transport::Tls, &slot, state).await;
    if let Ended::IsHttp2(stream, received) = ended {
        let stream = PrefixedStream::new(received, stream);
        http2::serve_connection(stream, slot, state.clone(), stop.clone()).await;
    }
}
