//! Looking at everything once, after events that the agent knows it has missed.

use std::collections::BTreeSet;

use super::{
    state::Ledger,
    types::{Lookout, Mono, Now, Probed},
};
use crate::{
    kernel::probe::{Probe, Root},
    model::Dev,
};

/// 5 s, in nanoseconds, until a filesystem is asked again that gave no answer: as long as a disk may stand before it counts
/// as stalled.
const ASK_AGAIN: Mono = 5_000_000_000;

impl Ledger {
    /// Asks for a snapshot's and every filesystem's word, because events were missed. Until all have answered,
    /// [`missed`](Self::missed) says why.
    pub fn look_everywhere(&mut self, why: String) {
        self.lookout = Some(Lookout { why, pending: None });
        self.version += 1;
    }

    /// Which events were missed, while what they may have told is being looked for.
    #[must_use]
    pub fn missed(&self) -> Option<String> {
        let Lookout { why, pending } = self.lookout.as_ref()?;
        Some(match pending {
            None => format!("{why}: looking at every filesystem"),
            Some(pending) => {
                format!("{why}: {} filesystems have not been looked at", pending.len())
            }
        })
    }

    /// Asks for a probe of every filesystem, if a look was asked for before this snapshot; forgets those that are not
    /// mounted any more.
    pub(super) fn look_out(&mut self, now: Now) {
        let Some(lookout) = &mut self.lookout else { return };
        let superblocks = &mut self.superblocks;
        if let Some(pending) = &mut lookout.pending {
            pending.retain(|dev| superblocks.contains_key(dev));
        } else {
            let table = &self.table;
            let filesystems = table.filesystems.values().filter(|filesystem| !filesystem.is_swap());
            let pending: BTreeSet<Dev> = filesystems.map(|filesystem| filesystem.dev).collect();
            for dev in &pending {
                if let Some(known) = superblocks.get_mut(dev) {
                    known.probes.skip_write = false;
                    known.probes.request(now.mono);
                }
            }
            lookout.pending = Some(pending);
            self.version += 1;
        }
        self.end_lookout();
    }

    /// Counts the answer of a probe.
    pub(super) fn looked_at(&mut self, probed: &Probed, now: Now) {
        let pending = self.lookout.as_ref().and_then(|lookout| lookout.pending.as_ref());
        if !pending.is_some_and(|pending| pending.contains(&probed.dev)) {
            return;
        }
        // One that gave no answer is asked again, and stays unknown until then.
        if matches!(probed.write, Some(Probe::Late)) || probed.root == Root::Late {
            if let Some(known) = self.superblocks.get_mut(&probed.dev) {
                known.probes.skip_write = false;
                known.probes.due.insert(now.mono + ASK_AGAIN);
            }
            return;
        }
        if let Some(pending) = self.lookout.as_mut().and_then(|lookout| lookout.pending.as_mut())
            && pending.remove(&probed.dev)
        {
            self.version += 1;
        }
        self.end_lookout();
    }

    fn end_lookout(&mut self) {
        let pending = self.lookout.as_ref().and_then(|lookout| lookout.pending.as_ref());
        if pending.is_some_and(BTreeSet::is_empty) {
            self.lookout = None;
            self.version += 1;
        }
    }
}
