//! Mounts that have to be there (`REQUIRE_MOUNTS`), and what is wrong with them.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{mountinfo::unescape, mounts::MountTable, sysfs::Sysfs};
use crate::{
    host::Paths,
    model::{Dev, RequiredMounts},
};

/// A mount point that has to be one, and what has to be mounted there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredMount {
    point: PathBuf,
    expected: Option<Expected>,
}

/// What has to be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    /// A path below `/dev`.
    Device(PathBuf),
    /// The UUID of a filesystem, as `blkid` shows it.
    Uuid(String),
    /// What the mount table has as the source: `server:/export`, say.
    Source(String),
}

/// An entry of `REQUIRE_MOUNTS` whose path is not absolute.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not PATH, PATH=DEVICE or PATH=UUID with an absolute path")]
pub struct BadRequiredMount(String);

impl FromStr for RequiredMount {
    type Err = BadRequiredMount;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadRequiredMount(text.to_owned());
        let (point, expected) = match text.split_once('=') {
            Some((point, expected)) => (point, Some(expected.trim())),
            None => (text, None),
        };
        // Without the slash at the end, as the mount table has it.
        let point: PathBuf = Path::new(point.trim()).components().collect();
        if !point.is_absolute() || expected.is_some_and(str::is_empty) {
            return Err(bad());
        }
        let is_uuid = |text: &str| {
            text.len() >= 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
        };
        let expected = expected.map(|expected| match expected.strip_prefix("UUID=") {
            Some(uuid) => Expected::Uuid(uuid.to_owned()),
            None if expected.starts_with("/dev/") => Expected::Device(expected.into()),
            None if is_uuid(expected) => Expected::Uuid(expected.to_owned()),
            None => Expected::Source(expected.to_owned()),
        });
        Ok(Self { point, expected })
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => write!(f, "{}", path.display()),
            Self::Uuid(uuid) => write!(f, "UUID {uuid}"),
            Self::Source(source) => f.write_str(source),
        }
    }
}

/// What is mounted at a path: the last one, which covers the others.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mounted {
    dev: Dev,
    source: String,
}

/// Where devices and UUIDs are looked up.
pub(super) struct Lookup<'a> {
    pub(super) paths: &'a Paths,
    pub(super) sysfs: &'a Sysfs,
    /// The table, with the devices of each filesystem.
    pub(super) table: &'a MountTable,
    /// The sysfs directory of a btrfs, by its number; its name is the UUID.
    pub(super) btrfs: &'a dyn Fn(Dev) -> Option<PathBuf>,
}

/// What a device or UUID is on this host.
enum Found {
    Device(Dev),
    /// There is none.
    Missing,
    /// It cannot be told, for this reason.
    Untold(String),
}

impl Lookup<'_> {
    /// What is wrong with these mounts, by the text of the table.
    pub(super) fn check(&self, required: &[RequiredMount], mountinfo: &[u8]) -> RequiredMounts {
        let mut result = RequiredMounts::default();
        for mount in required {
            let point = mount.point.display();
            let Some(mounted) = mounted_at(mountinfo, &mount.point) else {
                result.wrong.push(format!("{point} is not mounted"));
                continue;
            };
            let Some(expected) = &mount.expected else { continue };
            let is = |what: &str| {
                let name = self.sysfs.name(mounted.dev).ok().flatten();
                let name = name.map(|name| format!("{name} ({})", mounted.dev));
                format!("{point} is on {}, {what}", name.unwrap_or(mounted.source.clone()))
            };
            match self.is_on(expected, &mounted) {
                Ok(true) => {}
                Ok(false) => result.wrong.push(is(&format!("not on {expected}"))),
                Err(Found::Untold(why)) => {
                    result.untold.push(format!("{point}: {why}"));
                }
                Err(_) => result.wrong.push(is(&format!("and there is no {expected}"))),
            }
        }
        result
    }

    fn is_on(&self, expected: &Expected, mounted: &Mounted) -> Result<bool, Found> {
        let found = match expected {
            Expected::Source(source) => return Ok(mounted.source == *source),
            Expected::Device(path) => self.device(path),
            Expected::Uuid(uuid) => {
                let own = (self.btrfs)(mounted.dev);
                let own = own.as_deref().and_then(Path::file_name);
                if own.is_some_and(|own| own.eq_ignore_ascii_case(uuid)) {
                    return Ok(true);
                }
                self.uuid(uuid)
            }
        };
        let Found::Device(dev) = found else { return Err(found) };
        // btrfs has a number of its own.
        let pooled = self.table.filesystems.get(&mounted.dev).filter(|f| f.dev.major() == 0);
        let members = pooled.into_iter().flat_map(|filesystem| &filesystem.members);
        Ok(dev == mounted.dev || members.into_iter().any(|member| member.dev == dev))
    }

    fn device(&self, path: &Path) -> Found {
        match self.sysfs.device_of(&self.paths.inside(path), path) {
            Ok(Some(dev)) => Found::Device(dev),
            Ok(None) => Found::Missing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Missing,
            Err(error) => Found::Untold(format!("{}: {error}", path.display())),
        }
    }

    /// udev keeps a link for each UUID that it knows.
    fn uuid(&self, uuid: &str) -> Found {
        let directory = Path::new("/dev/disk/by-uuid");
        let inside = self.paths.inside(directory);
        for name in [uuid.to_owned(), uuid.to_lowercase(), uuid.to_uppercase()] {
            if let Ok(target) = fs::read_link(inside.join(name))
                && let Some(name) = target.file_name()
            {
                return self.device(&Path::new("/dev").join(name));
            }
        }
        if inside.is_dir() {
            return Found::Missing;
        }
        Found::Untold(format!("no {} says what has the UUID {uuid}", directory.display()))
    }
}

