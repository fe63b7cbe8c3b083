//! What a ledger leaves to the ledger of the next agent on the same boot: open faults, counts that have been dealt with,
//! and what an operator has accepted. Pure; the kernel task keeps it in the checkpoint file.
//!
//! Times of `CLOCK_MONOTONIC` mean the same to both, because the boot is the same. What a snapshot says anew (the mount
//! table, the super options) is not in here.

use std::{
    collections::{BTreeSet, VecDeque},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use tocsin_ebpf::Kind;

use super::{
    progress::Progress,
    state::{Ledger, OpenFault},
    superblock::{CP_ERROR, Lost, Superblock},
    types::{Mono, Now},
    witness::Witness,
};
use crate::{
    kernel::{
        ebpf::{
            inherited::Carried,
            reader::{Count, Event},
        },
        sampling::{BtrfsErrors, mounts::Vanished},
    },
    model::{Dev, FaultKind},
};

/// The super options and signs in sysfs that an operator can accept; the ledger compares them as these words.
const LEVELS: [&str; 4] = ["ro", "emergency_ro", "shutdown", CP_ERROR];

/// What a ledger leaves to the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    faults: Vec<FaultMemory>,
    filesystems: Vec<FilesystemMemory>,
    stands: Vec<StandsMemory>,
    /// What the sampler of the next agent has to know of devices that are gone.
    #[serde(default)]
    pub vanished: Vec<Vanished>,
    /// Every counter, as it was when the ledger last dealt with it.
    pub counts: Vec<CountMemory>,
    handled: Vec<HandledMemory>,
    opened: [u64; 4],
    closed: [u64; 4],
}

/// An open fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FaultMemory {
    kind: String,
    dev: Dev,
    opened: SystemTime,
    last: SystemTime,
    last_mono: Mono,
    kernel_ns: Option<u64>,
    errno: Option<i32>,
    counted: u64,
    what: String,
    evidence: Vec<String>,
    /// Whether the block layer says so.
    #[serde(default)]
    deep: bool,
    #[serde(default)]
    sectors: VecDeque<u64>,
}

/// What is known of a mounted filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FilesystemMemory {
    dev: Dev,
    mount_ids: BTreeSet<i32>,
    #[serde(default)]
    born: Option<u64>,
    on_purpose: bool,
    accepted: Option<String>,
    refused: Option<i32>,
    root: Option<i32>,
    announced: Option<Mono>,
    ext4: Option<u64>,
    /// Corruption errors and I/O errors.
    btrfs: Option<(u64, u64)>,
    loss_accepted: bool,
    accepted_at: Mono,
    unexplained: Option<EventMemory>,
    /// Whether a probe was due or running.
    probe: bool,
}

/// An event that a probe has to explain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct EventMemory {
    ktime: Mono,
    kind: u16,
    dev: Dev,
    errno: i32,
    place: u64,
    detail: u32,
}

/// A disk whose I/O did not move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StandsMemory {
    dev: Dev,
    completed: u64,
    in_flight: u64,
    since: Mono,
    #[serde(default)]
    idle_before: Mono,
    accepted: bool,
}

/// One counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountMemory {
    /// The number of a [`Kind`].
    pub kind: u16,
    /// The device.
    pub dev: Dev,
    /// Positive errno; 0 if the tracepoint has none.
    pub errno: i32,
    /// Events.
    pub count: u64,
}

impl CountMemory {
    /// What is kept of a counter.
    #[must_use]
    pub fn of(count: &Count) -> Self {
        let Count { kind, dev, errno, count, .. } = *count;
        Self { kind: kind as u16, dev, errno, count }
    }
}

/// The time up to which the events of a kind and device have been dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct HandledMemory {
    kind: u16,
    dev: Dev,
    until: Mono,
}

impl Memory {
    /// A memory of counters alone: those whose last event was before `since` count as dealt with.
    #[must_use]
    pub fn of_counts(counts: &Carried, since: Mono) -> Self {
        let old = counts.values().filter(|count| count.last < since);
        Self { counts: old.map(CountMemory::of).collect(), ..Self::default() }
    }
}

