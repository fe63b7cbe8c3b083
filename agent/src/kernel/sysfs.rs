//! What sysfs says about block devices and filesystems. Nothing here touches a disk: these files are
//! answered from memory, also while the disk hangs.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::mounts::Member;
use crate::{errno::ENODEV, model::Dev};

/// Devices can be stacked (partition on md on multipath on disk), but not this deep.
const MAX_DEPTH: usize = 8;

/// md levels that serve on without one member.
const REDUNDANT_MD: [&str; 5] = ["raid1", "raid4", "raid5", "raid6", "raid10"];

/// Small files that are read again and again are kept open: one `pread` instead of three calls.
#[derive(Debug, Default)]
pub struct KeptFiles {
    files: HashMap<PathBuf, fs::File>,
}

impl KeptFiles {
    /// The whole file. The second value says that the open one had died and it was opened anew: what it
    /// belonged to was removed and is there again (an open file of a removed sysfs directory gives
    /// ENODEV for ever). For a filesystem's own directory this means that it was mounted again.
    pub fn read(&mut self, path: &Path) -> io::Result<(String, bool)> {
        let mut died = false;
        if let Some(file) = self.files.get(path) {
            match pread(file) {
                Ok(text) => return Ok((text, false)),
                Err(_) => died = self.files.remove(path).is_some(),
            }
        }
        let file = fs::File::open(path)?;
        let text = pread(&file)?;
        self.files.insert(path.to_owned(), file);
        Ok((text, died))
    }

    /// Closes the files of what is gone for good.
    pub fn prune(&mut self) {
        self.files.retain(|_, file| pread(file).is_ok());
    }
}

fn pread(file: &fs::File) -> io::Result<String> {
    let mut buffer = [0; 1024];
    let length = file.read_at(&mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// How far a device has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// It is there.
    Present {
        /// Requests completed since boot: reads, writes, discards and flushes.
        completed: u64,
        /// Requests in flight.
        in_flight: u64,
    },
    /// sysfs does not know it any more.
    Gone,
}

/// Reads `/sys/block/<disk>/stat` (Documentation/block/stat.rst): fields 1, 5, 12 and 16 count completed
/// requests, field 9 is in flight. 12 came with 4.18, 16 with 5.5.
#[must_use]
pub fn parse_stat(text: &str) -> Option<Disk> {
    let fields: Vec<u64> =
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let field = |number: usize| fields.get(number - 1).copied();
    let completed = [field(1), field(5), field(12), field(16)];
    let completed = completed.into_iter().flatten().fold(0, u64::wrapping_add);
    Some(Disk::Present { completed, in_flight: field(9)? })
}

/// What ext4 remembers of its errors, across umount and reboot, until fsck.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ext4Errors {
    /// How many.
    pub count: u64,
    /// The first one: `ext4_lookup:1789`, or empty.
    pub first: String,
    /// Whether the superblock was mounted since the last look.
    pub remounted: bool,
}

/// Sums of btrfs's device statistics, which outlive umount too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BtrfsErrors {
    /// Failed reads, writes and flushes.
    pub io: u64,
    /// Bad checksums and generations.
    pub corruption: u64,
}

/// Reads one `error_stats` file (5.14 and later).
fn parse_error_stats(text: &str) -> BtrfsErrors {
    let mut sums = BtrfsErrors::default();
    for line in text.lines() {
        let Some((name, Ok(value))) =
            line.split_once(' ').map(|(n, v)| (n, v.trim().parse::<u64>()))
        else {
            continue;
        };
        match name {
            "write_errs" | "read_errs" | "flush_errs" => sums.io += value,
            "corruption_errs" | "generation_errs" => sums.corruption += value,
            _ => {}
        }
    }
    sums
}

/// A sysfs.
#[derive(Clone, Debug)]
pub struct Sysfs {
    /// Usually `/sys`.
    pub root: PathBuf,
}

impl Sysfs {
    fn block(&self, dev: Dev) -> PathBuf {
        self.root.join("dev/block").join(dev.to_string())
    }

