//! Scenarios: what happens to a host, step by step, and which faults are open after each step.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use std::time::SystemTime;

use tocsin_ebpf::Kind;

use super::{types::nanos, *};
use crate::{
    kernel::{
        ebpf::reader::{Count, Event},
        probe::{Probe, Root},
        sampling::{
            BtrfsErrors, Disk, Ext4Errors,
            mounts::{Member, MountTable},
            snapshot::Snapshot,
        },
    },
    model::{Dev, Scope},
};

const WINDOW: Duration = Duration::from_mins(1);
const EIO: i32 = 5;
const EROFS: i32 = 30;

/// A host whose kernel does what the test says.
struct Host {
    ledger: Ledger,
    now: Now,
    lines: Vec<String>,
    members: BTreeMap<Dev, Vec<Member>>,
    ext4: BTreeMap<Dev, Ext4Errors>,
    btrfs: BTreeMap<Dev, BtrfsErrors>,
    disks: BTreeMap<Dev, Disk>,
}

fn dev(text: &str) -> Dev {
    text.parse().unwrap()
}

/// Looking at the root directory works, unless nothing works.
fn root(probe: &Probe) -> Root {
    if *probe == Probe::Late { Root::Late } else { Root::Fine }
}

fn member(device: &str, name: &str, redundant: bool) -> Member {
    Member { dev: dev(device), name: name.into(), redundant, partition: false }
}

impl Host {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(require_writable: &[&str]) -> Self {
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
            disks: BTreeMap::new(),
        }
    }

    /// `loopN` with an ext4 on /mnt/N; the options are per mount and per superblock.
    fn mount(&mut self, minor: u32, options: &str, superblock: &str) -> &mut Self {
        self.mount_type(minor, "ext4", options, superblock)
    }

    fn mount_type(&mut self, minor: u32, kind: &str, options: &str, superblock: &str) -> &mut Self {
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

    fn umount(&mut self, minor: u32) -> &mut Self {
        self.lines.retain(|line| !line.contains(&format!(" 7:{minor} ")));
        self
    }

    fn remount(&mut self, minor: u32, options: &str, superblock: &str) -> &mut Self {
        self.umount(minor).mount(minor, options, superblock)
    }

    fn after(&mut self, time: Duration) -> &mut Self {
        self.now.mono += nanos(time);
        self.now.wall += time;
        self
    }

    fn sample(&mut self) -> &mut Self {
        let mut table = MountTable::parse(self.lines.join("\n").as_bytes());
        for (device, filesystem) in &mut table.filesystems {
            filesystem.members = self.members.get(device).cloned().unwrap_or_default();
        }
        let snapshot = Snapshot {
            at: self.now.mono,
            table: Arc::new(table),
            ext4: self.ext4.clone(),
            btrfs: self.btrfs.clone(),
            disks: self.disks.clone(),
        };
        self.ledger.snapshot(&snapshot, self.now);
        self
    }

    fn event_at(&mut self, ktime: Mono, kind: Kind, device: &str, errno: i32) -> &mut Self {
        let event = Event { ktime, kind, dev: dev(device), errno, place: 8, detail: 8 };
        self.ledger.event(&event, self.now);
        self
    }

    fn event(&mut self, kind: Kind, device: &str, errno: i32) -> &mut Self {
        self.event_at(self.now.mono, kind, device, errno)
    }

    /// Answers every probe that was asked for, now.
    fn answer(&mut self, probe: &Probe) -> &mut Self {
        self.answer_full(probe, false)
    }

    fn answer_full(&mut self, probe: &Probe, full: bool) -> &mut Self {
        for Action { dev, write } in self.ledger.take_actions() {
            let write = write.then(|| probe.clone());
            let probed = Probed { dev, started: self.now.mono, root: root(probe), write, full };
            self.ledger.probed(&probed, self.now);
        }
        self
    }

    /// Asks for and answers every probe of the next second.
    fn settle(&mut self, probe: &Probe) -> &mut Self {
        for _ in 0..20 {
            self.ledger.start_probes(self.now);
            self.answer(probe);
            self.after(Duration::from_millis(50));
        }
        self
    }

    fn counts(&mut self, kind: Kind, device: &str, errno: i32, count: u64) -> &mut Self {
        let count = Count {
            kind,
            dev: dev(device),
            errno,
            count,
            suppressed: 0,
            dropped: 0,
            last: self.now.mono,
        };
        self.ledger.counted(&[count], self.now);
        self
    }

    fn open(&self) -> Vec<String> {
        self.ledger.view().faults.into_iter().map(|fault| fault.id).collect()
    }

    #[track_caller]
    fn expect(&mut self, step: &str, open: &[&str]) -> &mut Self {
        assert_eq!(self.open(), open, "{step}");
        self
    }
}

