//! A mount that is unmounted on drop.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// How long a mount may be busy; a test fails after that. The agent's probes do not keep one busy.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// A mount in this thread's namespace.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
}

impl Mount {
    /// Mounts `source` on `point`, which is made where it does not exist.
    pub fn new(source: &Path, point: &Path, kind: &str, flags: MountFlags, options: &str) -> Self {
        Self::try_new(source, point, kind, flags, options).unwrap_or_else(|error| {
            panic!(
                "mount {} ({kind}, {options:?}) on {}: {error}",
                source.display(),
                point.display()
            )
        })
    }

    /// As [`Self::new`], where the kernel may refuse.
    pub fn try_new(
        source: &Path,
        point: &Path,
        kind: &str,
        flags: MountFlags,
        options: &str,
    ) -> rustix::io::Result<Self> {
        fs::create_dir_all(point).expect("make the mount point");
        let options = CString::new(options).expect("options without a zero byte");
        rustix::mount::mount(source, point, kind, flags, options.as_c_str())?;
        Ok(Self { point: point.to_owned() })
    }

    /// Makes a bind mount.
    pub fn bind(from: &Path, point: &Path) -> Self {
        fs::create_dir_all(point).expect("make the mount point");
        rustix::mount::mount_bind(from, point).unwrap_or_else(|error| {
            panic!("bind {} to {}: {error}", from.display(), point.display())
        });
        Self { point: point.to_owned() }
    }

    /// Remounts the filesystem as `mount -o remount,...` does; with `MountFlags::BIND`, this mount alone.
    pub fn remount(&self, flags: MountFlags, options: &str) {
        let options = CString::new(options).expect("options without a zero byte");
        rustix::mount::mount_remount(&self.point, flags, options.as_c_str())
            .unwrap_or_else(|error| panic!("remount {} {flags:?}: {error}", self.point.display()));
    }

    /// Unmounts it, and gives how long it was busy.
    pub fn unmount(self) -> Duration {
        let start = Instant::now();
        let mut busy = Duration::ZERO;
        loop {
            match rustix::mount::unmount(&self.point, UnmountFlags::empty()) {
                Ok(()) => break,
                Err(Errno::BUSY) if busy < BUSY_TIMEOUT => busy = start.elapsed(),
                Err(error) => panic!("unmount {}: {error}", self.point.display()),
            }
        }
        std::mem::forget(self);
        busy
    }

    /// Its mount point.
    pub fn point(&self) -> &Path {
        &self.point
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: a test that failed may still have a file open.
        if let Err(error) = rustix::mount::unmount(&self.point, UnmountFlags::DETACH) {
            eprintln!("unmount {}: {error}", self.point.display());
        }
    }
}

/// The lines of the calling thread's mount table. `/proc/self` would be the main thread's, in another namespace.
pub fn table() -> Vec<String> {
    fs::read_to_string("/proc/thread-self/mountinfo")
        .expect("read mountinfo")
        .lines()
        .map(str::to_owned)
        .collect()
}

/// The line of the mount at `point`, which has to be written with the table's octal escapes.
pub fn table_line(point: &str) -> Option<String> {
    table().into_iter().rev().find(|line| line.split(' ').nth(4) == Some(point))
}

/// Unmounts everything beneath `directory`, newest first.
pub fn unmount_beneath(directory: &Path) {
    let points: Vec<PathBuf> = table()
        .iter()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|point| PathBuf::from(unescape(point)))
        .filter(|point| point.starts_with(directory))
        .collect();
    for point in points.iter().rev() {
        if let Err(error) = rustix::mount::unmount(point, UnmountFlags::DETACH) {
            eprintln!("unmount {}: {error}", point.display());
        }
    }
}

/// Replaces `\040` and its like, which the kernel writes for blank, tab, newline, backslash and `#`.
fn unescape(field: &str) -> String {
    let mut text = String::new();
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        text.push(code.map_or('\\', char::from));
        rest = &rest[at + if code.is_some() { 4 } else { 1 }..];
    }
    text + rest
}
