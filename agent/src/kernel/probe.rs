//! The write probe: what happens when somebody really creates and syncs a file.
//!
//! It runs only after an event on that filesystem, or at start for one that remembers an error: never
//! on a timer and never for a request. It leaves nothing behind, and runs on a thread of its own with a
//! deadline, since a disk may never answer.

use std::{
    ffi::c_long,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, Mode, OFlags, StatVfsMountFlags, fstat, fstatvfs, fsync, open, openat, stat,
        unlinkat,
    },
    io::Errno,
    mount::{OpenTreeFlags, open_tree},
};

use crate::{
    errno::{self, EDQUOT, EFSBADCRC, EFSCORRUPTED, EIO, ENODEV, ENOSPC, EROFS},
    model::Dev,
};

/// What the probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A file was created and synced.
    Writable,
    /// The filesystem refuses to be written, with this errno (EROFS or an I/O error), when a file is created.
    Refused(i32),
    /// A file could be created, but syncing it gave this errno.
    SyncFailed(i32),
    /// There is no space or no quota: the filesystem is well.
    Full,
    /// It could not be tried: no permission, the directory is gone, read-only for this process alone.
    Unable(String),
    /// No answer in time.
    Late,
}

/// What looking at a filesystem's root directory gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// It is there.
    Fine,
    /// An error that the filesystem or its device is responsible for.
    Failed(i32),
    /// It cannot be looked at: no permission, or another filesystem is mounted over it.
    Unreachable,
    /// No answer in time.
    Late,
}

/// A probe with what else it saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What the probe found.
    pub probe: Probe,
    /// Whether no block or inode is free, which explains lost writes.
    pub full: bool,
}

/// Whether even looking at a filesystem's root fails: what a shut-down xfs shows and nothing else does.
///
/// With `sync`, the root directory is synced as well, which writes nothing where nothing has changed: up
/// to 6.12 an ext4 that was shut down shows nothing else before somebody writes.
#[must_use]
pub fn look_at_root(root: &Path, dev: Dev, sync: bool) -> Root {
    let look = || {
        let found = stat(root)?;
        if sync {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            fsync(&open(root, flags, Mode::empty())?)?;
        }
        Ok(found)
    };
    match look() {
        // btrfs gives each subvolume a number of its own, which no table shows.
        Ok(found) if dev.major() == 0 || Dev::from_stat(found.st_dev) == dev => Root::Fine,
        Err(error) if is_io_error(Errno::raw_os_error(error)) => Root::Failed(error.raw_os_error()),
        Ok(_) | Err(_) => Root::Unreachable,
    }
}

/// Errors that the filesystem or device below is responsible for.
fn is_io_error(errno: i32) -> bool {
    const ENXIO: i32 = 6;
    const ESHUTDOWN: i32 = 108;
    matches!(errno, EIO | ENODEV | ENXIO | ESHUTDOWN | EFSCORRUPTED | EFSBADCRC)
}

/// Creates, syncs and drops a file in `directory`, which should be on the filesystem `dev`.
#[must_use]
pub fn write_probe(directory: &Path, dev: Dev) -> Report {
    let mut full = false;
    let probe = match try_probe(directory, dev, &mut full) {
        Ok(()) => Probe::Writable,
        Err(Failure::Create(errno)) => judge(errno, Probe::Refused),
        // A thin device that is full says so only here, while its filesystem believes to have space.
        Err(Failure::Sync(ENOSPC)) if !full => Probe::SyncFailed(ENOSPC),
        Err(Failure::Sync(errno)) => judge(errno, Probe::SyncFailed),
        Err(Failure::Unable(why)) => Probe::Unable(why),
    };
    Report { full: full || probe == Probe::Full, probe }
}

fn judge(errno: i32, failed: fn(i32) -> Probe) -> Probe {
    match errno {
        EROFS => failed(errno),
        ENOSPC | EDQUOT => Probe::Full,
        _ if is_io_error(errno) => failed(errno),
        _ => Probe::Unable(errno::describe(errno).into_owned()),
    }
}

enum Failure {
    Create(i32),
    Sync(i32),
    Unable(String),
}

fn try_probe(directory: &Path, dev: Dev, full: &mut bool) -> Result<(), Failure> {
    let create = |error: Errno| Failure::Create(error.raw_os_error());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut opened = open(directory, flags, Mode::empty()).map_err(create)?;
    let found = Dev::from_stat(fstat(&opened).map_err(create)?.st_dev);
    // btrfs gives each subvolume a number of its own, which no table shows.
    if dev.major() != 0 && found != dev {
        return Err(Failure::Unable(format!("another filesystem ({found}) is mounted over it")));
    }
    let space = fstatvfs(&opened).map_err(create)?;
    *full = space.f_bavail == 0 || (space.f_files > 0 && space.f_favail == 0);
    // Asked only about filesystems whose superblock says that it is writable: then this flag is the mount's.
    if space.f_flag.contains(StatVfsMountFlags::RDONLY) {
        opened = writable_clone(&opened).map_err(|error| {
            Failure::Unable(format!(
                "its mount is read-only for this process, and a writable copy was refused: {error}"
            ))
        })?;
    }
    let file = match openat(
        &opened,
        ".",
        OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::RUSR,
    ) {
        Ok(file) => file,
        // Filesystems (and kernels) without O_TMPFILE.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => named_file(&opened)?,
        Err(error) => return Err(create(error)),
    };
    fsync(&file).map_err(|error| Failure::Sync(error.raw_os_error()))
}

fn named_file(directory: &OwnedFd) -> Result<OwnedFd, Failure> {
    let create = |error: Errno| Failure::Create(error.raw_os_error());
    let name = format!(".tocsin-probe-{}", std::process::id());
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    // A file of that name can only be our own, left by a crash.
    let _not_there = unlinkat(directory, name.as_str(), AtFlags::empty());
    let file = openat(directory, name.as_str(), flags, Mode::RUSR).map_err(create)?;
    unlinkat(directory, name.as_str(), AtFlags::empty()).map_err(create)?;
    Ok(file)
}

/// A detached copy of the mount without its read-only flag: a container's hostPath is read-only for the
/// agent alone. Nobody else sees the copy, and it ends with its file descriptor. Needs `CAP_SYS_ADMIN`.
fn writable_clone(directory: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(directory, "", flags)?;
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
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart() {
        for (errno, expected) in [
            (EROFS, Probe::Refused(EROFS)),
            (EIO, Probe::Refused(EIO)),
            (EFSCORRUPTED, Probe::Refused(EFSCORRUPTED)),
            (ENOSPC, Probe::Full),
            (EDQUOT, Probe::Full),
            (13, Probe::Unable("EACCES (permission denied)".into())),
            (2, Probe::Unable("errno 2".into())),
        ] {
            assert_eq!(judge(errno, Probe::Refused), expected);
        }
    }

    #[test]
    fn a_writable_directory_is_writable_and_stays_empty() {
        let dir = tempfile::tempdir().unwrap();
        let dev = Dev::from_stat(stat(dir.path()).unwrap().st_dev);
        assert_eq!(write_probe(dir.path(), dev).probe, Probe::Writable);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_directory_or_another_filesystem_is_no_verdict() {
        let gone = write_probe(Path::new("/nonexistent/x"), Dev::new(7, 3)).probe;
        assert!(matches!(gone, Probe::Unable(_)), "{gone:?}");
        let other = write_probe(Path::new("/proc"), Dev::new(7, 3)).probe;
        assert!(matches!(other, Probe::Unable(_)), "{other:?}");
    }
}
