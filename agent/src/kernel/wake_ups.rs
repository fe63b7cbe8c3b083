//! What wakes the kernel task up: kernel events, and notifications that something may have changed.

use std::{fs::File, future::pending, io, thread};

use anyhow::Context;
use tocsin_runtime::fd;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::oneshot,
    time::timeout,
};
use tracing::{info, warn};

use super::{
    ebpf::{
        DEADLINE, Died, EventSource, HookReport, HookWorker, Loaded, THREAD,
        inherited::Takeover,
        pins::{NoPins, PinDir},
        reader::Event,
    },
    sampling::fanotify::{self, ErrorEvents, ErrorMarks},
    settings::Settings,
};
use crate::host::Paths;

/// Why the kernel task was woken up.
#[derive(Debug)]
pub(super) enum WakeUp {
    /// Kernel events have arrived.
    Events,
    /// The mount table has changed, or fanotify has reported an error of a filesystem.
    Notification,
    /// The loader has attached what could be attached.
    Hooks,
    /// The kernel programs are loaded, later than the agent started; this is what they have taken over.
    Loaded(Takeover),
}

type Loading = oneshot::Receiver<Result<Loaded, String>>;

/// The sources of wake-ups, each optional.
pub(super) struct WakeUps {
    /// The loaded programs, or why there are none.
    source: Result<EventSource, String>,
    /// Their loader; `None` if there is none.
    hooks: Option<HookWorker>,
    /// The programs, while they are loaded for longer than a start waits.
    loading: Option<Loading>,
    /// Whether earlier agents have left something pinned that is still there.
    has_predecessors: bool,
    fanotify: Option<ErrorEvents>,
    mount_table: Option<AsyncFd<File>>,
}

impl WakeUps {
    /// Opens every source that this host has. Without eBPF that includes fanotify; then the sampler has to add each
    /// filesystem to the second value.
    pub(super) async fn open(
        config: &Settings,
        paths: &Paths,
        pins: Result<PinDir, NoPins>,
    ) -> (Self, Option<ErrorMarks>, Takeover) {
        let mut wake_ups = Self {
            source: Err("eBPF is off (NO_EBPF)".to_owned()),
            hooks: None,
            loading: None,
            has_predecessors: false,
            fanotify: None,
            mount_table: watch_mount_table(paths),
        };
        let mut takeover = Takeover::default();
        if !config.no_ebpf {
            let mut loading = start_loading(config, paths, pins);
            match timeout(DEADLINE, &mut loading).await {
                Ok(loaded) => takeover = wake_ups.loaded(flat(loaded)),
                Err(_late) => {
                    wake_ups.source = Err(format!(
                        "loading the kernel programs takes more than {} s (tracefs does not answer)",
                        DEADLINE.as_secs()
                    ));
                    wake_ups.loading = Some(loading);
                }
            }
        }
        let mut marks = None;
        if let Err(why) = &wake_ups.source {
            warn!(why, "no kernel events: falling back to polling");
            match fanotify::new() {
                Ok((events, watched)) => (wake_ups.fanotify, marks) = (Some(events), Some(watched)),
                Err(error) => info!(%error, "no fanotify error events either"),
            }
        }
        (wake_ups, marks, takeover)
    }

    /// The programs are loaded, or cannot be.
    fn loaded(&mut self, programs: Result<Loaded, String>) -> Takeover {
        match programs.and_then(EventSource::new) {
            Ok((source, loader, takeover)) => {
                self.source = Ok(source);
                self.hooks = Some(HookWorker::new(loader));
                self.has_predecessors = takeover.has_predecessors();
                takeover
            }
            Err(why) => {
                self.source = Err(why);
                Takeover::default()
            }
        }
    }

    /// Whether the programs are being loaded still.
    pub(super) fn is_loading(&self) -> bool {
        self.loading.is_some()
    }

    /// The loaded programs, or why there are none.
    pub(super) fn source(&self) -> Result<&EventSource, &str> {
        self.source.as_ref().map_err(String::as_str)
    }

