//! The limit of open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's soft limit of open files to the hard one. Returns the limit that holds then, in files. The
/// agent keeps a file open for every disk and every connection, and most systems start a process with 1,024.
#[must_use]
pub fn raise_open_files() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: maximum, maximum };
    let _stays_as_it_is = setrlimit(Resource::Nofile, wanted);
    let current = getrlimit(Resource::Nofile).current;
    current.map_or(usize::MAX, |current| usize::try_from(current).unwrap_or(usize::MAX))
}
