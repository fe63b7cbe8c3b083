//! What sysfs says about block devices and filesystems. Reading it touches no disk: the kernel answers from memory, also
//! while the disk hangs.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    kept_files::KeptFiles,
    mounts::Member,
    statistics::{BtrfsErrors, Disk, Ext4Errors, parse_error_stats, parse_stat},
};
use crate::{errno::ENODEV, model::Dev};

/// 8 levels: devices can be stacked (partition on md on multipath on disk), but not this deep.
const MAX_DEPTH: usize = 8;

/// md levels that keep working without one member.
const REDUNDANT_MD: [&str; 5] = ["raid1", "raid4", "raid5", "raid6", "raid10"];

/// `CP_ERROR_FLAG` of f2fs (Documentation/ABI/testing/sysfs-fs-f2fs).
const F2FS_CP_ERROR: u32 = 8;

/// A sysfs.
#[derive(Clone, Debug)]
pub struct Sysfs {
    /// Its mount point, usually `/sys`.
    pub root: PathBuf,
}

impl Sysfs {
    fn block(&self, dev: Dev) -> PathBuf {
        self.root.join("dev/block").join(dev.to_string())
    }

    /// The kernel's name of a device (`sda1`, `dm-0`, `cciss!c0d0`); `None` if there is no such device.
    pub fn name(&self, dev: Dev) -> io::Result<Option<String>> {
        let target = present(fs::read_link(self.block(dev)))?;
        let name = target.as_deref().and_then(Path::file_name);
        Ok(name.map(|name| name.to_string_lossy().into_owned()))
    }

    /// Whether sysfs has no device of this number. False on any error: an error must not look like a removed device.
    #[must_use]
    pub fn is_gone(&self, dev: Dev) -> bool {
        // A sysfs without this directory (a container's own) says nothing about any device.
        self.root.join("dev/block").is_dir() && matches!(fs::exists(self.block(dev)), Ok(false))
    }

    /// Every device whose failure can be a failure of `dev`: the device itself, the disk that it is a partition of, and
    /// the devices below it by `slaves`; the topmost first.
    ///
    /// An error (out of file descriptors, say) is not an empty result: a fault whose device seems to carry nothing would
    /// close.
    pub fn members(&self, dev: Dev) -> io::Result<Vec<Member>> {
        let mut found = Vec::new();
        self.collect(dev, false, 0, &mut found)?;
        Ok(found)
    }

