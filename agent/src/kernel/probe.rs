//! The probes of a filesystem: a check of its root directory, and a write probe that creates and syncs a file.
//!
//! A write probe is made only for a reason: after an event on that filesystem, or at the start if it remembers an error.
//! It is never made on a timer and never for a request, and it leaves nothing behind. A disk may never answer, so the
//! caller runs it in [`Bounded`](crate::host::Bounded).
//!
//! A file that is open through a mount makes `umount` fail with EBUSY. So a probe opens files only through a detached copy
//! of the mount ([`DetachedMount`]), and it waits for the disk without any open file where it can ([`Sync::Device`]): then
//! `umount` waits for the disk, too, and succeeds.

use std::{
    ffi::CString,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    ptr,
};

use rustix::{
    fs::{
        AtFlags, Mode, OFlags, StatVfsMountFlags, fstat, fstatvfs, fsync, openat, stat, unlinkat,
    },
    io::Errno,
};

use super::detached_mount::DetachedMount;
use crate::{
    errno::{self, EDQUOT, EFSBADCRC, EFSCORRUPTED, EIO, ENODEV, ENOSPC, EROFS},
    host::clock,
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
            let mount = DetachedMount::of(root, false)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            fsync(&openat(&mount.0, ".", flags, Mode::empty())?)?;
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

/// What a write probe does after it has created its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Nothing: a filesystem that failed refuses the file.
    None,
    /// It writes a block into the file, and syncs it. Until that is over, the filesystem stays in use even if it is
    /// unmounted.
    File,
    /// It closes the file, syncs the filesystem by the path of its block device, and creates a second file. The call is
    /// quotactl(2) with `Q_SYNC`, which needs no quota and is not used where quota is on. In it ext4 commits its journal,
    /// and the kernel holds no more than a lock for which `umount` waits (`fs/quota/quota.c`, `fs/quota/dquot.c`, 5.10 to
    /// 6.18). Where it does not work, the file is synced.
    Device(PathBuf),
}

/// Creates and drops a file in `directory`, which has to be on the filesystem `dev`, and syncs it.
#[must_use]
pub fn write_probe(directory: &Path, dev: Dev, sync: &Sync) -> Report {
    let mut full = false;
    let result = match sync {
        Sync::None => create(directory, dev, &mut full).map(drop),
        Sync::File => create_and_sync(directory, dev, &mut full),
        Sync::Device(device) => create(directory, dev, &mut full).and_then(|file| {
            // Here nothing of the filesystem may be open.
            drop(file);
            match sync_by_device(device, dev) {
                Some(Ok(())) => create(directory, dev, &mut full).map(drop),
                Some(Err(error)) => Err(Failure::Sync(error.raw_os_error())),
                None => create_and_sync(directory, dev, &mut full),
            }
        }),
    };
    let probe = match result {
        Ok(()) => Probe::Writable,
        Err(Failure::Create(errno)) => judge(errno, Probe::Refused),
        // A full thin device gives ENOSPC only here, while its filesystem still counts free space.
        Err(Failure::Sync(ENOSPC)) if !full => Probe::SyncFailed(ENOSPC),
        Err(Failure::Sync(errno)) => judge(errno, Probe::SyncFailed),
        Err(Failure::Unable(why)) => Probe::Unable(why),
    };
    Report { full: full || probe == Probe::Full, probe }
}

fn create_and_sync(directory: &Path, dev: Dev, full: &mut bool) -> Result<(), Failure> {
    let file = create(directory, dev, full)?;
    // A btrfs syncs a file that is empty and has no name without a write to any disk (`btrfs_log_inode_parent`).
    rustix::io::write(&file, &block()).map_err(|error| Failure::Create(error.raw_os_error()))?;
    fsync(&file).map_err(|error| Failure::Sync(error.raw_os_error()))
}

/// 4 KiB that no filesystem can compress so far that they would find room in the inode.
fn block() -> [u8; 4096] {
    let mut block = [0; 4096];
    // xorshift64, which must not begin with 0.
    let mut state = clock::monotonic() | 1;
    for bytes in block.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.copy_from_slice(&state.to_ne_bytes());
    }
    block
}

