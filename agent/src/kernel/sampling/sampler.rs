//! Reads the mount table and sysfs.

use std::{collections::BTreeMap, io, path::Path, sync::Arc, time::Instant};

use super::{
    fanotify::ErrorMarks,
    kept_files::KeptFiles,
    mount_rules::MountRules,
    mountinfo_file::MountInfoFile,
    mounts::Vanished,
    snapshot::Snapshot,
    statistics::Disk,
    superblocks::{Seen, Superblocks},
    sysfs::Sysfs,
    topology::{TOPOLOGY_AGE, Topology},
};
use crate::{
    host::{Paths, clock},
    model::{Dev, RequiredMounts},
};

/// Takes snapshots, and keeps what the next one can use.
#[derive(Debug)]
pub struct Sampler {
    paths: Paths,
    sysfs: Sysfs,
    mountinfo: MountInfoFile,
    topology: Topology,
    required_mounts: Arc<RequiredMounts>,
    kept: KeptFiles,
    superblocks: Superblocks,
    /// The requests that each disk has completed, and when that number changed last.
    completed: BTreeMap<Dev, (u64, u64)>,
    /// When [`KeptFiles::prune`] was called last.
    pruned: Instant,
    error_marks: Option<ErrorMarks>,
}

impl Sampler {
    /// Opens the mount table. With `error_marks`, the sampler has fanotify watch every filesystem for errors. `vanished` is
    /// what the agent before this one knew of devices that are gone.
    pub fn new(
        paths: &Paths,
        error_marks: Option<ErrorMarks>,
        rules: MountRules,
        vanished: Vec<Vanished>,
    ) -> io::Result<Self> {
        let sysfs = Sysfs { root: paths.sys.clone() };
        Ok(Self {
            paths: paths.clone(),
            mountinfo: MountInfoFile::open(&paths.mount_table)?,
            topology: Topology::new(paths, sysfs.clone(), rules, vanished),
            required_mounts: Arc::default(),
            sysfs,
            kept: KeptFiles::default(),
            superblocks: Superblocks::default(),
            completed: BTreeMap::new(),
            pruned: Instant::now(),
            error_marks,
        })
    }

    /// Takes a snapshot. An error means that the mount table cannot be read. A table that has not changed is not parsed
    /// again.
    pub fn sample(&mut self) -> io::Result<Snapshot> {
        let at = clock::monotonic();
        if let Some(table) = self.mountinfo.read(self.topology.is_stale())? {
            let text = self.mountinfo.text();
            self.topology.resolve(table, text);
            let required = self.topology.required_mounts(text);
            if *self.required_mounts != required {
                self.required_mounts = Arc::new(required);
            }
            if let Some(marks) = &self.error_marks {
                marks.watch(self.topology.table(), &self.paths);
            }
        }
        let (table, required_mounts) =
            (self.topology.table().clone(), self.required_mounts.clone());
        let mut snapshot = Snapshot { at, table, required_mounts, ..Snapshot::default() };
        self.read_remembered_errors(&mut snapshot);
        let btrfs = |dev| self.topology.btrfs_directory(dev).map(Path::to_owned);
        Seen { reborn: snapshot.reborn, born: snapshot.born, living: snapshot.living } =
            self.superblocks.read(&snapshot.table, &self.sysfs.root, btrfs, &mut self.kept);
        for dev in snapshot.table.disks().into_keys() {
            if let Some(disk) = self.sysfs.disk(dev, &mut self.kept) {
                snapshot.disks.insert(dev, disk);
            }
        }
        self.note_quiet(&mut snapshot);
        if self.pruned.elapsed() >= TOPOLOGY_AGE {
            self.kept.prune();
            self.pruned = Instant::now();
        }
        Ok(snapshot)
    }

    /// Notes since when each disk has completed nothing.
    fn note_quiet(&mut self, snapshot: &mut Snapshot) {
        self.completed.retain(|dev, _| snapshot.disks.contains_key(dev));
        for (dev, disk) in &snapshot.disks {
            let Disk::Present { completed, .. } = *disk else { continue };
            let known = self.completed.entry(*dev).or_insert((completed, snapshot.at));
            if known.0 != completed {
                *known = (completed, snapshot.at);
            }
            snapshot.quiet_since.insert(*dev, known.1);
        }
    }

