//! A disk with fault injection: a FUSE filesystem with one file, `disk`, over which a loop device is made.
//!
//! It runs in this process, so a test injects a fault by a call. Requests are answered one at a time; a request that is
//! to hang or to be slow is put aside, and does not hold up the others.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

pub use fuser::Errno;
use fuser::{
    BackgroundSession, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, Session, SessionACL, WriteFlags,
};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::Sandbox;
use crate::sync::lock;

/// The inode of the file; the root has 1.
const DISK: INodeNo = INodeNo(2);

/// A kind of request to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A punched hole: what a loop device makes of a discard or of write-zeroes.
    Discard,
    /// An `fsync`: what a loop device makes of a flush.
    Flush,
    /// A `statfs` of the filesystem itself; it touches the whole range.
    Statfs,
}

#[derive(Clone, Copy, Debug)]
enum Action {
    Fail(i32),
    Hang,
    Delay(Duration),
}

#[derive(Debug)]
struct Rule {
    operation: Operation,
    action: Action,
    range: Range<u64>,
}

/// A request that hangs: calling it sends the answer.
type Parked = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    parked: Vec<Parked>,
    failed: u64,
}

/// Injects faults; cheap to clone, and used while requests are under way.
#[derive(Clone, Default)]
pub struct Control(Arc<Mutex<State>>);

/// The whole disk, as a byte range.
pub const EVERYWHERE: Range<u64> = 0..u64::MAX;

impl Control {
    /// Fails every `operation` from now on with `errno` where it touches `range`, in bytes.
    pub fn fail(&self, operation: Operation, errno: Errno, range: Range<u64>) {
        self.add(Rule { operation, action: Action::Fail(errno.code()), range });
    }

    /// Lets every `operation` that touches `range` hang from now on, until the guard is dropped.
    pub fn hang(&self, operation: Operation, range: Range<u64>) -> Hang {
        self.add(Rule { operation, action: Action::Hang, range });
        Hang(self.clone())
    }

    /// Answers every `operation` that touches `range` late from now on.
    pub fn delay(&self, operation: Operation, by: Duration, range: Range<u64>) {
        self.add(Rule { operation, action: Action::Delay(by), range });
    }

    /// Ends all faults, and answers the requests that hang.
    pub fn heal(&self) {
        let parked = {
            let mut state = self.lock();
            state.rules.clear();
            std::mem::take(&mut state.parked)
        };
        for answer in parked {
            answer();
        }
    }

    /// The number of requests that were failed so far.
    pub fn failed(&self) -> u64 {
        self.lock().failed
    }

    /// The number of requests that hang now.
    pub fn hanging(&self) -> usize {
        self.lock().parked.len()
    }

    fn add(&self, rule: Rule) {
        self.lock().rules.push(rule);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Calls `answer` now, later, or when the disk is healed; with the errno to fail with, if any.
    fn answer(
        &self,
        operation: Operation,
        range: &Range<u64>,
        answer: impl FnOnce(Option<i32>) + Send + 'static,
    ) {
        let mut state = self.lock();
        let action = state
            .rules
            .iter()
            .find(|rule| {
                let overlaps = rule.range.start < range.end && range.start < rule.range.end;
                rule.operation == operation && overlaps
            })
            .map(|rule| rule.action);
        match action {
            Some(Action::Hang) => state.parked.push(Box::new(move || answer(None))),
            Some(Action::Fail(errno)) => {
                state.failed += 1;
                drop(state);
                answer(Some(errno));
            }
            Some(Action::Delay(by)) => {
                drop(state);
                thread::spawn(move || {
                    thread::sleep(by);
                    answer(None);
                });
            }
            None => {
                drop(state);
                answer(None);
            }
        }
    }
}

/// A hang, which ends when this is dropped: the disk is then healed as a whole.
#[must_use = "dropping it ends the hang"]
pub struct Hang(Control);

impl Drop for Hang {
    fn drop(&mut self) {
        self.0.heal();
    }
}

struct Disk {
    content: Arc<File>,
    size: u64,
    control: Control,
}

impl Disk {
    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match inode {
            INodeNo::ROOT => (FileType::Directory, 0o755, 0),
            DISK => (FileType::RegularFile, 0o644, self.size),
            _ => return None,
        };
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        })
    }
}