#[test]
fn what_is_wrong_and_what_is_on_purpose_at_start() {
    // (type, per-mount options, super options, open fault)
    for (kind, mount, superblock, open) in [
        ("ext4", "rw", "rw", None),
        ("ext4", "ro", "ro", None),
        ("ext4", "rw", "rw,errors=remount-ro", None),
        ("ext4", "rw", "ro,errors=remount-ro", Some("filesystem_ro-7:1")),
        ("ext4", "rw", "rw,emergency_ro", Some("filesystem_ro-7:1")),
        ("ext4", "ro", "ro,emergency_ro", Some("filesystem_ro-7:1")),
        ("ext4", "rw", "rw,shutdown", Some("filesystem_ro-7:1")),
        ("xfs", "ro", "rw", None),
        ("squashfs", "ro", "ro", None),
        ("squashfs", "rw", "ro", None),
        ("iso9660", "rw", "ro", None),
    ] {
        let mut host = Host::new();
        host.mount_type(1, kind, mount, superblock).sample();
        let open: Vec<&str> = open.into_iter().collect();
        host.expect(&format!("{kind} {mount} {superblock}"), &open);
    }
}

#[test]
fn what_must_be_writable_is_faulty_from_the_start() {
    Host::with(&["/mnt/1"])
        .mount(1, "ro", "ro")
        .mount(2, "ro", "ro")
        .sample()
        .expect("listed", &["filesystem_ro-7:1"])
        .remount(1, "rw", "rw")
        .sample()
        .expect("writable", &[]);
}

#[test]
fn a_remount_is_a_fault_until_it_is_undone() {
    Host::new()
        .mount(1, "rw", "rw")
        .sample()
        .expect("start", &[])
        .remount(1, "ro", "ro")
        .sample()
        .expect("remount,ro", &["filesystem_ro-7:1"])
        .remount(1, "rw", "rw")
        .sample()
        .expect("remount,rw", &[])
        .remount(1, "rw", "ro")
        .sample()
        .expect("fsconfig", &["filesystem_ro-7:1"])
        .umount(1)
        .sample()
        .expect("umount", &[]);
    Host::new()
        .mount(1, "rw", "rw")
        .sample()
        .remount(1, "ro", "rw")
        .sample()
        .expect("remount,bind,ro", &[]);
}

#[test]
fn what_began_read_only_may_go_back_to_it() {
    Host::new()
        .mount(1, "ro", "ro")
        .sample()
        .remount(1, "rw", "rw")
        .sample()
        .expect("opened for an update", &[])
        .remount(1, "ro", "ro")
        .sample()
        .expect("closed again", &[])
        .remount(1, "rw", "rw")
        .sample()
        .remount(1, "rw", "ro")
        .sample()
        .expect("an error while it was open", &["filesystem_ro-7:1"]);
}

#[test]
fn an_operator_can_accept_a_read_only_filesystem() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().remount(1, "ro", "ro").sample();
    assert!(host.ledger.clear("filesystem_ro-7:1", host.now));
    assert!(!host.ledger.clear("filesystem_ro-7:1", host.now));
    host.sample().expect("accepted", &[]).remount(1, "rw", "rw").sample().expect("writable", &[]);
    host.remount(1, "ro", "ro").sample().expect("a new loss", &["filesystem_ro-7:1"]);
}

#[test]
fn ext4_error_that_no_table_shows_is_found_by_the_probe() {
    Host::new()
        .mount(1, "rw", "rw,errors=remount-ro")
        .sample()
        .answer(&Probe::Writable)
        .event(Kind::Ext4Error, "7:1", 0)
        .expect("event", &["filesystem_error-7:1"])
        .settle(&Probe::Refused(EROFS))
        .expect("probe", &["filesystem_ro-7:1", "filesystem_error-7:1"])
        .sample()
        .expect("nothing in the table", &["filesystem_ro-7:1", "filesystem_error-7:1"])
        .after(Duration::from_hours(1))
        .sample()
        .settle(&Probe::Refused(EROFS))
        .expect("silence is no repair", &["filesystem_ro-7:1", "filesystem_error-7:1"])
        .umount(1)
        .sample()
        .expect("umount", &[]);
}

#[test]
fn ext4_error_on_a_filesystem_that_goes_on_stays_until_cleared() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw,errors=continue").sample().answer(&Probe::Writable);
    host.event(Kind::Ext4Error, "7:1", 0).settle(&Probe::Writable);
    host.ext4.insert(dev("7:1"), Ext4Errors { count: 1, first: "f:1".into(), remounted: false });
    host.sample().expect("still there", &["filesystem_error-7:1"]);
    host.after(WINDOW * 10)
        .sample()
        .settle(&Probe::Writable)
        .expect("for long", &["filesystem_error-7:1"]);
    assert!(host.ledger.clear("filesystem_error-7:1", host.now));
    host.counts(Kind::Ext4Error, "7:1", 0, 1).sample().expect("cleared", &[]);
    host.after(Duration::from_secs(1)).event(Kind::Ext4Error, "7:1", 0);
    host.expect("a new error", &["filesystem_error-7:1"]);
    host.ext4.insert(dev("7:1"), Ext4Errors { count: 2, first: "f:1".into(), remounted: true });
    host.sample().expect("umounted and mounted between two looks", &[]);
}

