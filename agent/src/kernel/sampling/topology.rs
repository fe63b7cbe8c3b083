//! Which block devices each filesystem is on.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::debug;

use super::{
    mount_rules::MountRules,
    mounts::{Filesystem, Member, MountTable},
    required_mounts::Lookup,
    swaps::Swaps,
    sysfs::Sysfs,
};
use crate::{
    host::Paths,
    model::{Dev, RequiredMounts},
};

/// 10 seconds until the devices below each filesystem are looked up again, even if the mount table has not changed:
/// devices can be put below a mounted filesystem (md, LVM, multipath) without a change of that table.
pub(super) const TOPOLOGY_AGE: Duration = Duration::from_secs(10);

/// The mount table with the devices below each filesystem.
#[derive(Debug)]
pub(super) struct Topology {
    paths: Paths,
    sysfs: Sysfs,
    table: Arc<MountTable>,
    /// The sysfs directory of each btrfs filesystem.
    btrfs: BTreeMap<Dev, PathBuf>,
    /// What the operator has said about mounts and devices.
    rules: MountRules,
    /// When the devices were looked up last.
    pub(super) resolved: Option<Instant>,
}

impl Topology {
    /// An empty table, which is stale.
    pub(super) fn new(paths: &Paths, sysfs: Sysfs, rules: MountRules) -> Self {
        Self {
            paths: paths.clone(),
            sysfs,
            table: Arc::default(),
            btrfs: BTreeMap::new(),
            rules,
            resolved: None,
        }
    }

    /// The table as it was resolved last. It is the same `Arc` for as long as nothing changes.
    pub(super) fn table(&self) -> &Arc<MountTable> {
        &self.table
    }

    /// The sysfs directory of a btrfs filesystem.
    pub(super) fn btrfs_directory(&self, dev: Dev) -> Option<&Path> {
        self.btrfs.get(&dev).map(PathBuf::as_path)
    }

    /// Whether the devices have to be looked up again even if the mount table has not changed.
    pub(super) fn is_stale(&self) -> bool {
        self.resolved.is_none_or(|at| at.elapsed() >= TOPOLOGY_AGE)
    }

    /// Takes over a table, whose text is `mountinfo`, with the devices of each filesystem and with the swap space. If those of one filesystem
    /// cannot be found, the ones known before stay.
    pub(super) fn resolve(&mut self, mut table: MountTable, mountinfo: &[u8]) {
        let mut btrfs = BTreeMap::new();
        for filesystem in table.filesystems.values_mut() {
            // One odd device must not make the agent blind for all the others.
            if let Err(error) = self.find_members(filesystem, &mut btrfs) {
                debug!(%error, dev = %filesystem.dev, "the devices of a filesystem cannot be found");
                let before = self.table.filesystems.get(&filesystem.dev);
                filesystem.members =
                    before.map(|before| before.members.clone()).unwrap_or_default();
                table.unresolved += 1;
            }
        }
        for swap in self.swaps() {
            table.filesystems.entry(swap.dev).or_insert(swap);
        }
        for (dev, filesystem) in &mut table.filesystems {
            if let Some(before) = self.table.filesystems.get(dev) {
                self.keep_vanished(filesystem, before);
            }
        }
        self.rules.mark_volumes(&mut table, mountinfo);
        self.rules.mark_ignored(&mut table);
        if *self.table != table {
            self.table = Arc::new(table);
        }
        self.btrfs = btrfs;
        self.resolved = Some(Instant::now());
    }

    /// What is wrong with the mounts that the operator requires.
    pub(super) fn required_mounts(&self, mountinfo: &[u8]) -> RequiredMounts {
        let btrfs = |dev| self.btrfs.get(&dev).cloned();
        let (paths, sysfs, table) = (&self.paths, &self.sysfs, &self.table);
        Lookup { paths, sysfs, table, btrfs: &btrfs }.check(&self.rules.required, mountinfo)
    }

    fn swaps(&self) -> Vec<Filesystem> {
        let known: Vec<_> = self.table.filesystems.values().filter(|f| f.is_swap()).collect();
        let swaps = Swaps { paths: &self.paths, sysfs: &self.sysfs, known: &known };
        swaps.read().unwrap_or_else(|error| {
            debug!(%error, "the swap space cannot be found");
            known.into_iter().cloned().collect()
        })
    }

    /// Keeps a device that was removed under a filesystem as one of its devices, so that the loss has a name. A device
    /// that was taken out in order (pvmove) is still in sysfs and is not kept.
    fn keep_vanished(&self, filesystem: &mut Filesystem, before: &Filesystem) {
        for member in &before.members {
            let is_known = filesystem.members.iter().any(|known| known.dev == member.dev);
            // A stacked device cannot be removed while it is in use, so it was taken out in order (an LVM snapshot).
            let stacked = member.name.starts_with("dm-") || member.name.starts_with("md");
            if !is_known && !stacked && !member.redundant && self.sysfs.is_gone(member.dev) {
                filesystem.members.push(member.clone());
            }
        }
    }

    /// Fills in the block devices that a filesystem is on.
    fn find_members(
        &self,
        filesystem: &mut Filesystem,
        btrfs: &mut BTreeMap<Dev, PathBuf>,
    ) -> io::Result<()> {
        let dev = filesystem.dev;
        if dev.major() != 0 {
            filesystem.members = self.sysfs.members(dev)?;
            if filesystem.members.is_empty() && self.sysfs.is_gone(dev) {
                // Removed before the agent started: its name is all that is left.
                let name = filesystem.source.file_name().unwrap_or_default();
                let name = name.to_string_lossy().into_owned();
                filesystem.members = vec![Member { dev, name, redundant: false, partition: false }];
            }
            return Ok(());
        }
        let mut devices = Vec::new();
        // bcachefs names all its devices, with colons between them.
        for source in filesystem.source.to_string_lossy().split(':') {
            let source = Path::new(source);
            devices.extend(self.sysfs.device_of(&self.paths.inside(source), source)?);
        }
        if filesystem.fs_type == "btrfs"
            && let Some(first) = devices.first()
            && let Some(name) = self.sysfs.name(*first)?
            && let Some((own, all)) = self.sysfs.btrfs(&name)?
        {
            btrfs.insert(dev, own);
            devices = all;
        }
        let mut members: Vec<Member> = Vec::new();
        for device in devices {
            for member in self.sysfs.members(device)? {
                match members.iter_mut().find(|known| known.dev == member.dev) {
                    Some(known) => known.redundant &= member.redundant,
                    None => members.push(member),
                }
            }
        }
        filesystem.members = members;
        Ok(())
    }
}
