//! One test's own world: a mount namespace, a tmpfs in it, and the promise to take it all down.
//!
//! Each test runs on a thread of its own (libtest does so), and the namespace belongs to that thread
//! and to what it starts. So tests run in parallel, and an agent sees the mounts of its own test only.
//! Loop devices and the kernel's events are the whole machine's: an agent hears of the neighbours'
//! faults too, on devices that it does not see mounted, and has to stay silent about them.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

use rustix::mount::{MountFlags, MountPropagationFlags};
use tempfile::TempDir;

use crate::{mount, sys, tool};

/// The longest test takes some 30 s; one that hangs (a task in D state cannot be killed) would hold up
/// everything behind it forever.
const WATCHDOG: Duration = Duration::from_mins(4);

/// Tests that count what the whole machine does hold this alone.
static MACHINE: RwLock<()> = RwLock::new(());

#[expect(dead_code, reason = "the guards are held, never looked at")]
enum Share {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// A mount namespace with an empty tmpfs; drop it last.
pub struct Sandbox {
    name: String,
    directory: TempDir,
    // Ends the watchdog when it is dropped.
    watchdog: Option<Sender<()>>,
    _share: Share,
}

impl Sandbox {
    /// A world beside others; none, with the reason printed, where the machine has not what it takes.
    pub fn new() -> Option<Self> {
        Self::with(|| Share::Shared(MACHINE.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// A world while no other test runs; say beside the call why it must.
    pub fn alone() -> Option<Self> {
        Self::with(|| Share::Alone(MACHINE.write().unwrap_or_else(PoisonError::into_inner)))
    }

    /// A world for work that takes its time, such as a bench.
    pub fn new_unwatched() -> Option<Self> {
        let mut sandbox = Self::new()?;
        sandbox.watchdog = None;
        Some(sandbox)
    }

    fn with(share: impl FnOnce() -> Share) -> Option<Self> {
        if !require_machine() {
            return None;
        }
        let share = share();
        let name = test_name();
        sys::unshare_mounts().expect("unshare the mount namespace");
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).expect("make / private");
        let directory = TempDir::with_prefix("tocsin-e2e-").expect("make a temporary directory");
        let flags = MountFlags::empty();
        rustix::mount::mount("tmpfs", directory.path(), "tmpfs", flags, c"mode=0755")
            .expect("mount a tmpfs");
        let watchdog = watch(name.clone());
        Some(Self { name, directory, watchdog: Some(watchdog), _share: share })
    }

    /// The test's name, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path in the tmpfs.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A sparse file in the tmpfs.
    pub fn file(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        let file = File::create_new(&path).expect("make a backing file");
        file.set_len(size).expect("size the backing file");
        path
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // In reverse, by path: what the test's own guards left behind, and then the tmpfs.
        mount::unmount_beneath(self.directory.path());
        let _gone = fs::remove_dir_all(self.directory.path());
    }
}

fn test_name() -> String {
    thread::current().name().unwrap_or("main").to_owned()
}

/// Ends the process if the sandbox is not dropped in time. The kernel then aborts the FUSE
/// connections, which wakes the hung tasks, and clears the loop devices.
fn watch(name: String) -> Sender<()> {
    let (alive, done) = mpsc::channel();
    thread::spawn(move || {
        if done.recv_timeout(WATCHDOG) == Err(RecvTimeoutError::Timeout) {
            say(&format!("{name} is stuck for {} s: giving up", WATCHDOG.as_secs()));
            std::process::abort();
        }
    });
    alive
}

/// Whether a test can run here. Where it cannot, it says why and returns; with `TOCSIN_REQUIRE_ALL=1`,
/// where everything has to be there, it fails.
#[must_use]
pub fn require(condition: bool, why: &str) -> bool {
    let all = std::env::var_os("TOCSIN_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(condition || !all, "TOCSIN_REQUIRE_ALL=1, but {why}");
    if !condition {
        say(&format!("SKIP {}: {why}", test_name()));
    }
    condition
}

/// What every fixture needs.
fn require_machine() -> bool {
    let device = |path: &str| require(Path::new(path).exists(), &format!("there is no {path}"));
    let tool = |name: &str| require(tool::is_installed(name), &format!("{name} is not installed"));
    require(rustix::process::geteuid().is_root(), "mounting takes root")
        && device("/dev/loop-control")
        && device("/dev/fuse")
        && tool("mkfs.ext4")
        && tool("debugfs")
}

/// A line that libtest does not swallow: the handle is not captured as `eprintln!` is.
pub fn say(line: &str) {
    let _lost = writeln!(std::io::stderr(), "{line}");
}
