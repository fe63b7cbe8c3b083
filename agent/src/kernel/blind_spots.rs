//! What the kernel side cannot see: the one place that asks its parts.

use super::{
    ebpf::{EventSource, HookReport},
    ledger::Ledger,
    wake_ups::WakeUps,
};
use crate::model::{BlindSpot, BlindSpots};

/// Collects the blind spots of the sampler (`blind`: why nothing is known), of the hooks and of the ledger. A new blind
/// spot is an entry here and in [`BlindSpot`].
pub(super) fn blind_spots(blind: Option<&str>, wake_ups: &WakeUps, ledger: &Ledger) -> BlindSpots {
    let source = wake_ups.source();
    let hooks = source.ok().map(EventSource::hooks);
    let failed = || hooks.and_then(HookReport::failed);
    BlindSpots::from_iter([
        (BlindSpot::Blind, blind.map(str::to_owned)),
        (BlindSpot::NoEvents, source.err().map(str::to_owned)),
        (BlindSpot::NoBlockEvents, hooks.and_then(HookReport::blind_to_block_errors)),
        (BlindSpot::HooksFailed, wake_ups.hooks_overdue().or_else(failed)),
        (BlindSpot::Unwatched, ledger.unwatched()),
        (BlindSpot::Unprobed, ledger.unprobed()),
        (BlindSpot::Missed, ledger.missed()),
    ])
}
