//! Access to a filesystem that leaves its mounts alone.
//!
//! A file that is open through a mount makes `umount` fail with EBUSY. A detached copy of the mount keeps only the
//! filesystem in use: `umount` succeeds, and the kernel lets go of the disk when the copy is closed.

use std::{
    ffi::c_long,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, open},
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use tracing::debug;

use crate::host::on_own_descriptors;

/// A directory that is opened through a detached copy of its mount. No other process sees the copy, and it goes away with
/// its file descriptor.
pub(super) struct DetachedMount(pub(super) OwnedFd);

impl DetachedMount {
    /// Copies the mount of `directory`. With `writable` the copy is not read-only even if the mount is: the hostPath of a
    /// container may be read-only for the agent alone.
    ///
    /// The mount has to be in the namespace of this thread, see [`in_namespace`]. Without `CAP_SYS_ADMIN` there is no copy;
    /// then the directory itself is opened, unless it has to be `writable`.
    pub(super) fn of(directory: &Path, writable: bool) -> rustix::io::Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        match open_tree(CWD, directory, flags) {
            Ok(tree) if writable => {
                clear_read_only(&tree)?;
                Ok(Self(tree))
            }
            Ok(tree) => Ok(Self(tree)),
            // EPERM: no privilege. EINVAL: the mount is in another namespace. ENOSYS: refused by a seccomp filter.
            Err(Errno::PERM | Errno::INVAL | Errno::NOSYS) if !writable => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                open(directory, flags, Mode::empty()).map(Self)
            }
            Err(error) => Err(error),
        }
    }
}

/// Clears the read-only flag of a detached mount.
fn clear_read_only(tree: &OwnedFd) -> rustix::io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: 0,
        attr_clr: libc::MOUNT_ATTR_RDONLY,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: mount_setattr(2) with a valid descriptor, an empty C string and a struct of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            c_long::from(tree.as_raw_fd()),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// Calls `call` with a path to the root directory of the watched mounts: `root` itself, or, if that is the `root` link of
/// another process in procfs, `/` in that process's mount namespace. Only there can the mounts be copied.
///
/// The call runs on a thread of its own, see [`on_own_descriptors`]. It is an error if there is none.
pub(super) fn in_namespace<T: Send>(
    root: &Path,
    call: impl FnOnce(&Path) -> T + Send,
) -> io::Result<T> {
    let is_link = root.starts_with("/proc") && root.file_name().is_some_and(|name| name == "root");
    let namespace = root.parent().filter(|_| is_link).map(|process| process.join("ns/mnt"));
    on_own_descriptors(|| {
        let Some(Ok(namespace)) = namespace.map(File::open) else { return call(root) };
        match enter(&namespace) {
            Ok(()) => call(Path::new("/")),
            Err(error) => {
                debug!(%error, "the mount namespace cannot be entered");
                call(root)
            }
        }
    })
}

/// Moves this thread to a mount namespace. Its root and working directories, which threads share otherwise, become those
/// of that namespace.
fn enter(namespace: &File) -> rustix::io::Result<()> {
    // SAFETY: this thread is new and has no use for the directories that it shares with the others.
    unsafe { unshare_unsafe(UnshareFlags::FS) }?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
}
