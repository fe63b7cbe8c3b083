//! Errors of a device, or of a filesystem that goes on: 503 with errno and device, 200 once it is quiet.

use std::fs;
use std::ops::Range;
use std::time::{Duration, Instant};

use e2e::agent::{IO_ERROR_WINDOW, PATIENCE, run_cli};
use e2e::faultfs::{EVERYWHERE, Errno, Operation};
use e2e::{Agent, Filesystem, Sandbox, Volume, inject};

use crate::{fault, names};

const MEBIBYTE: usize = 1 << 20;

/// A mounted filesystem with a file on a disk that can be broken, and where the file lies.
fn with_file(sandbox: &Sandbox, filesystem: Filesystem) -> (Volume, Range<u64>) {
    let volume = Volume::breakable(sandbox, "vol", filesystem, "");
    inject::write_synced(&volume.path("file"), MEBIBYTE).unwrap();
    let range = inject::ext4_ranges(volume.device(), "/file").remove(0);
    (volume, range)
}

/// One failed request of the device, and then silence.
fn one_failure(operation: Operation, errno: Errno, name: &str, counter: &str) {
    let Some(sandbox) = Sandbox::new() else { return };
    let (volume, range) = with_file(&sandbox, Filesystem::Ext4WithoutJournal);
    let range = if operation == Operation::Flush { EVERYWHERE } else { range };
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200);

    volume.control().fail(operation, errno, range);
    let at = Instant::now();
    let file = volume.path("file");
    match operation {
        Operation::Read => inject::read_block(&file, 0).unwrap_err(),
        Operation::Flush => fs::File::open(&file).unwrap().sync_all().unwrap_err(),
        Operation::Write | Operation::Discard => inject::write_block(&file, 0).unwrap_err(),
        Operation::Statfs => unreachable!("no request of a block device"),
    };
    let last = Instant::now();
    volume.control().heal();

    let [device, point] = names(&volume);
    agent.wait_failure(at, "io_errors", &[name, &device, &point]);
    assert!(agent.health("").passed("filesystem_ro"), "it can still be written");
    let fault = fault(&agent, "io_error", volume.device());
    assert_eq!(fault["check"], "io_errors");
    assert_eq!(fault["errno"], name);
    assert_eq!(fault["mount_points"], serde_json::json!([point]));
    // The counters are read once a second.
    agent.wait_for("its count", PATIENCE, |agent| {
        (agent.count(counter, volume.device().number()) >= 1).then_some(())
    });

    agent.wait_recovery(last, IO_ERROR_WINDOW + PATIENCE);
    assert!(at.elapsed() >= IO_ERROR_WINDOW, "too soon: {:?}", at.elapsed());
}

#[test]
fn block_write_eio() {
    one_failure(Operation::Write, Errno::EIO, "EIO", "block_write");
}

#[test]
fn block_write_enospc() {
    one_failure(Operation::Write, Errno::ENOSPC, "ENOSPC", "block_write");
}

#[test]
fn block_read_eio() {
    one_failure(Operation::Read, Errno::EIO, "EIO", "block_read");
}

#[test]
fn block_flush_eio() {
    one_failure(Operation::Flush, Errno::EIO, "EIO", "block_flush");
}

#[test]
fn a_data_write_eio_that_spares_the_journal() {
    let Some(sandbox) = Sandbox::new() else { return };
    let (volume, range) = with_file(&sandbox, Filesystem::Ext4);
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    volume.control().fail(Operation::Write, Errno::EIO, range);
    let at = Instant::now();
    // Through the page cache: the application hears of it at fsync, if it asks.
    inject::write_synced(&volume.path("file"), MEBIBYTE).unwrap_err();
    let last = Instant::now();
    volume.control().heal();
    let [device, point] = names(&volume);
    agent.wait_failure(at, "io_errors", &["EIO", &device, &point]);
    assert!(agent.health("").passed("filesystem_ro"));
    assert_eq!(inject::ext4_errors(volume.device()), 0, "ext4 itself is fine");
    agent.wait_recovery(last, IO_ERROR_WINDOW + PATIENCE);
}

#[test]
fn errors_that_go_on_keep_the_fault_open() {
    let Some(sandbox) = Sandbox::new() else { return };
    let (volume, range) = with_file(&sandbox, Filesystem::Ext4WithoutJournal);
    let agent = Agent::start(&sandbox);
    volume.control().fail(Operation::Read, Errno::EIO, range);
    let file = volume.path("file");
    let at = Instant::now();
    inject::read_block(&file, 0).unwrap_err();
    agent.wait_failure(at, "io_errors", &["EIO"]);
    while at.elapsed() < IO_ERROR_WINDOW * 2 {
        inject::read_block(&file, 0).unwrap_err();
        assert_eq!(agent.health("").status, 503, "after {:?}", at.elapsed());
    }
    volume.control().heal();
    agent.wait_recovery(Instant::now(), IO_ERROR_WINDOW + PATIENCE);
}

/// However few of them the agent is told of.
#[test]
fn every_error_is_counted() {
    let Some(sandbox) = Sandbox::new() else { return };
    let (volume, range) = with_file(&sandbox, Filesystem::Ext4WithoutJournal);
    let agent = Agent::start(&sandbox);
    volume.control().fail(Operation::Read, Errno::EIO, range);
    let (file, number) = (volume.path("file"), volume.device().number());
    let mut seen = Vec::new();
    // A program does not run while somebody reads a map on its CPU, which the kernel counts as missed; and
    // in some virtual machines not on top of the machine's own agent, which nobody counts. Both are rare.
    let exact = (0..5).any(|_| {
        let before = agent.count("block_read", number);
        let errors = inject::read_block_times(&file, 0, 5000);
        let end = Instant::now() + Duration::from_secs(3);
        let mut counted = 0;
        while counted != errors && Instant::now() < end {
            counted = agent.count("block_read", number) - before;
        }
        seen.push((errors, counted, agent.missed()));
        counted <= errors && errors <= counted + agent.missed()
    });
    assert!(exact, "(injected, counted, missed so far): {seen:?}");
    assert!(seen.iter().all(|(errors, counted, _)| errors - counted < 10), "{seen:?}");
}

#[test]
fn ext4_continue_is_cleared_by_an_operator_or_by_unmounting() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=continue");
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    let [device, point] = names(&volume);

    let at = inject::ext4_error(volume.device());
    agent.wait_failure(at, "io_errors", &[&device, &point]);
    assert!(agent.health("").passed("filesystem_ro"), "it can still be written");
    fs::write(volume.path("file"), "x").unwrap();
    let fault_ = fault(&agent, "filesystem_error", volume.device());
    assert_eq!(fault_["check"], "io_errors");

    // It does not go away by being old: the filesystem is still as wrong as it was.
    let deadline = Instant::now() + IO_ERROR_WINDOW + IO_ERROR_WINDOW / 2;
    while Instant::now() < deadline {
        assert_eq!(agent.health("").status, 503);
    }

    let id = fault_["id"].as_str().unwrap();
    let output = run_cli(&sandbox, &["faults", "clear", id]);
    assert!(output.status.success(), "{output:?}");
    agent.wait_recovery(Instant::now(), PATIENCE);
    // The answer to a second time is plain too.
    assert!(!run_cli(&sandbox, &["faults", "clear", id]).status.success());

    // A clear is about the past.
    let at = inject::ext4_error(volume.device());
    agent.wait_failure(at, "io_errors", &[&device, &point]);
    let at = Instant::now();
    volume.unmount();
    agent.wait_recovery(at, PATIENCE);
}
