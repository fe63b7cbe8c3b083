//! `io_errors`: errors of a device, or of a filesystem that goes on after them, are 503 until the device is quiet.

use std::fs;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::{IO_ERROR_WINDOW, TIMEOUT, run_cli};
use e2e::faulty_disk::{EVERYWHERE, Errno, Operation};
use e2e::{
    Agent, FaultyDisk, Filesystem, LoopDevice, MIB, Mount, Sandbox, Volume, inject, require, tool,
};
use rustix::mount::MountFlags;
use tocsin_api::faults::Fault;

use crate::{fault, names};

const MEBIBYTE: usize = 1 << 20;

/// A filesystem with a file on a disk with fault injection, and the file's byte range on the device.
fn with_file(sandbox: &Sandbox, filesystem: Filesystem) -> (Volume, Range<u64>) {
    let volume = Volume::breakable(sandbox, "vol", filesystem, "");
    inject::write_synced(&volume.path("file"), MEBIBYTE).unwrap();
    let range = inject::ext4_ranges(volume.device(), "/file").remove(0);
    (volume, range)
}

/// One request to the device fails, and then none.
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
    assert_eq!(fault.check, "io_errors");
    assert_eq!(fault.errno.as_deref(), Some(name));
    assert_eq!(fault.mount_points, [point]);
    // The counters are read once a second.
    agent.wait_for("its count", TIMEOUT, |agent| {
        (agent.kernel_count(counter, volume.device().number()) >= 1).then_some(())
    });

    agent.wait_recovery(last, IO_ERROR_WINDOW + TIMEOUT);
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
    // Through the page cache: the application gets the error at fsync.
    inject::write_synced(&volume.path("file"), MEBIBYTE).unwrap_err();
    let last = Instant::now();
    volume.control().heal();
    let [device, point] = names(&volume);
    agent.wait_failure(at, "io_errors", &["EIO", &device, &point]);
    assert!(agent.health("").passed("filesystem_ro"));
    assert_eq!(inject::ext4_errors(volume.device()), 0, "ext4 has counted no error");
    agent.wait_recovery(last, IO_ERROR_WINDOW + TIMEOUT);
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
    loop {
        inject::read_block(&file, 0).unwrap_err();
        let passed = at.elapsed();
        assert_eq!(agent.health("").status, 503, "after {passed:?}");
        if passed > IO_ERROR_WINDOW * 2 {
            break;
        }
    }
    volume.control().heal();
    agent.wait_recovery(Instant::now(), IO_ERROR_WINDOW + TIMEOUT);
}

/// The kernel counts every error, however few of the events are sent to the agent.
#[test]
fn every_error_is_counted() {
    let Some(sandbox) = Sandbox::new() else { return };
    let (volume, range) = with_file(&sandbox, Filesystem::Ext4WithoutJournal);
    let agent = Agent::start(&sandbox);
    volume.control().fail(Operation::Read, Errno::EIO, range);
    let (file, number) = (volume.path("file"), volume.device().number());
    let mut seen = Vec::new();
    // A program does not run while another one on its CPU reads a map, which the kernel counts as missed; and in some
    // virtual machines not while the machine's own agent runs, which nothing counts. Both are rare.
    let exact = (0..5).any(|_| {
        let before = agent.kernel_count("block_read", number);
        let errors = inject::read_block_times(&file, 0, 5000);
        let end = Instant::now() + Duration::from_secs(3);
        let mut counted = 0;
        while counted != errors && Instant::now() < end {
            counted = agent.kernel_count("block_read", number) - before;
        }
        seen.push((errors, counted, agent.missed_events()));
        counted <= errors && errors <= counted + agent.missed_events()
    });
    assert!(exact, "(injected, counted, missed so far): {seen:?}");
    let is_close = |(errors, counted, _): &(u64, u64, u64)| {
        errors.checked_sub(*counted).is_some_and(|lost| lost < 10)
    };
    assert!(seen.iter().all(is_close), "{seen:?}");
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
    let open = fault(&agent, "filesystem_error", volume.device());
    assert_eq!(open.check, "io_errors");

    // The fault stays open after IO_ERROR_WINDOW: the filesystem is as inconsistent as before.
    thread::sleep(IO_ERROR_WINDOW + IO_ERROR_WINDOW / 2);
    assert_eq!(agent.health("").status, 503);
    assert_eq!(fault(&agent, "filesystem_error", volume.device()).opened, open.opened);

    let id = &*open.id;
    let output = run_cli(&sandbox, &["faults", "clear", id]);
    assert!(output.status.success(), "{output:?}");
    agent.wait_recovery(Instant::now(), TIMEOUT);
    // It is not open any more.
    assert!(!run_cli(&sandbox, &["faults", "clear", id]).status.success());

    // A new error opens a new fault.
    let at = inject::ext4_error(volume.device());
    agent.wait_failure(at, "io_errors", &[&device, &point]);
    let at = Instant::now();
    volume.unmount();
    agent.wait_recovery(at, TIMEOUT);
}

