//! What the ledger of a restarted agent begins with.

use std::time::Duration;

use tocsin_ebpf::Kind;

use super::host::{EIO, EROFS, Host, WINDOW, dev};
use crate::kernel::{
    ledger::{Ledger, Memory},
    probe::Probe,
    sampling::{Disk, Ext4Errors},
};

fn ext4(host: &mut Host, count: u64) {
    let errors = Ext4Errors { count, first: "a:1".into() };
    host.ext4.insert(dev("7:1"), errors);
}

fn disk(host: &mut Host, completed: u64, in_flight: u64) {
    host.disks.insert(dev("7:1"), Disk::Present { completed, in_flight });
}

/// What happened before the restart, and which faults are open after the first snapshot of the next agent.
type Story = (&'static str, fn(&mut Host), &'static [&'static str]);

#[test]
fn a_restarted_agent_begins_where_the_other_ended() {
    let stories: &[Story] = &[
        ("a healthy host", |_| {}, &[]),
        (
            "an I/O error on a device that still fails",
            |host| {
                host.event(Kind::BlockWrite, "7:1", EIO).settle(&Probe::SyncFailed(EIO));
            },
            &["io_error-7:1"],
        ),
        (
            "an ext4 with errors=continue",
            |host| {
                ext4(host, 1);
                host.event(Kind::Ext4Error, "7:1", 0).sample().settle(&Probe::Writable);
            },
            &["filesystem_error-7:1"],
        ),
        (
            "a loss that no mount table shows",
            |host| {
                host.event(Kind::Ext4Error, "7:1", 0).settle(&Probe::Refused(EROFS));
                assert!(host.ledger.clear("filesystem_error-7:1", host.now));
            },
            &["filesystem_ro-7:1"],
        ),
        (
            "a loss that the mount table shows",
            |host| {
                host.remount(1, "ro", "ro").sample();
            },
            &["filesystem_ro-7:1"],
        ),
        (
            "a stall",
            |host| {
                disk(host, 10, 3);
                host.sample().after(Duration::from_secs(6)).sample();
            },
            &["io_stall-7:1"],
        ),
        (
            "a stall that an operator accepted",
            |host| {
                disk(host, 10, 3);
                host.sample().after(Duration::from_secs(6)).sample();
                assert!(host.ledger.clear("io_stall-7:1", host.now));
            },
            &[],
        ),
        (
            "a cleared I/O error",
            |host| {
                host.event(Kind::BlockWrite, "7:1", EIO).settle(&Probe::Writable);
                host.counts(Kind::BlockWrite, "7:1", EIO, 1);
                assert!(host.ledger.clear("io_error-7:1", host.now));
            },
            &[],
        ),
        (
            "an accepted loss",
            |host| {
                host.event(Kind::Ext4Error, "7:1", 0).settle(&Probe::Refused(EROFS));
                assert!(host.ledger.clear("filesystem_ro-7:1", host.now));
                assert!(host.ledger.clear("filesystem_error-7:1", host.now));
            },
            &[],
        ),
        (
            "an accepted read-only filesystem",
            |host| {
                host.remount(1, "ro", "ro").sample();
                assert!(host.ledger.clear("filesystem_ro-7:1", host.now));
            },
            &[],
        ),
        (
            "a fault of a filesystem that is not mounted any more",
            |host| {
                host.event(Kind::BlockWrite, "7:1", EIO).umount(1);
            },
            &[],
        ),
        (
            "a filesystem that lost its writability while no agent ran",
            |host| {
                host.remount(1, "ro", "ro");
            },
            &["filesystem_ro-7:1"],
        ),
        ("an ext4 error while no agent ran", |host| ext4(host, 1), &["filesystem_error-7:1"]),
    ];
    for (what, before, open) in stories {
        let mut host = Host::new();
        ext4(&mut host, 0);
        host.mount(1, "rw", "rw").sample().settle(&Probe::Writable).sample();
        before(&mut host);
        host.restart().sample().expect(what, open);
    }
}

#[test]
fn a_disk_that_stands_over_a_restart_is_presumed_stalled() {
    type Row<'a> = (&'a str, Option<fn(&mut Host)>, u64, &'a [&'a str]);
    let accepts = |host: &mut Host| {
        host.after(Duration::from_secs(6)).sample();
        assert!(host.ledger.clear("io_stall-7:1", host.now));
    };
    // (what happened, then, completed requests after the restart, open faults)
    let rows: [Row; 3] = [
        ("it stands", None, 10, &["io_stall-7:1"]),
        ("it moves", None, 11, &[]),
        ("an operator has accepted that it stands", Some(accepts), 10, &[]),
    ];
    for (what, before, completed, open) in rows {
        let mut host = Host::new();
        host.mount(1, "rw", "rw").sample().settle(&Probe::Writable);
        disk(&mut host, 10, 3);
        host.sample().after(Duration::from_secs(1)).sample().expect("too early", &[]);
        if let Some(before) = before {
            before(&mut host);
        }
        disk(&mut host, completed, 3);
        host.restart().sample();
        host.ledger.presume_stalled(host.now);
        host.expect(what, open);
    }
}

