//! A loop device over a file.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::fs::{major, minor};

use crate::sys;

/// The number of devices that this process has made.
///
/// A run never uses a number twice: a late event of one test's broken device must not be taken for an event of the next
/// test's healthy device.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The next number: far above those that `losetup -f` takes, at another place for each process, and below 65,536, which
/// is the limit where loop devices have partitions.
fn next_index() -> u32 {
    1000 + (std::process::id() % 250) * 200 + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A loop device; detached and removed on drop.
#[derive(Debug)]
pub struct LoopDevice {
    index: u32,
    number: String,
    // Only drop takes it.
    device: Option<File>,
}

impl LoopDevice {
    /// A writable device over a file, through the file's page cache.
    pub fn over(backing: &Path) -> Self {
        Self::with(backing, 0)
    }

    /// A device with flags of [`crate::sys`].
    pub fn with(backing: &Path, flags: u32) -> Self {
        let control = open(Path::new("/dev/loop-control"), true);
        let index = loop {
            let index = next_index();
            match sys::loop_add(&control, index) {
                Ok(()) => break index,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => panic!("add loop{index}: {error}"),
            }
        };
        let writable = flags & sys::LOOP_READ_ONLY == 0;
        let device = open(&device_path(index), writable);
        let backing_file = open(backing, writable);
        sys::loop_configure(&device, &backing_file, flags | sys::LOOP_AUTOCLEAR)
            .unwrap_or_else(|error| panic!("attach {} to loop{index}: {error}", backing.display()));
        let number = device.metadata().expect("stat the loop device").rdev();
        let number = format!("{}:{}", major(number), minor(number));
        Self { index, number, device: Some(device) }
    }

    /// Its name: `loop1234`.
    pub fn name(&self) -> String {
        format!("loop{}", self.index)
    }

    /// Its number: `7:1234`.
    pub fn number(&self) -> &str {
        &self.number
    }

    /// Its path: `/dev/loop1234`.
    pub fn path(&self) -> PathBuf {
        device_path(self.index)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let Some(device) = self.device.take() else { return };
        if let Err(error) = sys::loop_clear(&device) {
            eprintln!("detach {}: {error}", self.name());
        }
        // Closed first: an open file keeps the device, as a forgotten mount does.
        drop(device);
        let Ok(control) = File::open("/dev/loop-control") else { return };
        // A reader that has just been woken from a hang may need a moment to close its file.
        for _ in 0..200 {
            if sys::loop_remove(&control, self.index).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn device_path(index: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{index}"))
}

fn open(path: &Path, writable: bool) -> File {
    OpenOptions::new()
        .read(true)
        .write(writable)
        .open(path)
        .unwrap_or_else(|error| panic!("open {}: {error}", path.display()))
}
