//! `custom_conditions`: no condition of the operator's list has its bad status.

use tocsin_runtime::text::one_line;

use super::{Check, CheckSource, OnUnknown, Policy};
use crate::model::{Node, Outcome};

pub(super) const CHECK: Check = Check {
    name: "custom_conditions",
    passes_when: "no condition of the Node that is in `CUSTOM_CONDITIONS` has its bad status",
    on_unknown: OnUnknown::Pass,
    source: CheckSource::Node(judge),
};

/// 200 characters of a condition's message are shown.
const MESSAGE_SHOWN: usize = 200;

fn judge(node: &Node, policy: &Policy) -> Outcome {
    let mut found = policy.custom_conditions.iter().filter_map(|bad| {
        node.condition(&bad.kind).filter(|condition| condition.status == bad.status)
    });
    let Some(first) = found.next() else { return Outcome::Pass };
    let mut reason = format!("{} is {}", first.kind, first.status);
    let message = one_line(&first.message, MESSAGE_SHOWN);
    for detail in [&first.reason, &message].into_iter().filter(|detail| !detail.is_empty()) {
        reason = format!("{reason}: {detail}");
    }
    match found.count() {
        0 => Outcome::Fail(reason),
        more => Outcome::Fail(format!("{reason} (and {more} more)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{checks::BadCondition, model::Condition};

    fn list(text: &str) -> Vec<BadCondition> {
        text.split(',').map(|part| part.parse().unwrap()).collect()
    }

    #[test]
    fn the_listed_status_fails_and_nothing_else() {
        let node = |conditions: &[(&str, &str, &str, &str)]| Node {
            conditions: conditions
                .iter()
                .map(|(kind, status, reason, message)| Condition {
                    kind: (*kind).into(),
                    status: (*status).into(),
                    reason: (*reason).into(),
                    message: (*message).into(),
                    ..Default::default()
                })
                .collect(),
            ..Node::default()
        };
        let dead = ("KernelDeadlock", "True", "DockerHung", "task docker:7\n blocked");
        let long = "x".repeat(1000);
        // (list, conditions, why it fails)
        for (bad, conditions, expected) in [
            ("KernelDeadlock", &[][..], None),
            ("KernelDeadlock", &[("KernelDeadlock", "False", "", "")], None),
            ("KernelDeadlock", &[("KernelDeadlock", "Unknown", "", "")], None),
            ("Other", &[dead], None),
            (
                "KernelDeadlock",
                &[dead],
                Some("KernelDeadlock is True: DockerHung: task docker:7 blocked".to_owned()),
            ),
            ("Synced=False", &[("Synced", "False", "", "")], Some("Synced is False".to_owned())),
            (
                "A,KernelDeadlock=True,B=Unknown",
                &[dead, ("B", "Unknown", "", "")],
                Some(
                    "KernelDeadlock is True: DockerHung: task docker:7 blocked (and 1 more)"
                        .to_owned(),
                ),
            ),
            ("A", &[("A", "True", "", &long)], Some(format!("A is True: {}", "x".repeat(200)))),
        ] {
            let policy = Policy { custom_conditions: list(bad), ..Policy::default() };
            let expected = expected.map_or(Outcome::Pass, Outcome::Fail);
            assert_eq!(judge(&node(conditions), &policy), expected, "{bad}");
        }
    }
}
