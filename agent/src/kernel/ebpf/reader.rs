//! Decodes what the kernel programs send: records of the ring buffer, and counters.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsRawFd, BorrowedFd},
};

use aya::maps::{MapData, MapError, RingBuf};
use tocsin_ebpf::{CountKey, Kind, Record, is_benign_block_error};

use super::wire::{Counts, Uncounted, Wire};
use crate::{
    errno::{EFSBADCRC, EFSCORRUPTED},
    model::Dev,
};

/// An event in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in `CLOCK_MONOTONIC` nanoseconds.
    pub ktime: u64,
    /// What happened.
    pub kind: Kind,
    /// The device or superblock that it happened to.
    pub dev: Dev,
    /// Positive errno; 0 if the tracepoint has none.
    pub errno: i32,
    /// First sector or inode; 0 if there is none.
    pub place: u64,
    /// Length in sectors, flags or source line.
    pub detail: u32,
}

impl Event {
    /// Whether this is the normal behaviour of healthy hardware and software.
    #[must_use]
    pub fn is_benign(&self) -> bool {
        let operation = self.kind.operation() as u16;
        operation <= Kind::BlockReadahead as u16 && is_benign_block_error(operation, self.errno)
    }

    /// Whether it is about damaged structures of a filesystem, not about a failed request.
    #[must_use]
    pub fn is_corruption(&self) -> bool {
        self.kind == Kind::XfsBuffer && matches!(self.errno, EFSCORRUPTED | EFSBADCRC)
    }
}

/// The name of a kind in metrics and JSON, which is API.
#[must_use]
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::BlockRead => "block_read",
        Kind::BlockWrite => "block_write",
        Kind::BlockFlush => "block_flush",
        Kind::BlockDiscard => "block_discard",
        Kind::BlockZeroes => "block_zeroes",
        Kind::BlockReadahead => "block_readahead",
        Kind::BioRead => "bio_read",
        Kind::BioWrite => "bio_write",
        Kind::BioFlush => "bio_flush",
        Kind::BioDiscard => "bio_discard",
        Kind::BioZeroes => "bio_zeroes",
        Kind::BioReadahead => "bio_readahead",
        Kind::Ext4Error => "ext4_error",
        Kind::Ext4Shutdown => "ext4_shutdown",
        Kind::XfsShutdown => "xfs_shutdown",
        Kind::F2fsError => "f2fs_error",
        Kind::F2fsShutdown => "f2fs_shutdown",
        Kind::XfsBuffer => "xfs_buffer",
        Kind::Writeback => "writeback",
        Kind::MountChange => "mount_change",
    }
}

/// Decodes the record at the front of `bytes`; `None` if it is too short or of an unknown kind.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Event> {
    if bytes.len() < size_of::<Record>() {
        return None;
    }
    // SAFETY: long enough (checked), any bit pattern is a valid `Record`, and the read is unaligned.
    let record = unsafe { bytes.as_ptr().cast::<Record>().read_unaligned() };
    Some(Event {
        ktime: record.ktime,
        kind: Kind::from_raw(record.kind)?,
        dev: Dev(record.dev),
        errno: record.errno,
        place: record.place,
        detail: record.detail,
    })
}

/// Moves at most `limit` events out of the ring buffer, so that a storm cannot keep the task from its other work. Returns
/// whether there may be more.
pub(crate) fn drain(ring: &mut RingBuf<MapData>, limit: usize, events: &mut Vec<Event>) -> bool {
    for _ in 0..limit {
        match ring.next() {
            Some(bytes) => events.extend(decode(&bytes)),
            None => return false,
        }
    }
    true
}

/// One of the exact counters, summed over the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// The kind of event.
    pub kind: Kind,
    /// The device.
    pub dev: Dev,
    /// Positive errno; 0 if the tracepoint has none.
    pub errno: i32,
    /// Events.
    pub count: u64,
    /// Those of them that were not sent because of the rate limit.
    pub suppressed: u64,
    /// Those of them that were not sent because the ring buffer was full.
    pub dropped: u64,
    /// When the last one happened, in `CLOCK_MONOTONIC` nanoseconds.
    pub last: u64,
}

