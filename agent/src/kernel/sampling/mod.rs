//! Evidence: which filesystems and disks there are, and the state of each at this moment.
//!
//! [`sampler::Sampler`] reads the mount table and sysfs and returns a [`snapshot::Snapshot`]; [`thread`] runs it on a
//! thread of its own. Reading the files does not wait for a disk, but it can wait for a lock in the kernel. Then only
//! that thread waits.

mod btrfs;
pub mod fanotify;
mod kept_files;
mod members;
mod mount_changes;
pub mod mount_rules;
mod mountinfo;
mod mountinfo_file;
pub mod mounts;
pub mod required_mounts;
pub mod sampler;
pub mod snapshot;
mod statistics;
mod superblocks;
mod swaps;
pub mod sysfs;
pub mod thread;
mod topology;

pub use self::statistics::{BtrfsErrors, Disk, Ext4Errors};