    /// Reads the errors that ext4, f2fs and btrfs remember.
    fn read_remembered_errors(&mut self, snapshot: &mut Snapshot) {
        for filesystem in snapshot.table.filesystems.values() {
            let dev = filesystem.dev;
            match filesystem.fs_type.as_str() {
                "ext4" | "ext3" | "ext2" => {
                    let device = filesystem.members.iter().find(|member| member.dev == dev);
                    if let Some(errors) =
                        device.and_then(|device| self.sysfs.ext4(&device.name, &mut self.kept))
                    {
                        snapshot.ext4.insert(dev, errors);
                    }
                }
                "f2fs" => {
                    let device = filesystem.members.iter().find(|member| member.dev == dev);
                    if let Some(stopped) = device
                        .and_then(|device| self.sysfs.f2fs_stopped(&device.name, &mut self.kept))
                    {
                        snapshot.f2fs_stopped.insert(dev, stopped);
                    }
                }
                "btrfs" => {
                    let directory = self.topology.btrfs_directory(dev);
                    if let Some(errors) = directory
                        .and_then(|directory| self.sysfs.btrfs_errors(directory, &mut self.kept))
                    {
                        snapshot.btrfs.insert(dev, errors);
                    }
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::PathBuf};

    use super::{super::mounts::Member, *};

    /// A procfs and a sysfs of the test's own, with an ext4 on a logical volume.
    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            let host = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(host.at("proc")).unwrap();
            fs::create_dir_all(host.at("sys/dev/block")).unwrap();
            let line = "30 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw\n";
            fs::write(host.at("mountinfo"), line).unwrap();
            host
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn add(&self, dev: &str, name: &str, slaves: &[&str]) {
            let own = self.at("sys/devices").join(name);
            fs::create_dir_all(own.join("slaves")).unwrap();
            fs::write(own.join("dev"), format!("{dev}\n")).unwrap();
            fs::write(own.join("stat"), "5 0 40 3 7 0 56 2 0 9 9 1 0 8 0 2 1\n").unwrap();
            symlink(&own, self.at("sys/dev/block").join(dev)).unwrap();
            for slave in slaves {
                self.link(name, slave);
            }
        }

        fn link(&self, name: &str, slave: &str) {
            let slaves = self.at("sys/devices").join(name).join("slaves");
            symlink(self.at("sys/devices").join(slave), slaves.join(slave)).unwrap();
        }

        fn remove(&self, dev: &str, name: &str) {
            fs::remove_file(self.at("sys/dev/block").join(dev)).unwrap();
            fs::remove_dir_all(self.at("sys/devices").join(name)).unwrap();
        }

        fn sampler(&self) -> Sampler {
            self.sampler_after(Vec::new())
        }

        /// The sampler of an agent that begins with what another one knew of devices that are gone.
        fn sampler_after(&self, vanished: Vec<Vanished>) -> Sampler {
            let (proc, sys) = (self.at("proc"), self.at("sys"));
            let root = self.0.path().to_owned();
            let paths = Paths { root, proc, sys, mount_table: self.at("mountinfo") };
            Sampler::new(&paths, None, MountRules::default(), vanished).unwrap()
        }
    }

    /// A snapshot for which every device is looked up again.
    fn sample(sampler: &mut Sampler) -> Snapshot {
        sampler.topology.resolved = None;
        // A real sysfs gives ENODEV for an open file of a removed device.
        sampler.kept = KeptFiles::default();
        sampler.sample().unwrap()
    }

    fn gone(snapshot: &Snapshot) -> Vec<Dev> {
        let gone = snapshot.disks.iter().filter(|(_, disk)| **disk == Disk::Gone);
        gone.map(|(dev, _)| *dev).collect()
    }

    #[test]
    fn a_layer_that_lvm_takes_out_has_not_vanished() {
        let host = Host::new();
        host.add("8:0", "sda", &[]);
        host.add("253:1", "dm-1", &["sda"]);
        host.add("253:0", "dm-0", &["dm-1"]);
        let mut sampler = host.sampler();
        sample(&mut sampler);
        // The last snapshot is removed: the volume lies on the disk again.
        fs::remove_file(host.at("sys/devices/dm-0/slaves/dm-1")).unwrap();
        host.link("dm-0", "sda");
        host.remove("253:1", "dm-1");
        assert_eq!(gone(&sample(&mut sampler)), []);
    }

    #[test]
    fn a_disk_that_is_pulled_has_vanished_for_as_long_as_it_is_in_use() {
        let host = Host::new();
        host.add("8:0", "sda", &[]);
        host.add("253:0", "dm-0", &["sda"]);
        let mut sampler = host.sampler();
        sample(&mut sampler);
        host.remove("8:0", "sda");
        for _ in 0..3 {
            assert_eq!(gone(&sample(&mut sampler)), [Dev::new(8, 0)]);
        }
        // Also for an agent that is started later, where the filesystem is on the disk itself.
        fs::write(host.at("mountinfo"), "30 1 8:0 / / rw - ext4 /dev/sda rw\n").unwrap();
        assert_eq!(gone(&sample(&mut host.sampler())), [Dev::new(8, 0)]);
    }

    #[test]
    fn a_disk_that_was_pulled_before_a_restart_is_missed_by_the_same_filesystem_alone() {
        let member = |dev: &str, name: &str| Member {
            dev: dev.parse().unwrap(),
            name: name.into(),
            redundant: false,
            partition: false,
        };
        // (disks below the volume now, number of the superblock before, what is gone)
        let rows: [(&[&str], Option<u64>, &[&str]); 6] = [
            (&[], None, &["8:0"]),
            (&["sdb"], None, &[]),
            (&["sda"], None, &[]),
            // Mounted again.
            (&[], Some(1), &[]),
            (&["sdb"], Some(1), &[]),
            (&["sda"], Some(1), &[]),
        ];
        for (below, born, expected) in rows {
            let host = Host::new();
            for disk in below {
                host.add(if *disk == "sda" { "8:0" } else { "8:16" }, disk, &[]);
            }
            host.add("253:0", "dm-0", below);
            let own = host.at("sys/fs/ext4/dm-0");
            fs::create_dir_all(&own).unwrap();
            fs::write(own.join("session_write_kbytes"), "1\n").unwrap();
            let members = vec![member("253:0", "dm-0"), member("8:0", "sda")];
            let filesystem = Dev::new(253, 0);
            let mut sampler = host.sampler_after(vec![Vanished { filesystem, born, members }]);
            let expected: Vec<Dev> = expected.iter().map(|dev| dev.parse().unwrap()).collect();
            for _ in 0..2 {
                assert_eq!(gone(&sample(&mut sampler)), expected, "{below:?} {born:?}");
            }
        }
    }

    #[test]
    fn the_table_is_read_although_the_swap_space_cannot_be() {
        let host = Host::new();
        host.add("253:0", "dm-0", &[]);
        fs::create_dir(host.at("proc/swaps")).unwrap();
        assert_eq!(sample(&mut host.sampler()).table.filesystems.len(), 1);
    }

    #[test]
    fn what_cannot_be_followed_is_named_and_the_last_btrfs_is_found_by_sysfs() {
        let host = Host::new();
        host.add("253:0", "dm-0", &[]);
        host.add("8:16", "sdb", &[]);
        let btrfs = host.at("sys/fs/btrfs/1234/devices");
        fs::create_dir_all(&btrfs).unwrap();
        symlink(host.at("sys/devices/sdb"), btrfs.join("sdb")).unwrap();
        let lines = "30 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw\n\
            31 1 0:40 / /odd rw - btrfs /dev/nowhere rw\n\
            32 1 0:41 / /tank rw - zfs tank rw\n";
        fs::write(host.at("mountinfo"), lines).unwrap();
        let table = sample(&mut host.sampler()).table;
        assert_eq!(table.filesystems[&Dev::new(0, 40)].members[0].name, "sdb");
        assert_eq!(table.unfollowed, ["zfs on /tank: its devices cannot be found"]);
        fs::remove_file(btrfs.join("sdb")).unwrap();
        fs::remove_dir(btrfs).unwrap();
        let table = sample(&mut host.sampler()).table;
        assert_eq!(table.unfollowed.len(), 2, "{:?}", table.unfollowed);
    }

    #[test]
    fn a_loop_device_is_above_the_disk_of_its_file_if_that_is_on_one() {
        for (file, below) in [("/var/a.img", &[Dev::new(253, 0)][..]), ("/tmp/a.img", &[])] {
            let host = Host::new();
            host.add("253:0", "dm-0", &[]);
            host.add("7:0", "loop0", &[]);
            fs::create_dir_all(host.at("sys/devices/loop0/loop")).unwrap();
            fs::write(host.at("sys/devices/loop0/loop/backing_file"), format!("{file}\n")).unwrap();
            let lines = "30 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw\n\
                31 30 0:40 / /tmp rw - tmpfs tmpfs rw\n\
                32 30 7:0 / /x rw - ext4 /dev/loop0 rw\n";
            fs::write(host.at("mountinfo"), lines).unwrap();
            let table = sample(&mut host.sampler()).table;
            assert_eq!(table.layers[&Dev::new(7, 0)].below, below, "{file}");
        }
    }
}
