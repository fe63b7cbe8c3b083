//! The mount table as the ledger needs it: which filesystems there are, whether each can be written, where it is
//! mounted, and which devices it is on.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::model::{Dev, Scope};

/// A super option by which a filesystem says that it has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// ext4 after an error (6.14 and later).
    EmergencyRo,
    /// ext4 after its shutdown ioctl (6.18 and later).
    Shutdown,
}

impl Mark {
    /// Its text in mountinfo's super options.
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
    /// The kernel's number of the mount. After an umount the kernel uses it again.
    pub id: i32,
    /// The mount point.
    pub point: PathBuf,
    /// Whether the mount point shows the root directory of the filesystem (that of a bind mount may not).
    pub whole: bool,
    /// Whether this mount is read-only; the filesystem may be writable all the same.
    pub read_only: bool,
    /// Whether it is a volume of a pod, or the root of a container.
    pub is_volume: bool,
}

/// A block device below a filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its device number.
    pub dev: Dev,
    /// Its name in the kernel (`sda`).
    pub name: String,
    /// Whether a device above it keeps working without it (md RAID 1, 4, 5, 6, 10; multipath).
    pub redundant: bool,
    /// Whether it is a partition, which has no queue of its own.
    pub partition: bool,
}

/// A filesystem under which a device was gone already when the agent before this one ended. sysfs does not name that device
/// any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vanished {
    /// The number of the filesystem.
    pub filesystem: Dev,
    /// The number of its superblock ([`Snapshot::born`](super::snapshot::Snapshot::born)); `None` if there is none.
    pub born: Option<u64>,
    /// Every device that it was on, the one that is gone included.
    pub members: Vec<Member>,
}

/// A whole device as a layer of a stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    /// The whole devices right below it: those of `slaves`, and of the filesystem with a loop device's file.
    pub below: Vec<Dev>,
    /// Whether it is a disk that spins, and may have to spin up first: a SCSI or SATA disk with `queue/rotational`.
    pub spins: bool,
}

/// A path to an NVMe namespace that has several. The kernel tries a request again on another path without an event if the
/// path is at fault. So an error that a path announces is one of the namespace, and its reader or writer gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvmePath {
    /// The device that stands for all paths (`nvme0n1`).
    pub head: Dev,
    /// The path's name (`nvme0c1n1`). It has no device node.
    pub name: String,
}

/// One superblock that is mounted somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    /// Its `st_dev`: the number of a block device, or 0:N for btrfs and its like.
    pub dev: Dev,
    /// `ext4`, `xfs`, …, or [`SWAP`].
    pub fs_type: String,
    /// What was mounted, usually a path below `/dev`.
    pub source: PathBuf,
    /// Whether the superblock is read-only.
    pub read_only: bool,
    /// The super option by which it says that it has failed, if any.
    pub mark: Option<Mark>,
    /// Every place where it is mounted, in the order of the table: the first mount is the original one.
    pub mounts: Vec<Mount>,
    /// Paths of devices that it is on besides `source`: the log and realtime devices of an xfs.
    pub more_sources: Vec<PathBuf>,
    /// Every block device that it is on; filled in by the sampler.
    pub members: Vec<Member>,
    /// Whether the operator ignores it; filled in by the sampler.
    pub is_ignored: bool,
}

/// The type of swap space, which is watched for I/O errors only.
pub const SWAP: &str = "swap";

/// Types that become read-only after an error. Other types may be read-only for another reason from the moment they are
/// mounted (hfsplus without a journal, affs).
const FORCED_READ_ONLY: [&str; 10] =
    ["ext2", "ext3", "ext4", "btrfs", "f2fs", "vfat", "exfat", "nilfs2", "jfs", "bcachefs"];

/// Types that cannot be written, whatever their flags say.
const NEVER_WRITABLE: [&str; 6] = ["squashfs", "iso9660", "erofs", "cramfs", "romfs", "udf"];

impl Filesystem {
    /// Whether it is swap space.
    #[must_use]
    pub fn is_swap(&self) -> bool {
        self.fs_type == SWAP
    }

    /// Whether a filesystem of this type can be writable, so that "read-only" means something.
    #[must_use]
    pub fn is_writable_type(&self) -> bool {
        !self.is_swap() && !NEVER_WRITABLE.contains(&self.fs_type.as_str())
    }

    /// [`Scope::Volume`] if it is mounted as a pod's volume or a container's root and nowhere else.
    #[must_use]
    pub fn scope(&self) -> Scope {
        if self.is_ignored {
            Scope::Ignored
        } else if !self.mounts.is_empty() && self.mounts.iter().all(|mount| mount.is_volume) {
            Scope::Volume
        } else {
            Scope::Host
        }
    }

    /// The mount to show to people: preferably outside of pods, of the whole filesystem, and the first one made.
    #[must_use]
    pub fn best_mount(&self) -> Option<&Mount> {
        self.mounts.iter().min_by_key(|mount| (mount.is_volume, !mount.whole))
    }

    /// The mount through which to probe: preferably one that is not itself read-only.
    #[must_use]
    pub fn probe_mount(&self) -> Option<&Mount> {
        self.mounts.iter().min_by_key(|mount| (mount.read_only, mount.is_volume, !mount.whole))
    }

