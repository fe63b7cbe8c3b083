//! The own Node as the Kubernetes API last showed it, and whether the API server can be reached.

use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize};

/// What the agent knows of its Node from the Kubernetes API.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// The state of the connection to the API server.
    pub api: ApiState,
    /// The Node as the API server showed it last; `None` before its first answer.
    pub last: Option<NodeObservation>,
}

/// The state of the connection to the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ApiState {
    /// No cluster is configured.
    #[default]
    NotConfigured,
    /// The API server has not answered yet, and it is too early to call that a loss.
    Pending,
    /// A watch on the Node is established: every change arrives without being asked for.
    Up,
    /// The API server has been silent for longer than a reconnection takes.
    Lost {
        /// When the silence began, or when the agent started.
        since: SystemTime,
        /// The error of the last attempt: one line.
        error: String,
    },
}

/// One observation of the own Node through the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeObservation {
    /// When it arrived.
    pub at: SystemTime,
    /// The Node; `None` where the cluster has no Node of that name.
    pub node: Option<Node>,
}

/// The fields of a Node object (core/v1) that the agent reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `metadata.uid`, for events about the Node.
    pub uid: String,
    /// `spec.unschedulable`: the Node is cordoned.
    pub unschedulable: bool,
    /// Whether `metadata.deletionTimestamp` is set.
    pub is_being_deleted: bool,
    /// The keys of `spec.taints`.
    pub taints: Vec<String>,
    /// `status.conditions`.
    pub conditions: Vec<Condition>,
}

impl Node {
    /// The condition of that type.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }
}

/// One of a Node's conditions (`NodeCondition`, core/v1). A text is empty where the API has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// The type, for example `Ready`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The cause of the last transition, in one word.
    pub reason: String,
    /// The cause in a sentence.
    pub message: String,
    /// When the status changed, as RFC 3339.
    #[serde(deserialize_with = "null_is_empty")]
    pub last_transition_time: String,
    /// When the condition was last confirmed, as RFC 3339.
    #[serde(deserialize_with = "null_is_empty")]
    pub last_heartbeat_time: String,
}

/// Reads a time: the API writes one that is not set as `null` (`metav1.Time`).
fn null_is_empty<'de, D: Deserializer<'de>>(text: D) -> Result<String, D::Error> {
    Option::<String>::deserialize(text).map(Option::unwrap_or_default)
}
