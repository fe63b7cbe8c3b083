//! The ledger: events and evidence in, open faults out. PURE: no file, no socket, no clock in here.
//!
//! Events only say that something happened; whether anything is wrong *now* is decided from evidence:
//! the mount table, sysfs, and bounded probes that the ledger asks for ([`Action`]) and whose results
//! come back as input. So a missed event costs a moment, never the verdict, and a harmless event never
//! becomes a fault. A fault closes when its cause is gone, never because nobody looked.
//!
//! `filesystems` holds what is known of each superblock, `probes` when to ask one and what its answer means,
//! `devices` what is known of each disk, and `report` puts faults into words.

mod devices;
mod filesystems;
mod probes;
mod report;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tocsin_ebpf::Kind;

use self::{devices::Progress, filesystems::Superblock};
use super::{
    looker::Look,
    mounts::MountTable,
    probe::{Probe, Root},
    reader::{Count, Event},
};
use crate::model::{Dev, FaultKind};

/// `CLOCK_MONOTONIC` nanoseconds, the clock that the kernel's events carry.
pub type Mono = u64;

/// A reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For ages.
    pub mono: Mono,
    /// For people.
    pub wall: SystemTime,
}

/// What the operator decides.
#[derive(Clone, Debug)]
pub struct Rules {
    /// An I/O fault closes after this long without an error, if the device then answers.
    pub io_error_window: Duration,
    /// I/O in flight that has not moved for this long is a stall.
    pub io_stall_after: Duration,
    /// Mount points that are faulty when read-only, whoever made them so.
    pub require_writable: Vec<PathBuf>,
}

/// What the ledger wants done. Results come back through [`Ledger::probed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Action {
    /// The filesystem to probe.
    pub dev: Dev,
    /// Whether to write, or only to look at its root directory.
    pub write: bool,
}

/// What a probe of a filesystem found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The filesystem.
    pub dev: Dev,
    /// When it began.
    pub started: Mono,
    /// What looking at its root directory gave.
    pub root: Root,
    /// The result of the write, where one was made.
    pub write: Option<Probe>,
    /// Whether the filesystem has no free block or inode.
    pub full: bool,
}

/// An open fault, without what the mount table says about its device.
#[derive(Clone, Debug)]
struct Entry {
    opened: SystemTime,
    last: SystemTime,
    last_mono: Mono,
    kernel_ns: Option<u64>,
    errno: Option<i32>,
    /// Counted by the kernel since it opened.
    counted: u64,
    /// What happened last, for the reason.
    what: String,
    evidence: Vec<String>,
}

/// Different lines of evidence that a fault keeps; one that repeats is kept once.
const EVIDENCE_LINES: usize = 8;

/// Events of devices that no known filesystem rests on wait here for the next look, some milliseconds.
/// The kernel sends ten a second per (kind, device), so this is room for many devices at once.
const WAITING: usize = 256;

type Key = (FaultKind, Dev);

/// Everything the kernel side knows and decides.
#[derive(Debug)]
pub struct Ledger {
    rules: Rules,
    table: Arc<MountTable>,
    superblocks: BTreeMap<Dev, Superblock>,
    progress: BTreeMap<Dev, Progress>,
    faults: BTreeMap<Key, Entry>,
    waiting: VecDeque<Event>,
    /// Devices whose quiet window is over: since when they were asked, and by which filesystems' probes.
    asked: BTreeMap<Dev, (Mono, BTreeSet<Dev>)>,
    /// Last kernel counts, and the time up to which each (kind, device) has been dealt with.
    counts: BTreeMap<(Kind, Dev, i32), u64>,
    handled: BTreeMap<(Kind, Dev), Mono>,
    actions: Vec<Action>,
    opened: [u64; 4],
    closed: [u64; 4],
    forgotten: u64,
    version: u64,
    started: bool,
    xfs_events: bool,
}

