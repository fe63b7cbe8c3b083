//! `disk_pressure`: thresholds, deadlines and bounds, each with its unit and its reason.

use std::time::Duration;

/// 10 percent of the bytes of `/` and the kubelet's directory: the kubelet begins to evict pods there
/// (`nodefs.available<10%`, its default for `evictionHard`).
pub const DISK_NODE_PERCENT: u32 = 10;
/// 15 percent of the bytes of an image filesystem: `imagefs.available<15%`.
pub const DISK_IMAGE_PERCENT: u32 = 15;
/// 5 percent of the inodes of every filesystem: `nodefs.inodesFree<5%` and `imagefs.inodesFree<5%`.
pub const DISK_INODES_PERCENT: u32 = 5;
/// One fifth of a threshold has to be free on top of it before a filesystem that was below it passes again: 12, 18 and
/// 6 percent. Logs and layers that come and go are smaller than that, and the kubelet gets above it: it deletes images
/// until 20 percent are free (`imageGCLowThresholdPercent`).
pub const DISK_MARGIN: u32 = 5;
/// 1 second for statfs(2), which reads memory on a local filesystem and asks the server on a remote one.
pub const DISK_DEADLINE: Duration = Duration::from_secs(1);
/// 0.5 seconds for the runtime to say where its images are; after that its last answer is used.
pub const DISK_IMAGES_TIMEOUT: Duration = Duration::from_millis(500);
/// 1 minute between two lookups of the image filesystems: they only change with a restart of the runtime.
pub const DISK_IMAGES_INTERVAL: Duration = Duration::from_mins(1);
/// 10 seconds until the next lookup after one without an answer.
pub const DISK_IMAGES_RETRY: Duration = Duration::from_secs(10);
/// 3 seconds for a sample: [`DISK_IMAGES_TIMEOUT`], then [`DISK_DEADLINE`] twice (where a path hangs, the others are
/// sampled again), and half a second to spare.
pub const DISK_TIMEOUT: Duration = Duration::from_secs(3);
/// 32 paths in `DISK_THRESHOLDS`, because each path that hangs costs a thread.
pub const DISK_PATHS: usize = 32;
/// 4 image filesystems: a runtime has one, or two where containers' layers are on a filesystem of their own.
pub const DISK_IMAGES: usize = 4;
