//! The checkpoint file: its format, and reading it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use serde::{Deserialize, Serialize};
use tocsin_ebpf::Kind;

use crate::kernel::{
    ebpf::inherited::{Acknowledged, Carried, CountId},
    ledger::{CountMemory, Memory},
};

/// Version of the format. A file of another version is ignored.
const VERSION: u32 = 1;
/// 64 MiB that a checkpoint may have: a host with ten thousand filesystems needs three.
const SIZE: u64 = 64 << 20;

/// What every version says about itself.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    version: u32,
    /// `/proc/sys/kernel/random/boot_id`
    boot: String,
}

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The number of the agent that wrote it: `CLOCK_MONOTONIC` nanoseconds at its start.
    pub(crate) instance: u64,
    /// What that agent had inherited of the kernel's counters.
    pub(crate) carried: Vec<CountMemory>,
    /// Missed events that that agent had inherited, and all that it knew of.
    pub(crate) missed: (u64, u64),
    /// What its ledger knew.
    pub(crate) memory: Memory,
}

#[derive(Debug, Serialize, Deserialize)]
struct Whole {
    #[serde(flatten)]
    head: Head,
    #[serde(flatten)]
    kept: Kept,
}

/// Why a checkpoint is ignored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ignored {
    /// It was written before the last reboot.
    #[error("it is of another boot")]
    OtherBoot,
    /// Another version wrote it.
    #[error("it is of version {0} of the format, and this agent reads version {VERSION}")]
    OtherVersion(u32),
    /// It is not what an agent writes.
    #[error("it is damaged: {0}")]
    Damaged(String),
    /// It is no plain file of this agent's own user.
    #[error("it is not a file of this agent's user")]
    Foreign,
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

impl Kept {
    /// The text of the file.
    pub(super) fn text(self, boot: &str) -> serde_json::Result<String> {
        let head = Head { version: VERSION, boot: boot.to_owned() };
        serde_json::to_string(&Whole { head, kept: self })
    }

    /// Reads the text of a file.
    pub(super) fn parse(text: &str, boot: &str) -> Result<Self, Ignored> {
        let damaged = |error: serde_json::Error| Ignored::Damaged(error.to_string());
        let head: Head = serde_json::from_str(text).map_err(damaged)?;
        if head.version != VERSION {
            return Err(Ignored::OtherVersion(head.version));
        }
        if head.boot != boot {
            return Err(Ignored::OtherBoot);
        }
        let Whole { kept, head: _ } = serde_json::from_str(text).map_err(damaged)?;
        Ok(kept)
    }

    /// Reads a file; `None` if there is none. The call may block for as long as the filesystem does.
    pub(super) fn read(path: &Path, boot: &str) -> Result<Option<Self>, Ignored> {
        // A pipe in its place must not make the agent wait, nor a link lead elsewhere.
        let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let file = match fs::OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return Err(Ignored::Foreign);
            }
            Err(error) => return Err(error.into()),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(Ignored::Foreign);
        }
        let mut bytes = Vec::new();
        file.take(SIZE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > SIZE {
            return Err(Ignored::Damaged(format!("more than {SIZE} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|error| Ignored::Damaged(error.to_string()))?;
        Self::parse(&text, boot).map(Some)
    }

    /// What it says about the kernel's counters.
    #[must_use]
    pub(crate) fn acknowledged(&self) -> Acknowledged {
        let counts = |counts: &[CountMemory]| -> BTreeMap<CountId, u64> {
            let known = counts.iter().filter_map(|count| {
                Some(((Kind::from_raw(count.kind)?, count.dev, count.errno), count.count))
            });
            known.collect()
        };
        Acknowledged {
            instance: self.instance,
            carried: counts(&self.carried),
            total: counts(&self.memory.counts),
            missed: self.missed,
        }
    }
}

/// Counters as the file has them.
pub(crate) fn counts_of(carried: &Carried) -> Vec<CountMemory> {
    carried.values().map(CountMemory::of).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Dev;

    fn kept() -> Kept {
        let count = |count| CountMemory { kind: 1, dev: Dev::new(7, 1), errno: 5, count };
        let mut memory = Memory::default();
        memory.counts.push(count(12));
        Kept { instance: 3, carried: vec![count(10)], missed: (1, 2), memory }
    }

    #[test]
    fn what_was_written_is_read() {
        let text = kept().text("boot").unwrap();
        let read = Kept::parse(&text, "boot").unwrap();
        assert_eq!(read, kept());
        let id = (Kind::BlockRead, Dev::new(7, 1), 5);
        let acknowledged = read.acknowledged();
        assert_eq!((acknowledged.carried[&id], acknowledged.total[&id]), (10, 12));
    }

    #[test]
    fn what_is_not_this_boots_or_this_versions_is_ignored() {
        let text = kept().text("boot").unwrap();
        let other = text.replace("\"version\":1", "\"version\":2");
        for (text, boot, why) in [
            (text.as_str(), "other", "it is of another boot"),
            (&other, "boot", "it is of version 2"),
            ("{\"version\":2,\"boot\":\"boot\"}", "boot", "it is of version 2"),
            (&text[..text.len() - 1], "boot", "it is damaged"),
            (&text.replace("7:1", "7:x"), "boot", "it is damaged"),
            ("", "boot", "it is damaged"),
        ] {
            let error = Kept::parse(text, boot).unwrap_err().to_string();
            assert!(error.starts_with(why), "{error}");
        }
    }

    #[test]
    fn only_a_plain_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        assert!(matches!(Kept::read(&path, "boot"), Ok(None)));
        fs::write(&path, kept().text("boot").unwrap()).unwrap();
        assert_eq!(Kept::read(&path, "boot").unwrap(), Some(kept()));
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(Kept::read(&link, "boot"), Err(Ignored::Foreign)));
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert!(matches!(Kept::read(&pipe, "boot"), Err(Ignored::Foreign)));
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(Kept::read(&path, "boot"), Err(Ignored::Damaged(_))));
    }

    proptest! {
        #[test]
        fn never_panics(cut in 0usize..400, text in "\\PC{0,80}") {
            let whole = kept().text("boot").unwrap();
            let damaged: String = whole.chars().take(cut).chain(text.chars()).collect();
            let _read = Kept::parse(&damaged, "boot");
        }
    }
}
