//! `node_ready`: the Node's `Ready` condition is `True`.
//!
//! The reason of a failure is the condition's own reason, alone: that of the readiness endpoint which this replaces.

use super::{Check, CheckSource, OnUnknown, Policy};
use crate::model::{Node, Outcome};

pub(super) const CHECK: Check = Check {
    name: "node_ready",
    passes_when: "the Node's `Ready` condition is `True`",
    on_unknown: OnUnknown::Pass,
    source: CheckSource::Node(judge),
};

fn judge(node: &Node, _policy: &Policy) -> Outcome {
    match node.condition("Ready") {
        Some(ready) if ready.status == "True" => Outcome::Pass,
        Some(ready) if !ready.reason.is_empty() => Outcome::Fail(ready.reason.clone()),
        Some(ready) => Outcome::Fail(format!("Ready is {}", ready.status)),
        None => Outcome::Fail("the Node has no Ready condition".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Condition;

    #[test]
    fn only_true_passes() {
        // (status and reason of Ready, why it fails)
        for (ready, expected) in [
            (Some(("True", "KubeletReady")), None),
            (Some(("False", "KubeletNotReady")), Some("KubeletNotReady")),
            (Some(("Unknown", "NodeStatusUnknown")), Some("NodeStatusUnknown")),
            (Some(("False", "")), Some("Ready is False")),
            (Some(("true", "")), Some("Ready is true")),
            (None, Some("the Node has no Ready condition")),
        ] {
            let other = Condition {
                kind: "DiskPressure".into(),
                status: "True".into(),
                ..Default::default()
            };
            let ready = ready.map(|(status, reason)| Condition {
                kind: "Ready".into(),
                status: status.into(),
                reason: reason.into(),
                ..Default::default()
            });
            let node = Node {
                conditions: [other].into_iter().chain(ready.clone()).collect(),
                ..Node::default()
            };
            let expected = expected.map_or(Outcome::Pass, |why| Outcome::Fail(why.to_owned()));
            assert_eq!(judge(&node, &Policy::default()), expected, "{ready:?}");
        }
    }
}
