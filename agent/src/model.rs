//! Plain data that the rest of the agent passes around. No file, socket or clock in here.

mod blind_spot;
mod dev;
mod fault;

use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize};

pub use self::{
    blind_spot::{BlindSpot, BlindSpots},
    dev::{BadDev, Dev},
    fault::{Fault, FaultChange, FaultKind, FaultView, MOUNT_POINTS_SHOWN, Scope, Transition},
};

/// What the cluster says about this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// How things stand with the API server.
    pub link: Link,
    /// What the API server said last; `None` until its first word.
    pub last: Option<Word>,
}

/// How things stand with the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// No cluster is configured.
    #[default]
    None,
    /// Nothing has been heard yet, and it is too early to call that a loss.
    Awaited,
    /// The Node is being watched: every change arrives by itself.
    Up,
    /// Not heard for longer than a reconnection takes.
    Lost {
        /// When it was lost, or when the agent started.
        since: SystemTime,
        /// What the last attempt ended with: one line.
        why: String,
    },
}

/// The API server's word about this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// When it came.
    pub at: SystemTime,
    /// The Node; `None` where the cluster has no Node of that name.
    pub node: Option<Node>,
}

/// What the agent reads of a Node object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `metadata.uid`, for events about it.
    pub uid: String,
    /// `spec.unschedulable`: cordoned.
    pub unschedulable: bool,
    /// `metadata.deletionTimestamp` is set.
    pub is_being_deleted: bool,
    /// Keys of `spec.taints`.
    pub taints: Vec<String>,
    /// `status.conditions`
    pub conditions: Vec<Condition>,
}

impl Node {
    /// The condition of that type.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }
}

/// One of a Node's conditions, as the API has it (`NodeCondition`, core/v1); a text is empty where the API has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// `Ready`, say.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// RFC 3339: when the status changed.
    #[serde(deserialize_with = "null_is_empty")]
    pub last_transition_time: String,
    /// RFC 3339: when somebody last looked.
    #[serde(deserialize_with = "null_is_empty")]
    pub last_heartbeat_time: String,
}

/// The API writes a time that is not set as `null` (`metav1.Time`).
fn null_is_empty<'de, D: Deserializer<'de>>(text: D) -> Result<String, D::Error> {
    Option::<String>::deserialize(text).map(Option::unwrap_or_default)
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Pass,
    /// All is well as far as can be seen, and it says what cannot be seen.
    Degraded(String),
    /// It is not, and why: one line.
    Fail(String),
    /// The check could not be made, and why; the check's policy turns this into a verdict.
    Unknown(String),
}
