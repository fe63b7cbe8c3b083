//! Evidence: reads the mount table and sysfs, on a thread of its own.
//!
//! None of what it reads waits for a disk, but a kernel lock can make it wait, and then only this
//! thread waits: the request path and the ledger go on with what they have.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc as std_mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tracing::debug;

use super::{
    fanotify::ErrorMarks,
    mounts::{Filesystem, Member, Mount, MountTable, unescape},
    statmount::Same,
    sysfs::{BtrfsErrors, Disk, Ext4Errors, KeptFiles, Sysfs},
};
use crate::{
    host::{Paths, clock},
    model::Dev,
};

/// Devices can be put under a mounted filesystem (md, LVM, multipath) without a change in the mount
/// table, so what lies below each is looked up again after this time even so.
const TOPOLOGY_AGE: Duration = Duration::from_secs(10);

/// What is true now.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// When it began, in `CLOCK_MONOTONIC` nanoseconds.
    pub at: u64,
    /// Every filesystem on a disk.
    pub table: Arc<MountTable>,
    /// ext4's memory of errors, by filesystem.
    pub ext4: BTreeMap<Dev, Ext4Errors>,
    /// btrfs's device statistics, by filesystem.
    pub btrfs: BTreeMap<Dev, BtrfsErrors>,
    /// Progress of every whole device below a filesystem.
    pub disks: BTreeMap<Dev, Disk>,
}

impl Look {
    /// Whether it shows anything that `told` did not. What a healthy disk completes is no news; what stays in
    /// flight may become some.
    fn is_news_after(&self, told: &Self) -> bool {
        let moving = |disk: &Disk| !matches!(disk, Disk::Present { in_flight: 0, .. });
        !Arc::ptr_eq(&self.table, &told.table)
            || self.ext4 != told.ext4
            || self.btrfs != told.btrfs
            || self.disks.len() != told.disks.len()
            || self.disks.values().chain(told.disks.values()).any(moving)
    }
}

/// A look with what it cost.
#[derive(Debug)]
pub struct Looked {
    /// What was seen, or why nothing was.
    pub look: io::Result<Look>,
    /// How long it took.
    pub cost: Duration,
}

/// Reads and remembers.
#[derive(Debug)]
pub struct Looker {
    paths: Paths,
    sysfs: Sysfs,
    mountinfo: fs::File,
    /// Where the kernel can say so.
    same: Option<Same>,
    /// The table as it was read last, and a buffer for the next reading.
    text: Vec<u8>,
    next: Vec<u8>,
    table: Arc<MountTable>,
    resolved: Option<Instant>,
    btrfs: BTreeMap<Dev, PathBuf>,
    kept: KeptFiles,
    pruned: Instant,
    errors: Option<ErrorMarks>,
}

