//! Events about `NodeHealthChecks`: a queue, and a task that writes them.
//!
//! An event that says what one of the last minutes said is counted up, not written again.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tocsin_runtime::kube::describe;
use tokio::{sync::mpsc, time::timeout};
use tracing::debug;

use super::{
    apply::MANAGER,
    decide::{Note, Severity},
    leader::Leadership,
    names,
};

/// 512 events that wait: a few for each of 200 nodes that fail at once. More are dropped and counted.
const QUEUE: usize = 512;
/// 256 events that are remembered, each for [`SERIES`].
const REMEMBERED: usize = 256;
/// 10 minutes during which an event is counted up: client-go's.
const SERIES: Duration = Duration::from_mins(10);
/// 5 seconds for one write.
const WRITE: Duration = Duration::from_secs(5);
/// What all messages begin with.
const PREFIX: &str = "[remediation] ";
/// Component that events come from.
const COMPONENT: &str = "NodeHealthCheck";
/// The namespace of events about objects that have none.
const NAMESPACE: &str = "default";

/// Which `NodeHealthCheck` an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
}

/// Where events are told. Never waits.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<(About, Note)>,
    /// Events that found the queue full, or that the API server did not take.
    pub dropped: Arc<AtomicU64>,
}

impl Events {
    /// Tells an event.
    pub fn tell(&self, about: &About, note: Note) {
        if self.queue.try_send((about.clone(), note)).is_err() {
            self.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// The queue and its task.
#[must_use]
pub fn queue() -> (Events, Writer) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let events = Events { queue: sender, dropped: Arc::default() };
    let writer = Writer {
        queue: receiver,
        dropped: events.dropped.clone(),
        written: VecDeque::new(),
        number: 0,
    };
    (events, writer)
}

/// Writes events, one after the other.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Receiver<(About, Note)>,
    dropped: Arc<AtomicU64>,
    written: VecDeque<Written>,
    number: u64,
}

#[derive(Debug)]
struct Written {
    about: About,
    note: Note,
    name: String,
    count: i32,
    at: Instant,
}

impl Writer {
    /// Writes for ever, also when nobody tells anything any more because the process stops.
    ///
    /// What a leader has told and not written before it lost its lease is dropped: the next one tells it again.
    pub async fn run(mut self, client: Client, leadership: Leadership) {
        let api = Api::<Event>::namespaced(client, NAMESPACE);
        while let Some((about, note)) = self.queue.recv().await {
            if !leadership.may_write() {
                self.dropped.fetch_add(1, Relaxed);
                continue;
            }
            let write = self.write(&api, about, note);
            match timeout(WRITE, write).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    debug!(error = describe(&error), "an event was not written");
                    self.dropped.fetch_add(1, Relaxed);
                }
                Err(_) => {
                    self.dropped.fetch_add(1, Relaxed);
                }
            }
        }
        std::future::pending::<()>().await;
    }

    async fn write(&mut self, api: &Api<Event>, about: About, note: Note) -> kube::Result<()> {
        self.written.retain(|written| written.at.elapsed() < SERIES);
        let again =
            self.written.iter_mut().find(|written| written.about == about && written.note == note);
        if let Some(written) = again {
            written.count += 1;
            let now = super::decide::whole_seconds(Timestamp::now());
            let change = json!({ "count": written.count, "lastTimestamp": now });
            let patch =
                PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            match api.patch(&written.name, &patch, &Patch::Merge(change)).await {
                Ok(_) => return Ok(()),
                // It was cleaned up: begun anew below.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        self.number += 1;
        let stamp = u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or_default();
        let name = format!("{}.{:x}", about.name, stamp.wrapping_add(self.number));
        let event = serde_json::from_value(object(&about, &note, &name));
        let event: Event = event.map_err(kube::Error::SerdeError)?;
        api.create(
            &PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() },
            &event,
        )
        .await?;
        if self.written.len() >= REMEMBERED {
            self.written.pop_front();
        }
        self.written.push_back(Written { about, note, name, count: 1, at: Instant::now() });
        Ok(())
    }
}

fn object(about: &About, note: &Note, name: &str) -> Value {
    let now = super::decide::whole_seconds(Timestamp::now());
    json!({
        "metadata": { "name": name, "namespace": NAMESPACE },
        "involvedObject": {
            "apiVersion": names::API_VERSION, "kind": names::KIND, "name": about.name, "uid": about.uid,
        },
        "type": match note.severity { Severity::Normal => "Normal", Severity::Warning => "Warning" },
        "reason": note.reason,
        "message": format!("{PREFIX}{}", note.message),
        "source": { "component": COMPONENT },
        "reportingComponent": COMPONENT,
        "reportingInstance": "",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    })
}
