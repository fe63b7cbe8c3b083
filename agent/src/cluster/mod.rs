//! The cluster side: reads this node's Node object, and publishes the kernel's faults in it.
//!
//! [`session`] keeps one watch on the own Node and sends [`SessionEvent`]s; [`ClusterTask`] makes the [`NodeView`] of
//! them, by the pure [`api_state`]. With `PUBLISH_CONDITIONS`, [`publish`] writes conditions and events. What talks to
//! the API server runs on a thread of its own, so that a slow resolver, a login plugin or a TLS handshake never delays
//! an answer of the health port; what decides runs beside the listeners.

pub mod api_state;
pub mod condition_hint;
pub mod condition_state;
pub mod conditions;
pub mod event_recorder;
mod node_object;
mod node_watch;
pub mod publish;
mod request;
pub mod session;
pub mod session_event;
pub mod settings;
pub mod stats;
mod task;
mod write_backoff;
mod writer;

use std::{fmt, future, io, pin::Pin, sync::Arc, thread};

use kube::Client;
use tocsin_runtime::kube::ClusterSource;
use tokio::sync::{mpsc, watch};

pub use self::{publish::FaultFeed, session_event::SessionEvent, task::ClusterTask};
use self::{
    publish::{Publisher, SessionFeed},
    session::Session,
    stats::ApiStats,
};
use crate::{checks::Policy, model::NodeView};

/// 4 threads for names that are being resolved, which may take longer than anything waits for them.
const RESOLVER_THREADS: usize = 4;

/// What the cluster side needs.
#[derive(Debug)]
pub struct Options {
    /// Where the cluster is, and the credentials for it.
    pub source: ClusterSource,
    /// The name of the own Node.
    pub node_name: String,
    /// The policy of the checks.
    pub policy: Arc<Policy>,
    /// The faults to publish in the cluster; none if it shall only be read.
    pub publish: Option<FaultFeed>,
    /// The counters to count in.
    pub stats: Arc<ApiStats>,
    /// What else talks to the API server.
    pub beside: Option<Beside>,
}

/// What runs beside the session, on its thread and with its client: none while the API server cannot be reached. The
/// same client is told again whenever the session renews its watch.
pub struct Beside(Box<dyn FnOnce(watch::Receiver<Option<Client>>) -> BesideTask + Send>);

/// A task that ends with the session.
pub type BesideTask = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Beside {
    /// What makes the task from the session's client.
    pub fn new(
        task: impl FnOnce(watch::Receiver<Option<Client>>) -> BesideTask + Send + 'static,
    ) -> Self {
        Self(Box::new(task))
    }
}

impl fmt::Debug for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Beside")
    }
}

/// Starts the thread that talks to the API server; gives the task that follows it, and the view that the task publishes.
pub fn start(options: Options) -> io::Result<(ClusterTask, watch::Receiver<Arc<NodeView>>)> {
    let Options { source, node_name, policy, publish, stats, beside } = options;
    let (events, received) = mpsc::channel(settings::SESSION_EVENTS);
    let (client, clients) = watch::channel(None);
    let (task, view) = ClusterTask::new(received, policy.clone(), stats.clone());
    let session = Session::new(source, node_name.clone(), events, client, stats.clone());
    let beside = beside.map(|beside| beside.0(clients.clone()));
    let feed = SessionFeed { node: view.clone(), client: clients };
    let publish = async move {
        match publish {
            Some(faults) => Publisher::new(node_name, policy, faults, feed, stats).run().await,
            None => future::pending().await,
        }
    };
    let beside = async move {
        if let Some(task) = beside {
            task.await;
        }
        future::pending::<()>().await;
    };
    let all = async move {
        tokio::select! {
            () = session.run() => {}
            () = publish => {}
            () = beside => {}
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(RESOLVER_THREADS)
        .build()?;
    thread::Builder::new().name("tocsin-cluster".to_owned()).spawn(move || {
        runtime.block_on(all);
        runtime.shutdown_background();
    })?;
    Ok((task, view))
}

/// The view of an agent without a cluster.
#[must_use]
pub fn not_configured() -> watch::Receiver<Arc<NodeView>> {
    watch::channel(Arc::default()).1
}
