//! What an operator clears, and what opens again.

use std::time::Duration;

use tocsin_ebpf::Kind;

use super::host::{EIO, EROFS, Host, WINDOW, dev, member};
use crate::kernel::ledger::{Action, Probed};
use crate::kernel::probe::{Probe, Root};
use crate::kernel::sampling::{BtrfsErrors, Ext4Errors};

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
fn a_probe_that_began_before_a_clear_does_not_open_the_fault_again() {
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
fn a_new_ext4_error_after_a_clear_is_new() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw");
    host.ext4.insert(dev("7:1"), Ext4Errors { count: 0, first: String::new() });
    host.sample().settle(&Probe::Writable);
    host.ext4.insert(dev("7:1"), Ext4Errors { count: 1, first: "a:1".into() });
    host.sample().settle(&Probe::Writable).sample().expect("one", &["filesystem_error-7:1"]);
    assert!(host.ledger.clear("filesystem_error-7:1", host.now));
    assert!(host.ledger.needs_every_snapshot(), "the next look is the new baseline");
    host.after(Duration::from_secs(1)).sample();
    assert!(!host.ledger.needs_every_snapshot());
    host.after(Duration::from_hours(1));
    host.ext4.insert(dev("7:1"), Ext4Errors { count: 2, first: "a:1".into() });
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
    host.btrfs.insert(dev("0:40"), BtrfsErrors { io: 0, corruption: 1, ..BtrfsErrors::default() });
    host.sample().settle(&Probe::Writable).sample().expect("one", &["filesystem_error-0:40"]);
    assert!(host.ledger.clear("filesystem_error-0:40", host.now));
    assert!(host.ledger.needs_every_snapshot());
    host.after(Duration::from_secs(1)).sample();
    host.after(Duration::from_hours(1));
    host.btrfs.insert(dev("0:40"), BtrfsErrors { io: 0, corruption: 5, ..BtrfsErrors::default() });
    host.sample().settle(&Probe::Writable).expect("new corruption", &["filesystem_error-0:40"]);
}

#[test]
fn a_clear_during_a_probe_does_not_keep_a_fault_open() {
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
            unreadable: None,
        },
        host.now,
    );
    for _ in 0..50 {
        host.after(WINDOW).sample().settle(&Probe::Writable);
    }
    host.expect("closed within 50 windows", &[]);
}

#[test]
fn an_accepted_loss_is_not_opened_again_by_the_probe_of_its_device() {
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
fn a_shut_down_xfs_can_be_accepted_without_events() {
    let mut host = Host::new();
    host.ledger.set_xfs_events(false);
    host.mount_type(1, "xfs", "rw", "rw").sample();
    let root_eio = |host: &mut Host| {
        for Action { dev, write, .. } in host.ledger.take_actions() {
            let write = write.then_some(Probe::Refused(EIO));
            host.ledger.probed(
                &Probed {
                    dev,
                    started: host.now.mono,
                    root: Root::Failed(EIO),
                    write,
                    full: false,
                    unreadable: None,
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
