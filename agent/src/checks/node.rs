//! What the checks of the Node object have in common: the outcome while the API server cannot be reached. Pure.

use humantime::format_rfc3339_seconds;

use crate::model::{Link, Node, NodeView, Outcome, Word};

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
    let of = |word: &Word| match &word.node {
        Some(node) => judge(node),
        None => Outcome::Fail(format!("the cluster has no Node named {name:?}")),
    };
    let why = match (&view.link, &view.last) {
        (Link::None, _) => return Outcome::Unknown("no cluster is configured".to_owned()),
        (Link::Up, Some(word)) => return of(word),
        (Link::Up | Link::Awaited, _) => "the Kubernetes API has not answered yet".to_owned(),
        (Link::Lost { since, why }, _) => {
            format!("Kubernetes API lost since {}: {why}", format_rfc3339_seconds(*since))
        }
    };
    match (on_api_loss, &view.last) {
        (OnApiLoss::Closed, _) => Outcome::Fail(why),
        (OnApiLoss::LastKnown, Some(word)) => {
            let heard = format_rfc3339_seconds(word.at);
            match of(word) {
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
        let good = || Some(Word { at: SystemTime::UNIX_EPOCH, node: Some(Node::default()) });
        let bad = || {
            Some(Word {
                at: SystemTime::UNIX_EPOCH,
                node: Some(Node { unschedulable: true, ..Node::default() }),
            })
        };
        let absent = || Some(Word { at: SystemTime::UNIX_EPOCH, node: None });
        let lost = || Link::Lost {
            since: SystemTime::UNIX_EPOCH + Duration::from_mins(1),
            why: "refused".into(),
        };
        let not_yet = || "the Kubernetes API has not answered yet".to_owned();
        // (policy, link, last word, outcome)
        for (on_api_loss, link, last, expected) in [
            (Open, Link::Up, good(), Pass),
            (Closed, Link::Up, good(), Pass),
            (Open, Link::Up, bad(), Fail("cordoned".into())),
            (Open, Link::Up, absent(), Fail("the cluster has no Node named \"n\"".into())),
            (Open, lost(), good(), Unknown(LOST.into())),
            (Open, lost(), bad(), Unknown(LOST.into())),
            (Open, lost(), None, Unknown(LOST.into())),
            (LastKnown, lost(), good(), Degraded(format!("{LAST}{LOST}"))),
            (LastKnown, lost(), bad(), Fail(format!("cordoned ({LAST}{LOST})"))),
            (LastKnown, lost(), None, Unknown(LOST.into())),
            (Closed, lost(), good(), Fail(LOST.into())),
            (Closed, lost(), None, Fail(LOST.into())),
            (Open, Link::Awaited, None, Unknown(not_yet())),
            (LastKnown, Link::Awaited, None, Unknown(not_yet())),
            (Closed, Link::Awaited, None, Fail(not_yet())),
            (Closed, Link::None, None, Unknown("no cluster is configured".into())),
        ] {
            let view = NodeView { link, last };
            let found = outcome(&view, "n", on_api_loss, uncordoned);
            assert_eq!(found, expected, "{on_api_loss:?} {view:?}");
        }
    }

    fn uncordoned(node: &Node) -> Outcome {
        if node.unschedulable { Fail("cordoned".into()) } else { Pass }
    }
}