    fn collect(
        &self,
        dev: Dev,
        redundant: bool,
        depth: usize,
        found: &mut Vec<Member>,
    ) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Ok(());
        }
        let known = found.iter().position(|member| member.dev == dev);
        // Reached a second time: the device is redundant only if it is so on every way.
        if known.is_some_and(|at| redundant || !found[at].redundant) {
            return Ok(());
        }
        let Some(name) = self.name(dev)? else { return Ok(()) };
        let block = self.block(dev);
        let partition = fs::exists(block.join("partition"))?;
        match known {
            Some(at) => found[at].redundant = redundant,
            None => found.push(Member { dev, name, redundant, partition }),
        }
        if partition && let Some(disk) = read_dev(&block.join("../dev"))? {
            self.collect(disk, redundant, depth + 1, found)?;
        }
        let Some(slaves) = present(fs::read_dir(block.join("slaves")))? else { return Ok(()) };
        for slave in slaves {
            let slave = slave?;
            if let Some(dev) = read_dev(&slave.path().join("dev"))? {
                let is_redundant =
                    redundant || is_redundant(&block, &slave.file_name().to_string_lossy());
                self.collect(dev, is_redundant, depth + 1, found)?;
            }
        }
        Ok(())
    }

    /// The sysfs directory of the btrfs that has a device of this name.
    pub fn btrfs(&self, device_name: &str) -> io::Result<Option<PathBuf>> {
        let Some(all) = present(fs::read_dir(self.root.join("fs/btrfs")))? else { return Ok(None) };
        for entry in all {
            let own = entry?.path();
            if !fs::exists(own.join("devices").join(device_name))? {
                continue;
            }
            return Ok(Some(own));
        }
        Ok(None)
    }

    /// The devices of the btrfs with this sysfs directory.
    pub fn btrfs_devices(&self, own: &Path) -> io::Result<Vec<Dev>> {
        let mut devices = Vec::new();
        for device in present(fs::read_dir(own.join("devices")))?.into_iter().flatten() {
            devices.extend(read_dev(&device?.path().join("dev"))?);
        }
        Ok(devices)
    }

    /// The device behind the source of a mount such as `/dev/mapper/data`, found by the number of the file at `path`, or
    /// else by its name. A source outside `/dev` is not touched: a zfs source looks like a path, and a hung pool may be
    /// mounted there.
    pub fn device_of(&self, path: &Path, source: &Path) -> io::Result<Option<Dev>> {
        if !source.starts_with("/dev") {
            return Ok(None);
        }
        let found = present(fs::metadata(path))?;
        if let Some(rdev) = found.map(|found| found.rdev()).filter(|rdev| *rdev != 0) {
            return Ok(Some(Dev::from_stat(rdev)));
        }
        let Some(name) = source.file_name() else { return Ok(None) };
        read_dev(&self.root.join("class/block").join(name).join("dev"))
    }

    /// The progress of a device; `None` if it cannot be read.
    pub fn disk(&self, dev: Dev, kept: &mut KeptFiles) -> Option<Disk> {
        match kept.read(&self.block(dev).join("stat")) {
            Ok((text, _)) => parse_stat(&text),
            Err(_) if self.is_gone(dev) => Some(Disk::Gone),
            Err(_) => None,
        }
    }

    /// The errors that the ext4 filesystem on this device remembers; `None` if the kernel does not say.
    pub fn ext4(&self, device_name: &str, kept: &mut KeptFiles) -> Option<Ext4Errors> {
        let own = self.root.join("fs/ext4").join(device_name);
        let (text, _) = kept.read(&own.join("errors_count")).ok()?;
        let count = text.trim().parse().ok()?;
        let read =
            |file: &str| fs::read_to_string(own.join(file)).unwrap_or_default().trim().to_owned();
        let first = if count == 0 {
            String::new()
        } else {
            format!("{}:{}", read("first_error_func"), read("first_error_line"))
        };
        Some(Ext4Errors { count, first })
    }

    /// Whether the f2fs on this device has stopped to write checkpoints, after which it cannot be written; `None` if the kernel
    /// does not say (6.1 and later do).
    pub fn f2fs_stopped(&self, device_name: &str, kept: &mut KeptFiles) -> Option<bool> {
        let status = self.root.join("fs/f2fs").join(device_name).join("stat/cp_status");
        let (text, _) = kept.read(&status).ok()?;
        let flags = u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()?;
        Some(flags & F2FS_CP_ERROR != 0)
    }

    /// The device statistics of the btrfs filesystem with this sysfs directory; `None` if the kernel does not say.
    pub fn btrfs_errors(&self, own: &Path, kept: &mut KeptFiles) -> Option<BtrfsErrors> {
        let mut sums = BtrfsErrors::default();
        for device in fs::read_dir(own.join("devinfo")).ok()?.flatten() {
            let (text, _) = kept.read(&device.path().join("error_stats")).ok()?;
            let one = parse_error_stats(&text);
            sums.io += one.io;
            sums.corruption += one.corruption;
            sums.corrupted += one.corrupted;
        }
        Some(sums)
    }
}

/// Turns the error that a file does not exist into `None`.
pub(super) fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            // A device that is removed while its file is read.
            _ if error.raw_os_error() == Some(ENODEV) => Ok(None),
            _ => Err(error),
        },
    }
}

pub(super) fn read_dev(path: &Path) -> io::Result<Option<Dev>> {
    Ok(present(fs::read_to_string(path))?.and_then(|text| text.parse().ok()))
}

