//! What is known of each disk: errors, and whether its I/O moves.

use std::collections::BTreeSet;

use tocsin_ebpf::Kind;

use super::{Key, Ledger, Mono, Now, Probed, nanos};
use crate::{
    errno::{self, ENODEV},
    kernel::{
        looker::Look,
        probe::{Probe, Root},
        reader::Event,
        sysfs::Disk,
    },
    model::{Dev, FaultKind},
};

/// How far a disk has come.
#[derive(Clone, Debug)]
pub(super) struct Progress {
    completed: u64,
    in_flight: u64,
    /// Since when nothing has completed while something was in flight.
    since: Option<Mono>,
    /// Seen with I/O in flight at the first look: it may have been so for long.
    from_start: bool,
    /// The operator cleared the stall; it counts again when I/O has moved.
    pub(super) accepted: bool,
}

impl Ledger {
    /// A failed request of a disk or a metadata buffer.
    pub(super) fn io_error(&mut self, event: &Event, now: Now) -> bool {
        let table = self.table.clone();
        let mut users = table.users(event.dev).peekable();
        if users.peek().is_none() {
            return false;
        }
        let errno = errno::describe(event.errno);
        let (verb, writes) = operation(event.kind);
        // What comes from the counters has no place.
        let place = if event.place == 0 || event.place == u64::MAX {
            String::new()
        } else {
            format!(" at sector {}", event.place)
        };
        let what = format!("{verb} failed: {errno}{place}");
        self.open(
            (FaultKind::IoError, event.dev),
            Some(event),
            what,
            format!("{verb} {errno}"),
            now,
        );
        if writes {
            for user in users {
                self.ask_for_probe(user.filesystem.dev, now);
            }
        }
        true
    }

    pub(super) fn update_progress(&mut self, look: &Look, now: Now) {
        self.progress.retain(|dev, _| look.disks.contains_key(dev));
        for (dev, disk) in &look.disks {
            match *disk {
                Disk::Present { completed, in_flight } => {
                    self.moved(*dev, completed, in_flight, now);
                }
                Disk::Gone => self.gone(*dev, now),
            }
        }
    }

    fn moved(&mut self, dev: Dev, completed: u64, in_flight: u64, now: Now) {
        let started = self.started;
        let fresh =
            Progress { completed, in_flight, since: None, from_start: !started, accepted: false };
        let progress = self.progress.entry(dev).or_insert(fresh);
        let stands = in_flight > 0 && progress.completed == completed;
        if !stands || progress.since.is_none() {
            progress.since = stands.then_some(now.mono);
        }
        if !stands {
            progress.accepted = false;
            progress.from_start &= !started;
        }
        (progress.completed, progress.in_flight) = (completed, in_flight);
        let stuck = progress.since.map_or(0, |since| now.mono.saturating_sub(since));
        if !stands {
            self.close((FaultKind::IoStall, dev));
        } else if stuck >= nanos(self.rules.io_stall_after) && !progress.accepted {
            let seconds = self.rules.io_stall_after.as_secs_f32();
            let what =
                format!("{in_flight} I/Os in flight, none completed for {seconds} s or more");
            self.stalled(dev, what, now);
        }
    }

    fn stalled(&mut self, dev: Dev, what: String, now: Now) {
        let key = (FaultKind::IoStall, dev);
        if self.faults.get(&key).is_some_and(|entry| entry.what == what) {
            return;
        }
        self.open(key, None, what, "sysfs stat: in flight, none completed".to_owned(), now);
    }

    /// Whether I/O was in flight at the last look.
    pub(super) fn is_io_standing(&self) -> bool {
        self.progress.values().any(|progress| progress.in_flight > 0)
    }

    /// Disks that had I/O in flight at the first look and have not completed any since.
    #[must_use]
    pub fn unmoved_since_start(&self) -> bool {
        self.progress.values().any(|progress| progress.from_start && progress.since.is_some())
    }

    /// At start nobody knows for how long I/O has been in flight. What did not move while the agent waited
    /// is taken for stalled, until it moves: an agent that is started next to a dead disk must not begin
    /// with "ready".
    pub fn presume_stalled(&mut self, now: Now) {
        let unmoved: Vec<(Dev, u64)> = self
            .progress
            .iter()
            .filter(|(_, progress)| progress.from_start && progress.since.is_some())
            .map(|(dev, progress)| (*dev, progress.in_flight))
            .collect();
        for (dev, in_flight) in unmoved {
            let what =
                format!("{in_flight} I/Os in flight, none completed since the agent started");
            self.stalled(dev, what, now);
        }
    }

