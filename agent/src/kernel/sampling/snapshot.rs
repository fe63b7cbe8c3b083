//! What the sampler has read at one moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use super::{
    mounts::MountTable,
    statistics::{BtrfsErrors, Disk, Ext4Errors},
};
use crate::model::{Dev, RequiredMounts};

/// The filesystems and disks of this host, as they were at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// When reading began, in `CLOCK_MONOTONIC` nanoseconds.
    pub at: u64,
    /// Every filesystem on a disk.
    pub table: Arc<MountTable>,
    /// What is wrong with the mounts that have to be there.
    pub required_mounts: Arc<RequiredMounts>,
    /// The errors that each ext4 filesystem remembers.
    pub ext4: BTreeMap<Dev, Ext4Errors>,
    /// The device statistics of each btrfs filesystem.
    pub btrfs: BTreeMap<Dev, BtrfsErrors>,
    /// Each f2fs of which the kernel says whether it has stopped: it writes no checkpoint any more.
    pub f2fs_stopped: BTreeMap<Dev, bool>,
    /// Whether each filesystem is another superblock than at the last snapshot. sysfs tells for ext4, xfs and btrfs.
    pub reborn: BTreeMap<Dev, bool>,
    /// A number for each superblock that no other one has on this boot, also over a restart of the agent.
    pub born: BTreeMap<Dev, u64>,
    /// Filesystems that are not mounted any more and whose superblock is still there (`umount -l`).
    pub living: BTreeSet<Dev>,
    /// The progress of every whole device below a filesystem.
    pub disks: BTreeMap<Dev, Disk>,
    /// Since when no snapshot has seen a device complete a request, in `CLOCK_MONOTONIC` nanoseconds.
    pub quiet_since: BTreeMap<Dev, u64>,
}

impl Snapshot {
    /// Whether this snapshot can change the ledger's view after `earlier`. Completed requests of a healthy disk cannot.
    /// Requests in flight can: they may turn out to be stuck.
    pub(super) fn matters_after(&self, earlier: &Self) -> bool {
        let is_busy_or_gone = |disk: &Disk| !matches!(disk, Disk::Present { in_flight: 0, .. });
        !Arc::ptr_eq(&self.table, &earlier.table)
            || !Arc::ptr_eq(&self.required_mounts, &earlier.required_mounts)
            || self.ext4 != earlier.ext4
            || self.btrfs != earlier.btrfs
            || self.f2fs_stopped != earlier.f2fs_stopped
            || self.living != earlier.living
            || self.reborn.values().any(|reborn| *reborn)
            || self.disks.len() != earlier.disks.len()
            || self.disks.values().chain(earlier.disks.values()).any(is_busy_or_gone)
    }
}

/// The result of one attempt at a snapshot, with its cost.
#[derive(Debug)]
pub struct Sample {
    /// The snapshot, or why the mount table could not be read.
    pub snapshot: io::Result<Snapshot>,
    /// How long the attempt took.
    pub cost: Duration,
}
