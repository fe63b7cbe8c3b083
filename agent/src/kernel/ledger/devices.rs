//! Disks: the errors of each, and whether its I/O moves.

use std::collections::BTreeSet;

use tocsin_ebpf::Kind;

use super::{
    progress::Progress,
    state::Ledger,
    types::{Key, Mono, Now, Probed, nanos},
    witness::Witness,
};
use crate::{
    errno::{self, ENODEV},
    kernel::{
        ebpf::reader::Event,
        probe::{Probe, Root},
        sampling::{
            Disk,
            mounts::{Member, Vanished},
            snapshot::Snapshot,
        },
    },
    model::{Dev, FaultKind},
};

/// What the fault of a device says that is gone.
const GONE: &str = "the device is gone, and still mounted";

impl Ledger {
    /// Takes in a failed request of a disk or a metadata buffer. False if no known filesystem is on the device.
    pub(super) fn io_error(&mut self, event: &Event, now: Now) -> bool {
        let table = self.table.clone();
        let mut users = table.users(event.dev).peekable();
        if users.peek().is_none() {
            return false;
        }
        let errno = errno::describe(event.errno);
        let (verb, writes) = operation(event.kind);
        // An event that stands for counters has no sector.
        let place = if event.place == 0 || event.place == u64::MAX {
            String::new()
        } else {
            format!(" at sector {}", event.place)
        };
        let what = format!("{verb} failed: {errno}{place}");
        let key = self.request_key(event);
        self.open(key, Some(event), what, format!("{verb} {errno}"), now);
        self.note_sector(key, event);
        if writes {
            for user in users {
                self.request_probe(user.filesystem.dev, now);
            }
        }
        true
    }

    /// Takes in the progress of each disk.
    pub(super) fn update_progress(&mut self, snapshot: &Snapshot, now: Now) {
        self.progress.retain(|dev, _| snapshot.disks.contains_key(dev));
        for (dev, disk) in &snapshot.disks {
            match *disk {
                Disk::Present { completed, in_flight } => {
                    let quiet_since = snapshot.quiet_since.get(dev).copied();
                    let idle = now.mono.saturating_sub(quiet_since.unwrap_or(now.mono));
                    self.note_progress(*dev, completed, in_flight, idle, now);
                }
                Disk::Gone => self.gone(*dev, now),
            }
        }
        // A device is compared with those below it, so this comes after all are noted.
        for dev in snapshot.disks.keys() {
            self.judge_progress(*dev, now);
        }
    }

    /// Takes in the progress of one disk, which has completed nothing for `idle` nanoseconds.
    fn note_progress(&mut self, dev: Dev, completed: u64, in_flight: u64, idle: Mono, now: Now) {
        let started = self.started;
        let fresh = Progress {
            completed,
            in_flight,
            since: None,
            from_start: !started,
            idle_before: 0,
            accepted: false,
        };
        let progress = self.progress.entry(dev).or_insert(fresh);
        let stands = in_flight > 0 && progress.completed == completed;
        if !stands || progress.since.is_none() {
            progress.since = stands.then_some(now.mono);
            progress.idle_before = idle;
        }
        if !stands {
            progress.accepted = false;
            progress.from_start &= !started;
        }
        (progress.completed, progress.in_flight) = (completed, in_flight);
    }

    /// Opens or closes the stall of a disk.
    fn judge_progress(&mut self, dev: Dev, now: Now) {
        let Some(progress) = self.progress.get(&dev) else { return };
        let (in_flight, accepted) = (progress.in_flight, progress.accepted);
        let Some(since) = progress.since else { return self.close((FaultKind::IoStall, dev)) };
        if !accepted && self.is_stalled(dev, now.mono.saturating_sub(since), now.mono) {
            let seconds = self.rules.io_stall_after.as_secs_f32();
            let what =
                format!("{in_flight} I/Os in flight, none completed for {seconds} s or more");
            self.stalled(dev, what, now);
        }
    }

    /// Opens a stall, unless it is open with the same words.
    fn stalled(&mut self, dev: Dev, what: String, now: Now) {
        let key = (FaultKind::IoStall, dev);
        if self.faults.get(&key).is_some_and(|entry| entry.what == what) {
            return;
        }
        self.open(key, None, what, "sysfs stat: in flight, none completed".to_owned(), now);
    }

    /// Whether any disk had requests in flight at the last snapshot.
    pub(super) fn has_io_in_flight(&self) -> bool {
        self.progress.values().any(|progress| progress.in_flight > 0)
    }

