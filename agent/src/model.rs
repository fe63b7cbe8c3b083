//! Plain data that the rest of the agent passes around. No file, socket or clock in here.

use std::{fmt, num::ParseIntError, str::FromStr, time::SystemTime};

use serde::{Deserialize, Deserializer, Serialize};

/// A block device or superblock number, in the kernel's own form: major << 20 | minor
/// (`include/linux/kdev_t.h`), which is also what every tracepoint carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dev(pub u32);

/// A text that is not `major:minor`.
#[derive(Debug, thiserror::Error)]
#[error("not a device number (major:minor): {0:?}")]
pub struct BadDev(String);

impl Dev {
    /// From the two halves.
    #[must_use]
    pub fn new(major: u32, minor: u32) -> Self {
        Self(major << 20 | (minor & 0xf_ffff))
    }

    /// From what `stat(2)` gives as `st_dev` or `st_rdev`.
    #[must_use]
    pub fn from_stat(dev: u64) -> Self {
        Self::new(rustix::fs::major(dev), rustix::fs::minor(dev))
    }

    /// The driver's number; 0 for filesystems without a device of their own (btrfs, overlay).
    #[must_use]
    pub fn major(self) -> u32 {
        self.0 >> 20
    }

    /// The number within the driver.
    #[must_use]
    pub fn minor(self) -> u32 {
        self.0 & 0xf_ffff
    }
}

impl fmt::Display for Dev {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major(), self.minor())
    }
}

impl FromStr for Dev {
    type Err = BadDev;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = |_: ParseIntError| BadDev(text.to_owned());
        let (major, minor) = text.trim().split_once(':').ok_or_else(|| BadDev(text.to_owned()))?;
        let (major, minor): (u32, u32) = (major.parse().map_err(bad)?, minor.parse().map_err(bad)?);
        if major > 0xfff || minor > 0xf_ffff {
            return Err(BadDev(text.to_owned()));
        }
        Ok(Self::new(major, minor))
    }
}

/// What is wrong. The names are API: fault ids, metrics and JSON carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// A filesystem lost its ability to be written.
    FilesystemRo,
    /// A filesystem found an error in its own structures and can still be written.
    FilesystemError,
    /// A device failed a read, write or flush, or written data was lost.
    IoError,
    /// I/O is in flight on a device and nothing completes.
    IoStall,
}

impl FaultKind {
    /// Every kind, in the order in which they are shown.
    pub const ALL: [Self; 4] =
        [Self::FilesystemRo, Self::FilesystemError, Self::IoError, Self::IoStall];

    /// The name in ids, metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::FilesystemRo => "filesystem_ro",
            Self::FilesystemError => "filesystem_error",
            Self::IoError => "io_error",
            Self::IoStall => "io_stall",
        }
    }

    /// The check that fails while such a fault is open.
    #[must_use]
    pub fn check(self) -> &'static str {
        match self {
            Self::FilesystemRo => "filesystem_ro",
            Self::FilesystemError | Self::IoError => "io_errors",
            Self::IoStall => "io_stall",
        }
    }
}

/// Whom a fault concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The host itself: its checks fail.
    Host,
    /// Only volumes of pods: shown, but the node keeps its traffic unless `FAIL_ON_VOLUMES` says otherwise.
    Volume,
    /// One leg of a redundant array or multipath device, which serves on without it: shown, fails nothing.
    Member,
}

impl Scope {
    /// The name in metrics and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Volume => "volume",
            Self::Member => "member",
        }
    }
}

/// One thing that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `<kind>-<major>:<minor>`: the same fault has the same id after a restart.
    pub id: String,
    /// What is wrong.
    pub kind: FaultKind,
    /// The check that it fails.
    pub check: &'static str,
    /// The device it is on.
    pub device: Dev,
    /// Its kernel name (`sda`, `dm-0`); empty when the device is gone.
    pub device_name: String,
    /// Filesystem type, or empty when the device carries several.
    pub filesystem: String,
    /// Where the affected filesystems are mounted: at most [`MOUNT_POINTS_SHOWN`].
    pub mount_points: Vec<String>,
    /// Whom it concerns.
    pub scope: Scope,
    /// When it was first seen.
    pub opened: SystemTime,
    /// When there was last evidence of it.
    pub last: SystemTime,
    /// Kernel events behind it, exact to within a second; at least 1.
    pub count: u64,
    /// Name of the last errno, where one is known.
    pub errno: Option<String>,
    /// `CLOCK_MONOTONIC` nanoseconds of the first kernel event, where an event opened it.
    pub kernel_ns: Option<u64>,
    /// One line for people: device, mount point, what happened.
    pub reason: String,
    /// What it rests on, one line each.
    pub evidence: Vec<String>,
}

