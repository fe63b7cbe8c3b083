//! A filesystem on a loop device, mounted: what most tests break.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::MountFlags;

use crate::faultfs::Control;
use crate::{FaultFs, LoopDevice, MIB, Mount, Sandbox, tool};

/// What is made on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    /// With a journal, and nothing left to be written later in the background.
    Ext4,
    /// Without one: a failed flush or write then does not end the filesystem.
    Ext4WithoutJournal,
    /// xfs.
    Xfs,
    /// btrfs, one device, one copy of everything.
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

    /// A little above the smallest that its mkfs takes; the backing file is sparse.
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
        // A distribution's kernel has it as a module, which the mount loads.
        let loadable = || tool::output("modinfo", &[self.kind()]).status.success();
        tool::is_installed(&format!("mkfs.{}", self.kind())) && (known || loadable())
    }

    /// Makes one.
    pub fn make(self, device: &Path) {
        let (program, arguments): (_, &[&str]) = match self {
            // No lazy initialisation: its writes would come at any time.
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

/// A filesystem, its device, and the disk beneath.
pub struct Volume {
    // In the order in which they have to go.
    mount: Option<Mount>,
    device: LoopDevice,
    faults: Option<FaultFs>,
    filesystem: Filesystem,
    point: PathBuf,
}

impl Volume {
    /// Made and mounted, over a file in memory.
    pub fn new(sandbox: &Sandbox, name: &str, filesystem: Filesystem, options: &str) -> Self {
        let backing = sandbox.file(&format!("{name}.img"), filesystem.size());
        Self::over(sandbox, name, filesystem, options, &backing, None)
    }

    /// Made and mounted, over a disk that can be broken.
    pub fn breakable(sandbox: &Sandbox, name: &str, filesystem: Filesystem, options: &str) -> Self {
        let faults = FaultFs::new(sandbox, &format!("{name}.disk"), filesystem.size());
        let backing = faults.disk();
        Self::over(sandbox, name, filesystem, options, &backing, Some(faults))
    }

    fn over(
        sandbox: &Sandbox,
        name: &str,
        filesystem: Filesystem,
        options: &str,
        backing: &Path,
        faults: Option<FaultFs>,
    ) -> Self {
        let device = LoopDevice::over(backing);
        filesystem.make(&device.path());
        let point = sandbox.path(name);
        let mut volume = Self { mount: None, device, faults, filesystem, point };
        volume.mount(options);
        volume
    }

    /// Mounts it where it was.
    pub fn mount(&mut self, options: &str) {
        self.mount_with(MountFlags::empty(), options);
    }

    /// The same with flags.
    pub fn mount_with(&mut self, flags: MountFlags, options: &str) {
        assert!(self.mount.is_none(), "{} is mounted already", self.point.display());
        let kind = self.filesystem.kind();
        self.mount = Some(Mount::new(&self.device.path(), &self.point, kind, flags, options));
    }

    /// Unmounts it, and insists on it; how long it was busy.
    pub fn unmount(&mut self) -> Duration {
        self.mount.take().expect("the volume is mounted").unmount()
    }

    /// Repairs an unmounted ext4.
    pub fn repair(&self) {
        let device = self.device.path();
        let output = tool::output("e2fsck", &["-fy".as_ref(), device.as_os_str()]);
        // 1 and 2 are "errors corrected".
        let code = output.status.code();
        assert!(code.is_some_and(|code| code < 4), "e2fsck: {}", output.status);
    }

    /// The mount, which has to be there.
    pub fn mounted(&self) -> &Mount {
        self.mount.as_ref().expect("the volume is mounted")
    }

    /// Where it is mounted, or will be.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// The same as text, for what a reason has to say.
    pub fn point_text(&self) -> String {
        self.point.to_string_lossy().into_owned()
    }

    /// A path on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.point.join(name)
    }

    /// What it lies on.
    pub fn device(&self) -> &LoopDevice {
        &self.device
    }

    /// Where to break the disk of a `breakable` one.
    pub fn control(&self) -> &Control {
        self.faults.as_ref().expect("a breakable volume").control()
    }

    /// The same, if it is one.
    pub fn control_if_breakable(&self) -> Option<&Control> {
        self.faults.as_ref().map(FaultFs::control)
    }

    /// What is on it.
    pub fn filesystem(&self) -> Filesystem {
        self.filesystem
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // A hung disk would hang the unmount.
        if let Some(faults) = &self.faults {
            faults.control().heal();
        }
    }
}
