//! Which socket is the runtime's.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    str::FromStr,
};

use rustix::{
    fs::{FileType, fstat},
    io::Errno,
};
use tokio::net::UnixStream;

use crate::{checks::container_runtime::settings, host::open_below};

/// Where to look: `CRI_SOCKET`, or where runtimes have theirs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CriSocket(Vec<PathBuf>);

/// Not a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an absolute path nor a unix:// URL with one")]
pub struct BadSocket(String);

impl FromStr for CriSocket {
    type Err = BadSocket;

    /// A path as people write it, or an endpoint as the kubelet has it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text.trim();
        if path.is_empty() {
            return Ok(Self(settings::CRI_SOCKETS.map(PathBuf::from).to_vec()));
        }
        let path = path.strip_prefix("unix://").unwrap_or(path);
        if !path.starts_with('/') || path.ends_with('/') {
            return Err(BadSocket(text.to_owned()));
        }
        Ok(Self(vec![PathBuf::from(path)]))
    }
}

impl CriSocket {
    /// For people: every place.
    pub(super) fn places(&self) -> String {
        let places: Vec<_> = self.0.iter().map(|path| path.display().to_string()).collect();
        places.join(", ")
    }

    /// The sockets that there are below `root`, best first. May block for as long as a filesystem likes.
    pub(super) fn look(&self, root: &Path) -> Looked {
        let mut looked = Looked::default();
        for path in &self.0 {
            match found(root, path) {
                // Two names of one socket are one socket.
                Ok(Some(found)) if looked.found.iter().all(|other| other.id != found.id) => {
                    looked.found.push(found);
                }
                Ok(_) => {}
                Err(error) => looked.refused.push(format!("{}: {error}", path.display())),
            }
        }
        looked
    }
}

/// What a look brought.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) found: Vec<Found>,
    /// Places that cannot be looked at, and why.
    pub(super) refused: Vec<String>,
}

/// A socket that is there.
#[derive(Debug)]
pub(super) struct Found {
    /// Where it is on the host.
    pub(super) path: PathBuf,
    /// Another one in the same place has another.
    pub(super) id: Id,
    file: OwnedFd,
}

/// Device and inode.
pub(super) type Id = (u64, u64);

impl Found {
    /// Connects to this socket, not to what its path has become meanwhile.
    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        // However long its path is: an address has room for 107 bytes.
        UnixStream::connect(format!("/proc/self/fd/{}", self.file.as_raw_fd())).await
    }
}

fn found(root: &Path, path: &Path) -> io::Result<Option<Found>> {
    let file = match open_below(root, path) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(io::Error::other("not a socket"));
    }
    Ok(Some(Found { path: path.to_owned(), id: (stat.st_dev, stat.st_ino), file }))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{fs::symlink, net::UnixListener},
    };

    use super::*;

    #[test]
    fn sockets_are_paths_or_unix_urls() {
        for text in ["/run/x.sock", " unix:///run/x.sock "] {
            assert_eq!(text.parse(), Ok(CriSocket(vec!["/run/x.sock".into()])), "{text}");
        }
        for text in ["", " "] {
            let CriSocket(places) = text.parse().unwrap();
            assert_eq!(places, settings::CRI_SOCKETS.map(PathBuf::from));
        }
        for text in [
            "x.sock",
            "unix://x.sock",
            "tcp://127.0.0.1:1",
            "/",
            "unix://",
            "/run/",
            "npipe:////./x",
        ] {
            assert_eq!(text.parse::<CriSocket>(), Err(BadSocket(text.to_owned())));
        }
    }

    #[test]
    fn the_socket_is_looked_for_below_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let paths = |paths: &[&str]| CriSocket(paths.iter().map(PathBuf::from).collect());
        let names = |looked: &Looked| {
            let found = looked.found.iter().map(|found| found.path.display().to_string());
            (found.collect::<Vec<_>>(), looked.refused.clone())
        };
        let wanted =
            paths(&["/run/a.sock", "/var/run/b.sock", "/run/b.sock", "/run/file", "/run/file/x"]);
        assert_eq!(names(&wanted.look(root)), (vec![], vec![]));
        fs::create_dir_all(root.join("run")).unwrap();
        fs::create_dir_all(root.join("var")).unwrap();
        // Absolute, as Debian has it: `/run` of that root.
        symlink("/run", root.join("var/run")).unwrap();
        fs::write(root.join("run/file"), "").unwrap();
        let _listener = UnixListener::bind(root.join("run/b.sock")).unwrap();
        let looked = wanted.look(root);
        let refused = vec!["/run/file: not a socket".to_owned()];
        assert_eq!(names(&looked), (vec!["/var/run/b.sock".to_owned()], refused));
        let before = looked.found[0].id;
        fs::rename(root.join("run/b.sock"), root.join("run/a.sock")).unwrap();
        let _other = UnixListener::bind(root.join("run/b.sock")).unwrap();
        let looked = wanted.look(root);
        assert_eq!(names(&looked).0, ["/run/a.sock", "/var/run/b.sock"]);
        assert_eq!(looked.found[0].id, before);
        assert_ne!(looked.found[1].id, before);
    }

    #[tokio::test]
    async fn a_socket_deep_below_is_reached_and_one_that_nobody_serves_refuses() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&deep).unwrap();
        let socket = directory.path().join("x.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        fs::rename(&socket, deep.join("x.sock")).unwrap();
        let looked = CriSocket(vec!["/x.sock".into()]).look(&deep);
        looked.found[0].connect().await.unwrap();
        drop(listener);
        let refused = looked.found[0].connect().await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