/// How long the kernel may keep attributes: nothing else changes the file.
const FOREVER: Duration = Duration::from_secs(1 << 20);

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(DISK) {
            Some(attributes) if name == "disk" => reply.entry(&FOREVER, &attributes, Generation(0)),
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&FOREVER, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // No page cache in between: every request of the loop device arrives here.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let end = (offset + u64::from(size)).min(self.size);
        let content = Arc::clone(&self.content);
        self.control.answer(Operation::Read, &(offset..end), move |errno| {
            let mut data = vec![0; usize::try_from(end.saturating_sub(offset)).unwrap_or(0)];
            match errno.map_or_else(|| content.read_exact_at(&mut data, offset), error) {
                Ok(()) => reply.data(&data),
                Err(error) => reply.error(error.into()),
            }
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let content = Arc::clone(&self.content);
        let data = data.to_owned();
        let range = offset..offset + data.len() as u64;
        self.control.answer(Operation::Write, &range, move |errno| {
            match errno.map_or_else(|| content.write_all_at(&data, offset), error) {
                Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
                Err(error) => reply.error(error.into()),
            }
        });
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.control.answer(Operation::Flush, &EVERYWHERE, move |errno| done(errno, reply));
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.size / 4096;
        // All blocks are free, and inodes are not counted.
        self.control.answer(Operation::Statfs, &EVERYWHERE, move |errno| match errno {
            None => reply.statfs(blocks, blocks, blocks, 0, 0, 4096, 255, 4096),
            Some(errno) => reply.error(Errno::from_i32(errno)),
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // This is close(2), not a flush of the device.
        reply.ok();
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let content = Arc::clone(&self.content);
        let flags = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        self.control.answer(Operation::Discard, &(offset..offset + length), move |errno| {
            let punched = || Ok(fallocate(&*content, flags, offset, length)?);
            match errno.map_or_else(punched, error) {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(error.into()),
            }
        });
    }
}

fn error(errno: i32) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(errno))
}

fn done(errno: Option<i32>, reply: ReplyEmpty) {
    match errno {
        None => reply.ok(),
        Some(errno) => reply.error(Errno::from_i32(errno)),
    }
}

/// The disk, as a mounted filesystem; unmounted on drop, with every request answered.
pub struct FaultyDisk {
    point: PathBuf,
    control: Control,
    session: Option<BackgroundSession>,
}

impl FaultyDisk {
    /// A good disk of `size` bytes, mounted in the sandbox under `name`.
    pub fn new(sandbox: &Sandbox, name: &str, size: u64) -> Self {
        let point = sandbox.path(name);
        std::fs::create_dir(&point).expect("make the mount point");
        // The content is a sparse file beside it, in memory like the whole sandbox.
        let content = sandbox.file(&format!("{name}.content"), size);
        let content =
            OpenOptions::new().read(true).write(true).open(content).expect("open the content");
        let control = Control::default();
        let disk = Disk { content: Arc::new(content), size, control: control.clone() };

        // Mounted here: fuser calls `fusermount` in some cases, and unmounts by path.
        let fuse =
            OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("open /dev/fuse");
        let options =
            format!("fd={},rootmode=40755,user_id=0,group_id=0,allow_other\0", fuse.as_raw_fd());
        let options =
            std::ffi::CStr::from_bytes_with_nul(options.as_bytes()).expect("one zero byte");
        rustix::mount::mount("faulty-disk", &point, "fuse", MountFlags::empty(), options)
            .expect("mount the FUSE filesystem");
        let mut config = fuser::Config::default();
        config.acl = SessionACL::All;
        let session = Session::from_fd(disk, OwnedFd::from(fuse), SessionACL::All, config)
            .and_then(Session::spawn)
            .expect("start the FUSE session");
        Self { point, control, session: Some(session) }
    }

    /// The file for a loop device.
    pub fn file(&self) -> PathBuf {
        self.point.join("disk")
    }

    /// Injects faults.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Its mount point.
    pub fn point(&self) -> &Path {
        &self.point
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        self.control.heal();
        // FORCE aborts the connection: no request can wait for an answer any more, even if a loop device still has the
        // file open.
        let flags = UnmountFlags::FORCE | UnmountFlags::DETACH;
        if let Err(error) = rustix::mount::unmount(&self.point, flags) {
            eprintln!("unmount {}: {error}", self.point.display());
        }
        if let Some(session) = self.session.take() {
            let _aborted = session.join();
        }
    }
}