#[test]
fn a_restored_fault_keeps_its_time_its_words_and_its_count() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().settle(&Probe::Writable);
    host.event(Kind::BlockRead, "7:1", EIO).counts(Kind::BlockRead, "7:1", EIO, 7);
    let before = host.ledger.view();
    host.after(Duration::from_secs(3)).restart().sample();
    assert_eq!(host.ledger.view(), before);
    // Three more were counted while no agent ran.
    host.counts(Kind::BlockRead, "7:1", EIO, 10);
    assert_eq!(host.ledger.view().faults[0].count, 10);
    assert_eq!(host.ledger.view().opened, before.opened);
    // It closes as it would have closed.
    host.after(WINDOW).sample().settle(&Probe::Writable).expect("quiet", &[]);
}

#[test]
fn what_was_counted_while_no_agent_ran_is_a_fault() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().settle(&Probe::Writable);
    host.counts(Kind::BlockWrite, "7:1", EIO, 5).expect("counted", &["io_error-7:1"]);
    assert!(host.ledger.clear("io_error-7:1", host.now));
    host.restart().sample();
    // The same number is nothing new, whenever it is read.
    host.after(Duration::from_secs(1));
    let last = host.now;
    host.counts(Kind::BlockWrite, "7:1", EIO, 5).expect("cleared", &[]);
    assert_eq!(host.now.mono, last.mono);
    host.counts(Kind::BlockWrite, "7:1", EIO, 6).expect("a new one", &["io_error-7:1"]);
    assert_eq!(host.ledger.view().faults[0].count, 1);
}

#[test]
fn a_probe_that_was_running_is_made_again() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample().settle(&Probe::Writable);
    // Lost data without an errno: only a probe tells whether the filesystem is full.
    host.event(Kind::Writeback, "7:1", 0).expect("not known yet", &[]);
    let _killed_with_the_agent = host.ledger.take_actions();
    host.restart().sample().settle(&Probe::Writable).expect("explained", &["io_error-7:1"]);
}

