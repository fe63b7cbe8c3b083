//! Where this host's /proc, /sys and / are, and blocking calls that may never return.

mod bounded;

use std::{
    fs,
    io::{self, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, open, openat2},
    io::Errno,
};

pub use self::bounded::{Bounded, Stuck};

/// openat2(2) gives up on `..` while anything is mounted anywhere; the next attempt is microseconds later.
pub const OPEN_RETRIES: usize = 8;

/// The places of the host that the agent reads. Tests and containers have others than `/`.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Root directory of the mount namespace that is watched: mount points are below it.
    pub root: PathBuf,
    /// A procfs.
    pub proc: PathBuf,
    /// The sysfs.
    pub sys: PathBuf,
    /// The mount table that is watched.
    pub mount_table: PathBuf,
}

impl Paths {
    /// For the namespace whose table is at `mount_table`, usually `/proc/1/mountinfo`: the host's, also
    /// from inside a container with `hostPID`. Where that may not be read (not root), the agent's own
    /// table has to do; the second value then says so.
    pub fn new(mount_table: &Path) -> io::Result<(Self, Option<String>)> {
        let (proc, sys) = (PathBuf::from("/proc"), PathBuf::from("/sys"));
        let own = proc.join("self/mountinfo");
        let at = |mount_table: PathBuf, root: PathBuf| Self {
            root,
            proc: proc.clone(),
            sys,
            mount_table,
        };
        match readable(mount_table) {
            Ok(()) => {
                let root = root_of(mount_table);
                Ok((at(mount_table.to_owned(), root), None))
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let why = format!(
                    "{} cannot be read ({error}): watching this process's own mount table",
                    mount_table.display()
                );
                Ok((at(own, PathBuf::from("/")), Some(why)))
            }
            Err(error) => {
                let why = format!("{}: {error}", mount_table.display());
                Err(io::Error::new(error.kind(), why))
            }
        }
    }

    /// `path` of the watched namespace, as this process reaches it.
    #[must_use]
    pub fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// `path` below `root`, opened for what takes no more than a name ([`OFlags::PATH`]). From a container too, a symbolic
/// link leads to where it leads on the host. Blocks for as long as the filesystem likes.
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
        // A link with `..` while something is mounted anywhere: see openat2(2).
        if found.as_ref().err() != Some(&Errno::AGAIN) {
            break;
        }
        found = in_root();
    }
    match found {
        // Filtered by a container's runtime that does not know it.
        Err(Errno::NOSYS | Errno::PERM) => by_name(),
        other => other,
    }
}

/// Whether a file of procfs may be read: some check that at the first read, not when it is opened.
fn readable(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.read(&mut [0; 1]).map(drop)
}

/// The root directory that belongs to `/proc/<pid>/mountinfo`: `/` where that process shares our mount
/// namespace, `/proc/<pid>/root` where it does not.
fn root_of(mount_table: &Path) -> PathBuf {
    let Some(process) = mount_table.parent() else { return PathBuf::from("/") };
    let namespace = |process: &Path| fs::read_link(process.join("ns/mnt")).ok();
    let (theirs, ours) = (namespace(process), namespace(Path::new("/proc/self")));
    if theirs.is_some() && theirs != ours { process.join("root") } else { PathBuf::from("/") }
}

/// Raises the soft limit of open files to the hard one, and tells it. Every disk and every connection is an
/// open file, and most systems start a process with 1,024 of them.
#[must_use]
pub fn raise_open_files() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: maximum, maximum };
    let _stays_as_it_is = setrlimit(Resource::Nofile, wanted);
    let current = getrlimit(Resource::Nofile).current;
    current.map_or(usize::MAX, |current| usize::try_from(current).unwrap_or(usize::MAX))
}

/// Whether this process is in a container's own PID namespace: then `/proc/1` is not the host's first process.
/// The first namespace has a fixed inode (`PROC_PID_INIT_INO` in `include/linux/proc_ns.h`).
#[must_use]
pub fn is_pid_namespaced(proc: &Path) -> bool {
    const FIRST: &str = "pid:[4026531836]";
    fs::read_link(proc.join("self/ns/pid")).is_ok_and(|link| link.as_os_str() != FIRST)
}

/// The kernel's clocks.
pub mod clock {
    use rustix::time::{ClockId, clock_gettime};

    /// `CLOCK_MONOTONIC` in nanoseconds: what `bpf_ktime_get_ns` gives, so events can be compared with it.
    #[must_use]
    pub fn monotonic() -> u64 {
        let now = clock_gettime(ClockId::Monotonic);
        // Both are positive and 584 years do not overflow.
        now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
    }
}
