//! The threads of the health listener. Each one serves connections of its own, on its own sockets.

use std::{io, net::SocketAddr, os::fd::OwnedFd, sync::Arc, thread, time::Instant};

use rustix::process::setpriority_process;
use tocsin_runtime::{fd, http::BACKLOG, tasks::Stop, tls::Acceptor};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::{TcpListener, TcpSocket},
    runtime::Runtime,
    sync::mpsc,
    task::JoinError,
};
use tracing::{debug, error};

use super::{
    accept,
    cache::ResponseCache,
    connection_table::ConnectionTable,
    counts::{ConnectionCounts, ResponseCounts},
    heap_trimmer::HeapTrimmer,
    http2_limits::Http2Limits,
    listener_state::{Draining, ListenerState},
    route::Router,
    sockets::{BoundSockets, defer_accept},
};
use crate::serve::{
    agent_check::{self, AgentCheck},
    health::settings,
};

/// What the health listener serves, and how.
#[derive(Clone)]
pub struct Settings {
    /// The routes.
    pub router: Router,
    /// Connections of all threads, at most.
    pub connections: usize,
    /// TLS, beside plain text on the same port.
    pub tls: Option<Acceptor>,
    /// Counts connections.
    pub counts: Arc<ConnectionCounts>,
    /// Counts responses.
    pub responses: Arc<ResponseCounts>,
    /// `HAProxy`'s agent-check, on the other port.
    pub agent_check: Arc<AgentCheck>,
}

/// The threads that serve both ports.
#[derive(Debug)]
pub struct Threads {
    /// Gets a message from every thread that ends.
    ended: mpsc::Receiver<()>,
    /// The address of the health listener.
    pub health: SocketAddr,
    /// The address of the agent-check.
    pub agent_check: SocketAddr,
}

impl Threads {
    /// Listens, and starts the threads; they serve until `stop`.
    pub fn start(sockets: BoundSockets, settings: &Settings, stop: &Stop) -> io::Result<Self> {
        let BoundSockets { health, agent_check } = sockets;
        let (health_addr, agent_check_addr) = match (health.first(), agent_check.first()) {
            (Some(health), Some(agent_check)) => (health.local_addr()?, agent_check.local_addr()?),
            _ => return Err(io::Error::other("no thread for the health listener")),
        };
        let count = health.len();
        let (ends, ended) = mpsc::channel(count);
        let shared = Shared {
            settings: settings.clone(),
            threads: count,
            began: Instant::now(),
            http2: Arc::default(),
            stop: stop.clone(),
            ends,
        };
        for (number, (health, agent_check)) in health.into_iter().zip(agent_check).enumerate() {
            shared.start_thread(number, health, agent_check)?;
        }
        Ok(Self { ended, health: health_addr, agent_check: agent_check_addr })
    }

    /// Completes when one of the threads ends; after `stop`, when all of them have ended.
    pub async fn run(mut self, stop: Stop) {
        let _one_ended = self.ended.recv().await;
        if stop.is_requested() {
            while self.ended.recv().await.is_some() {}
        }
    }
}

/// What all threads share.
struct Shared {
    settings: Settings,
    threads: usize,
    began: Instant,
    http2: Arc<Http2Limits>,
    stop: Stop,
    ends: mpsc::Sender<()>,
}

impl Shared {
    fn start_thread(
        &self,
        number: usize,
        health: TcpSocket,
        agent_check: TcpSocket,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (health, agent_check) = listen(&runtime, health, agent_check)?;
        let (state, table) = self.state();
        let serve = serve(
            accept::run(health, state, table, self.stop.clone()),
            agent_check::run(agent_check, self.settings.agent_check.clone(), self.stop.clone()),
        );
        let ends = self.ends.clone();
        thread::Builder::new().name(format!("tocsin-health{number}")).spawn(move || {
            // A busy host is still one to send traffic to: its responses must not come too late. Without the right to
            // raise its priority, the thread runs like any other.
            let _unprivileged = setpriority_process(None, settings::HEALTH_NICE);
            if let Err(panicked) = runtime.block_on(serve) {
                error!(error = %panicked, "the health listener");
            }
            let _agent_is_gone = ends.try_send(());
        })?;
        Ok(())
    }

    /// The state and the connection table of one thread.
    fn state(&self) -> (Arc<ListenerState>, ConnectionTable) {
        let Settings { router, connections, tls, counts, responses, agent_check: _ } =
            self.settings.clone();
        let table = ConnectionTable::new(connections.div_ceil(self.threads), self.began, counts);
        let state = ListenerState {
            cache: ResponseCache::new(router),
            responses,
            http2: self.http2.clone(),
            tls,
            trimmer: Arc::new(HeapTrimmer::new(table.open())),
            draining: Draining::default(),
        };
        (Arc::new(state), table)
    }
}

/// Listens on both sockets, in the thread's runtime.
fn listen(
    runtime: &Runtime,
    health: TcpSocket,
    agent_check: TcpSocket,
) -> io::Result<(AsyncFd<OwnedFd>, TcpListener)> {
    if let Err(error) = defer_accept(&health) {
        debug!(%error, "connections are accepted before their first byte");
    }
    let _reactor = runtime.enter();
    let health = OwnedFd::from(health.listen(BACKLOG)?.into_std()?);
    Ok((fd::watch(health, Interest::READABLE)?, agent_check.listen(BACKLOG)?))
}

/// Runs both listeners of a thread until the health listener ends, or either of them panics.
async fn serve(
    health: impl Future<Output = ()> + Send + 'static,
    agent_check: impl Future<Output = ()> + Send + 'static,
) -> Result<(), JoinError> {
    // As tasks among the others: a future that is polled beside them would have its turn before all of them.
    let agent_check = tokio::spawn(agent_check);
    let mut health = tokio::spawn(health);
    tokio::select! {
        ended = &mut health => ended,
        ended = agent_check => match ended {
            // At a stop.
            Ok(()) => health.await,
            panicked => panicked,
        },
    }
}
