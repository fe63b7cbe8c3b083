//! Large mount tables: 10,000 mounts, as on a node full of pods, and one filesystem with many mounts.

use std::collections::BTreeSet;
use std::fs;

use e2e::agent::TIMEOUT;
use e2e::{Agent, Filesystem, Mount, Sandbox, Volume, inject};
use rustix::mount::MountFlags;

use crate::names;

const MOUNTS: usize = 10_000;

#[test]
fn a_fault_is_found_among_ten_thousand_mounts() {
    let Some(sandbox) = Sandbox::new() else { return };
    // One parent for all of them: its unmount unmounts them too.
    let parent = sandbox.path("parent");
    let parent = Mount::new("tmpfs".as_ref(), &parent, "tmpfs", MountFlags::empty(), "mode=0755");
    for number in 0..MOUNTS {
        let point = parent.point().join(format!("mount-{number}"));
        fs::create_dir(&point).unwrap();
        rustix::mount::mount_bind(parent.point(), &point).unwrap();
    }
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    let [device, point] = names(&volume);

    // Without an event of a kernel program, and with one.
    let at = inject::reconfigure(volume.point(), "ro");
    agent.wait_failure(at, "filesystem_ro", &[&device, &point]);
    let at = inject::reconfigure(volume.point(), "rw");
    agent.wait_recovery(at, TIMEOUT);
    let at = inject::ext4_error(volume.device());
    agent.wait_failure(at, "filesystem_ro", &[&device, &point]);
}

#[test]
fn a_filesystem_with_a_thousand_mounts_is_one_fault_with_a_short_reason() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let parent = sandbox.path("parent");
    let parent = Mount::new("tmpfs".as_ref(), &parent, "tmpfs", MountFlags::empty(), "mode=0755");
    for number in 0..1000 {
        let point = parent.point().join(format!("mount-{number}"));
        fs::create_dir(&point).unwrap();
        rustix::mount::mount_bind(volume.point(), &point).unwrap();
    }
    let agent = Agent::start(&sandbox);
    let at = inject::ext4_error(volume.device());
    let reason = agent.wait_failure(at, "filesystem_ro", &[&volume.device().name()]);
    assert!(reason.len() < 1000, "the reason has {} bytes", reason.len());
    let faults = agent.faults();
    let kinds: BTreeSet<_> = faults.iter().map(|fault| fault.kind.clone()).collect();
    assert_eq!(kinds.len(), faults.len(), "each kind once: {faults:?}");
}