/// Reads a file of the kernel's from its beginning, in as few system calls as there are pieces. (`read_to_end` after
/// `rewind` asks for the position and the size as well.)
fn read_whole(file: &fs::File, text: &mut Vec<u8>) -> io::Result<()> {
    let mut length = 0;
    loop {
        // The kernel gives a page at a time.
        text.resize(text.capacity().max(length + 4096), 0);
        match file.read_at(&mut text[length..], length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    text.truncate(length);
    Ok(())
}

impl Looker {
    /// Opens the mount table. With `errors`, every filesystem is watched for errors as well.
    pub fn new(paths: &Paths, errors: Option<ErrorMarks>) -> io::Result<Self> {
        Ok(Self {
            paths: paths.clone(),
            sysfs: Sysfs { root: paths.sys.clone() },
            mountinfo: fs::File::open(&paths.mount_table)?,
            same: Same::new(&paths.mount_table),
            text: Vec::new(),
            next: Vec::new(),
            table: Arc::default(),
            resolved: None,
            btrfs: BTreeMap::new(),
            kept: KeptFiles::default(),
            pruned: Instant::now(),
            errors,
        })
    }

    /// Looks at everything. A table that did not change is not parsed again.
    pub fn look(&mut self) -> io::Result<Look> {
        let at = clock::monotonic();
        let stale = self.resolved.is_none_or(|at| at.elapsed() >= TOPOLOGY_AGE);
        // Asked in any case, and before it is read: what changes after that is another change.
        let is_same = self.same.as_mut().is_some_and(Same::is_same);
        if (stale || !is_same)
            && let Err(error) = read_whole(&self.mountinfo, &mut self.next)
        {
            // What has changed is not known, and will not be told again.
            if let Some(same) = &mut self.same {
                same.forget();
            }
            return Err(error);
        }
        if stale || (!is_same && self.next != self.text) {
            let table = MountTable::parse(&self.next);
            if self.next != self.text
                && let Some(same) = &mut self.same
            {
                same.watch(table.filesystems.keys().copied());
            }
            self.resolve(table);
            std::mem::swap(&mut self.next, &mut self.text);
            if let Some(errors) = &self.errors {
                errors.watch(&self.table, &self.paths);
            }
        }
        let mut look = Look { at, table: self.table.clone(), ..Look::default() };
        for filesystem in self.table.filesystems.values() {
            let dev = filesystem.dev;
            match filesystem.fs_type.as_str() {
                "ext4" | "ext3" | "ext2" => {
                    let name =
                        filesystem.members.iter().find(|m| m.dev == dev).map(|m| m.name.as_str());
                    if let Some(errors) =
                        name.and_then(|name| self.sysfs.ext4(name, &mut self.kept))
                    {
                        look.ext4.insert(dev, errors);
                    }
                }
                "btrfs" => {
                    let own = self.btrfs.get(&dev);
                    if let Some(errors) =
                        own.and_then(|own| self.sysfs.btrfs_errors(own, &mut self.kept))
                    {
                        look.btrfs.insert(dev, errors);
                    }
                }
                _ => {}
            }
        }
        for dev in self.table.disks().into_keys() {
            if let Some(disk) = self.sysfs.disk(dev, &mut self.kept) {
                look.disks.insert(dev, disk);
            }
        }
        if self.pruned.elapsed() >= TOPOLOGY_AGE {
            self.kept.prune();
            self.pruned = Instant::now();
        }
        Ok(look)
    }

    /// Finds what each filesystem rests on. Where that fails, what was known of it before stays.
    fn resolve(&mut self, mut table: MountTable) {
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
        let swaps = self.swaps().unwrap_or_else(|error| {
            debug!(%error, "the swap space cannot be found");
            self.known_swaps().cloned().collect()
        });
        for swap in swaps {
            table.filesystems.entry(swap.dev).or_insert(swap);
        }
        for (dev, filesystem) in &mut table.filesystems {
            if let Some(before) = self.table.filesystems.get(dev) {
                self.keep_vanished(filesystem, before);
            }
        }
        if *self.table != table {
            self.table = Arc::new(table);
        }
        self.btrfs = btrfs;
        self.resolved = Some(Instant::now());
    }

    /// A device that went away under a filesystem stays one of its devices, so that the loss has a name; one
    /// that was taken out of it in order (pvmove) is still there, in sysfs.
    fn keep_vanished(&self, filesystem: &mut Filesystem, before: &Filesystem) {
        for member in &before.members {
            let is_known = filesystem.members.iter().any(|known| known.dev == member.dev);
            // A stacked device that is in use cannot vanish: it was taken out in order (an LVM snapshot, say).
            let stacked = member.name.starts_with("dm-") || member.name.starts_with("md");
            if !is_known && !stacked && !member.redundant && self.sysfs.is_gone(member.dev) {
                filesystem.members.push(member.clone());
            }
        }
    }

    fn find_members(
        &self,
        filesystem: &mut Filesystem,
        btrfs: &mut BTreeMap<Dev, PathBuf>,
    ) -> io::Result<()> {
        let dev = filesystem.dev;
        if dev.major() != 0 {
            filesystem.members = self.sysfs.members(dev)?;
            if filesystem.members.is_empty() && self.sysfs.is_gone(dev) {
                // Gone before the agent started: its name is all that is left.
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

    /// Swap partitions (`/proc/swaps`; a swap file is on a filesystem of its own).
    fn known_swaps(&self) -> impl Iterator<Item = &Filesystem> {
        self.table.filesystems.values().filter(|filesystem| filesystem.fs_type == "swap")
    }

    fn swaps(&self) -> io::Result<Vec<Filesystem>> {
        let text = match fs::read_to_string(self.paths.proc.join("swaps")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        let mut swaps = Vec::new();
        for line in text.lines().skip(1) {
            let mut words = line.split_whitespace();
            let (Some(path), Some("partition")) = (words.next().map(unescape), words.next()) else {
                continue;
            };
            // A swap disk that was pulled is still in use.
            if let Some(path) = path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
                swaps.extend(
                    self.known_swaps().find(|swap| swap.source == Path::new(path)).cloned(),
                );
                continue;
            }
            let Some(dev) = self.sysfs.device_of(&self.paths.inside(&path), &path)? else {
                continue;
            };
            let point = PathBuf::from("[swap]");
            swaps.push(Filesystem {
                dev,
                fs_type: "swap".into(),
                source: path,
                read_only: false,
                mark: None,
                mounts: vec![Mount { id: 0, point, whole: true, read_only: false }],
                members: self.sysfs.members(dev)?,
            });
        }
        Ok(swaps)
    }
}

/// What the kernel task and the looker's thread share.
#[derive(Debug, Default)]
struct Shared {
    /// Tell of every look, not only of those that show something new.
    all: AtomicBool,
    /// When the last look ended, in `CLOCK_MONOTONIC` nanoseconds.
    last: AtomicU64,
}

/// Asks a looker on its own thread for one more look; a request while one is waiting adds nothing.
#[derive(Clone, Debug)]
pub struct AskForLook {
    ask: std_mpsc::SyncSender<()>,
    shared: Arc<Shared>,
}

impl AskForLook {
    /// Wakes the thread; false when the thread is gone.
    #[must_use]
    pub fn ask(&self) -> bool {
        !matches!(self.ask.try_send(()), Err(std_mpsc::TrySendError::Disconnected(())))
    }

    /// Whether to be told of every look, because time alone can change the verdict now (a stall that grows
    /// old, a window that ends).
    pub fn tell_all(&self, all: bool) {
        self.shared.all.store(all, Relaxed);
    }

    /// How long ago the last look ended.
    #[must_use]
    pub fn age(&self) -> Duration {
        Duration::from_nanos(clock::monotonic().saturating_sub(self.shared.last.load(Relaxed)))
    }
}

/// Puts the looker on a thread. It looks when it is asked, and every `period` by itself; then it tells only
/// what is new, so that on an idle host one thread wakes for a moment and nobody else does.
pub fn spawn(
    mut looker: Looker,
    period: Duration,
) -> io::Result<(AskForLook, mpsc::Receiver<Looked>)> {
    // One request can wait while one look is made; one answer can wait while the next look is made.
    let (ask, asked) = std_mpsc::sync_channel(1);
    let (answer, answers) = mpsc::channel(1);
    let shared = Arc::new(Shared { last: AtomicU64::new(clock::monotonic()), ..Shared::default() });
    let handle = AskForLook { ask, shared: shared.clone() };
    let body = move || {
        let mut told: Option<Look> = None;
        loop {
            let by_itself = match asked.recv_timeout(period) {
                Ok(()) => false,
                Err(std_mpsc::RecvTimeoutError::Timeout) => true,
                Err(std_mpsc::RecvTimeoutError::Disconnected) => return,
            };
            let start = Instant::now();
            let look = looker.look();
            shared.last.store(clock::monotonic(), Relaxed);
            if by_itself && !shared.all.load(Relaxed) {
                match (&look, &told) {
                    (Ok(look), Some(told)) if !look.is_news_after(told) => continue,
                    _ => {}
                }
            }
            told = look.as_ref().ok().cloned();
            if answer.blocking_send(Looked { look, cost: start.elapsed() }).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("tocsin-looker".into()).stack_size(256 * 1024).spawn(body)?;
    Ok((handle, answers))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

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

        fn looker(&self) -> Looker {
            let (proc, sys) = (self.at("proc"), self.at("sys"));
            let root = self.0.path().to_owned();
            let paths = Paths { root, proc, sys, mount_table: self.at("mountinfo") };
            Looker::new(&paths, None).unwrap()
        }
    }

    /// A look that follows every device down again.
    fn look(looker: &mut Looker) -> Look {
        looker.resolved = None;
        // A real sysfs answers ENODEV for an open file of a removed device.
        looker.kept = KeptFiles::default();
        looker.look().unwrap()
    }

    fn gone(look: &Look) -> Vec<Dev> {
        let gone = look.disks.iter().filter(|(_, disk)| **disk == Disk::Gone);
        gone.map(|(dev, _)| *dev).collect()
    }

    #[test]
    fn a_layer_that_lvm_takes_out_has_not_vanished() {
        let host = Host::new();
        host.add("8:0", "sda", &[]);
        host.add("253:1", "dm-1", &["sda"]);
        host.add("253:0", "dm-0", &["dm-1"]);
        let mut looker = host.looker();
        look(&mut looker);
        // The last snapshot is removed: the volume lies on the disk again.
        fs::remove_file(host.at("sys/devices/dm-0/slaves/dm-1")).unwrap();
        host.link("dm-0", "sda");
        host.remove("253:1", "dm-1");
        assert_eq!(gone(&look(&mut looker)), []);
    }

    #[test]
    fn a_disk_that_is_pulled_has_vanished_for_as_long_as_it_is_in_use() {
        let host = Host::new();
        host.add("8:0", "sda", &[]);
        host.add("253:0", "dm-0", &["sda"]);
        let mut looker = host.looker();
        look(&mut looker);
        host.remove("8:0", "sda");
        for _ in 0..3 {
            assert_eq!(gone(&look(&mut looker)), [Dev::new(8, 0)]);
        }
        // Also for an agent that is started later, where the filesystem is on the disk itself.
        fs::write(host.at("mountinfo"), "30 1 8:0 / / rw - ext4 /dev/sda rw\n").unwrap();
        assert_eq!(gone(&look(&mut host.looker())), [Dev::new(8, 0)]);
    }

    #[test]
    fn what_cannot_be_read_beside_the_table_does_not_blind() {
        let host = Host::new();
        host.add("253:0", "dm-0", &[]);
        fs::create_dir(host.at("proc/swaps")).unwrap();
        assert_eq!(look(&mut host.looker()).table.filesystems.len(), 1);
    }
}
