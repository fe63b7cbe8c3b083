//! `container_runtime`: the container runtime says that pods can be started, and have a network.
//!
//! It is asked what the kubelet asks it, over the same socket: `Status` of the Container Runtime Interface. One
//! connection stays open between samples, as long as the socket is the same and every question is answered in time;
//! so a sample costs one question, and a runtime that hangs costs nothing that adds up. Nothing is started, stopped or
//! changed, and containers are not looked at.

mod cri;
mod grpc;
pub mod settings;
mod socket;
mod text;

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
    cri::{Runtime, RuntimeStatus, judge},
    grpc::GrpcError,
    socket::{Found, Id, Looked},
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
    /// Connections that answered the last time: one, or one more for each socket without the interface that is
    /// looked at before the right one.
    kept: Mutex<BTreeMap<Id, Runtime>>,
}

impl fmt::Debug for ContainerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerRuntime").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl ContainerRuntime {
    /// A probe that looks for the socket below the root of `paths`.
    #[must_use]
    pub fn new(socket: CriSocket, paths: &Paths, bounded: Bounded) -> Self {
        Self { socket, root: paths.root.clone(), bounded, kept: Mutex::default() }
    }

    /// The same for the runner.
    #[must_use]
    pub fn probe(self: &Arc<Self>) -> Probe {
        let this = self.clone();
        Probe {
            name: CHECK.name,
            // The text that names the socket comes first.
            timeout: settings::CRI_LOOK_DEADLINE + settings::CRI_TIMEOUT * 2,
            sample: Box::new(move || Box::pin(this.clone().sample())),
        }
    }

    /// One sample.
    pub async fn sample(self: Arc<Self>) -> Outcome {
        // Whatever ends this sample early ends them too.
        let mut kept = std::mem::take(&mut *lock(&self.kept));
        let looked = match self.look("status").await {
            Ok(looked) => looked,
            Err(stuck) => {
                let places = self.socket.places();
                return Outcome::Unknown(format!("looking for {places}: {stuck}"));
            }
        };
        let deadline = Instant::now() + settings::CRI_TIMEOUT;
        let mut refusals = Vec::new();
        for found in &looked.found {
            let asking = self.status(found, kept.remove(&found.id));
            let answer = timeout_at(deadline, asking).await;
            match answer.unwrap_or(Err(CriError::Late(settings::CRI_TIMEOUT))) {
                Ok(status) => return at(found, judge(&status)),
                // Docker's containerd, say, on a host of cri-dockerd.
                Err(error @ CriError::Unimplemented(_)) => {
                    refusals.push(format!("{}: {error}", found.path.display()));
                }
                Err(error) => return at(found, failed(&error)),
            }
        }
        if refusals.is_empty() {
            return Outcome::Unknown(self.nowhere(&looked));
        }
        Outcome::Fail(refusals.join("; "))
    }

    /// Asks on the kept connection, or else on a new one, and keeps what answers.
    async fn status(
        &self,
        found: &Found,
        kept: Option<Runtime>,
    ) -> Result<RuntimeStatus, CriError> {
        if let Some(mut runtime) = kept.filter(Runtime::is_open) {
            match runtime.status(settings::CRI_TIMEOUT).await {
                // It ended just now: a restart, which is over if the new one answers.
                Err(CriError::Grpc(GrpcError::Connection(_))) => {}
                answer => return self.keep(found, runtime, answer),
            }
        }
        let mut runtime = connect(found).await?;
        let answer = runtime.status(settings::CRI_TIMEOUT).await;
        self.keep(found, runtime, answer)
    }

    fn keep<T>(
        &self,
        found: &Found,
        runtime: Runtime,
        answer: Result<T, CriError>,
    ) -> Result<T, CriError> {
        match &answer {
            Ok(_) | Err(CriError::Unimplemented(_) | CriError::Grpc(GrpcError::Status(_))) => {
                lock(&self.kept).insert(found.id, runtime);
            }
            Err(_) => {}
        }
        answer
    }

    /// Where the filesystems are that the runtime has its images on, on the host (CRI `ImageFsInfo`).
    pub async fn image_filesystems(&self) -> Result<Vec<PathBuf>, CriError> {
        let looked = match self.look("images").await {
            Ok(looked) => looked,
            Err(stuck) => return Err(CriError::NoSocket(stuck.to_string())),
        };
        let deadline = Instant::now() + settings::CRI_TIMEOUT;
        let mut nothing = CriError::NoSocket(self.nowhere(&looked));
        for found in &looked.found {
            let asking =
                async { connect(found).await?.image_filesystems(settings::CRI_TIMEOUT).await };
            let answer = timeout_at(deadline, asking).await;
            match answer.unwrap_or(Err(CriError::Late(settings::CRI_TIMEOUT))) {
                Err(error @ CriError::Unimplemented(_)) => nothing = error,
                answer => return answer,
            }
        }
        Err(nothing)
    }

    /// Looks for the socket anew each time: one that is gone is of no use to the kubelet, however well an old
    /// connection works.
    async fn look(&self, why: &str) -> Result<Looked, Stuck> {
        let (socket, root) = (self.socket.clone(), self.root.clone());
        let call = move || socket.look(&root);
        self.bounded.run(format!("cri {why}"), settings::CRI_LOOK_DEADLINE, call).await
    }

    fn nowhere(&self, looked: &Looked) -> String {
        let mut text = format!("no container runtime's socket, looked at {}", self.socket.places());
        for refused in &looked.refused {
            text = format!("{text}; {refused}");
        }
        text
    }
}

async fn connect(found: &Found) -> Result<Runtime, CriError> {
    Runtime::open(found.connect().await.map_err(CriError::Connect)?).await
}

/// A runtime without an answer has failed; one that this process cannot reach for its own reasons is not known.
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

fn at(found: &Found, outcome: Outcome) -> Outcome {
    let place = found.path.display();
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