#[test]
fn another_filesystem_on_the_same_device_inherits_nothing() {
    let both: &[&str] = &["filesystem_ro-7:1", "filesystem_error-7:1"];
    let error: &[&str] = &["filesystem_error-7:1"];
    // (numbers of the superblock before and after, number of the mount after, faults after a probe that writes)
    let rows: [(_, _, _, &[&str]); 6] = [
        (None, None, 101, error),
        (None, None, 999, &[]),
        // The kernel gives the number of a mount again, and never that of a superblock.
        (Some(7), Some(8), 101, &[]),
        (Some(7), Some(7), 999, error),
        // An agent that did not write it.
        (None, Some(8), 101, error),
        (None, Some(8), 999, &[]),
    ];
    for (before, after, id, open) in rows {
        let mut host = Host::new();
        host.born.extend(before.map(|born| (dev("7:1"), born)));
        host.mount(1, "rw", "rw").sample().settle(&Probe::Writable);
        host.event(Kind::Ext4Error, "7:1", 0).settle(&Probe::Refused(EROFS)).expect("lost", both);
        host.umount(1).lines.push(format!("{id} 1 7:1 / /mnt/1 rw - ext4 /dev/loop1 rw"));
        host.born = after.map(|born| (dev("7:1"), born)).into_iter().collect();
        host.restart().sample().after(WINDOW).sample().settle(&Probe::Writable);
        host.expect(&format!("{before:?} {after:?} {id}"), open);
    }
}

#[test]
fn an_error_before_a_repair_that_no_agent_saw_is_over() {
    // (errors that ext4 remembers when the next agent looks, time from the error to that look, open faults)
    let late = Duration::from_secs(2);
    let rows: [(_, _, &[&str]); 4] = [
        (Some(0), late, &[]),
        (Some(1), late, &["filesystem_error-7:1"]),
        (None, late, &["filesystem_error-7:1"]),
        // It may not have written it down yet.
        (Some(0), Duration::from_millis(200), &["filesystem_error-7:1"]),
    ];
    for (remembered, age, open) in rows {
        let mut host = Host::new();
        host.mount(1, "rw", "rw").sample().settle(&Probe::Writable);
        let last = host.now.mono;
        if let Some(count) = remembered {
            ext4(&mut host, count);
        }
        host.umount(1).lines.push("999 1 7:1 / /mnt/1 rw - ext4 /dev/loop1 rw".into());
        host.restart().after(age).sample();
        host.counts_at(last, Kind::Ext4Error, "7:1", 0, 1);
        host.settle(&Probe::Writable).expect(&format!("{remembered:?} {age:?}"), open);
    }
}

#[test]
fn kinds_of_a_later_version_are_left_out() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").sample();
    host.event(Kind::BlockRead, "7:1", EIO).counts(Kind::BlockRead, "7:1", EIO, 1);
    let text = serde_json::to_string(&host.ledger.memory()).unwrap();
    let text = text.replace("\"io_error\"", "\"io_miracle\"").replace("\"kind\":1", "\"kind\":99");
    let memory: Memory = serde_json::from_str(&text).unwrap();
    let mut ledger = Ledger::new(host.ledger.rules.clone());
    assert_eq!(ledger.restore(&memory, host.now), 0);
    assert!(ledger.memory().counts.is_empty());
}

#[test]
fn events_that_were_missed_are_looked_for_everywhere() {
    let mut host = Host::new();
    host.mount(1, "rw", "rw").mount(2, "rw", "rw").sample().settle(&Probe::Writable);
    assert_eq!(host.ledger.missed(), None);
    host.ledger.look_everywhere("3 events were missed".into());
    let said = |host: &Host| host.ledger.missed().unwrap_or_default();
    assert_eq!(said(&host), "3 events were missed: looking at every filesystem");
    assert!(host.ledger.needs_every_snapshot());
    host.sample();
    assert_eq!(said(&host), "3 events were missed: 2 filesystems have not been looked at");
    // No answer in time is no answer.
    host.answer(&Probe::Late);
    assert_eq!(said(&host), "3 events were missed: 2 filesystems have not been looked at");
    // One that is not mounted any more need not answer.
    host.umount(2).sample();
    assert_eq!(said(&host), "3 events were missed: 1 filesystems have not been looked at");
    host.settle(&Probe::Late);
    assert_eq!(said(&host), "3 events were missed: 1 filesystems have not been looked at");
    // It is asked again until it answers.
    host.after(Duration::from_secs(5)).settle(&Probe::Refused(EROFS));
    assert_eq!(host.ledger.missed(), None);
    host.expect("what the event would have told", &["filesystem_ro-7:1"]);
}