#[test]
fn an_old_error_is_a_fault_only_if_it_still_matters() {
    for (probe, open) in [
        (Probe::Writable, &[][..]),
        (Probe::Refused(EROFS), &["filesystem_ro-7:1"]),
        (Probe::Refused(EIO), &["filesystem_ro-7:1"]),
        (Probe::Full, &[]),
        (Probe::Unable("EACCES".into()), &[]),
        (Probe::Late, &[]),
    ] {
        let mut host = Host::new();
        host.ext4
            .insert(dev("7:1"), Ext4Errors { count: 3, first: "f:1".into(), remounted: false });
        host.mount(1, "rw", "rw").sample();
        host.settle(&probe).expect(&format!("{probe:?}"), open);
    }
}

#[test]
fn errors_that_only_sysfs_shows_are_seen_without_events() {
    let mut host = Host::new();
    host.ext4.insert(dev("7:1"), Ext4Errors::default());
    host.mount(1, "rw", "rw").sample().settle(&Probe::Writable);
    host.ext4.insert(dev("7:1"), Ext4Errors { count: 1, first: "f:1".into(), remounted: false });
    host.sample().expect("ext4", &["filesystem_error-7:1"]);

    let mut host = Host::new();
    host.lines.push("50 1 0:40 / /data rw - btrfs /dev/loop1 rw".into());
    host.members.insert(dev("0:40"), vec![member("7:1", "loop1", false)]);
    host.btrfs.insert(dev("0:40"), BtrfsErrors { io: 5, corruption: 5 });
    host.sample().settle(&Probe::Writable).expect("old statistics", &[]);
    host.btrfs.insert(dev("0:40"), BtrfsErrors { io: 5, corruption: 6 });
    host.sample().expect("corruption", &["filesystem_error-0:40"]);
    host.btrfs.insert(dev("0:40"), BtrfsErrors { io: 6, corruption: 6 });
    host.sample().expect("I/O", &["filesystem_error-0:40", "io_error-7:1"]);
}

#[test]
fn an_io_error_closes_when_it_was_quiet_and_the_device_answers() {
    Host::new()
        .mount(1, "rw", "rw")
        .sample()
        .answer(&Probe::Writable)
        .event(Kind::BlockWrite, "7:1", EIO)
        .expect("error", &["io_error-7:1"])
        .settle(&Probe::Writable)
        .expect("writable again, but not for long", &["io_error-7:1"])
        .after(WINDOW)
        .sample()
        .expect("quiet: asked", &["io_error-7:1"])
        .settle(&Probe::Late)
        .expect("no answer", &["io_error-7:1"])
        .after(WINDOW)
        .sample()
        .settle(&Probe::SyncFailed(EIO))
        .expect("a failing answer", &["io_error-7:1"])
        .after(WINDOW)
        .sample()
        .settle(&Probe::Writable)
        .expect("it answers", &[]);
}

#[test]
fn a_journal_that_is_aborted_by_the_probe_is_seen_by_the_next_one() {
    Host::new()
        .mount(1, "rw", "rw")
        .sample()
        .answer(&Probe::Writable)
        .event(Kind::BlockWrite, "7:1", EIO)
        .answer(&Probe::SyncFailed(EIO))
        .expect("the block error only", &["io_error-7:1"])
        .answer(&Probe::Refused(EROFS))
        .expect("and the next file is refused", &["filesystem_ro-7:1", "io_error-7:1"]);
}

#[test]
fn a_sync_that_fails_twice_is_an_io_error_of_its_own() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable).event(Kind::Ext4Error, "7:1", 0);
    host.answer(&Probe::SyncFailed(EIO))
        .expect("once may be the journal", &["filesystem_error-7:1"]);
    host.answer(&Probe::SyncFailed(EIO));
    host.expect("twice is the device", &["filesystem_error-7:1", "io_error-7:1"]);
}

#[test]
fn what_was_cleared_is_not_opened_again_by_probes_of_before() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw,errors=remount-ro").sample().answer(&Probe::Writable);
    host.event(Kind::Ext4Error, "7:1", 0).answer(&Probe::Refused(EROFS));
    assert!(host.ledger.clear("filesystem_ro-7:1", host.now));
    assert!(host.ledger.clear("filesystem_error-7:1", host.now));
    host.sample().settle(&Probe::Refused(EROFS)).expect("accepted", &[]);
    host.event(Kind::Ext4Error, "7:1", 0).settle(&Probe::Refused(EROFS));
    host.expect("a new event", &["filesystem_ro-7:1", "filesystem_error-7:1"]);
}

