//! The lock that only one running agent holds.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

/// Why there is no lock.
#[derive(Debug)]
pub(super) enum NoLock {
    /// A running agent holds it.
    Held,
    /// It cannot be tried.
    Io(io::Error),
}

/// Locks a directory for as long as the descriptor is open.
///
/// An agent that was killed while one of its threads hangs in the kernel on a dead disk never quite ends, and keeps its
/// lock until the disk answers. It does nothing any more, so the lock is not waited for.
pub(super) fn lock(directory: &Path) -> Result<OwnedFd, NoLock> {
    let flags = libc::O_DIRECTORY | libc::O_CLOEXEC;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(directory);
    let file = file.map_err(NoLock::Io)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file.into()),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let inode = file.metadata().map_err(NoLock::Io)?.ino();
            let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
            match holder(&locks, inode) {
                Some(pid) if is_dead(pid) => Ok(file.into()),
                _ => Err(NoLock::Held),
            }
        }
        Err(error) => Err(NoLock::Io(error.into())),
    }
}

/// The process that holds the flock(2) of this inode, by `/proc/locks`:
/// `1: FLOCK  ADVISORY  WRITE 710 00:2a:1 0 EOF`.
fn holder(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let is_flock = words.next()? == "FLOCK";
        let pid = words.nth(2)?.parse().ok()?;
        let place = words.next()?.rsplit(':').next()?.parse::<u64>().ok()?;
        (is_flock && place == inode).then_some(pid)
    })
}

/// Whether the main thread of a process has ended.
fn is_dead(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => matches!(state(&stat), Some('Z' | 'X')),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// The state of a process, behind its name, which may have anything in it.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(") ")?.1.chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:19:5 0 EOF\n\
            1: -> FLOCK  ADVISORY  WRITE 8 00:19:5 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 710 00:2a:5 0 EOF\n3: nonsense\n";
        assert_eq!(holder(locks, 5), Some(710));
        assert_eq!(holder(locks, 6), None);
    }

    #[test]
    fn a_process_without_its_main_thread_is_dead() {
        for (stat, expected) in [
            ("710 (tocsin) Z 1 710 710 0", Some('Z')),
            ("710 (a) Z (b) S 1 710", Some('S')),
            ("", None),
        ] {
            assert_eq!(state(stat), expected, "{stat}");
        }
        assert!(!is_dead(std::process::id()));
    }

    #[test]
    fn only_one_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(matches!(lock(dir.path()), Err(NoLock::Held)));
        drop(held);
        lock(dir.path()).unwrap();
        assert!(matches!(lock(&dir.path().join("missing")), Err(NoLock::Io(_))));
    }
}
