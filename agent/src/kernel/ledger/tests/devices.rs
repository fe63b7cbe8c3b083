//! Disks: errors, stalls, and what is on them.

use std::time::Duration;

use tocsin_ebpf::Kind;

use super::host::{EIO, Host, WINDOW, dev, member};
use crate::kernel::ebpf::reader::{Count, Event};
use crate::kernel::ledger::{Action, Probed, counts::STRANGERS};
use crate::kernel::probe::{Probe, Root};
use crate::kernel::sampling::{
    Disk,
    mounts::{Layer, Member, NvmePath},
};
use crate::model::{Dev, Scope};

#[test]
fn an_io_error_closes_after_a_quiet_window_if_a_probe_succeeds() {
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
fn errors_of_a_device_without_a_mounted_filesystem_are_silent() {
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
fn a_lost_write_belongs_to_the_fault_of_its_device() {
    let mut host = Host::new();
    host.lines.push("50 1 0:40 / /data rw - btrfs /dev/loop1 rw".into());
    host.members.insert(dev("0:40"), vec![member("7:1", "loop1", false)]);
    host.sample().answer(&Probe::Writable);
    host.event(Kind::Writeback, "0:40", EIO).settle(&Probe::Writable);
    host.expect("btrfs by its own number", &["io_error-7:1"]);

    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    // The cache of a block device: the internal filesystem 0:3, with the device number as the inode number.
    let place = u64::from(dev("7:1").0);
    let event =
        Event { ktime: 1, kind: Kind::Writeback, dev: dev("0:3"), errno: EIO, place, detail: 0 };
    host.ledger.event(&event, host.now);
    host.settle(&Probe::Writable).expect("block device", &["io_error-7:1"]);
    host.event(Kind::BlockWrite, "7:1", EIO).expect("one fault", &["io_error-7:1"]);
}

#[test]
fn a_device_is_verified_by_the_filesystems_that_are_still_mounted() {
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
    // Both are probed; one is umounted before its result comes.
    host.umount(2).after(Duration::from_secs(1)).sample().after(Duration::from_secs(1)).sample();
    let probed = Probed {
        dev: dev("7:1"),
        started: host.now.mono,
        root: Root::Fine,
        write: Some(Probe::Writable),
        full: false,
        unreadable: None,
    };
    host.ledger.probed(&probed, host.now);
    host.expect("the other one answered", &[]);
}

#[test]
fn a_loss_that_a_filesystem_on_an_array_reports_is_the_hosts() {
    for failing_leg in [false, true] {
        let mut host = Host::new();
        host.lines.push("50 1 9:0 / /data rw - xfs /dev/md0 rw".into());
        let legs = vec![member("8:0", "sda", true), member("9:0", "md0", false)];
        host.members.insert(dev("9:0"), legs);
        host.sample().answer(&Probe::Writable);
        if failing_leg {
            host.event(Kind::BlockWrite, "8:0", EIO);
        }
        host.event(Kind::Writeback, "9:0", EIO).settle(&Probe::Writable);
        let faults = host.ledger.view().faults;
        let fault = faults.iter().find(|fault| fault.id == "io_error-9:0").unwrap();
        assert_eq!(fault.scope, Scope::Host);
    }
}

#[test]
fn an_inode_number_that_looks_like_a_device_number_is_no_device() {
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
fn io_that_does_not_complete_is_a_stall() {
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
fn io_in_flight_at_the_start_is_a_stall_until_it_completes() {
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
fn a_device_that_is_removed_under_a_filesystem_is_an_io_error() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    host.disks.insert(dev("7:1"), Disk::Gone);
    host.sample().expect("gone", &["io_error-7:1"]);
    // The next agent's sampler cannot know of the device by itself.
    let vanished = host.ledger.memory().vanished;
    assert_eq!(vanished.len(), 1);
    assert_eq!((vanished[0].filesystem, &*vanished[0].members[0].name), (dev("7:1"), "loop1"));
    host.restart().sample().expect("after a restart", &["io_error-7:1"]);
    host.after(WINDOW * 2).sample().settle(&Probe::Writable).expect("for long", &["io_error-7:1"]);
    host.umount(1).sample().expect("umounted", &[]);
    assert_eq!(host.ledger.memory().vanished, []);
}

#[test]
fn counters_of_devices_without_a_filesystem_are_bounded() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    let count = |minor: u32, last: u64| Count {
        kind: Kind::BlockRead,
        dev: Dev::new(7, minor),
        errno: EIO,
        count: 1,
        suppressed: 0,
        dropped: 0,
        last,
    };
    // The one with a filesystem is the oldest.
    let counts: Vec<_> = (1..=300).map(|minor| count(minor, u64::from(minor))).collect();
    host.ledger.counted(&counts, host.now);
    host.sample();
    let outdated = host.ledger.outdated(&counts);
    assert_eq!(outdated.len(), 300 - 1 - STRANGERS);
    assert!(outdated.contains(&(Kind::BlockRead, Dev::new(7, 2), EIO)), "the oldest go first");
    assert!(!outdated.contains(&(Kind::BlockRead, Dev::new(7, 1), EIO)), "it has a filesystem");
    host.ledger.forget_counts(&outdated);
    let memory = serde_json::to_value(host.ledger.memory()).unwrap();
    for list in ["counts", "handled"] {
        assert_eq!(memory[list].as_array().unwrap().len(), 1 + STRANGERS, "{list}");
    }
    assert_eq!(host.ledger.outdated(&counts[300 - STRANGERS..]), []);
}

#[test]
fn counters_stand_in_for_lost_events_only() {
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
fn a_fault_of_an_array_leg_or_of_a_volume_is_not_the_hosts() {
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
fn an_io_error_closes_after_a_quiet_window_if_no_probe_is_possible() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    host.event(Kind::BlockWrite, "7:1", EIO);
    for _ in 0..50 {
        host.ledger.start_probes(host.now);
        for Action { dev, write, .. } in host.ledger.take_actions() {
            let write =
                write.then_some(Probe::Unable("another filesystem is mounted over it".into()));
            host.ledger.probed(
                &Probed {
                    dev,
                    started: host.now.mono,
                    root: Root::Unreachable,
                    write,
                    full: false,
                    unreadable: None,
                },
                host.now,
            );
        }
        host.after(WINDOW).sample();
    }
    host.expect("50 quiet windows", &[]);
}

#[test]
fn a_failed_sync_without_a_block_event_blames_the_topmost_device() {
    let partition =
        |device: &str, name: &str| Member { partition: true, ..member(device, name, false) };
    for (number, members, blamed) in [
        (
            "253:0",
            vec![
                member("253:0", "dm-0", false),
                partition("8:1", "sda1"),
                member("8:0", "sda", false),
            ],
            "io_error-253:0",
        ),
        ("8:1", vec![partition("8:1", "sda1"), member("8:0", "sda", false)], "io_error-8:0"),
        ("9:0", vec![member("9:0", "md0", false), member("8:0", "sda", true)], "io_error-9:0"),
    ] {
        let mut host = Host::new();
        host.lines.push(format!("50 1 {number} / /data rw - xfs /dev/x rw"));
        host.members.insert(dev(number), members);
        host.sample().answer(&Probe::Writable);
        host.event(Kind::Writeback, number, 0).settle(&Probe::SyncFailed(EIO));
        host.expect(number, &[blamed]);
    }
}

#[test]
fn an_io_error_ends_although_a_neighbour_on_the_disk_is_shut_down() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").mount_type(2, "xfs", "rw", "rw").sample();
    for minor in [1, 2] {
        let own = format!("7:{minor}");
        let members =
            vec![member(&own, &format!("loop{minor}"), false), member("8:0", "sda", false)];
        host.members.insert(dev(&own), members);
    }
    host.sample().answer(&Probe::Writable);
    host.event(Kind::BlockWrite, "8:0", EIO).event(Kind::XfsShutdown, "7:2", 0);
    let answer = |host: &mut Host| {
        for _ in 0..20 {
            host.ledger.start_probes(host.now);
            for Action { dev: probed, write, .. } in host.ledger.take_actions() {
                let is_down = probed == dev("7:2");
                let result = if is_down { Probe::Refused(EIO) } else { Probe::Writable };
                let root = if is_down { Root::Failed(EIO) } else { Root::Fine };
                let probed = Probed {
                    dev: probed,
                    started: host.now.mono,
                    root,
                    write: write.then_some(result),
                    full: false,
                    unreadable: None,
                };
                host.ledger.probed(&probed, host.now);
            }
            host.after(Duration::from_millis(50));
        }
    };
    answer(&mut host);
    host.expect("both", &["filesystem_ro-7:2", "io_error-8:0"]);
    host.after(WINDOW).sample();
    answer(&mut host);
    host.expect("the disk is quiet, and the other filesystem works", &["filesystem_ro-7:2"]);
}

#[test]
fn a_stacked_device_is_stalled_only_with_what_is_below_it() {
    // (what the disk below does each second, seconds, stalls)
    let (moves, stands, idle) = ((1, 4), (0, 4), (0, 0));
    for (what, below, seconds, open) in [
        ("a limit on the disk, which is busy with others", moves, 100, &[][..]),
        ("the disk stands too", stands, 10, &["io_stall-7:1", "io_stall-8:0"]),
        ("a limit holds everything back above the disk", idle, 20, &[]),
        ("the layer itself hangs", idle, 70, &["io_stall-7:1"]),
    ] {
        let mut host = Host::new();
        host.mount(1, "rw", "rw");
        let members = vec![member("7:1", "loop1", false), member("8:0", "sda", false)];
        host.members.insert(dev("7:1"), members);
        host.layers.insert(dev("7:1"), Layer { below: vec![dev("8:0")], spins: false });
        host.sample().answer(&Probe::Writable);
        for second in 0..seconds {
            host.disks.insert(dev("7:1"), Disk::Present { completed: 10, in_flight: 1 });
            let completed = 10 + below.0 * second;
            host.disks.insert(dev("8:0"), Disk::Present { completed, in_flight: below.1 });
            host.after(Duration::from_secs(1)).sample();
        }
        host.expect(what, open);
    }
}

#[test]
fn a_disk_that_spins_up_is_no_stall() {
    // (spins, seconds of idleness before, seconds in flight, stalled)
    for (spins, idle, seconds, stalled) in [
        (true, 600, 20, false),
        (true, 600, 35, true),
        (true, 10, 10, true),
        (false, 600, 10, true),
    ] {
        let mut host = Host::new();
        host.mount(1, "rw", "rw");
        host.layers.insert(dev("7:1"), Layer { below: Vec::new(), spins });
        host.sample().answer(&Probe::Writable);
        host.quiet_since.insert(dev("7:1"), host.now.mono);
        host.after(Duration::from_secs(idle));
        host.disks.insert(dev("7:1"), Disk::Present { completed: 10, in_flight: 1 });
        for _ in 0..seconds {
            host.sample().after(Duration::from_secs(1));
        }
        let open: &[&str] = if stalled { &["io_stall-7:1"] } else { &[] };
        host.expect(&format!("spins {spins}, idle {idle} s, {seconds} s"), open);
    }
}

#[test]
fn a_fault_below_a_read_only_mount_ends_when_its_sectors_can_be_read() {
    let mut host = Host::new();
    host.mount(1, "ro", "ro").sample().settle(&Probe::Writable);
    host.event(Kind::BlockRead, "7:1", EIO);
    for unreadable in [Some(EIO), None] {
        host.after(WINDOW).sample();
        for action in host.ledger.take_actions() {
            let sectors = host.ledger.sectors_to_read(action);
            let found: Vec<_> = sectors.iter().map(|s| (s.device, &*s.name, s.number)).collect();
            assert_eq!(found, [(dev("7:1"), "loop1", 8)]);
            let (root, started) = (Root::Fine, host.now.mono);
            let probed =
                Probed { dev: action.dev, started, root, write: None, full: false, unreadable };
            host.ledger.probed(&probed, host.now);
        }
        let open: &[&str] = if unreadable.is_some() { &["io_error-7:1"] } else { &[] };
        host.expect(&format!("{unreadable:?}"), open);
    }
}

#[test]
fn an_error_that_a_path_announces_is_one_of_its_head() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw");
    host.members.insert(dev("7:1"), vec![member("259:0", "nvme0n1", false)]);
    let path = NvmePath { head: dev("259:0"), name: "nvme0c1n1".to_owned() };
    host.paths.insert(dev("259:8"), path);
    host.sample();
    host.event(Kind::BlockRead, "259:8", EIO).expect("by a path", &["io_error-259:0"]);
    host.event(Kind::BlockRead, "259:9", EIO).expect("of nobody's", &["io_error-259:0"]);
}
