//! Devices of a filesystem that its mount table line does not name, and devices that cannot be followed.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    mounts::NvmePath,
    sysfs::{Sysfs, present, read_dev},
};
use crate::model::Dev;

impl Sysfs {
    /// The device with the journal of the ext4 on the device of this name, if that is another one.
    ///
    /// The journal's thread carries the name of its device: `jbd2/sdb1-8` for the inode 8 of `sdb1`, and `jbd2/sdc` for a
    /// journal that has `sdc` for itself (`fs/jbd2/journal.c`; `journal_task` is there from 4.20 on). Before 5.17 a name is
    /// cut off after 15 characters; a name that no device has is passed over.
    pub(super) fn ext4_journal(&self, device_name: &str, proc: &Path) -> io::Result<Option<Dev>> {
        let task = self.root.join("fs/ext4").join(device_name).join("journal_task");
        let Some(task) = present(fs::read_to_string(task))? else { return Ok(None) };
        let name = proc.join(task.trim()).join("comm");
        let Some(name) = present(fs::read_to_string(name))? else { return Ok(None) };
        let Some(device) = name.trim().strip_prefix("jbd2/") else { return Ok(None) };
        // An inode of the filesystem's own device.
        if device.starts_with(&format!("{device_name}-")) {
            return Ok(None);
        }
        read_dev(&self.root.join("class/block").join(device).join("dev"))
    }

    /// The sysfs directories of every btrfs.
    pub(super) fn every_btrfs(&self) -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in present(fs::read_dir(self.root.join("fs/btrfs")))?.into_iter().flatten() {
            let own = entry?.path();
            // `features` has no devices.
            if fs::exists(own.join("devices"))? {
                found.push(own);
            }
        }
        Ok(found)
    }

    /// Why the errors or stalls of a whole device cannot all be seen; `None` if they can. `paths` are those that are known
    /// by their numbers.
    pub(super) fn unfollowed(
        &self,
        dev: Dev,
        name: &str,
        paths: &BTreeMap<Dev, NvmePath>,
    ) -> Option<String> {
        let block = self.root.join("dev/block").join(dev.to_string());
        let iostats = fs::read_to_string(block.join("queue/iostats")).unwrap_or_default();
        if iostats.trim() == "0" {
            return Some("its stalls cannot be seen, because its queue/iostats is 0".to_owned());
        }
        if !name.starts_with("nvme") {
            return None;
        }
        let controllers = nvme_controllers(&block);
        if controllers.len() > 1 && !paths.values().any(|path| path.head == dev) {
            return Some("errors of single NVMe paths below it cannot be seen".to_owned());
        }
        let state = |controller: &PathBuf| {
            let state = fs::read_to_string(controller.join("state")).unwrap_or_default();
            (controller.file_name().unwrap_or_default().to_owned(), state.trim().to_owned())
        };
        let mut lost = controllers.iter().map(state).filter(|(_, state)| state != "live");
        lost.next().map(|(controller, state)| {
            format!("the path by its controller {} is {state}", controller.display())
        })
    }

    /// The paths below the heads of NVMe's native multipath among these whole devices, as far as they have numbers (6.1 and
    /// later). A path has no entry in `/sys/dev/block`, but it has a line in `/proc/diskstats`.
    pub(super) fn nvme_paths(
        &self,
        disks: &BTreeMap<Dev, &str>,
        proc: &Path,
    ) -> BTreeMap<Dev, NvmePath> {
        let heads = disks.iter().filter(|(dev, name)| {
            let block = self.root.join("dev/block").join(dev.to_string());
            name.starts_with("nvme") && !nvme_controllers(&block).is_empty()
        });
        let heads: BTreeMap<&str, Dev> = heads.map(|(dev, name)| (*name, *dev)).collect();
        if heads.is_empty() {
            return BTreeMap::new();
        }
        let text = fs::read_to_string(proc.join("diskstats")).unwrap_or_default();
        text.lines().filter_map(|line| nvme_path(line, &heads)).collect()
    }

    /// The whole devices right below a device, by `slaves`.
    pub(super) fn below(&self, dev: Dev) -> Vec<Dev> {
        let slaves = self.root.join("dev/block").join(dev.to_string()).join("slaves");
        let slaves = fs::read_dir(slaves).into_iter().flatten().flatten();
        let whole = |slave: fs::DirEntry| {
            let own = slave.path();
            let is_partition = own.join("partition").exists();
            let file = if is_partition {
                fs::canonicalize(&own).ok()?.join("../dev")
            } else {
                own.join("dev")
            };
            read_dev(&file).ok().flatten()
        };
        slaves.filter_map(whole).collect()
    }

    /// The path of the file of a loop device, as it was when the device was made.
    pub(super) fn loop_file(&self, dev: Dev) -> Option<PathBuf> {
        let own = self.root.join("dev/block").join(dev.to_string());
        let path = fs::read_to_string(own.join("loop/backing_file")).ok()?;
        Some(PathBuf::from(path.trim_end_matches('\n')))
    }

    /// Whether a disk says that it spins.
    pub(super) fn is_rotational(&self, dev: Dev) -> bool {
        let own = self.root.join("dev/block").join(dev.to_string());
        fs::read_to_string(own.join("queue/rotational")).is_ok_and(|text| text.trim() == "1")
    }
}