/// `Q_XGETQSTAT`, which is `XQM_CMD(5)` of `linux/dqblk_xfs.h`.
const Q_XGETQSTAT: i32 = ((b'X' as i32) << 8) + 5;

/// Room for a `struct fs_quota_stat` of `linux/dqblk_xfs.h`, which has 80 bytes.
#[repr(C)]
struct QuotaState([u64; 10]);

/// Syncs the filesystem on a block device; `None` if it cannot be synced in this way.
fn sync_by_device(device: &Path, dev: Dev) -> Option<rustix::io::Result<()>> {
    let found = stat(device).ok()?;
    if Dev::from_stat(found.st_rdev) != dev {
        return None;
    }
    let device = CString::new(device.as_os_str().as_bytes()).ok()?;
    let mut state = QuotaState([0; 10]);
    // SAFETY: the path is a C string, and Q_XGETQSTAT writes no more than a `fs_quota_stat`.
    let state =
        unsafe { libc::quotactl(Q_XGETQSTAT << 8, device.as_ptr(), 0, (&raw mut state).cast()) };
    // It succeeds where quota is on. There Q_SYNC may do nothing and still succeed: ext4 with the feature `quota` keeps its
    // quota in inodes that need no sync (DQUOT_QUOTA_SYS_FILE).
    if state == 0 {
        return None;
    }
    // `QCMD(Q_SYNC, USRQUOTA)` of linux/quota.h.
    let command = libc::Q_SYNC << 8;
    // SAFETY: Q_SYNC uses neither an id nor data, and the path is a C string.
    let result = unsafe { libc::quotactl(command, device.as_ptr(), 0, ptr::null_mut()) };
    if result == 0 {
        return Some(Ok(()));
    }
    let error = Errno::from_io_error(&io::Error::last_os_error())?;
    is_io_error(error.raw_os_error()).then_some(Err(error))
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

/// Creates a file without a name.
fn create(directory: &Path, dev: Dev, full: &mut bool) -> Result<OwnedFd, Failure> {
    let create = |error: Errno| Failure::Create(error.raw_os_error());
    let mut mount = DetachedMount::of(directory, false).map_err(create)?;
    let found = Dev::from_stat(fstat(&mount.0).map_err(create)?.st_dev);
    // Each subvolume of a btrfs has a device number of its own, which is in no table.
    if dev.major() != 0 && found != dev {
        return Err(Failure::Unable(format!("another filesystem ({found}) is mounted over it")));
    }
    let space = fstatvfs(&mount.0).map_err(create)?;
    *full = space.f_bavail == 0 || (space.f_files > 0 && space.f_favail == 0);
    // The superblock of a filesystem that is probed is writable, so this flag is that of the mount.
    if space.f_flag.contains(StatVfsMountFlags::RDONLY) {
        mount = DetachedMount::of(directory, true).map_err(|error| {
            Failure::Unable(format!(
                "its mount is read-only for this process, and a writable copy was refused: {error}"
            ))
        })?;
    }
    let opened = mount.0;
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match openat(&opened, ".", flags, Mode::RUSR) {
        Ok(file) => Ok(file),
        // Filesystems (and kernels) without O_TMPFILE.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL) => named_file(&opened),
        Err(error) => Err(create(error)),
    }
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
        assert_eq!(write_probe(dir.path(), dev, &Sync::File).probe, Probe::Writable);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_directory_or_another_filesystem_is_no_verdict() {
        let gone = write_probe(Path::new("/nonexistent/x"), Dev::new(7, 3), &Sync::None).probe;
        assert!(matches!(gone, Probe::Unable(_)), "{gone:?}");
        let other = write_probe(Path::new("/proc"), Dev::new(7, 3), &Sync::None).probe;
        assert!(matches!(other, Probe::Unable(_)), "{other:?}");
    }
}
