//! Whether a node is healthy, by its conditions.

use jiff::{SignedDuration, Timestamp};

use super::super::{
    crd::{GoDuration, UnhealthyCondition},
    world::{Condition, Node},
};

/// Whether a node is healthy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health<'a> {
    /// No unhealthy condition is the case.
    Healthy,
    /// One is, but not for long enough; it will be at this moment.
    Soon(Timestamp, &'a Condition),
    /// One is, for long enough since this moment.
    Unhealthy(Timestamp, &'a Condition),
}

/// What is unhealthy where the spec does not say: what the API server fills in.
#[must_use]
pub(super) fn default_conditions() -> Vec<UnhealthyCondition> {
    ["False", "Unknown"]
        .map(|status| UnhealthyCondition {
            type_: "Ready".to_owned(),
            status: status.to_owned(),
            duration: GoDuration::from("300s"),
        })
        .to_vec()
}

/// Whether `node` is healthy by `conditions`.
///
/// The first condition of the list that is the case for long enough is the one that is told of. One that is not
/// yet long enough never hides one that is.
#[must_use]
pub(super) fn judge<'a>(
    node: &'a Node,
    conditions: &[UnhealthyCondition],
    now: Timestamp,
) -> Health<'a> {
    let mut soon: Option<(Timestamp, &Condition)> = None;
    let mut unhealthy: Option<(Timestamp, &Condition)> = None;
    for wanted in conditions {
        let Some(condition) = node.condition(&wanted.type_) else { continue };
        if *condition.status != *wanted.status {
            continue;
        }
        let ends = ends(condition.since, wanted.duration.get());
        if now > ends {
            let (since, first) = unhealthy.unwrap_or((ends, condition));
            unhealthy = Some((since.min(ends), first));
        } else if soon.is_none_or(|(at, _)| ends < at) {
            soon = Some((ends, condition));
        }
    }
    match (unhealthy, soon) {
        (Some((since, condition)), _) => Health::Unhealthy(since, condition),
        (None, Some((at, condition))) => Health::Soon(at, condition),
        (None, None) => Health::Healthy,
    }
}

/// When a condition has lasted for `duration`. One without a beginning has lasted for ever.
fn ends(since: Option<Timestamp>, duration: SignedDuration) -> Timestamp {
    match since {
        Some(since) => since.checked_add(duration).unwrap_or(Timestamp::MAX),
        None => Timestamp::MIN,
    }
}

/// What would help a node in this condition, as far as it tells: its message may end in `hint: WORD`, as the agent's
/// does. Node-problem-detector's reason for a read-only filesystem is known too.
#[must_use]
pub fn hint(condition: &Condition) -> Option<&'static str> {
    const HINTS: [&str; 3] = ["reboot", "replace", "volume-only"];
    let said =
        condition.message.rsplit_once("hint: ").map(|(_, word)| word.trim_end_matches(['.', ')']));
    if let Some(hint) = HINTS.into_iter().find(|hint| said == Some(hint)) {
        return Some(hint);
    }
    match &*condition.reason {
        "FilesystemIsReadOnly" => Some("reboot"),
        _ => None,
    }
}
