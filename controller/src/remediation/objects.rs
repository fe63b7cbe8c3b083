//! Objects of the API, trimmed to what decisions are made from: pure.

use std::{collections::HashSet, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{coordination::v1::Lease as ApiLease, core::v1::Node as ApiNode},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{Resource, api::DynamicObject};
use serde::Deserialize;
use serde_json::Value;

use super::{
    crd::NodeHealthCheck,
    names,
    world::{Condition, Kind, Lease, Node, Owner, Remediation, RemediationKey, Taint, Template},
};

/// A node as it is read: of an object of about 20 KiB, what is not named here is never kept in memory.
#[derive(Clone, Debug, Default, Deserialize, Resource)]
#[resource(inherit = ApiNode)]
pub struct NodeObject {
    /// Names, labels, annotations.
    pub metadata: ObjectMeta,
    /// Cordon and taints.
    #[serde(default)]
    pub spec: NodeSpec,
    /// Conditions.
    #[serde(default)]
    pub status: NodeStatus,
}

/// See [`NodeObject`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    #[serde(default)]
    unschedulable: bool,
    #[serde(default)]
    taints: Vec<NodeTaint>,
}

#[derive(Clone, Debug, Deserialize)]
struct NodeTaint {
    key: String,
    #[serde(default)]
    effect: String,
}

/// See [`NodeObject`].
#[derive(Clone, Debug, Default, Deserialize)]
pub struct NodeStatus {
    #[serde(default)]
    conditions: Vec<NodeCondition>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeCondition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    last_transition_time: Option<Time>,
    last_heartbeat_time: Option<Time>,
}

/// Texts that many objects share, each kept once: label keys, condition types, reasons.
#[derive(Debug, Default)]
pub struct Texts(HashSet<Arc<str>>);

/// 4,096 texts, about 200 KiB; what comes after them is kept by each object itself.
const TEXTS_MAX: usize = 4096;

impl Texts {
    fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(text) = self.0.get(text) {
            return text.clone();
        }
        let text: Arc<str> = text.into();
        if self.0.len() < TEXTS_MAX {
            self.0.insert(text.clone());
        }
        text
    }
}

/// Annotations of nodes that mean something here; vetoes do too.
const ANNOTATIONS: [&str; 5] = [
    names::CONFIRMED_HEALTHY,
    names::FORGET_ATTEMPTS,
    "machine.openshift.io/machine",
    "machineconfiguration.openshift.io/desiredConfig",
    "machineconfiguration.openshift.io/currentConfig",
];

/// The node; `before` is what was known of it.
#[must_use]
pub fn node(object: NodeObject, before: Option<&Node>, texts: &mut Texts, now: Timestamp) -> Node {
    let NodeObject { metadata, spec, status } = object;
    let known = |key: &str| ANNOTATIONS.contains(&key) || key.starts_with(names::VETO_PREFIX);
    let labels = metadata.labels.unwrap_or_default();
    let annotations = metadata.annotations.unwrap_or_default();
    let conditions = status.conditions.into_iter().map(|condition| {
        let heartbeat = condition.last_heartbeat_time.map(|time| time.0);
        let before = before.and_then(|node| node.condition(&condition.kind));
        let heard = before
            .filter(|before| before.heartbeat == heartbeat)
            .map_or(now, |before| before.heard);
        Condition {
            kind: texts.get(&condition.kind),
            status: texts.get(&condition.status),
            reason: texts.get(&condition.reason),
            message: texts.get(&condition.message),
            since: condition.last_transition_time.map(|time| time.0),
            heartbeat,
            heard,
        }
    });
    let conditions = conditions.collect();
    Node {
        name: metadata.name.unwrap_or_default().into(),
        uid: metadata.uid.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        labels: labels.iter().map(|(key, value)| (texts.get(key), texts.get(value))).collect(),
        annotations: annotations
            .iter()
            .filter(|(key, _)| known(key))
            .map(|(key, value)| (texts.get(key), value.as_str().into()))
            .collect(),
        conditions,
        taints: spec
            .taints
            .iter()
            .map(|taint| Taint { key: texts.get(&taint.key), effect: texts.get(&taint.effect) })
            .collect(),
        unschedulable: spec.unschedulable,
        deleting: metadata.deletion_timestamp.is_some(),
    }
}