#[test]
fn a_probe_that_cannot_be_made_is_told() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable).event(Kind::BlockWrite, "7:1", EIO);
    host.answer(&Probe::Unable("EACCES".into()));
    let unprobed = host.ledger.unprobed();
    assert_eq!(unprobed.as_deref(), Some("no test write after an event: /mnt/1: EACCES"));
    host.settle(&Probe::Writable);
    assert_eq!(host.ledger.unprobed(), None);
}

#[test]
fn without_events_the_root_of_an_xfs_is_looked_at_each_time() {
    let mut host = Host::new();
    host.ledger.set_xfs_events(false);
    host.mount_type(1, "xfs", "rw", "rw").mount(2, "rw", "rw").sample().answer(&Probe::Writable);
    host.after(Duration::from_millis(500)).sample();
    assert_eq!(host.ledger.take_actions(), [Action { dev: dev("7:1"), write: false }]);
}

#[test]
fn errors_of_what_is_not_mounted_are_silent() {
    Host::new()
        .mount(1, "rw", "rw")
        .sample()
        .answer(&Probe::Writable)
        .event(Kind::BlockRead, "7:2", EIO)
        .expect("no filesystem", &[])
        .sample()
        .after(Duration::from_secs(1))
        .mount(2, "rw", "rw")
        .sample()
        .expect("mounted later", &[])
        .umount(2)
        .sample()
        .event(Kind::BlockWrite, "7:2", EIO)
        .sample()
        .expect("umounted", &[]);
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    host.mount(2, "rw", "rw").event(Kind::BlockWrite, "7:2", EIO);
    host.expect("mounted, and not seen yet", &[]).sample().expect("seen", &["io_error-7:2"]);
}

#[test]
fn harmless_errors_are_silent() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    for (kind, errno) in [
        (Kind::BlockZeroes, 95),
        (Kind::BlockDiscard, 95),
        (Kind::BlockDiscard, 121),
        (Kind::BlockReadahead, EIO),
        (Kind::BioReadahead, EIO),
        (Kind::BlockRead, 11),
        (Kind::MountChange, 0),
    ] {
        host.event(kind, "7:1", errno).sample().expect(&format!("{kind:?} {errno}"), &[]);
        host.counts(kind, "7:1", errno, 9).expect(&format!("counted {kind:?}"), &[]);
    }
    host.event(Kind::BlockDiscard, "7:1", EIO).expect("a discard that failed", &["io_error-7:1"]);
}

#[test]
fn a_full_filesystem_is_not_a_failing_one() {
    let lost = |errno, full, open: &[&str]| {
        let mut host = Host::new();
        host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
        host.event(Kind::Writeback, "7:1", errno);
        host.answer_full(&Probe::Writable, full)
            .expect(&format!("errno {errno}, full {full}"), open);
    };
    lost(28, false, &[]);
    lost(122, false, &[]);
    lost(0, true, &[]);
    lost(0, false, &["io_error-7:1"]);
    lost(EIO, true, &["io_error-7:1"]);
}

#[test]
fn lost_writes_are_mapped_to_their_device_and_make_no_second_fault() {
    let mut host = Host::new();
    host.lines.push("50 1 0:40 / /data rw - btrfs /dev/loop1 rw".into());
    host.members.insert(dev("0:40"), vec![member("7:1", "loop1", false)]);
    host.sample().answer(&Probe::Writable);
    host.event(Kind::Writeback, "0:40", EIO).expect("btrfs by its own number", &["io_error-7:1"]);

    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    // The block device's own cache: internal filesystem 0:3, and the inode is the device.
    let place = u64::from(dev("7:1").0);
    let event =
        Event { ktime: 1, kind: Kind::Writeback, dev: dev("0:3"), errno: EIO, place, detail: 0 };
    host.ledger.event(&event, host.now);
    host.expect("block device", &["io_error-7:1"]);
    host.event(Kind::BlockWrite, "7:1", EIO).expect("one fault", &["io_error-7:1"]);
}

#[test]
fn a_shutdown_is_believed_at_once_and_doubted_later() {
    let mut host = Host::new();
    host.mount_type(1, "xfs", "rw", "rw").sample().answer(&Probe::Writable);
    host.event(Kind::XfsShutdown, "7:1", 0).expect("announced", &["filesystem_ro-7:1"]);
    host.answer(&Probe::Writable).expect("a probe that was too early", &["filesystem_ro-7:1"]);
    host.settle(&Probe::Refused(EIO)).expect("true", &["filesystem_ro-7:1"]);

    let mut host = Host::new();
    host.mount_type(1, "xfs", "rw", "rw").sample().answer(&Probe::Writable);
    host.event(Kind::XfsShutdown, "7:1", 0).settle(&Probe::Writable);
    host.expect("it did not happen", &[]);
}

