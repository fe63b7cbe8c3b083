//! Whether the mount table says what it said, without having the kernel write all of it: a node may have hundreds of
//! mounts, of which a few are of disks, and it is looked at every second.
//!
//! The kernel tells of every change but one: a superblock's flags and options may change by themselves, or by
//! fsconfig(2). Those are asked for one by one with statmount(2), of Linux 6.11 and later; before, and wherever it
//! answers anything unexpected, the table is read.

use std::{collections::BTreeMap, fs::File, io, os::fd::AsRawFd, path::Path};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use crate::model::Dev;

/// The same for every architecture (`scripts/syscall.tbl`), and not in libc for all of them.
const SYS_STATMOUNT: libc::c_long = 457;
const SYS_LISTMOUNT: libc::c_long = 458;
/// `NS_GET_MNTNS_ID` (linux/nsfs.h): `_IOR(0xb7, 5, __u64)`
const NS_GET_MNTNS_ID: u32 = 0x8008_b705;
/// `LSMT_ROOT` (linux/mount.h): everything in the namespace.
const ALL: u64 = u64::MAX;
/// `STATMOUNT_SB_BASIC` and `STATMOUNT_MNT_OPTS` (linux/mount.h).
const SUPERBLOCK: u32 = 0x1;
const OPTIONS: u32 = 0x80;
/// No mount's number.
const UNKNOWN: u64 = 0;
/// A page for one answer: options are some hundred bytes.
const ANSWER: usize = 4096;
/// Up to which answer a list is asked for at once.
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

/// Where the fields are in `struct statmount`, and how long it is before its text.
const SIZE: usize = 0;
const TEXT: usize = 4;
const MASK: usize = 8;
const MAJOR: usize = 16;
const MINOR: usize = 20;
const FLAGS: usize = 32;
const HEAD: usize = 512;

/// Watches over a namespace's mount table.
#[derive(Debug)]
pub(super) struct Same {
    /// A file of its own: whoever polls one has heard of what there was.
    table: File,
    namespace: u64,
    /// One mount of each superblock on a disk.
    mounts: BTreeMap<Dev, u64>,
    /// What they said before the table was read last.
    seen: Option<Vec<u8>>,
}

impl Same {
    /// For the table of that name, if it is a process's and this kernel can.
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

    /// Whether nothing has changed since the table was read last. Where not, it has to be read now.
    pub(super) fn is_same(&mut self) -> bool {
        let is_told = self.is_told();
        let now = self.ask().ok();
        let is_same = !is_told && now.is_some() && now == self.seen;
        self.seen = now;
        is_same
    }

    /// Asks about these from now on: the next answer is that the table has to be read.
    pub(super) fn watch(&mut self, devices: impl IntoIterator<Item = Dev>) {
        self.forget();
        self.mounts = devices.into_iter().map(|device| (device, UNKNOWN)).collect();
        // What it does not find cannot be asked about, and the table is read each time.
        let _refused = self.find();
    }

    /// The table could not be read: the next answer is that it has to be.
    pub(super) fn forget(&mut self) {
        self.seen = None;
    }

    /// Whether the kernel tells of a change of its mounts, or cannot.
    fn is_told(&self) -> bool {
        let mut files = [PollFd::new(&self.table, PollFlags::PRI | PollFlags::ERR)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut files, Some(&now)) != Ok(0)
    }

    /// What is to stay the same, in bytes.
    fn ask(&self) -> io::Result<Vec<u8>> {
        let mut answers = Vec::with_capacity(64 * self.mounts.len());
        let mut answer = [0; ANSWER];
        for mount in self.mounts.values() {
            if *mount == UNKNOWN {
                return Err(io::ErrorKind::NotFound.into());
            }
            let wanted = SUPERBLOCK | OPTIONS;
            let answer = self.statmount(*mount, wanted, &mut answer)?;
            let told = number(answer, MASK);
            if told & SUPERBLOCK == 0 {
                return Err(io::ErrorKind::Unsupported.into());
            }
            answers.extend(number(answer, FLAGS).to_ne_bytes());
            // There may be none.
            if told & OPTIONS != 0 {
                let text = answer.get(HEAD + length(answer, TEXT)..).unwrap_or_default();
                let end = text.iter().position(|byte| *byte == 0);
                answers.extend(text.iter().take(end.unwrap_or(text.len())));
            }
            answers.push(0);
        }
        Ok(answers)
    }

    /// Finds a mount of each superblock.
    fn find(&mut self) -> io::Result<()> {
        let mut answer = [0; ANSWER];
        for mount in self.list()? {
            let Ok(answer) = self.statmount(mount, SUPERBLOCK, &mut answer) else { continue };
            let device = Dev::new(number(answer, MAJOR), number(answer, MINOR));
            if let Some(seat) = self.mounts.get_mut(&device) {
                *seat = mount;
            }
        }
        Ok(())
    }

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

    /// `fs::read` of what is polled would not do: the file has to be the one that is.
    #[test]
    fn what_does_not_change_is_the_same() {
        let path = Path::new("/proc/self/mountinfo");
        let Some(mut same) = Same::new(path) else {
            // Before 6.11.
            return;
        };
        let table = fs::read_to_string(path).unwrap();
        let device = |line: &str| {
            let (major, minor) = line.split(' ').nth(2)?.split_once(':')?;
            Some(Dev::new(major.parse().ok()?, minor.parse().ok()?))
        };
        assert!(!same.is_same(), "never read");
        same.watch(table.lines().filter_map(device));
        assert!(same.mounts.values().all(|mount| *mount != UNKNOWN), "{:?}", same.mounts);
        assert!(!same.is_same(), "not read since");
        // Other tests mount.
        assert!((0..100).any(|_| same.is_same()));
        let seen = String::from_utf8_lossy(same.seen.as_deref().unwrap()).into_owned();
        assert!(seen.contains("mode=") || seen.contains("size="), "{seen:?}");
        // A table that could not be read then.
        same.forget();
        assert!(!same.is_same());
        // listmount(2) is refused, by a seccomp filter or for want of a privilege: nothing is the same ever.
        let mut refused = Same::new(path).unwrap();
        refused.namespace = 1;
        refused.watch(table.lines().filter_map(device));
        assert!((0..3).all(|_| !refused.is_same()));
        // A mount that is gone.
        same.mounts.insert(Dev::new(0, 0), 1);
        assert!(!same.is_same() && !same.is_same());
        assert!(Same::new(&std::env::temp_dir().join("mountinfo")).is_none());
    }
}
