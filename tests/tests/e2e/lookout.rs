//! A look at everything, after events that the agent has missed.

use std::fs::{self, OpenOptions};
use std::thread;

use e2e::agent::TIMEOUT;
use e2e::faulty_disk::{EVERYWHERE, Errno, Operation};
use e2e::{Agent, Filesystem, LoopDevice, MIB, Sandbox, Volume, inject, require};

use crate::memory::Kept;

/// No event tells of these disks, because nobody has written to them since they began to fail. That the checkpoint cannot be
/// read is one of the reasons to look at everything.
#[test]
fn a_look_at_everything_writes_to_every_disk() {
    let Some(sandbox) = Sandbox::new() else { return };
    let kinds = [
        (Filesystem::Ext4, "ext4"),
        (Filesystem::Ext4WithoutJournal, "no-journal"),
        (Filesystem::Xfs, "xfs"),
        (Filesystem::Btrfs, "btrfs"),
    ];
    let kinds = kinds.into_iter().filter(|(kind, _)| kind.is_available());
    let failing: Vec<_> =
        kinds.map(|(kind, name)| Volume::breakable(&sandbox, name, kind, "")).collect();
    let hangs = Volume::breakable(&sandbox, "hangs", Filesystem::Ext4, "");
    for volume in failing.iter().chain([&hangs]) {
        inject::sync(volume.point()).unwrap();
    }
    let kept = Kept::new(&sandbox);
    fs::create_dir_all(kept.checkpoint.parent().unwrap()).unwrap();
    fs::write(&kept.checkpoint, "{\"version\":1").unwrap();
    for volume in &failing {
        volume.control().fail(Operation::Write, Errno::EIO, EVERYWHERE);
    }
    let hang = hangs.control().hang(Operation::Write, EVERYWHERE);
    let agent = kept.start(&sandbox);
    agent.wait_for("a fault of each disk that fails", TIMEOUT, |agent| {
        let faults = agent.faults();
        let is_told = |volume: &Volume| {
            faults.iter().any(|fault| fault.device_name == volume.device().name())
        };
        failing.iter().all(is_told).then_some(())
    });
    // It is not over before the last disk has answered.
    let look = |agent: &Agent| {
        let degraded = agent.faults_page().degraded.into_iter();
        degraded.filter(|why| why.contains("have not been looked at")).collect::<Vec<_>>()
    };
    agent.wait_for("one disk that has not answered", TIMEOUT, |agent| {
        look(agent).iter().any(|why| why.contains(" 1 filesystems")).then_some(())
    });
    drop(hang);
    agent
        .wait_for("the end of the look", TIMEOUT * 2, |agent| look(agent).is_empty().then_some(()));
    for volume in &failing {
        volume.control().heal();
    }
}

/// A host on which devices come and go does not make the agent grow.
#[test]
fn counters_of_devices_that_come_and_go_are_bounded() {
    // The kernel takes a tenth of a second to remove one, and several at once in the same time.
    const THREADS: usize = 8;
    const DEVICES: usize = 200;
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let fail_once = |name: &str| {
        let backing = sandbox.file(&format!("{name}.img"), MIB);
        let device = LoopDevice::over(&backing);
        OpenOptions::new().write(true).open(&backing).unwrap().set_len(0).unwrap();
        inject::read_block(&device.path(), 0).is_err().then(|| device.number().to_owned())
    };
    if !require(fail_once("first").is_some(), "a loop device over a short file reads zeroes") {
        return;
    }
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let fail_once = &fail_once;
            scope.spawn(move || {
                for number in 0..DEVICES / THREADS {
                    fail_once(&format!("{thread}-{number}")).unwrap();
                }
            });
        }
    });
    let last = fail_once("last").unwrap();
    agent.wait_for("the last count, and few others", TIMEOUT, |agent| {
        let page = agent.faults_page();
        let is_there = page.counters.iter().any(|counter| counter.device == last);
        (is_there && page.counters.len() < DEVICES * 3 / 4).then_some(())
    });
    assert_eq!(agent.counter("tocsin_events_uncounted_total"), 0);
}
