//! Tells the cluster what the kernel says: three conditions of the Node, and events about it.
//!
//! The conditions are a level: whatever the Node says is compared with what it should say, so a restart, a missed
//! write or somebody else's write heals. At most one write of them a second, and one of each kind of event, with backoff
//! while writes fail.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use k8s_openapi::api::events;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tocsin_runtime::jitter;
use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};
use tracing::{info, warn};

use super::{
    conditions::{Book, Due, wanted},
    events::{Event, Journal},
    session::nodes,
    stats::ApiStats,
};
use crate::{
    checks::{CheckContext, Policy},
    cluster::settings,
    model::{ApiState, Condition, FaultView, Node, NodeView},
};

/// The name under which fields are owned and events reported.
pub const MANAGER: &str = "tocsin";
/// Events about a Node, which has no namespace, are in this one: kubelet's are too.
const NAMESPACE: &str = "default";

/// The task.
pub struct Publisher {
    node_name: String,
    policy: Arc<Policy>,
    faults: watch::Receiver<Arc<FaultView>>,
    node: watch::Receiver<Arc<NodeView>>,
    clients: watch::Receiver<Option<Client>>,
    stats: Arc<ApiStats>,
    book: Book,
    journal: Journal,
    /// Writes of conditions, and of events: neither waits for the other.
    conditions: Lane,
    events: Lane,
}

/// When the next write may be.
#[derive(Debug)]
struct Lane {
    what: &'static str,
    earliest: Instant,
    /// Writes that failed in a row.
    failures: u32,
}

impl Lane {
    fn new(what: &'static str) -> Self {
        Self { what, earliest: Instant::now(), failures: 0 }
    }

    /// A write ended.
    fn wrote(&mut self, result: Result<(), &Failed>) {
        let what = self.what;
        match result {
            Ok(()) => {
                if self.failures > 0 {
                    info!("{what} can be written again");
                }
                self.failures = 0;
            }
            Err(Failed { why, .. }) => {
                if self.failures == 0 {
                    warn!("{what} cannot be written, and will be tried again: {why}");
                }
                self.failures = self.failures.saturating_add(1);
            }
        }
        self.earliest = Instant::now() + self.pause();
    }

    fn pause(&self) -> Duration {
        if self.failures == 0 {
            return settings::PUBLISH_INTERVAL;
        }
        let backoff = settings::PUBLISH_INTERVAL * 2_u32.pow((self.failures - 1).min(5));
        backoff.min(settings::PUBLISH_RETRY_MAX) + jitter::up_to(settings::API_JITTER)
    }
}

impl Publisher {
    /// A publisher of what `faults` says, through the latest of `clients`.
    #[must_use]
    pub fn new(
        node_name: String,
        policy: Arc<Policy>,
        faults: watch::Receiver<Arc<FaultView>>,
        node: watch::Receiver<Arc<NodeView>>,
        clients: watch::Receiver<Option<Client>>,
        stats: Arc<ApiStats>,
    ) -> Self {
        Self {
            node_name,
            policy,
            faults,
            node,
            clients,
            stats,
            book: Book::new(),
            journal: Journal::default(),
            conditions: Lane::new("the Node's conditions"),
            events: Lane::new("events"),
        }
    }

    /// Writes what is due until nobody tells it anything any more.
    pub async fn run(mut self) {
        loop {
            let wake = self.turn().await;
            tokio::select! {
                changed = self.faults.changed() => if changed.is_err() { return },
                changed = self.node.changed() => if changed.is_err() { return },
                changed = self.clients.changed() => if changed.is_err() { return },
                () = sleep_until(wake.into()) => {}
            }
        }
    }