    /// Whether any disk had requests in flight at the first snapshot and has not completed one since.
    #[must_use]
    pub fn unmoved_since_start(&self) -> bool {
        self.progress.values().any(|progress| progress.from_start && progress.since.is_some())
    }

    /// Opens a stall for each disk of [`unmoved_since_start`](Self::unmoved_since_start). When the agent
    /// starts, it does not know for how long requests have been in flight, and an agent that starts beside a dead disk must not begin with
    /// "ready". The stall closes when a request completes.
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

    /// Takes in that a device was removed under a mounted filesystem. Every I/O will fail, and the block layer sends no
    /// event for it (`GD_DEAD`).
    fn gone(&mut self, dev: Dev, now: Now) {
        self.progress.remove(&dev);
        let key = (FaultKind::IoError, dev);
        if self.faults.get(&key).is_none_or(|entry| entry.what != GONE) {
            self.open(key, None, GONE.to_owned(), "sysfs: no such device".to_owned(), now);
        }
        if let Some(entry) = self.faults.get_mut(&key) {
            // Nothing is below this.
            (entry.witness, entry.what) = (Witness::BlockLayer, GONE.to_owned());
            entry.errno = Some(ENODEV);
            entry.last_mono = now.mono;
        }
    }

    /// The filesystems under which a device is gone, for the sampler of the next agent.
    pub(super) fn vanished(&self) -> Vec<Vanished> {
        let is_gone = |member: &Member| {
            let fault = self.faults.get(&(FaultKind::IoError, member.dev));
            fault.is_some_and(|fault| fault.what == GONE)
        };
        let filesystems = self.table.filesystems.values();
        let miss_one = filesystems.filter(|filesystem| filesystem.members.iter().any(is_gone));
        let vanished = miss_one.map(|filesystem| Vanished {
            filesystem: filesystem.dev,
            born: self.superblocks.get(&filesystem.dev).and_then(|known| known.born),
            members: filesystem.members.clone(),
        });
        vanished.collect()
    }

    /// Begins to verify the devices whose I/O fault has had a quiet window, by a probe of each filesystem on them.
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
            if self.verifying.contains_key(&dev) {
                continue;
            }
            let users = table.users(dev).filter(|user| !user.filesystem.is_swap());
            let users: BTreeSet<Dev> = users.map(|user| user.filesystem.dev).collect();
            // A filesystem that is lost can say nothing about its device, and has a fault of its own.
            let is_lost = |dev: &Dev| self.superblocks.get(dev).is_some_and(|s| s.lost.any());
            let (lost, sound): (BTreeSet<_>, BTreeSet<_>) = users.into_iter().partition(is_lost);
            let users = if sound.is_empty() { lost } else { sound };
            if users.is_empty() {
                self.close((FaultKind::IoError, dev));
                continue;
            }
            for user in &users {
                self.probe_now(*user, now);
            }
            self.verifying.insert(dev, (now.mono, users));
        }
        self.start_probes(now);
    }

    /// Stops verifying a device if one of the filesystems whose probe it waits for is gone. The next
    /// [`close_quiet`](Self::close_quiet) begins again with those that are left.
    pub(super) fn forget_unmounted(&mut self) {
        let mounted = |dev: &Dev| self.superblocks.contains_key(dev);
        self.verifying.retain(|_, (_, users)| users.iter().all(mounted));
    }

    /// Counts the result of a filesystem's probe for every device that waits for it. The fault of a device closes when
    /// all its filesystems could be probed; a failed probe begins a new quiet window.
    pub(super) fn probe_verifies_devices(&mut self, probed: &Probed, now: Now) {
        let answered = probed.unreadable.is_none()
            && match probed.write {
                // EROFS is the filesystem's own refusal, and the matter of `filesystem_ro`.
                Some(Probe::Refused(errno)) => errno == errno::EROFS,
                Some(Probe::SyncFailed(_) | Probe::Late) => false,
                // Where no write is possible, the quiet window and the root directory are all the evidence there is.
                Some(Probe::Writable | Probe::Full | Probe::Unable(_)) | None => {
                    matches!(probed.root, Root::Fine | Root::Unreachable)
                }
            };
        let mut closed: Vec<Key> = Vec::new();
        let mut again = Vec::new();
        self.verifying.retain(|dev, (since, users)| {
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

/// The operation that failed, in words, and whether written data may be lost.
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
