//! Errors and states that are no faults: with all of them at once, one agent responses 200 throughout and has no fault.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use e2e::faulty_disk::{EVERYWHERE, Errno, Operation};
use e2e::http::Connection;
use e2e::sandbox::say;
use e2e::sync::SetOnDrop;
use e2e::{Agent, Filesystem, LoopDevice, MIB, Mount, Sandbox, Volume, inject, require, sys, tool};
use rustix::mount::MountFlags;

/// The default of `IO_STALL_AFTER`: the I/O of this test is heavy, and must not look like a stall.
const STALL_AFTER: Duration = Duration::from_secs(5);

#[test]
fn harmless_errors_and_states_are_no_faults() {
    let Some(sandbox) = Sandbox::new() else { return };
    // Before the agent starts: a filesystem read-only on purpose, and two with an old error.
    let mut read_only = Volume::new(&sandbox, "ro-before", Filesystem::Ext4, "");
    read_only.unmount();
    read_only.mount_with(MountFlags::RDONLY, "");
    let before = with_an_old_error(&sandbox, "old-before");
    let mut after = with_an_old_error(&sandbox, "old-after");
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
        // Ends the watcher when this closure ends, also by a panic.
        let _stop = SetOnDrop(&done);
        let watcher = scope.spawn(|| watch(address, &done));

        let write_zeroes = sandbox.file("zeroes.img", 64 * MIB);
        let write_zeroes = LoopDevice::over(&write_zeroes);
        Filesystem::Ext4.make(&write_zeroes.path());

        discard_unsupported(&thin);
        let short = read_beyond_the_end(&sandbox);
        squashfs(&sandbox);
        read_only_on_purpose(&sandbox);
        after.mount("errors=remount-ro");
        still_writable(&before);
        still_writable(&after);
        fill(&full);
        freeze(&healthy);
        work_hard(&healthy);
        healthy.unmount();

        look_passes();
        let page = agent.faults_page();
        assert!(page.faults.is_empty(), "{page:?}");
        // The kernel did have these errors, and the agent counted them.
        let counted = |kinds: &[&str], device: &str| {
            let count: u64 = kinds.iter().map(|kind| agent.kernel_count(kind, device)).sum();
            assert!(count > 0, "no {kinds:?} of {device} in {page:?}");
        };
        counted(&["block_zeroes"], write_zeroes.number());
        counted(&["block_discard"], thin.device().number());
        if let Some(short) = short {
            counted(&["block_read", "block_readahead"], &short);
        }
        done.store(true, Ordering::Relaxed);
        let responses = watcher.join().unwrap();
        say(&format!("MEASURED {}: {responses} responses, all of them 200", sandbox.name()));
        assert!(responses > 100, "{responses}");
    });
}

/// Gets `/health` without a pause; every response has to be 200.
fn watch(address: SocketAddr, done: &AtomicBool) -> u64 {
    let mut connection = Connection::open(address).unwrap();
    let mut responses = 0;
    while !done.load(Ordering::Relaxed) {
        let response = connection.get("/health").unwrap();
        assert_eq!(response.status, 200, "{}", response.body);
        responses += 1;
    }
    responses
}

/// An ext4 that had an error, was mounted again without e2fsck, and can be written.
fn with_an_old_error(sandbox: &Sandbox, name: &str) -> Volume {
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
    // Whether fstrim gets the error depends on the kernel's version; the device gets it in any case.
    let _output = tool::output("fstrim", &[thin.point()]);
    thin.control().heal();
}

/// Reads a device whose end is missing through the page cache, which reads ahead. It is not mounted. Gives the device's
/// number if the kernel fails these reads: before 6.12, the missing part reads as zeroes.
fn read_beyond_the_end(sandbox: &Sandbox) -> Option<String> {
    let backing = sandbox.file("short.img", 16 * MIB);
    let device = LoopDevice::over(&backing);
    OpenOptions::new().write(true).open(&backing).unwrap().set_len(8 * MIB).unwrap();
    fs::read(device.path()).is_err().then(|| device.number().to_owned())
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

/// Gives the agent time for its periodic look at the mount table, every 0.9 s.
fn look_passes() {
    thread::sleep(Duration::from_millis(1500));
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

/// Fills a filesystem: ENOSPC comes from the filesystem, not from the device.
fn fill(volume: &Volume) {
    let file = volume.path("big");
    let error = loop {
        if let Err(error) = append(&file) {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    // Whether there is something left to write does not matter.
    let _result = inject::sync(volume.point());
}

fn append(file: &Path) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = OpenOptions::new().create(true).append(true).open(file)?;
    file.write_all(&vec![1; 1 << 20])?;
    file.sync_all()
}

/// Freezes a filesystem for longer than a stall: a writer waits, and the disk has no request.
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

/// Keeps a disk as busy as two threads can, without an error.
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

/// Anyone in a privileged pod can write to `/dev/kmsg`. The lines are what node-problem-detector's rules match
/// (`config/kernel-monitor.json` and `config/readonly-monitor.json`, v0.8).
#[test]
fn text_in_the_kernel_log_is_no_evidence() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.health("").status, 200);
    let device = volume.device().name();
    for line in [
        format!("EXT4-fs error (device {device}): ext4_lookup:1789: inode #2: comm ls: iget: bad"),
        format!("EXT4-fs ({device}): Remounting filesystem read-only"),
        format!("Buffer I/O error on dev {device}, logical block 8, lost async page write"),
        format!("blk_update_request: I/O error, dev {device}, sector 2048 op 0x1:(WRITE)"),
        format!("XFS ({device}): Filesystem has been shut down due to log error (0x2)."),
        "task jbd2:2157 blocked for more than 120 seconds.".to_owned(),
        "BUG: unable to handle kernel NULL pointer dereference at 0000000000000008".to_owned(),
        "divide error: 0000 [#1] SMP".to_owned(),
    ] {
        // A line is one write; the prefix is its level.
        fs::write("/dev/kmsg", format!("<3>{line}")).unwrap();
    }
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        assert_eq!(agent.health("").status, 200);
        thread::sleep(Duration::from_millis(50));
    }
    assert!(agent.faults().is_empty(), "{:?}", agent.faults());
}
