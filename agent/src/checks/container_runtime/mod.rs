//! `container_runtime`: the container runtime says that pods can be started and have a network.
//!
//! The probe makes the same call as the kubelet, over the same socket: `Status` of the Container Runtime Interface. One
//! connection stays open between samples while the socket is the same and every call is answered in time, so a sample
//! costs one call, and a runtime that hangs costs nothing that adds up. The probe starts, stops and changes nothing, and
//! does not look at containers.

mod cri;
mod grpc;
pub mod settings;
mod socket;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::{Instant, timeout_at};

pub use self::{
    cri::CriError,
    socket::{BadSocket, CriSocket},
};
use self::{
    cri::{RuntimeClient, RuntimeStatus, judge},
    grpc::GrpcError,
    socket::{RuntimeSocket, SocketId, SocketSearch},
};
use super::{Check, CheckSource, OnUnknown, runner::Probe};
use crate::{
    host::{Bounded, Paths, Stuck},
    model::Outcome,
};

pub(super) const CHECK: Check = Check {
    name: "container_runtime",
    passes_when: "the container runtime at `CRI_SOCKET` says that `RuntimeReady` and `NetworkReady` are true, within 1 s",
    on_unknown: OnUnknown::Fail,
    source: CheckSource::Probe,
};

/// The probe.
pub struct ContainerRuntime {
    socket: CriSocket,
    root: PathBuf,
    bounded: Bounded,
    /// The connections that answered in the last sample: that of the runtime, and one for each socket before it that
    /// does not have the interface.
    kept: Mutex<BTreeMap<SocketId, RuntimeClient>>,
}

impl fmt::Debug for ContainerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerRuntime").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl ContainerRuntime {
    /// A probe that searches the socket below the root of `paths`.
    #[must_use]
    pub fn new(socket: CriSocket, paths: &Paths, bounded: Bounded) -> Self {
        Self { socket, root: paths.root.clone(), bounded, kept: Mutex::default() }
    }

    /// This probe, for the runner.
    #[must_use]
    pub fn probe(self: &Arc<Self>) -> Probe {
        let this = self.clone();
        Probe {
            name: CHECK.name,
            // Longer than the sample takes, whose own reason names the socket.
            timeout: settings::CRI_SEARCH_DEADLINE + settings::CRI_TIMEOUT * 2,
            sample: Box::new(move || Box::pin(this.clone().sample())),
        }
    }

    /// Takes one sample.
    pub async fn sample(self: Arc<Self>) -> Outcome {
        // Taken out, so that a sample that is dropped ends the connections too.
        let mut kept = std::mem::take(&mut *lock(&self.kept));
        let search = match self.search("status").await {
            Ok(search) => search,
            Err(stuck) => {
                let places = self.socket.places();
                return Outcome::Unknown(format!("looking for {places}: {stuck}"));
            }
        };
        let deadline = Instant::now() + settings::CRI_TIMEOUT;
        let mut refusals = Vec::new();
        for socket in &search.found {
            let call = self.status(socket, kept.remove(&socket.id));
            let answer = timeout_at(deadline, call).await;
            match answer.unwrap_or(Err(CriError::Late(settings::CRI_TIMEOUT))) {
                Ok(status) => return at(socket, judge(&status)),
                // The containerd of Docker, for example, on a host with cri-dockerd.
                Err(error @ CriError::Unimplemented(_)) => {
                    refusals.push(format!("{}: {error}", socket.path.display()));
                }
                Err(error) => return at(socket, failed(&error)),
            }
        }
        if refusals.is_empty() {
            return Outcome::Unknown(self.no_socket(&search));
        }
        Outcome::Fail(refusals.join("; "))
    }

    /// Calls on the kept connection, else on a new one, and keeps a connection that answers.
    async fn status(
        &self,
        socket: &RuntimeSocket,
        kept: Option<RuntimeClient>,
    ) -> Result<RuntimeStatus, CriError> {
        if let Some(client) = kept.filter(RuntimeClient::is_open) {
            match client.status(settings::CRI_TIMEOUT).await {
                // The connection ended just now: a new one shows whether that was a restart.
                Err(CriError::Grpc(GrpcError::Connection(_))) => {}
                answer => return self.keep(socket, client, answer),
            }
        }
        let client = connect(socket).await?;
        let answer = client.status(settings::CRI_TIMEOUT).await;
        self.keep(socket, client, answer)
    }

    /// Keeps the connection if the server answered on it.
    fn keep<T>(
        &self,
        socket: &RuntimeSocket,
        client: RuntimeClient,
        answer: Result<T, CriError>,
    ) -> Result<T, CriError> {
        match &answer {
            Ok(_) | Err(CriError::Unimplemented(_) | CriError::Grpc(GrpcError::Status(_))) => {
                lock(&self.kept).insert(socket.id, client);
            }
            Err(_) => {}
        }
        answer
    }

    /// The mount points, on the host, of the filesystems with container images (CRI `ImageFsInfo`).
    pub async fn image_filesystems(&self) -> Result<Vec<PathBuf>, CriError> {
        let search = match self.search("images").await {
            Ok(search) => search,
            Err(stuck) => return Err(CriError::NoSocket(stuck.to_string())),
        };
        let deadline = Instant::now() + settings::CRI_TIMEOUT;
        let mut failure = CriError::NoSocket(self.no_socket(&search));
        for socket in &search.found {
            let call =
                async { connect(socket).await?.image_filesystems(settings::CRI_TIMEOUT).await };
            let answer = timeout_at(deadline, call).await;
            match answer.unwrap_or(Err(CriError::Late(settings::CRI_TIMEOUT))) {
                Err(error @ CriError::Unimplemented(_)) => failure = error,
                answer => return answer,
            }
        }
        Err(failure)
    }

    /// Searches the socket. Each sample does: a socket whose file is gone is of no use to the kubelet, however well an
    /// old connection works.
    async fn search(&self, why: &str) -> Result<SocketSearch, Stuck> {
        let (socket, root) = (self.socket.clone(), self.root.clone());
        let call = move || socket.search(&root);
        self.bounded.run(format!("cri {why}"), settings::CRI_SEARCH_DEADLINE, call).await
    }

    fn no_socket(&self, search: &SocketSearch) -> String {
        let mut text = format!("no container runtime's socket, looked at {}", self.socket.places());
        for refused in &search.refused {
            text = format!("{text}; {refused}");
        }
        text
    }
}

async fn connect(socket: &RuntimeSocket) -> Result<RuntimeClient, CriError> {
    RuntimeClient::open(socket.connect().await.map_err(CriError::Connect)?).await
}

/// The outcome without an answer: the runtime has failed, unless this process cannot connect for reasons of its own.
fn failed(error: &CriError) -> Outcome {
    match error {
        CriError::Connect(why)
            if !matches!(
                why.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
            ) =>
        {
            Outcome::Unknown(error.to_string())
        }
        _ => Outcome::Fail(error.to_string()),
    }
}

/// The outcome with the path of the socket in its reason.
fn at(socket: &RuntimeSocket, outcome: Outcome) -> Outcome {
    let place = socket.path.display();
    match outcome {
        Outcome::Fail(why) => Outcome::Fail(format!("{place}: {why}")),
        Outcome::Unknown(why) => Outcome::Unknown(format!("{place}: {why}")),
        other @ (Outcome::Pass | Outcome::Degraded(_)) => other,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
