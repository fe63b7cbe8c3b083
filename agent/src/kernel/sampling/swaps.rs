//! Swap space, as filesystems of a type of its own: the agent watches its disks for I/O errors.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    mountinfo::unescape,
    mounts::{Filesystem, Mount, SWAP},
    sysfs::Sysfs,
};
use crate::host::Paths;

/// What finding the swap space takes.
pub(super) struct Swaps<'a> {
    pub(super) paths: &'a Paths,
    pub(super) sysfs: &'a Sysfs,
    /// The swap space that was found last.
    pub(super) known: &'a [&'a Filesystem],
}

impl Swaps<'_> {
    /// Reads the swap partitions from `/proc/swaps`. A swap file is on a filesystem, which is watched itself.
    pub(super) fn read(&self) -> io::Result<Vec<Filesystem>> {
        let text = match fs::read_to_string(self.paths.proc.join("swaps")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text?,
        };
        let mut swaps = Vec::new();
        for line in text.lines().skip(1) {
            let mut words = line.split_whitespace();
            let (Some(path), Some("partition")) = (words.next().map(unescape), words.next()) else {
                continue;
            };
            // The kernel's note on a swap disk that was removed and is still in use.
            if let Some(path) = path.to_str().and_then(|path| path.strip_suffix(" (deleted)")) {
                let mut known = self.known.iter();
                swaps.extend(known.find(|swap| swap.source == Path::new(path)).copied().cloned());
                continue;
            }
            let Some(dev) = self.sysfs.device_of(&self.paths.inside(&path), &path)? else {
                continue;
            };
            let point = PathBuf::from("[swap]");
            swaps.push(Filesystem {
                dev,
                fs_type: SWAP.into(),
                source: path,
                read_only: false,
                mark: None,
                mounts: vec![Mount {
                    id: 0,
                    point,
                    whole: true,
                    read_only: false,
                    is_volume: false,
                }],
                more_sources: Vec::new(),
                members: self.sysfs.members(dev)?,
                is_ignored: false,
            });
        }
        Ok(swaps)
    }
}
