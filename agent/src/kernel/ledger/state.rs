//! The ledger's state: what is known, and which faults are open.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use tocsin_ebpf::Kind;

use super::{
    progress::Progress,
    superblock::Superblock,
    types::{Action, Key, Lookout, Mono, Now, Rules},
    witness::Witness,
};
use crate::{
    kernel::{ebpf::reader::Event, sampling::mounts::MountTable},
    model::{Dev, FaultKind},
};

/// An open fault, without what the mount table says about its device.
#[derive(Clone, Debug)]
pub(super) struct OpenFault {
    pub(super) opened: SystemTime,
    pub(super) last: SystemTime,
    pub(super) last_mono: Mono,
    pub(super) kernel_ns: Option<u64>,
    pub(super) errno: Option<i32>,
    /// Sectors of requests that failed, the last ones: see [`Sector`](crate::kernel::sectors::Sector).
    pub(super) sectors: VecDeque<u64>,
    /// Kernel events since it opened.
    pub(super) counted: u64,
    /// What happened last, for the reason: as the deepest witness says it.
    pub(super) what: String,
    /// Who says so.
    pub(super) witness: Witness,
    pub(super) evidence: Vec<String>,
}

/// 8 different lines of evidence that a fault keeps; a line that repeats is kept once.
const EVIDENCE_LINES: usize = 8;

impl OpenFault {
    /// Whether the fault already says this.
    pub(super) fn says(&self, what: &str, evidence: &str) -> bool {
        self.what == what && self.evidence.iter().any(|line| line == evidence)
    }
}

/// What was known of a filesystem when it was unmounted.
#[derive(Debug)]
pub(super) struct Unmounted {
    pub(super) superblock: Superblock,
    /// Its fault of kind `filesystem_error`, for which there is no evidence but the event.
    pub(super) error: Option<OpenFault>,
}

/// Everything the kernel side knows and decides.
#[derive(Debug)]
pub struct Ledger {
    pub(super) rules: Rules,
    pub(super) table: Arc<MountTable>,
    pub(super) superblocks: BTreeMap<Dev, Superblock>,
    pub(super) unmounted: BTreeMap<Dev, Unmounted>,
    pub(super) progress: BTreeMap<Dev, Progress>,
    pub(super) faults: BTreeMap<Key, OpenFault>,
    /// Events on devices that no known filesystem is on (yet).
    pub(super) waiting: VecDeque<Event>,
    /// Devices whose I/O fault has had a quiet window and may close: since when they are being verified, and the
    /// filesystems whose probes still have to succeed.
    pub(super) verifying: BTreeMap<Dev, (Mono, BTreeSet<Dev>)>,
    /// The kernel's counters, as they were read last.
    pub(super) counts: BTreeMap<(Kind, Dev, i32), u64>,
    /// The kernel time up to which the events of each (kind, device) have been dealt with.
    pub(super) handled: BTreeMap<(Kind, Dev), Mono>,
    /// Probes to start that have not been taken yet.
    pub(super) actions: Vec<Action>,
    /// Faults opened since the start, by kind.
    pub(super) opened: [u64; 4],
    /// Faults closed since the start, by kind.
    pub(super) closed: [u64; 4],
    /// Events that were given up because too many waited.
    pub(super) forgotten: u64,
    /// Grows with every change that can be seen from outside.
    pub(super) version: u64,
    /// Whether there has been a snapshot.
    pub(super) started: bool,
    /// When the last snapshot began.
    pub(super) looked_at: Mono,
    /// Whether an event will tell of an xfs that shuts down.
    pub(super) xfs_events: bool,
    /// A look at everything, after events that were missed.
    pub(super) lookout: Option<Lookout>,
}

impl Ledger {
    /// An empty ledger. The first snapshot is the baseline.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            table: Arc::default(),
            superblocks: BTreeMap::new(),
            unmounted: BTreeMap::new(),
            progress: BTreeMap::new(),
            faults: BTreeMap::new(),
            waiting: VecDeque::new(),
            verifying: BTreeMap::new(),
            counts: BTreeMap::new(),
            handled: BTreeMap::new(),
            actions: Vec::new(),
            opened: [0; 4],
            closed: [0; 4],
            forgotten: 0,
            version: 0,
            started: false,
            looked_at: 0,
            xfs_events: true,
            lookout: None,
        }
    }

    /// Whether the passage of time alone can change the view, so that the ledger needs every snapshot.
    #[must_use]
    pub fn needs_every_snapshot(&self) -> bool {
        let has_xfs = || self.table.filesystems.values().any(|f| f.fs_type == "xfs");
        !self.faults.is_empty()
            || !self.waiting.is_empty()
            || self.lookout.is_some()
            || self.has_io_in_flight()
            || (!self.xfs_events && has_xfs())
            // After a clear the next snapshot is the new baseline.
            || self.superblocks.values().any(|known| known.baseline_after != 0)
    }

    /// A number that grows with every change that can be seen from outside.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The mount table of the last snapshot.
    #[must_use]
    pub fn table(&self) -> &Arc<MountTable> {
        &self.table
    }

    /// Says whether an event will tell of an xfs that shuts down. Without eBPF and on kernels before 5.15 none does, and
    /// the ledger checks the root directory of each xfs at every snapshot.
    pub fn set_xfs_events(&mut self, attached: bool) {
        self.xfs_events = attached;
    }

    /// Number of events that were given up because too many waited.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The probes to start now, each once.
    pub fn take_actions(&mut self) -> Vec<Action> {
        let mut actions = std::mem::take(&mut self.actions);
        actions.sort_unstable();
        actions.dedup();
        actions
    }

    /// Opens a fault, or adds to one that is open.
    pub(super) fn open(
        &mut self,
        key: Key,
        event: Option<&Event>,
        what: String,
        evidence: String,
        now: Now,
    ) {
        let entry = self.faults.entry(key).or_insert_with(|| {
            self.opened[key.0 as usize] += 1;
            OpenFault {
                opened: now.wall,
                last: now.wall,
                last_mono: now.mono,
                kernel_ns: event.map(|event| event.ktime),
                errno: None,
                counted: 0,
                sectors: VecDeque::new(),
                what: String::new(),
                witness: Witness::Filesystem,
                evidence: Vec::new(),
            }
        });
        entry.last = now.wall;
        entry.last_mono = now.mono;
        let witness = event.map_or(Witness::Filesystem, |event| Witness::of(event.kind));
        if witness >= entry.witness {
            entry.what = what;
            entry.witness = witness;
            if let Some(errno) = event.map(|event| event.errno).filter(|errno| *errno != 0) {
                entry.errno = Some(errno);
            }
        }
        if entry.evidence.len() < EVIDENCE_LINES && !entry.evidence.contains(&evidence) {
            entry.evidence.push(evidence);
        }
        self.version += 1;
    }

    /// Closes a fault if it is open.
    pub(super) fn close(&mut self, key: Key) {
        if self.faults.remove(&key).is_some() {
            if key.0 == FaultKind::IoError {
                self.verifying.remove(&key.1);
            }
            self.closed[key.0 as usize] += 1;
            self.version += 1;
        }
    }
}
