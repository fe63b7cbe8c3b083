//! When a filesystem is probed, and what the result means.

use std::collections::BTreeSet;

use super::{
    probe_schedule::SECOND_PROBE,
    state::Ledger,
    types::{Action, Mono, Now, Probed, nanos},
};
use crate::{
    errno,
    kernel::probe::{Probe, Root},
    model::Dev,
};

/// 50 ms after an event, in nanoseconds, in which the state can still change: ext4 announces an error before it acts on
/// it. A probe that succeeds and began earlier proves nothing.
const SETTLES: Mono = 50_000_000;

impl Ledger {
    /// Takes in the result of an [`Action`].
    pub fn probed(&mut self, probed: &Probed, now: Now) {
        let dev = probed.dev;
        let read_only = self.table.filesystems.get(&dev).is_some_and(|f| f.read_only);
        let Some(known) = self.superblocks.get_mut(&dev) else { return };
        known.probes.running = false;
        if probed.started < known.accepted_at {
            // The probe began before an operator accepted what it found.
            self.start_probes(now);
            return;
        }
        match probed.root {
            Root::Fine => known.lost.root = None,
            Root::Failed(errno) if !known.loss_accepted => known.lost.root = Some(errno),
            Root::Failed(_) | Root::Unreachable | Root::Late => {}
        }
        if let Some(write) = &probed.write {
            let unable = if let Probe::Unable(why) = write { Some(why.clone()) } else { None };
            self.version += u64::from(known.unable != unable);
            known.unable = unable;
        }
        if let Some(event) = known.unexplained
            && !matches!(probed.write, None | Some(Probe::Late))
        {
            known.unexplained = None;
            if !probed.full {
                self.write_was_lost(dev, &event, now);
            }
        }
        let Some(known) = self.superblocks.get_mut(&dev) else { return };
        match probed.write {
            Some(Probe::Writable) => {
                known.loss_accepted = false;
                known.lost.refused = None;
                match known.lost.announced {
                    Some(at) if probed.started < at + SETTLES => {
                        known.probes.due.insert(now.mono + SECOND_PROBE);
                    }
                    _ => known.lost.announced = None,
                }
            }
            Some(Probe::Refused(_)) if known.loss_accepted => {}
            Some(Probe::Refused(errno)) => known.lost.refused = Some(errno),
            Some(Probe::SyncFailed(_)) if !known.sync_failed => {
                // If this very sync made the journal abort, the filesystem refuses the next file. A second probe, at
                // once, tells that from an error of the device.
                known.sync_failed = true;
                known.probes.due.insert(now.mono);
            }
            Some(Probe::SyncFailed(errno)) => {
                let what = format!("a synced write failed: {}", errno::describe(errno));
                let key = self.io_key(dev);
                self.open(key, None, what, "write probe".to_owned(), now);
                self.set_errno(key, errno);
            }
            // It cannot be written, so its root directory is all the evidence there is.
            None if read_only && probed.root == Root::Fine => {
                known.lost.refused = None;
                if known.lost.announced.is_some_and(|at| probed.started >= at + SETTLES) {
                    known.lost.announced = None;
                }
            }
            // No space, no permission, no result in time: these prove nothing.
            Some(Probe::Full | Probe::Unable(_) | Probe::Late) | None => {}
        }
        if let (Some(known), Some(Probe::Writable | Probe::Refused(_))) =
            (self.superblocks.get_mut(&dev), &probed.write)
        {
            known.sync_failed = false;
        }
        self.settle(dev, None, now);
        self.probe_verifies_devices(probed, now);
        self.looked_at(probed, now);
        self.start_probes(now);
    }

    /// Asks for a probe now, whatever the backoff.
    pub(super) fn probe_now(&mut self, dev: Dev, now: Now) {
        if let Some(known) = self.superblocks.get_mut(&dev) {
            known.probes.skip_write = false;
            known.probes.due.insert(now.mono);
        }
    }

    /// Asks for a probe because of an event.
    pub(super) fn request_probe(&mut self, dev: Dev, now: Now) {
        if let Some(known) = self.superblocks.get_mut(&dev) {
            known.probes.skip_write = false;
            // The event may mean a new loss.
            known.loss_accepted = false;
            known.probes.request(now.mono);
        }
        self.start_probes(now);
    }

    /// Makes actions of the probes that are due. Called after every input and at every snapshot.
    pub fn start_probes(&mut self, now: Now) {
        let window = nanos(self.rules.io_error_window);
        let users = self.verifying.values().flat_map(|(_, users)| users).copied();
        let verified: BTreeSet<Dev> = users.chain(self.looked_for()).collect();
        for (dev, known) in &mut self.superblocks {
            let Some(filesystem) = self.table.filesystems.get(dev) else { continue };
            // Only a probe can refute a hidden loss, and no event tells that it is over.
            let writable = filesystem.is_writable_type() && !filesystem.read_only;
            let last = if writable { known.probes.last_write } else { known.probes.last };
            let idle = last.is_none_or(|last| now.mono.saturating_sub(last) >= window);
            if known.lost.is_hidden() && known.lost.level.is_none() && idle {
                known.probes.skip_write = false;
                known.probes.due.insert(now.mono);
            }
            // A write to a filesystem that says it is read-only would prove nothing.
            let write =
                filesystem.is_writable_type() && !filesystem.read_only && !known.probes.skip_write;
            if known.probes.begin(write, now.mono) {
                known.probes.skip_write = false;
                self.actions.push(Action { dev: *dev, write, verify: verified.contains(dev) });
            }
        }
    }

    /// When the next probe is due, in `CLOCK_MONOTONIC` nanoseconds.
    #[must_use]
    pub fn next_probe(&self) -> Option<Mono> {
        let idle = self.superblocks.values().filter(|known| !known.probes.running);
        idle.filter_map(|known| known.probes.due.first().copied()).min()
    }
}
