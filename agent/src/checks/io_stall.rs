//! `io_stall`: no watched device has I/O in flight that does not move.

use super::{Check, Kind, Known, OnUnknown};
use crate::model::Outcome;

pub(super) const CHECK: Check = Check {
    name: "io_stall",
    passes_when: "no disk under a mounted filesystem has I/O in flight that has not moved for IO_STALL_AFTER",
    on_unknown: OnUnknown::Pass,
    needs_node_name: false,
    kind: Kind::Signal(judge),
};

fn judge(known: &Known<'_>) -> Outcome {
    // Sampled from sysfs, which needs no events.
    known.kernel_outcome(CHECK.name, None)
}
