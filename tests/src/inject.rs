//! Fault injection through interfaces of the kernel, and I/O that goes straight to the device.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

use rustix::fs::CWD;
use rustix::mount::FsPickFlags;

use crate::{LoopDevice, sys, tool};

/// Makes ext4 report an error, upon which it does what the mount's `errors=` says.
pub fn ext4_error(device: &LoopDevice) -> Instant {
    let path = format!("/sys/fs/ext4/{}/trigger_fs_error", device.name());
    let at = Instant::now();
    fs::write(&path, "e2e").unwrap_or_else(|error| panic!("write {path}: {error}"));
    at
}

/// The number of errors that ext4 counts in its superblock.
pub fn ext4_errors(device: &LoopDevice) -> u64 {
    let path = format!("/sys/fs/ext4/{}/errors_count", device.name());
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path}: {error}"));
    text.trim().parse().expect("a number")
}

/// Shuts down a filesystem at once, as its driver does on an error that it cannot handle.
pub fn shut_down(point: &Path) -> Instant {
    let directory = File::open(point).expect("open the mount point");
    let at = Instant::now();
    sys::shutdown(&directory, 2).expect("shutdown ioctl");
    at
}

/// Makes a filesystem read-only or writable (`ro`, `rw`) by fsconfig(2), as new versions of mount(8) do.
pub fn reconfigure(point: &Path, flag: &str) -> Instant {
    let filesystem =
        rustix::mount::fspick(CWD, point, FsPickFlags::FSPICK_CLOEXEC).expect("fspick");
    let at = Instant::now();
    rustix::mount::fsconfig_set_flag(&filesystem, flag).expect("fsconfig flag");
    rustix::mount::fsconfig_reconfigure(&filesystem).expect("fsconfig reconfigure");
    at
}

/// A frozen filesystem; thawed on drop.
#[must_use = "dropping it thaws"]
pub struct Frozen(OwnedFd);

/// Freezes a filesystem, as a snapshot does.
pub fn freeze(point: &Path) -> Frozen {
    let directory = OwnedFd::from(File::open(point).expect("open the mount point"));
    sys::freeze(&directory).expect("freeze");
    Frozen(directory)
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = sys::thaw(&self.0) {
            eprintln!("thaw: {error}");
        }
    }
}

/// The unit of direct I/O: aligned as every device demands it, and one request.
#[repr(align(4096))]
struct Block([u8; 4096]);

/// The size of one block of a file or device, in bytes.
pub const BLOCK: u64 = 4096;

fn direct(path: &Path, write: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(write).custom_flags(libc::O_DIRECT).open(path)
}

/// Reads one block from the device, around the page cache.
pub fn read_block(path: &Path, at: u64) -> io::Result<()> {
    let mut block = Box::new(Block([0; 4096]));
    direct(path, false)?.read_exact_at(&mut block.0, at)
}

/// Reads the same block many times on one open file, and counts the failures.
pub fn read_block_times(path: &Path, at: u64, times: u64) -> u64 {
    read_times(path, at, size_of::<Block>(), times)
}

/// The same with requests of another size, for [`Emitted`](crate::Emitted).
pub fn read_times(path: &Path, at: u64, bytes: usize, times: u64) -> u64 {
    // As aligned as a block.
    let mut buffer = vec![0; bytes + size_of::<Block>()];
    let start = buffer.as_ptr().align_offset(align_of::<Block>());
    let buffer = &mut buffer[start..start + bytes];
    let file = direct(path, false).expect("open for direct reads");
    (0..times).filter(|_| file.read_exact_at(buffer, at).is_err()).count() as u64
}

/// Writes one block to the device, around the page cache.
pub fn write_block(path: &Path, at: u64) -> io::Result<()> {
    let block = Box::new(Block([0xa5; 4096]));
    direct(path, true)?.write_all_at(&block.0, at)
}

/// Writes a file through the page cache, and waits for the disk.
pub fn write_synced(path: &Path, size: usize) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
    file.write_all_at(&vec![0x5a; size], 0)?;
    file.sync_all()
}

/// Writes to the disk what a filesystem still has in memory, as `sync -f` does.
pub fn sync(point: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(point)?)?)
}

/// The byte ranges of an ext4 file on its device, by path or by `<inode>`; `<8>` is the journal.
pub fn ext4_ranges(device: &LoopDevice, file: &str) -> Vec<Range<u64>> {
    let device = device.path();
    let request = format!("blocks {file}");
    let text = tool::run("debugfs", &["-R".as_ref(), request.as_ref(), device.as_os_str()]);
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for block in text.split_whitespace().filter_map(|word| word.parse::<u64>().ok()) {
        let range = block * BLOCK..(block + 1) * BLOCK;
        match ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => ranges.push(range),
        }
    }
    assert!(!ranges.is_empty(), "debugfs found no blocks of {file}");
    ranges
}

/// Clears an inode of an unmounted ext4, so that its directory entry leads to nothing.
pub fn ext4_wipe_inode(device: &LoopDevice, file: &str) {
    let device = device.path();
    let request = format!("clri {file}");
    tool::run("debugfs", &["-w".as_ref(), "-R".as_ref(), request.as_ref(), device.as_os_str()]);
}

/// The byte range of the log of an unmounted xfs on its device.
pub fn xfs_log(device: &LoopDevice) -> Range<u64> {
    let device = device.path();
    let read = |field: &str| -> u64 {
        let command = format!("print {field}");
        let arguments = ["-r", "-c", "sb 0", "-c", &command].map(AsRef::as_ref);
        let text = tool::run("xfs_db", &[&arguments[..], &[device.as_os_str()]].concat());
        let value = text.trim().rsplit(' ').next().and_then(|value| value.parse().ok());
        value.unwrap_or_else(|| panic!("xfs_db {field}: {text:?}"))
    };
    // The high bits of a block's number are its allocation group.
    let (start, group_bits, size) = (read("logstart"), read("agblklog"), read("blocksize"));
    let block = (start >> group_bits) * read("agblocks") + (start & ((1 << group_bits) - 1));
    block * size..(block + read("logblocks")) * size
}
