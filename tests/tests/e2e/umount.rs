//! The agent never disturbs an operator who unmounts a failing filesystem.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::faulty_disk::{EVERYWHERE, Errno, Operation};
use e2e::sandbox::say;
use e2e::{Agent, Filesystem, LoopDevice, MIB, Mount, Sandbox, Volume, inject, require, sys};
use rustix::mount::MountFlags;

const ROUNDS: u32 = 20;

/// Makes writes fail, has the agent probe, unmounts while it does, and takes the device for itself as fsck and mkfs do.
fn umounts_while_probes_run(filesystem: Filesystem, is_container: bool) {
    if !require(filesystem.is_available(), "no such filesystem here") {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    let thread = rustix::thread::gettid().as_raw_nonzero();
    let agent = Agent::start_with(&sandbox, |command| {
        if is_container {
            // As a DaemonSet: the agent has a mount namespace of its own.
            command.env("MOUNT_TABLE", format!("/proc/{thread}/mountinfo"));
            sys::unshare_mounts_of(command);
        }
    });
    let (mut busy, mut longest) = (0, Duration::ZERO);
    let mut in_use = Vec::new();
    for round in 0..ROUNDS {
        let mut volume = Volume::breakable(&sandbox, &format!("vol{round}"), filesystem, "");
        inject::write_synced(&volume.path("before"), 4096).unwrap();
        let control = volume.control();
        control.delay(Operation::Flush, Duration::from_millis(50), EVERYWHERE);
        control.fail(Operation::Write, Errno::EIO, EVERYWHERE);
        inject::write_synced(&volume.path("file"), 4096).unwrap_err();
        // From the very beginning of a probe to its end.
        thread::sleep(Duration::from_millis(u64::from(round) * 3));
        let began = Instant::now();
        busy += u32::from(volume.unmount_only() > Duration::ZERO);
        longest = longest.max(began.elapsed());
        let began = Instant::now();
        let device = volume.device().path();
        while OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&device).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "the device is in use for ever");
        }
        if began.elapsed() > Duration::from_millis(10) {
            in_use.push(began.elapsed());
        }
    }
    say(&format!(
        "MEASURED {}: {ROUNDS} umounts, {busy} busy, longest {longest:?}, devices in use afterwards: {in_use:?}",
        sandbox.name()
    ));
    assert_eq!(busy, 0, "busy umounts");
    // An umount that comes while a probe creates its file leaves the rest to the probe. That takes microseconds, on a busy
    // machine some milliseconds.
    assert!(in_use.len() <= 2, "{in_use:?}");
    drop(agent);
}

#[test]
fn umount_of_a_failing_ext4_while_the_agent_probes_it() {
    umounts_while_probes_run(Filesystem::Ext4, false);
}

#[test]
fn umount_of_a_failing_xfs_while_the_agent_probes_it_from_a_container() {
    umounts_while_probes_run(Filesystem::Xfs, true);
}

#[test]
fn umount_of_a_failing_btrfs_while_the_agent_probes_it() {
    umounts_while_probes_run(Filesystem::Btrfs, false);
}

/// A file that is still open keeps the superblock, so mounting it again repairs nothing.
#[test]
fn a_broken_filesystem_that_is_unmounted_lazily_and_mounted_again_is_still_broken() {
    let Some(sandbox) = Sandbox::new() else { return };
    let device = LoopDevice::over(&sandbox.file("vol.img", 64 * MIB));
    Filesystem::Ext4.make(&device.path());
    let point = sandbox.path("vol");
    let mount =
        || Mount::new(&device.path(), &point, "ext4", MountFlags::empty(), "errors=continue");
    let first = mount();
    let agent = Agent::start(&sandbox);
    let at = inject::ext4_error(&device);
    agent.wait_failure(at, "io_errors", &[&device.name()]);
    let open = File::create(point.join("open")).unwrap();
    let at = Instant::now();
    drop(first); // A lazy umount.
    agent.wait_recovery(at, TIMEOUT);
    let at = Instant::now();
    let second = mount();
    agent.wait_failure(at, "io_errors", &[&device.name()]);
    drop(open);
    drop(second);
    let at = Instant::now();
    agent.wait_recovery(at, TIMEOUT);
    let _third = mount();
    thread::sleep(Duration::from_secs(1));
    assert_eq!(agent.health("").status, 200, "another superblock, with an old error");
}
