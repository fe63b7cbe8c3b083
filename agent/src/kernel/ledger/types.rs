//! What goes into the ledger and comes out of it, apart from faults.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use crate::{
    kernel::probe::{Probe, Root},
    model::{Dev, FaultKind},
};

/// `CLOCK_MONOTONIC` nanoseconds, the clock that the kernel's events carry.
pub type Mono = u64;

/// A reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For ages and order.
    pub mono: Mono,
    /// For people; nothing is decided by it.
    pub wall: SystemTime,
}

/// What the operator has decided.
#[derive(Clone, Debug)]
pub struct Rules {
    /// An I/O fault closes after this long without an error, if a probe of the device then succeeds.
    pub io_error_window: Duration,
    /// I/O in flight that has not moved for this long is a stall.
    pub io_stall_after: Duration,
    /// Mount points whose filesystems are faulty if they are read-only for any reason.
    pub require_writable: Vec<PathBuf>,
}

/// A probe that the ledger asks for. Its result comes back through [`Ledger::probed`](super::Ledger::probed).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Action {
    /// The filesystem to probe.
    pub dev: Dev,
    /// Whether to write; if not, only the root directory is checked.
    pub write: bool,
    /// Whether it has to show that the disk works: what is written has to reach it.
    pub verify: bool,
}

/// The result of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The filesystem.
    pub dev: Dev,
    /// When it began.
    pub started: Mono,
    /// The state of its root directory.
    pub root: Root,
    /// The result of the write, if one was made.
    pub write: Option<Probe>,
    /// Whether the filesystem has no free block or inode.
    pub full: bool,
    /// The errno of a sector that failed before and cannot be read now.
    pub unreadable: Option<i32>,
}

/// A look at everything that has been asked for.
#[derive(Clone, Debug)]
pub(super) struct Lookout {
    /// What was missed.
    pub(super) why: String,
    /// The filesystems whose probes have not answered; `None` before the next snapshot.
    pub(super) pending: Option<BTreeSet<Dev>>,
    /// When these probes were asked for. One that began before proves nothing.
    pub(super) asked: Mono,
}

/// What identifies an open fault: one per kind and device.
pub(super) type Key = (FaultKind, Dev);

/// A duration as nanoseconds.
pub(super) fn nanos(duration: Duration) -> Mono {
    Mono::try_from(duration.as_nanos()).unwrap_or(Mono::MAX)
}
