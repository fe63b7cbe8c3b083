//! Filesystems that are unmounted and still live: after `umount -l`, for as long as a file on them is open, and while they are
//! mounted in another namespace only. Mounting one again shows the same superblock, with the same damage.

use super::{
    state::{Ledger, Unmounted},
    types::Now,
};
use crate::{
    kernel::sampling::snapshot::Snapshot,
    model::{Dev, FaultKind},
};

impl Ledger {
    /// Puts aside what is known of the filesystems that are mounted no more and live on, and forgets the others.
    pub(super) fn put_aside(&mut self, snapshot: &Snapshot) {
        let table = self.table.clone();
        self.unmounted
            .retain(|dev, _| snapshot.living.contains(dev) || table.filesystems.contains_key(dev));
        let gone = self.superblocks.keys().filter(|dev| !table.filesystems.contains_key(dev));
        for dev in gone.copied().collect::<Vec<_>>() {
            let Some(superblock) = self.superblocks.remove(&dev) else { continue };
            if snapshot.living.contains(&dev) {
                let error = self.faults.get(&(FaultKind::FilesystemError, dev)).cloned();
                self.unmounted.insert(dev, Unmounted { superblock, error });
            }
        }
    }

    /// Takes back what was known of a filesystem that is mounted again, if it is the same superblock. Its errors since then
    /// have had no place to go, so it is probed.
    pub(super) fn take_back(&mut self, dev: Dev, snapshot: &Snapshot, now: Now) {
        let Some(Unmounted { mut superblock, error }) = self.unmounted.remove(&dev) else { return };
        if snapshot.reborn.get(&dev) != Some(&false) {
            return;
        }
        superblock.probes.running = false;
        superblock.probes.skip_write = superblock.ext4.is_none();
        superblock.probes.due.insert(now.mono);
        self.superblocks.insert(dev, superblock);
        if let Some(error) = error {
            self.faults.insert((FaultKind::FilesystemError, dev), error);
            self.opened[FaultKind::FilesystemError as usize] += 1;
            self.version += 1;
        }
    }
}
