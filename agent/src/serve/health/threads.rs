//! The threads of the health listener. Each one serves connections of its own; all accept from the same two sockets.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    os::fd::OwnedFd,
    sync::Arc,
    thread,
    time::Instant,
};

use rustix::process::setpriority_process;
use tocsin_runtime::{fd, http::BACKLOG, tasks::Stop, tls::Acceptor};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::TcpListener,
    runtime::Runtime,
    sync::mpsc,
    task::JoinError,
};
use tracing::{debug, error};

use super::{
    accept,
    cache::ResponseCache,
    connection::Server,
    connection_table::ConnectionTable,
    counts::{ConnectionCounts, ResponseCounts},
    heap_trimmer::HeapTrimmer,
    http2_limits::Http2Limits,
    listener_state::{Draining, ListenerState},
    route::Router,
    sockets::{BoundSockets, defer_accept},
    tls_thread::TlsThread,
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
    /// How many threads.
    pub threads: usize,
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
        let count = settings.threads;
        let (ends, ended) = mpsc::channel(count + 1);
        let shared = Shared::new(settings, count, stop, ends)?;
        let listeners = Listeners::listen(sockets)?;
        for number in 0..count {
            shared.start_thread(number, listeners.share()?)?;
        }
        let Listeners { health, agent_check } = listeners;
        Ok(Self { ended, health: health.local_addr()?, agent_check: agent_check.local_addr()? })
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
    /// Connections of one thread, at most.
    connections: usize,
    began: Instant,
    http2: Arc<Http2Limits>,
    trimmer: Arc<HeapTrimmer>,
    draining: Arc<Draining>,
    tls: Option<TlsThread>,
    stop: Stop,
    ends: mpsc::Sender<()>,
}

impl Shared {
    /// Starts the thread of TLS, where that is configured.
    fn new(
        settings: &Settings,
        threads: usize,
        stop: &Stop,
        ends: mpsc::Sender<()>,
    ) -> io::Result<Self> {
        let mut shared = Self {
            settings: settings.clone(),
            connections: settings.connections.div_ceil(threads),
            began: Instant::now(),
            http2: Arc::default(),
            trimmer: Arc::new(HeapTrimmer::new(settings.counts.clone())),
            draining: Arc::default(),
            tls: None,
            stop: stop.clone(),
            ends,
        };
        if let Some(acceptor) = settings.tls.clone() {
            let (state, stop, ends) = (shared.state(), shared.stop.clone(), shared.ends.clone());
            let on_end = move || tell_end(&ends);
            let tls = TlsThread::start(acceptor, state, stop, raise_priority, on_end)?;
            shared.tls = Some(tls);
        }
        Ok(shared)
    }

    fn start_thread(&self, number: usize, listeners: Listeners) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (health, agent_check) = listeners.watch(&runtime)?;
        let (tls, stop) = (self.tls.clone(), self.stop.clone());
        let server = Arc::new(Server { state: self.state(), tls, stop });
        let table =
            ConnectionTable::new(self.connections, self.began, self.settings.counts.clone());
        let serve = serve(
            accept::run(health, server, table),
            agent_check::run(agent_check, self.settings.agent_check.clone(), self.stop.clone()),
        );
        let ends = self.ends.clone();
        thread::Builder::new().name(format!("tocsin-health{number}")).spawn(move || {
            raise_priority();
            if let Err(panicked) = runtime.block_on(serve) {
                error!(error = %panicked, "the health listener");
            }
            tell_end(&ends);
        })?;
        Ok(())
    }

    /// The state of one thread.
    fn state(&self) -> Arc<ListenerState> {
        Arc::new(ListenerState {
            cache: ResponseCache::new(self.settings.router.clone()),
            responses: self.settings.responses.clone(),
            http2: self.http2.clone(),
            trimmer: self.trimmer.clone(),
            draining: self.draining.clone(),
        })
    }
}

/// Raises the priority of the current thread: a busy host is still one to send traffic to, and its responses must not
/// come too late. Without the right to do so, the thread runs like any other.
fn raise_priority() {
    let _unprivileged = setpriority_process(None, settings::HEALTH_NICE);
}

fn tell_end(ends: &mpsc::Sender<()>) {
    let _agent_is_gone = ends.try_send(());
}

/// The two listening sockets, or a thread's descriptors of them. Each new connection wakes every thread that waits, and
/// the first one gets it: with two threads that costs less than handing connections over.
struct Listeners {
    health: StdListener,
    agent_check: StdListener,
}

impl Listeners {
    /// Listens on both sockets.
    fn listen(BoundSockets { health, agent_check }: BoundSockets) -> io::Result<Self> {
        if let Err(error) = defer_accept(&health) {
            debug!(%error, "connections are accepted before their first byte");
        }
        let health = health.listen(BACKLOG)?.into_std()?;
        Ok(Self { health, agent_check: agent_check.listen(BACKLOG)?.into_std()? })
    }

    /// Descriptors of the same sockets, for a thread.
    fn share(&self) -> io::Result<Self> {
        Ok(Self { health: self.health.try_clone()?, agent_check: self.agent_check.try_clone()? })
    }

    /// Waits for connections in a thread's runtime.
    fn watch(self, runtime: &Runtime) -> io::Result<(AsyncFd<OwnedFd>, TcpListener)> {
        let _reactor = runtime.enter();
        let health = fd::watch(OwnedFd::from(self.health), Interest::READABLE)?;
        Ok((health, TcpListener::from_std(self.agent_check)?))
    }
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
