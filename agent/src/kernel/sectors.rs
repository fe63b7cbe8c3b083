//! Direct reads of sectors that failed before. A filesystem that is mounted read-only cannot be probed by a write, and what it
//! answers comes from its cache.

use std::{
    fs::File,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::fstat;

use crate::{errno::EIO, model::Dev};

/// A sector that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sector {
    /// Of this device.
    pub device: Dev,
    /// The kernel's name of the device.
    pub name: String,
    /// Its number, in units of 512 bytes.
    pub number: u64,
}

/// 4096 bytes, aligned: what every device takes for direct I/O.
#[repr(align(4096))]
struct Block([u8; 4096]);

/// The errno of the first of the sectors that cannot be read, around every cache. `root` is the root directory of the host.
/// A device that cannot be opened is passed over: that proves nothing.
pub(super) fn read_sectors(root: &Path, sectors: &[Sector]) -> Option<i32> {
    sectors.iter().find_map(|sector| read(root, sector))
}

fn read(root: &Path, sector: &Sector) -> Option<i32> {
    let path = root.join(device_path(&sector.name));
    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(path).ok()?;
    if Dev::from_stat(fstat(&file).ok()?.st_rdev) != sector.device {
        return None;
    }
    let mut block = Box::new(Block([0; 4096]));
    // The block of 4096 bytes that the sector is in.
    let at = (sector.number.checked_mul(512)?) & !4095;
    let error = file.read_at(&mut block.0, at).err()?;
    failure_of(error.raw_os_error())
}

/// What a failed read proves. EINVAL proves nothing: the disk has blocks of more than 4096 bytes.
fn failure_of(errno: Option<i32>) -> Option<i32> {
    const EINVAL: i32 = 22;
    Some(errno.unwrap_or(EIO)).filter(|errno| *errno != EINVAL)
}

/// The path of a block device below the root directory, by its name in the kernel (`sda1`, `cciss!c0d0`).
pub(super) fn device_path(name: &str) -> PathBuf {
    Path::new("dev").join(name.replace('!', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_that_the_disk_cannot_take_proves_nothing() {
        for (errno, expected) in
            [(Some(22), None), (Some(5), Some(5)), (Some(61), Some(61)), (None, Some(5))]
        {
            assert_eq!(failure_of(errno), expected, "{errno:?}");
        }
    }
}
