//! Which of the kernel's counters are kept: a host on which devices come and go gives each of them a new number.

use std::collections::BTreeSet;

use super::state::Ledger;
use crate::{
    kernel::ebpf::{inherited::CountId, reader::Count},
    model::Dev,
};

/// 128 counters of devices that carry no filesystem, the latest ones: some forty devices with a read, a write and a flush that
/// failed. The kernel side has room for 1,024 counters in all.
pub(super) const STRANGERS: usize = 128;

/// Minor numbers below 16 (of major 0) are taken for filesystems that the kernel makes for itself at boot. That of the
/// caches of block devices is among the first: 0:3 to 0:6 have been seen. What a user mounts has a higher number, and its
/// inode numbers may look like device numbers (NFS, FUSE).
pub(super) const INTERNAL_MINORS: u32 = 16;

impl Ledger {
    /// The counters to forget: those of devices that carry no filesystem and have no fault, but for the latest 128 of them.
    #[must_use]
    pub fn outdated(&self, counts: &[Count]) -> Vec<CountId> {
        if counts.len() <= STRANGERS {
            return Vec::new();
        }
        let mut strangers: Vec<&Count> =
            counts.iter().filter(|count| self.is_stranger(count.dev)).collect();
        strangers.sort_by_key(|count| std::cmp::Reverse(count.last));
        let outdated = strangers.into_iter().skip(STRANGERS);
        outdated.map(|count| (count.kind, count.dev, count.errno)).collect()
    }

    /// Forgets counters, and when their events were dealt with.
    pub fn forget_counts(&mut self, ids: &[CountId]) {
        for id in ids {
            self.counts.remove(id);
        }
        let kept: BTreeSet<_> = self.counts.keys().map(|(kind, dev, _)| (*kind, *dev)).collect();
        let gone: BTreeSet<_> = ids.iter().map(|(kind, dev, _)| (*kind, *dev)).collect();
        self.handled.retain(|id, _| kept.contains(id) || !gone.contains(id));
    }

    /// Whether a device carries no filesystem that is known, and has no fault.
    fn is_stranger(&self, dev: Dev) -> bool {
        let is_internal = dev.major() == 0 && dev.minor() < INTERNAL_MINORS;
        let has_fault = || self.faults.keys().any(|(_, faulty)| *faulty == dev);
        let waits = || self.waiting.iter().any(|event| event.dev == dev);
        let is_mounted =
            || self.table.users(dev).next().is_some() || self.table.diskless.contains(&dev);
        !is_internal && !is_mounted() && !has_fault() && !waits()
    }
}
