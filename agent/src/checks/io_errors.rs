//! `io_errors`: no watched device or filesystem has an open I/O fault.

use super::{Check, CheckSource, OnUnknown};
use crate::model::{BlindSpot, BlindSpots};

pub(super) const CHECK: Check = Check {
    name: "io_errors",
    passes_when: "no disk under a mounted filesystem gives I/O errors, and no filesystem found errors in itself",
    on_unknown: OnUnknown::Pass,
    source: CheckSource::Kernel(blind_spot),
};

fn blind_spot(blind_spots: &BlindSpots) -> Option<String> {
    let polling = |why| format!("only errors that filesystems report in sysfs are seen: {why}");
    let why = |spot| blind_spots.get(spot);
    let some = || why(BlindSpot::NoBlockEvents).or_else(|| why(BlindSpot::Missed));
    let block_events = || some().map(str::to_owned);
    why(BlindSpot::NoEvents).map(polling).or_else(block_events)
}