    /// The kernel's name of a device (`sda1`, `dm-0`, `cciss!c0d0`); `None` where there is no such device.
    pub fn name(&self, dev: Dev) -> io::Result<Option<String>> {
        let target = present(fs::read_link(self.block(dev)))?;
        let name = target.as_deref().and_then(Path::file_name);
        Ok(name.map(|name| name.to_string_lossy().into_owned()))
    }

    /// Whether sysfs has a device of this number. An error is no answer: it must not look like "gone".
    #[must_use]
    pub fn is_gone(&self, dev: Dev) -> bool {
        // Without the directory nothing is known of any device (a container with a sysfs of its own).
        self.root.join("dev/block").is_dir() && matches!(fs::exists(self.block(dev)), Ok(false))
    }

    /// The device, what it is a partition of, and what lies below, by `slaves`: every device whose
    /// failure can be a failure of this one.
    ///
    /// An error is not an empty answer (out of file descriptors, say): a fault whose device seems to
    /// have no users would close.
    pub fn members(&self, dev: Dev) -> io::Result<Vec<Member>> {
        let mut found = BTreeMap::new();
        self.collect(dev, false, 0, &mut found)?;
        Ok(found.into_values().collect())
    }

    fn collect(
        &self,
        dev: Dev,
        redundant: bool,
        depth: usize,
        found: &mut BTreeMap<Dev, Member>,
    ) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Ok(());
        }
        match found.get(&dev) {
            // Reached a second time: redundant only if it is so on every way.
            Some(known) if redundant || !known.redundant => return Ok(()),
            _ => {}
        }
        let Some(name) = self.name(dev)? else { return Ok(()) };
        let block = self.block(dev);
        let partition = fs::exists(block.join("partition"))?;
        found.insert(dev, Member { dev, name, redundant, partition });
        if partition && let Some(disk) = read_dev(&block.join("../dev"))? {
            self.collect(disk, redundant, depth + 1, found)?;
        }
        let Some(slaves) = present(fs::read_dir(block.join("slaves")))? else { return Ok(()) };
        for slave in slaves {
            let slave = slave?;
            if let Some(dev) = read_dev(&slave.path().join("dev"))? {
                let spare = redundant || is_redundant(&block, &slave.file_name().to_string_lossy());
                self.collect(dev, spare, depth + 1, found)?;
            }
        }
        Ok(())
    }

    /// The devices of a btrfs, and its own directory, by the name of one device.
    pub fn btrfs(&self, device_name: &str) -> io::Result<Option<(PathBuf, Vec<Dev>)>> {
        let Some(all) = present(fs::read_dir(self.root.join("fs/btrfs")))? else { return Ok(None) };
        for entry in all {
            let own = entry?.path();
            if !fs::exists(own.join("devices").join(device_name))? {
                continue;
            }
            let mut devices = Vec::new();
            let Some(entries) = present(fs::read_dir(own.join("devices")))? else {
                return Ok(None);
            };
            for device in entries {
                devices.extend(read_dev(&device?.path().join("dev"))?);
            }
            return Ok(Some((own, devices)));
        }
        Ok(None)
    }

    /// The device behind a path such as /dev/mapper/data, by its number, or else by its name. Other
    /// paths are not touched: a zfs source looks like one, and is where a hung pool is mounted.
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

    /// Progress of a device.
    pub fn disk(&self, dev: Dev, kept: &mut KeptFiles) -> Option<Disk> {
        match kept.read(&self.block(dev).join("stat")) {
            Ok((text, _)) => parse_stat(&text),
            Err(_) if self.is_gone(dev) => Some(Disk::Gone),
            Err(_) => None,
        }
    }

    /// ext4's memory of errors; `None` where the kernel does not say.
    pub fn ext4(&self, device_name: &str, kept: &mut KeptFiles) -> Option<Ext4Errors> {
        let own = self.root.join("fs/ext4").join(device_name);
        let (text, remounted) = kept.read(&own.join("errors_count")).ok()?;
        let count = text.trim().parse().ok()?;
        let read =
            |file: &str| fs::read_to_string(own.join(file)).unwrap_or_default().trim().to_owned();
        let first = if count == 0 {
            String::new()
        } else {
            format!("{}:{}", read("first_error_func"), read("first_error_line"))
        };
        Some(Ext4Errors { count, first, remounted })
    }

    /// btrfs's device statistics, summed over its devices.
    pub fn btrfs_errors(&self, own: &Path, kept: &mut KeptFiles) -> Option<BtrfsErrors> {
        let mut sums = BtrfsErrors::default();
        for device in fs::read_dir(own.join("devinfo")).ok()?.flatten() {
            let (text, _) = kept.read(&device.path().join("error_stats")).ok()?;
            let one = parse_error_stats(&text);
            sums.io += one.io;
            sums.corruption += one.corruption;
        }
        Some(sums)
    }
}

