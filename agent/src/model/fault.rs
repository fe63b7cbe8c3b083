//! Faults, what changes about them, and the view that the kernel task publishes.

use std::{sync::Arc, time::SystemTime};

use super::{blind_spot::BlindSpots, dev::Dev};

/// The kinds of faults. Their names are API: they are in the ids of faults, in metrics and in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// A filesystem cannot be written any more.
    FilesystemRo,
    /// A filesystem found an error in its own structures and can still be written.
    FilesystemError,
    /// A device failed a read, write or flush, or written data was lost.
    IoError,
    /// Requests are in flight on a device and none completes.
    IoStall,
}

impl FaultKind {
    /// Every kind, in the order in which they are shown.
    pub const ALL: [Self; 4] =
        [Self::FilesystemRo, Self::FilesystemError, Self::IoError, Self::IoStall];

    /// Its name in ids, metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::FilesystemRo => "filesystem_ro",
            Self::FilesystemError => "filesystem_error",
            Self::IoError => "io_error",
            Self::IoStall => "io_stall",
        }
    }

    /// Name of the check that fails while such a fault is open.
    #[must_use]
    pub fn check(self) -> &'static str {
        match self {
            Self::FilesystemRo => "filesystem_ro",
            Self::FilesystemError | Self::IoError => "io_errors",
            Self::IoStall => "io_stall",
        }
    }
}

/// What a fault concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The host itself. Its checks fail.
    Host,
    /// Only volumes of pods. The fault is shown; checks fail with `FAIL_ON_VOLUMES` only.
    Volume,
    /// One leg of a redundant array or multipath device, which keeps working without it. The fault is shown; no check
    /// fails.
    Member,
    /// What the operator ignores (`IGNORE_MOUNTS`, `IGNORE_DEVICES`). The fault is shown; no check fails.
    Ignored,
}

impl Scope {
    /// Its name in metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Volume => "volume",
            Self::Member => "member",
            Self::Ignored => "ignored",
        }
    }
}

/// A fault: one thing that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `<kind>-<major>:<minor>`. The same fault has the same id after a restart of the agent.
    pub id: String,
    /// Its kind.
    pub kind: FaultKind,
    /// Name of the check that it fails.
    pub check: &'static str,
    /// The device that it is on.
    pub device: Dev,
    /// The device's name in the kernel (`sda`, `dm-0`); empty if the device is gone.
    pub device_name: String,
    /// Type of the filesystem; empty if there are several on the device.
    pub filesystem: String,
    /// Mount points of the affected filesystems, [`MOUNT_POINTS_SHOWN`] at most.
    pub mount_points: Vec<String>,
    /// What it concerns.
    pub scope: Scope,
    /// When it was opened.
    pub opened: SystemTime,
    /// When there was last evidence of it.
    pub last: SystemTime,
    /// Number of kernel events about it, exact to within a second; at least 1.
    pub count: u64,
    /// Name of the last errno, if one is known.
    pub errno: Option<String>,
    /// When the kernel event that opened it happened, in `CLOCK_MONOTONIC` nanoseconds; `None` if no event did.
    pub kernel_ns: Option<u64>,
    /// Device, mount point and what happened, in one line for people.
    pub reason: String,
    /// The evidence, one line each.
    pub evidence: Vec<String>,
}

/// 16 mount points that a fault names: one filesystem may be mounted in ten thousand places.
pub const MOUNT_POINTS_SHOWN: usize = 16;

/// What the kernel side knows now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultView {
    /// Open faults, in the order of their ids.
    pub faults: Vec<Fault>,
    /// What cannot be seen, and why.
    pub blind_spots: BlindSpots,
    /// The mounts that have to be there.
    pub required_mounts: RequiredMounts,
    /// Number of the last [`FaultChange`] that this view contains; 0 before the first one.
    pub sequence: u64,
    /// Faults opened since the start, by kind.
    pub opened: [u64; 4],
    /// Faults closed since the start, by kind.
    pub closed: [u64; 4],
}

/// What is wrong with the mounts of `REQUIRE_MOUNTS`, one line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequiredMounts {
    /// Mounts that are missing, or of another device than they should be.
    pub wrong: Vec<String>,
    /// Mounts whose device cannot be told.
    pub untold: Vec<String>,
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
/// When the kernel task publishes a [`FaultView`], it compares it with the one before and sends each change once. A fault
/// that closes and opens again between two views is two changes, the closing first.
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
