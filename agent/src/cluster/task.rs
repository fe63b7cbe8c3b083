//! The task that publishes the [`NodeView`], and logs how it changes.

use std::{
    future,
    sync::Arc,
    time::{Instant, SystemTime},
};

use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};
use tracing::{info, warn};

use super::{
    api_state::{ApiStateTracker, Timestamp},
    session_event::SessionEvent,
    stats::ApiStats,
};
use crate::{
    checks::{OnApiLoss, Policy, node_verdicts},
    model::{ApiState, NodeView, Outcome},
};

/// Turns the session's events into the [`NodeView`]. It runs beside the listeners, so it also notices when the session's
/// thread is stuck.
#[derive(Debug)]
pub struct ClusterTask {
    tracker: ApiStateTracker,
    events: mpsc::Receiver<SessionEvent>,
    view: watch::Sender<Arc<NodeView>>,
    policy: Arc<Policy>,
    /// The outcomes of the Node's checks that were logged last.
    logged: Vec<(&'static str, Outcome)>,
    stats: Arc<ApiStats>,
}

impl ClusterTask {
    /// A task that reads the session's events, and the receiver of the view that it publishes.
    pub(super) fn new(
        events: mpsc::Receiver<SessionEvent>,
        policy: Arc<Policy>,
        stats: Arc<ApiStats>,
    ) -> (Self, watch::Receiver<Arc<NodeView>>) {
        let tracker = ApiStateTracker::new(now());
        let (view, published) = watch::channel(Arc::new(tracker.view().clone()));
        (Self { tracker, events, view, policy, logged: Vec::new(), stats }, published)
    }

    /// Waits until the API server has answered or is lost: [`API_GRACE`](super::settings::API_GRACE) at most.
    pub async fn first_answer(&mut self) {
        while self.tracker.view().api == ApiState::Pending && self.step().await {}
    }

    /// Follows the session; ends with an error when the session's thread ended.
    pub async fn run(mut self) -> anyhow::Error {
        while self.step().await {}
        anyhow::anyhow!("the thread that talks to the Kubernetes API ended")
    }

    /// Takes in one event, or the deadline by which none came; false when the session has ended.
    async fn step(&mut self) -> bool {
        let deadline = self.tracker.deadline();
        let silence = async {
            match deadline {
                Some(at) => sleep_until(at.into()).await,
                None => future::pending().await,
            }
        };
        tokio::select! {
            // An event that arrived in time counts, also where this task was late to read it.
            biased;
            event = self.events.recv() => match event {
                Some(event) => self.tracker.on_event(event, now()),
                None => return false,
            },
            () = silence => self.tracker.on_time(now()),
        }
        self.publish();
        true
    }

    fn publish(&mut self) {
        let (old, new) = (self.view.borrow().clone(), self.tracker.view().clone());
        if *old == new {
            return;
        }
        match (&old.api, &new.api) {
            (ApiState::Lost { .. }, ApiState::Lost { .. }) => {}
            (_, ApiState::Lost { error, .. }) => {
                self.stats.count_loss();
                // The beginning of this line and the first ending are those of harmony-node-readiness-endpoint, which
                // this agent replaces.
                let then = match self.policy.on_api_loss {
                    OnApiLoss::Open => "Assuming node is ready.",
                    OnApiLoss::LastKnown => "Keeping the last known state of the Node.",
                    OnApiLoss::Closed => "The checks of the Node fail.",
                };
                warn!("Kubernetes API appears to be down: {error}. {then}");
            }
            (ApiState::Lost { since, .. }, ApiState::Up) => {
                let seconds =
                    SystemTime::now().duration_since(*since).unwrap_or_default().as_secs();
                info!(seconds, "the Kubernetes API is back");
            }
            _ => {}
        }
        if new.api == ApiState::Up {
            self.log_verdicts();
        }
        self.view.send_replace(Arc::new(new));
    }

    /// Logs one line for each check of the Node whose verdict changed.
    fn log_verdicts(&mut self) {
        let Some(observation) = &self.tracker.view().last else { return };
        let verdicts = node_verdicts(observation, &self.policy);
        for (check, outcome) in &verdicts {
            let before = self.logged.iter().find(|(logged, _)| logged == check);
            match (before.map(|(_, outcome)| outcome), outcome) {
                (before, outcome) if before == Some(outcome) => {}
                (_, Outcome::Fail(reason)) => warn!(check, reason, "the Node fails a check"),
                (Some(Outcome::Fail(_)), _) => info!(check, "the Node passes a check again"),
                _ => {}
            }
        }
        self.logged = verdicts;
    }
}

fn now() -> Timestamp {
    Timestamp { monotonic: Instant::now(), wall: SystemTime::now() }
}
