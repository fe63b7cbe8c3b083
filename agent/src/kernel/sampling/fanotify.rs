//! Notifications of filesystem errors without eBPF: fanotify's `FAN_FS_ERROR` (Linux 5.16, 5.15.154 and 5.10.220; for
//! ext4 from the start, for more filesystems from 7.0). It needs `CAP_SYS_ADMIN`.
//!
//! A notification only wakes the kernel task up. What happened is read from sysfs and the mount table.

use std::{io, os::fd::AsFd, sync::Arc};

use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use tocsin_runtime::fd;
use tokio::io::{Interest, unix::AsyncFd};
use tracing::debug;

use super::mounts::MountTable;
use crate::host::Paths;

/// Receives the error notifications of the filesystems that the [`ErrorMarks`] of the same group watch.
#[derive(Debug)]
pub struct ErrorEvents(AsyncFd<Arc<Fanotify>>);

/// Adds filesystems to a group. This walks a path, which may hang, so the sampler's thread does it.
#[derive(Clone, Debug)]
pub struct ErrorMarks(Arc<Fanotify>);

/// Makes an empty group, as its two halves.
pub fn new() -> io::Result<(ErrorEvents, ErrorMarks)> {
    let flags = InitFlags::FAN_CLASS_NOTIF
        | InitFlags::FAN_CLOEXEC
        | InitFlags::FAN_NONBLOCK
        | InitFlags::from_bits_retain(libc::FAN_REPORT_FID);
    let group = Fanotify::init(flags, EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC)?;
    let group = Arc::new(group);
    let marks = ErrorMarks(group.clone());
    Ok((ErrorEvents(fd::watch(group, Interest::READABLE)?), marks))
}

impl ErrorMarks {
    /// Watches every filesystem of the table. All of them are marked each time: marking one twice changes nothing, and
    /// a filesystem that was mounted again under the same number needs its mark again.
    pub fn watch(&self, table: &MountTable, paths: &Paths) {
        for filesystem in table.filesystems.values().filter(|filesystem| !filesystem.is_swap()) {
            let Some(mount) = filesystem.best_mount() else { continue };
            let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
            let path = paths.inside(&mount.point);
            let result =
                self.0.mark(flags, MaskFlags::FAN_FS_ERROR, nix::fcntl::AT_FDCWD, Some(&path));
            if let Err(error) = result {
                debug!(%error, path = %path.display(), "no error events for this filesystem");
            }
        }
    }
}

impl ErrorEvents {
    /// Waits until a filesystem reports an error.
    pub async fn next(&self) {
        loop {
            let Ok(mut ready) = self.0.readable().await else {
                return std::future::pending().await;
            };
            let mut buffer = [0; 4096];
            match rustix::io::read(self.0.get_ref().as_fd(), &mut buffer) {
                Ok(_) => return,
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(_) => return std::future::pending().await,
            }
        }
    }
}
