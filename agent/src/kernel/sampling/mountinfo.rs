//! Parses mountinfo files.
//!
//! mountinfo is the only table that keeps the flags of a mount and those of its superblock apart (`/proc/mounts` merges
//! them). procfs parses the lines; its parser does not undo the kernel's octal escapes, refuses bytes that are not UTF-8,
//! and gives up on a whole table for one bad line, so those three are handled here.

use std::{borrow::Cow, ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

use procfs::process::MountInfo;

use super::mounts::{Filesystem, Mark, Mount, MountTable, is_volume};
use crate::model::Dev;

/// Filesystem types whose device number is not that of a block device, and which are on block devices all the same.
const POOLED: [&str; 3] = ["btrfs", "zfs", "bcachefs"];

impl MountTable {
    /// Parses a mountinfo file. Filesystems without a disk (tmpfs, overlay, NFS, …) are left out.
    #[must_use]
    pub fn parse(mountinfo: &[u8]) -> Self {
        let mut table = Self::default();
        for line in mountinfo.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if let Some(dev) = diskless(line) {
                table.diskless.insert(dev);
                table.note_root(line);
                continue;
            }
            if table.add(&escape_non_utf8(line)).is_none() {
                table.bad_lines += 1;
            }
        }
        table
    }

    /// Remembers the type of the root filesystem if this is its line: it is on no disk.
    fn note_root(&mut self, line: &[u8]) {
        if line.split(|byte| *byte == b' ').nth(4) == Some(b"/") {
            self.diskless_root =
                fs_type(line).map(|name| String::from_utf8_lossy(name).into_owned());
        }
    }

    /// Adds one line; `None` if it cannot be parsed.
    fn add(&mut self, line: &str) -> Option<()> {
        let info = MountInfo::from_line(line).ok()?;
        let dev: Dev = info.majmin.parse().ok()?;
        let mark = if info.super_options.contains_key("shutdown") {
            Some(Mark::Shutdown)
        } else if info.super_options.contains_key("emergency_ro") {
            Some(Mark::EmergencyRo)
        } else {
            None
        };
        let point = unescape(info.mount_point.to_str()?);
        let mount = Mount {
            id: info.mnt_id,
            is_volume: is_volume(&point),
            point,
            whole: info.root == "/" || (info.fs_type == "btrfs" && !info.root.is_empty()),
            read_only: info.mount_options.contains_key("ro"),
        };
        if mount.point.as_os_str() == "/" {
            // The last one mounted there is the root.
            self.diskless_root = None;
        }
        let option = |name: &str| info.super_options.get(name).cloned().flatten();
        let more_sources = ["logdev", "rtdev"].into_iter().filter(|_| info.fs_type == "xfs");
        let more_sources = more_sources.filter_map(option).map(|path| unescape(&path)).collect();
        let filesystem = self.filesystems.entry(dev).or_insert_with(|| Filesystem {
            dev,
            fs_type: info.fs_type,
            source: unescape(info.mount_source.as_deref().unwrap_or_default()),
            read_only: info.super_options.contains_key("ro"),
            mark,
            mounts: Vec::new(),
            more_sources,
            members: Vec::new(),
            is_ignored: false,
        });
        filesystem.mounts.push(mount);
        Some(())
    }
}

/// The device number of a line about a filesystem without a disk. A node has thousands of such lines, so they are not
/// parsed any further. Their major number is 0, and the type of the filesystem comes after the separator.
fn diskless(line: &[u8]) -> Option<Dev> {
    let dev = line.split(|byte| *byte == b' ').nth(2)?;
    if !dev.starts_with(b"0:") {
        return None;
    }
    let fs_type = fs_type(line)?;
    if POOLED.iter().any(|pooled| pooled.as_bytes() == fs_type) {
        return None;
    }
    str::from_utf8(dev).ok()?.parse().ok()
}

/// The type of the filesystem, which comes after the separator.
fn fs_type(line: &[u8]) -> Option<&[u8]> {
    let separator = line.windows(3).position(|window| window == b" - ")?;
    line[separator + 3..].split(|byte| *byte == b' ').next()
}

/// Writes bytes that are not UTF-8 as the kernel's octal escapes, which [`unescape`] undoes.
fn escape_non_utf8(line: &[u8]) -> Cow<'_, str> {
    if let Ok(line) = str::from_utf8(line) {
        return Cow::Borrowed(line);
    }
    let mut text = String::with_capacity(line.len() + 16);
    for chunk in line.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\{byte:03o}"));
        }
    }
    Cow::Owned(text)
}

