//! What wakes the kernel task: the ring buffer, the programs' log, the mount table, fanotify.

use std::{fs::File, future::pending, io};

use aya::maps::{MapData, RingBuf};
use tocsin_runtime::fd;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    fanotify::ErrorEvents,
    loader::{Counts, Loader, ProgramLog, Uncounted},
    reader::{Event, drain},
};
use crate::{
    host::Paths,
    kernel::settings::{self, MountHooks, Settings},
};

/// Events taken out of the ring before the other work gets its turn.
pub(super) const BATCH: usize = 256;

/// The loaded hooks and their maps.
pub(super) struct Hooks {
    pub(super) loader: Loader,
    ring: AsyncFd<RingBuf<MapData>>,
    pub(super) counts: Counts,
    pub(super) uncounted: Uncounted,
    log: Option<AsyncFd<ProgramLog>>,
}

impl Hooks {
    pub(super) fn load(config: &Settings, paths: &Paths) -> Result<Self, String> {
        let syscalls = config.mount_hooks == MountHooks::Syscalls;
        let limit = settings::RECORDS_PER_SECOND;
        let mut loader =
            Loader::load(&paths.sys, limit, syscalls, config.bpf_log).map_err(|e| e.to_string())?;
        loader.attach_missing();
        let (ring, counts, uncounted) = loader.take_maps().map_err(|e| e.to_string())?;
        let wrap = |ring| fd::watch(ring, Interest::READABLE).map_err(|e| e.to_string());
        let log = if config.bpf_log {
            let log = loader.take_log().map_err(|e| e.to_string())?;
            Some(fd::watch(log, Interest::READABLE).map_err(|e| e.to_string())?)
        } else {
            None
        };
        Ok(Self { loader, ring: wrap(ring)?, counts, uncounted, log })
    }
}

pub(super) fn mount_poll(paths: &Paths) -> Option<AsyncFd<File>> {
    let file = File::open(&paths.mount_table).ok()?;
    fd::watch(file, Interest::PRIORITY).ok()
}

pub(super) async fn mounts_changed(poll: Option<&AsyncFd<File>>) {
    match poll {
        Some(poll) => match poll.ready(Interest::PRIORITY).await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => pending().await,
        },
        None => pending().await,
    }
}

pub(super) async fn filesystem_error(events: Option<&ErrorEvents>) {
    match events {
        Some(events) => events.next().await,
        None => pending().await,
    }
}

pub(super) async fn ring_readable(
    hooks: &mut Result<Hooks, String>,
    events: &mut Vec<Event>,
) -> io::Result<()> {
    let Ok(hooks) = hooks else { return pending().await };
    let Hooks { ring, log, .. } = hooks;
    tokio::select! {
        guard = ring.readable_mut() => {
            let mut guard = guard?;
            if !drain(guard.get_inner_mut(), BATCH, events) {
                guard.clear_ready();
            }
        }
        () = log_lines(log.as_mut()) => {}
    }
    Ok(())
}

/// Hands the programs' own log to ours.
async fn log_lines(log: Option<&mut AsyncFd<ProgramLog>>) {
    let Some(log) = log else { return pending().await };
    let Ok(mut guard) = log.readable_mut().await else { return pending().await };
    guard.get_inner_mut().flush();
    guard.clear_ready();
}
