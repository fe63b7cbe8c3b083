//! `filesystem_ro`: a filesystem that can no longer be written is 503 until it is repaired or unmounted.

use std::fs;
use std::time::Instant;

use e2e::agent::TIMEOUT;
use e2e::faulty_disk::{EVERYWHERE, Errno, Operation};
use e2e::sandbox::say;
use e2e::{Agent, Filesystem, Sandbox, Volume, inject, require, tool};

use crate::{fault, names};

/// Waits for the verdict, and checks the fault behind it.
fn expect_lost(agent: &Agent, volume: &Volume, since: Instant) {
    let [device, point] = names(volume);
    agent.wait_failure(since, "filesystem_ro", &[&device, &point]);
    let fault = fault(agent, "filesystem_ro", volume.device());
    assert_eq!(fault.check, "filesystem_ro");
    assert_eq!(fault.filesystem, volume.filesystem().kind());
    assert_eq!(fault.mount_points, [point]);
    assert_eq!(fault.scope, "host");
}

#[test]
fn ext4_remount_ro_by_a_triggered_error() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    let at = inject::ext4_error(volume.device());
    expect_lost(&agent, &volume, at);
    // The verdict comes from a probe; the fault of the event that led to the probe has the kernel's time.
    let event = fault(&agent, "filesystem_error", volume.device());
    assert!(event.kernel_ns.is_some(), "{event:?}");

    volume.unmount();
    volume.repair();
    let at = Instant::now();
    volume.mount("errors=remount-ro");
    agent.wait_recovery(at, TIMEOUT);
}

#[test]
fn ext4_remount_ro_by_a_corrupt_directory() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    fs::create_dir(volume.path("victim")).unwrap();
    volume.unmount();
    inject::ext4_wipe_inode(volume.device(), "/victim");
    volume.mount("errors=remount-ro");
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200, "the directory has not been read yet");
    let at = Instant::now();
    fs::metadata(volume.path("victim")).unwrap_err();
    expect_lost(&agent, &volume, at);

    volume.unmount();
    volume.repair();
    let at = Instant::now();
    volume.mount("errors=remount-ro");
    agent.wait_recovery(at, TIMEOUT);
}

#[test]
fn ext4_remount_ro_by_a_journal_write_error() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::breakable(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let journal = inject::ext4_ranges(volume.device(), "<8>");
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    for range in journal {
        volume.control().fail(Operation::Write, Errno::EIO, range);
    }
    let at = Instant::now();
    // One write, and then none: the agent has to find by itself that the journal has been aborted.
    inject::write_synced(&volume.path("file"), 4096).unwrap_err();
    expect_lost(&agent, &volume, at);

    volume.control().heal();
    volume.unmount();
    volume.repair();
    let at = Instant::now();
    volume.mount("errors=remount-ro");
    agent.wait_recovery(at, TIMEOUT);
}

/// A shutdown by ioctl, as a driver does on an error that it cannot handle; the fault ends with the unmount.
fn shut_down(filesystem: Filesystem) {
    if !require(filesystem.is_available(), &format!("no {} here", filesystem.kind())) {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "vol", filesystem, "");
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    let at = inject::shut_down(volume.point());
    expect_lost(&agent, &volume, at);

    let at = Instant::now();
    volume.unmount();
    agent.wait_recovery(at, TIMEOUT);
}

#[test]
fn ext4_shutdown() {
    shut_down(Filesystem::Ext4);
}

#[test]
fn xfs_shutdown() {
    shut_down(Filesystem::Xfs);
}

