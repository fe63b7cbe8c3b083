//! `NodeHealthCheck` of `remediation.medik8s.io/v1alpha1`: its types, and its `CustomResourceDefinition` made of them.
//!
//! The schema is that of the medik8s `NodeHealthCheck` operator 0.12, field by field, so that its objects and clients
//! keep working. What Tocsin adds to `status` is optional and has names that the operator does not use:
//! `waitingNodes`, `attempts`, `waiting`, `nextDeadline`.

mod duration;
mod schema;
#[cfg(test)]
mod tests;

use k8s_openapi::{
    api::core::v1::ObjectReference,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::{
        apis::meta::v1::{Condition, LabelSelector, Time},
        util::intstr::IntOrString,
    },
};
use kube::{CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use duration::{Delay, GoDuration, parse as parse_duration};

/// Which nodes are watched, when one is unhealthy, and what is made then.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "remediation.medik8s.io",
    version = "v1alpha1",
    kind = "NodeHealthCheck",
    plural = "nodehealthchecks",
    shortname = "nhc",
    status = "NodeHealthCheckStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "Watches the health of nodes, and makes a remediation object for one that is unhealthy.",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Observed","type":"integer","jsonPath":".status.observedNodes"}"#,
    printcolumn = r#"{"name":"Healthy","type":"integer","jsonPath":".status.healthyNodes"}"#,
    printcolumn = r#"{"name":"Waiting","type":"string","jsonPath":".status.waiting"}"#,
    printcolumn = r#"{"name":"Next","type":"string","jsonPath":".status.nextDeadline"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct NodeHealthCheckSpec {
    /// Selects the nodes to watch. The webhook asks for one; an old object without it selects every node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::selector")]
    pub selector: Option<LabelSelector>,
    /// A node is unhealthy while any of these has been the case for its duration. An empty list: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::unhealthy_conditions")]
    pub unhealthy_conditions: Option<Vec<UnhealthyCondition>>,
    /// Remediation is allowed while at least so many of the selected nodes are healthy: a number or a percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub min_healthy: Option<IntOrString>,
    /// Remediation is allowed while at most so many of the selected nodes are unhealthy: a number or a percentage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::amount")]
    pub max_unhealthy: Option<IntOrString>,
    /// Once remediation was not allowed, it begins again only after it would have been allowed for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storm_cooldown_duration: Option<GoDuration>,
    /// The template of the remediation objects. Excludes `escalatingRemediations`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_reference")]
    pub remediation_template: Option<ObjectReference>,
    /// Templates that are tried one after another, each for its timeout. Excludes `remediationTemplate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalating_remediations: Option<Vec<EscalatingRemediation>>,
    /// Any entry pauses this object; the entry says who wants it and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_requests: Option<Vec<String>>,
    /// A node that is healthy again keeps its remediation object for so long; a negative one: until a person says
    /// so by the node's annotation `remediation.medik8s.io/manually-confirmed-healthy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy_delay: Option<Delay>,
}

/// A condition of a node that makes it unhealthy once it has lasted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnhealthyCondition {
    /// Type of the condition, as in the node's status.
    #[serde(rename = "type")]
    #[schemars(length(min = 1))]
    pub type_: String,
    /// Its status: True, False or Unknown.
    #[schemars(length(min = 1))]
    pub status: String,
    /// How long it has to last.
    pub duration: GoDuration,
}

/// One step of an escalation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EscalatingRemediation {
    /// The template of this step's remediation object.
    #[schemars(schema_with = "schema::object_reference")]
    pub remediation_template: ObjectReference,
    /// Steps with a lower order come first; each order is used once.
    #[schemars(schema_with = "schema::integer")]
    pub order: i64,
    /// How long the step may take before the next one begins; at least a minute.
    pub timeout: GoDuration,
}

/// What is known of the selected nodes, and what was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeHealthCheckStatus {
    /// Number of selected nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::integer")]
    pub observed_nodes: Option<i64>,
    /// Number of selected nodes that are healthy and have no remediation object left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::integer")]
    pub healthy_nodes: Option<i64>,
    /// Nodes that are unhealthy, or were and still have a remediation object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::unhealthy_nodes")]
    pub unhealthy_nodes: Option<Vec<UnhealthyNode>>,
    /// Not used any more; kept for objects that have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight_remediations: Option<std::collections::BTreeMap<String, Time>>,
    /// `Disabled`, `StormActive` and `StormCooldownActive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Option<Vec<Condition>>,
    /// `Disabled`, `Paused`, `Remediating` or `Enabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// The phase in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the status was written last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Time>,
    /// Tocsin's addition: unhealthy nodes that are not being remediated, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::waiting_nodes")]
    pub waiting_nodes: Option<Vec<WaitingNode>>,
    /// Tocsin's addition: `waitingNodes` in a few words, for a column of a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    /// Tocsin's addition: when something is decided next, if nothing changes before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_deadline: Option<Time>,
    /// Tocsin's addition: when remediations of a node began, as far back as the limit on attempts counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::attempts")]
    pub attempts: Option<Vec<Attempts>>,
}

/// A node that is unhealthy, or was and still has a remediation object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnhealthyNode {
    /// Its name.
    pub name: String,
    /// The remediation objects that were made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remediations: Option<Vec<RemediationRecord>>,
    /// Since when none of the unhealthy conditions is the case, while remediation objects are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions_healthy_timestamp: Option<Time>,
    /// True while `healthyDelay` keeps the remediation object of a node that is healthy again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy_delayed: Option<bool>,
}

/// A remediation object that was made for a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RemediationRecord {
    /// The object.
    #[schemars(schema_with = "schema::object_reference")]
    pub resource: ObjectReference,
    /// When it was made.
    #[schemars(schema_with = "schema::time")]
    pub started: Option<Time>,
    /// When it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timed_out: Option<Time>,
    /// Name of its template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_name: Option<String>,
}

/// An unhealthy node that is not being remediated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitingNode {
    /// Its name.
    pub name: String,
    /// Why it is not being remediated, in one word.
    pub reason: String,
    /// The same in a sentence.
    pub message: String,
    /// Since when it is unhealthy; in the future while a condition has not lasted long enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// When this is decided again, if nothing changes before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_deadline: Option<Time>,
    /// What would help, as far as the condition tells: reboot, replace, volume-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// When remediations of a node began.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempts {
    /// The node.
    pub name: String,
    /// When each of them began, oldest first.
    pub started: Vec<Time>,
}

/// The `CustomResourceDefinition` of [`NodeHealthCheck`].
#[must_use]
pub fn definition() -> CustomResourceDefinition {
    schema::as_reference(NodeHealthCheck::crd())
}

/// [`definition`] as YAML, which `kubectl apply -f -` takes.
pub fn yaml() -> anyhow::Result<String> {
    // Through JSON, which leaves out what the API's own types leave out.
    let definition = serde_json::to_value(definition())?;
    Ok(format!("---\n{}", serde_saphyr::to_string(&definition)?))
}
