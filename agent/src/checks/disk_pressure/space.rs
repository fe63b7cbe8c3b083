//! The free space of filesystems, and its short forms for reasons: plain data.

use std::{fmt, time::Duration};

/// The result of one statfs(2) on a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StatfsResult {
    /// The filesystem answered.
    Space(Space),
    /// Nothing exists at the path.
    Missing,
    /// The call has not returned for so long.
    Stuck(Duration),
    /// The call failed; the error as text.
    Failed(String),
}

/// The space of one filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    /// `st_dev`: paths with the same number are on the same filesystem.
    pub(super) dev: u64,
    /// Bytes, without those that are reserved for root, as the kubelet counts them.
    pub(super) bytes: Amount,
    /// Inodes. The size is 0 on filesystems that make inodes as they need them, such as btrfs and vfat.
    pub(super) inodes: Amount,
    /// The filesystem is read-only, so nothing can be short of space.
    pub(super) is_read_only: bool,
}

/// How much is free, and out of how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) free: u64,
    pub(super) size: u64,
}

/// The free share of an amount in percent, rounded down: 9.96 % is not shown as 10 %. It is coarse, so that a reason
/// does not change with every write.
pub(super) struct Percent(pub(super) Amount);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Amount { free, size } = self.0;
        let tenths = u128::from(free) * 1000 / u128::from(size.max(1));
        match (tenths / 10, tenths % 10) {
            (whole @ 10.., _) => write!(f, "{whole}%"),
            (whole, tenth) => write!(f, "{whole}.{tenth}%"),
        }
    }
}

/// Bytes as GiB with one decimal, small ones as whole MiB or KiB; rounded down.
pub(super) struct Size(pub(super) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= 1 << 30 => with_tenths(f, bytes, 1 << 30, " GiB"),
            bytes if bytes >= 1 << 20 => write!(f, "{} MiB", bytes >> 20),
            bytes => write!(f, "{} KiB", bytes >> 10),
        }
    }
}

/// Inodes as thousands or millions with one decimal; rounded down.
pub(super) struct Count(pub(super) u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            count @ 1_000_000.. => with_tenths(f, count, 1_000_000, "M"),
            count @ 1_000.. => with_tenths(f, count, 1_000, "k"),
            count => write!(f, "{count}"),
        }
    }
}

fn with_tenths(f: &mut fmt::Formatter<'_>, number: u64, one: u64, unit: &str) -> fmt::Result {
    write!(f, "{}.{}{unit}", number / one, number % one * 10 / one)
}
