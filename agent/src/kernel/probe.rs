//! The probes of a filesystem: a check of its root directory, and a write probe that creates and syncs a file.
//!
//! A write probe is made only for a reason: after an event on that filesystem, or at the start if it remembers an error.
//! It is never made on a timer and never for a request, and it leaves nothing behind. A disk may never answer, so the
//! caller runs it in [`Bounded`](crate::host::Bounded).

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

/// The result of a write probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A file was created and synced.
    Writable,
    /// Creating a file failed with this errno: EROFS or an I/O error.
    Refused(i32),
    /// A file was created, and syncing it failed with this errno.
    SyncFailed(i32),
    /// There is no space or no quota, which is no fault of the filesystem.
    Full,
    /// The probe could not be made, and why: no permission, the directory is gone, or its mount is read-only for this
    /// process alone.
    Unable(String),
    /// No answer in time.
    Late,
}

/// The state of a filesystem's root directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// It can be read.
    Fine,
    /// It gives this errno, for which the filesystem or its device is responsible.
    Failed(i32),
    /// It cannot be reached: no permission, or another filesystem is mounted over it.
    Unreachable,
    /// No answer in time.
    Late,
}

/// The result of a write probe, and whether the filesystem is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The result.
    pub probe: Probe,
    /// Whether no block or no inode is free, which explains lost writes.
    pub full: bool,
}

/// Checks the root directory of the filesystem `dev`. It is the only place where an xfs shows that it was shut down.
///
/// With `sync` the root directory is synced as well, which writes nothing if nothing has changed. Up to Linux 6.12 an ext4
/// that was shut down shows it nowhere else until a program writes to it.
#[must_use]
pub fn check_root(root: &Path, dev: Dev, sync: bool) -> Root {
    let stat_and_sync = || {
        let found = stat(root)?;
        if sync {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            fsync(&open(root, flags, Mode::empty())?)?;
        }
        Ok(found)
    };
    match stat_and_sync() {
        // Each subvolume of a btrfs has a device number of its own, which is in no table.
        Ok(found) if dev.major() == 0 || Dev::from_stat(found.st_dev) == dev => Root::Fine,
        Err(error) if is_io_error(Errno::raw_os_error(error)) => Root::Failed(error.raw_os_error()),
        Ok(_) | Err(_) => Root::Unreachable,
    }
}

/// Whether an errno means that the filesystem or a device below it has failed.
fn is_io_error(errno: i32) -> bool {
    const ENXIO: i32 = 6;
    const ESHUTDOWN: i32 = 108;
    matches!(errno, EIO | ENODEV | ENXIO | ESHUTDOWN | EFSCORRUPTED | EFSBADCRC)
}

/// Creates, syncs and drops a file in `directory`, which has to be on the filesystem `dev`.
#[must_use]
pub fn write_probe(directory: &Path, dev: Dev) -> Report {
    let mut full = false;
    let probe = match try_probe(directory, dev, &mut full) {
        Ok(()) => Probe::Writable,
        Err(Failure::Create(errno)) => judge(errno, Probe::Refused),
        // A full thin device gives ENOSPC only here, while its filesystem still counts free space.
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
    // Each subvolume of a btrfs has a device number of its own, which is in no table.
    if dev.major() != 0 && found != dev {
        return Err(Failure::Unable(format!("another filesystem ({found}) is mounted over it")));
    }
    let space = fstatvfs(&opened).map_err(create)?;
    *full = space.f_bavail == 0 || (space.f_files > 0 && space.f_favail == 0);
    // The superblock of a filesystem that is probed is writable, so this flag is that of the mount.
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

/// Makes a detached copy of a mount, without its read-only flag: the hostPath of a container may be read-only for the agent
/// alone. No other process sees the copy, and it goes away with its file descriptor. Needs `CAP_SYS_ADMIN`.
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
