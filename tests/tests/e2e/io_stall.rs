//! `io_stall`: I/O that never completes is 503 after `IO_STALL_AFTER`, and the agent itself never waits for a disk.

use std::time::{Duration, Instant};

use e2e::agent::{QUICK_STALL_AFTER, TIMEOUT, quick_stalls};
use e2e::faulty_disk::{EVERYWHERE, Hang, Operation};
use e2e::http::Connection;
use e2e::{Agent, Filesystem, MIB, Sandbox, Volume, inject};

use crate::{answers_do_not_wait, fault, names};

/// Lets every request to the volume's disk hang.
pub(crate) fn hang_all(volume: &Volume) -> [Hang; 4] {
    let every = [Operation::Read, Operation::Write, Operation::Flush, Operation::Discard];
    every.map(|operation| volume.control().hang(operation, EVERYWHERE))
}

#[test]
fn io_that_never_completes() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::breakable(&sandbox, "vol", Filesystem::Ext4, "");
    let agent = Agent::start_with(&sandbox, quick_stalls);
    assert_eq!(agent.health("").status, 200);
    let device = volume.device().path();
    std::thread::scope(|scope| {
        let hang = hang_all(&volume);
        let at = Instant::now();
        let reader = scope.spawn(|| inject::read_block(&device, 32 * MIB));
        let [name, point] = names(&volume);
        agent.wait_failure(at, "io_stall", &[&name, &point]);
        assert!(at.elapsed() >= QUICK_STALL_AFTER, "too soon: {:?}", at.elapsed());
        let fault = fault(&agent, "io_stall", volume.device());
        assert_eq!(fault.check, "io_stall");

        // On a connection that stays open and on new ones, while the disk still hangs.
        answers_do_not_wait("/health while a disk hangs", 300, || {
            assert_eq!(agent.health("").status, 503);
            let fresh = Connection::open(agent.health_address()).unwrap().get("/health").unwrap();
            assert_eq!(fresh.status, 503);
        });
        assert!(!reader.is_finished());

        let at = Instant::now();
        drop(hang);
        reader.join().unwrap().unwrap();
        agent.wait_recovery(at, TIMEOUT);
    });
}

#[test]
fn slow_is_not_stalled() {
    const STALL_AFTER: Duration = Duration::from_secs(3);
    const READS: u64 = 15;
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::breakable(&sandbox, "vol", Filesystem::Ext4, "");
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("IO_STALL_AFTER", format!("{}s", STALL_AFTER.as_secs()));
    });
    let (device, name) = (volume.device().path(), volume.device().name());
    // A request is in flight all the time for longer than the limit, but never the same one. Each takes a tenth of the
    // limit, or more on a busy machine.
    volume.control().delay(Operation::Read, STALL_AFTER / 10, EVERYWHERE);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            (0..READS).for_each(|block| inject::read_block(&device, (32 + block) * MIB).unwrap());
        });
        loop {
            let health = agent.health("");
            let stalled = health.failure("io_stall");
            // The machine's own disks may be stalled for all that this test knows.
            assert!(!stalled.is_some_and(|reason| reason.contains(&name)), "{stalled:?}");
            if reader.is_finished() {
                break;
            }
        }
    });
    let faults = agent.faults();
    assert!(faults.iter().all(|fault| fault.device != volume.device().number()), "{faults:?}");
}

#[test]
fn a_hung_disk_does_not_keep_the_agent_from_ending() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::breakable(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let agent = Agent::start_with(&sandbox, quick_stalls);
    let device = volume.device().path();
    std::thread::scope(|scope| {
        let hang = hang_all(&volume);
        let at = Instant::now();
        let reader = scope.spawn(|| inject::read_block(&device, 32 * MIB));
        agent.wait_failure(at, "io_stall", &[]);
        assert_eq!(agent.terminate().code(), Some(0));
        drop(hang);
        reader.join().unwrap().unwrap();
    });
}
