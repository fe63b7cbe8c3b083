//! Filesystem errors without eBPF: fanotify's `FAN_FS_ERROR` (5.16, also 5.15.154 and 5.10.220; ext4
//! from the start, more filesystems from 7.0). Needs `CAP_SYS_ADMIN`.
//!
//! It is used as a doorbell only: what happened is read from sysfs and the mount table.

use std::{collections::BTreeSet, io, os::fd::AsFd};

use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use tokio::io::{Interest, unix::AsyncFd};
use tracing::debug;

use super::mounts::MountTable;
use crate::{
    host::{Paths, watch_fd},
    model::Dev,
};

/// A fanotify group that watches every filesystem for errors.
#[derive(Debug)]
pub struct ErrorEvents {
    group: AsyncFd<Fanotify>,
    watched: BTreeSet<Dev>,
}

impl ErrorEvents {
    /// An empty group.
    pub fn new() -> io::Result<Self> {
        let flags = InitFlags::FAN_CLASS_NOTIF
            | InitFlags::FAN_CLOEXEC
            | InitFlags::FAN_NONBLOCK
            | InitFlags::from_bits_retain(libc::FAN_REPORT_FID);
        let group = Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC)?;
        let group = watch_fd(group, Interest::READABLE)?;
        Ok(Self { group, watched: BTreeSet::new() })
    }

    /// Watches the filesystems of the table that are not watched yet.
    pub fn watch(&mut self, table: &MountTable, paths: &Paths) {
        self.watched.retain(|dev| table.filesystems.contains_key(dev));
        for filesystem in table.filesystems.values() {
            let Some(mount) =
                filesystem.best_mount().filter(|_| !self.watched.contains(&filesystem.dev))
            else {
                continue;
            };
            let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
            let path = paths.inside(&mount.point);
            let result = self.group.get_ref().mark(
                flags,
                MaskFlags::FAN_FS_ERROR,
                nix::fcntl::AT_FDCWD,
                Some(&path),
            );
            if let Err(error) = result {
                debug!(%error, path = %path.display(), "no fanotify error events for this filesystem");
            }
            // Asked once: a filesystem that does not support it will not do so later.
            self.watched.insert(filesystem.dev);
        }
    }

    /// Waits until some filesystem reports an error.
    pub async fn next(&self) {
        loop {
            let Ok(mut ready) = self.group.readable().await else {
                return std::future::pending().await;
            };
            let mut buffer = [0; 4096];
            match rustix::io::read(self.group.get_ref().as_fd(), &mut buffer) {
                Ok(_) => return,
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(_) => return std::future::pending().await,
            }
        }
    }
}
