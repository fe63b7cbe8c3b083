//! What decisions are made from: the cluster as the watches show it, trimmed to what matters.
//!
//! Plain data. `store` fills it, `decide` reads it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use serde_json::Value;

use super::{crd::NodeHealthCheck, names};

/// The cluster, as far as remediation is concerned.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Every node, by name.
    pub nodes: BTreeMap<Arc<str>, Arc<Node>>,
    /// Every remediation object of a kind that is watched, whoever made it.
    pub remediations: BTreeMap<RemediationKey, Arc<Remediation>>,
    /// Every template that a `NodeHealthCheck` names, and those that are not there, with what the API says instead.
    pub templates: BTreeMap<TemplateKey, TemplateState>,
    /// The leases of nodes, by name.
    pub leases: BTreeMap<String, Lease>,
    /// Whether the namespace of the leases exists.
    pub lease_namespace: bool,
    /// Every `NodeHealthCheck`, by name.
    pub checks: BTreeMap<String, Arc<NodeHealthCheck>>,
    /// What there is of `OpenShift`.
    pub openshift: OpenShift,
    /// Writes for a node that the API server refused, by `NodeHealthCheck` and node; not tried again before their time.
    pub refused: BTreeMap<(String, String), Refusal>,
}

/// A write that the API server refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it said.
    pub message: String,
    /// When the write is tried again.
    pub retry: Timestamp,
    /// How often in a row.
    pub times: u32,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Its identity.
    pub uid: String,
    /// For conditional writes.
    pub resource_version: String,
    /// Its labels, sorted by key.
    pub labels: Box<[(Arc<str>, Arc<str>)]>,
    /// Those of its annotations that mean something here.
    pub annotations: Box<[(Arc<str>, Arc<str>)]>,
    /// Its conditions.
    pub conditions: Box<[Condition]>,
    /// Its taints.
    pub taints: Box<[Taint]>,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
}

/// One condition of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Its type.
    pub kind: Arc<str>,
    /// Its status.
    pub status: Arc<str>,
    /// Its reason.
    pub reason: Arc<str>,
    /// Its message.
    pub message: Arc<str>,
    /// Since when it has its status; `None` where the writer does not say.
    pub since: Option<Timestamp>,
    /// Its last heartbeat, by the writer's clock.
    pub heartbeat: Option<Timestamp>,
    /// When this heartbeat was first seen, by our clock.
    pub heard: Timestamp,
}

/// One taint of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    /// Its key.
    pub key: Arc<str>,
    /// Its effect.
    pub effect: Arc<str>,
}

fn get<'a>(pairs: &'a [(Arc<str>, Arc<str>)], key: &str) -> Option<&'a str> {
    pairs.iter().find(|(k, _)| **k == *key).map(|(_, value)| &**value)
}

impl Node {
    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        get(&self.labels, key)
    }

    /// The value of an annotation that is kept.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        get(&self.annotations, key)
    }

    /// The condition of type `kind`.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| *condition.kind == *kind)
    }

    /// Whether it is a node of the control plane.
    #[must_use]
    pub fn control_plane(&self) -> bool {
        names::CONTROL_PLANE_ROLES.iter().any(|role| self.label(role).is_some())
    }

    /// Its zone, by the well-known label.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.label("topology.kubernetes.io/zone")
            .or_else(|| self.label("failure-domain.beta.kubernetes.io/zone"))
            .filter(|zone| !zone.is_empty())
    }
}

/// API version and kind of a remediation object or a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
}

/// Which remediation object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemediationKey {
    /// API version and kind.
    pub kind: Kind,
    /// Namespace; empty for a kind without.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A remediation object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a mark of its own on the object")]
pub struct Remediation {
    /// Which.
    pub key: RemediationKey,
    /// Its identity.
    pub uid: String,
    /// For conditional writes.
    pub resource_version: String,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Its owners.
    pub owners: Vec<Owner>,
    /// Whether it has the label of control-plane nodes.
    pub control_plane: bool,
    /// Its node, by annotation.
    pub node_annotation: Option<String>,
    /// Its template's name, by annotation.
    pub template_annotation: Option<String>,
    /// When it was given up; the annotation's text.
    pub timed_out: Option<String>,
    /// Since when its node is healthy; the annotation's text.
    pub healthy_delay: Option<String>,
    /// Whether it is marked as older than 48 hours.
    pub old_flag: bool,
    /// Status of its condition `Succeeded`.
    pub succeeded: Option<String>,
    /// Whether its condition `PermanentNodeDeletionExpected` is True.
    pub permanent_deletion: bool,
}

