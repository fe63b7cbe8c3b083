//! Which btrfs in sysfs is the one that is mounted somewhere, and whether it keeps working without one of its devices.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::fs::statvfs;

/// 200 milliseconds for a statfs(2) of a btrfs, which reads memory alone. The way to its mount point may lead over a remote
/// filesystem that hangs.
const STATFS_DEADLINE: Duration = Duration::from_millis(200);

/// The first half of the filesystem id that statfs(2) gives at a mount point; `None` if it gives none, or not in time.
///
/// It is asked on a thread of its own, which stays behind if the call hangs: the caller must not ask twice.
pub(super) fn id_at(point: PathBuf) -> Option<u32> {
    let (sender, answer) = mpsc::channel();
    let ask = move || {
        let id = statvfs(&point).ok().map(|found| found.f_fsid);
        let _too_late = sender.send(id);
    };
    thread::Builder::new().name("tocsin-statfs".into()).stack_size(64 * 1024).spawn(ask).ok()?;
    let id = answer.recv_timeout(STATFS_DEADLINE).ok()??;
    // The second half also has the number of the subvolume.
    u32::try_from(id & u64::from(u32::MAX)).ok()
}

/// The first half of the filesystem id of the btrfs with this UUID (`btrfs_statfs` in fs/btrfs/super.c): its first and third
/// word, exclusive-ored.
pub(super) fn id_of_uuid(uuid: &str) -> Option<u32> {
    let digits: String = uuid.chars().filter(|c| *c != '-').collect();
    let word =
        |number: usize| u32::from_str_radix(digits.get(number * 8..(number + 1) * 8)?, 16).ok();
    Some(word(0)? ^ word(2)?)
}

/// Profiles that keep a copy, or parity, on another device. `dup` keeps both copies on one device.
const REDUNDANT: [&str; 6] = ["raid1", "raid1c3", "raid1c4", "raid10", "raid5", "raid6"];

/// Whether every block of the btrfs with this sysfs directory can be had without any one device.
///
/// `allocation/<type>/<profile>` is there for each profile that has blocks (`fs/btrfs/sysfs.c`, 5.10 to 6.18), and
/// `devinfo/<id>/missing` is 1 for a device that was not there at the mount. Another one may be too many then.
pub(super) fn is_redundant(own: &Path) -> bool {
    let kinds = ["data", "metadata", "system"];
    let has_copies = |kind: &&str| {
        let Ok(entries) = fs::read_dir(own.join("allocation").join(kind)) else { return false };
        let profiles: Vec<_> = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.file_name())
            .collect();
        let is_redundant = |name: &std::ffi::OsString| REDUNDANT.iter().any(|known| name == known);
        !profiles.is_empty() && profiles.iter().all(is_redundant)
    };
    let is_missing = |device: fs::DirEntry| {
        fs::read_to_string(device.path().join("missing")).is_ok_and(|text| text.trim() != "0")
    };
    let mut devices = fs::read_dir(own.join("devinfo")).into_iter().flatten().flatten();
    kinds.iter().all(has_copies) && !devices.any(is_missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_uuid_is_that_of_statfs() {
        for (uuid, expected) in [
            ("df931772-0099-4c28-8fc0-c5adfb1f2f5c", Some(0xdf93_1772 ^ 0x8fc0_c5ad)),
            ("features", None),
            ("df931772-0099", None),
        ] {
            assert_eq!(id_of_uuid(uuid), expected, "{uuid}");
        }
    }

    #[test]
    fn every_kind_of_block_needs_a_copy_on_another_device() {
        for (data, metadata, missing, expected) in [
            (&["raid1"][..], &["raid1"][..], false, true),
            (&["raid6"], &["raid1c3"], false, true),
            (&["single"], &["raid1"], false, false),
            // A conversion that is under way.
            (&["raid1", "single"], &["raid1"], false, false),
            (&["raid1"], &["dup"], false, false),
            (&["raid1"], &["raid1"], true, false),
            (&[], &["raid1"], false, false),
        ] {
            let own = tempfile::tempdir().unwrap();
            for (kind, profiles) in [("data", data), ("metadata", metadata), ("system", metadata)] {
                let kind = own.path().join("allocation").join(kind);
                for profile in profiles {
                    fs::create_dir_all(kind.join(profile)).unwrap();
                }
                fs::create_dir_all(&kind).unwrap();
                fs::write(kind.join("total_bytes"), "1\n").unwrap();
            }
            for (id, missing) in [("1", false), ("2", missing)] {
                let device = own.path().join("devinfo").join(id);
                fs::create_dir_all(&device).unwrap();
                fs::write(device.join("missing"), format!("{}\n", u8::from(missing))).unwrap();
            }
            assert_eq!(is_redundant(own.path()), expected, "{data:?} {metadata:?} {missing}");
        }
    }
}