/// Whether anything differs that a decision may depend on; heartbeats are not.
#[must_use]
pub fn differs(old: &Node, new: &Node) -> bool {
    let plain = |node: &Node| {
        let mut node = node.clone();
        node.resource_version = String::new();
        for condition in &mut node.conditions {
            condition.heartbeat = None;
            condition.heard = Timestamp::UNIX_EPOCH;
        }
        node
    };
    plain(old) != plain(new)
}

/// The remediation object of this kind.
#[must_use]
pub fn remediation(object: &DynamicObject, kind: &Kind) -> Remediation {
    let metadata = &object.metadata;
    let annotation =
        |key: &str| metadata.annotations.as_ref().and_then(|all| all.get(key)).cloned();
    let condition = |kind: &str| {
        let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
        let found = conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
        found.and_then(|condition| condition["status"].as_str()).map(str::to_owned)
    };
    Remediation {
        key: RemediationKey {
            kind: kind.clone(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        },
        uid: metadata.uid.clone().unwrap_or_default(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        created: metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
        deleting: metadata.deletion_timestamp.is_some(),
        owners: metadata
            .owner_references
            .iter()
            .flatten()
            .map(|owner| Owner {
                api_version: owner.api_version.clone(),
                kind: owner.kind.clone(),
                name: owner.name.clone(),
            })
            .collect(),
        control_plane: metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.contains_key(names::CONTROL_PLANE_LABEL)),
        node_annotation: annotation(names::NODE_NAME),
        template_annotation: annotation(names::TEMPLATE_NAME),
        timed_out: annotation(names::TIMED_OUT),
        healthy_delay: annotation(names::HEALTHY_DELAY),
        old_flag: annotation(names::OLD_FLAG).is_some(),
        succeeded: condition(names::SUCCEEDED),
        permanent_deletion: condition(names::PERMANENT_DELETION).as_deref() == Some("True"),
    }
}

/// The template.
#[must_use]
pub fn template(object: &DynamicObject) -> Template {
    let template = object.data.pointer("/spec/template").and_then(Value::as_object);
    let annotations = object.metadata.annotations.as_ref();
    Template {
        // A template without a spec makes objects with an empty one.
        spec: template.map(|template| {
            template
                .get("spec")
                .cloned()
                .unwrap_or_else(|| Value::Object(serde_json::Map::default()))
        }),
        multiple: annotations.is_some_and(|all| all.contains_key(names::MULTIPLE_TEMPLATES)),
    }
}

/// The lease of a node.
#[must_use]
pub fn lease(object: ApiLease) -> Lease {
    let ApiLease { metadata, spec } = object;
    let spec = spec.unwrap_or_default();
    Lease {
        name: metadata.name.unwrap_or_default(),
        uid: metadata.uid.unwrap_or_default(),
        resource_version: metadata.resource_version.unwrap_or_default(),
        holder: spec.holder_identity.unwrap_or_default(),
        duration: SignedDuration::from_secs(spec.lease_duration_seconds.unwrap_or_default().into()),
        acquired: spec.acquire_time.map(|time| time.0),
        renewed: spec.renew_time.map(|time| time.0),
        transitions: spec.lease_transitions.unwrap_or_default(),
    }
}

/// The `NodeHealthCheck`. One that cannot be read must not hide the others: each is read on its own.
pub fn check(object: DynamicObject) -> Result<NodeHealthCheck, serde_json::Error> {
    serde_json::from_value(serde_json::to_value(object)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(object: &Value, before: Option<&Node>, now: i64) -> Node {
        let object: NodeObject = serde_json::from_value(object.clone()).unwrap();
        node(object, before, &mut Texts::default(), Timestamp::from_second(now).unwrap())
    }

    #[test]
    fn a_node_is_trimmed() {
        let mut object = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": "n", "uid": "u", "resourceVersion": "7", "labels": { "b": "2", "a": "1" },
                "annotations": { "volumes.kubernetes.io/x": "y", "veto.remediation.tocsin.dev/me": "no" },
                "managedFields": [],
            },
            "spec": { "podCIDR": "10.0.0.0/24", "taints": [{ "key": "k", "effect": "NoSchedule", "timeAdded": null }] },
            "status": {
                "images": [{ "names": ["x"] }],
                "conditions": [{
                    "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready",
                    "lastTransitionTime": "2026-01-01T00:00:00Z", "lastHeartbeatTime": "2026-01-01T00:05:00Z",
                }],
            },
        });
        let first = read(&object, None, 100);
        assert_eq!((&*first.name, &*first.uid, &*first.resource_version), ("n", "u", "7"));
        assert_eq!(
            (first.label("a"), first.label("b"), first.label("c")),
            (Some("1"), Some("2"), None)
        );
        assert_eq!(first.annotations.len(), 1);
        assert_eq!(&*first.taints[0].key, "k");
        assert_eq!(first.condition("Ready").unwrap().heard.as_second(), 100);

        // The same heartbeat again is no sign of life, a new one is, and neither changes a decision.
        object["metadata"]["resourceVersion"] = json!("8");
        let second = read(&object, Some(&first), 200);
        assert_eq!(second.condition("Ready").unwrap().heard.as_second(), 100);
        object["status"]["conditions"][0]["lastHeartbeatTime"] = json!("2026-01-01T00:10:00Z");
        let third = read(&object, Some(&second), 300);
        assert_eq!(third.condition("Ready").unwrap().heard.as_second(), 300);
        assert!(!differs(&first, &third));
        object["status"]["conditions"][0]["status"] = json!("Unknown");
        assert!(differs(&third, &read(&object, Some(&third), 400)));
    }

    #[test]
    fn remediation_objects_and_templates_are_read() {
        let kind = Kind { api_version: "test.dev/v1".to_owned(), kind: "Reboot".to_owned() };
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "test.dev/v1", "kind": "Reboot",
            "metadata": {
                "name": "n-abcde", "namespace": "rem", "uid": "u", "resourceVersion": "7",
                "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-01T00:01:00Z",
                "labels": { "remediation.medik8s.io/isControlPlaneNode": "" },
                "annotations": { "remediation.medik8s.io/node-name": "n", "remediation.medik8s.io/template-name": "t" },
                "ownerReferences": [{ "apiVersion": "remediation.medik8s.io/v1alpha1", "kind": "NodeHealthCheck", "name": "nhc", "uid": "v" }],
            },
            "spec": {},
            "status": { "conditions": [
                { "type": "Succeeded", "status": "False" },
                { "type": "PermanentNodeDeletionExpected", "status": "True" },
            ] },
        }))
        .unwrap();
        let read = remediation(&object, &kind);
        assert_eq!(read.node(), "n");
        assert!(read.owned_by("nhc") && !read.owned_by("other"));
        assert!(read.control_plane && read.deleting && read.permanent_deletion);
        assert_eq!(read.succeeded.as_deref(), Some("False"));
        assert!(read.is_of(&kind, "t", "n") && !read.is_of(&kind, "t2", "n"));

        for (spec, expected) in [
            (json!({ "template": { "spec": { "a": 1 } } }), Some(json!({ "a": 1 }))),
            (json!({ "template": {} }), Some(json!({}))),
            (json!({}), None),
        ] {
            let object: DynamicObject =
                serde_json::from_value(json!({ "metadata": { "name": "t" }, "spec": spec }))
                    .unwrap();
            assert_eq!(template(&object).spec, expected);
        }
    }
}
