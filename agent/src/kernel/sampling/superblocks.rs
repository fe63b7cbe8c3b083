//! Which superblock is which. sysfs has a directory for each live superblock of some types, whatever is mounted where. An open
//! file of that directory dies with the superblock.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    kept_files::KeptFiles,
    mounts::{Filesystem, MountTable},
};
use crate::model::Dev;

/// A file of each superblock that was ever seen mounted, for as long as that superblock lives.
#[derive(Debug, Default)]
pub(super) struct Superblocks {
    files: BTreeMap<Dev, OwnFile>,
}

/// A file that a superblock has for itself.
#[derive(Debug)]
struct OwnFile {
    path: PathBuf,
    /// Its inode number; `None` if that could not be read.
    inode: Option<u64>,
}

/// What sysfs says about superblocks at one moment.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// For each mounted filesystem that was read before, whether it is another superblock now.
    pub(super) reborn: BTreeMap<Dev, bool>,
    /// For each mounted filesystem, a number that no other superblock has on this boot: the inode number of its file. On 64 bit
    /// kernfs never gives one a second time, because it counts in the upper half how often the lower half began anew
    /// (`__kernfs_new_node` in fs/kernfs/dir.c, 5.10 to 6.18).
    pub(super) born: BTreeMap<Dev, u64>,
    /// Those that live without a mount.
    pub(super) living: BTreeSet<Dev>,
}

impl Superblocks {
    /// Reads which superblocks there are.
    pub(super) fn read(
        &mut self,
        table: &MountTable,
        sysfs: &Path,
        btrfs: impl Fn(Dev) -> Option<PathBuf>,
        kept: &mut KeptFiles,
    ) -> Seen {
        let mut seen = Seen::default();
        self.files.retain(|dev, file| {
            let is_mounted = table.filesystems.contains_key(dev);
            if !is_mounted && let Ok((_, false)) = kept.read(&file.path) {
                seen.living.insert(*dev);
            }
            is_mounted || seen.living.contains(dev)
        });
        for (dev, filesystem) in &table.filesystems {
            let Some(file) = own_file(filesystem, sysfs, btrfs(*dev).as_deref()) else { continue };
            if let Ok((_, died)) = kept.read(&file) {
                // Of one that is seen for the first time nothing is known.
                let known =
                    self.files.get(dev).map(|known| (died || known.path != file, known.inode));
                if let Some((reborn, _)) = known {
                    seen.reborn.insert(*dev, reborn);
                }
                let inode = match known {
                    Some((false, Some(inode))) => Some(inode),
                    _ => inode(&file),
                };
                seen.born.extend(inode.map(|inode| (*dev, inode)));
                self.files.insert(*dev, OwnFile { path: file, inode });
            }
        }
        seen
    }
}

/// The number of a superblock, see [`Seen::born`]. `btrfs` is the sysfs directory of a btrfs.
pub(super) fn number_of(
    filesystem: &Filesystem,
    sysfs: &Path,
    btrfs: Option<&Path>,
) -> Option<u64> {
    inode(&own_file(filesystem, sysfs, btrfs)?)
}

fn inode(file: &Path) -> Option<u64> {
    fs::metadata(file).ok().map(|metadata| metadata.ino())
}

/// A file in the sysfs directory of a superblock, which carries the name of its device, or the UUID of a btrfs.
fn own_file(filesystem: &Filesystem, sysfs: &Path, btrfs: Option<&Path>) -> Option<PathBuf> {
    let file = match filesystem.fs_type.as_str() {
        "btrfs" => return btrfs.map(|own| own.join("label")),
        "ext2" | "ext3" | "ext4" => "session_write_kbytes",
        // Linux 3.17 and later.
        "xfs" => "log/log_head_lsn",
        "f2fs" => "features",
        _ => return None,
    };
    let device = filesystem.members.iter().find(|member| member.dev == filesystem.dev)?;
    let kind = if file.starts_with("session") { "ext4" } else { filesystem.fs_type.as_str() };
    Some(sysfs.join("fs").join(kind).join(&device.name).join(file))
}
