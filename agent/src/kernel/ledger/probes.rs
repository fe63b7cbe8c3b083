//! When a filesystem is probed, and what its answer means.

use std::collections::BTreeSet;

use super::{Action, Ledger, Mono, Now, Probed, nanos};
use crate::{
    errno,
    kernel::probe::{Probe, Root},
    model::Dev,
};

/// After an event the state can change for this long (ext4 announces an error before it acts on it), so a
/// probe that succeeded earlier proves nothing.
const SETTLES: Mono = 50_000_000;

/// A second probe follows the event's first one after this time.
const SECOND_PROBE: Mono = 100_000_000;

/// While errors go on, a filesystem is probed at most this often, ...
const FIRST_BACKOFF: Mono = 1_000_000_000;
/// ... then half as often each time, down to this.
const LAST_BACKOFF: Mono = 60_000_000_000;

/// When to probe.
#[derive(Clone, Debug, Default)]
pub(super) struct Schedule {
    pub(super) due: BTreeSet<Mono>,
    pub(super) running: bool,
    /// The next probe need not write.
    pub(super) only_look: bool,
    /// When the last probe began, and the last one that wrote.
    pub(super) last: Option<Mono>,
    last_write: Option<Mono>,
    backoff: Mono,
}

impl Schedule {
    pub(super) fn ask(&mut self, now: Mono) {
        match self.last_write {
            Some(last) if now.saturating_sub(last) < self.backoff => {
                self.due.insert(last + self.backoff);
            }
            _ => {
                self.due.extend([now, now + SECOND_PROBE]);
            }
        }
        // A storm asks without end; the earliest two answer it.
        while self.due.len() > 2 {
            self.due.pop_last();
        }
    }

    /// Whether a probe is to start now; `looks` is one that does not write, and is no load on anybody.
    fn begin(&mut self, looks: bool, now: Mono) -> bool {
        if self.running || self.due.first().is_none_or(|due| *due > now) {
            return false;
        }
        self.due.retain(|due| *due > now);
        self.running = true;
        self.last = Some(now);
        if looks {
            return true;
        }
        let quiet = self.last_write.is_none_or(|last| now.saturating_sub(last) > LAST_BACKOFF);
        self.backoff = if quiet { FIRST_BACKOFF } else { (self.backoff * 2).min(LAST_BACKOFF) };
        self.last_write = Some(now);
        true
    }
}

impl Ledger {
    /// The result of an [`Action`].
    pub fn probed(&mut self, probed: &Probed, now: Now) {
        let dev = probed.dev;
        let read_only = self.table.filesystems.get(&dev).is_some_and(|f| f.read_only);
        let Some(known) = self.superblocks.get_mut(&dev) else { return };
        known.probes.running = false;
        if probed.started < known.accepted_at {
            // It began before the operator accepted what it found.
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
                // A journal that was aborted by this very sync refuses the next file: then it is not the
                // device, and the next probe, at once, tells.
                known.sync_failed = true;
                known.probes.due.insert(now.mono);
            }
            Some(Probe::SyncFailed(errno)) => {
                let what = format!("a synced write failed: {}", errno::describe(errno));
                let key = self.io_key(dev);
                self.open(key, None, what, "write probe".to_owned(), now);
                if let Some(entry) = self.faults.get_mut(&key) {
                    entry.errno = Some(errno);
                }
            }
            // Nobody can write it, so its root directory is all that can be asked.
            None if read_only && probed.root == Root::Fine => {
                known.lost.refused = None;
                if known.lost.announced.is_some_and(|at| probed.started >= at + SETTLES) {
                    known.lost.announced = None;
                }
            }
            // No space, no permission, no answer: no verdict either way.
            Some(Probe::Full | Probe::Unable(_) | Probe::Late) | None => {}
        }
        if let (Some(known), Some(Probe::Writable | Probe::Refused(_))) =
            (self.superblocks.get_mut(&dev), &probed.write)
        {
            known.sync_failed = false;
        }
        self.settle(dev, None, now);
        self.device_answered(probed, now);
        self.start_probes(now);
    }

    /// A probe at the next occasion, whatever the backoff says.
    pub(super) fn probe_now(&mut self, dev: Dev, now: Now) {
        if let Some(known) = self.superblocks.get_mut(&dev) {
            known.probes.only_look = false;
            known.probes.due.insert(now.mono);
        }
    }

    pub(super) fn ask_for_probe(&mut self, dev: Dev, now: Now) {
        if let Some(known) = self.superblocks.get_mut(&dev) {
            known.probes.only_look = false;
            // Something new happened to it.
            known.loss_accepted = false;
            known.probes.ask(now.mono);
        }
        self.start_probes(now);
    }

    /// Asks for the probes whose time has come; called after every input and at every look.
    pub fn start_probes(&mut self, now: Now) {
        let window = nanos(self.rules.io_error_window);
        for (dev, known) in &mut self.superblocks {
            let Some(filesystem) = self.table.filesystems.get(dev) else { continue };
            // Only a probe tells when a hidden loss is over, and nothing announces that.
            let writable = filesystem.is_writable_type() && !filesystem.read_only;
            let last = if writable { known.probes.last_write } else { known.probes.last };
            let idle = last.is_none_or(|last| now.mono.saturating_sub(last) >= window);
            if known.lost.is_hidden() && known.lost.level.is_none() && idle {
                known.probes.only_look = false;
                known.probes.due.insert(now.mono);
            }
            // A write into what says that it is read-only would tell nothing.
            let write =
                filesystem.is_writable_type() && !filesystem.read_only && !known.probes.only_look;
            if known.probes.begin(!write, now.mono) {
                known.probes.only_look = false;
                self.actions.push(Action { dev: *dev, write });
            }
        }
    }

    /// When the next probe is due.
    #[must_use]
    pub fn next_probe(&self) -> Option<Mono> {
        let idle = self.superblocks.values().filter(|known| !known.probes.running);
        idle.filter_map(|known| known.probes.due.first().copied()).min()
    }
}
