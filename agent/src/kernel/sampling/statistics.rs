//! What sysfs counts: the progress of disks, and the errors that filesystems remember.

/// How far the I/O of a device has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// sysfs has the device.
    Present {
        /// Requests completed since boot: reads, writes, discards and flushes.
        completed: u64,
        /// Requests in flight.
        in_flight: u64,
    },
    /// sysfs does not have the device any more.
    Gone,
}

/// Parses `/sys/block/<disk>/stat` (Documentation/block/stat.rst): fields 1, 5, 12 and 16 count completed requests,
/// field 9 counts requests in flight. Field 12 came with Linux 4.18, field 16 with 5.5.
pub(super) fn parse_stat(text: &str) -> Option<Disk> {
    let fields: Vec<u64> =
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let field = |number: usize| fields.get(number - 1).copied();
    let completed = [field(1), field(5), field(12), field(16)];
    let completed = completed.into_iter().flatten().fold(0, u64::wrapping_add);
    Some(Disk::Present { completed, in_flight: field(9)? })
}

/// The errors that an ext4 filesystem remembers, across umount and reboot, until fsck.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ext4Errors {
    /// Number of errors.
    pub count: u64,
    /// Function and line of the first error (`ext4_lookup:1789`); empty if there was none.
    pub first: String,
}

/// The device statistics of a btrfs filesystem, summed over its devices. They outlive umount too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BtrfsErrors {
    /// Failed reads, writes and flushes.
    pub io: u64,
    /// Bad checksums and generations.
    pub corruption: u64,
    /// Number of devices that had any of those.
    pub corrupted: u32,
}

/// Parses one `error_stats` file (Linux 5.14 and later).
pub(super) fn parse_error_stats(text: &str) -> BtrfsErrors {
    let mut sums = BtrfsErrors::default();
    for line in text.lines() {
        let Some((name, Ok(value))) =
            line.split_once(' ').map(|(n, v)| (n, v.trim().parse::<u64>()))
        else {
            continue;
        };
        match name {
            "write_errs" | "read_errs" | "flush_errs" => sums.io += value,
            "corruption_errs" | "generation_errs" => sums.corruption += value,
            _ => {}
        }
    }
    sums.corrupted = u32::from(sums.corruption > 0);
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_has_11_15_or_17_fields() {
        for (text, expected) in [
            ("5 0 40 3 7 0 56 2 4 9 9", Some((12, 4))),
            ("5 0 40 3 7 0 56 2 0 9 9 1 0 8 0", Some((13, 0))),
            ("5 0 40 3 7 0 56 2 1 9 9 1 0 8 0 2 1", Some((15, 1))),
            ("5 0 40", None),
            ("a b c d e f g h i", None),
            ("", None),
        ] {
            let expected =
                expected.map(|(completed, in_flight)| Disk::Present { completed, in_flight });
            assert_eq!(parse_stat(text), expected, "{text:?}");
        }
    }

    #[test]
    fn btrfs_statistics_are_summed() {
        let text = "write_errs 3\nread_errs 1\nflush_errs 0\ncorruption_errs 2\ngeneration_errs 1\nnew_errs 9\n";
        assert_eq!(parse_error_stats(text), BtrfsErrors { io: 4, corruption: 3, corrupted: 1 });
        assert_eq!(parse_error_stats("(invalid)"), BtrfsErrors::default());
    }
}
