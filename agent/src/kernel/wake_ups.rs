//! What wakes the kernel task up: kernel events, and notifications that something may have changed.

use std::{fs::File, future::pending, io};

use tocsin_runtime::fd;
use tokio::io::{Interest, unix::AsyncFd};
use tracing::{info, warn};

use super::{
    ebpf::{
        EventSource,
        pins::{NoPins, PinDir, Takeover},
        reader::Event,
    },
    sampling::fanotify::{self, ErrorEvents, ErrorMarks},
    settings::Settings,
};
use crate::host::Paths;

/// Why the kernel task was woken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WakeUp {
    /// Kernel events have arrived.
    Events,
    /// The mount table has changed, or fanotify has reported an error of a filesystem.
    Notification,
}

/// The sources of wake-ups, each optional.
pub(super) struct WakeUps {
    /// The loaded programs, or why there are none.
    source: Result<EventSource, String>,
    fanotify: Option<ErrorEvents>,
    mount_table: Option<AsyncFd<File>>,
}

impl WakeUps {
    /// Opens every source that this host has. Without eBPF that includes fanotify; then the sampler has to add each
    /// filesystem to the second value.
    pub(super) fn open(
        config: &Settings,
        paths: &Paths,
        pins: Result<PinDir, NoPins>,
    ) -> (Self, Option<ErrorMarks>, Takeover) {
        let source = if config.no_ebpf {
            Err("eBPF is off (NO_EBPF)".to_owned())
        } else {
            EventSource::load(config, paths, pins)
        };
        let (source, takeover) = match source {
            Ok((source, takeover)) => (Ok(source), takeover),
            Err(why) => (Err(why), Takeover::default()),
        };
        let (mut fanotify, mut marks) = (None, None);
        if let Err(why) = &source {
            warn!(why, "no kernel events: falling back to polling");
            match fanotify::new() {
                Ok((events, watched)) => (fanotify, marks) = (Some(events), Some(watched)),
                Err(error) => info!(%error, "no fanotify error events either"),
            }
        }
        (Self { source, fanotify, mount_table: watch_mount_table(paths) }, marks, takeover)
    }

    /// The loaded programs, or why there are none.
    pub(super) fn source(&self) -> Result<&EventSource, &str> {
        self.source.as_ref().map_err(String::as_str)
    }

    /// The loaded programs, to be changed; `None` if there are none.
    pub(super) fn source_mut(&mut self) -> Option<&mut EventSource> {
        self.source.as_mut().ok()
    }

    /// Attaches the hooks whose tracepoints have appeared since the last attempt.
    pub(super) fn attach_missing(&mut self) {
        if let Ok(source) = &mut self.source {
            source.attach_missing();
        }
    }

    /// Waits for the next wake-up. Events are moved into `events`. A call that is dropped loses nothing.
    pub(super) async fn next(&mut self, events: &mut Vec<Event>) -> io::Result<WakeUp> {
        tokio::select! {
            result = next_events(&mut self.source, events) => result.map(|()| WakeUp::Events),
            () = mounts_changed(self.mount_table.as_ref()) => Ok(WakeUp::Notification),
            () = filesystem_error(self.fanotify.as_ref()) => Ok(WakeUp::Notification),
        }
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
