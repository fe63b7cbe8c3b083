//! `disk_pressure`: thresholds, deadlines and bounds, each with its unit and its reason.

use std::time::Duration;

/// 10 percent of the bytes of `/` and the kubelet's directory: where the kubelet begins to evict pods
/// (`nodefs.available<10%`, its default for `evictionHard`).
pub const DISK_NODE_PERCENT: u32 = 10;
/// 15 percent of the bytes where images are: `imagefs.available<15%`.
pub const DISK_IMAGE_PERCENT: u32 = 15;
/// 5 percent of the inodes of all of them: `nodefs.inodesFree<5%` and `imagefs.inodesFree<5%`.
pub const DISK_INODES_PERCENT: u32 = 5;
/// A fifth of a threshold has to be free on top of it until a filesystem that was below it passes again: 12, 18 and
/// 6 percent. Logs and layers that come and go are less than that; and the kubelet, which deletes images until 20
/// percent are free (`imageGCLowThresholdPercent`), gets there.
pub const DISK_MARGIN: u32 = 5;
/// 1 second for statfs(2), which reads memory on a healthy local filesystem and asks the server of a remote one.
pub const DISK_DEADLINE: Duration = Duration::from_secs(1);
/// Half a second for the runtime to say where its images are: then what it said last has to do.
pub const DISK_IMAGES_TIMEOUT: Duration = Duration::from_millis(500);
/// 1 minute between questions where the images are: that only changes with a restart of the runtime.
pub const DISK_IMAGES_INTERVAL: Duration = Duration::from_mins(1);
/// 10 seconds until a runtime that gave no answer is asked again.
pub const DISK_IMAGES_RETRY: Duration = Duration::from_secs(10);
/// 3 seconds for a sample: half a second more than the question for the images, and two looks of which each has
/// [`DISK_DEADLINE`]: where a path hangs, the others get a second one.
pub const DISK_TIMEOUT: Duration = Duration::from_secs(3);
/// Paths of `DISK_THRESHOLDS`: a stuck thread for each that hangs.
pub const DISK_PATHS: usize = 32;
/// Image filesystems: runtimes have one, or two where containers' layers are apart.
pub const DISK_IMAGES: usize = 4;