#[test]
fn a_shut_down_xfs_is_found_at_start_by_its_root() {
    let mut host = Host::new();
    host.mount_type(1, "xfs", "rw", "rw").sample();
    let actions = host.ledger.take_actions();
    assert_eq!(actions, [Action { dev: dev("7:1"), write: false }]);
    let probed = Probed {
        dev: dev("7:1"),
        started: host.now.mono,
        root: Root::Failed(EIO),
        write: None,
        full: false,
    };
    host.ledger.probed(&probed, host.now);
    host.expect("EIO", &["filesystem_ro-7:1"]).umount(1).sample().expect("umount", &[]);
}

#[test]
fn a_probe_without_an_answer_closes_nothing() {
    let mut host = Host::new();
    host.mount_type(1, "xfs", "rw", "rw").sample();
    let probed =
        |started, root| Probed { dev: dev("7:1"), started, root, write: None, full: false };
    host.ledger.take_actions();
    host.ledger.probed(&probed(host.now.mono, Root::Failed(EIO)), host.now);
    host.ledger.probed(&probed(host.now.mono, Root::Late), host.now);
    host.expect("no answer", &["filesystem_ro-7:1"]);
    host.ledger.probed(&probed(host.now.mono, Root::Fine), host.now);
    host.expect("an answer", &[]);
}

#[test]
fn a_lost_read_only_filesystem_is_looked_at_now_and_then() {
    let mut host = Host::new();
    host.mount_type(1, "xfs", "ro", "ro").sample().answer(&Probe::Writable);
    host.event(Kind::XfsShutdown, "7:1", 0).expect("shut down", &["filesystem_ro-7:1"]);
    let mut looks = 0;
    for _ in 0..1000 {
        host.ledger.start_probes(host.now);
        for Action { dev, write } in host.ledger.take_actions() {
            assert!(!write);
            looks += 1;
            let probed = Probed {
                dev,
                started: host.now.mono,
                root: Root::Failed(EIO),
                write: None,
                full: false,
            };
            host.ledger.probed(&probed, host.now);
        }
        host.after(Duration::from_millis(1));
    }
    assert!((1..5).contains(&looks), "{looks} looks in a second");
}

#[test]
fn a_device_is_asked_by_who_is_still_mounted() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").mount(2, "rw", "rw");
    host.members
        .insert(dev("7:2"), vec![member("7:1", "loop1", false), member("7:2", "loop1p2", false)]);
    host.sample()
        .answer(&Probe::Writable)
        .event(Kind::BlockWrite, "7:1", EIO)
        .settle(&Probe::Writable);
    host.after(WINDOW).sample();
    host.ledger.take_actions();
    // Both were asked; one goes away before it answers.
    host.umount(2).after(Duration::from_secs(1)).sample().after(Duration::from_secs(1)).sample();
    let probed = Probed {
        dev: dev("7:1"),
        started: host.now.mono,
        root: Root::Fine,
        write: Some(Probe::Writable),
        full: false,
    };
    host.ledger.probed(&probed, host.now);
    host.expect("the other one answered", &[]);
}

#[test]
fn what_a_filesystem_on_an_array_loses_is_not_excused_by_the_array() {
    for failing_leg in [false, true] {
        let mut host = Host::new();
        host.lines.push("50 1 9:0 / /data rw - xfs /dev/md0 rw".into());
        let legs = vec![member("8:0", "sda", true), member("9:0", "md0", false)];
        host.members.insert(dev("9:0"), legs);
        host.sample().answer(&Probe::Writable);
        if failing_leg {
            host.event(Kind::BlockWrite, "8:0", EIO);
        }
        host.event(Kind::Writeback, "9:0", EIO);
        let faults = host.ledger.view().faults;
        let fault = faults.iter().find(|fault| fault.id == "io_error-9:0").unwrap();
        assert_eq!(fault.scope, Scope::Host);
    }
}

#[test]
fn an_inode_that_looks_like_a_device_is_an_inode() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw");
    host.lines.push("60 1 0:5 / /nfs rw - nfs4 server:/x rw".into());
    host.sample().answer(&Probe::Writable);
    for superblock in ["0:55", "0:5"] {
        let place = u64::from(dev("7:1").0);
        let dev = dev(superblock);
        let event = Event { ktime: 1, kind: Kind::Writeback, dev, errno: EIO, place, detail: 0 };
        host.ledger.event(&event, host.now);
        host.sample().expect(superblock, &[]);
    }
}

