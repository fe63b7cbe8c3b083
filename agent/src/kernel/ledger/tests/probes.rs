//! Probes: when the ledger asks for them, and what their results mean.

use std::time::Duration;

use tocsin_ebpf::Kind;

use super::host::{EIO, EROFS, Host, dev};
use crate::kernel::ledger::{Action, Probed};
use crate::kernel::probe::{Probe, Root};
use crate::model::Dev;

#[test]
fn a_journal_that_aborts_during_a_probe_is_found_by_the_next_one() {
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
fn a_sync_that_fails_twice_is_an_io_error() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable).event(Kind::Ext4Error, "7:1", 0);
    host.answer(&Probe::SyncFailed(EIO))
        .expect("once may be the journal", &["filesystem_error-7:1"]);
    host.answer(&Probe::SyncFailed(EIO));
    host.expect("twice is the device", &["filesystem_error-7:1", "io_error-7:1"]);
}

#[test]
fn a_probe_that_cannot_be_made_is_a_blind_spot() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable).event(Kind::BlockWrite, "7:1", EIO);
    host.answer(&Probe::Unable("EACCES".into()));
    let unprobed = host.ledger.unprobed();
    assert_eq!(unprobed.as_deref(), Some("no test write after an event: /mnt/1: EACCES"));
    host.settle(&Probe::Writable);
    assert_eq!(host.ledger.unprobed(), None);
}

#[test]
fn a_probe_without_a_result_closes_nothing() {
    let mut host = Host::new();
    host.mount_type(1, "xfs", "rw", "rw").sample();
    let probed = |started, root| Probed {
        dev: dev("7:1"),
        started,
        root,
        write: None,
        full: false,
        unreadable: None,
    };
    host.ledger.take_actions();
    host.ledger.probed(&probed(host.now.mono, Root::Failed(EIO)), host.now);
    host.ledger.probed(&probed(host.now.mono, Root::Late), host.now);
    host.expect("no answer", &["filesystem_ro-7:1"]);
    host.ledger.probed(&probed(host.now.mono, Root::Fine), host.now);
    host.expect("an answer", &[]);
}

#[test]
fn a_lost_read_only_filesystem_is_checked_now_and_then() {
    let mut host = Host::new();
    host.mount_type(1, "xfs", "ro", "ro").sample().answer(&Probe::Writable);
    host.event(Kind::XfsShutdown, "7:1", 0).expect("shut down", &["filesystem_ro-7:1"]);
    let mut looks = 0;
    for _ in 0..1000 {
        host.ledger.start_probes(host.now);
        for Action { dev, write, .. } in host.ledger.take_actions() {
            assert!(!write);
            looks += 1;
            let probed = Probed {
                dev,
                started: host.now.mono,
                root: Root::Failed(EIO),
                write: None,
                full: false,
                unreadable: None,
            };
            host.ledger.probed(&probed, host.now);
        }
        host.after(Duration::from_millis(1));
    }
    assert!((1..5).contains(&looks), "{looks} looks in a second");
}

#[test]
fn a_storm_of_events_asks_for_few_probes() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().answer(&Probe::Writable);
    let mut asked = 0;
    // Ten events a second for five minutes: as many as the rate limit lets through.
    for _ in 0..3000 {
        host.event(Kind::BlockWrite, "7:1", EIO);
        host.ledger.start_probes(host.now);
        for Action { dev, .. } in host.ledger.take_actions() {
            asked += 1;
            let write = Some(Probe::Writable);
            let probed = Probed {
                dev,
                started: host.now.mono,
                root: Root::Fine,
                write,
                full: false,
                unreadable: None,
            };
            host.ledger.probed(&probed, host.now);
        }
        host.after(Duration::from_millis(100));
    }
    assert!((5..20).contains(&asked), "{asked} probes");
}

#[test]
fn a_refused_write_is_tried_again_with_and_without_events() {
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
fn a_probe_from_before_an_umount_proves_nothing() {
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
            unreadable: None,
        },
        host.now,
    );
    host.expect("former life", &[]);
}

#[test]
fn a_look_at_everything_wants_writes_that_reach_the_disk() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").mount(2, "ro", "ro").sample().settle(&Probe::Writable);
    // A probe is under way already.
    host.event(Kind::Writeback, "7:1", 0);
    let (started, before) = (host.now.mono, host.ledger.take_actions());
    assert_eq!(before.iter().map(|action| action.verify).collect::<Vec<_>>(), [false]);
    host.after(Duration::from_millis(10));
    host.ledger.look_everywhere("an event was missed".into());
    host.sample();
    let probed = |dev, started, write| Probed {
        dev,
        started,
        root: Root::Fine,
        write,
        full: true,
        unreadable: None,
    };
    let writable = Some(Probe::Writable);
    host.ledger.probed(&probed(dev("7:1"), started, writable.clone()), host.now);
    let mut actions = host.ledger.take_actions();
    actions.sort_unstable();
    let action = |minor, write| Action { dev: Dev::new(7, minor), write, verify: true };
    assert_eq!(actions, [action(1, true), action(2, false)], "asked for since the look began");
    assert_eq!(host.ledger.sectors_to_read(actions[1]), []);
    // A look at the root directory alone does not do where a write is possible.
    for write in [None, writable] {
        assert!(host.ledger.missed().is_some(), "{write:?}");
        host.ledger.probed(&probed(dev("7:1"), host.now.mono, write), host.now);
    }
    host.ledger.probed(&probed(dev("7:2"), host.now.mono, None), host.now);
    assert_eq!(host.ledger.missed(), None);
}
