//! `io_errors`: no watched device or filesystem has an open I/O fault.

use super::{Check, Kind, Known, OnUnknown};
use crate::model::Outcome;

pub(super) const CHECK: Check = Check {
    name: "io_errors",
    passes_when: "no disk under a mounted filesystem gives I/O errors, and no filesystem found errors in itself",
    on_unknown: OnUnknown::Pass,
    needs_node_name: false,
    kind: Kind::Signal(judge),
};

fn judge(known: &Known<'_>) -> Outcome {
    let blind_spot = match (&known.kernel.no_events, &known.kernel.no_block_events) {
        (Some(why), _) => {
            Some(format!("only errors that filesystems report in sysfs are seen: {why}"))
        }
        (None, Some(why)) => Some(why.clone()),
        (None, None) => None,
    };
    known.kernel_outcome(CHECK.name, blind_spot)
}
