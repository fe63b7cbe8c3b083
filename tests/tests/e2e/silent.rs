//! What looks like trouble and is none: 200 throughout, and not one fault, with all of it happening
//! before the eyes of one agent.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use e2e::faultfs::{EVERYWHERE, Errno, Operation};
use e2e::http::Connection;
use e2e::sandbox::say;
use e2e::{Agent, Filesystem, LoopDevice, MIB, Mount, Sandbox, Volume, inject, require, sys, tool};
use rustix::mount::MountFlags;

/// Longer than the other tests have it: the healthy I/O below is heavy.
const STALL_AFTER: Duration = Duration::from_secs(2);

#[test]
fn all_of_it_together() {
    let Some(sandbox) = Sandbox::new() else { return };
    // Before the agent starts: read-only on purpose, and an old error.
    let mut read_only = Volume::new(&sandbox, "ro-before", Filesystem::Ext4, "");
    read_only.unmount();
    read_only.mount_with(MountFlags::RDONLY, "");
    let before = remembers_an_error(&sandbox, "old-before");
    let mut after = remembers_an_error(&sandbox, "old-after");
    after.unmount();
    let full = Volume::new(&sandbox, "full", Filesystem::Ext4, "");
    let mut healthy = Volume::new(&sandbox, "healthy", Filesystem::Ext4, "");
    let thin = Volume::breakable(&sandbox, "thin", Filesystem::Ext4, "");

    let agent = Agent::start_with(&sandbox, |command| {
        command.env("IO_STALL_AFTER", format!("{}s", STALL_AFTER.as_secs()));
    });
    let done = AtomicBool::new(false);
    let address = agent.health_address();
    thread::scope(|scope| {
        // Stops the watcher when this closure ends, by a panic too.
        let _watch = StopOnDrop(&done);
        let watcher = scope.spawn(|| watch(address, &done));

        let write_zeroes = sandbox.file("zeroes.img", 64 * MIB);
        let write_zeroes = LoopDevice::over(&write_zeroes);
        Filesystem::Ext4.make(&write_zeroes.path());

        discard_unsupported(&thin);
        read_beyond_the_end(&sandbox);
        squashfs(&sandbox);
        read_only_on_purpose(&sandbox);
        after.mount("errors=remount-ro");
        still_writable(&before);
        still_writable(&after);
        fill(&full);
        freeze(&healthy);
        work_hard(&healthy);
        healthy.unmount();

        // The slow look (1 s) has to come by once more, after everything.
        let quiet = Instant::now() + Duration::from_millis(1500);
        agent.wait_for("some time", Duration::from_secs(10), |_| {
            (Instant::now() > quiet || watcher.is_finished()).then_some(())
        });
        assert!(agent.faults().is_empty(), "{}", agent.faults_page());
        // It was not silent for being deaf.
        assert!(agent.count("block_zeroes", write_zeroes.number()) > 0, "{}", agent.faults_page());
        assert!(
            agent.count("block_discard", thin.device().number()) > 0,
            "{}",
            agent.faults_page()
        );
        done.store(true, Ordering::Relaxed);
        let answers = watcher.join().unwrap();
        say(&format!("MEASURED {}: {answers} answers, all of them 200", sandbox.name()));
    });
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks without a pause; every answer has to be 200.
fn watch(address: SocketAddr, done: &AtomicBool) -> u64 {
    let mut connection = Connection::open(address).unwrap();
    let mut answers = 0;
    while !done.load(Ordering::Relaxed) {
        let answer = connection.get("/health").unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        answers += 1;
    }
    answers
}

/// An ext4 that had an error, was mounted again without e2fsck, and can be written.
fn remembers_an_error(sandbox: &Sandbox, name: &str) -> Volume {
    let mut volume = Volume::new(sandbox, name, Filesystem::Ext4, "errors=remount-ro");
    inject::ext4_error(volume.device());
    volume.unmount();
    volume.mount("errors=remount-ro");
    volume
}

fn still_writable(volume: &Volume) {
    assert!(inject::ext4_errors(volume.device()) > 0);
    inject::write_synced(&volume.path("file"), 4096).unwrap();
}

fn discard_unsupported(thin: &Volume) {
    thin.control().fail(Operation::Discard, Errno::EOPNOTSUPP, EVERYWHERE);
    // Depending on the version it is told of the refusal or not; the device is told in any case.
    let _refused = tool::output("fstrim", &[thin.point()]);
    thin.control().heal();
}

/// A disk whose end is missing, read through the page cache, which reads ahead. Nobody mounted it.
fn read_beyond_the_end(sandbox: &Sandbox) {
    let backing = sandbox.file("short.img", 16 * MIB);
    let device = LoopDevice::over(&backing);
    OpenOptions::new().write(true).open(&backing).unwrap().set_len(8 * MIB).unwrap();
    // Before 6.12 the missing part reads as zeroes.
    let _failed = fs::read(device.path());
}

fn squashfs(sandbox: &Sandbox) {
    let known = fs::read_to_string("/proc/filesystems").unwrap().contains("squashfs");
    if !require(known && tool::is_installed("mksquashfs"), "no squashfs here") {
        return;
    }
    let (tree, image) = (sandbox.path("tree"), sandbox.path("image.squashfs"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "x").unwrap();
    let arguments =
        [tree.as_os_str(), image.as_os_str(), "-quiet".as_ref(), "-no-progress".as_ref()];
    tool::run("mksquashfs", &arguments);
    let device = LoopDevice::with(&image, sys::LOOP_READ_ONLY);
    let point = sandbox.path("squashfs");
    let mount = Mount::new(&device.path(), &point, "squashfs", MountFlags::RDONLY, "");
    assert_eq!(fs::read_to_string(point.join("file")).unwrap(), "x");
    look_passes();
    mount.unmount();
}

/// Long enough for the agent's look once a second to see what is there.
fn look_passes() {
    thread::sleep(Duration::from_millis(1200));
}

fn read_only_on_purpose(sandbox: &Sandbox) {
    let mut volume = Volume::new(sandbox, "ro-after", Filesystem::Ext4, "");
    volume.unmount();
    volume.mount_with(MountFlags::RDONLY, "");
    let other = Volume::new(sandbox, "rw", Filesystem::Ext4, "");
    let bind = Mount::bind(other.point(), &sandbox.path("bind"));
    bind.remount(MountFlags::BIND | MountFlags::RDONLY, "");
    let error = fs::write(bind.point().join("file"), "x").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnlyFilesystem);
    fs::write(other.path("file"), "x").unwrap();
    look_passes();
}

/// Full: that is the filesystem's ENOSPC, not the device's.
fn fill(volume: &Volume) {
    let file = volume.path("big");
    let error = loop {
        if let Err(error) = append(&file) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    let _synced = inject::sync(volume.point());
}

fn append(file: &Path) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    file.write_all(&vec![1; 1 << 20])?;
    file.sync_all()
}

/// A snapshot that takes longer than a stall: the writer waits, the disk has nothing to do.
fn freeze(volume: &Volume) {
    let file = volume.path("waits");
    thread::scope(|scope| {
        let frozen = inject::freeze(volume.point());
        let writer = scope.spawn(|| fs::write(&file, "x"));
        thread::sleep(STALL_AFTER + Duration::from_secs(1));
        assert!(!writer.is_finished());
        drop(frozen);
        writer.join().unwrap().unwrap();
    });
}

/// As much healthy I/O as two threads can make.
fn work_hard(volume: &Volume) {
    let end = Instant::now() + STALL_AFTER + Duration::from_secs(1);
    let device = volume.device().path();
    thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < end {
                inject::write_synced(&volume.path("busy"), 16 << 20).unwrap();
            }
        });
        while Instant::now() < end {
            assert_eq!(inject::read_block_times(&device, 8 * MIB, 1000), 0);
        }
    });
}
