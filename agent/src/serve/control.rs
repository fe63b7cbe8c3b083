//! The control socket, for actions on the node: HTTP over a unix socket that only root can reach.
//!
//! * `POST /faults/<id>/clear` — 200 cleared, 404 no such fault

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use hyper::{Method, Request, StatusCode};
use tocsin_runtime::http::{JSON, Listener, Reply, Server, Settings, error, not_allowed, reply};
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
};

use crate::{kernel::Command, serve::settings};

/// A listening control socket.
#[derive(Debug)]
pub struct Socket {
    /// Accepts connections.
    pub listener: Listener,
    /// Removes the socket's file when it is dropped.
    pub file: SocketFile,
}

/// Removes the socket's file when it is dropped.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _gone_already = fs::remove_file(&self.0);
    }
}

impl Socket {
    /// Makes the socket. Only the owner can enter a directory that this makes, and use the socket.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent()
            && !parent.exists()
        {
            fs::create_dir_all(parent)?;
            fs::set_permissions(parent, fs::Permissions::from_mode(0o700))?;
        }
        // The file of a killed agent is replaced; the file of a running agent is an error.
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another agent is using it"));
            }
            // A file that is no socket is refused in the same way: it is left alone, and the bind below fails.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                if fs::symlink_metadata(path)?.file_type().is_socket() {
                    fs::remove_file(path)?;
                }
            }
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        let file = SocketFile(path.to_owned());
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener: Listener::Unix(listener), file })
    }
}

/// The handler of the control socket.
#[derive(Clone, Debug)]
pub struct Control {
    commands: mpsc::Sender<Command>,
}

impl Control {
    /// A handler that passes actions to the kernel task.
    #[must_use]
    pub fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { commands }
    }

    /// A server with this handler.
    #[must_use]
    pub fn server(self) -> Server {
        let connections = settings::CONTROL_CONNECTIONS;
        let settings = Settings { connections, ..Settings::new("control") };
        Server::new(settings, move |request, _| {
            let control = self.clone();
            async move { control.handle(request).await }
        })
    }

    /// Carries out the action of one request.
    async fn handle<B>(&self, request: Request<B>) -> Reply {
        let path = request.uri().path();
        let Some(id) = path.strip_prefix("/faults/").and_then(|rest| rest.strip_suffix("/clear"))
        else {
            return error(StatusCode::NOT_FOUND, "not found");
        };
        if *request.method() != Method::POST {
            return not_allowed("POST");
        }
        let (answer, answered) = oneshot::channel();
        if self.commands.send(Command::Clear(id.to_owned(), answer)).await.is_err() {
            return error(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping");
        }
        match answered.await {
            Ok(true) => reply(StatusCode::OK, JSON, r#"{"cleared":true}"#),
            Ok(false) => error(StatusCode::NOT_FOUND, "no open fault has this id"),
            Err(_) => error(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_socket_without_a_listener_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(Socket::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        fs::write(&path, "precious").unwrap();
        assert_eq!(Socket::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
