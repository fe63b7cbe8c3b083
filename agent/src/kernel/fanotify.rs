//! Filesystem errors without eBPF: fanotify's `FAN_FS_ERROR` (5.16, also 5.15.154 and 5.10.220; ext4
//! from the start, more filesystems from 7.0). Needs `CAP_SYS_ADMIN`.
//!
//! It is used as a doorbell only: what happened is read from sysfs and the mount table.

use std::{io, os::fd::AsFd, sync::Arc};

use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use tocsin_runtime::fd;
use tokio::io::{Interest, unix::AsyncFd};
use tracing::debug;

use super::mounts::MountTable;
use crate::host::Paths;

/// Waits for errors of the filesystems that its [`ErrorMarks`] watch.
#[derive(Debug)]
pub struct ErrorEvents(AsyncFd<Arc<Fanotify>>);

/// The other half: marks filesystems. Marking walks a path, which may hang, so it is the looker's.
#[derive(Clone, Debug)]
pub struct ErrorMarks(Arc<Fanotify>);

/// An empty group.
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
    /// Watches every filesystem of the table. Marking one that is marked changes nothing, and one that was
    /// mounted anew under the same number needs its mark again, so all are marked each time.
    pub fn watch(&self, table: &MountTable, paths: &Paths) {
        for filesystem in
            table.filesystems.values().filter(|filesystem| filesystem.fs_type != "swap")
        {
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
    /// Waits until some filesystem reports an error.
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
