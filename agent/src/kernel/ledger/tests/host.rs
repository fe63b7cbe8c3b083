//! A host for the scenarios.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tocsin_ebpf::Kind;

use crate::{
    kernel::{
        ebpf::reader::{Count, Event},
        ledger::{Action, Ledger, Memory, Mono, Now, Probed, Rules, types::nanos},
        probe::{Probe, Root},
        sampling::{
            BtrfsErrors, Disk, Ext4Errors,
            mounts::{Layer, Member, MountTable, NvmePath},
            snapshot::Snapshot,
        },
    },
    model::Dev,
};

pub(super) const WINDOW: Duration = Duration::from_mins(1);
pub(super) const EIO: i32 = 5;
pub(super) const EROFS: i32 = 30;

/// A host with a ledger. The test says what its kernel and its probes do.
pub(super) struct Host {
    pub(super) ledger: Ledger,
    pub(super) now: Now,
    pub(super) lines: Vec<String>,
    pub(super) members: BTreeMap<Dev, Vec<Member>>,
    pub(super) ext4: BTreeMap<Dev, Ext4Errors>,
    pub(super) btrfs: BTreeMap<Dev, BtrfsErrors>,
    pub(super) f2fs_stopped: BTreeMap<Dev, bool>,
    pub(super) disks: BTreeMap<Dev, Disk>,
    /// What the next snapshot says about superblocks.
    pub(super) reborn: BTreeMap<Dev, bool>,
    pub(super) born: BTreeMap<Dev, u64>,
    pub(super) living: BTreeSet<Dev>,
    pub(super) layers: BTreeMap<Dev, Layer>,
    pub(super) paths: BTreeMap<Dev, NvmePath>,
    pub(super) quiet_since: BTreeMap<Dev, u64>,
}

pub(super) fn dev(text: &str) -> Dev {
    text.parse().unwrap()
}

/// The state of the root directory that goes with the result of a write probe.
pub(super) fn root(probe: &Probe) -> Root {
    if *probe == Probe::Late { Root::Late } else { Root::Fine }
}

pub(super) fn member(device: &str, name: &str, redundant: bool) -> Member {
    Member { dev: dev(device), name: name.into(), redundant, partition: false }
}

impl Host {
    pub(super) fn new() -> Self {
        Self::with(&[])
    }

    pub(super) fn with(require_writable: &[&str]) -> Self {
        let rules = Rules {
            io_error_window: WINDOW,
            io_stall_after: Duration::from_secs(5),
            require_writable: require_writable.iter().map(PathBuf::from).collect(),
        };
        Self {
            ledger: Ledger::new(rules),
            now: Now { mono: 1_000_000_000_000, wall: SystemTime::UNIX_EPOCH },
            lines: Vec::new(),
            members: BTreeMap::new(),
            ext4: BTreeMap::new(),
            btrfs: BTreeMap::new(),
            f2fs_stopped: BTreeMap::new(),
            disks: BTreeMap::new(),
            reborn: BTreeMap::new(),
            born: BTreeMap::new(),
            living: BTreeSet::new(),
            layers: BTreeMap::new(),
            paths: BTreeMap::new(),
            quiet_since: BTreeMap::new(),
        }
    }

    /// Mounts `loopN` with an ext4 on `/mnt/N`, with these options of the mount and of the superblock.
    pub(super) fn mount(&mut self, minor: u32, options: &str, superblock: &str) -> &mut Self {
        self.mount_type(minor, "ext4", options, superblock)
    }

    pub(super) fn mount_type(
        &mut self,
        minor: u32,
        kind: &str,
        options: &str,
        superblock: &str,
    ) -> &mut Self {
        let id = 100 + minor;
        self.lines.push(format!(
            "{id} 1 7:{minor} / /mnt/{minor} {options} - {kind} /dev/loop{minor} {superblock}"
        ));
        let device = Dev::new(7, minor);
        self.members
            .insert(device, vec![member(&device.to_string(), &format!("loop{minor}"), false)]);
        self.disks.entry(device).or_insert(Disk::Present { completed: 10, in_flight: 0 });
        self
    }

