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

/// Which conditions are to be set to Unknown now, and when to ask again.
///
/// Age counts from when a heartbeat was first seen here, by our own clock: the clocks of nodes differ.
#[must_use]
pub fn silent(
    world: &World,
    limit: SignedDuration,
    now: Timestamp,
) -> (Vec<Silent>, Option<Timestamp>) {
    let mut silent = Vec::new();
    let mut wake: Option<Timestamp> = None;
    for node in world.nodes.values() {
        let mut conditions = Vec::new();
        for (kind, reasons) in OURS {
            let Some(condition) = node.condition(kind) else { continue };
            if *condition.status == *"Unknown" || !reasons.contains(&&*condition.reason) {
                continue;
            }
            let ends = condition.heard.checked_add(limit).unwrap_or(Timestamp::MAX);
            if now < ends {
                wake = Some(wake.map_or(ends, |wake| wake.min(ends)));
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
    (silent, wake)
}

fn entry(node: &Node, conditions: Vec<(String, String)>) -> Silent {
    Silent {
        node: node.name.to_string(),
        resource_version: node.resource_version.clone(),
        conditions,
    }
}
