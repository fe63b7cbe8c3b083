//! Looking at everything once, after events that the agent knows it has missed.

use std::collections::BTreeSet;

use super::{
    state::Ledger,
    types::{Lookout, Mono, Now, Probed},
};
use crate::{
    kernel::{
        probe::{Probe, Root},
        sampling::mounts::Filesystem,
    },
    model::{Dev, Scope},
};

/// 5 s, in nanoseconds, until a filesystem is asked again that gave no answer: as long as a disk may stand before it counts
/// as stalled.
const ASK_AGAIN: Mono = 5_000_000_000;

impl Ledger {
    /// Asks for a snapshot's and every filesystem's word, because events were missed. Until all have answered,
    /// [`missed`](Self::missed) says why.
    pub fn look_everywhere(&mut self, why: String) {
        self.lookout = Some(Lookout { why, pending: None, asked: 0 });
        self.version += 1;
    }

    /// Which events were missed, while what they may have told is being looked for.
    #[must_use]
    pub fn missed(&self) -> Option<String> {
        let Lookout { why, pending, asked: _ } = self.lookout.as_ref()?;
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
            // What the operator ignores may hang for ever, and is not written to.
            let filesystems = table
                .filesystems
                .values()
                .filter(|filesystem| !filesystem.is_swap() && filesystem.scope() != Scope::Ignored);
            let pending: BTreeSet<Dev> = filesystems.map(|filesystem| filesystem.dev).collect();
            for dev in &pending {
                if let Some(known) = superblocks.get_mut(dev) {
                    known.probes.skip_write = false;
                    known.probes.request(now.mono);
                }
            }
            (lookout.pending, lookout.asked) = (Some(pending), now.mono);
            self.version += 1;
        }
        self.end_lookout();
    }

    /// The filesystems whose answer is waited for: their test writes have to reach the disk.
    pub(super) fn looked_for(&self) -> impl Iterator<Item = Dev> {
        let pending = self.lookout.iter().filter_map(|lookout| lookout.pending.as_ref());
        pending.flatten().copied()
    }

    /// Counts the answer of a probe.
    pub(super) fn looked_at(&mut self, probed: &Probed, now: Now) {
        if !self.looked_for().any(|dev| dev == probed.dev) {
            return;
        }
        let is_late = matches!(probed.write, Some(Probe::Late)) || probed.root == Root::Late;
        let is_older = self.lookout.as_ref().is_some_and(|lookout| probed.started < lookout.asked);
        let can_be_written = |f: &Filesystem| f.is_writable_type() && !f.read_only;
        let filesystem = self.table.filesystems.get(&probed.dev);
        let only_looked = probed.write.is_none() && filesystem.is_some_and(can_be_written);
        // One that gave no answer, or another one, is asked again, and stays unknown until then.
        if is_late || is_older || only_looked {
            if let Some(known) = self.superblocks.get_mut(&probed.dev) {
                known.probes.skip_write = false;
                known.probes.due.insert(now.mono + if is_late { ASK_AGAIN } else { 0 });
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