/// A node may mount one filesystem ten thousand times; a fault names this many.
pub const MOUNT_POINTS_SHOWN: usize = 16;

/// What the kernel side knows at this moment.
#[derive(Clone, Debug, Default)]
pub struct FaultView {
    /// Open faults, in the order of their ids.
    pub faults: Vec<Fault>,
    /// Why nothing can be said at all: the mount table cannot be read, say.
    pub blind: Option<String>,
    /// Why kernel events do not arrive, if they do not: then polling has to do.
    pub no_events: Option<String>,
    /// Why failed block requests are not seen, if they are not.
    pub no_block_events: Option<String>,
    /// Why the hooks of filesystems may miss something.
    pub hooks_failed: Option<String>,
    /// What of the mount table is not watched, if that is not on purpose.
    pub unwatched: Option<String>,
    /// Filesystems with an event after which no test write could be made, and why.
    pub unprobed: Option<String>,
    /// Faults opened since the start, by kind.
    pub opened: [u64; 4],
    /// Faults closed since the start, by kind.
    pub closed: [u64; 4],
}

/// What the cluster says about this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// How things stand with the API server.
    pub link: Link,
    /// What the API server said last; `None` until its first word.
    pub last: Option<Word>,
}

/// How things stand with the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// No cluster is configured.
    #[default]
    None,
    /// Nothing has been heard yet, and it is too early to call that a loss.
    Awaited,
    /// The Node is being watched: every change arrives by itself.
    Up,
    /// Not heard for longer than a reconnection takes.
    Lost {
        /// When it was lost, or when the agent started.
        since: SystemTime,
        /// What the last attempt ended with: one line.
        why: String,
    },
}

/// The API server's word about this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// When it came.
    pub at: SystemTime,
    /// The Node; `None` where the cluster has no Node of that name.
    pub node: Option<Node>,
}

/// What the agent reads of a Node object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `metadata.uid`, for events about it.
    pub uid: String,
    /// `spec.unschedulable`: cordoned.
    pub unschedulable: bool,
    /// `metadata.deletionTimestamp` is set.
    pub is_being_deleted: bool,
    /// Keys of `spec.taints`.
    pub taints: Vec<String>,
    /// `status.conditions`
    pub conditions: Vec<Condition>,
}

impl Node {
    /// The condition of that type.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }
}

/// One of a Node's conditions, as the API has it (`NodeCondition`, core/v1); a text is empty where the API has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// `Ready`, say.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
    /// RFC 3339: when the status changed.
    #[serde(deserialize_with = "null_is_empty")]
    pub last_transition_time: String,
    /// RFC 3339: when somebody last looked.
    #[serde(deserialize_with = "null_is_empty")]
    pub last_heartbeat_time: String,
}

/// The API writes a time that is not set as `null` (`metav1.Time`).
fn null_is_empty<'de, D: Deserializer<'de>>(text: D) -> Result<String, D::Error> {
    Option::<String>::deserialize(text).map(Option::unwrap_or_default)
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Pass,
    /// All is well as far as can be seen, and it says what cannot be seen.
    Degraded(String),
    /// It is not, and why: one line.
    Fail(String),
    /// The check could not be made, and why; the check's policy turns this into a verdict.
    Unknown(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_round_trip() {
        for text in ["0:0", "7:3", "8:17", "253:1048575", "4095:0"] {
            assert_eq!(text.parse::<Dev>().unwrap().to_string(), text);
        }
        for text in ["", "7", "7:", ":3", "7:3:1", "-1:0", "4096:0", "0:1048576", "a:b"] {
            assert!(text.parse::<Dev>().is_err(), "{text:?}");
        }
        assert_eq!(Dev::new(7, 3).0, 7 << 20 | 3);
    }
}
