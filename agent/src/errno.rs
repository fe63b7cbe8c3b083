//! Names of the errors that storage reports, with the meaning of each on a block device
//! (`blk_errors` in block/blk-core.c, the same from 5.10 to 7.3).

use std::borrow::Cow;

/// I/O error.
pub const EIO: i32 = 5;
/// No space left on device.
pub const ENOSPC: i32 = 28;
/// Read-only file system.
pub const EROFS: i32 = 30;
/// Bad message: what ext4 and xfs call a checksum error (`EFSBADCRC`).
pub const EFSBADCRC: i32 = 74;
/// Structure needs cleaning: `EFSCORRUPTED`.
pub const EFSCORRUPTED: i32 = 117;
/// Disk quota exceeded.
pub const EDQUOT: i32 = 122;
/// No such device.
pub const ENODEV: i32 = 19;

const NAMES: &[(i32, &str, &str)] = &[
    (EIO, "EIO", "I/O error"),
    (6, "ENXIO", "no such device or address"),
    (11, "EAGAIN", "try again"),
    (12, "ENOMEM", "out of memory"),
    (13, "EACCES", "permission denied"),
    (16, "EBUSY", "device busy"),
    (ENODEV, "ENODEV", "device gone"),
    (22, "EINVAL", "invalid argument"),
    (ENOSPC, "ENOSPC", "no space on the device"),
    (EROFS, "EROFS", "read-only"),
    (52, "EBADE", "reservation conflict"),
    (61, "ENODATA", "medium error"),
    (62, "ETIME", "duration limit exceeded"),
    (67, "ENOLINK", "transport error"),
    (EFSBADCRC, "EFSBADCRC", "bad checksum"),
    (84, "EILSEQ", "protection error"),
    (95, "EOPNOTSUPP", "not supported"),
    (108, "ESHUTDOWN", "shut down"),
    (110, "ETIMEDOUT", "timed out"),
    (EFSCORRUPTED, "EFSCORRUPTED", "structure corrupted"),
    (121, "EREMOTEIO", "target error"),
    (EDQUOT, "EDQUOT", "quota exceeded"),
    (123, "ENOMEDIUM", "no medium"),
];

/// The name of a positive errno: `EIO`, or `errno 200` for one that storage does not report.
#[must_use]
pub fn name(errno: i32) -> Cow<'static, str> {
    NAMES
        .iter()
        .find(|(number, ..)| *number == errno)
        .map_or_else(|| Cow::Owned(format!("errno {errno}")), |(_, name, _)| Cow::Borrowed(*name))
}

/// The name with its meaning: `EIO (I/O error)`.
#[must_use]
pub fn describe(errno: i32) -> Cow<'static, str> {
    NAMES.iter().find(|(number, ..)| *number == errno).map_or_else(
        || Cow::Owned(format!("errno {errno}")),
        |(_, name, meaning)| Cow::Owned(format!("{name} ({meaning})")),
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn names() {
        assert_eq!(super::name(5), "EIO");
        assert_eq!(super::name(200), "errno 200");
        assert_eq!(super::describe(61), "ENODATA (medium error)");
    }
}