#[test]
fn xfs_corruption_is_an_error_of_the_filesystem() {
    let mut host = Host::new();
    host.mount_type(1, "xfs", "rw", "rw").sample().answer(&Probe::Writable);
    host.event(Kind::XfsBuffer, "7:1", 117).expect("EFSCORRUPTED", &["filesystem_error-7:1"]);
    host.event(Kind::XfsBuffer, "7:1", EIO);
    host.expect("EIO", &["filesystem_error-7:1", "io_error-7:1"]);
}

#[test]
fn io_that_does_not_move_is_a_stall() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    let second = Duration::from_secs(1);
    let disk = |host: &mut Host, completed, in_flight| {
        host.disks.insert(dev("7:1"), Disk::Present { completed, in_flight });
        host.after(second).sample();
    };
    for completed in 11..31 {
        disk(&mut host, completed, 32);
    }
    host.expect("busy, and moving", &[]);
    for _ in 0..5 {
        disk(&mut host, 30, 4);
    }
    host.expect("not yet", &[]);
    disk(&mut host, 30, 4);
    host.expect("stalled", &["io_stall-7:1"]);
    disk(&mut host, 31, 3);
    host.expect("moved", &[]);
    for _ in 0..8 {
        disk(&mut host, 31, 3);
    }
    host.expect("stalled again", &["io_stall-7:1"]);
    assert!(host.ledger.clear("io_stall-7:1", host.now));
    disk(&mut host, 31, 3);
    host.expect("accepted", &[]);
    disk(&mut host, 34, 0);
    for _ in 0..8 {
        disk(&mut host, 34, 1);
    }
    host.expect("a new one", &["io_stall-7:1"]);
    disk(&mut host, 34, 0);
    host.expect("idle", &[]);
}

#[test]
fn io_in_flight_at_start_is_a_stall_until_it_moves() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").mount(2, "rw", "rw");
    host.disks.insert(dev("7:1"), Disk::Present { completed: 5, in_flight: 2 });
    host.disks.insert(dev("7:2"), Disk::Present { completed: 5, in_flight: 2 });
    host.sample();
    assert!(host.ledger.unmoved_since_start());
    host.disks.insert(dev("7:2"), Disk::Present { completed: 6, in_flight: 2 });
    host.after(Duration::from_millis(5)).sample();
    assert!(host.ledger.unmoved_since_start());
    host.ledger.presume_stalled(host.now);
    host.expect("what moved is well", &["io_stall-7:1"]);
    host.disks.insert(dev("7:1"), Disk::Present { completed: 6, in_flight: 1 });
    host.sample().expect("moved", &[]);
    assert!(!host.ledger.unmoved_since_start());
}

#[test]
fn a_device_that_vanishes_under_a_filesystem_is_an_io_error() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    host.disks.insert(dev("7:1"), Disk::Gone);
    host.sample().expect("gone", &["io_error-7:1"]);
    host.after(WINDOW * 2).sample().settle(&Probe::Writable).expect("for long", &["io_error-7:1"]);
    host.umount(1).sample().expect("umounted", &[]);
}

#[test]
fn counters_stand_in_for_events_that_were_lost_and_for_nothing_else() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    host.counts(Kind::BlockWrite, "7:1", EIO, 1_000_000).expect("no event came", &["io_error-7:1"]);
    assert_eq!(host.ledger.view().faults[0].count, 1_000_000);
    host.after(Duration::from_millis(1)).event(Kind::BlockWrite, "7:1", EIO);
    host.after(Duration::from_millis(1));
    assert!(host.ledger.clear("io_error-7:1", host.now));
    let before = host.now.mono - 1_000_000;
    let count = Count {
        kind: Kind::BlockWrite,
        dev: dev("7:1"),
        errno: EIO,
        count: 1_000_001,
        suppressed: 0,
        dropped: 0,
        last: before,
    };
    host.ledger.counted(&[count], host.now);
    host.expect("counted before it was cleared", &[]);
    host.after(Duration::from_millis(1)).counts(Kind::BlockWrite, "7:1", EIO, 1_000_002);
    host.expect("counted after it", &["io_error-7:1"]);
}

#[test]
fn whom_a_fault_concerns() {
    let mut host = Host::new();
    host.lines.push("50 1 253:0 / /data rw - ext4 /dev/md0 rw".into());
    host.members
        .insert(dev("253:0"), vec![member("8:0", "sda", true), member("253:0", "md0", false)]);
    let volume = "/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/v/mount";
    host.lines.push(format!("51 1 8:16 / {volume} rw - ext4 /dev/sdb rw"));
    host.members.insert(dev("8:16"), vec![member("8:16", "sdb", false)]);
    host.sample().answer(&Probe::Writable);
    for device in ["8:0", "253:0", "8:16"] {
        host.event(Kind::BlockWrite, device, EIO);
    }
    let scopes: Vec<_> = host
        .ledger
        .view()
        .faults
        .into_iter()
        .map(|fault| (fault.device.to_string(), fault.scope))
        .collect();
    assert_eq!(
        scopes,
        [
            ("8:0".into(), Scope::Member),
            ("8:16".into(), Scope::Volume),
            ("253:0".into(), Scope::Host),
        ]
    );
}

