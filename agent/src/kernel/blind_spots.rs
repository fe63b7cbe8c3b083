//! What the kernel side cannot see: the one place where its parts are asked.

use super::{ledger::Ledger, loader::Loader, wake::Hooks};
use crate::model::{BlindSpot, BlindSpots};

/// Collects the blind spots of the mount table's reader (`unread`: why nothing can be said), of the hooks (or why
/// there are none) and of the ledger.
pub(super) fn blind_spots(
    unread: Option<&str>,
    hooks: &Result<Hooks, String>,
    ledger: &Ledger,
) -> BlindSpots {
    let loader = hooks.as_ref().ok().map(|hooks| &hooks.loader);
    BlindSpots::from_iter([
        (BlindSpot::Blind, unread.map(str::to_owned)),
        (BlindSpot::NoEvents, hooks.as_ref().err().cloned()),
        (BlindSpot::NoBlockEvents, loader.and_then(Loader::blind_to_block_errors)),
        (BlindSpot::HooksFailed, loader.and_then(Loader::failed)),
        (BlindSpot::Unwatched, ledger.unwatched()),
        (BlindSpot::Unprobed, ledger.unprobed()),
    ])
}
