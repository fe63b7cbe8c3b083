//! Which superblock is which. sysfs has a directory for each live superblock of some types, whatever is mounted where. An open
//! file of that directory dies with the superblock.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    files: BTreeMap<Dev, PathBuf>,
}

impl Superblocks {
    /// For each mounted filesystem that was read before, whether it is another superblock now; and those that live without a mount.
    pub(super) fn read(
        &mut self,
        table: &MountTable,
        sysfs: &Path,
        btrfs: impl Fn(Dev) -> Option<PathBuf>,
        kept: &mut KeptFiles,
    ) -> (BTreeMap<Dev, bool>, BTreeSet<Dev>) {
        let mut reborn = BTreeMap::new();
        let mut living = BTreeSet::new();
        self.files.retain(|dev, file| {
            let is_mounted = table.filesystems.contains_key(dev);
            if !is_mounted && let Ok((_, false)) = kept.read(file) {
                living.insert(*dev);
            }
            is_mounted || living.contains(dev)
        });
        for (dev, filesystem) in &table.filesystems {
            let file = if filesystem.fs_type == "btrfs" {
                btrfs(*dev).map(|own| own.join("label"))
            } else {
                own_file(filesystem, sysfs)
            };
            let Some(file) = file else { continue };
            if let Ok((_, died)) = kept.read(&file) {
                // Of one that is seen for the first time nothing is known.
                if let Some(known) = self.files.get(dev) {
                    reborn.insert(*dev, died || *known != file);
                }
                self.files.insert(*dev, file);
            }
        }
        (reborn, living)
    }
}

/// A file in the sysfs directory of a superblock, which carries the name of its device.
fn own_file(filesystem: &Filesystem, sysfs: &Path) -> Option<PathBuf> {
    let file = match filesystem.fs_type.as_str() {
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
