//! What the kernel side cannot see: the one place that asks its parts.

use super::{
    ebpf::{EventSource, loader::Loader},
    ledger::Ledger,
};
use crate::model::{BlindSpot, BlindSpots};

/// Collects the blind spots of the sampler (`blind`: why nothing is known), of the hooks (`source`: the loaded programs,
/// or why there are none) and of the ledger. A new blind spot is an entry here and in [`BlindSpot`].
pub(super) fn blind_spots(
    blind: Option<&str>,
    source: Result<&EventSource, &str>,
    ledger: &Ledger,
) -> BlindSpots {
    let loader = source.ok().map(EventSource::loader);
    BlindSpots::from_iter([
        (BlindSpot::Blind, blind.map(str::to_owned)),
        (BlindSpot::NoEvents, source.err().map(str::to_owned)),
        (BlindSpot::NoBlockEvents, loader.and_then(Loader::blind_to_block_errors)),
        (BlindSpot::HooksFailed, loader.and_then(Loader::failed)),
        (BlindSpot::Unwatched, ledger.unwatched()),
        (BlindSpot::Unprobed, ledger.unprobed()),
        (BlindSpot::Missed, ledger.missed()),
    ])
}
