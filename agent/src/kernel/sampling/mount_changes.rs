//! Detects changes of the mount table without reading all of it: a node may have hundreds of mounts, few of them of
//! disks, and the sampler needs the table every second.
//!
//! `poll(2)` on mountinfo reports every change but one: a superblock may change its flags and options by itself, or by
//! fsconfig(2). The detector reads those of each superblock with statmount(2), which Linux has since 6.11. On older
//! kernels, and after any unexpected result, the table has to be read.

use std::{collections::BTreeMap, fs::File, io, os::fd::AsRawFd, path::Path};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::model::Dev;

/// Number of statmount(2), the same on every architecture (`scripts/syscall.tbl`). libc does not have it for all of them.
const SYS_STATMOUNT: libc::c_long = 457;
/// Number of listmount(2), likewise.
const SYS_LISTMOUNT: libc::c_long = 458;
/// `NS_GET_MNTNS_ID` (linux/nsfs.h): `_IOR(0xb7, 5, __u64)`
const NS_GET_MNTNS_ID: u32 = 0x8008_b705;
/// `LSMT_ROOT` (linux/mount.h): all mounts of the namespace.
const ALL: u64 = u64::MAX;
/// `STATMOUNT_SB_BASIC` and `STATMOUNT_MNT_OPTS` (linux/mount.h).
const SUPERBLOCK: u32 = 0x1;
const OPTIONS: u32 = 0x80;
/// A number that no mount has.
const UNKNOWN: u64 = 0;
/// 4 KiB for one result of statmount(2): options are some hundred bytes.
const ANSWER: usize = 4096;
/// 256 mounts for one call of listmount(2).
const LIST: usize = 256;

/// `struct mnt_id_req`, as of 6.11.
#[repr(C)]
struct Request {
    size: u32,
    spare: u32,
    mount: u64,
    param: u64,
    namespace: u64,
}

/// Byte offsets of fields in `struct statmount` (linux/mount.h), and its length before its text.
const SIZE: usize = 0;
const TEXT: usize = 4;
const MASK: usize = 8;
const MAJOR: usize = 16;
const MINOR: usize = 20;
const FLAGS: usize = 32;
const HEAD: usize = 512;

/// Says whether the mount table of one namespace may have changed since it was read last.
#[derive(Debug)]
pub(super) struct MountChangeDetector {
    /// A separate open file: `poll(2)` reports each change once per open file.
    table: File,
    namespace: u64,
    /// The unique number of one mount of each superblock on a disk.
    mounts: BTreeMap<Dev, u64>,
    /// Flags and options of these superblocks before the table was read last.
    seen: Option<Vec<u8>>,
}

