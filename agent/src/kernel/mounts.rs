//! The mount table as the ledger needs it: which filesystems there are, whether each can be written,
//! where it is mounted, and which devices it rests on.
//!
//! Read from mountinfo, the only table that keeps a mount's own flags and its superblock's apart
//! (`/proc/mounts` merges them). Lines are parsed by procfs; its parser does not undo the kernel's
//! octal escapes, refuses bytes that are not UTF-8, and gives up on a whole table for one bad line, so
//! those three are handled here.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

use procfs::process::MountInfo;

use crate::model::{Dev, Scope};

/// A superblock's own word that it is no longer served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// ext4 after an error (6.14 and later).
    EmergencyRo,
    /// ext4 after its shutdown ioctl (6.18 and later).
    Shutdown,
}

impl Mark {
    /// As it is written in the super options.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::EmergencyRo => "emergency_ro",
            Self::Shutdown => "shutdown",
        }
    }
}

/// One place where a filesystem is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The kernel's number; used again after an umount.
    pub id: i32,
    /// Where.
    pub point: PathBuf,
    /// Whether this mount shows the filesystem's own root directory (a bind mount may not).
    pub whole: bool,
    /// Whether this mount is read-only, whatever the filesystem is.
    pub read_only: bool,
}

/// A block device below a filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub dev: Dev,
    /// Its kernel name.
    pub name: String,
    /// Whether something above it serves on without it (md RAID 1, 4, 5, 6, 10; multipath).
    pub redundant: bool,
    /// Whether it is a partition: then it has no queue of its own.
    pub partition: bool,
}

/// One superblock that is mounted somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// `st_dev`: a block device, or 0:N for btrfs and its like.
    pub dev: Dev,
    /// `ext4`, `xfs`, …; `swap` for swap space, which is watched for I/O errors only.
    pub fs_type: String,
    /// What was mounted, usually a path below /dev.
    pub source: PathBuf,
    /// Whether the superblock is read-only.
    pub read_only: bool,
    /// The superblock's own word that it has failed.
    pub mark: Option<Mark>,
    /// Every place where it is mounted, in the order of the table: the first is the original.
    pub mounts: Vec<Mount>,
    /// Every block device it rests on; filled by the looker.
    pub members: Vec<Member>,
}

/// Filesystem types without a block device of their own that rest on some.
const POOLED: [&str; 3] = ["btrfs", "zfs", "bcachefs"];

/// Types that make themselves read-only after an error. Others do so for reasons of their own, when they
/// are mounted (hfsplus without a journal, affs).
const FORCED_READ_ONLY: [&str; 10] =
    ["ext2", "ext3", "ext4", "btrfs", "f2fs", "vfat", "exfat", "nilfs2", "jfs", "bcachefs"];

/// Types that nobody can write, whatever the flags say.
const NEVER_WRITABLE: [&str; 6] = ["squashfs", "iso9660", "erofs", "cramfs", "romfs", "udf"];

impl Filesystem {
    /// Whether it could be written at all, so that "read-only" means something.
    #[must_use]
    pub fn is_writable_type(&self) -> bool {
        self.fs_type != "swap" && !NEVER_WRITABLE.contains(&self.fs_type.as_str())
    }

    /// A pod's volume, unless it is mounted anywhere else as well.
    #[must_use]
    pub fn scope(&self) -> Scope {
        let volume = |mount: &Mount| is_volume(&mount.point);
        if !self.mounts.is_empty() && self.mounts.iter().all(volume) {
            Scope::Volume
        } else {
            Scope::Host
        }
    }

    /// The mount that a person would name: outside of pods, the whole filesystem, first made.
    #[must_use]
    pub fn best_mount(&self) -> Option<&Mount> {
        self.mounts.iter().min_by_key(|mount| (is_volume(&mount.point), !mount.whole))
    }

    /// The mount to write a probe through: one that is not itself read-only, if there is one.
    #[must_use]
    pub fn probe_mount(&self) -> Option<&Mount> {
        self.mounts
            .iter()
            .min_by_key(|mount| (mount.read_only, is_volume(&mount.point), !mount.whole))
    }

    /// Whether the superblock is read-only although its original mount asked for a writable one: what
    /// btrfs and old ext4 look like after an error, and what nobody makes on purpose.
    #[must_use]
    pub fn is_ro_under_rw(&self) -> bool {
        let forced = FORCED_READ_ONLY.contains(&self.fs_type.as_str());
        let asked_writable = |mount: &Mount| !mount.read_only && mount.whole;
        forced && self.read_only && self.mounts.first().is_some_and(asked_writable)
    }
}

/// Below kubelet's pods or plugins directory, wherever kubelet's own directory is.
fn is_volume(point: &Path) -> bool {
    let mut previous = None;
    point.components().any(|part| {
        let name = part.as_os_str();
        let found = previous.is_some_and(|before| before == "kubelet")
            && (name == "pods" || name == "plugins");
        previous = Some(name);
        found
    })
}

/// Every filesystem that is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountTable {
    /// By `st_dev`.
    pub filesystems: BTreeMap<Dev, Filesystem>,
    /// Superblocks without a disk, which are not watched.
    pub diskless: BTreeSet<Dev>,
    /// Lines that could not be read.
    pub bad_lines: usize,
    /// Filesystems whose devices could not be found.
    pub unresolved: usize,
}

