//! `filesystem_ro`: no watched filesystem lost its ability to be written.

use super::{Check, CheckSource, OnUnknown};
use crate::model::FaultView;

pub(super) const CHECK: Check = Check {
    name: "filesystem_ro",
    passes_when: "no filesystem on a disk lost its ability to be written",
    on_unknown: OnUnknown::Pass,
    source: CheckSource::Kernel(blind_spot),
};

fn blind_spot(kernel: &FaultView) -> Option<String> {
    // Without events the mount table still shows most losses, but not all, and later.
    let polling = kernel.no_events.as_ref().map(|why| format!("seen by polling only: {why}"));
    polling.or_else(|| kernel.hooks_failed.clone()).or_else(|| kernel.unprobed.clone())
}