/// What is not there is an answer; every other error is one.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            // A device that goes away while it is read.
            _ if error.raw_os_error() == Some(ENODEV) => Ok(None),
            _ => Err(error),
        },
    }
}

fn read_dev(path: &Path) -> io::Result<Option<Dev>> {
    Ok(present(fs::read_to_string(path))?.and_then(|text| text.parse().ok()))
}

/// Whether the device at `block` serves on without the member called `slave`.
///
/// md says its level, how many members are missing, and how each one is (Documentation/admin-guide/md.rst):
/// a degraded array serves on without the member it has already given up, and perhaps not without another.
/// A multipath map of device mapper says so in its uuid (multipath-tools).
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
        let found: Vec<_> =
            members.iter().map(|m| (m.name.as_str(), m.redundant, m.partition)).collect();
        assert_eq!(
            found,
            [
                ("sda", true, false),
                ("sda1", true, true),
                ("sdb", true, false),
                ("sdb1", true, true),
                ("md0", false, false),
                ("dm-0", false, false),
            ]
        );
        let md = dir.path().join("devices/md0/md");
        fs::write(md.join("degraded"), "1\n").unwrap();
        for (slave, state) in [("sda1", "faulty,want_replacement\n"), ("sdb1", "in_sync\n")] {
            fs::create_dir_all(md.join(format!("dev-{slave}"))).unwrap();
            fs::write(md.join(format!("dev-{slave}/state")), state).unwrap();
        }
        let members = sysfs.members(Dev::new(253, 0)).unwrap();
        let spare: Vec<_> =
            members.iter().filter(|m| m.redundant).map(|m| m.name.as_str()).collect();
        assert_eq!(spare, ["sda", "sda1"], "only the one that was given up");
        assert!(sysfs.members(Dev::new(99, 0)).unwrap().is_empty());
        assert!(sysfs.is_gone(Dev::new(99, 0)));
    }

    #[test]
    fn stat_has_11_15_or_17_fields() {
        for (text, expected) in [
            ("5 0 40 3 7 0 56 2 4 9 9", Some((12, 4))),
            ("5 0 40 3 7 0 56 2 0 9 9 1 0 8 0", Some((13, 0))),
            ("5 0 40 3 7 0 56 2 1 9 9 1 0 8 0 2 1", Some((15, 1))),
            ("5 0 40", None),
            ("a b c d e f g h i", None),
            ("", None),
        ] {
            let expected =
                expected.map(|(completed, in_flight)| Disk::Present { completed, in_flight });
            assert_eq!(parse_stat(text), expected, "{text:?}");
        }
    }

    #[test]
    fn btrfs_statistics_are_summed() {
        let text = "write_errs 3\nread_errs 1\nflush_errs 0\ncorruption_errs 2\ngeneration_errs 1\nnew_errs 9\n";
        assert_eq!(parse_error_stats(text), BtrfsErrors { io: 4, corruption: 3 });
        assert_eq!(parse_error_stats("(invalid)"), BtrfsErrors::default());
    }
}