/// Reads every counter.
pub(crate) fn counts(map: &Counts) -> Result<Vec<Count>, MapError> {
    let mut sums = BTreeMap::new();
    for item in map {
        let (Wire(key), values) = item?;
        let CountKey { dev, errno, kind, .. } = key;
        let Some(kind) = Kind::from_raw(kind) else { continue };
        let mut sum =
            Count { kind, dev: Dev(dev), errno, count: 0, suppressed: 0, dropped: 0, last: 0 };
        for Wire(value) in values.iter() {
            sum.count += value.count;
            sum.suppressed += value.suppressed;
            sum.dropped += value.dropped;
            sum.last = sum.last.max(value.last);
        }
        sums.insert((kind, sum.dev, errno), sum);
    }
    Ok(sums.into_values().collect())
}

/// Number of events for which the kernel did not run this program, because another one was running on that CPU already;
/// `None` before Linux 5.12.
pub(crate) fn missed(program: BorrowedFd<'_>) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", program.as_raw_fd())).ok()?;
    let count = |line: &str| line.strip_prefix("recursion_misses:")?.trim().parse().ok();
    text.lines().find_map(count)
}

/// Number of events for which there was no room among the counters.
pub(crate) fn uncounted(map: &Uncounted) -> u64 {
    map.get(&0, 0).map_or(0, |values| values.iter().map(|Wire(value)| value.count).sum())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tocsin_ebpf::block_kind;

    use super::*;

    fn rwbs(text: &str) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        bytes
    }

    #[test]
    fn operations_are_told_apart() {
        // (rwbs as seen in reference traces, sectors, kind)
        for (text, sectors, kind) in [
            ("R", 8, Kind::BlockRead),
            ("RS", 8, Kind::BlockRead),
            ("RM", 2, Kind::BlockRead),
            ("RA", 128, Kind::BlockReadahead),
            ("RAM", 128, Kind::BlockReadahead),
            ("W", 8, Kind::BlockWrite),
            ("WS", 1072, Kind::BlockWrite),
            ("WSM", 12, Kind::BlockWrite),
            ("FWFSM", 8, Kind::BlockWrite),
            ("WS", 0, Kind::BlockFlush),
            ("FF", 0, Kind::BlockFlush),
            ("F", 0, Kind::BlockFlush),
            ("NS", 128, Kind::BlockZeroes),
            ("WZ", 128, Kind::BlockZeroes),
            ("D", 2048, Kind::BlockDiscard),
            ("DE", 2048, Kind::BlockDiscard),
            ("", 0, Kind::BlockZeroes),
        ] {
            assert_eq!(block_kind(rwbs(text), sectors), kind, "{text} + {sectors}");
        }
    }

    #[test]
    fn harmless_errors_are_harmless_only_where_they_should_be() {
        let event = |kind, errno| Event { ktime: 0, kind, dev: Dev(0), errno, place: 0, detail: 0 };
        for (kind, errno, benign) in [
            (Kind::BlockZeroes, 95, true),
            (Kind::BlockDiscard, 95, true),
            (Kind::BlockDiscard, 121, true),
            (Kind::BioDiscard, 95, true),
            (Kind::BlockDiscard, 5, false),
            (Kind::BlockReadahead, 5, true),
            (Kind::BioReadahead, 5, true),
            (Kind::BlockRead, 5, false),
            (Kind::BlockRead, 11, true),
            (Kind::BlockWrite, 95, false),
            (Kind::BlockWrite, 28, false),
            (Kind::BlockFlush, 95, true),
            (Kind::BlockFlush, 5, false),
            (Kind::Ext4Error, 0, false),
            (Kind::Writeback, 95, false),
            (Kind::XfsBuffer, 11, false),
        ] {
            assert_eq!(event(kind, errno).is_benign(), benign, "{kind:?} {errno}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_decoded(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _event = decode(&bytes);
        }
    }
}
