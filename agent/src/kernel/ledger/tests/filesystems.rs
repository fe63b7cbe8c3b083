//! Filesystems: which of them cannot be written, and the errors that they find in themselves.

use std::time::Duration;

use tocsin_ebpf::Kind;

use super::host::{EIO, EROFS, Host, WINDOW, dev, member};
use crate::kernel::ledger::{Action, Probed};
use crate::kernel::probe::{Probe, Root};
use crate::kernel::sampling::{BtrfsErrors, Ext4Errors};
use crate::model::Scope;

#[test]
fn a_read_only_filesystem_is_a_fault_at_the_start_unless_it_is_on_purpose() {
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
fn a_mount_that_has_to_be_writable_is_a_fault_from_the_start() {
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
fn a_filesystem_that_was_read_only_at_first_may_become_so_again() {
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
fn an_ext4_error_that_no_table_shows_is_found_by_the_probe() {
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
fn an_ext4_error_on_a_filesystem_that_stays_writable_is_open_until_cleared() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw,errors=continue").sample().answer(&Probe::Writable);
    host.event(Kind::Ext4Error, "7:1", 0).settle(&Probe::Writable);
    host.ext4.insert(dev("7:1"), Ext4Errors { count: 1, first: "f:1".into() });
    host.sample().expect("still there", &["filesystem_error-7:1"]);
    host.after(WINDOW * 10)
        .sample()
        .settle(&Probe::Writable)
        .expect("for long", &["filesystem_error-7:1"]);
    assert!(host.ledger.clear("filesystem_error-7:1", host.now));
    host.counts(Kind::Ext4Error, "7:1", 0, 1).sample().expect("cleared", &[]);
    host.after(Duration::from_secs(1)).event(Kind::Ext4Error, "7:1", 0);
    host.expect("a new error", &["filesystem_error-7:1"]);
    host.ext4.insert(dev("7:1"), Ext4Errors { count: 2, first: "f:1".into() });
    host.reborn.insert(dev("7:1"), true);
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
        host.ext4.insert(dev("7:1"), Ext4Errors { count: 3, first: "f:1".into() });
        host.mount(1, "rw", "rw").sample();
        host.settle(&probe).expect(&format!("{probe:?}"), open);
    }
}

#[test]
fn errors_that_only_sysfs_shows_open_faults_without_events() {
    let mut host = Host::new();
    host.ext4.insert(dev("7:1"), Ext4Errors::default());
    host.mount(1, "rw", "rw").sample().settle(&Probe::Writable);
    host.ext4.insert(dev("7:1"), Ext4Errors { count: 1, first: "f:1".into() });
    host.sample().expect("ext4", &["filesystem_error-7:1"]);

    let mut host = Host::new();
    host.lines.push("50 1 0:40 / /data rw - btrfs /dev/loop1 rw".into());
    host.members.insert(dev("0:40"), vec![member("7:1", "loop1", false)]);
    host.btrfs.insert(dev("0:40"), BtrfsErrors { io: 5, corruption: 5, ..BtrfsErrors::default() });
    host.sample().settle(&Probe::Writable).expect("old statistics", &[]);
    host.btrfs.insert(dev("0:40"), BtrfsErrors { io: 5, corruption: 6, ..BtrfsErrors::default() });
    host.sample().expect("corruption", &["filesystem_error-0:40"]);
    host.btrfs.insert(dev("0:40"), BtrfsErrors { io: 6, corruption: 6, ..BtrfsErrors::default() });
    host.sample().expect("I/O", &["filesystem_error-0:40", "io_error-7:1"]);
}

#[test]
fn without_events_the_root_of_an_xfs_is_checked_at_every_snapshot() {
    let mut host = Host::new();
    host.ledger.set_xfs_events(false);
    host.mount_type(1, "xfs", "rw", "rw").mount(2, "rw", "rw").sample().answer(&Probe::Writable);
    host.after(Duration::from_millis(500)).sample();
    assert_eq!(
        host.ledger.take_actions(),
        [Action { dev: dev("7:1"), write: false, verify: false }]
    );
}

#[test]
fn a_full_filesystem_is_no_fault() {
    let lost = |errno, full, open: &[&str]| {
        let mut host = Host::new();
        host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
        host.event(Kind::Writeback, "7:1", errno);
        host.answer_full(&Probe::Writable, full)
            .expect(&format!("errno {errno}, full {full}"), open);
    };
    // The errno of the event is that of the loss before it: full before and broken now, or the other way round.
    for errno in [0, 28, 122, EIO] {
        lost(errno, true, &[]);
        lost(errno, false, &["io_error-7:1"]);
    }
}

#[test]
fn a_shutdown_event_opens_a_fault_and_a_later_probe_can_refute_it() {
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
fn a_shut_down_xfs_is_found_at_the_start_by_its_root() {
    let mut host = Host::new();
    host.mount_type(1, "xfs", "rw", "rw").sample();
    let actions = host.ledger.take_actions();
    assert_eq!(actions, [Action { dev: dev("7:1"), write: false, verify: false }]);
    let probed = Probed {
        dev: dev("7:1"),
        started: host.now.mono,
        root: Root::Failed(EIO),
        write: None,
        full: false,
        unreadable: None,
    };
    host.ledger.probed(&probed, host.now);
    host.expect("EIO", &["filesystem_ro-7:1"]).umount(1).sample().expect("umount", &[]);
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
fn a_filesystem_that_is_mounted_again_read_only_is_no_fault() {
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
fn a_shutdown_is_over_when_the_filesystem_is_mounted_again() {
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
fn a_superblock_that_is_unmounted_lazily_and_mounted_again_is_as_damaged_as_before() {
    for seen_unmounted in [false, true] {
        let mut host = Host::new();
        host.ext4.insert(dev("7:1"), Ext4Errors::default());
        host.mount(1, "rw", "rw,errors=continue").mount_type(2, "xfs", "rw", "rw").sample();
        host.settle(&Probe::Writable);
        host.event(Kind::Ext4Error, "7:1", 0).settle(&Probe::Writable);
        host.event(Kind::XfsShutdown, "7:2", 0).settle(&Probe::Refused(EIO));
        let both = ["filesystem_ro-7:2", "filesystem_error-7:1"];
        host.expect("both", &both);
        host.umount(1).umount(2).living.extend([dev("7:1"), dev("7:2")]);
        if seen_unmounted {
            host.sample().expect("not mounted", &[]);
        }
        host.living.clear();
        host.reborn.extend([(dev("7:1"), false), (dev("7:2"), false)]);
        host.lines.push("777 1 7:1 / /mnt/1 rw - ext4 /dev/loop1 rw,errors=continue".into());
        host.lines.push("778 1 7:2 / /mnt/2 rw - xfs /dev/loop2 rw".into());
        host.sample().expect("the same superblocks", &both);
        host.umount(1).umount(2).sample().expect("not mounted", &[]);
        host.reborn.extend([(dev("7:1"), true), (dev("7:2"), true)]);
        host.mount(1, "rw", "rw,errors=continue").mount_type(2, "xfs", "rw", "rw").sample();
        host.settle(&Probe::Writable).expect("others", &[]);
    }
}

#[test]
fn the_reason_names_what_the_block_layer_said_before_what_the_filesystem_made_of_it() {
    let reasons = |host: &Host| -> Vec<_> {
        let faults = host.ledger.view().faults.into_iter();
        faults.map(|fault| (fault.id, fault.errno, fault.reason)).collect()
    };
    let mut host = Host::new();
    host.mount_type(1, "xfs", "rw", "rw").sample().answer(&Probe::Writable);
    host.event(Kind::BlockWrite, "7:1", 28).event(Kind::XfsBuffer, "7:1", EIO);
    host.event(Kind::Writeback, "7:1", EIO).settle(&Probe::Refused(EIO));
    let place = "loop1 (7:1) xfs on /mnt/1";
    let enospc = "ENOSPC (no space on the device)";
    assert_eq!(
        reasons(&host),
        [
            (
                "filesystem_ro-7:1".into(),
                Some("ENOSPC".into()),
                format!(
                    "{place}: no longer writable: creating a file gives EIO (I/O error), after {enospc} on loop1"
                )
            ),
            (
                "io_error-7:1".into(),
                Some("ENOSPC".into()),
                format!("{place}: write failed: {enospc} at sector 8")
            ),
        ]
    );
}

/// A host with a well btrfs on two devices, each of which may be redundant.
fn host_with_btrfs(redundant: bool) -> Host {
    let mut host = Host::new();
    host.lines.push("50 1 0:40 / /data rw - btrfs /dev/loop1 rw".into());
    let legs = vec![member("7:1", "loop1", redundant), member("7:2", "loop2", redundant)];
    host.members.insert(dev("0:40"), legs);
    host.btrfs.insert(dev("0:40"), BtrfsErrors::default());
    host.sample().settle(&Probe::Writable);
    host
}

#[test]
fn a_leg_of_a_btrfs_that_repairs_itself_is_a_member() {
    for (redundant, scope) in [(true, Scope::Member), (false, Scope::Host)] {
        let mut host = host_with_btrfs(redundant);
        host.event(Kind::BlockWrite, "7:2", EIO);
        host.btrfs
            .insert(dev("0:40"), BtrfsErrors { io: 1, corruption: 0, ..BtrfsErrors::default() });
        host.sample().settle(&Probe::Writable);
        let faults = host.ledger.view().faults.into_iter();
        let found: Vec<_> = faults.map(|fault| (fault.id, fault.scope)).collect();
        assert_eq!(found, [("io_error-7:2".into(), scope)], "redundant: {redundant}");
    }
}

#[test]
fn an_f2fs_that_has_stopped_is_lost() {
    let mut host = Host::new();
    host.mount_type(1, "f2fs", "rw", "rw");
    host.f2fs_stopped.insert(dev("7:1"), false);
    host.sample().expect("healthy", &[]);
    host.f2fs_stopped.insert(dev("7:1"), true);
    host.sample().expect("stopped", &["filesystem_ro-7:1"]);
    host.umount(1).sample().expect("unmounted", &[]);
    host.mount_type(1, "f2fs", "rw", "rw").sample();
    host.event(Kind::F2fsError, "7:1", 0)
        .expect("found an error", &["filesystem_ro-7:1", "filesystem_error-7:1"]);
}

#[test]
fn a_btrfs_with_bad_blocks_on_one_leg_has_the_others() {
    // (redundant, devices with bad blocks, fault)
    for (redundant, corrupted, open) in [
        (true, 1, "io_error-7:1 member"),
        (true, 2, "filesystem_error-0:40 host"),
        (false, 1, "filesystem_error-0:40 host"),
    ] {
        let mut host = host_with_btrfs(redundant);
        host.btrfs.insert(dev("0:40"), BtrfsErrors { io: 0, corruption: 3, corrupted });
        host.sample().settle(&Probe::Writable);
        let faults = host.ledger.view().faults.into_iter();
        let found: Vec<_> =
            faults.map(|fault| format!("{} {}", fault.id, fault.scope.name())).collect();
        assert_eq!(found, [open], "redundant {redundant}, {corrupted}");
    }
}