#[test]
fn a_storm_of_events_asks_for_few_probes() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    let mut asked = 0;
    // Ten events a second for five minutes, as many as the kernel lets through.
    for _ in 0..3000 {
        host.event(Kind::BlockWrite, "7:1", EIO);
        host.ledger.start_probes(host.now);
        for Action { dev, .. } in host.ledger.take_actions() {
            asked += 1;
            let write = Some(Probe::Writable);
            let probed =
                Probed { dev, started: host.now.mono, root: Root::Fine, write, full: false };
            host.ledger.probed(&probed, host.now);
        }
        host.after(Duration::from_millis(100));
    }
    assert!((5..20).contains(&asked), "{asked} probes");
}

#[test]
fn the_reason_names_device_mount_and_cause_in_one_line() {
    let mut host = Host::new();
    host.lines.push("50 1 7:1 / /mnt/a\\012b rw - ext4 /dev/loop1 rw".into());
    host.members.insert(dev("7:1"), vec![member("7:1", "loop1", false)]);
    host.sample().answer(&Probe::Writable).event(Kind::BlockWrite, "7:1", 28);
    let fault = &host.ledger.view().faults[0];
    assert_eq!(
        fault.reason,
        "loop1 (7:1) ext4 on /mnt/a?b: write failed: ENOSPC (no space on the device) at sector 8"
    );
    assert_eq!(fault.errno.as_deref(), Some("ENOSPC"));
    assert_eq!(fault.kernel_ns, Some(host.now.mono));
    assert_eq!(fault.mount_points, ["/mnt/a\nb"]);
}

#[test]
fn a_new_ext4_error_after_a_clear_is_new() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw");
    host.ext4.insert(dev("7:1"), Ext4Errors { count: 0, first: String::new(), remounted: false });
    host.sample().settle(&Probe::Writable);
    host.ext4.insert(dev("7:1"), Ext4Errors { count: 1, first: "a:1".into(), remounted: false });
    host.sample().settle(&Probe::Writable).sample().expect("one", &["filesystem_error-7:1"]);
    assert!(host.ledger.clear("filesystem_error-7:1", host.now));
    assert!(host.ledger.needs_every_snapshot(), "the next look is the new baseline");
    host.after(Duration::from_secs(1)).sample();
    assert!(!host.ledger.needs_every_snapshot());
    host.after(Duration::from_hours(1));
    host.ext4.insert(dev("7:1"), Ext4Errors { count: 2, first: "a:1".into(), remounted: false });
    host.sample()
        .settle(&Probe::Refused(EROFS))
        .expect("new error", &["filesystem_ro-7:1", "filesystem_error-7:1"]);
}

#[test]
fn new_btrfs_corruption_after_a_clear_is_new() {
    let mut host = Host::new();
    host.lines.push("50 1 0:40 / /data rw - btrfs /dev/loop1 rw".into());
    host.members.insert(dev("0:40"), vec![member("7:1", "loop1", false)]);
    host.btrfs.insert(dev("0:40"), BtrfsErrors::default());
    host.sample().settle(&Probe::Writable);
    host.btrfs.insert(dev("0:40"), BtrfsErrors { io: 0, corruption: 1 });
    host.sample().settle(&Probe::Writable).sample().expect("one", &["filesystem_error-0:40"]);
    assert!(host.ledger.clear("filesystem_error-0:40", host.now));
    assert!(host.ledger.needs_every_snapshot());
    host.after(Duration::from_secs(1)).sample();
    host.after(Duration::from_hours(1));
    host.btrfs.insert(dev("0:40"), BtrfsErrors { io: 0, corruption: 5 });
    host.sample().settle(&Probe::Writable).expect("new corruption", &["filesystem_error-0:40"]);
}

#[test]
fn a_clear_during_a_probe_leaves_nobody_waiting() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    host.event(Kind::BlockWrite, "7:1", EIO)
        .event(Kind::Ext4Error, "7:1", 0)
        .settle(&Probe::Writable);
    host.after(WINDOW).sample();
    let actions = host.ledger.take_actions();
    assert_eq!(actions.len(), 1);
    let started = host.now.mono;
    host.after(Duration::from_millis(5));
    assert!(host.ledger.clear("filesystem_error-7:1", host.now));
    host.ledger.probed(
        &Probed {
            dev: dev("7:1"),
            started,
            root: Root::Fine,
            write: Some(Probe::Writable),
            full: false,
        },
        host.now,
    );
    for _ in 0..50 {
        host.after(WINDOW).sample().settle(&Probe::Writable);
    }
    host.expect("closed within 50 windows", &[]);
}

