//! An operator clears a fault with `tocsin faults clear`.

use std::collections::BTreeSet;

use super::{
    state::Ledger,
    superblock::Lost,
    types::{Mono, Now},
    view::fault_id,
};
use crate::model::{Dev, FaultKind};

/// 100 ms after a clear until ext4's count of errors is the new baseline: ext4 updates it some milliseconds after the
/// tracepoint, from a worker.
const COUNTED_WITHIN: Mono = 100_000_000;

impl Ledger {
    /// Clears the fault with this id; false if there is none. What is still wrong opens a new fault with its next event.
    /// A state that merely goes on (read-only, a stall) is accepted until it changes.
    pub fn clear(&mut self, id: &str, now: Now) -> bool {
        let found = self.faults.keys().copied().find(|(kind, dev)| fault_id(*kind, *dev) == id);
        let Some((kind, dev)) = found else { return false };
        // Events that the kernel has counted and that have not arrived belong to the cleared fault.
        let affected: BTreeSet<Dev> =
            self.table.users(dev).map(|user| user.filesystem.dev).collect();
        for ((_, counted), handled) in &mut self.handled {
            let mut users = self.table.users(*counted);
            if *counted == dev || users.any(|user| affected.contains(&user.filesystem.dev)) {
                *handled = now.mono.max(*handled);
            }
        }
        self.close((kind, dev));
        match kind {
            FaultKind::FilesystemRo | FaultKind::FilesystemError => {
                self.accept_superblock(dev, kind, now);
            }
            FaultKind::IoError => {}
            FaultKind::IoStall => {
                if let Some(progress) = self.progress.get_mut(&dev) {
                    progress.accepted = true;
                }
            }
        }
        true
    }

    /// Accepts a filesystem as it is.
    fn accept_superblock(&mut self, dev: Dev, kind: FaultKind, now: Now) {
        let Some(known) = self.superblocks.get_mut(&dev) else { return };
        known.accepted_at = now.mono;
        known.baseline_after = now.mono + COUNTED_WITHIN;
        known.ext4 = None;
        known.btrfs = None;
        known.probes.due.clear();
        // The probe of a device that is being verified may be among those forgotten: it is verified again.
        self.verifying.retain(|_, (_, users)| !users.contains(&dev));
        if kind == FaultKind::FilesystemRo {
            known.loss_accepted = true;
            known.accepted = known.lost.level;
            known.lost = Lost::default();
        }
    }
}