impl Ledger {
    /// What the next ledger has to know.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let stands = self.progress.iter().filter_map(|(dev, progress)| {
            let Progress { completed, in_flight, since, from_start: _, idle_before, accepted } =
                *progress;
            let since = since?;
            Some(StandsMemory { dev: *dev, completed, in_flight, since, idle_before, accepted })
        });
        let counts = self.counts.iter().map(|((kind, dev, errno), count)| CountMemory {
            kind: *kind as u16,
            dev: *dev,
            errno: *errno,
            count: *count,
        });
        let handled = self.handled.iter().map(|((kind, dev), until)| HandledMemory {
            kind: *kind as u16,
            dev: *dev,
            until: *until,
        });
        Memory {
            faults: self
                .faults
                .iter()
                .map(|((kind, dev), open)| fault(*kind, *dev, open))
                .collect(),
            filesystems: self
                .superblocks
                .iter()
                .map(|(dev, known)| filesystem(*dev, known))
                .collect(),
            stands: stands.collect(),
            vanished: self.vanished(),
            counts: counts.collect(),
            handled: handled.collect(),
            opened: self.opened,
            closed: self.closed,
        }
    }

    /// Begins with what the ledger of an earlier agent on the same boot has left; before the first snapshot. Kinds of
    /// faults and events that this version does not know are left out. Returns the number of open faults.
    pub fn restore(&mut self, memory: &Memory, now: Now) -> usize {
        let Memory { faults, filesystems, stands, counts, handled, opened, closed, vanished: _ } =
            memory;
        for fault in faults {
            let kind = FaultKind::ALL.into_iter().find(|kind| kind.name() == fault.kind);
            if let Some(kind) = kind {
                self.faults.insert((kind, fault.dev), fault.open());
            }
        }
        for filesystem in filesystems {
            self.superblocks.insert(filesystem.dev, filesystem.superblock(now));
        }
        for stands in stands {
            let StandsMemory { dev, completed, in_flight, since, idle_before, accepted } = *stands;
            let since = Some(since);
            // What stood then is presumed to stand still, unless an operator has accepted that.
            let from_start = !accepted;
            let progress =
                Progress { completed, in_flight, since, from_start, idle_before, accepted };
            self.progress.insert(dev, progress);
        }
        for count in counts {
            if let Some(kind) = Kind::from_raw(count.kind) {
                self.counts.insert((kind, count.dev, count.errno), count.count);
            }
        }
        for handled in handled {
            if let Some(kind) = Kind::from_raw(handled.kind) {
                self.handled.insert((kind, handled.dev), handled.until);
            }
        }
        (self.opened, self.closed) = (*opened, *closed);
        self.version += 1;
        self.faults.len()
    }
}

fn fault(kind: FaultKind, dev: Dev, open: &OpenFault) -> FaultMemory {
    let OpenFault {
        opened,
        last,
        last_mono,
        kernel_ns,
        errno,
        counted,
        what,
        witness,
        evidence,
        sectors,
    } = open;
    FaultMemory {
        kind: kind.name().to_owned(),
        dev,
        opened: *opened,
        last: *last,
        last_mono: *last_mono,
        kernel_ns: *kernel_ns,
        errno: *errno,
        counted: *counted,
        what: what.clone(),
        evidence: evidence.clone(),
        deep: *witness == Witness::BlockLayer,
        sectors: sectors.clone(),
    }
}

impl FaultMemory {
    fn open(&self) -> OpenFault {
        OpenFault {
            opened: self.opened,
            last: self.last,
            last_mono: self.last_mono,
            kernel_ns: self.kernel_ns,
            errno: self.errno,
            counted: self.counted,
            what: self.what.clone(),
            witness: if self.deep { Witness::BlockLayer } else { Witness::Filesystem },
            evidence: self.evidence.clone(),
            sectors: self.sectors.clone(),
        }
    }
}

fn filesystem(dev: Dev, known: &Superblock) -> FilesystemMemory {
    let Superblock {
        mount_ids,
        born,
        on_purpose,
        accepted,
        lost: Lost { level: _, refused, root, announced },
        ext4,
        btrfs,
        loss_accepted,
        accepted_at,
        baseline_after: _,
        unexplained,
        probes,
        sync_failed: _,
        unable,
    } = known;
    FilesystemMemory {
        dev,
        mount_ids: mount_ids.clone(),
        born: *born,
        on_purpose: *on_purpose,
        accepted: accepted.map(str::to_owned),
        refused: *refused,
        root: *root,
        announced: *announced,
        ext4: *ext4,
        btrfs: btrfs.map(|errors| (errors.corruption, errors.io)),
        loss_accepted: *loss_accepted,
        accepted_at: *accepted_at,
        unexplained: unexplained.map(|event| {
            let Event { ktime, kind, dev, errno, place, detail } = event;
            EventMemory { ktime, kind: kind as u16, dev, errno, place, detail }
        }),
        probe: probes.running || !probes.due.is_empty() || unable.is_some(),
    }
}

impl FilesystemMemory {
    fn superblock(&self, now: Now) -> Superblock {
        let accepted = self.accepted.as_deref();
        let mut known = Superblock {
            mount_ids: self.mount_ids.clone(),
            born: self.born,
            on_purpose: self.on_purpose,
            accepted: accepted.and_then(|word| LEVELS.into_iter().find(|level| *level == word)),
            lost: Lost {
                level: None,
                refused: self.refused,
                root: self.root,
                announced: self.announced,
            },
            ext4: self.ext4,
            btrfs: self.btrfs.map(|(corruption, io)| BtrfsErrors { io, corruption, corrupted: 0 }),
            loss_accepted: self.loss_accepted,
            accepted_at: self.accepted_at,
            unexplained: self.unexplained.and_then(EventMemory::event),
            ..Superblock::default()
        };
        if self.probe {
            known.probes.due.insert(now.mono);
        }
        known
    }
}

impl EventMemory {
    fn event(self) -> Option<Event> {
        let Self { ktime, kind, dev, errno, place, detail } = self;
        Some(Event { ktime, kind: Kind::from_raw(kind)?, dev, errno, place, detail })
    }
}
