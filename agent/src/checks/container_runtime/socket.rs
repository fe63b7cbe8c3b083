//! Finds the socket of the container runtime.

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

use super::settings;
use crate::host::open_below;

/// Where the socket may be: the path in `CRI_SOCKET`, or the default paths of container runtimes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CriSocket(Vec<PathBuf>);

/// A text that names no socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither an absolute path nor a unix:// URL with one")]
pub struct BadSocket(String);

impl FromStr for CriSocket {
    type Err = BadSocket;

    /// Parses a path, or an endpoint as the kubelet has it (`unix:///path`).
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
    /// Every path, for reasons.
    pub(super) fn places(&self) -> String {
        let places: Vec<_> = self.0.iter().map(|path| path.display().to_string()).collect();
        places.join(", ")
    }

    /// Finds the sockets that exist below `root`, in the order of the paths. Blocks for as long as a filesystem does.
    pub(super) fn search(&self, root: &Path) -> SocketSearch {
        let mut search = SocketSearch::default();
        for path in &self.0 {
            match open(root, path) {
                // Two paths may lead to one socket.
                Ok(Some(socket)) if search.found.iter().all(|other| other.id != socket.id) => {
                    search.found.push(socket);
                }
                Ok(_) => {}
                Err(error) => search.refused.push(format!("{}: {error}", path.display())),
            }
        }
        search
    }
}

/// The result of a search.
#[derive(Debug, Default)]
pub(super) struct SocketSearch {
    pub(super) found: Vec<RuntimeSocket>,
    /// Paths that could not be opened as a socket, and why.
    pub(super) refused: Vec<String>,
}

/// A socket that exists.
#[derive(Debug)]
pub(super) struct RuntimeSocket {
    /// The path on the host.
    pub(super) path: PathBuf,
    /// Tells this socket from another one at the same path.
    pub(super) id: SocketId,
    file: OwnedFd,
}

/// The device and inode of a socket.
pub(super) type SocketId = (u64, u64);

impl RuntimeSocket {
    /// Connects to this socket, even if its path leads to another one by now.
    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        // Through /proc, because an address has room for a path of 107 bytes only.
        UnixStream::connect(format!("/proc/self/fd/{}", self.file.as_raw_fd())).await
    }
}

fn open(root: &Path, path: &Path) -> io::Result<Option<RuntimeSocket>> {
    let file = match open_below(root, path) {
        Ok(file) => file,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(io::Error::other("not a socket"));
    }
    Ok(Some(RuntimeSocket { path: path.to_owned(), id: (stat.st_dev, stat.st_ino), file }))
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
    fn the_socket_is_searched_below_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let paths = |paths: &[&str]| CriSocket(paths.iter().map(PathBuf::from).collect());
        let names = |search: &SocketSearch| {
            let found = search.found.iter().map(|socket| socket.path.display().to_string());
            (found.collect::<Vec<_>>(), search.refused.clone())
        };
        let wanted =
            paths(&["/run/a.sock", "/var/run/b.sock", "/run/b.sock", "/run/file", "/run/file/x"]);
        assert_eq!(names(&wanted.search(root)), (vec![], vec![]));
        fs::create_dir_all(root.join("run")).unwrap();
        fs::create_dir_all(root.join("var")).unwrap();
        // Absolute, as Debian has it: `/run` of that root.
        symlink("/run", root.join("var/run")).unwrap();
        fs::write(root.join("run/file"), "").unwrap();
        let _listener = UnixListener::bind(root.join("run/b.sock")).unwrap();
        let search = wanted.search(root);
        let refused = vec!["/run/file: not a socket".to_owned()];
        assert_eq!(names(&search), (vec!["/var/run/b.sock".to_owned()], refused));
        let before = search.found[0].id;
        fs::rename(root.join("run/b.sock"), root.join("run/a.sock")).unwrap();
        let _other = UnixListener::bind(root.join("run/b.sock")).unwrap();
        let search = wanted.search(root);
        assert_eq!(names(&search).0, ["/run/a.sock", "/var/run/b.sock"]);
        assert_eq!(search.found[0].id, before);
        assert_ne!(search.found[1].id, before);
    }

    #[tokio::test]
    async fn a_socket_on_a_long_path_is_reached_and_one_without_a_server_refuses() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&deep).unwrap();
        let socket = directory.path().join("x.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        fs::rename(&socket, deep.join("x.sock")).unwrap();
        let search = CriSocket(vec!["/x.sock".into()]).search(&deep);
        search.found[0].connect().await.unwrap();
        drop(listener);
        let refused = search.found[0].connect().await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
