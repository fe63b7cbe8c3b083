//! Tells the cluster what the kernel says: three conditions of the Node, and events about it.
//!
//! The conditions are a level: whatever the Node says is compared with what it should say, so a restart, a missed
//! write or somebody else's write heals. At most one write a second, with backoff while writes fail.

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
use tokio::{
    sync::watch,
    time::{sleep_until, timeout},
};
use tracing::{info, warn};

use super::{
    conditions::{Book, Due, wanted},
    events::{Event, Journal},
    jitter,
    session::nodes,
    stats::ApiStats,
};
use crate::{
    checks::{Known, Policy},
    config,
    model::{Condition, FaultView, Link, Node, NodeView},
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
    /// When the next write may be.
    earliest: Instant,
    /// Writes that failed in a row.
    failures: u32,
}

/// What is to be written.
enum Write {
    Conditions(Vec<Condition>),
    Event(Event),
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
        let (book, journal) = (Book::new(), Journal::default());
        let earliest = Instant::now();
        Self {
            node_name,
            policy,
            faults,
            node,
            clients,
            stats,
            book,
            journal,
            earliest,
            failures: 0,
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

    /// Writes one thing if one is due; tells when to look again.
    async fn turn(&mut self) -> Instant {
        let now = Instant::now();
        let faults = self.faults.borrow_and_update().clone();
        let view = self.node.borrow_and_update().clone();
        let client = self.clients.borrow_and_update().clone();
        // Seen at every change, so that a fault that is over before the next write is told all the same.
        self.journal.see(&faults.faults);
        let node = match (&view.link, &view.last) {
            (Link::Up, Some(word)) => word.node.as_ref(),
            _ => None,
        };
        let (Some(client), Some(node)) = (client, node) else {
            // Woken by whoever brings it.
            return now + config::PUBLISH_HEARTBEAT;
        };
        if now < self.earliest {
            return self.earliest;
        }
        let known = Known { kernel: &faults, node: &view, policy: &self.policy };
        let wanted = wanted(&known);
        let (write, then) = match self.book.due(&wanted, node, now, SystemTime::now()) {
            Due::Write(conditions) => (Write::Conditions(conditions), now),
            Due::At(then) => match self.journal.next(now) {
                Some(event) => (Write::Event(event), now),
                None => return then,
            },
        };
        debug_assert!(then <= now, "a write is due now");
        let result = self.write(&client, node, &write).await;
        let now = Instant::now();
        match (&write, &result) {
            (Write::Conditions(_), Ok(_)) => self.book.wrote(&wanted, now),
            (Write::Event(event), Ok(name)) => self.journal.wrote(event, name.clone(), now),
            // Events live for an hour: then it is a new one.
            (
                Write::Event(Event { series: Some((name, _)), .. }),
                Err(Failed { is_gone: true, .. }),
            ) => {
                self.journal.forget(name);
            }
            _ => {}
        }
        self.count(&write, result.map(drop));
        self.earliest = now + self.pause();
        self.earliest
    }

    fn pause(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(5);
        let backoff = config::PUBLISH_INTERVAL * 2_u32.pow(doublings);
        match self.failures {
            0 => config::PUBLISH_INTERVAL,
            _ => backoff.min(config::PUBLISH_RETRY_MAX) + jitter(config::API_JITTER),
        }
    }

    fn count(&mut self, write: &Write, result: Result<(), Failed>) {
        let is_ok = result.is_ok();
        let what = match write {
            Write::Conditions(_) => {
                self.stats.wrote_conditions(is_ok);
                "the Node's conditions"
            }
            Write::Event(_) => {
                self.stats.wrote_event(is_ok);
                "an event"
            }
        };
        match result {
            Ok(()) => {
                if self.failures > 0 {
                    info!("{what} could be written again");
                }
                self.failures = 0;
            }
            Err(Failed { why, .. }) => {
                if self.failures == 0 {
                    warn!("{what} could not be written, and will be tried again: {why}");
                }
                self.failures = self.failures.saturating_add(1);
            }
        }
    }

    /// The name of what was written.
    async fn write(&self, client: &Client, node: &Node, write: &Write) -> Result<String, Failed> {
        let request = async {
            match write {
                Write::Conditions(conditions) => self.write_conditions(client, conditions).await,
                Write::Event(event) => self.write_event(client, node, event).await,
            }
        };
        match timeout(config::API_CONNECT_TIMEOUT + config::API_READ_TIMEOUT, request).await {
            Ok(Ok(name)) => Ok(name),
            Ok(Err(error)) => {
                let is_gone = matches!(&error, kube::Error::Api(status) if status.code == 404);
                Err(Failed { why: error.to_string(), is_gone })
            }
            Err(_) => Err(Failed { why: "no answer in time".to_owned(), is_gone: false }),
        }
    }

    async fn write_conditions(
        &self,
        client: &Client,
        conditions: &[Condition],
    ) -> kube::Result<String> {
        let patch = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": self.node_name },
            "status": { "conditions": conditions },
        });
        // Forced: a condition that another manager (an earlier version's, or node-problem-detector's) owned is ours now.
        let params = PatchParams::apply(MANAGER).force();
        nodes(client.clone()).patch_status(&self.node_name, &params, &Patch::Apply(&patch)).await?;
        Ok(self.node_name.clone())
    }

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
        let name = format!("{}.{nanos:x}", self.node_name);
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

/// A write that did not work.
struct Failed {
    why: String,
    /// What it was to change is not there.
    is_gone: bool,
}
