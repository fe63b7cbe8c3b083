//! Faults: what is wrong now, how that changed, and what the kernel side cannot see.

use std::{sync::Arc, time::SystemTime};

use super::{blind_spot::BlindSpots, dev::Dev};

/// What is wrong. The names are API: fault ids, metrics and JSON carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// A filesystem lost its ability to be written.
    FilesystemRo,
    /// A filesystem found an error in its own structures and can still be written.
    FilesystemError,
    /// A device failed a read, write or flush, or written data was lost.
    IoError,
    /// I/O is in flight on a device and nothing completes.
    IoStall,
}

impl FaultKind {
    /// Every kind, in the order in which they are shown.
    pub const ALL: [Self; 4] =
        [Self::FilesystemRo, Self::FilesystemError, Self::IoError, Self::IoStall];

    /// The name in ids, metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::FilesystemRo => "filesystem_ro",
            Self::FilesystemError => "filesystem_error",
            Self::IoError => "io_error",
            Self::IoStall => "io_stall",
        }
    }

    /// The check that fails while such a fault is open.
    #[must_use]
    pub fn check(self) -> &'static str {
        match self {
            Self::FilesystemRo => "filesystem_ro",
            Self::FilesystemError | Self::IoError => "io_errors",
            Self::IoStall => "io_stall",
        }
    }
}

/// Whom a fault concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The host itself: its checks fail.
    Host,
    /// Only volumes of pods: shown, but the node keeps its traffic unless `FAIL_ON_VOLUMES` says otherwise.
    Volume,
    /// One leg of a redundant array or multipath device, which serves on without it: shown, fails nothing.
    Member,
}

impl Scope {
    /// The name in metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Volume => "volume",
            Self::Member => "member",
        }
    }
}

/// One thing that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `<kind>-<major>:<minor>`: the same fault has the same id after a restart.
    pub id: String,
    /// What is wrong.
    pub kind: FaultKind,
    /// The check that it fails.
    pub check: &'static str,
    /// The device it is on.
    pub device: Dev,
    /// Its kernel name (`sda`, `dm-0`); empty when the device is gone.
    pub device_name: String,
    /// Filesystem type, or empty when the device carries several.
    pub filesystem: String,
    /// Where the affected filesystems are mounted: at most [`MOUNT_POINTS_SHOWN`].
    pub mount_points: Vec<String>,
    /// Whom it concerns.
    pub scope: Scope,
    /// When it was first seen.
    pub opened: SystemTime,
    /// When there was last evidence of it.
    pub last: SystemTime,
    /// Kernel events behind it, exact to within a second; at least 1.
    pub count: u64,
    /// Name of the last errno, where one is known.
    pub errno: Option<String>,
    /// `CLOCK_MONOTONIC` nanoseconds of the first kernel event, where an event opened it.
    pub kernel_ns: Option<u64>,
    /// One line for people: device, mount point, what happened.
    pub reason: String,
    /// What it rests on, one line each.
    pub evidence: Vec<String>,
}

/// A node may mount one filesystem ten thousand times; a fault names this many.
pub const MOUNT_POINTS_SHOWN: usize = 16;

/// What the kernel side knows at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultView {
    /// Open faults, in the order of their ids.
    pub faults: Vec<Fault>,
    /// What cannot be seen, and why.
    pub blind_spots: BlindSpots,
    /// Number of the last [`FaultChange`] that this view contains; 0 before the first one.
    pub sequence: u64,
    /// Faults opened since the start, by kind.
    pub opened: [u64; 4],
    /// Faults closed since the start, by kind.
    pub closed: [u64; 4],
}

/// How a fault changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transition {
    /// It was not open before.
    Opened,
    /// It was open and still is; its reason, its evidence or its scope is another one.
    Updated,
    /// Its cause is gone, or an operator cleared it.
    Closed,
}

/// One change of the open faults.
///
/// The kernel task finds out what changed when it publishes a [`FaultView`], and tells it once. A fault that closes
/// and opens again between two views is two changes, the closing first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultChange {
    /// Number of this change since the start of the agent: 1, 2, 3 and so on. A reader that knows a view ignores changes
    /// up to [`FaultView::sequence`].
    pub sequence: u64,
    /// When the kernel task published it.
    pub at: SystemTime,
    /// What happened.
    pub transition: Transition,
    /// The fault after the change; for [`Transition::Closed`], as it was last.
    pub fault: Arc<Fault>,
}
