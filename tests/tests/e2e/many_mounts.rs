//! A table of 10,000 mounts, as on a node full of pods.

use std::collections::BTreeSet;
use std::fs;

use e2e::agent::PATIENCE;
use e2e::{Agent, Filesystem, Mount, Sandbox, Volume, inject};
use rustix::mount::MountFlags;

use crate::names;

const MOUNTS: usize = 10_000;

#[test]
fn ten_thousand_mounts() {
    let Some(sandbox) = Sandbox::new() else { return };
    // One parent for them all, which takes them with it when it goes.
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

    // Without an event of the kernel programs, and with one.
    let at = inject::reconfigure(volume.point(), "ro");
    agent.wait_failure(at, "filesystem_ro", &[&device, &point]);
    let at = inject::reconfigure(volume.point(), "rw");
    agent.wait_recovery(at, PATIENCE);
    let at = inject::ext4_error(volume.device());
    agent.wait_failure(at, "filesystem_ro", &[&device, &point]);
}

#[test]
fn one_filesystem_in_a_thousand_places() {
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
    assert!(reason.len() < 1000, "a reason is for people: {} bytes", reason.len());
    let faults = agent.faults();
    let kinds: BTreeSet<_> = faults.iter().map(|fault| fault["kind"].to_string()).collect();
    assert_eq!(kinds.len(), faults.len(), "each kind once: {faults:?}");
}
