//! The check `mounts`, and what the operator ignores.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Instant;

use e2e::agent::TIMEOUT;
use e2e::{Agent, Filesystem, Sandbox, Volume, inject};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::fault;

/// The UUID of an ext4, from its superblock (`s_uuid` in fs/ext4/ext4.h).
fn uuid_of(device: &std::path::Path) -> String {
    let bytes = fs::read(device).unwrap();
    let uuid = bytes[1024 + 0x68..][..16].try_into().map(u128::from_be_bytes).unwrap();
    let uuid = format!("{uuid:032x}");
    [&uuid[..8], &uuid[8..12], &uuid[12..16], &uuid[16..20], &uuid[20..]].join("-")
}

#[test]
fn a_required_mount_that_is_missing_or_of_another_device() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "data", Filesystem::Ext4, "");
    let other = Volume::new(&sandbox, "other", Filesystem::Ext4, "");
    let (point, device) = (volume.point_text(), volume.device().path());
    let share = sandbox.path("share");
    fs::create_dir(&share).unwrap();
    mount("export:/share", &share, "tmpfs", MountFlags::empty(), None).unwrap();
    // As udev would.
    let uuid = uuid_of(&device);
    let links = sandbox.path("by-uuid");
    fs::create_dir(&links).unwrap();
    symlink(&device, links.join(&uuid)).unwrap();
    mount("tmpfs", "/dev/disk", "tmpfs", MountFlags::empty(), None)
        .or_else(|_| {
            fs::create_dir_all("/dev/disk")?;
            Ok::<_, std::io::Error>(mount(
                "tmpfs",
                "/dev/disk",
                "tmpfs",
                MountFlags::empty(),
                None,
            )?)
        })
        .unwrap();
    symlink(&links, "/dev/disk/by-uuid").unwrap();

    let required = format!("{point}={uuid}, {}=export:/share ,/", share.display());
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("REQUIRE_MOUNTS", required);
    });
    let health = agent.health("");
    assert!(health.check("mounts").is_some_and(|check| check.degraded.is_none()), "{health:?}");
    assert_eq!(health.status, 200);

    let at = Instant::now();
    volume.unmount();
    agent.wait_failure(at, "mounts", &[&point, "is not mounted"]);
    assert_eq!(agent.metric("tocsin_check_passed{check=\"mounts\"}"), Some(0.0));
    // Another disk at the same place is not what is required.
    let at = Instant::now();
    mount(other.device().path(), &point, "ext4", MountFlags::empty(), None).unwrap();
    agent.wait_failure(at, "mounts", &[&point, &other.device().name(), &uuid]);
    unmount(&point, UnmountFlags::empty()).unwrap();
    mount(&device, &point, "ext4", MountFlags::empty(), None).unwrap();
    agent.wait_recovery(at, TIMEOUT);

    // A mount without a disk counts too.
    let at = Instant::now();
    unmount(&share, UnmountFlags::empty()).unwrap();
    agent.wait_failure(at, "mounts", &[&share.display().to_string(), "is not mounted"]);
    unmount(&point, UnmountFlags::empty()).unwrap();
    unmount("/dev/disk", UnmountFlags::empty()).unwrap();
}

#[test]
fn what_the_operator_ignores_is_shown_and_fails_nothing() {
    let Some(sandbox) = Sandbox::new() else { return };
    let by_mount = Volume::new(&sandbox, "scratch", Filesystem::Ext4, "errors=remount-ro");
    let by_device = Volume::new(&sandbox, "stick", Filesystem::Ext4, "errors=remount-ro");
    let snapshots = sandbox.path("io.containerd.runtime.v2.task/k8s.io/5d1c");
    fs::create_dir_all(&snapshots).unwrap();
    let container = "io.containerd.runtime.v2.task/k8s.io/5d1c/rootfs";
    let container = Volume::new(&sandbox, container, Filesystem::Ext4, "errors=remount-ro");
    let counted = Volume::new(&sandbox, "data", Filesystem::Ext4, "errors=remount-ro");
    let agent = Agent::start_with(&sandbox, |command| {
        command
            .env("IGNORE_MOUNTS", format!("{}*", by_mount.point_text()))
            .env("IGNORE_DEVICES", by_device.device().name());
    });
    for (volume, scope) in [(&by_mount, "ignored"), (&by_device, "ignored"), (&container, "volume")]
    {
        inject::ext4_error(volume.device());
        agent.wait_for("the fault", TIMEOUT, |agent| {
            let number = volume.device().number();
            let faults = agent.faults().into_iter();
            let mut of = faults.filter(|fault| fault.device == number);
            of.any(|fault| fault.kind == "filesystem_ro").then_some(())
        });
        assert_eq!(fault(&agent, "filesystem_ro", volume.device()).scope, scope);
        assert_eq!(agent.health("").status, 200);
    }
    let at = inject::ext4_error(counted.device());
    agent.wait_failure(at, "filesystem_ro", &[&counted.point_text()]);
}
