//! The heartbeat API of the controller, with `HEARTBEAT_COMPAT=false`.

use serde::{Deserialize, Serialize};

/// Whether something is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It serves (HTTP 200).
    Up,
    /// It does not (HTTP 503).
    Down,
    /// Nobody can say: there is no such workload (404), or the API server is lost (502).
    Unknown,
}

/// `GET /api/healthz/{namespace}/{kind}/{name}`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct WorkloadHealth {
    /// The verdict.
    pub status: Status,
    /// `deployment`, `statefulset` or `daemonset`.
    pub kind: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// Pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Replicas>,
    /// The conditions of a Deployment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Why it is not up, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// What is wrong without taking it down, one line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// Since when the verdict is this one (RFC 3339), as far as the cluster's objects tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// Numbers of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Replicas {
    /// As many as there should be.
    pub desired: i64,
    /// As many as have to be ready, which is what `maxUnavailable` leaves, and one at least.
    pub required: i64,
    /// As many as are ready.
    pub ready: i64,
}

/// A condition of a Deployment.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Condition {
    /// `Available` or `Progressing`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether its status is `True`.
    pub status: bool,
    /// One word.
    pub reason: String,
    /// When its status changed last (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// `GET /api/healthz/{namespace}?selector=...` and `GET /api/feed`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct WorkloadList {
    /// Up if all of them are; unknown where there is none.
    pub status: Status,
    /// Why nothing can be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// By namespace, kind and name.
    pub workloads: Vec<WorkloadHealth>,
}

/// `GET /healthz`: whether the API server can be relied on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ApiHealth {
    /// The verdict.
    pub status: Status,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