/// The path that a line of `/proc/diskstats` is about: `nvme0c1n1` is one to `nvme0n1`.
fn nvme_path(line: &str, heads: &BTreeMap<&str, Dev>) -> Option<(Dev, NvmePath)> {
    let mut fields = line.split_whitespace();
    let (major, minor) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let name = fields.next()?;
    let (subsystem, rest) = name.strip_prefix("nvme")?.split_once('c')?;
    let (_, namespace) = rest.split_once('n')?;
    let head = *heads.get(format!("nvme{subsystem}n{namespace}").as_str())?;
    // Before 6.1 they all have the number 0:0.
    (major != 0).then(|| (Dev::new(major, minor), NvmePath { head, name: name.to_owned() }))
}

/// The controllers of the `NVMe` subsystem that is the parent of the device at `block`: one for each path. The head of a
/// multipath namespace is a child of its subsystem, beside links to the controllers.
fn nvme_controllers(block: &Path) -> Vec<PathBuf> {
    let Ok(own) = fs::canonicalize(block) else { return Vec::new() };
    let Some(subsystem) = own.parent() else { return Vec::new() };
    if !subsystem
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"nvme-subsys"))
    {
        return Vec::new();
    }
    let entries = fs::read_dir(subsystem).into_iter().flatten().flatten();
    let is_controller = |name: &str| {
        name.strip_prefix("nvme").is_some_and(|n| n.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let controllers = entries.filter(|entry| is_controller(&entry.file_name().to_string_lossy()));
    controllers.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn an_external_journal_is_found_by_the_name_of_its_thread() {
        for (name, expected) in [
            ("jbd2/sdb1-8\n", None),
            ("jbd2/sdc\n", Some(Dev::new(8, 32))),
            // Cut off.
            ("jbd2/mapper-x\n", None),
            ("kworker/0:1\n", None),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let sysfs = Sysfs { root: dir.path().join("sys") };
            let proc = dir.path().join("proc");
            write(&sysfs.root.join("fs/ext4/sdb1/journal_task"), "77\n");
            write(&sysfs.root.join("class/block/sdc/dev"), "8:32\n");
            write(&proc.join("77/comm"), name);
            assert_eq!(sysfs.ext4_journal("sdb1", &proc).unwrap(), expected, "{name}");
            assert_eq!(sysfs.ext4_journal("sda1", &proc).unwrap(), None, "no such filesystem");
        }
    }

    #[test]
    fn a_disk_without_statistics_and_a_multipath_head_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let sysfs = Sysfs { root: dir.path().to_owned() };
        fs::create_dir_all(dir.path().join("dev/block")).unwrap();
        let add = |dev: &str, path: &str, iostats: &str| {
            let own = dir.path().join("devices").join(path);
            write(&own.join("queue/iostats"), iostats);
            symlink(&own, dir.path().join("dev/block").join(dev)).unwrap();
        };
        add("8:0", "sda", "1\n");
        add("8:16", "sdb", "0\n");
        add("259:0", "virtual/nvme-subsystem/nvme-subsys0/nvme0n1", "1\n");
        add("259:1", "virtual/nvme-subsystem/nvme-subsys1/nvme1n1", "1\n");
        let controller = |path: &str, state: &str| {
            let own = dir.path().join("devices/virtual/nvme-subsystem").join(path);
            write(&own.join("state"), state);
        };
        for path in ["nvme-subsys0/nvme0", "nvme-subsys0/nvme2", "nvme-subsys1/nvme1"] {
            controller(path, "live\n");
        }
        let heads = [(Dev::new(259, 0), "nvme0n1"), (Dev::new(259, 1), "nvme1n1")];
        let proc = dir.path().join("proc");
        let paths = |text: &str| {
            write(&proc.join("diskstats"), text);
            sysfs.nvme_paths(&BTreeMap::from(heads), &proc)
        };
        let none = paths(" 259 0 nvme0n1 9 0\n   0 0 nvme0c0n1 0 0\n   0 0 nvme0c2n1 0 0\n");
        let known = paths(" 259 0 nvme0n1 9 0\n 259 7 nvme0c0n1 0 0\n 259 8 nvme0c2n1 0 0\n");
        let path = NvmePath { head: Dev::new(259, 0), name: "nvme0c2n1".to_owned() };
        assert_eq!((none.len(), known.len(), &known[&Dev::new(259, 8)]), (0, 2, &path));
        for (dev, name, paths, is_told) in [
            (Dev::new(8, 0), "sda", &none, false),
            (Dev::new(8, 16), "sdb", &none, true),
            (Dev::new(259, 0), "nvme0n1", &none, true),
            (Dev::new(259, 0), "nvme0n1", &known, false),
            (Dev::new(259, 1), "nvme1n1", &none, false),
        ] {
            assert_eq!(sysfs.unfollowed(dev, name, paths).is_some(), is_told, "{name}");
        }
        controller("nvme-subsys0/nvme2", "connecting\n");
        assert_eq!(
            sysfs.unfollowed(Dev::new(259, 0), "nvme0n1", &known).unwrap(),
            "the path by its controller nvme2 is connecting"
        );
    }
}
