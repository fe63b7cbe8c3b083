//! A mounted filesystem on a loop device.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::MountFlags;

use crate::faulty_disk::Control;
use crate::{FaultyDisk, LoopDevice, MIB, Mount, Sandbox, tool};

/// How long a device may be in use after its filesystem was unmounted; a test fails after that.
const IN_USE_TIMEOUT: Duration = Duration::from_secs(5);

/// A kind of filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    /// ext4 with a journal, and with nothing that the kernel would write later in the background.
    Ext4,
    /// ext4 without a journal: a failed flush or write does not end the filesystem.
    Ext4WithoutJournal,
    /// xfs
    Xfs,
    /// btrfs on one device, with one copy of everything.
    Btrfs,
}

impl Filesystem {
    /// Its name in the mount table.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Ext4 | Self::Ext4WithoutJournal => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// A little more than the smallest size that mkfs takes; the backing file is sparse.
    fn size(self) -> u64 {
        match self {
            Self::Ext4 | Self::Ext4WithoutJournal => 64 * MIB,
            Self::Xfs => 320 * MIB,
            Self::Btrfs => 256 * MIB,
        }
    }

    /// Whether this machine can make and mount it.
    pub fn is_available(self) -> bool {
        let loaded = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let known = loaded.lines().any(|line| line.trim() == self.kind());
        // A distribution's kernel has it as a module, which mount(2) loads.
        let loadable = || tool::output("modinfo", &[self.kind()]).status.success();
        tool::is_installed(&format!("mkfs.{}", self.kind())) && (known || loadable())
    }

    /// Makes one on a device.
    pub fn make(self, device: &Path) {
        let (program, arguments): (_, &[&str]) = match self {
            // Lazy initialisation would write at any time.
            Self::Ext4 => (
                "mkfs.ext4",
                &["-q", "-F", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            ),
            Self::Ext4WithoutJournal => (
                "mkfs.ext4",
                &["-q", "-F", "-b", "4096", "-O", "^has_journal", "-E", "lazy_itable_init=0"],
            ),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f", "-d", "single", "-m", "single"]),
        };
        let mut arguments: Vec<_> = arguments.iter().map(AsRef::as_ref).collect();
        arguments.push(device.as_os_str());
        tool::run(program, &arguments);
    }
}

/// A filesystem, its loop device, and the disk beneath.
pub struct Volume {
    // Dropped in this order.
    mount: Option<Mount>,
    device: LoopDevice,
    disk: Option<FaultyDisk>,
    filesystem: Filesystem,
    point: PathBuf,
}

impl Volume {
    /// Makes and mounts one over a file in memory.
    pub fn new(sandbox: &Sandbox, name: &str, filesystem: Filesystem, options: &str) -> Self {
        let backing = sandbox.file(&format!("{name}.img"), filesystem.size());
        Self::over(sandbox, name, filesystem, options, &backing, None)
    }

    /// Makes and mounts one over a disk with fault injection.
    pub fn breakable(sandbox: &Sandbox, name: &str, filesystem: Filesystem, options: &str) -> Self {
        let disk = FaultyDisk::new(sandbox, &format!("{name}.disk"), filesystem.size());
        let backing = disk.file();
        Self::over(sandbox, name, filesystem, options, &backing, Some(disk))
    }

    fn over(
        sandbox: &Sandbox,
        name: &str,
        filesystem: Filesystem,
        options: &str,
        backing: &Path,
        disk: Option<FaultyDisk>,
    ) -> Self {
        let device = LoopDevice::over(backing);
        filesystem.make(&device.path());
        let point = sandbox.path(name);
        let mut volume = Self { mount: None, device, disk, filesystem, point };
        volume.mount(options);
        volume
    }

    /// Mounts it again.
    pub fn mount(&mut self, options: &str) {
        self.mount_with(MountFlags::empty(), options);
    }

    /// Mounts it again with flags.
    pub fn mount_with(&mut self, flags: MountFlags, options: &str) {
        assert!(self.mount.is_none(), "{} is mounted already", self.point.display());
        let kind = self.filesystem.kind();
        self.mount = Some(Mount::new(&self.device.path(), &self.point, kind, flags, options));
    }

    /// Unmounts it, waits until the kernel has let go of the device, and gives how long the mount was busy. A probe of the
    /// agent may have the superblock for a moment longer, and mounting it then would show the same one.
    pub fn unmount(&mut self) -> Duration {
        let busy = self.unmount_only();
        let start = Instant::now();
        let device = self.device.path();
        while File::options().read(true).custom_flags(libc::O_EXCL).open(&device).is_err() {
            assert!(start.elapsed() < IN_USE_TIMEOUT, "{} is still in use", device.display());
            thread::sleep(Duration::from_millis(1));
        }
        busy
    }

    /// Unmounts it and does not wait.
    pub fn unmount_only(&mut self) -> Duration {
        self.mount.take().expect("the volume is mounted").unmount()
    }

    /// Repairs an unmounted ext4 with e2fsck.
    pub fn repair(&self) {
        let device = self.device.path();
        let output = tool::output("e2fsck", &["-fy".as_ref(), device.as_os_str()]);
        // 1 and 2 say that errors were corrected.
        let code = output.status.code();
        assert!(code.is_some_and(|code| code < 4), "e2fsck: {}", output.status);
    }

    /// Its mount; fails where it is not mounted.
    pub fn mounted(&self) -> &Mount {
        self.mount.as_ref().expect("the volume is mounted")
    }

    /// Its mount point, whether it is mounted or not.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// Its mount point as text, for what a reason has to name.
    pub fn point_text(&self) -> String {
        self.point.to_string_lossy().into_owned()
    }

    /// A path on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.point.join(name)
    }

    /// Its loop device.
    pub fn device(&self) -> &LoopDevice {
        &self.device
    }

    /// Injects faults into the disk of a `breakable` volume.
    pub fn control(&self) -> &Control {
        self.disk.as_ref().expect("a breakable volume").control()
    }

    /// As [`Self::control`]; none where the volume is not `breakable`.
    pub fn control_if_breakable(&self) -> Option<&Control> {
        self.disk.as_ref().map(FaultyDisk::control)
    }

    /// Its kind.
    pub fn filesystem(&self) -> Filesystem {
        self.filesystem
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // A hung disk would hang the unmount.
        if let Some(disk) = &self.disk {
            disk.control().heal();
        }
    }
}