/// What is mounted at `point`. Mounts without a disk count too; the trap of an automount does not.
fn mounted_at(mountinfo: &[u8], point: &Path) -> Option<Mounted> {
    let lines = mountinfo.split(|byte| *byte == b'\n').rev();
    lines.filter_map(|line| std::str::from_utf8(line).ok()).find_map(|line| {
        // `36 27 7:3 / /mnt/x rw,relatime shared:1 - ext4 /dev/loop3 rw`
        let mut words = line.split(' ');
        let dev = words.nth(2)?;
        let found = words.nth(1)?;
        if unescape(found) != point {
            return None;
        }
        let (_, end) = line.split_once(" - ")?;
        let mut words = end.split(' ');
        // The trap of an automount unit: nothing is mounted there until a program goes in.
        if words.next()? == "autofs" {
            return None;
        }
        let source = unescape(words.next()?).to_string_lossy().into_owned();
        Some(Mounted { dev: dev.parse().ok()?, source })
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn entries_are_a_path_and_what_is_on_it() {
        use Expected::{Device, Source, Uuid};
        let uuid = "0b3c3a0e-5d0e-4a5b-9d2e-2f7f3f1d6a10";
        for (text, point, expected) in [
            ("/data", "/data", None),
            ("/data/", "/data", None),
            (" /data = /dev/sdb1", "/data", Some(Device("/dev/sdb1".into()))),
            (&format!("/data={uuid}"), "/data", Some(Uuid(uuid.into()))),
            ("/boot/efi=UUID=ABCD-1234", "/boot/efi", Some(Uuid("ABCD-1234".into()))),
            ("/boot/efi=ABCD-1234", "/boot/efi", Some(Uuid("ABCD-1234".into()))),
            ("/nfs=server:/export", "/nfs", Some(Source("server:/export".into()))),
        ] {
            let found: RequiredMount = text.parse().unwrap();
            assert_eq!(found, RequiredMount { point: point.into(), expected }, "{text}");
        }
        for text in ["", "data", "=/dev/sdb1", "/data="] {
            assert!(text.parse::<RequiredMount>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_mount_that_is_missing_or_another_is_told() {
        let host = tempfile::tempdir().unwrap();
        let at = |path: &str| host.path().join(path);
        for (dev, name) in [("8:1", "sda1"), ("8:17", "sdb1")] {
            fs::create_dir_all(at("sys/dev/block")).unwrap();
            fs::create_dir_all(at("sys/devices").join(name)).unwrap();
            fs::write(at("sys/devices").join(name).join("dev"), format!("{dev}\n")).unwrap();
            symlink(at("sys/devices").join(name), at("sys/dev/block").join(dev)).unwrap();
        }
        let paths = Paths {
            root: host.path().to_owned(),
            proc: at("proc"),
            sys: at("sys"),
            mount_table: at("mountinfo"),
        };
        let sysfs = Sysfs { root: at("sys") };
        let text = "30 1 8:1 / / rw - ext4 /dev/sda1 rw\n31 1 8:17 / /my\\040data rw - ext4 /dev/sdb1 rw\n\
            32 1 0:44 / /nfs rw - nfs4 server:/export rw\n33 1 0:45 / /over rw - tmpfs one rw\n35 1 0:47 / /trap rw - autofs systemd-1 rw\n36 1 0:47 / /auto rw - autofs systemd-1 rw\n37 36 0:48 / /auto rw - tmpfs three rw\n34 1 0:46 / /over rw - tmpfs two rw\n";
        let table = MountTable::parse(text.as_bytes());
        let lookup = Lookup { paths: &paths, sysfs: &sysfs, table: &table, btrfs: &|_| None };
        let check = |required: &str| {
            let RequiredMounts { wrong, untold } =
                lookup.check(&[required.parse().unwrap()], text.as_bytes());
            [wrong, untold].concat().join("; ")
        };
        for (required, expected) in [
            ("/", ""),
            ("/my data", ""),
            ("/nfs=server:/export", ""),
            ("/nfs=other:/export", "/nfs is on server:/export, not on other:/export"),
            ("/nfs/below", "/nfs/below is not mounted"),
            ("/trap", "/trap is not mounted"),
            ("/auto=three", ""),
            ("/over=two", ""),
            ("/over=one", "/over is on two, not on one"),
            ("/my data=/dev/sdc1", "/my data is on sdb1 (8:17), and there is no /dev/sdc1"),
            (
                "/my data=ABCD-1234",
                "/my data: no /dev/disk/by-uuid says what has the UUID ABCD-1234",
            ),
        ] {
            assert_eq!(check(required), expected, "{required}");
        }
        fs::create_dir_all(at("dev/disk/by-uuid")).unwrap();
        let expected = "/my data is on sdb1 (8:17), and there is no UUID ABCD-1234";
        assert_eq!(check("/my data=ABCD-1234"), expected);
    }
}
