//! `schedulable`: the node is not being taken out of service on purpose.

use super::{Check, CheckSource, OnUnknown, Policy};
use crate::model::{Node, Outcome};

pub(super) const CHECK: Check = Check {
    name: "schedulable",
    passes_when: "the Node is not cordoned, not being deleted, and has no taint `ToBeDeletedByClusterAutoscaler` or `node.kubernetes.io/out-of-service`",
    on_unknown: OnUnknown::Pass,
    source: CheckSource::Node(judge),
};

/// Taints that say that the node is about to go, or gone.
const LEAVING: [&str; 2] = ["ToBeDeletedByClusterAutoscaler", "node.kubernetes.io/out-of-service"];

fn judge(node: &Node, _policy: &Policy) -> Outcome {
    if node.unschedulable {
        return Outcome::Fail("the Node is cordoned (spec.unschedulable)".to_owned());
    }
    if let Some(taint) = node.taints.iter().find(|taint| LEAVING.contains(&taint.as_str())) {
        return Outcome::Fail(format!("the Node has the taint {taint}"));
    }
    if node.is_being_deleted {
        return Outcome::Fail("the Node is being deleted (metadata.deletionTimestamp)".to_owned());
    }
    Outcome::Pass
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_takes_the_node_out_of_service_fails() {
        let taints = |keys: &[&str]| Node {
            taints: keys.iter().map(|&key| key.to_owned()).collect(),
            ..Node::default()
        };
        for (node, expected) in [
            (Node::default(), None),
            // Also set where nothing is scheduled and all is well, or by a pressure that has its own condition.
            (
                taints(&["node-role.kubernetes.io/control-plane", "node.kubernetes.io/not-ready"]),
                None,
            ),
            (
                Node { unschedulable: true, ..taints(&["node.kubernetes.io/unschedulable"]) },
                Some("the Node is cordoned (spec.unschedulable)"),
            ),
            (
                taints(&["a", "ToBeDeletedByClusterAutoscaler"]),
                Some("the Node has the taint ToBeDeletedByClusterAutoscaler"),
            ),
            (
                taints(&["node.kubernetes.io/out-of-service"]),
                Some("the Node has the taint node.kubernetes.io/out-of-service"),
            ),
            (
                Node { is_being_deleted: true, ..Node::default() },
                Some("the Node is being deleted (metadata.deletionTimestamp)"),
            ),
        ] {
            let expected = expected.map_or(Outcome::Pass, |why| Outcome::Fail(why.to_owned()));
            assert_eq!(judge(&node, &Policy::default()), expected, "{node:?}");
        }
    }
}