impl Ledger {
    /// An empty ledger: the first look makes the baseline.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            table: Arc::default(),
            superblocks: BTreeMap::new(),
            progress: BTreeMap::new(),
            faults: BTreeMap::new(),
            waiting: VecDeque::new(),
            asked: BTreeMap::new(),
            counts: BTreeMap::new(),
            handled: BTreeMap::new(),
            actions: Vec::new(),
            opened: [0; 4],
            closed: [0; 4],
            forgotten: 0,
            version: 0,
            started: false,
            xfs_events: true,
        }
    }

    /// Whether time alone can change what is said, so that every look counts.
    #[must_use]
    pub fn needs_time(&self) -> bool {
        let looks_at_xfs = || self.table.filesystems.values().any(|f| f.fs_type == "xfs");
        !self.faults.is_empty()
            || !self.waiting.is_empty()
            || self.is_io_standing()
            || (!self.xfs_events && looks_at_xfs())
            // After a clear the next look is the new baseline.
            || self.superblocks.values().any(|known| known.baseline_after != 0)
    }

    /// Changes with every change that can be seen from outside.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The mount table of the last look.
    #[must_use]
    pub fn table(&self) -> &Arc<MountTable> {
        &self.table
    }

    /// Whether an xfs that shuts down will say so: without eBPF and on kernels before 5.15 it does not.
    pub fn xfs_events(&mut self, attached: bool) {
        self.xfs_events = attached;
    }

    /// Events that were given up because too many waited.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// What is to be done now; each action once.
    pub fn take_actions(&mut self) -> Vec<Action> {
        let mut actions = std::mem::take(&mut self.actions);
        actions.sort_unstable();
        actions.dedup();
        actions
    }

    /// Something happened in the kernel.
    pub fn event(&mut self, event: &Event, now: Now) {
        let handled = self.handled.entry((event.kind, event.dev)).or_default();
        *handled = event.ktime.max(*handled);
        if !self.try_event(event, now) {
            if self.waiting.len() == WAITING {
                self.waiting.pop_front();
                self.forgotten += 1;
            }
            self.waiting.push_back(*event);
        }
    }

    /// False when nothing known rests on the event's device.
    fn try_event(&mut self, event: &Event, now: Now) -> bool {
        if event.is_benign() {
            return true;
        }
        match event.kind {
            Kind::MountChange => true,
            Kind::Ext4Error => self.filesystem_error(event.dev, event, "ext4_error", now),
            Kind::Ext4Shutdown | Kind::XfsShutdown => self.shut_down(event, now),
            _ if event.is_corruption() => {
                self.filesystem_error(event.dev, event, "metadata verification", now)
            }
            Kind::Writeback => self.lost_write(event, now),
            _ => self.io_error(event, now),
        }
    }

    /// What is true now. The first look is the baseline.
    pub fn look(&mut self, look: &Look, now: Now) {
        let changed = !Arc::ptr_eq(&self.table, &look.table) && self.table != look.table;
        self.table = look.table.clone();
        if changed {
            // Scope and mount points of open faults may be others now.
            self.version += 1;
        }
        self.update_superblocks(look, changed, now);
        self.update_progress(look, now);
        self.started = true;
        for event in std::mem::take(&mut self.waiting) {
            // An event younger than the look may belong to a filesystem that the look did not see yet.
            if !self.try_event(&event, now) && event.ktime > look.at {
                self.waiting.push_back(event);
            }
        }
        self.close_unused();
        self.forget_unmounted();
        self.close_quiet(now);
    }

    /// The kernel's exact counters: they correct the counts of open faults, and stand in for events that
    /// found no room in the ring buffer.
    pub fn counted(&mut self, counts: &[Count], now: Now) {
        for count in counts {
            let before =
                self.counts.insert((count.kind, count.dev, count.errno), count.count).unwrap_or(0);
            let new = count.count.saturating_sub(before);
            if new == 0 {
                continue;
            }
            let event = Event {
                ktime: count.last,
                kind: count.kind,
                dev: count.dev,
                errno: count.errno,
                place: 0,
                detail: 0,
            };
            if self
                .handled
                .get(&(count.kind, count.dev))
                .is_none_or(|handled| *handled < count.last)
            {
                self.event(&event, now);
            }
            if let Some(key) = Self::key_of(&event)
                && let Some(entry) = self.faults.get_mut(&key)
                && entry.kernel_ns.is_none_or(|first| first <= count.last)
            {
                entry.counted += new;
                self.version += 1;
            }
        }
    }

    /// The fault that an event of this kind and device belongs to.
    fn key_of(event: &Event) -> Option<Key> {
        if event.is_benign() {
            return None;
        }
        match event.kind {
            // One lost write gives one Writeback for each page, which says nothing about how many were lost.
            Kind::MountChange | Kind::Writeback => None,
            Kind::Ext4Error => Some((FaultKind::FilesystemError, event.dev)),
            Kind::Ext4Shutdown | Kind::XfsShutdown => Some((FaultKind::FilesystemRo, event.dev)),
            _ if event.is_corruption() => Some((FaultKind::FilesystemError, event.dev)),
            _ => Some((FaultKind::IoError, event.dev)),
        }
    }

    /// The operator's word that a fault is dealt with. What is still wrong opens again when it is seen
    /// again; a state that merely goes on (read-only, a stall) is accepted until it changes.
    pub fn clear(&mut self, id: &str, now: Now) -> bool {
        let found =
            self.faults.keys().copied().find(|(kind, dev)| report::fault_id(*kind, *dev) == id);
        let Some((kind, dev)) = found else { return false };
        // Events that were counted and not seen yet belong to what is cleared now.
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

    fn open(&mut self, key: Key, event: Option<&Event>, what: String, evidence: String, now: Now) {
        let entry = self.faults.entry(key).or_insert_with(|| {
            self.opened[key.0 as usize] += 1;
            Entry {
                opened: now.wall,
                last: now.wall,
                last_mono: now.mono,
                kernel_ns: event.map(|event| event.ktime),
                errno: None,
                counted: 0,
                what: String::new(),
                evidence: Vec::new(),
            }
        });
        entry.last = now.wall;
        entry.last_mono = now.mono;
        entry.what = what;
        if let Some(errno) = event.map(|event| event.errno).filter(|errno| *errno != 0) {
            entry.errno = Some(errno);
        }
        if entry.evidence.len() < EVIDENCE_LINES && !entry.evidence.contains(&evidence) {
            entry.evidence.push(evidence);
        }
        self.version += 1;
    }

    fn close(&mut self, key: Key) {
        if self.faults.remove(&key).is_some() {
            if key.0 == FaultKind::IoError {
                self.asked.remove(&key.1);
            }
            self.closed[key.0 as usize] += 1;
            self.version += 1;
        }
    }

    /// Faults of what is not mounted any more have no cause any more.
    fn close_unused(&mut self) {
        let table = self.table.clone();
        let unused: Vec<Key> = self
            .faults
            .keys()
            .copied()
            .filter(|(kind, dev)| match kind {
                FaultKind::FilesystemRo | FaultKind::FilesystemError => {
                    !table.filesystems.contains_key(dev)
                }
                FaultKind::IoError | FaultKind::IoStall => table.users(*dev).next().is_none(),
            })
            .collect();
        for key in unused {
            self.close(key);
        }
    }
}

fn nanos(duration: Duration) -> Mono {
    Mono::try_from(duration.as_nanos()).unwrap_or(Mono::MAX)
}