/// Undoes the kernel's octal escapes such as `\040` (`mangle` in `fs/proc_namespace.c` escapes space, tab, newline,
/// backslash and `#`).
#[must_use]
pub(super) fn unescape(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 4).filter(|digits| {
            byte == b'\\'
                && matches!(digits[0], b'0'..=b'3')
                && digits[1..].iter().all(|d| matches!(d, b'0'..=b'7'))
        });
        if let Some(digits) = digits {
            out.push(digits.iter().fold(0, |value, digit| value << 3 | (digit - b'0')));
            at += 4;
        } else {
            out.push(byte);
            at += 1;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::path::Path;

    use super::*;

    fn one(line: &str) -> Filesystem {
        let table = MountTable::parse(line.as_bytes());
        assert_eq!(table.bad_lines, 0, "{line}");
        table.filesystems.into_values().next().unwrap()
    }

    #[test]
    fn options_are_split_by_comma_and_never_searched() {
        // (super options, per-mount options, read-only, mark)
        for (superblock, mount, read_only, mark) in [
            ("rw,errors=remount-ro", "rw,relatime", false, None),
            ("ro,errors=remount-ro", "rw,relatime", true, None),
            ("rw,errors=remount-ro,emergency_ro", "rw", false, Some(Mark::EmergencyRo)),
            ("rw,shutdown", "rw", false, Some(Mark::Shutdown)),
            ("rw,emergency_ro,shutdown", "rw", false, Some(Mark::Shutdown)),
            ("rw,data=ro,prjquota", "ro,relatime", false, None),
            ("rw,noshutdown,emergency_roots=1", "rw", false, None),
        ] {
            let found =
                one(&format!("36 27 7:3 / /mnt/x {mount} shared:1 - ext4 /dev/loop3 {superblock}"));
            assert_eq!((found.read_only, found.mark), (read_only, mark), "{superblock}");
            assert_eq!(found.mounts[0].read_only, mount.starts_with("ro"), "{mount}");
        }
    }

    #[test]
    fn filesystems_without_a_disk_are_passed_over() {
        let table = MountTable::parse(
            b"22 27 0:21 / /proc rw - proc proc rw\n\
              31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
              40 27 0:40 / /data rw,relatime - btrfs /dev/loop0 ro,space_cache=v2\n\
              41 27 0:50 / /merged rw - overlay overlay rw,lowerdir=/a,upperdir=/b\n\
              27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n",
        );
        let found: Vec<_> =
            table.filesystems.values().map(|f| (f.dev.to_string(), &*f.fs_type)).collect();
        assert_eq!(found, [("0:40".to_owned(), "btrfs"), ("254:0".to_owned(), "ext4")]);
        assert!(table.filesystems[&Dev::new(0, 40)].is_ro_under_rw());
    }

    #[test]
    fn escapes_spaces_and_bytes_that_are_not_utf8() {
        let line = b"36 27 7:3 / /mnt/a\\040b\\011c\\134d\xff\xfee rw - ext4 /dev/my\\040disk rw";
        let table = MountTable::parse(line);
        let found = &table.filesystems[&Dev::new(7, 3)];
        let expected = OsString::from_vec(b"/mnt/a b\tc\\d\xff\xfee".to_vec());
        assert_eq!(found.mounts[0].point, PathBuf::from(expected));
        assert_eq!(found.source, Path::new("/dev/my disk"));
        assert_eq!(unescape("\\4\\999\\777\\1"), Path::new("\\4\\999\\777\\1"));
    }

    #[test]
    fn a_root_on_no_disk_is_remembered_and_the_devices_of_an_xfs_are_found() {
        let root = |text: &str| MountTable::parse(text.as_bytes()).diskless_root;
        let overlay = "20 1 0:30 / / rw - overlay overlay rw,upperdir=/b\n";
        let disk = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n";
        assert_eq!(root(overlay).as_deref(), Some("overlay"));
        assert_eq!(root(disk), None);
        // The initial root file system below the real one.
        assert_eq!(root(&format!("{overlay}{disk}")), None);
        let xfs = one(
            "36 27 7:3 / /x rw - xfs /dev/loop3 rw,attr2,logdev=/dev/loop4,rtdev=/dev/my\\040disk",
        );
        assert_eq!(xfs.more_sources, [Path::new("/dev/loop4"), Path::new("/dev/my disk")]);
    }

    #[test]
    fn one_bad_line_costs_one_line() {
        let table = MountTable::parse(
            b"36 27 7:3 / /a rw - ext4 /dev/loop3 rw\n\
              garbage\n37 27 99999999999:3 / /b rw - ext4 /dev/x rw\n36 27 7:4\n\
              38 27 7:5 / /c rw - ext4 /dev/loop5 rw\n",
        );
        assert_eq!((table.filesystems.len(), table.bad_lines), (2, 3));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _table = MountTable::parse(&bytes);
        }

        #[test]
        fn never_panics_on_almost_right_lines(
            line in "[0-9]{1,11} [-0-9]{1,11} [0-9:]{1,12} [^ ]{0,4} /[^ ]{0,12} (rw|ro)?,?[^ ]{0,8} (shared:[^ ]{0,4} )?-? ?(ext4|btrfs)? ?[^ ]{0,8} ?[^ ]{0,12}"
        ) {
            let _table = MountTable::parse(line.as_bytes());
        }

        #[test]
        fn unescape_undoes_the_kernels_escapes(name in "[ -~]{0,40}") {
            let mut escaped = String::new();
            for c in name.chars() {
                match c {
                    ' ' | '\\' | '#' => escaped.push_str(&format!("\\{:03o}", c as u32)),
                    c => escaped.push(c),
                }
            }
            prop_assert_eq!(unescape(&escaped), PathBuf::from(name));
        }
    }
}
