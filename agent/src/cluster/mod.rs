//! The cluster side: what Kubernetes says about this node, and what we tell it.
//!
//! [`session`] keeps one watch on the own Node and sends [`News`] of it; [`State`](link::State) is the pure state behind
//! the [`NodeView`]; [`publish`] writes the kernel's faults into the Node's status. Everything that talks runs on a
//! thread of its own, so that a slow resolver, a login plugin or a TLS handshake never delays an answer; what decides
//! runs beside the listeners.

pub mod conditions;
pub mod events;
pub mod link;
pub mod publish;
pub mod session;
pub mod settings;
pub mod stats;

use std::{
    future, io,
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Instant, SystemTime},
};

use tocsin_runtime::kube::ClusterSource;
use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};
use tracing::{info, warn};

use self::{
    link::{News, Now, State},
    publish::Publisher,
    session::Session,
    stats::ApiStats,
};
use crate::{
    checks::{OnApiLoss, Policy, node_verdicts},
    model::{ApiState, FaultView, NodeView, Outcome},
};

/// News that wait for the task beside the listeners, which has nothing else to do.
const NEWS: usize = 16;

/// The task that turns news into the [`NodeView`].
#[derive(Debug)]
pub struct Cluster {
    state: State,
    news: mpsc::Receiver<News>,
    view: watch::Sender<Arc<NodeView>>,
    policy: Arc<Policy>,
    /// What the log says of the Node's checks.
    told: Vec<(&'static str, Outcome)>,
    stats: Arc<ApiStats>,
}

/// What the thread that talks needs.
#[derive(Debug)]
pub struct Start {
    /// Where the cluster is.
    pub source: ClusterSource,
    /// The Node's name.
    pub node_name: String,
    /// What the checks go by.
    pub policy: Arc<Policy>,
    /// The open faults, if the cluster is to be told of them. What is in it before its first change is not told.
    pub publish: Option<watch::Receiver<Arc<FaultView>>>,
    /// Where to count.
    pub stats: Arc<ApiStats>,
}

impl Cluster {
    /// Starts the thread that talks.
    pub fn start(start: Start) -> io::Result<(Self, watch::Receiver<Arc<NodeView>>)> {
        let Start { source, node_name, policy, publish, stats } = start;
        let state = State::new(now());
        let (news, heard) = mpsc::channel(NEWS);
        let (view, viewed) = watch::channel(Arc::new(state.view().clone()));
        let (client, clients) = watch::channel(None);
        let judged = policy.clone();
        let session = Session {
            source,
            node_name: node_name.clone(),
            news,
            client,
            stats: stats.clone(),
            without_http2: AtomicBool::new(false),
        };
        let (to_tell, shown) = (stats.clone(), viewed.clone());
        let publish = async move {
            let Some(mut faults) = publish else { return future::pending().await };
            // Without its sender the agent did not get through its start.
            if faults.changed().await.is_ok() {
                Publisher::new(node_name, policy, faults, shown, clients, to_tell).run().await;
            }
        };
        // Threads for names that are being resolved: the answer may take longer than anybody waits for it.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(4)
            .build()?;
        let talk = async move {
            tokio::select! {
                () = session.run() => {}
                () = publish => {}
            }
        };
        thread::Builder::new().name("tocsin-cluster".to_owned()).spawn(move || {
            runtime.block_on(talk);
            runtime.shutdown_background();
        })?;
        Ok((Self { state, news: heard, view, policy: judged, told: Vec::new(), stats }, viewed))
    }

    /// Waits until the API server has said something, or is lost: [`settings::API_GRACE`] at most.
    pub async fn first_word(&mut self) {
        while self.state.view().api == ApiState::Pending && self.step().await {}
    }

    /// Follows the news; ends when the thread that talks did.
    pub async fn run(mut self) -> anyhow::Error {
        while self.step().await {}
        anyhow::anyhow!("the thread that talks to the Kubernetes API ended")
    }

    /// One piece of news, or the moment when the lack of news is news.
    async fn step(&mut self) -> bool {
        let deadline = self.state.deadline();
        let silence = async {
            match deadline {
                Some(at) => sleep_until(at.into()).await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            // What was said in time counts, also where this task was late to hear it.
            biased;
            news = self.news.recv() => match news {
                Some(news) => self.state.hear(news, now()),
                None => return false,
            },
            () = silence => self.state.pass(now()),
        }
        self.publish();
        true
    }

    /// One line in the log for each check of the Node that changes its verdict.
    fn tell_changes(&mut self) {
        let Some(word) = &self.state.view().last else { return };
        let now = node_verdicts(word, &self.policy);
        for (check, outcome) in &now {
            let before =
                self.told.iter().find(|(told, _)| told == check).map(|(_, outcome)| outcome);
            match (before, outcome) {
                (before, outcome) if before == Some(outcome) => {}
                (_, Outcome::Fail(reason)) => warn!(check, reason, "the Node fails a check"),
                (Some(Outcome::Fail(_)), _) => info!(check, "the Node passes a check again"),
                _ => {}
            }
        }
        self.told = now;
    }

    fn publish(&mut self) {
        let (old, new) = (self.view.borrow().clone(), self.state.view().clone());
        if *old == new {
            return;
        }
        match (&old.api, &new.api) {
            (ApiState::Lost { .. }, ApiState::Lost { .. }) => {}
            (_, ApiState::Lost { error, .. }) => {
                self.stats.lost();
                // The beginning and the first ending are those of the readiness endpoint which this replaces.
                let then = match self.policy.on_api_loss {
                    OnApiLoss::Open => "Assuming node is ready.",
                    OnApiLoss::LastKnown => "Keeping to what it said last.",
                    OnApiLoss::Closed => "The checks of the Node fail.",
                };
                warn!("Kubernetes API appears to be down: {error}. {then}");
            }
            (ApiState::Lost { since, .. }, ApiState::Up) => {
                let seconds =
                    SystemTime::now().duration_since(*since).unwrap_or_default().as_secs();
                info!(seconds, "the Kubernetes API is heard again");
            }
            _ => {}
        }
        if new.api == ApiState::Up {
            self.tell_changes();
        }
        self.view.send_replace(Arc::new(new));
    }
}

fn now() -> Now {
    Now { monotonic: Instant::now(), wall: SystemTime::now() }
}

/// The view of an agent without a cluster.
#[must_use]
pub fn none() -> watch::Receiver<Arc<NodeView>> {
    watch::channel(Arc::default()).1
}