#[test]
fn an_accepted_loss_is_not_found_again_by_the_device_question() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    host.event(Kind::BlockWrite, "7:1", EIO).event(Kind::Ext4Error, "7:1", 0);
    host.remount(1, "rw", "rw,emergency_ro").sample().settle(&Probe::Refused(EROFS));
    assert!(host.ledger.clear("filesystem_error-7:1", host.now));
    assert!(host.ledger.clear("filesystem_ro-7:1", host.now));
    host.sample().settle(&Probe::Refused(EROFS)).expect("accepted", &["io_error-7:1"]);
    host.after(WINDOW).sample().settle(&Probe::Refused(EROFS)).sample();
    host.expect("still accepted", &[]);
}

#[test]
fn a_new_life_that_is_read_only_on_purpose_is_well() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    host.event(Kind::Ext4Error, "7:1", 0).settle(&Probe::Refused(EROFS));
    host.umount(1).lines.push("777 1 7:1 / /mnt/1 ro - ext4 /dev/loop1 ro".into());
    for _ in 0..20 {
        host.sample().settle(&Probe::Writable).after(WINDOW);
    }
    host.expect("read-only on purpose, another life", &[]);
}

#[test]
fn a_refusal_is_doubted_in_time_with_and_without_events() {
    for events in [true, false] {
        let mut host = Host::new();
        host.ledger.set_xfs_events(events);
        host.mount_type(1, "xfs", "rw", "rw").sample().answer(&Probe::Writable);
        host.event(Kind::XfsBuffer, "7:1", 117).settle(&Probe::Refused(117));
        assert!(host.ledger.clear("filesystem_error-7:1", host.now));
        host.expect("ro", &["filesystem_ro-7:1"]);
        for _ in 0..2000 {
            host.after(Duration::from_millis(750)).sample();
            host.answer(&Probe::Writable);
        }
        host.expect(&format!("events={events}"), &[]);
    }
}

#[test]
fn a_shutdown_of_a_former_life_is_over() {
    let mut host = Host::new();
    host.mount_type(1, "xfs", "ro", "ro").sample().answer(&Probe::Writable);
    host.event(Kind::XfsShutdown, "7:1", 0);
    host.umount(1).lines.push("777 1 7:1 / /mnt/1 ro - xfs /dev/loop1 ro".into());
    for _ in 0..20 {
        host.sample().settle(&Probe::Writable).after(WINDOW);
    }
    host.expect("root is fine", &[]);
}

#[test]
fn a_probe_of_a_former_life_says_nothing() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    host.event(Kind::Ext4Error, "7:1", 0);
    let started = host.now.mono;
    assert_eq!(host.ledger.take_actions().len(), 1);
    host.after(Duration::from_secs(1)).umount(1).sample().expect("umounted", &[]);
    host.after(Duration::from_secs(1)).mount(1, "rw", "rw").sample();
    host.ledger.probed(
        &Probed {
            dev: dev("7:1"),
            started,
            root: Root::Fine,
            write: Some(Probe::Refused(EROFS)),
            full: false,
        },
        host.now,
    );
    host.expect("former life", &[]);
}

#[test]
fn a_shut_down_xfs_can_be_accepted_without_events() {
    let mut host = Host::new();
    host.ledger.set_xfs_events(false);
    host.mount_type(1, "xfs", "rw", "rw").sample();
    let root_eio = |host: &mut Host| {
        for Action { dev, write } in host.ledger.take_actions() {
            let write = write.then_some(Probe::Refused(EIO));
            host.ledger.probed(
                &Probed {
                    dev,
                    started: host.now.mono,
                    root: Root::Failed(EIO),
                    write,
                    full: false,
                },
                host.now,
            );
        }
    };
    root_eio(&mut host);
    host.expect("lost", &["filesystem_ro-7:1"]);
    assert!(host.ledger.clear("filesystem_ro-7:1", host.now));
    host.after(Duration::from_millis(750)).sample();
    root_eio(&mut host);
    host.expect("accepted", &[]);
}

#[test]
fn where_nothing_can_be_asked_a_quiet_window_has_to_do() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    host.event(Kind::BlockWrite, "7:1", EIO);
    for _ in 0..50 {
        host.ledger.start_probes(host.now);
        for Action { dev, write } in host.ledger.take_actions() {
            let write =
                write.then_some(Probe::Unable("another filesystem is mounted over it".into()));
            host.ledger.probed(
                &Probed {
                    dev,
                    started: host.now.mono,
                    root: Root::Unreachable,
                    write,
                    full: false,
                },
                host.now,
            );
        }
        host.after(WINDOW).sample();
    }
    host.expect("50 quiet windows", &[]);
}