impl Remediation {
    /// The node that it remediates.
    #[must_use]
    pub fn node(&self) -> &str {
        self.node_annotation.as_deref().unwrap_or(&self.key.name)
    }

    /// Whether the `NodeHealthCheck` of this name owns it.
    #[must_use]
    pub fn owned_by(&self, check: &str) -> bool {
        self.owners.iter().any(|owner| {
            owner.api_version == names::API_VERSION
                && owner.kind == names::KIND
                && owner.name == check
        })
    }

    /// Whether it is what a template of this kind and name makes for this node.
    #[must_use]
    pub fn is_of(&self, kind: &Kind, template: &str, node: &str) -> bool {
        self.key.kind == *kind
            && match &self.template_annotation {
                Some(name) => name == template && self.node() == node,
                None => self.key.name == node,
            }
    }
}

/// An owner of a remediation object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// API version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// Which template.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TemplateKey {
    /// API version and kind.
    pub kind: Kind,
    /// Namespace; empty for a kind without.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl TemplateKey {
    /// The template that a reference names.
    #[must_use]
    pub fn of(reference: &ObjectReference) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            kind: Kind { api_version: text(&reference.api_version), kind: text(&reference.kind) },
            namespace: text(&reference.namespace),
            name: text(&reference.name),
        }
    }

    /// The kind of what it makes, or `None` where its own kind does not end in `Template`.
    #[must_use]
    pub fn makes(&self) -> Option<Kind> {
        let kind = self.kind.kind.strip_suffix("Template").filter(|kind| !kind.is_empty())?;
        Some(Kind { api_version: self.kind.api_version.clone(), kind: kind.to_owned() })
    }
}

/// What the API has for a [`TemplateKey`].
#[derive(Clone, Debug, PartialEq)]
pub enum TemplateState {
    /// The template, and the namespace of what it makes; empty where the kind of that has none.
    Found(Arc<Template>, String),
    /// None; with the API's words.
    NotFound(String),
    /// The kind has namespaces, and the reference names none.
    NeedsNamespace,
    /// What it makes has to be in a namespace, and the template is in none.
    NoPlace,
}

/// A template of remediation objects.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Template {
    /// Its `spec.template.spec`, or `None` where it has no `spec.template`.
    pub spec: Option<Value>,
    /// Whether several templates of its kind may be used for one node.
    pub multiple: bool,
}

/// The lease of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// For conditional writes.
    pub resource_version: String,
    /// Who holds it.
    pub holder: String,
    /// How long it is valid after [`Lease::renewed`].
    pub duration: SignedDuration,
    /// When its holder took it.
    pub acquired: Option<Timestamp>,
    /// When its holder renewed it.
    pub renewed: Option<Timestamp>,
    /// How often its holder changed.
    pub transitions: i32,
}

impl Lease {
    /// When it ends.
    #[must_use]
    pub fn expiry(&self) -> Option<Timestamp> {
        self.renewed?.checked_add(self.duration).ok()
    }

    /// Whether its holder may rely on it.
    #[must_use]
    pub fn valid(&self, now: Timestamp) -> bool {
        self.renewed.is_some_and(|renewed| renewed <= now)
            && self.expiry().is_some_and(|expiry| expiry >= now)
    }
}

/// What there is of `OpenShift`; all of it empty elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenShift {
    /// Whether the API group `config.openshift.io/v1` is served.
    pub present: bool,
    /// Whether the API group `machine.openshift.io/v1beta1` is served.
    pub machine_api: bool,
    /// Condition types of the `unhealthyConditions` of each `MachineHealthCheck`.
    pub machine_health_checks: Vec<BTreeSet<String>>,
    /// Whether a `ClusterVersion` has the condition `Progressing` True.
    pub progressing: bool,
    /// `disruptionsAllowed` of the `PodDisruptionBudgets` in `openshift-etcd`.
    pub etcd_budgets: Vec<i32>,
    /// Nodes with a guard pod of etcd that is Ready, or of which that is Unknown.
    pub etcd_guarded: BTreeSet<String>,
}