#[test]
fn xfs_log_write_error() {
    if !require(Filesystem::Xfs.is_available(), "no xfs here") {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::breakable(&sandbox, "vol", Filesystem::Xfs, "");
    volume.unmount();
    let log = inject::xfs_log(volume.device());
    volume.mount("");
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    volume.control().fail(Operation::Write, Errno::EIO, log);
    let at = Instant::now();
    inject::write_synced(&volume.path("file"), 4096).unwrap_err();
    expect_lost(&agent, &volume, at);

    volume.control().heal();
    let at = Instant::now();
    volume.unmount();
    agent.wait_recovery(at, TIMEOUT);
}

#[test]
fn btrfs_forced_read_only() {
    if !require(Filesystem::Btrfs.is_available(), "no btrfs here") {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::breakable(&sandbox, "vol", Filesystem::Btrfs, "");
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    volume.control().fail(Operation::Write, Errno::EIO, EVERYWHERE);
    let at = Instant::now();
    fs::write(volume.path("file"), "").unwrap();
    inject::sync(volume.point()).unwrap_err();
    expect_lost(&agent, &volume, at);

    volume.control().heal();
    let at = Instant::now();
    volume.unmount();
    agent.wait_recovery(at, TIMEOUT);
}

#[test]
fn remount_ro_and_rw_by_an_administrator() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    let mount = |options: &str| {
        let at = Instant::now();
        tool::run("mount", &["-o".as_ref(), options.as_ref(), volume.point().as_os_str()]);
        at
    };
    let at = mount("remount,ro");
    expect_lost(&agent, &volume, at);
    let at = mount("remount,rw");
    agent.wait_recovery(at, TIMEOUT);
}

#[test]
fn remount_ro_and_rw_through_fsconfig() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    let at = inject::reconfigure(volume.point(), "ro");
    expect_lost(&agent, &volume, at);
    let at = inject::reconfigure(volume.point(), "rw");
    agent.wait_recovery(at, TIMEOUT);
}

/// With `MOUNT_HOOKS=syscalls`, the remount is an event, which does not wait for the periodic look at the mount table.
#[test]
fn syscall_hooks_see_a_remount_by_fsconfig() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    let agent = Agent::start_with(&sandbox, |agent| {
        agent.env("MOUNT_HOOKS", "syscalls").env("REREAD_INTERVAL", "1s");
    });
    let page = agent.faults_page();
    let of_mounts = page.hooks.iter().filter(|hook| hook.name.starts_with("syscalls:"));
    assert!(of_mounts.clone().count() >= 5, "{:?}", page.hooks);
    assert!(of_mounts.clone().all(|hook| hook.state == "attached"), "{:?}", page.hooks);
    let at = inject::reconfigure(volume.point(), "ro");
    expect_lost(&agent, &volume, at);
    let before = agent.kernel_count("mount_change", "0:0");
    assert!(before > 0, "no event");
    let at = inject::reconfigure(volume.point(), "rw");
    agent.wait_recovery(at, TIMEOUT);
    assert!(agent.kernel_count("mount_change", "0:0") > before);
}

/// An operator who unmounts the filesystem of a fault does not find it busy, although the agent probes it.
#[test]
fn a_probe_does_not_keep_a_mount_busy() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=continue");
    let agent = Agent::start(&sandbox);
    let mut busy = Vec::new();
    for _ in 0..20 {
        let at = inject::ext4_error(volume.device());
        agent.wait_failure(at, "io_errors", &[&volume.device().name()]);
        let time = volume.unmount();
        if !time.is_zero() {
            busy.push(time);
        }
        volume.mount("errors=continue");
        agent.wait_for("200", TIMEOUT, |agent| (agent.health("").status == 200).then_some(()));
    }
    say(&format!("MEASURED {}: busy {} times of 20: {busy:?}", sandbox.name(), busy.len()));
    assert!(busy.is_empty(), "{busy:?}");
}

#[test]
fn a_filesystem_with_two_mounts_is_one_fault_with_two_mount_points() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let second = e2e::Mount::bind(volume.point(), &sandbox.path("second"));
    let agent = Agent::start(&sandbox);
    let at = inject::ext4_error(volume.device());
    let [device, point] = names(&volume);
    agent.wait_failure(at, "filesystem_ro", &[&device, &point]);
    let fault = fault(&agent, "filesystem_ro", volume.device());
    let second = second.point().to_string_lossy().into_owned();
    assert_eq!(fault.mount_points, [point, second]);
}
