//! Silence is never green: a condition that the agent published and does not renew any more is set to Unknown.

use jiff::{SignedDuration, Timestamp};

use super::super::world::{Node, World};

/// Reason of a condition that was set to Unknown because nothing was heard of its writer.
pub const SILENT: &str = "AgentIsSilent";

/// The agent's conditions, each with the reasons that are its own: node-problem-detector has one of the types too.
const OURS: [(&str, [&str; 3]); 3] = [
    ("ReadonlyFilesystem", ["FilesystemIsReadOnly", "FilesystemIsNotReadOnly", "CannotTell"]),
    ("DiskIOError", ["DiskHasIOErrors", "DiskHasNoIOErrors", "CannotTell"]),
    ("DiskStalled", ["DiskIsStalled", "DiskIsNotStalled", "CannotTell"]),
];

/// A node with conditions to set to Unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silent {
    /// The node.
    pub node: String,
    /// Its resource version.
    pub resource_version: String,
    /// Types of the conditions, and the message of each.
    pub conditions: Vec<(String, String)>,
}

/// Which conditions are to be set to Unknown now, and how long until to ask again.
///
/// Age counts from when a heartbeat was first seen here, by our own steady clock: the clocks of nodes differ. It counts
/// from `since` at the earliest, when this replica began to lead and to see: while the API server took no writes, no
/// agent could renew anything, and that is not its silence.
#[must_use]
pub fn silent(
    world: &World,
    limit: SignedDuration,
    since: Timestamp,
    now: Timestamp,
) -> (Vec<Silent>, Option<SignedDuration>) {
    let mut silent = Vec::new();
    let mut soonest: Option<SignedDuration> = None;
    for node in world.nodes.values() {
        let mut conditions = Vec::new();
        for (kind, reasons) in OURS {
            let Some(condition) = node.condition(kind) else { continue };
            if *condition.status == *"Unknown" || !reasons.contains(&&*condition.reason) {
                continue;
            }
            let ends = condition.heard.max(since).checked_add(limit).unwrap_or(Timestamp::MAX);
            if now < ends {
                let left = ends.duration_since(now);
                soonest = Some(soonest.map_or(left, |soonest| soonest.min(left)));
                continue;
            }
            let last = condition.heartbeat.map_or_else(|| "never".to_owned(), |at| at.to_string());
            let message =
                format!("The agent does not renew this condition, its last heartbeat was {last}");
            conditions.push((kind.to_owned(), message));
        }
        if !conditions.is_empty() {
            silent.push(entry(node, conditions));
        }
    }
    (silent, soonest)
}

fn entry(node: &Node, conditions: Vec<(String, String)>) -> Silent {
    Silent {
        node: node.name.to_string(),
        resource_version: node.resource_version.clone(),
        conditions,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{super::super::world::Condition, *};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn world(kind: &str, status: &str, reason: &str, heard: i64) -> World {
        let condition = Condition {
            kind: kind.into(),
            status: status.into(),
            reason: reason.into(),
            message: "".into(),
            since: Some(at(0)),
            heartbeat: Some(at(0)),
            heard: at(heard),
        };
        let node = Node { name: "n".into(), conditions: [condition].into(), ..Node::default() };
        World { nodes: [("n".into(), Arc::new(node))].into(), ..World::default() }
    }

    #[test]
    fn only_our_conditions_that_nobody_renews_are_silent() {
        let limit = SignedDuration::from_mins(15);
        // (type, status, reason, heard, acts since, now, silent, seconds left)
        let cases = [
            ("DiskIOError", "False", "DiskHasNoIOErrors", 0, 0, 899, false, Some(1)),
            ("DiskIOError", "False", "DiskHasNoIOErrors", 0, 0, 900, true, None),
            ("DiskIOError", "True", "DiskHasIOErrors", 0, 0, 900, true, None),
            ("ReadonlyFilesystem", "False", "FilesystemIsNotReadOnly", 0, 0, 900, true, None),
            // node-problem-detector's, and kubelet's.
            ("ReadonlyFilesystem", "False", "FilesystemIsFine", 0, 0, 9000, false, None),
            ("Ready", "True", "KubeletReady", 0, 0, 9000, false, None),
            // Already told.
            ("DiskIOError", "Unknown", "AgentIsSilent", 0, 0, 9000, false, None),
            // Nobody could renew anything before this replica led and saw the cluster.
            ("DiskIOError", "False", "DiskHasNoIOErrors", 0, 8990, 9000, false, Some(890)),
            ("DiskIOError", "False", "DiskHasNoIOErrors", 0, 8100, 9000, true, None),
        ];
        for (kind, status, reason, heard, since, now, is_silent, left) in cases {
            let world = world(kind, status, reason, heard);
            let (found, wait) = silent(&world, limit, at(since), at(now));
            assert_eq!(!found.is_empty(), is_silent, "{kind} {status} {reason} {now}");
            assert_eq!(wait.map(|wait| wait.as_secs()), left, "{kind} {status} {reason} {now}");
        }
    }
}
