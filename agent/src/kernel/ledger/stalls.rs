//! When I/O that does not move is a stall.

use super::{
    progress::Progress,
    state::Ledger,
    types::{Mono, nanos},
};
use crate::model::Dev;

/// 60 seconds without I/O after which a disk may have been spun down: the shortest time that people set (`hdparm -S 12`).
const SPUN_DOWN_AFTER: Mono = 60_000_000_000;
/// 30 seconds for a disk to spin up: after that the SCSI layer gives up the command (`/sys/block/sdX/device/timeout`).
const SPINS_UP_WITHIN: Mono = 30_000_000_000;
/// 12 times `IO_STALL_AFTER` (a minute by default) for a layer above devices that have nothing in flight. An I/O limit of a
/// cgroup holds requests back above the lower device; at 64 KiB a second, 1 MiB takes 16 s.
const THROTTLED: Mono = 12;

impl Ledger {
    /// Whether a disk that has completed nothing for `stuck` nanoseconds with requests in flight is stalled.
    ///
    /// A stacked device (loop, device mapper, md) is stalled if a device below it stands too. If one below it moves, the
    /// layer waits its turn. A disk that was idle may have to spin up.
    pub(super) fn is_stalled(&self, dev: Dev, stuck: Mono, now: Mono) -> bool {
        let after = nanos(self.rules.io_stall_after);
        if stuck < after {
            return false;
        }
        let Some(layer) = self.table.layers.get(&dev) else { return true };
        let idle_before = self.progress.get(&dev).map_or(0, |progress| progress.idle_before);
        if layer.spins && idle_before >= SPUN_DOWN_AFTER && stuck < SPINS_UP_WITHIN {
            return false;
        }
        let below: Vec<_> = layer.below.iter().filter_map(|dev| self.progress.get(dev)).collect();
        let stands = |progress: &&Progress| {
            progress.since.is_some_and(|since| now.saturating_sub(since) >= after)
        };
        let is_idle = |progress: &&Progress| progress.in_flight == 0;
        below.is_empty()
            || below.iter().any(stands)
            || (below.iter().all(is_idle) && stuck >= after.saturating_mul(THROTTLED))
    }
}
