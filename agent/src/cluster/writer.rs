//! Writes to the API: the Node's conditions, and events about it. Each has a deadline.

use std::time::SystemTime;

use k8s_openapi::api::events;
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::timeout;

use super::{
    event_recorder::{Direction, NodeEvent, Series, Subject},
    node_object, settings,
};
use crate::model::Condition;

/// The name under which the agent owns fields and reports events.
const MANAGER: &str = "tocsin";
/// The namespace of events about a Node, which itself has none: kubelet's are there too.
const NAMESPACE: &str = "default";

/// Writes about one Node through one client.
pub(super) struct Writer<'a> {
    pub(super) client: Client,
    pub(super) node_name: &'a str,
    /// `metadata.uid` of the Node.
    pub(super) node_uid: &'a str,
}

/// Why a write failed.
#[derive(Debug)]
pub(super) struct WriteError {
    /// The error in one line.
    pub(super) message: String,
    /// The object is not there, or may not be changed.
    pub(super) is_refused: bool,
}

impl Writer<'_> {
    /// Writes the conditions to the Node's status.
    pub(super) async fn conditions(&self, conditions: &[Condition]) -> Result<(), WriteError> {
        let patch = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": self.node_name },
            "status": { "conditions": conditions },
        });
        // Forced: it takes over a condition that another manager owned (an earlier version, or node-problem-detector).
        let params = PatchParams::apply(MANAGER).force();
        let (nodes, patch) = (node_object::api(self.client.clone()), Patch::Apply(&patch));
        bounded(nodes.patch_status(self.node_name, &params, &patch)).await.map(drop)
    }

    /// Writes a new event, or counts up the one that said the same; gives the event's name.
    pub(super) async fn event(&self, event: &NodeEvent) -> Result<String, WriteError> {
        let resource = ApiResource::erase::<events::v1::Event>(&());
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), NAMESPACE, &resource);
        let now = SystemTime::now();
        if let Some(Series { name, count }) = &event.series {
            let time = humantime::format_rfc3339_micros(now).to_string();
            let series = json!({ "series": { "count": count, "lastObservedTime": time } });
            let patch = Patch::Merge(&series);
            bounded(api.patch(name, &PatchParams::default(), &patch)).await?;
            return Ok(name.clone());
        }
        let name = self.event_name(now);
        let object = serde_json::from_value(self.event_object(event, &name, now));
        let object = object.map_err(|error| WriteError::from(kube::Error::SerdeError(error)))?;
        bounded(api.create(&PostParams::default(), &object)).await?;
        Ok(name)
    }

    /// A name that no other event has: the Node's, and the time.
    fn event_name(&self, now: SystemTime) -> String {
        let nanos = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        // The API takes 253 characters, which a Node's name alone may have.
        let node: String = self.node_name.chars().take(230).collect();
        format!("{}.{nanos:x}", node.trim_end_matches(['-', '.']))
    }

    fn event_object(&self, event: &NodeEvent, name: &str, now: SystemTime) -> serde_json::Value {
        let (action, kind) = match (event.subject, event.direction) {
            (Subject::Faults(_), Direction::Opened) => ("FaultOpened", "Warning"),
            (Subject::Faults(_), Direction::Closed) => ("FaultClosed", "Normal"),
            (Subject::StormGuard, Direction::Opened) => ("FailuresHeldUp", "Warning"),
            (Subject::StormGuard, Direction::Closed) => ("FailuresCountAgain", "Normal"),
        };
        json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": { "name": name, "namespace": NAMESPACE },
            "eventTime": humantime::format_rfc3339_micros(now).to_string(),
            "reportingController": MANAGER,
            // The API takes 128 characters, and a Node's name may have 253.
            "reportingInstance": self.node_name.chars().take(128).collect::<String>(),
            "action": action,
            "reason": event.reason,
            "type": kind,
            "note": event.note,
            "regarding": {
                "apiVersion": "v1",
                "kind": "Node",
                "name": self.node_name,
                "uid": self.node_uid,
            },
        })
    }
}

impl From<kube::Error> for WriteError {
    fn from(error: kube::Error) -> Self {
        let code = if let kube::Error::Api(status) = &error { status.code } else { 0 };
        Self { message: error.to_string(), is_refused: matches!(code, 403 | 404) }
    }
}

/// The result of `write`, or an error when it takes longer than a connection and an answer may.
async fn bounded<T>(write: impl Future<Output = kube::Result<T>>) -> Result<T, WriteError> {
    match timeout(settings::API_CONNECT_TIMEOUT + settings::API_READ_TIMEOUT, write).await {
        Ok(result) => result.map_err(WriteError::from),
        Err(_) => Err(WriteError { message: "no answer in time".to_owned(), is_refused: false }),
    }
}