    /// A device that was removed under a mounted filesystem: the block layer is silent about it
    /// (`GD_DEAD`), and every I/O will fail.
    fn gone(&mut self, dev: Dev, now: Now) {
        self.progress.remove(&dev);
        let key = (FaultKind::IoError, dev);
        let what = "the device is gone, and still mounted".to_owned();
        if self.faults.get(&key).is_none_or(|entry| entry.what != what) {
            self.open(key, None, what, "sysfs: no such device".to_owned(), now);
        }
        if let Some(entry) = self.faults.get_mut(&key) {
            entry.errno = Some(ENODEV);
            entry.last_mono = now.mono;
        }
    }

    /// After a quiet window the device is asked, by a probe of each filesystem on it.
    pub(super) fn close_quiet(&mut self, now: Now) {
        let window = nanos(self.rules.io_error_window);
        let quiet: Vec<Dev> = self
            .faults
            .iter()
            .filter(|((kind, _), entry)| {
                *kind == FaultKind::IoError && now.mono.saturating_sub(entry.last_mono) >= window
            })
            .map(|((_, dev), _)| *dev)
            .collect();
        let table = self.table.clone();
        for dev in quiet {
            if self.asked.contains_key(&dev) {
                continue;
            }
            let users: BTreeSet<Dev> = table
                .users(dev)
                .filter(|user| user.filesystem.fs_type != "swap")
                .map(|user| user.filesystem.dev)
                .collect();
            if users.is_empty() {
                self.close((FaultKind::IoError, dev));
                continue;
            }
            for user in &users {
                self.probe_now(*user, now);
            }
            self.asked.insert(dev, (now.mono, users));
        }
        self.start_probes(now);
    }

    /// Filesystems that are gone will not answer for their device: those that are left are asked anew.
    pub(super) fn forget_unmounted(&mut self) {
        let mounted = |dev: &Dev| self.superblocks.contains_key(dev);
        self.asked.retain(|_, (_, users)| users.iter().all(mounted));
    }

    /// A probe of one filesystem came back: good for every device below it that was asked.
    pub(super) fn device_answered(&mut self, probed: &Probed, now: Now) {
        let answered = match probed.write {
            // Refused for a reason of the filesystem's own: that is the other check's matter.
            Some(Probe::Refused(errno)) => errno == errno::EROFS,
            Some(Probe::SyncFailed(_) | Probe::Late) => false,
            // Where no test write is possible, a quiet window and a look have to do.
            Some(Probe::Writable | Probe::Full | Probe::Unable(_)) | None => {
                matches!(probed.root, Root::Fine | Root::Unreachable)
            }
        };
        let mut closed: Vec<Key> = Vec::new();
        let mut again = Vec::new();
        self.asked.retain(|dev, (since, users)| {
            if probed.started < *since || !users.contains(&probed.dev) {
                return true;
            }
            if !answered {
                again.push((FaultKind::IoError, *dev));
                return false;
            }
            users.remove(&probed.dev);
            if users.is_empty() {
                closed.push((FaultKind::IoError, *dev));
            }
            !users.is_empty()
        });
        for key in closed {
            let quiet = nanos(self.rules.io_error_window);
            if self.faults.get(&key).is_some_and(|e| now.mono.saturating_sub(e.last_mono) >= quiet)
            {
                self.close(key);
            }
        }
        for key in again {
            if let Some(entry) = self.faults.get_mut(&key) {
                entry.last_mono = now.mono;
            }
        }
    }
}

/// What failed, in words, and whether something that was written may be lost.
fn operation(kind: Kind) -> (&'static str, bool) {
    match kind.operation() {
        Kind::BlockRead | Kind::BlockReadahead => ("read", false),
        Kind::BlockWrite => ("write", true),
        Kind::BlockFlush => ("flush", true),
        Kind::BlockDiscard => ("discard", false),
        Kind::BlockZeroes => ("write-zeroes", true),
        Kind::XfsBuffer => ("metadata I/O", true),
        _ => ("I/O", true),
    }
}