    /// Writes what is due; tells when to look again.
    async fn turn(&mut self) -> Instant {
        let faults = self.faults.borrow_and_update().clone();
        let view = self.node.borrow_and_update().clone();
        let client = self.clients.borrow_and_update().clone();
        // Seen at every change, not at every write: a fault that is over before the next write is told all the same.
        self.journal.see(&faults.faults);
        let node = match (&view.api, &view.last) {
            (ApiState::Up, Some(word)) => word.node.as_ref(),
            _ => None,
        };
        let (Some(client), Some(node)) = (client, node) else {
            // Woken by whoever brings it.
            return Instant::now() + settings::PUBLISH_HEARTBEAT;
        };
        // The conditions rest on the kernel side alone.
        let context = CheckContext::new(self.policy.clone(), Instant::now());
        let wanted = wanted(&CheckContext { kernel: faults.clone(), ..context });
        let due = self.book.due(&wanted, node, Instant::now(), SystemTime::now());
        let again = match due {
            Due::At(at) => at,
            Due::Write(_) if Instant::now() < self.conditions.earliest => self.conditions.earliest,
            Due::Write(conditions) => {
                let result = bounded(self.write_conditions(&client, &conditions)).await;
                if result.is_ok() {
                    self.book.wrote(&wanted, Instant::now());
                }
                self.stats.wrote_conditions(result.is_ok());
                self.conditions.wrote(result.as_ref().map(drop));
                self.conditions.earliest
            }
        };
        if self.journal.next(Instant::now()).is_none() {
            return again;
        }
        if Instant::now() >= self.events.earliest {
            self.write_events(&client, node).await;
        }
        if self.journal.next(Instant::now()).is_none() {
            again
        } else {
            again.min(self.events.earliest)
        }
    }

    /// Everything that waits, which is one event for each kind of fault and direction at most.
    async fn write_events(&mut self, client: &Client, node: &Node) {
        while let Some(event) = self.journal.next(Instant::now()) {
            let result = bounded(self.write_event(client, node, &event)).await;
            self.stats.wrote_event(result.is_ok());
            self.events.wrote(result.as_ref().map(drop));
            match (result, &event.series) {
                (Ok(name), _) => self.journal.wrote(&event, name, Instant::now()),
                // An event lives for an hour, and may not be ours to change: then it is a new one.
                (Err(Failed { is_refused: true, .. }), Some((name, _))) => {
                    self.journal.forget(name);
                    return;
                }
                // Others first, then.
                (Err(_), _) => return self.journal.postpone(&event),
            }
        }
    }

    async fn write_conditions(
        &self,
        client: &Client,
        conditions: &[Condition],
    ) -> kube::Result<()> {
        let patch = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": self.node_name },
            "status": { "conditions": conditions },
        });
        // Forced: a condition that another manager (an earlier version's, or node-problem-detector's) owned is ours now.
        let params = PatchParams::apply(MANAGER).force();
        let (nodes, patch) = (nodes(client.clone()), Patch::Apply(&patch));
        nodes.patch_status(&self.node_name, &params, &patch).await.map(drop)
    }

    /// The name of the event.
    async fn write_event(
        &self,
        client: &Client,
        node: &Node,
        event: &Event,
    ) -> kube::Result<String> {
        let resource = ApiResource::erase::<events::v1::Event>(&());
        let events: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
        let time = SystemTime::now();
        let now = humantime::format_rfc3339_micros(time).to_string();
        if let Some((name, count)) = &event.series {
            let series = json!({ "series": { "count": count, "lastObservedTime": now } });
            events.patch(name, &PatchParams::default(), &Patch::Merge(&series)).await?;
            return Ok(name.clone());
        }
        let nanos = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        // The API takes 253 characters, which a node's name alone may have.
        let node_part: String = self.node_name.chars().take(230).collect();
        let name = format!("{}.{nanos:x}", node_part.trim_end_matches(['-', '.']));
        let object = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": { "name": name, "namespace": NAMESPACE },
            "eventTime": now,
            "reportingController": MANAGER,
            // The API takes 128 characters, a node's name may have 253.
            "reportingInstance": self.node_name.chars().take(128).collect::<String>(),
            "action": if event.opened { "FaultOpened" } else { "FaultClosed" },
            "reason": event.reason,
            "type": if event.opened { "Warning" } else { "Normal" },
            "note": event.note,
            "regarding": {
                "apiVersion": "v1",
                "kind": "Node",
                "name": self.node_name,
                "uid": node.uid,
            },
        });
        let event = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
        events.create(&PostParams::default(), &event).await?;
        Ok(name)
    }
}

async fn bounded<T>(write: impl Future<Output = kube::Result<T>>) -> Result<T, Failed> {
    match timeout(settings::API_CONNECT_TIMEOUT + settings::API_READ_TIMEOUT, write).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            let code = if let kube::Error::Api(status) = &error { status.code } else { 0 };
            Err(Failed { why: error.to_string(), is_refused: matches!(code, 403 | 404) })
        }
        Err(_) => Err(Failed { why: "no answer in time".to_owned(), is_refused: false }),
    }
}

/// A write that did not work.
struct Failed {
    why: String,
    /// What it was to change is not there, or may not be changed.
    is_refused: bool,
}
