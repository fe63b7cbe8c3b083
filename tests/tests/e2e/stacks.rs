//! What a filesystem stands on: devices that its line of the mount table does not name, layers of devices, and what of that
//! cannot be followed.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::{IO_ERROR_WINDOW, QUICK_STALL_AFTER, TIMEOUT, quick_stalls};
use e2e::faulty_disk::{EVERYWHERE, Errno, Operation};
use e2e::{
    Agent, FaultyDisk, Filesystem, LoopDevice, MIB, Mount, Sandbox, Volume, inject, require, sys,
    tool,
};
use rustix::mount::MountFlags;

use crate::fault;

const MEBIBYTE: usize = 1 << 20;

fn run(program: &str, arguments: &[&dyn AsRef<OsStr>]) {
    let arguments: Vec<&OsStr> = arguments.iter().map(|argument| (*argument).as_ref()).collect();
    tool::run(program, &arguments);
}

/// The log of an xfs can be on a disk of its own.
#[test]
fn a_stall_and_an_error_of_an_external_log_are_its_devices() {
    if !require(Filesystem::Xfs.is_available(), "no xfs here") {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    let disk = FaultyDisk::new(&sandbox, "log", 96 * MIB);
    let log = LoopDevice::over(&disk.file());
    let data = LoopDevice::over(&sandbox.file("data.img", 320 * MIB));
    let (log_path, data_path) = (log.path(), data.path());
    let options = format!("logdev={},size=64m", log_path.display());
    run("mkfs.xfs", &[&"-q", &"-f", &"-l", &options, &data_path]);
    let point = sandbox.path("vol");
    let options = format!("logdev={}", log_path.display());
    let _mount = Mount::new(&data_path, &point, "xfs", MountFlags::empty(), &options);
    inject::write_synced(&point.join("before"), 4096).unwrap();
    let agent = Agent::start_with(&sandbox, quick_stalls);
    assert_eq!(agent.health("").status, 200);
    let text = point.to_string_lossy().into_owned();

    let at = Instant::now();
    let hang = disk.control().hang(Operation::Write, EVERYWHERE);
    thread::scope(|scope| {
        let writer = scope.spawn(|| inject::write_synced(&point.join("waits"), 4096));
        agent.wait_failure(at, "io_stall", &[&log.name(), &text]);
        assert!(agent.faults().iter().all(|fault| fault.device == log.number()));
        let at = Instant::now();
        drop(hang);
        writer.join().unwrap().unwrap();
        agent.wait_recovery(at, TIMEOUT);
    });

    disk.control().fail(Operation::Write, Errno::EIO, EVERYWHERE);
    let at = Instant::now();
    let _fails = inject::write_synced(&point.join("after"), 4096);
    agent.wait_failure(at, "io_errors", &["EIO", &log.name(), &text]);
    agent.wait_failure(at, "filesystem_ro", &[&data.name(), &text]);
    assert_eq!(fault(&agent, "io_error", &log).scope, "host");
    disk.control().heal();
}

/// Overwrites every copy of this file's blocks on an unmounted device.
fn spoil(image: &Path, content: &[u8]) {
    let image = OpenOptions::new().read(true).write(true).open(image).unwrap();
    let mut block = vec![0; 4096];
    let length = image.metadata().unwrap().len();
    let mut spoiled = 0;
    for at in (0..length).step_by(4096) {
        image.read_exact_at(&mut block, at).unwrap();
        if block == content[..4096] {
            image.write_all_at(&[0xdb; 4096], at).unwrap();
            spoiled += 1;
        }
    }
    assert!(spoiled > 0, "the file is not there");
}

/// Reads a file from its disks in a process of its own; the number of that process chooses the leg.
fn read_from_disk(file: &Path) -> bool {
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", file.display())).args(["of=/dev/null", "bs=4k", "iflag=direct"]);
    dd.stderr(Stdio::null()).status().unwrap().success()
}

/// btrfs reads the other copy of a block whose checksum is wrong, and repairs the bad one.
#[test]
fn a_btrfs_that_repairs_a_leg_goes_on_and_one_that_cannot_does_not() {
    if !require(Filesystem::Btrfs.is_available(), "no btrfs here") {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    let images = ["a", "b"].map(|name| sandbox.file(&format!("{name}.img"), 256 * MIB));
    let legs = [LoopDevice::over(&images[0]), LoopDevice::over(&images[1])];
    let (first, second) = (legs[0].path(), legs[1].path());
    run("mkfs.btrfs", &[&"-q", &"-f", &"-d", &"raid1", &"-m", &"raid1", &first, &second]);
    let point = sandbox.path("vol");
    let options = format!("device={}", second.display());
    let mount = || Mount::new(&first, &point, "btrfs", MountFlags::empty(), &options);
    // All blocks are alike, and no others are.
    let content: Vec<u8> = (0..4096u32).map(|at| (at * 7 % 251) as u8).collect();
    let file = point.join("file");
    let mounted = mount();
    fs::write(&file, content.repeat(64)).unwrap();
    inject::sync(&point).unwrap();
    mounted.unmount();

    spoil(&images[1], &content);
    let mounted = mount();
    let agent = Agent::start(&sandbox);
    let leg = agent.wait_for("its fault", TIMEOUT, |agent| {
        assert!(read_from_disk(&file), "it is repaired");
        agent.faults().into_iter().next()
    });
    assert_eq!((&*leg.kind, &*leg.scope), ("io_error", "member"), "{leg:?}");
    assert!(leg.reason.contains("corrupted blocks"), "{leg:?}");
    assert_eq!(agent.health("").status, 200);
    let at = Instant::now();
    mounted.unmount();
    agent.wait_recovery(at, TIMEOUT);

    for image in &images {
        spoil(image, &content);
    }
    let _mounted = mount();
    agent.wait_for("the mount", TIMEOUT, |agent| agent.faults().is_empty().then_some(()));
    // A look at the statistics as they are.
    thread::sleep(Duration::from_millis(1500));
    let at = Instant::now();
    assert!(!read_from_disk(&file), "no copy is good");
    agent.wait_failure(at, "io_errors", &[&point.to_string_lossy(), "corrupted blocks"]);
}

/// A cgroup of the blkio controller, with a limit for one device; removed on drop.
struct Limit(std::path::PathBuf);

impl Limit {
    fn reads(device: &LoopDevice, bytes_per_second: u64) -> Option<Self> {
        let name = format!("tocsin-e2e-{}", std::process::id());
        let (old, new) = (Path::new("/sys/fs/cgroup/blkio"), Path::new("/sys/fs/cgroup"));
        let (root, file, text) = if old.exists() {
            let text = format!("{} {bytes_per_second}", device.number());
            (old, "blkio.throttle.read_bps_device", text)
        } else {
            let _on_already = fs::write(new.join("cgroup.subtree_control"), "+io");
            (new, "io.max", format!("{} rbps={bytes_per_second}", device.number()))
        };
        let own = root.join(name);
        fs::create_dir(&own).ok()?;
        let limit = Self(own);
        fs::write(limit.0.join(file), text).ok()?;
        Some(limit)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}

/// A limit that a cgroup has on the lower disk holds requests back above it, which is no fault of the host.
#[test]
fn an_io_limit_below_a_loop_device_is_no_stall() {
    let Some(sandbox) = Sandbox::new() else { return };
    let lower = Volume::new(&sandbox, "lower", Filesystem::Xfs, "");
    let image = lower.path("upper.img");
    File::create(&image).unwrap().set_len(64 * MIB).unwrap();
    let upper = LoopDevice::with(&image, sys::LOOP_DIRECT_IO);
    Filesystem::Ext4.make(&upper.path());
    let point = sandbox.path("upper");
    let _mount = Mount::new(&upper.path(), &point, "ext4", MountFlags::empty(), "");
    let file = point.join("file");
    inject::write_synced(&file, 2 * MEBIBYTE).unwrap();
    let limit = Limit::reads(lower.device(), 512 << 10);
    if !require(limit.is_some(), "no I/O limits of cgroups here") {
        return;
    }
    let limit = limit.unwrap();
    let agent = Agent::start_with(&sandbox, quick_stalls);
    assert_eq!(agent.health("").status, 200);
    // 2 MiB at 512 KiB a second, in one request.
    let read = format!(
        "echo $$ > {}/cgroup.procs && exec dd if={} of=/dev/null bs=2M count=1 iflag=direct",
        limit.0.display(),
        file.display()
    );
    let began = Instant::now();
    let mut reader = Command::new("sh").arg("-c").arg(read).stderr(Stdio::null()).spawn().unwrap();
    while reader.try_wait().unwrap().is_none() {
        assert_eq!(agent.health("").status, 200, "{:?}", agent.faults());
        thread::sleep(Duration::from_millis(20));
    }
    assert!(began.elapsed() > QUICK_STALL_AFTER * 2, "it was not held back");
    assert!(agent.faults().is_empty(), "{:?}", agent.faults());
}

/// Each is a `degraded` with its name, and no fault.
#[test]
fn what_cannot_be_followed_is_named() {
    let Some(sandbox) = Sandbox::new() else { return };
    let blind = Volume::new(&sandbox, "blind", Filesystem::Ext4, "");
    let iostats = format!("/sys/block/{}/queue/iostats", blind.device().name());
    fs::write(&iostats, "0").unwrap();
    let agent = Agent::start(&sandbox);
    let why = agent.wait_for("degraded", TIMEOUT, |agent| {
        agent.health("").degraded("io_stall").map(str::to_owned)
    });
    assert!(why.contains(&blind.device().name()) && why.contains("iostats"), "{why}");
    assert_eq!(agent.health("").status, 200);
    fs::write(&iostats, "1").unwrap();

    // A root that is on no disk, as in a virtual machine of Kata or with a root on NFS.
    let table = sandbox.path("mountinfo");
    let own = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    for (line, kind) in [
        ("22 1 0:21 / / rw,relatime - overlay overlay rw,lowerdir=/l", "overlay"),
        ("22 1 0:21 / / rw,relatime - 9p root rw,trans=virtio", "9p"),
        ("22 1 0:21 / / rw,relatime - virtiofs root rw", "virtiofs"),
    ] {
        let rest: Vec<_> = own.lines().filter(|line| line.split(' ').nth(4) != Some("/")).collect();
        fs::write(&table, format!("{line}\n{}\n", rest.join("\n"))).unwrap();
        let agent = Agent::start_with(&sandbox, |command| {
            command.env("MOUNT_TABLE", &table);
        });
        let health = agent.health("");
        assert_eq!(health.status, 200);
        let why = health.degraded("filesystem_ro").unwrap_or_default().to_owned();
        assert!(why.contains(kind) && why.contains("root filesystem"), "{why}");
    }
}

/// A btrfs can be mounted by a node that says nothing to others; its id leads to its devices all the same.
#[test]
fn a_btrfs_that_was_mounted_by_an_odd_node_is_followed() {
    if !require(Filesystem::Btrfs.is_available(), "no btrfs here") {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    // With two of them, neither is found because it is the only one that is left.
    let volumes = ["one", "two"].map(|name| {
        let mut volume = Volume::breakable(&sandbox, name, Filesystem::Btrfs, "");
        volume.unmount();
        let node = sandbox.path(format!("{name}.node"));
        let (major, minor) = volume.device().number().split_once(':').unwrap();
        run("mknod", &[&node, &"b", &major, &minor]);
        let mount = Mount::new(&node, volume.point(), "btrfs", MountFlags::empty(), "");
        fs::remove_file(&node).unwrap();
        (mount, volume)
    });
    let agent = Agent::start(&sandbox);
    let health = agent.health("");
    assert_eq!((health.status, health.degraded("io_errors")), (200, None));
    for (_, volume) in &volumes {
        volume.control().fail(Operation::Read, Errno::EIO, EVERYWHERE);
        inject::read_block(&volume.device().path(), 32 * MIB).unwrap_err();
        agent.wait_for("its fault", TIMEOUT, |agent| {
            let mut faults = agent.faults().into_iter();
            faults.find(|fault| fault.device_name == volume.device().name())
        });
        let error = fault(&agent, "io_error", volume.device());
        assert_eq!(error.mount_points, [volume.point_text()]);
        volume.control().heal();
    }
}

/// Two filesystems on the partitions of one disk: one that is shut down says nothing about the disk.
#[test]
fn an_error_of_a_disk_ends_beside_a_filesystem_that_is_shut_down() {
    let Some(sandbox) = Sandbox::new() else { return };
    let disk = FaultyDisk::new(&sandbox, "disk", 160 * MIB);
    let device = LoopDevice::over(&disk.file());
    let node = File::open(device.path()).unwrap();
    let parts = [(1, 1), (2, 80)].map(|(number, start)| {
        sys::add_partition(&node, number, start << 20, 72 << 20).unwrap();
        Path::new("/dev").join(format!("{}p{number}", device.name()))
    });
    let points = ["one", "two"].map(|name| sandbox.path(name));
    let _mounts: Vec<_> = parts
        .iter()
        .zip(&points)
        .map(|(part, point)| {
            Filesystem::Ext4.make(part);
            Mount::new(part, point, "ext4", MountFlags::empty(), "")
        })
        .collect();
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    let at = inject::shut_down(&points[1]);
    agent.wait_failure(at, "filesystem_ro", &[&points[1].to_string_lossy()]);
    disk.control().fail(Operation::Read, Errno::EIO, EVERYWHERE);
    let at = Instant::now();
    inject::read_block(&device.path(), 8 * MIB).unwrap_err();
    agent.wait_failure(at, "io_errors", &[&device.name()]);
    disk.control().heal();
    agent.wait_for("the end of the disk's fault", IO_ERROR_WINDOW * 2 + TIMEOUT, |agent| {
        let health = agent.health("");
        (health.passed("io_errors") && !health.passed("filesystem_ro")).then_some(())
    });
}
