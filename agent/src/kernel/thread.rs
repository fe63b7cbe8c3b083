//! The thread of the kernel task.

use std::{io, thread};

use anyhow::anyhow;
use tokio::{runtime::Builder, sync::oneshot};

use super::{channels::TaskChannels, settings::Settings, task::Kernel};
use crate::host::Paths;

/// The kernel task on a thread and a runtime of its own. Where it stands still all the same, nothing else does, and
/// everything else can tell ([`Pulse`](super::Pulse)).
#[derive(Debug)]
pub struct KernelThread {
    /// For [`Self::run`].
    pub ended: oneshot::Receiver<anyhow::Error>,
    /// Completes with the thread, after its last checkpoint.
    pub finished: oneshot::Receiver<()>,
}

impl KernelThread {
    /// Starts the thread, and waits for its first view as [`Kernel::start`] does.
    pub async fn start(
        settings: &Settings,
        paths: &Paths,
        channels: TaskChannels,
    ) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (settings, paths) = (settings.clone(), paths.clone());
        let (starting, started) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        let (finishing, finished) = oneshot::channel();
        let body = async move {
            let kernel = match Kernel::start(&settings, &paths, channels).await {
                Ok(kernel) => kernel,
                Err(error) => return drop(starting.send(Err(error))),
            };
            if starting.send(Ok(())).is_ok() {
                let _agent_is_gone = ending.send(kernel.run().await);
            }
            drop(finishing);
        };
        let name = "tocsin-kernel".to_owned();
        thread::Builder::new().name(name).spawn(move || runtime.block_on(body))?;
        started.await.unwrap_or_else(|_| Err(io::Error::other("the kernel task panicked")))?;
        Ok(Self { ended, finished })
    }

    /// Waits for the end of the task; says why it ended.
    pub async fn run(ended: oneshot::Receiver<anyhow::Error>) -> anyhow::Error {
        ended.await.unwrap_or_else(|_| anyhow!("the kernel task panicked"))
    }
}
