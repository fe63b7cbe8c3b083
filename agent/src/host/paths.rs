//! The places of the host that the agent reads.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// The directories and files of the watched host, as this process reaches them. In tests and in containers they are
/// not those of this process.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Root directory of the watched mount namespace; every mount point is below it.
    pub root: PathBuf,
    /// The procfs, `/proc`.
    pub proc: PathBuf,
    /// The sysfs, `/sys`.
    pub sys: PathBuf,
    /// The watched mount table, a `mountinfo` file.
    pub mount_table: PathBuf,
}

impl Paths {
    /// The paths for the mount namespace whose table is at `mount_table`. That is usually `/proc/1/mountinfo`, which is
    /// the host's table also in a container with `hostPID`. If this process may not read that file (it is not root),
    /// the paths are those of its own namespace, and the second value says why.
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

    /// Where this process reaches `path` of the watched namespace.
    #[must_use]
    pub fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// Tries to read a file of procfs. Opening it is no proof: the kernel checks some of these files at the first read only.
fn readable(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.read(&mut [0; 1]).map(drop)
}

/// The root directory that belongs to `/proc/<pid>/mountinfo`: `/` if that process shares this process's mount
/// namespace, else `/proc/<pid>/root`.
fn root_of(mount_table: &Path) -> PathBuf {
    let Some(process) = mount_table.parent() else { return PathBuf::from("/") };
    let namespace = |process: &Path| fs::read_link(process.join("ns/mnt")).ok();
    let (theirs, ours) = (namespace(process), namespace(Path::new("/proc/self")));
    if theirs.is_some() && theirs != ours { process.join("root") } else { PathBuf::from("/") }
}
