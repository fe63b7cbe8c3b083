//! `filesystem_ro`: no watched filesystem lost its ability to be written.

use super::{Check, CheckSource, OnUnknown};
use crate::model::{BlindSpot, BlindSpots};

pub(super) const CHECK: Check = Check {
    name: "filesystem_ro",
    passes_when: "no filesystem on a disk lost its ability to be written",
    on_unknown: OnUnknown::Pass,
    source: CheckSource::Kernel(blind_spot),
};

fn blind_spot(blind_spots: &BlindSpots) -> Option<String> {
    // Without events the mount table still shows most losses, but not all, and later.
    let why = |spot| blind_spots.get(spot);
    let polling = why(BlindSpot::NoEvents).map(|why| format!("seen by polling only: {why}"));
    let unprobed = || why(BlindSpot::Unprobed).or_else(|| why(BlindSpot::Missed));
    let others = || why(BlindSpot::HooksFailed).or_else(unprobed);
    polling.or_else(|| others().map(str::to_owned))
}