    /// Whether the superblock is read-only although its original mount is writable. btrfs and old ext4 look like this
    /// after an error, and no administrator makes it so on purpose.
    #[must_use]
    pub fn is_ro_under_rw(&self) -> bool {
        let forced = FORCED_READ_ONLY.contains(&self.fs_type.as_str());
        let asked_writable = |mount: &Mount| !mount.read_only && mount.whole;
        forced && self.read_only && self.mounts.first().is_some_and(asked_writable)
    }
}

/// Directories of containerd's in which it mounts the roots of containers: its `devmapper` and `blockfile` snapshotters
/// give each one a device of its own. (`runtime/v2/manager.go` and `core/mount/temp.go` of containerd 1.7 and 2.0)
const CONTAINER_ROOTS: [&str; 3] =
    ["io.containerd.runtime.v2.task", "io.containerd.runtime.v1.linux", "tmpmounts"];

/// Whether a mount point is in the `pods` or `plugins` directory of a directory called `kubelet`, at any depth, or is the
/// root of a container.
pub(super) fn is_volume(point: &Path) -> bool {
    let mut previous = None;
    point.components().any(|part| {
        let name = part.as_os_str();
        let found = previous.is_some_and(|before| before == "kubelet")
            && (name == "pods" || name == "plugins");
        previous = Some(name);
        found || CONTAINER_ROOTS.iter().any(|directory| name == *directory)
    })
}

/// Every filesystem that the agent watches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountTable {
    /// By `st_dev`.
    pub filesystems: BTreeMap<Dev, Filesystem>,
    /// Device numbers of superblocks without a disk, which are not watched.
    pub diskless: BTreeSet<Dev>,
    /// Number of lines that could not be parsed.
    pub bad_lines: usize,
    /// Devices that the operator ignores.
    pub ignored_devices: BTreeSet<Dev>,
    /// What is mounted from disks, or should be, and cannot be followed: names with reasons.
    pub unfollowed: Vec<String>,
    /// What is known of each whole device besides its name.
    pub layers: BTreeMap<Dev, Layer>,
    /// The paths below heads of NVMe's native multipath, by their numbers in the kernel's events.
    pub paths: BTreeMap<Dev, NvmePath>,
    /// The type of the root filesystem if that is on no disk.
    pub diskless_root: Option<String>,
}

/// A filesystem that is on a device.
#[derive(Clone, Copy, Debug)]
pub struct User<'a> {
    /// The filesystem.
    pub filesystem: &'a Filesystem,
    /// The device as a member of that filesystem; `None` if the filesystem has the device's number only.
    pub member: Option<&'a Member>,
}

impl MountTable {
    /// The filesystems that are on the device `dev`, or whose number is `dev`.
    pub fn users(&self, dev: Dev) -> impl Iterator<Item = User<'_>> {
        self.filesystems.values().filter_map(move |filesystem| {
            let member = filesystem.members.iter().find(|member| member.dev == dev);
            (member.is_some() || filesystem.dev == dev).then_some(User { filesystem, member })
        })
    }

    /// Every whole device (one with a queue of its own) below any filesystem, with its name.
    #[must_use]
    pub fn disks(&self) -> BTreeMap<Dev, &str> {
        let members = self.filesystems.values().flat_map(|filesystem| &filesystem.members);
        members.filter(|m| !m.partition).map(|m| (m.dev, m.name.as_str())).collect()
    }

    /// The kernel's name of a device below any filesystem, or of a path to one; empty if it is not known.
    #[must_use]
    pub fn device_name(&self, dev: Dev) -> &str {
        let members = self.filesystems.values().flat_map(|filesystem| &filesystem.members);
        let name = members.into_iter().find(|m| m.dev == dev).map(|m| m.name.as_str());
        name.or_else(|| self.paths.get(&dev).map(|path| path.name.as_str())).unwrap_or_default()
    }

    /// The device that an event about `dev` is about: the head, if `dev` is a path to it.
    #[must_use]
    pub fn head(&self, dev: Dev) -> Dev {
        self.paths.get(&dev).map_or(dev, |path| path.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Filesystem {
        let table = MountTable::parse(line.as_bytes());
        assert_eq!(table.bad_lines, 0, "{line}");
        table.filesystems.into_values().next().unwrap()
    }

    #[test]
    fn a_volume_of_a_pod_is_not_the_host() {
        for (points, scope) in [
            (&["/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pvc/mount"][..], Scope::Volume),
            (&["/var/lib/k0s/kubelet/plugins/kubernetes.io/csi/x/globalmount"], Scope::Volume),
            (&["/var/lib/kubelet"], Scope::Host),
            (&["/var/lib/kubelet/pods/u/volume-subpaths/x/y/0", "/"], Scope::Host),
            (&["/srv/pods/kubelet"], Scope::Host),
            // Of containerd's snapshotters devmapper and blockfile.
            (
                &["/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/5d1c/rootfs"],
                Scope::Volume,
            ),
            (&["/var/lib/containerd/tmpmounts/containerd-mount1"], Scope::Volume),
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
}
