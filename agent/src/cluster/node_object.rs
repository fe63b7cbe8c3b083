//! The Node object as the API writes it, reduced to the fields that the agent reads.

use k8s_openapi::api::core::v1;
use kube::{
    Api, Client,
    api::{ApiResource, Object},
};
use serde::{Deserialize, Serialize};

use crate::model::{Condition, Node};

/// A Node with only the fields that the agent reads. The parser skips the others: the list of images alone may have a
/// megabyte.
pub(super) type NodeObject = Object<Spec, Status>;

/// The API of all Nodes, which have no namespace.
pub(super) fn api(client: Client) -> Api<NodeObject> {
    Api::all_with(client, &ApiResource::erase::<v1::Node>(&()))
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Spec {
    unschedulable: Option<bool>,
    taints: Option<Vec<Taint>>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Taint {
    key: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Status {
    conditions: Option<Vec<Condition>>,
}

/// The agent's own form of a Node object.
pub(super) fn to_node(object: NodeObject) -> Node {
    Node {
        uid: object.metadata.uid.unwrap_or_default(),
        unschedulable: object.spec.unschedulable.unwrap_or_default(),
        is_being_deleted: object.metadata.deletion_timestamp.is_some(),
        taints: object.spec.taints.into_iter().flatten().map(|taint| taint.key).collect(),
        conditions: object.status.and_then(|status| status.conditions).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_read_from_what_the_api_writes() {
        let text = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n","uid":"u","resourceVersion":"7",
            "deletionTimestamp":"2026-01-01T00:00:00Z"},"spec":{"podCIDR":"10.0.0.0/24","unschedulable":true,
            "taints":[{"key":"a","effect":"NoSchedule","timeAdded":"2026-01-01T00:00:00Z"}]},"status":{"images":[{"names":["x"]}],
            "conditions":[{"type":"Ready","status":"False","lastHeartbeatTime":null,
            "lastTransitionTime":"2026-01-01T00:00:00Z","reason":"R","message":"M"}]}}"#;
        let found = to_node(serde_json::from_str(text).unwrap());
        let ready = Condition {
            kind: "Ready".into(),
            status: "False".into(),
            reason: "R".into(),
            message: "M".into(),
            last_transition_time: "2026-01-01T00:00:00Z".into(),
            last_heartbeat_time: String::new(),
        };
        assert_eq!(
            found,
            Node {
                uid: "u".into(),
                unschedulable: true,
                is_being_deleted: true,
                taints: vec!["a".into()],
                conditions: vec![ready],
            }
        );
        let empty = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n"},"spec":{}}"#;
        assert_eq!(to_node(serde_json::from_str(empty).unwrap()), Node::default());
    }
}
