//! A way to the API server that can be cut. TLS passes through it untouched.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::server::{free_port, loopback};
use super::{ControlPlane, keeper, lock};

/// As much as may be on its way when it is cut.
const BUFFER: usize = 16 * 1024;

/// A TCP forwarder in front of the API server; closed on drop.
pub struct Tunnel {
    cluster: ControlPlane,
    port: u16,
    mode: watch::Sender<Mode>,
    counters: Arc<Counters>,
    /// Holds the listener and all connections; none while it refuses them.
    open: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Passes,
    Holds,
    Refuses,
}

#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    open: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

impl Tunnel {
    pub(super) fn open(cluster: &ControlPlane) -> Self {
        let tunnel = Self {
            cluster: cluster.clone(),
            port: free_port(),
            mode: watch::Sender::new(Mode::Passes),
            counters: Arc::default(),
            open: Mutex::default(),
        };
        tunnel.pass();
        tunnel
    }

    /// `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// As [`ControlPlane::kubeconfig`], through here.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.cluster.kubeconfig_at(user, &self.url())
    }

    /// Everything passes, also what was held back.
    pub fn pass(&self) {
        let mut open = lock(&self.open);
        self.mode.send_replace(Mode::Passes);
        if open.is_none() {
            let listener = self.cluster.block_on(TcpListener::bind(self.address()));
            let listener = listener.expect("listen where it listened before");
            let (server, mode) = (self.cluster.api_address(), self.mode.subscribe());
            let forward = forward(listener, server, mode, Arc::clone(&self.counters));
            *open = Some(keeper::handle().spawn(forward));
        }
    }

    /// Nothing passes any more. Connections stay open, new ones are accepted: as when a firewall in
    /// between forgets them.
    pub fn blackhole(&self) {
        self.mode.send_replace(Mode::Holds);
    }

    /// All connections end, new ones are refused.
    pub fn refuse(&self) {
        let mut open = lock(&self.open);
        self.mode.send_replace(Mode::Refuses);
        if let Some(task) = open.take() {
            // Only then are the sockets closed.
            self.cluster.block_on(task).expect("an orderly end");
        }
    }

    /// How many connections there were.
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::Relaxed)
    }

    /// How many there are.
    pub fn open_connections(&self) -> u64 {
        self.counters.open.load(Ordering::Relaxed)
    }

    /// Bytes that went to the server.
    pub fn bytes_up(&self) -> u64 {
        self.counters.up.load(Ordering::Relaxed)
    }

    /// Bytes that came from the server.
    pub fn bytes_down(&self) -> u64 {
        self.counters.down.load(Ordering::Relaxed)
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.refuse();
    }
}

/// One that is open; counted as long as it is there, also when its task is aborted.
struct Open(Arc<Counters>);

impl Open {
    fn new(counters: &Arc<Counters>) -> Self {
        counters.connections.fetch_add(1, Ordering::Relaxed);
        counters.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counters))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn forward(
    listener: TcpListener,
    server: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    counters: Arc<Counters>,
) {
    let mut connections = JoinSet::new();
    loop {
        let client = tokio::select! {
            accepted = listener.accept() => accepted,
            () = until(&mut mode, Mode::Refuses) => break,
        };
        let Ok((client, _)) = client else { break };
        // The finished ones need no memory.
        while connections.try_join_next().is_some() {}
        let open = Open::new(&counters);
        connections.spawn(connect(client, server, mode.clone(), open));
    }
    drop(listener);
    connections.shutdown().await;
}

async fn connect(
    client: TcpStream,
    server: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    open: Open,
) {
    until(&mut mode, Mode::Passes).await;
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _slower = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = pump(from_client, to_server, mode.clone(), &open.0.up);
    let down = pump(from_server, to_client, mode, &open.0.down);
    tokio::join!(up, down);
}

async fn until(mode: &mut watch::Receiver<Mode>, wanted: Mode) {
    // The sender is there until all of this has ended.
    let _gone = mode.wait_for(|mode| *mode == wanted).await.is_err();
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut mode: watch::Receiver<Mode>,
    counter: &AtomicU64,
) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        // What was on its way when it was cut arrives afterwards, and so does an end.
        until(&mut mode, Mode::Passes).await;
        if read == 0 {
            let _closed_before = to.shutdown().await;
            return;
        }
        counter.fetch_add(read as u64, Ordering::Relaxed);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