    /// The loaded programs, to be changed; `None` if there are none.
    pub(super) fn source_mut(&mut self) -> Option<&mut EventSource> {
        self.source.as_mut().ok()
    }

    /// What is not known because attaching hooks takes long.
    pub(super) fn hooks_overdue(&self) -> Option<String> {
        self.hooks.as_ref().and_then(HookWorker::overdue)
    }

    /// Has the hooks attached whose tracepoints have appeared since the last attempt.
    pub(super) fn attach_missing(&mut self) {
        if let Some(hooks) = &mut self.hooks {
            hooks.attach_missing();
        }
    }

    /// Has removed what earlier agents have left pinned: it is in the checkpoint now.
    pub(super) fn forget_predecessors(&mut self) {
        if let Some(hooks) = self.hooks.as_mut().filter(|_| self.has_predecessors) {
            self.has_predecessors = false;
            hooks.forget_predecessors();
        }
    }

    /// Waits for the next wake-up. Events are moved into `events`. A call that is dropped loses nothing.
    pub(super) async fn next(&mut self, events: &mut Vec<Event>) -> anyhow::Result<WakeUp> {
        tokio::select! {
            result = next_events(&mut self.source, events) => {
                result.context("the ring buffer cannot be read")?;
                Ok(WakeUp::Events)
            }
            () = mounts_changed(self.mount_table.as_ref()) => Ok(WakeUp::Notification),
            () = filesystem_error(self.fanotify.as_ref()) => Ok(WakeUp::Notification),
            report = hooks_back(self.hooks.as_mut()) => {
                let report = report?;
                if let Ok(source) = &mut self.source {
                    source.report(report);
                }
                Ok(WakeUp::Hooks)
            }
            programs = late(self.loading.as_mut()) => {
                self.loading = None;
                Ok(WakeUp::Loaded(self.loaded(programs)))
            }
        }
    }
}

/// Loads the programs on a thread of its own, because tracefs may keep it waiting.
fn start_loading(config: &Settings, paths: &Paths, pins: Result<PinDir, NoPins>) -> Loading {
    let (config, paths) = (config.clone(), paths.clone());
    let (done, loading) = oneshot::channel();
    let body = move || {
        let _agent_ends = done.send(Loaded::load(&config, &paths, pins));
    };
    // Without a thread the channel is closed, which is told as a death.
    let _thread = thread::Builder::new().name(THREAD.into()).spawn(body);
    loading
}

fn flat<T>(loaded: Result<Result<T, String>, oneshot::error::RecvError>) -> Result<T, String> {
    loaded.unwrap_or_else(|_| Err("the thread that loads the kernel programs has died".to_owned()))
}

async fn late(loading: Option<&mut Loading>) -> Result<Loaded, String> {
    match loading {
        Some(loading) => flat(loading.await),
        None => pending().await,
    }
}

async fn hooks_back(hooks: Option<&mut HookWorker>) -> Result<HookReport, Died> {
    match hooks {
        Some(hooks) => hooks.back().await,
        None => pending().await,
    }
}

async fn next_events(
    source: &mut Result<EventSource, String>,
    events: &mut Vec<Event>,
) -> io::Result<()> {
    match source {
        Ok(source) => source.next(events).await,
        Err(_) => pending().await,
    }
}

/// Opens the mount table for `poll(2)`, which reports its changes as an exceptional condition.
fn watch_mount_table(paths: &Paths) -> Option<AsyncFd<File>> {
    let file = File::open(&paths.mount_table).ok()?;
    fd::watch(file, Interest::PRIORITY).ok()
}

async fn mounts_changed(mount_table: Option<&AsyncFd<File>>) {
    match mount_table {
        Some(mount_table) => match mount_table.ready(Interest::PRIORITY).await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => pending().await,
        },
        None => pending().await,
    }
}

async fn filesystem_error(events: Option<&ErrorEvents>) {
    match events {
        Some(events) => events.next().await,
        None => pending().await,
    }
}