/// A btrfs with a copy of everything on another device goes on without one of them.
#[test]
fn a_failed_leg_of_a_btrfs_raid_is_a_member() {
    if !require(Filesystem::Btrfs.is_available(), "no btrfs here") {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    let disk = FaultyDisk::new(&sandbox, "disk", 256 * MIB);
    let legs =
        [LoopDevice::over(&sandbox.file("good.img", 256 * MIB)), LoopDevice::over(&disk.file())];
    let (good, bad) = (legs[0].path(), legs[1].path());
    let mut arguments = ["-q", "-f", "-d", "raid1", "-m", "raid1"].map(AsRef::as_ref).to_vec();
    arguments.extend([good.as_os_str(), bad.as_os_str()]);
    tool::run("mkfs.btrfs", &arguments);
    let options = format!("device={}", bad.display());
    let point = sandbox.path("vol");
    let _mount = Mount::new(&good, &point, "btrfs", MountFlags::empty(), &options);
    let agent = Agent::start(&sandbox);
    disk.control().fail(Operation::Write, Errno::EIO, EVERYWHERE);
    inject::write_synced(&point.join("file"), MEBIBYTE).unwrap();
    let fault = agent.wait_for("its fault", TIMEOUT, |agent| {
        agent.faults().into_iter().find(|fault| fault.device == legs[1].number())
    });
    assert_eq!((&*fault.kind, &*fault.scope), ("io_error", "member"), "{fault:?}");
    assert_eq!(agent.health("").status, 200);
    assert!(agent.faults().iter().all(|fault| fault.scope == "member"), "{:?}", agent.faults());
    disk.control().heal();
}

/// A read of the sector that failed decides, because what a read-only mount answers comes from memory.
#[test]
fn a_fault_below_a_read_only_mount_ends_when_the_sector_can_be_read() {
    let Some(sandbox) = Sandbox::new() else { return };
    let (mut volume, range) = with_file(&sandbox, Filesystem::Ext4WithoutJournal);
    volume.unmount();
    volume.mount_with(MountFlags::RDONLY, "");
    let agent = Agent::start(&sandbox);
    volume.control().fail(Operation::Read, Errno::EIO, range);
    let at = Instant::now();
    inject::read_block(&volume.path("file"), 0).unwrap_err();
    agent.wait_failure(at, "io_errors", &["EIO", &volume.device().name()]);
    // The file is not read again, and the root directory answers.
    thread::sleep(IO_ERROR_WINDOW * 3 / 2);
    assert_eq!(agent.health("").status, 503);
    volume.control().heal();
    agent.wait_recovery(Instant::now(), IO_ERROR_WINDOW * 2 + TIMEOUT);
}

/// The journal of an ext4 can be on a disk of its own, which no table names.
#[test]
fn an_error_of_an_external_journal_is_an_error_of_its_device() {
    let Some(sandbox) = Sandbox::new() else { return };
    let disk = FaultyDisk::new(&sandbox, "journal", 64 * MIB);
    let journal = LoopDevice::over(&disk.file());
    let data = LoopDevice::over(&sandbox.file("data.img", 64 * MIB));
    let (journal_path, data_path) = (journal.path(), data.path());
    let mkfs = |arguments: &[&std::ffi::OsStr]| tool::run("mkfs.ext4", arguments);
    let common = ["-q", "-F", "-b", "4096"].map(AsRef::as_ref);
    mkfs(
        &[&common[..], &["-O".as_ref(), "journal_dev".as_ref(), journal_path.as_os_str()]].concat(),
    );
    let device = format!("device={}", journal_path.display());
    mkfs(&[&common[..], &["-J".as_ref(), device.as_ref(), data_path.as_os_str()]].concat());
    let point = sandbox.path("vol");
    let options = format!("journal_path={},errors=remount-ro", journal_path.display());
    let _mount = Mount::new(&data_path, &point, "ext4", MountFlags::empty(), &options);
    let agent = Agent::start(&sandbox);
    disk.control().fail(Operation::Write, Errno::EIO, EVERYWHERE);
    let at = Instant::now();
    let _fails = inject::write_synced(&point.join("file"), 4096);
    agent.wait_for("a fault of the journal", TIMEOUT, |agent| {
        let is_journal = |fault: &Fault| fault.device == journal.number();
        agent.faults().iter().any(is_journal).then_some(())
    });
    assert_eq!(fault(&agent, "io_error", &journal).scope, "host");
    let point = point.to_string_lossy().into_owned();
    agent.wait_failure(at, "filesystem_ro", &[&data.name(), &point]);
    disk.control().heal();
}
