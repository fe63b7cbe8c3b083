//! `filesystem_ro`: no watched filesystem lost its ability to be written.

use super::{Check, Kind, Known, OnUnknown};
use crate::model::Outcome;

pub(super) const CHECK: Check = Check {
    name: "filesystem_ro",
    passes_when: "no filesystem on a disk lost its ability to be written",
    on_unknown: OnUnknown::Pass,
    needs_node_name: false,
    kind: Kind::Signal(judge),
};

fn judge(known: &Known<'_>) -> Outcome {
    // Without events the mount table still shows most losses, but not all, and later.
    let polling = known.kernel.no_events.as_ref().map(|why| format!("seen by polling only: {why}"));
    let others = || known.kernel.hooks_failed.clone().or_else(|| known.kernel.unprobed.clone());
    known.kernel_outcome(CHECK.name, polling.or_else(others))
}