/// Whether the device at `block` keeps working without the member called `slave`.
///
/// md says its level, how many members are missing, and the state of each (Documentation/admin-guide/md.rst): a degraded
/// array keeps working without the member that it has already given up, and perhaps not without another one. A multipath
/// map of device mapper is known by its uuid (multipath-tools).
fn is_redundant(block: &Path, slave: &str) -> bool {
    let read = |file: &str| fs::read_to_string(block.join(file)).unwrap_or_default();
    if read("dm/uuid").starts_with("mpath-") {
        return true;
    }
    if !REDUNDANT_MD.contains(&read("md/level").trim()) {
        return false;
    }
    let state = read(&format!("md/dev-{slave}/state"));
    let given_up =
        state.trim().split(',').any(|word| matches!(word, "faulty" | "spare" | "removed"));
    given_up || read("md/degraded").trim() == "0"
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// sda with sda1 below md0 (raid1) below dm-0; sdb1 is the other leg.
    fn tree() -> (tempfile::TempDir, Sysfs) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("dev/block")).unwrap();
        let add = |dev: &str, path: &str, files: &[(&str, &str)]| {
            let own = root.join("devices").join(path);
            fs::create_dir_all(own.join("slaves")).unwrap();
            fs::write(own.join("dev"), format!("{dev}\n")).unwrap();
            for (file, text) in files {
                let file = own.join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
            symlink(&own, root.join("dev/block").join(dev)).unwrap();
        };
        add("8:0", "sda", &[]);
        add("8:1", "sda/sda1", &[("partition", "1\n")]);
        add("8:16", "sdb", &[]);
        add("8:17", "sdb/sdb1", &[("partition", "1\n")]);
        add("9:0", "md0", &[("md/level", "raid1\n"), ("md/degraded", "0\n")]);
        add("253:0", "dm-0", &[("dm/uuid", "LVM-x\n")]);
        symlink(root.join("devices/sda/sda1"), root.join("devices/md0/slaves/sda1")).unwrap();
        symlink(root.join("devices/sdb/sdb1"), root.join("devices/md0/slaves/sdb1")).unwrap();
        symlink(root.join("devices/md0"), root.join("devices/dm-0/slaves/md0")).unwrap();
        let sysfs = Sysfs { root: root.to_owned() };
        (dir, sysfs)
    }

    #[test]
    fn devices_are_followed_down_to_the_disks() {
        let (dir, sysfs) = tree();
        let members = sysfs.members(Dev::new(253, 0)).unwrap();
        let mut found: Vec<_> =
            members.iter().map(|m| (m.name.as_str(), m.redundant, m.partition)).collect();
        // sysfs lists the two legs in any order.
        if found[2].0 == "sdb1" {
            found[2..].rotate_left(2);
        }
        assert_eq!(
            found,
            [
                ("dm-0", false, false),
                ("md0", false, false),
                ("sda1", true, true),
                ("sda", true, false),
                ("sdb1", true, true),
                ("sdb", true, false),
            ]
        );
        let md = dir.path().join("devices/md0/md");
        fs::write(md.join("degraded"), "1\n").unwrap();
        for (slave, state) in [("sda1", "faulty,want_replacement\n"), ("sdb1", "in_sync\n")] {
            fs::create_dir_all(md.join(format!("dev-{slave}"))).unwrap();
            fs::write(md.join(format!("dev-{slave}/state")), state).unwrap();
        }
        let members = sysfs.members(Dev::new(253, 0)).unwrap();
        let redundant: Vec<_> =
            members.iter().filter(|m| m.redundant).map(|m| m.name.as_str()).collect();
        assert_eq!(redundant, ["sda1", "sda"], "only the one that was given up");
        assert!(sysfs.members(Dev::new(99, 0)).unwrap().is_empty());
        assert!(sysfs.is_gone(Dev::new(99, 0)));
    }
}
