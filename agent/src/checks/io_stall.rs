//! `io_stall`: no watched device has I/O in flight that does not move.

use super::{Check, CheckSource, OnUnknown};
use crate::model::BlindSpots;

pub(super) const CHECK: Check = Check {
    name: "io_stall",
    passes_when: "no disk under a mounted filesystem has I/O in flight that has not moved for IO_STALL_AFTER",
    on_unknown: OnUnknown::Pass,
    source: CheckSource::Kernel(blind_spot),
};

fn blind_spot(_blind_spots: &BlindSpots) -> Option<String> {
    // Stalls are sampled from sysfs, which needs no events.
    None
}