impl MountChangeDetector {
    /// A detector for the mountinfo file at `table`; `None` if it is not in a process's directory of procfs, or if the
    /// kernel is older than 6.11.
    pub(super) fn new(table: &Path) -> Option<Self> {
        let namespace = File::open(table.with_file_name("ns/mnt")).ok()?;
        let mut id = 0_u64;
        // SAFETY: the ioctl writes a u64 to where there is room for one, and does nothing else.
        let result =
            unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_MNTNS_ID.into(), &raw mut id) };
        if result != 0 {
            return None;
        }
        let table = File::open(table).ok()?;
        Some(Self { table, namespace: id, mounts: BTreeMap::new(), seen: None })
    }

    /// Whether nothing has changed since the last call. If false, the caller has to read the table now.
    pub(super) fn is_unchanged(&mut self) -> bool {
        let is_notified = self.is_notified();
        let now = self.read_superblocks().ok();
        let is_unchanged = !is_notified && now.is_some() && now == self.seen;
        self.seen = now;
        is_unchanged
    }

    /// Watches the superblocks of these devices from now on. The next [`is_unchanged`](Self::is_unchanged) is false.
    pub(super) fn watch(&mut self, devices: impl IntoIterator<Item = Dev>) {
        self.invalidate();
        self.mounts = devices.into_iter().map(|device| (device, UNKNOWN)).collect();
        // A superblock without a known mount cannot be read, so the table is read each time.
        let _refused = self.find_mounts();
    }

    /// Makes the next [`is_unchanged`](Self::is_unchanged) false: the table could not be read.
    pub(super) fn invalidate(&mut self) {
        self.seen = None;
    }

    /// Whether `poll(2)` reports a change, or fails.
    fn is_notified(&self) -> bool {
        let mut files = [PollFd::new(&self.table, PollFlags::PRI | PollFlags::ERR)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut files, Some(&now)) != Ok(0)
    }

    /// Flags and options of the watched superblocks, as bytes to compare.
    fn read_superblocks(&self) -> io::Result<Vec<u8>> {
        let mut answers = Vec::with_capacity(64 * self.mounts.len());
        let mut answer = [0; ANSWER];
        for mount in self.mounts.values() {
            if *mount == UNKNOWN {
                return Err(io::ErrorKind::NotFound.into());
            }
            let wanted = SUPERBLOCK | OPTIONS;
            let answer = self.statmount(*mount, wanted, &mut answer)?;
            let present = number(answer, MASK);
            if present & SUPERBLOCK == 0 {
                return Err(io::ErrorKind::Unsupported.into());
            }
            answers.extend(number(answer, FLAGS).to_ne_bytes());
            // A superblock may have no options.
            if present & OPTIONS != 0 {
                let text = answer.get(HEAD + length(answer, TEXT)..).unwrap_or_default();
                let end = text.iter().position(|byte| *byte == 0);
                answers.extend(text.iter().take(end.unwrap_or(text.len())));
            }
            answers.push(0);
        }
        Ok(answers)
    }

    /// Finds one mount of each watched superblock.
    fn find_mounts(&mut self) -> io::Result<()> {
        let mut answer = [0; ANSWER];
        for mount in self.list()? {
            let Ok(answer) = self.statmount(mount, SUPERBLOCK, &mut answer) else { continue };
            let device = Dev::new(number(answer, MAJOR), number(answer, MINOR));
            if let Some(entry) = self.mounts.get_mut(&device) {
                *entry = mount;
            }
        }
        Ok(())
    }

    /// The unique numbers of all mounts of the namespace.
    fn list(&self) -> io::Result<Vec<u64>> {
        let mut all = Vec::new();
        loop {
            let mut some = [0_u64; LIST];
            let last = all.last().copied().unwrap_or(0);
            let request = self.request(ALL, last);
            // SAFETY: the kernel reads `size` bytes of the request, and writes at most `LIST` numbers.
            let count = unsafe {
                libc::syscall(SYS_LISTMOUNT, &raw const request, some.as_mut_ptr(), LIST, 0_u32)
            };
            let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
            all.extend(some.iter().take(count));
            if count < LIST {
                return Ok(all);
            }
        }
    }

    /// Calls statmount(2) for one mount.
    fn statmount<'a>(
        &self,
        mount: u64,
        wanted: u32,
        answer: &'a mut [u8; ANSWER],
    ) -> io::Result<&'a [u8]> {
        let request = self.request(mount, wanted.into());
        // SAFETY: the kernel reads `size` bytes of the request, and writes at most `ANSWER` bytes.
        let result = unsafe {
            libc::syscall(SYS_STATMOUNT, &raw const request, answer.as_mut_ptr(), ANSWER, 0_u32)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        answer
            .get(..length(answer, SIZE))
            .filter(|answer| answer.len() >= HEAD)
            .ok_or(Errno::INVAL.into())
    }

    fn request(&self, mount: u64, param: u64) -> Request {
        /// `MNT_ID_REQ_SIZE_VER1`
        const SIZE: u32 = 32;
        const { assert!(size_of::<Request>() == 32) };
        Request { size: SIZE, spare: 0, mount, param, namespace: self.namespace }
    }
}

fn number(answer: &[u8], at: usize) -> u32 {
    let bytes = answer.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

fn length(answer: &[u8], at: usize) -> usize {
    usize::try_from(number(answer, at)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Whether this kernel has statmount(2) with `STATMOUNT_MNT_OPTS`, by its release.
    fn has_statmount() -> bool {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        let (major, minor) = (numbers.next().unwrap().unwrap(), numbers.next().unwrap().unwrap());
        (major, minor) >= (6, 11)
    }

    #[test]
    fn only_a_read_table_without_a_change_is_unchanged() {
        let path = Path::new("/proc/self/mountinfo");
        let detector = MountChangeDetector::new(path);
        assert_eq!(detector.is_some(), has_statmount());
        let Some(mut detector) = detector else { return };
        let table = fs::read_to_string(path).unwrap();
        let device = |line: &str| {
            let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
            Some(Dev::new(major.parse().ok()?, minor.parse().ok()?))
        };
        assert!(!detector.is_unchanged(), "never read");
        detector.watch(table.lines().filter_map(device));
        assert!(detector.mounts.values().all(|mount| *mount != UNKNOWN), "{:?}", detector.mounts);
        assert!(!detector.is_unchanged(), "not read since");
        // Other tests mount at the same time.
        assert!((0..100).any(|_| detector.is_unchanged()));
        let seen = String::from_utf8_lossy(detector.seen.as_deref().unwrap()).into_owned();
        assert!(seen.contains("mode=") || seen.contains("size="), "{seen:?}");
        detector.invalidate();
        assert!(!detector.is_unchanged(), "could not be read");
        // listmount(2) is refused, by a seccomp filter or for want of a privilege.
        let mut refused = MountChangeDetector::new(path).unwrap();
        refused.namespace = 1;
        refused.watch(table.lines().filter_map(device));
        assert!((0..3).all(|_| !refused.is_unchanged()), "refused");
        detector.mounts.insert(Dev::new(0, 0), 1);
        assert!(!detector.is_unchanged() && !detector.is_unchanged(), "a mount that is gone");
        assert!(MountChangeDetector::new(&std::env::temp_dir().join("mountinfo")).is_none());
    }
}
