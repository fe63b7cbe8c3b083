//! A mount namespace of one test's own with a tmpfs in it, which takes everything down on drop.
//!
//! libtest runs each test on a thread of its own, and the namespace belongs to that thread and to what it starts. So
//! tests run in parallel, and an agent sees the mounts of its own test only. Loop devices and the kernel's events belong
//! to the whole machine: an agent also gets the events of other tests' faults, on devices that it does not see mounted,
//! and must not report them.

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

/// How long one test may take. The longest takes some 30 s; one that hangs (a task in D state cannot be killed) would
/// hold up the whole run for ever.
const WATCHDOG: Duration = Duration::from_mins(4);

/// Held exclusively by tests that measure the whole machine.
static MACHINE: RwLock<()> = RwLock::new(());

#[expect(dead_code, reason = "the guards are held, never looked at")]
enum Share {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

/// A mount namespace with an empty tmpfs. Drop it last.
pub struct Sandbox {
    name: String,
    directory: TempDir,
    // Its drop ends the watchdog.
    watchdog: Option<Sender<()>>,
    _share: Share,
}

impl Sandbox {
    /// A sandbox beside others. None, with the reason printed, where the machine lacks what the fixtures need.
    pub fn new() -> Option<Self> {
        Self::with(|| Share::Shared(MACHINE.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// A sandbox while no other test runs. The call has a comment that says why.
    pub fn alone() -> Option<Self> {
        Self::with(|| Share::Alone(MACHINE.write().unwrap_or_else(PoisonError::into_inner)))
    }

    /// A sandbox without a time limit, for a bench.
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

    /// The test's name.
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
        // First what the test's own guards have left behind, in reverse order, then the tmpfs.
        mount::unmount_beneath(self.directory.path());
        let _gone = fs::remove_dir_all(self.directory.path());
    }
}

fn test_name() -> String {
    thread::current().name().unwrap_or("main").to_owned()
}

/// Aborts the process if the sandbox is not dropped in time. The kernel then aborts the FUSE connections, which wakes
/// the tasks that hang, and detaches the loop devices.
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

/// Whether a test can run here. Prints why not; with `TOCSIN_REQUIRE_ALL=1`, as in CI, a test that cannot run fails.
#[must_use]
pub fn require(condition: bool, why: &str) -> bool {
    let all = std::env::var_os("TOCSIN_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(condition || !all, "TOCSIN_REQUIRE_ALL=1, but {why}");
    if !condition {
        say(&format!("SKIP {}: {why}", test_name()));
    }
    condition
}

/// Whether the machine has what every fixture needs.
fn require_machine() -> bool {
    let device = |path: &str| require(Path::new(path).exists(), &format!("there is no {path}"));
    let tool = |name: &str| require(tool::is_installed(name), &format!("{name} is not installed"));
    require(rustix::process::geteuid().is_root(), "mounting takes root")
        && device("/dev/loop-control")
        && device("/dev/fuse")
        && tool("mkfs.ext4")
        && tool("debugfs")
}

/// Prints a line, also from a test that passes: libtest captures `eprintln!`, but not the handle.
pub fn say(line: &str) {
    let _lost = writeln!(std::io::stderr(), "{line}");
}
