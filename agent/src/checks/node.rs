//! What the checks of the Node object have in common: the outcome while the API server cannot be reached. Pure.

use humantime::format_rfc3339_seconds;

use crate::model::{ApiState, Node, NodeObservation, NodeView, Outcome};

/// The outcome of the Node's checks while the API server cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnApiLoss {
    /// The checks pass, degraded: a dead control plane must not empty the load balancer's pool.
    #[default]
    Open,
    /// The checks keep their last outcome, so a node that was not ready stays out. Before the first answer of the API
    /// server, as `open`.
    LastKnown,
    /// The checks fail.
    Closed,
}

/// What `judge` makes of the Node, or what the policy makes of not knowing it. `name` is the Node's, for the reason.
pub(super) fn outcome(
    view: &NodeView,
    name: &str,
    on_api_loss: OnApiLoss,
    judge: impl Fn(&Node) -> Outcome,
) -> Outcome {
    let of = |observation: &NodeObservation| match &observation.node {
        Some(node) => judge(node),
        None => Outcome::Fail(format!("the cluster has no Node named {name:?}")),
    };
    let why = match (&view.api, &view.last) {
        (ApiState::NotConfigured, _) => {
            return Outcome::Unknown("no cluster is configured".to_owned());
        }
        (ApiState::Up, Some(observation)) => return of(observation),
        (ApiState::Up | ApiState::Pending, _) => {
            "the Kubernetes API has not answered yet".to_owned()
        }
        (ApiState::Lost { since, error }, _) => {
            format!("Kubernetes API lost since {}: {error}", format_rfc3339_seconds(*since))
        }
    };
    match (on_api_loss, &view.last) {
        (OnApiLoss::Closed, _) => Outcome::Fail(why),
        (OnApiLoss::LastKnown, Some(observation)) => {
            let heard = format_rfc3339_seconds(observation.at);
            match of(observation) {
                Outcome::Fail(reason) => {
                    Outcome::Fail(format!("{reason} (last known, of {heard}; {why})"))
                }
                _ => Outcome::Degraded(format!("last known, of {heard}; {why}")),
            }
        }
        (OnApiLoss::Open, _) | (OnApiLoss::LastKnown, None) => Outcome::Unknown(why),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use OnApiLoss::{Closed, LastKnown, Open};
    use Outcome::{Degraded, Fail, Pass, Unknown};

    use super::*;

    const LOST: &str = "Kubernetes API lost since 1970-01-01T00:01:00Z: refused";
    const LAST: &str = "last known, of 1970-01-01T00:00:00Z; ";

    #[test]
    fn a_loss_is_judged_by_policy() {
        let good =
            || Some(NodeObservation { at: SystemTime::UNIX_EPOCH, node: Some(Node::default()) });
        let bad = || {
            Some(NodeObservation {
                at: SystemTime::UNIX_EPOCH,
                node: Some(Node { unschedulable: true, ..Node::default() }),
            })
        };
        let absent = || Some(NodeObservation { at: SystemTime::UNIX_EPOCH, node: None });
        let lost = || ApiState::Lost {
            since: SystemTime::UNIX_EPOCH + Duration::from_mins(1),
            error: "refused".into(),
        };
        let not_yet = || "the Kubernetes API has not answered yet".to_owned();
        // (policy, state of the API server, last observation, outcome)
        for (on_api_loss, api, last, expected) in [
            (Open, ApiState::Up, good(), Pass),
            (Closed, ApiState::Up, good(), Pass),
            (Open, ApiState::Up, bad(), Fail("cordoned".into())),
            (Open, ApiState::Up, absent(), Fail("the cluster has no Node named \"n\"".into())),
            (Open, lost(), good(), Unknown(LOST.into())),
            (Open, lost(), bad(), Unknown(LOST.into())),
            (Open, lost(), None, Unknown(LOST.into())),
            (LastKnown, lost(), good(), Degraded(format!("{LAST}{LOST}"))),
            (LastKnown, lost(), bad(), Fail(format!("cordoned ({LAST}{LOST})"))),
            (LastKnown, lost(), None, Unknown(LOST.into())),
            (Closed, lost(), good(), Fail(LOST.into())),
            (Closed, lost(), None, Fail(LOST.into())),
            (Open, ApiState::Pending, None, Unknown(not_yet())),
            (LastKnown, ApiState::Pending, None, Unknown(not_yet())),
            (Closed, ApiState::Pending, None, Fail(not_yet())),
            (Closed, ApiState::NotConfigured, None, Unknown("no cluster is configured".into())),
        ] {
            let view = NodeView { api, last };
            let found = outcome(&view, "n", on_api_loss, uncordoned);
            assert_eq!(found, expected, "{on_api_loss:?} {view:?}");
        }
    }

    fn uncordoned(node: &Node) -> Outcome {
        if node.unschedulable { Fail("cordoned".into()) } else { Pass }
    }
}
