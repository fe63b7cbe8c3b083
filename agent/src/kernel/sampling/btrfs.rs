//! Whether a btrfs keeps working without one of its devices.

use std::{fs, path::Path};

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
