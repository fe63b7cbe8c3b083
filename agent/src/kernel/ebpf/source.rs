//! The loaded programs as a source of events.

use std::{future::pending, io};

use aya::maps::{MapData, RingBuf};
use tocsin_runtime::fd;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    loader::{Counts, Loader, ProgramLog, Uncounted},
    reader::{self, Count, Event, drain},
};
use crate::{
    host::Paths,
    kernel::settings::{self, MountHooks, Settings},
};

/// 256 events that are taken out of the ring buffer before the kernel task's other work gets its turn.
pub const BATCH: usize = 256;

/// The loaded programs with their maps.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct EventSource {
    loader: Loader,
    ring: AsyncFd<RingBuf<MapData>>,
    counts: Counts,
    uncounted: Uncounted,
    /// With `BPF_LOG=true`.
    log: Option<AsyncFd<ProgramLog>>,
}

impl EventSource {
    /// Loads the programs and attaches every hook that this kernel has. The error says why there are no kernel events.
    pub fn load(config: &Settings, paths: &Paths) -> Result<Self, String> {
        let syscalls = config.mount_hooks == MountHooks::Syscalls;
        let limit = settings::RECORDS_PER_SECOND;
        let mut loader =
            Loader::load(&paths.sys, limit, syscalls, config.bpf_log).map_err(|e| e.to_string())?;
        loader.attach_missing();
        let (ring, counts, uncounted) = loader.take_maps().map_err(|e| e.to_string())?;
        let ring = fd::watch(ring, Interest::READABLE).map_err(|e| e.to_string())?;
        let log = if config.bpf_log {
            let log = loader.take_log().map_err(|e| e.to_string())?;
            Some(fd::watch(log, Interest::READABLE).map_err(|e| e.to_string())?)
        } else {
            None
        };
        Ok(Self { loader, ring, counts, uncounted, log })
    }

    /// The hooks.
    #[must_use]
    pub fn loader(&self) -> &Loader {
        &self.loader
    }

    /// Attaches the hooks whose tracepoints have appeared since the last attempt.
    pub fn attach_missing(&mut self) {
        self.loader.attach_missing();
    }

    /// Waits until the ring buffer or the programs' log has something. Moves up to [`BATCH`] events of the ring buffer
    /// into `events`, and the lines into this process's log. A call that is dropped loses nothing.
    pub async fn next(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        tokio::select! {
            guard = self.ring.readable_mut() => {
                let mut guard = guard?;
                if !drain(guard.get_inner_mut(), BATCH, events) {
                    guard.clear_ready();
                }
            }
            () = log_lines(self.log.as_mut()) => {}
        }
        Ok(())
    }

    /// Reads the exact counters.
    pub fn counts(&self) -> Result<Vec<Count>, aya::maps::MapError> {
        reader::counts(&self.counts)
    }

    /// Number of events for which there was no room among the counters.
    #[must_use]
    pub fn uncounted(&self) -> u64 {
        reader::uncounted(&self.uncounted)
    }
}

/// Writes the lines of the programs' log to this process's log.
async fn log_lines(log: Option<&mut AsyncFd<ProgramLog>>) {
    let Some(log) = log else { return pending().await };
    let Ok(mut guard) = log.readable_mut().await else { return pending().await };
    guard.get_inner_mut().flush();
    guard.clear_ready();
}
