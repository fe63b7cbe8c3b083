//! Opening a file of the watched host by its path there.

use std::{os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, open, openat2},
    io::Errno,
};

/// 8 attempts at openat2(2). It fails with EAGAIN on a path with `..` if any mount or rename on the host happens at the
/// same time; the next attempt is some microseconds later.
const OPEN_RETRIES: usize = 8;

/// Opens `path` below `root` as a mere name ([`OFlags::PATH`]), which is enough for statfs(2) or as a directory for
/// another open. A symbolic link leads where it leads on the host, also if this process is in a container. The call
/// may block for as long as the filesystem does.
pub fn open_below(root: &Path, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let by_name = || open(root.join(path.strip_prefix("/").unwrap_or(path)), flags, Mode::empty());
    if root == Path::new("/") {
        return by_name();
    }
    let root_fd = open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
    let in_root = || openat2(&root_fd, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
    let mut found = in_root();
    for _ in 0..OPEN_RETRIES {
        if found.as_ref().err() != Some(&Errno::AGAIN) {
            break;
        }
        found = in_root();
    }
    match found {
        // The seccomp filter of a container runtime that does not know openat2(2).
        Err(Errno::NOSYS | Errno::PERM) => by_name(),
        other => other,
    }
}