    pub(super) fn umount(&mut self, minor: u32) -> &mut Self {
        self.lines.retain(|line| !line.contains(&format!(" 7:{minor} ")));
        self
    }

    pub(super) fn remount(&mut self, minor: u32, options: &str, superblock: &str) -> &mut Self {
        self.umount(minor).mount(minor, options, superblock)
    }

    pub(super) fn after(&mut self, time: Duration) -> &mut Self {
        self.now.mono += nanos(time);
        self.now.wall += time;
        self
    }

    pub(super) fn sample(&mut self) -> &mut Self {
        let mut table = MountTable::parse(self.lines.join("\n").as_bytes());
        for (device, filesystem) in &mut table.filesystems {
            filesystem.members = self.members.get(device).cloned().unwrap_or_default();
        }
        table.layers = self.layers.clone();
        table.paths = self.paths.clone();
        let snapshot = Snapshot {
            at: self.now.mono,
            table: Arc::new(table),
            ext4: self.ext4.clone(),
            btrfs: self.btrfs.clone(),
            f2fs_stopped: self.f2fs_stopped.clone(),
            disks: self.disks.clone(),
            reborn: self.reborn.clone(),
            born: self.born.clone(),
            living: self.living.clone(),
            quiet_since: self.quiet_since.clone(),
            ..Snapshot::default()
        };
        self.ledger.snapshot(&snapshot, self.now);
        self
    }

    pub(super) fn event_at(
        &mut self,
        ktime: Mono,
        kind: Kind,
        device: &str,
        errno: i32,
    ) -> &mut Self {
        let event = Event { ktime, kind, dev: dev(device), errno, place: 8, detail: 8 };
        self.ledger.event(&event, self.now);
        self
    }

    pub(super) fn event(&mut self, kind: Kind, device: &str, errno: i32) -> &mut Self {
        self.event_at(self.now.mono, kind, device, errno)
    }

    /// Gives this result of every probe that the ledger asks for, now.
    pub(super) fn answer(&mut self, probe: &Probe) -> &mut Self {
        self.answer_full(probe, false)
    }

    pub(super) fn answer_full(&mut self, probe: &Probe, full: bool) -> &mut Self {
        for Action { dev, write, .. } in self.ledger.take_actions() {
            let write = write.then(|| probe.clone());
            let probed = Probed {
                dev,
                started: self.now.mono,
                root: root(probe),
                write,
                full,
                unreadable: None,
            };
            self.ledger.probed(&probed, self.now);
        }
        self
    }

    /// Gives this result of every probe of the next second.
    pub(super) fn settle(&mut self, probe: &Probe) -> &mut Self {
        for _ in 0..20 {
            self.ledger.start_probes(self.now);
            self.answer(probe);
            self.after(Duration::from_millis(50));
        }
        self
    }

    pub(super) fn counts(&mut self, kind: Kind, device: &str, errno: i32, count: u64) -> &mut Self {
        self.counts_at(self.now.mono, kind, device, errno, count)
    }

    /// A reading of one counter, whose last event was at this time.
    pub(super) fn counts_at(
        &mut self,
        last: Mono,
        kind: Kind,
        device: &str,
        errno: i32,
        count: u64,
    ) -> &mut Self {
        let count = Count { kind, dev: dev(device), errno, count, suppressed: 0, dropped: 0, last };
        self.ledger.counted(&[count], self.now);
        self
    }

    pub(super) fn open(&self) -> Vec<String> {
        self.ledger.view().faults.into_iter().map(|fault| fault.id).collect()
    }

    /// Another agent begins with what this one has left; nothing has been looked at since.
    pub(super) fn restart(&mut self) -> &mut Self {
        let left = serde_json::to_string(&self.ledger.memory()).unwrap();
        let memory: Memory = serde_json::from_str(&left).unwrap();
        assert_eq!(memory, self.ledger.memory());
        self.ledger = Ledger::new(self.ledger.rules.clone());
        self.ledger.restore(&memory, self.now);
        self
    }

    #[track_caller]
    pub(super) fn expect(&mut self, step: &str, open: &[&str]) -> &mut Self {
        assert_eq!(self.open(), open, "{step}");
        self
    }
}
