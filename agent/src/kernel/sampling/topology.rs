//! Which block devices each filesystem is on.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::debug;

use super::{
    btrfs::{id_at, id_of_uuid, is_redundant},
    mount_rules::MountRules,
    mountinfo::unescape,
    mounts::{Filesystem, Layer, Member, MountTable, Vanished},
    required_mounts::Lookup,
    superblocks,
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
    /// What was gone under which filesystem before this agent, until the first table is resolved.
    vanished: Vec<Vanished>,
    /// Mounts of btrfs that gave no id in time, and are not asked again.
    stuck: BTreeSet<i32>,
    /// When the devices were looked up last.
    pub(super) resolved: Option<Instant>,
}

impl Topology {
    /// An empty table, which is stale.
    pub(super) fn new(
        paths: &Paths,
        sysfs: Sysfs,
        rules: MountRules,
        vanished: Vec<Vanished>,
    ) -> Self {
        Self {
            paths: paths.clone(),
            sysfs,
            table: Arc::default(),
            btrfs: BTreeMap::new(),
            rules,
            vanished,
            stuck: BTreeSet::new(),
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
                table.unfollowed.push(format!("{}: {error}", unfollowed_name(filesystem)));
            }
        }
        self.find_remaining_btrfs(&mut table, &mut btrfs);
        let without = table.filesystems.values().filter(|filesystem| filesystem.members.is_empty());
        let without = without.map(|filesystem| {
            format!("{}: its devices cannot be found", unfollowed_name(filesystem))
        });
        let without: Vec<_> = without.collect();
        for name in without {
            // An error has been told already.
            let told = |known: &String| known.split(": ").next() == name.split(": ").next();
            if !table.unfollowed.iter().any(told) {
                table.unfollowed.push(name);
            }
        }
        for swap in self.swaps() {
            table.filesystems.entry(swap.dev).or_insert(swap);
        }
        table.layers = self.layers(&table);
        table.paths = self.sysfs.nvme_paths(&table.disks(), &self.paths.proc);
        let blind = table.disks().into_iter().filter_map(|(dev, name)| {
            let why = self.sysfs.unfollowed(dev, name, &table.paths)?;
            Some(format!("{name}: {why}"))
        });
        let blind: Vec<_> = blind.collect();
        table.unfollowed.extend(blind);
        for (dev, filesystem) in &mut table.filesystems {
            if let Some(before) = self.table.filesystems.get(dev) {
                self.keep_vanished(filesystem, &before.members);
            }
        }
        for vanished in std::mem::take(&mut self.vanished) {
            if let Some(filesystem) = table.filesystems.get_mut(&vanished.filesystem) {
                self.restore_vanished(filesystem, vanished, &btrfs);
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
    fn keep_vanished(&self, filesystem: &mut Filesystem, before: &[Member]) {
        for member in before {
            let is_known = filesystem.members.iter().any(|known| known.dev == member.dev);
            // A stacked device cannot be removed while it is in use, so it was taken out in order (an LVM snapshot).
            let stacked = member.name.starts_with("dm-") || member.name.starts_with("md");
            if !is_known && !stacked && !member.redundant && self.sysfs.is_gone(member.dev) {
                filesystem.members.push(member.clone());
            }
        }
    }

    /// Keeps a device that was gone before this agent began, if that is the same filesystem and it is on the same devices
    /// otherwise: one that was made anew, or whose volume was moved to other disks, does not miss it.
    fn restore_vanished(
        &self,
        filesystem: &mut Filesystem,
        vanished: Vanished,
        btrfs: &BTreeMap<Dev, PathBuf>,
    ) {
        let Vanished { filesystem: dev, born, members } = vanished;
        let own = btrfs.get(&dev).map(PathBuf::as_path);
        let now = superblocks::number_of(filesystem, &self.sysfs.root, own);
        let is_another = born.zip(now).is_some_and(|(before, now)| before != now);
        let present = |members: &[Member]| -> BTreeSet<Dev> {
            members
                .iter()
                .map(|member| member.dev)
                .filter(|dev| !self.sysfs.is_gone(*dev))
                .collect()
        };
        if is_another || present(&members) != present(&filesystem.members) {
            return;
        }
        // Of a device that is gone as a whole, only the name is left in the table.
        filesystem.members.retain(|member| !self.sysfs.is_gone(member.dev));
        self.keep_vanished(filesystem, &members);
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
            for source in &filesystem.more_sources {
                if let Some(device) = self.sysfs.device_of(&self.paths.inside(source), source)? {
                    add_members(&mut filesystem.members, self.sysfs.members(device)?);
                }
            }
            if let Some(own) = filesystem.members.first().filter(|own| own.dev == dev)
                && let Some(journal) = self.sysfs.ext4_journal(&own.name, &self.paths.proc)?
            {
                add_members(&mut filesystem.members, self.sysfs.members(journal)?);
            }
            if filesystem.members.is_empty() && self.sysfs.is_gone(dev) {
                // Removed before the agent started: its name is all that is left.
                let name = filesystem.source.file_name().unwrap_or_default();
                let name = name.to_string_lossy().into_owned();
                filesystem.members = vec![Member { dev, name, redundant: false, partition: false }];
            }
            return Ok(());
        }
        let mut devices = Vec::new();
        let mut has_copies = false;
        // bcachefs names all its devices, with colons between them.
        for source in filesystem.source.to_string_lossy().split(':') {
            let source = Path::new(source);
            devices.extend(self.sysfs.device_of(&self.paths.inside(source), source)?);
        }
        if filesystem.fs_type == "btrfs"
            && let Some(first) = devices.first()
            && let Some(name) = self.sysfs.name(*first)?
            && let Some(own) = self.sysfs.btrfs(&name)?
        {
            devices = self.sysfs.btrfs_devices(&own)?;
            has_copies = is_redundant(&own);
            btrfs.insert(dev, own);
        }
        self.set_members(filesystem, devices, has_copies)
    }

    /// Fills in the devices below `devices`, each of which is redundant if the filesystem has copies.
    fn set_members(
        &self,
        filesystem: &mut Filesystem,
        devices: Vec<Dev>,
        has_copies: bool,
    ) -> io::Result<()> {
        let mut members: Vec<Member> = Vec::new();
        for device in devices {
            let mut below = self.sysfs.members(device)?;
            for member in &mut below {
                member.redundant |= has_copies;
            }
            add_members(&mut members, below);
        }
        filesystem.members = members;
        Ok(())
    }

    /// What is below each whole device.
    fn layers(&self, table: &MountTable) -> BTreeMap<Dev, Layer> {
        let disks = table.disks();
        let files = disks.keys().filter_map(|dev| Some((*dev, self.sysfs.loop_file(*dev)?)));
        let files: BTreeMap<Dev, PathBuf> = files.collect();
        let points = mount_points_above(&files, &self.paths.mount_table);
        let layer = |dev: Dev, name: &str| {
            let mut below = self.sysfs.below(dev);
            // A loop device's file is on the filesystem that is mounted on the nearest directory above it. That one may be on no
            // disk (tmpfs, FUSE).
            let above =
                files.get(&dev).and_then(|file| file.ancestors().find_map(|d| points.get(d)));
            let filesystem = above.and_then(|number| table.filesystems.get(number));
            let members = filesystem.into_iter().flat_map(|filesystem| &filesystem.members);
            below.extend(members.filter(|m| !m.partition && m.dev != dev).map(|m| m.dev));
            Layer { below, spins: name.starts_with("sd") && self.sysfs.is_rotational(dev) }
        };
        disks.into_iter().map(|(dev, name)| (dev, layer(dev, name))).collect()
    }

    /// Finds the devices of each btrfs that was mounted by a device node that says nothing (one of a container, or one that is
    /// gone): by its id, or because one is left in the table and one in sysfs.
    fn find_remaining_btrfs(&mut self, table: &mut MountTable, btrfs: &mut BTreeMap<Dev, PathBuf>) {
        let is_left = |f: &&mut Filesystem| f.fs_type == "btrfs" && f.members.is_empty();
        let mut left: Vec<_> = table.filesystems.values_mut().filter(is_left).collect();
        if left.is_empty() {
            return;
        }
        let mut unclaimed = self.sysfs.every_btrfs().unwrap_or_default();
        unclaimed.retain(|own| !btrfs.values().any(|claimed| claimed == own));
        left.retain_mut(|filesystem| {
            let id = self.btrfs_id(filesystem);
            let is_this = |own: &PathBuf| {
                let uuid = own.file_name().and_then(|name| name.to_str());
                id.is_some() && uuid.and_then(id_of_uuid) == id
            };
            let Some(at) = unclaimed.iter().position(is_this) else { return true };
            self.set_btrfs(filesystem, unclaimed.remove(at), btrfs);
            false
        });
        if let ([filesystem], [own]) = (&mut *left, &*unclaimed) {
            self.set_btrfs(filesystem, own.clone(), btrfs);
        }
    }

    /// The first half of the id of a btrfs, which leads to its UUID.
    fn btrfs_id(&mut self, filesystem: &Filesystem) -> Option<u32> {
        let mount = filesystem.best_mount().filter(|mount| !self.stuck.contains(&mount.id))?;
        let id = id_at(self.paths.inside(&mount.point));
        if id.is_none() {
            self.stuck.insert(mount.id);
        }
        id
    }

    /// Fills in the devices of the btrfs with this sysfs directory.
    fn set_btrfs(
        &self,
        filesystem: &mut Filesystem,
        own: PathBuf,
        btrfs: &mut BTreeMap<Dev, PathBuf>,
    ) {
        let found = self
            .sysfs
            .btrfs_devices(&own)
            .and_then(|devices| self.set_members(filesystem, devices, is_redundant(&own)));
        match found {
            Ok(()) => drop(btrfs.insert(filesystem.dev, own)),
            Err(error) => debug!(%error, "the devices of a btrfs cannot be found"),
        }
    }
}

/// Adds devices that may be known already; one is redundant only if it is so on every way.
fn add_members(members: &mut Vec<Member>, more: Vec<Member>) {
    for member in more {
        match members.iter_mut().find(|known| known.dev == member.dev) {
            Some(known) => known.redundant &= member.redundant,
            None => members.push(member),
        }
    }
}

/// The mount points at or above these files, with the number of the filesystem on each. A mount table without disks is not kept,
/// so it is read again if there is a loop device.
fn mount_points_above(
    files: &BTreeMap<Dev, PathBuf>,
    mount_table: &Path,
) -> BTreeMap<PathBuf, Dev> {
    let wanted: BTreeSet<&Path> = files.values().flat_map(|file| file.ancestors()).collect();
    let mut points = BTreeMap::new();
    if wanted.is_empty() {
        return points;
    }
    let text = std::fs::read(mount_table).unwrap_or_default();
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ').skip(2);
        let (Some(number), _, Some(point)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let Ok(point) = str::from_utf8(point) else { continue };
        let point = unescape(point);
        let number = str::from_utf8(number).ok().and_then(|number| number.parse().ok());
        if let Some(number) = number
            && wanted.contains(&*point)
        {
            // The last one covers those before it.
            points.insert(point, number);
        }
    }
    points
}

/// The name of a filesystem for people: `zfs on /tank`.
fn unfollowed_name(filesystem: &Filesystem) -> String {
    let point = filesystem.best_mount().map(|mount| mount.point.display().to_string());
    format!("{} on {}", filesystem.fs_type, point.unwrap_or_default())
}
