//! A TCP proxy in front of the API server that can be cut, as toxiproxy is. TLS passes through it untouched.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::control_plane::ControlPlane;
use super::runtime;
use super::server::{free_port, loopback};
use crate::sync::lock;

/// As many bytes as may be on their way when it is cut.
const BUFFER: usize = 16 * 1024;

/// A TCP proxy in front of the API server; closed on drop.
pub struct TcpProxy {
    cluster: ControlPlane,
    port: u16,
    mode: watch::Sender<Mode>,
    counters: Arc<Counters>,
    /// The task that has the listener and all connections; none while connections are refused.
    open: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Bytes go through.
    Passes,
    /// Bytes stay here, and connections stay open.
    Holds,
    /// There are no connections, and no listener.
    Refuses,
}

#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    open: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
}

impl ControlPlane {
    /// A proxy in front of the API server that can be cut.
    pub fn proxy(&self) -> TcpProxy {
        TcpProxy::open(self)
    }
}

impl TcpProxy {
    fn open(cluster: &ControlPlane) -> Self {
        let proxy = Self {
            cluster: cluster.clone(),
            port: free_port(),
            mode: watch::Sender::new(Mode::Passes),
            counters: Arc::default(),
            open: Mutex::default(),
        };
        proxy.pass();
        proxy
    }

    /// `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address())
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// A kubeconfig file as [`ControlPlane::kubeconfig`] has, whose requests go through here.
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.cluster.kubeconfig_at(user, &self.url())
    }

    /// Lets everything pass, also what was held back.
    pub fn pass(&self) {
        let mut open = lock(&self.open);
        self.mode.send_replace(Mode::Passes);
        if open.is_none() {
            let listener = self.cluster.block_on(TcpListener::bind(self.address()));
            let listener = listener.expect("listen where it listened before");
            let (server, mode) = (self.cluster.api_address(), self.mode.subscribe());
            let forward = forward(listener, server, mode, Arc::clone(&self.counters));
            *open = Some(runtime::handle().spawn(forward));
        }
    }

    /// Lets nothing pass any more. Connections stay open and new ones are accepted, as behind a firewall that has
    /// forgotten them.
    pub fn blackhole(&self) {
        self.mode.send_replace(Mode::Holds);
    }

    /// Ends all connections, and refuses new ones.
    pub fn refuse(&self) {
        let mut open = lock(&self.open);
        self.mode.send_replace(Mode::Refuses);
        if let Some(task) = open.take() {
            // The sockets are closed when the task has ended.
            self.cluster.block_on(task).expect("an orderly end");
        }
    }

    /// Connections so far.
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::Relaxed)
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> u64 {
        self.counters.open.load(Ordering::Relaxed)
    }

    /// Bytes that went to the server so far.
    pub fn bytes_up(&self) -> u64 {
        self.counters.up.load(Ordering::Relaxed)
    }

    /// Bytes that came from the server so far.
    pub fn bytes_down(&self) -> u64 {
        self.counters.down.load(Ordering::Relaxed)
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        self.refuse();
    }
}

/// Counts a connection as open while it exists, also when its task is aborted.
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
        // Frees those that have ended.
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
    // The sender lives until all of this has ended.
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
        // What was on its way when the proxy was cut arrives afterwards, also the end of a connection.
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
