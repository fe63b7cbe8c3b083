//! Tests of the fixtures: each fault is what it says, and ends. No agent runs here: when one of these fails, the cause is
//! the machine or the fixture.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use e2e::faulty_disk::{EVERYWHERE, Errno, Operation};
use e2e::{Filesystem, LoopDevice, MIB, Sandbox, Volume, inject, mount, require};
use rustix::io::Errno as Rustix;

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn super_options(volume: &Volume) -> String {
    let line = mount::table_line(&volume.point_text()).unwrap();
    line.split(" - ").nth(1).unwrap().rsplit(' ').next().unwrap().to_owned()
}

fn in_flight(device: &LoopDevice) -> u64 {
    let text = fs::read_to_string(format!("/sys/block/{}/inflight", device.name())).unwrap();
    text.split_whitespace().map(|count| count.parse::<u64>().unwrap()).sum()
}

#[test]
fn the_mounts_of_a_sandbox_are_in_its_namespace_alone() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    let point = volume.point_text();
    let device = volume.device().path();
    assert!(mount::table_line(&point).is_some());
    let main_thread = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!main_thread.contains(&point));
    drop(volume);
    assert!(mount::table_line(&point).is_none());
    assert!(!device.exists(), "{} is still there", device.display());
    let directory = sandbox.path("");
    drop(sandbox);
    assert!(!directory.exists());
}

#[test]
fn a_panic_leaves_nothing_behind() {
    let (sender, receiver) = std::sync::mpsc::channel();
    if Sandbox::new().is_none() {
        return;
    }
    let broken = thread::spawn(move || {
        let sandbox = Sandbox::new().unwrap();
        let volume = Volume::breakable(&sandbox, "vol", Filesystem::Ext4, "");
        let _hang = volume.control().hang(Operation::Read, EVERYWHERE);
        sender.send((volume.device().path(), sandbox.path(""))).unwrap();
        let file = volume.device().path();
        thread::spawn(move || inject::read_block(&file, 8 * MIB));
        eventually("a read hangs", || volume.control().hanging() > 0);
        panic!("as planned");
    });
    assert!(broken.join().is_err());
    let (device, directory) = receiver.recv().unwrap();
    eventually("the device is gone", || !device.exists());
    assert!(!directory.exists());
}

#[test]
fn a_faulty_disk_fails_in_its_range_until_it_is_healed() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::breakable(&sandbox, "vol", Filesystem::Ext4WithoutJournal, "");
    let file = volume.path("file");
    inject::write_synced(&file, 64 * 4096).unwrap();
    let ranges = inject::ext4_ranges(volume.device(), "/file");
    let control = volume.control();

    control.fail(Operation::Write, Errno::EIO, ranges[0].clone());
    let error = inject::write_block(&file, 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Rustix::IO.raw_os_error()));
    control.heal();
    inject::write_block(&file, 0).unwrap();

    control.fail(Operation::Write, Errno::ENOSPC, ranges[0].clone());
    let error = inject::write_block(&file, 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Rustix::NOSPC.raw_os_error()));
    control.heal();

    control.fail(Operation::Read, Errno::EIO, ranges[0].clone());
    inject::read_block(&file, 0).unwrap_err();
    control.heal();
    inject::read_block(&file, 0).unwrap();

    control.fail(Operation::Flush, Errno::EIO, EVERYWHERE);
    fs::File::open(&file).unwrap().sync_all().unwrap_err();
    control.heal();
    inject::write_synced(&file, 4096).unwrap();
    assert!(control.failed() >= 4, "{}", control.failed());
    assert!(!super_options(&volume).contains("ro,"), "{}", super_options(&volume));
}

#[test]
fn a_hang_ends_with_its_guard() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::breakable(&sandbox, "vol", Filesystem::Ext4, "");
    let device = volume.device().path();
    thread::scope(|scope| {
        let hang = volume.control().hang(Operation::Read, EVERYWHERE);
        let reader = scope.spawn(|| inject::read_block(&device, 32 * MIB));
        eventually("a request is in flight", || in_flight(volume.device()) > 0);
        assert!(!reader.is_finished());
        drop(hang);
        reader.join().unwrap().unwrap();
    });
    assert_eq!(in_flight(volume.device()), 0);
}

#[test]
fn ext4_becomes_read_only_by_an_error_and_by_a_shutdown() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    inject::ext4_error(volume.device());
    assert_eq!(inject::ext4_errors(volume.device()), 1);
    fs::write(volume.path("x"), "x").unwrap_err();
    volume.unmount();
    volume.repair();
    volume.mount("errors=continue");
    fs::write(volume.path("x"), "x").unwrap();
    inject::ext4_error(volume.device());
    fs::write(volume.path("y"), "y").unwrap();
    // The count outlives the mount.
    volume.unmount();
    volume.mount("errors=remount-ro");
    assert_eq!(inject::ext4_errors(volume.device()), 1);
    fs::write(volume.path("z"), "z").unwrap();
    inject::shut_down(volume.point());
    fs::write(volume.path("x"), "x").unwrap_err();
}

#[test]
fn ext4_becomes_read_only_by_a_failed_journal_write() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::breakable(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    for range in inject::ext4_ranges(volume.device(), "<8>") {
        volume.control().fail(Operation::Write, Errno::EIO, range);
    }
    inject::write_synced(&volume.path("x"), 4096).unwrap_err();
    eventually("it cannot be written", || fs::write(volume.path("y"), "y").is_err());
}

#[test]
fn reconfigure_makes_read_only_and_writable() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    inject::reconfigure(volume.point(), "ro");
    assert!(super_options(&volume).starts_with("ro"), "{}", super_options(&volume));
    inject::reconfigure(volume.point(), "rw");
    assert!(super_options(&volume).starts_with("rw"), "{}", super_options(&volume));
}

#[test]
fn a_frozen_filesystem_stops_writers_and_has_no_request_in_flight() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    let file = volume.path("x");
    thread::scope(|scope| {
        let frozen = inject::freeze(volume.point());
        let writer = scope.spawn(|| fs::write(&file, "x"));
        thread::sleep(Duration::from_millis(100));
        assert!(!writer.is_finished());
        assert_eq!(in_flight(volume.device()), 0);
        drop(frozen);
        writer.join().unwrap().unwrap();
    });
}

#[test]
fn xfs_shuts_down_by_a_failed_log_write() {
    if !require(Filesystem::Xfs.is_available(), "no xfs here") {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::breakable(&sandbox, "vol", Filesystem::Xfs, "");
    volume.unmount();
    let log = inject::xfs_log(volume.device());
    volume.mount("");
    inject::write_synced(&volume.path("x"), 4096).unwrap();
    volume.control().fail(Operation::Write, Errno::EIO, log);
    inject::write_synced(&volume.path("y"), 4096).unwrap_err();
    eventually("it is shut down", || fs::metadata(volume.point()).is_err());
}

#[test]
fn btrfs_becomes_read_only_by_failed_writes() {
    if !require(Filesystem::Btrfs.is_available(), "no btrfs here") {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::breakable(&sandbox, "vol", Filesystem::Btrfs, "");
    volume.control().fail(Operation::Write, Errno::EIO, EVERYWHERE);
    fs::write(volume.path("y"), "").unwrap();
    inject::sync(volume.point()).unwrap_err();
    eventually("it is read-only", || super_options(&volume).starts_with("ro"));
}
