//! I/O that never completes: 503 after `IO_STALL_AFTER`, from an agent that itself never waits for a disk.

use std::time::{Duration, Instant};

use e2e::agent::{IO_STALL_AFTER, PATIENCE};
use e2e::faultfs::{EVERYWHERE, Hang, Operation};
use e2e::http::Connection;
use e2e::sandbox::say;
use e2e::{Agent, Filesystem, MIB, Sandbox, Volume, inject};

use crate::{fault, names};

/// Nothing that reaches the disk is answered any more.
pub(crate) fn hang_all(volume: &Volume) -> [Hang; 4] {
    let every = [Operation::Read, Operation::Write, Operation::Flush, Operation::Discard];
    every.map(|operation| volume.control().hang(operation, EVERYWHERE))
}

#[test]
fn io_that_never_completes() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::breakable(&sandbox, "vol", Filesystem::Ext4, "");
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    let device = volume.device().path();
    std::thread::scope(|scope| {
        let hang = hang_all(&volume);
        let at = Instant::now();
        let reader = scope.spawn(|| inject::read_block(&device, 32 * MIB));
        let [name, point] = names(&volume);
        agent.wait_failure(at, "io_stall", &[&name, &point]);
        assert!(at.elapsed() >= IO_STALL_AFTER, "too soon: {:?}", at.elapsed());
        let fault = fault(&agent, "io_stall", volume.device());
        assert_eq!(fault["check"], "io_stall");

        // Kept open and fresh connections alike, while the disk still hangs.
        let mut slowest = Duration::ZERO;
        for _ in 0..300 {
            let start = Instant::now();
            assert_eq!(agent.health("").status, 503);
            slowest = slowest.max(start.elapsed());
            let start = Instant::now();
            let answer = Connection::open(agent.health_address()).unwrap().get("/health").unwrap();
            assert_eq!(answer.status, 503);
            slowest = slowest.max(start.elapsed());
        }
        say(&format!("MEASURED {}: slowest /health while hung {slowest:?}", sandbox.name()));
        assert!(slowest < Duration::from_millis(50), "{slowest:?}");
        assert!(!reader.is_finished());

        let at = Instant::now();
        drop(hang);
        reader.join().unwrap().unwrap();
        agent.wait_recovery(at, PATIENCE);
    });
}

#[test]
fn slow_is_not_stalled() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::breakable(&sandbox, "vol", Filesystem::Ext4, "");
    let agent = Agent::start(&sandbox);
    let device = volume.device().path();
    // Something is in flight all the time for three times the limit, but it moves.
    volume.control().delay(Operation::Read, IO_STALL_AFTER / 4, EVERYWHERE);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            (0..12).for_each(|block| inject::read_block(&device, (32 + block) * MIB).unwrap());
        });
        while !reader.is_finished() {
            assert_eq!(agent.health("").status, 200);
        }
    });
    assert!(agent.faults().is_empty());
}

#[test]
fn a_hung_disk_does_not_keep_the_agent_from_ending() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::breakable(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let agent = Agent::start(&sandbox);
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