/// A filesystem that rests on a device.
#[derive(Clone, Copy, Debug)]
pub struct User<'a> {
    /// The filesystem.
    pub filesystem: &'a Filesystem,
    /// The device, as part of it.
    pub member: Option<&'a Member>,
}

impl MountTable {
    /// The filesystems that rest on `dev`, or that are `dev`.
    pub fn users(&self, dev: Dev) -> impl Iterator<Item = User<'_>> {
        self.filesystems.values().filter_map(move |filesystem| {
            let member = filesystem.members.iter().find(|member| member.dev == dev);
            (member.is_some() || filesystem.dev == dev).then_some(User { filesystem, member })
        })
    }

    /// Every whole device (with a queue of its own) below any filesystem.
    #[must_use]
    pub fn disks(&self) -> BTreeMap<Dev, &str> {
        let members = self.filesystems.values().flat_map(|filesystem| &filesystem.members);
        members.filter(|m| !m.partition).map(|m| (m.dev, m.name.as_str())).collect()
    }

    /// Kernel name of a device below any filesystem; empty where unknown.
    #[must_use]
    pub fn device_name(&self, dev: Dev) -> &str {
        let members = self.filesystems.values().flat_map(|filesystem| &filesystem.members);
        members.into_iter().find(|m| m.dev == dev).map_or("", |m| m.name.as_str())
    }

    /// Reads a mountinfo file. Filesystems without a disk (tmpfs, overlay, NFS, …) are passed over.
    #[must_use]
    pub fn parse(mountinfo: &[u8]) -> Self {
        let mut table = Self::default();
        for line in mountinfo.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if let Some(dev) = diskless(line) {
                table.diskless.insert(dev);
                continue;
            }
            if table.add(&escape_non_utf8(line)).is_none() {
                table.bad_lines += 1;
            }
        }
        table
    }

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
        let mount = Mount {
            id: info.mnt_id,
            point: unescape(info.mount_point.to_str()?),
            whole: info.root == "/" || (info.fs_type == "btrfs" && !info.root.is_empty()),
            read_only: info.mount_options.contains_key("ro"),
        };
        let filesystem = self.filesystems.entry(dev).or_insert_with(|| Filesystem {
            dev,
            fs_type: info.fs_type,
            source: unescape(info.mount_source.as_deref().unwrap_or_default()),
            read_only: info.super_options.contains_key("ro"),
            mark,
            mounts: Vec::new(),
            members: Vec::new(),
        });
        filesystem.mounts.push(mount);
        Some(())
    }
}

/// The number of a superblock without a disk; a node has thousands of such lines, and they are not parsed.
/// `0:` in front of the minor number means no device; the type is behind the separator.
fn diskless(line: &[u8]) -> Option<Dev> {
    let dev = line.split(|byte| *byte == b' ').nth(2)?;
    if !dev.starts_with(b"0:") {
        return None;
    }
    let separator = line.windows(3).position(|window| window == b" - ")?;
    let fs_type = line[separator + 3..].split(|byte| *byte == b' ').next()?;
    if POOLED.iter().any(|pooled| pooled.as_bytes() == fs_type) {
        return None;
    }
    str::from_utf8(dev).ok()?.parse().ok()
}

/// Bytes that are not UTF-8 in the kernel's own escape, which [`unescape`] turns back.
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

/// Undoes `\040` and its like (`mangle` in `fs/seq_file.c` escapes space, tab, newline, backslash and `#`).
#[must_use]
pub fn unescape(text: &str) -> PathBuf {
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
    fn one_bad_line_costs_one_line() {
        let table = MountTable::parse(
            b"36 27 7:3 / /a rw - ext4 /dev/loop3 rw\n\
              garbage\n37 27 99999999999:3 / /b rw - ext4 /dev/x rw\n36 27 7:4\n\
              38 27 7:5 / /c rw - ext4 /dev/loop5 rw\n",
        );
        assert_eq!((table.filesystems.len(), table.bad_lines), (2, 3));
    }

    #[test]
    fn a_volume_of_a_pod_is_not_the_host() {
        for (points, scope) in [
            (&["/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pvc/mount"][..], Scope::Volume),
            (&["/var/lib/k0s/kubelet/plugins/kubernetes.io/csi/x/globalmount"], Scope::Volume),
            (&["/var/lib/kubelet"], Scope::Host),
            (&["/var/lib/kubelet/pods/u/volume-subpaths/x/y/0", "/"], Scope::Host),
            (&["/srv/pods/kubelet"], Scope::Host),
        ] {
            let lines: Vec<_> = points
                .iter()
                .map(|point| format!("36 27 7:3 / {point} rw - ext4 /dev/loop3 rw"))
                .collect();
            assert_eq!(one(&lines.join("\n")).scope(), scope, "{points:?}");
        }
    }

    #[test]
    fn a_read_only_original_is_on_purpose_even_under_a_writable_bind_mount() {
        let immutable = one(
            "30 1 253:0 / /usr ro - ext4 /dev/dm-0 ro\n50 30 253:0 / /run/pod/usr rw - ext4 /dev/dm-0 ro",
        );
        assert!(!immutable.is_ro_under_rw());
        assert_eq!(immutable.probe_mount().unwrap().point, Path::new("/run/pod/usr"));
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
