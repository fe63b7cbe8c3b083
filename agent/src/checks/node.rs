//! What the checks of the Node object have in common: the way from the cluster's word to an outcome, also
//! when there is none.

use std::{sync::Arc, time::Instant};

use humantime::format_rfc3339_seconds;

use super::{CheckContext, Policy};
use crate::model::{Link, Node, NodeView, Outcome, Word};

/// What the checks of the Node object say while the API server cannot be heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnApiLoss {
    /// They pass, degraded: a dead control plane must not empty the pool.
    #[default]
    Open,
    /// They go on saying what they said last: what was not ready stays out. Before the first word, as `open`.
    LastKnown,
    /// They fail.
    Closed,
}

/// The outcome of every check of the Node on that word, for the log.
#[must_use]
pub fn verdicts(word: &Word, policy: &Arc<Policy>) -> Vec<(&'static str, Outcome)> {
    let node = Arc::new(NodeView { link: Link::Up, last: Some(word.clone()) });
    let context = CheckContext { node, ..CheckContext::new(policy.clone(), Instant::now()) };
    let of_node = policy.all().filter(|check| check.needs_node_name());
    of_node.map(|check| (check.name, context.outcome(check))).collect()
}

impl CheckContext {
    /// What `judge` makes of the Node, or what the policy makes of not knowing it.
    pub(super) fn node_outcome(&self, judge: fn(&Node, &Policy) -> Outcome) -> Outcome {
        let of = |word: &Word| match &word.node {
            Some(node) => judge(node, &self.policy),
            None => Outcome::Fail(format!(
                "the cluster has no Node named {:?}",
                self.policy.node_name.as_deref().unwrap_or_default()
            )),
        };
        let why = match (&self.node.link, &self.node.last) {
            (Link::None, _) => return Outcome::Unknown("no cluster is configured".to_owned()),
            (Link::Up, Some(word)) => return of(word),
            (Link::Up | Link::Awaited, _) => "the Kubernetes API has not answered yet".to_owned(),
            (Link::Lost { since, why }, _) => {
                format!("Kubernetes API lost since {}: {why}", format_rfc3339_seconds(*since))
            }
        };
        match (self.policy.on_api_loss, &self.node.last) {
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
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, SystemTime};

    use OnApiLoss::{Closed, LastKnown, Open};
    use Outcome::{Degraded, Fail, Pass, Unknown};

    use super::*;
    use crate::{
        checks::{find, tests::context},
        model::FaultView,
    };

    const LOST: &str = "Kubernetes API lost since 1970-01-01T00:01:00Z: refused";
    const LAST: &str = "last known, of 1970-01-01T00:00:00Z; ";

    /// What the check says of that Node, on a link that is up.
    pub(crate) fn judge(check: &str, node: Option<Node>, policy: &Policy) -> Outcome {
        let last = Some(Word { at: SystemTime::UNIX_EPOCH, node });
        judge_view(check, &NodeView { link: Link::Up, last }, policy)
    }

    fn judge_view(check: &str, view: &NodeView, policy: &Policy) -> Outcome {
        context(FaultView::default(), view.clone(), policy).outcome(find(check).unwrap())
    }

    #[test]
    fn a_loss_is_judged_by_policy() {
        let good = || Some(Word { at: SystemTime::UNIX_EPOCH, node: Some(ready("True")) });
        let bad = || Some(Word { at: SystemTime::UNIX_EPOCH, node: Some(ready("False")) });
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
            (Open, Link::Up, bad(), Fail("KubeletNotReady".into())),
            (Open, Link::Up, absent(), Fail("the cluster has no Node named \"n\"".into())),
            (Open, lost(), good(), Unknown(LOST.into())),
            (Open, lost(), bad(), Unknown(LOST.into())),
            (Open, lost(), None, Unknown(LOST.into())),
            (LastKnown, lost(), good(), Degraded(format!("{LAST}{LOST}"))),
            (LastKnown, lost(), bad(), Fail(format!("KubeletNotReady ({LAST}{LOST})"))),
            (LastKnown, lost(), None, Unknown(LOST.into())),
            (Closed, lost(), good(), Fail(LOST.into())),
            (Closed, lost(), None, Fail(LOST.into())),
            (Open, Link::Awaited, None, Unknown(not_yet())),
            (LastKnown, Link::Awaited, None, Unknown(not_yet())),
            (Closed, Link::Awaited, None, Fail(not_yet())),
            (Closed, Link::None, None, Unknown("no cluster is configured".into())),
        ] {
            let policy = Policy { node_name: Some("n".into()), on_api_loss, ..Policy::default() };
            let view = NodeView { link, last };
            assert_eq!(
                judge_view("node_ready", &view, &policy),
                expected,
                "{on_api_loss:?} {view:?}"
            );
        }
    }

    fn ready(status: &str) -> Node {
        let condition = crate::model::Condition {
            kind: "Ready".into(),
            status: status.into(),
            reason: "KubeletNotReady".into(),
            ..Default::default()
        };
        Node { conditions: vec![condition], ..Node::default() }
    }
}
