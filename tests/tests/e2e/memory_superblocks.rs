//! A fault outlives a restart of the agent for exactly as long as the superblock that has it.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::{TIMEOUT, run_cli};
use e2e::{Agent, Filesystem, LoopDevice, MIB, Mount, Sandbox, Volume, inject, mount};
use rustix::mount::MountFlags;

use crate::memory::Kept;

const OPTIONS: &str = "errors=continue";

/// The kernel's number of a mount.
fn mount_id(point: &Path) -> String {
    let line = mount::table_line(&point.to_string_lossy()).unwrap();
    line.split(' ').next().unwrap().to_owned()
}

/// Unmounts a volume, repairs it, and mounts it at the same place, under the same number of a mount if that can be had: the
/// kernel gives the lowest free one, and other tests mount, too.
fn repair(volume: &mut Volume) {
    let before = mount_id(volume.point());
    volume.unmount();
    volume.repair();
    for _ in 0..50 {
        volume.mount(OPTIONS);
        if mount_id(volume.point()) == before {
            return;
        }
        volume.unmount();
    }
    volume.mount(OPTIONS);
}

/// The devices with an open fault.
fn faulty(agent: &Agent) -> BTreeSet<String> {
    agent.faults().into_iter().map(|fault| fault.device_name).collect()
}

#[test]
fn a_fault_ends_with_a_repair_that_no_agent_saw_and_with_nothing_less() {
    let Some(sandbox) = Sandbox::new() else { return };
    let kept = Kept::new(&sandbox);
    let ext4 = |name| Volume::new(&sandbox, name, Filesystem::Ext4, OPTIONS);
    let (mut repaired, untouched, mut repaired_later) = (ext4("a"), ext4("b"), ext4("c"));
    let lazy = LoopDevice::over(&sandbox.file("lazy.img", 64 * MIB));
    Filesystem::Ext4.make(&lazy.path());
    let point = sandbox.path("lazy");
    let mount = || Mount::new(&lazy.path(), &point, "ext4", MountFlags::empty(), OPTIONS);
    let before = mount();
    let agent = kept.start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    for device in [repaired.device(), untouched.device(), &lazy] {
        inject::ext4_error(device);
        agent.wait_for("its fault", TIMEOUT, |agent| {
            faulty(agent).contains(&device.name()).then_some(())
        });
    }
    assert!(agent.terminate().success());

    repair(&mut repaired);
    // This error is counted, and nobody is there to see it.
    inject::ext4_error(repaired_later.device());
    repair(&mut repaired_later);
    // A lazy umount leaves the superblock for as long as a file on it is open: mounting it again repairs nothing.
    let open = File::create(point.join("open")).unwrap();
    drop(before);
    let after = mount();
    // An ext4 has written down by then what it found.
    thread::sleep(Duration::from_millis(1500));

    let agent = kept.start(&sandbox);
    let first = agent.health("");
    assert_eq!(first.status, 503, "{first:?}");
    let expected = BTreeSet::from([untouched.device().name(), lazy.name()]);
    assert_eq!(faulty(&agent), expected);
    // Nor does it come back with the next agent.
    assert!(agent.terminate().success());
    let agent = kept.start(&sandbox);
    assert_eq!(agent.health("").status, 503);
    assert_eq!(faulty(&agent), expected);

    // What is repaired is watched as before.
    let at = inject::ext4_error(repaired.device());
    agent.wait_failure(at, "io_errors", &[&repaired.device().name()]);
    drop((open, after));
    for volume in [&repaired, &untouched] {
        let id = agent.wait_for("its fault", TIMEOUT, |agent| {
            let mut faults = agent.faults().into_iter();
            faults.find(|fault| fault.device_name == volume.device().name()).map(|fault| fault.id)
        });
        let cleared = run_cli(&sandbox, &["faults", "clear", &id]);
        assert!(cleared.status.success(), "{cleared:?}");
    }
    agent.wait_recovery(Instant::now(), TIMEOUT);
}
