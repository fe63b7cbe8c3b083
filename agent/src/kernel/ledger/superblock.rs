//! What is known of one superblock.

use std::collections::BTreeSet;

use super::{probe_schedule::ProbeSchedule, types::Mono};
use crate::kernel::{ebpf::reader::Event, sampling::BtrfsErrors};

/// What is known of an f2fs that has stopped: it writes no checkpoint any more, and refuses every write.
pub(super) const CP_ERROR: &str = "cp_error";

/// Evidence that a filesystem cannot be written. Any of it opens a fault; the fault closes when there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost {
    /// What the mount table says: `emergency_ro`, `shutdown` or `ro`; or [`CP_ERROR`].
    pub(super) level: Option<&'static str>,
    /// The errno with which a write probe was refused.
    pub(super) refused: Option<i32>,
    /// The errno that its root directory gives.
    pub(super) root: Option<i32>,
    /// When an event announced a shutdown.
    pub(super) announced: Option<Mono>,
}

impl Lost {
    /// Whether there is any evidence.
    pub(super) fn any(&self) -> bool {
        self.level.is_some() || self.is_hidden()
    }

    /// Whether there is evidence that only a probe can refute.
    pub(super) fn is_hidden(&self) -> bool {
        self.refused.is_some() || self.root.is_some() || self.announced.is_some()
    }
}

/// What is known of one superblock.
#[derive(Clone, Debug, Default)]
pub(super) struct Superblock {
    /// The numbers of its mounts. When none of them is left, it was mounted again in between.
    pub(super) mount_ids: BTreeSet<i32>,
    /// The number that no other superblock has on this boot; `None` where sysfs does not tell.
    pub(super) born: Option<u64>,
    /// It was read-only and without a sign of an error when it was first seen, so an administrator wants it so.
    pub(super) on_purpose: bool,
    /// What the mount table said when an operator cleared its fault.
    pub(super) accepted: Option<&'static str>,
    /// Evidence that it cannot be written.
    pub(super) lost: Lost,
    /// The number of errors that ext4 remembered at the last snapshot; `None` until the next one sets it.
    pub(super) ext4: Option<u64>,
    /// The device statistics of btrfs at the last snapshot; `None` until the next one sets them.
    pub(super) btrfs: Option<BtrfsErrors>,
    /// An operator has accepted that it is lost. That holds until it can be written again, is mounted again, or has a
    /// new event.
    pub(super) loss_accepted: bool,
    /// When it was first seen since it was mounted, or when an operator accepted it as it was. A probe that began before
    /// proves nothing.
    pub(super) accepted_at: Mono,
    /// A snapshot older than this must not set `ext4` and `btrfs`.
    pub(super) baseline_after: Mono,
    /// An event of lost data without an errno. If the filesystem is full, it is no fault.
    pub(super) unexplained: Option<Event>,
    /// When to probe it.
    pub(super) probes: ProbeSchedule,
    /// Whether the last write probe could create its file and could not sync it.
    pub(super) sync_failed: bool,
    /// Why the last write probe could not be made.
    pub(super) unable: Option<String>,
}
