//! The loaded programs as a source of events.

use std::{future::pending, io};

use aya::maps::{MapData, RingBuf};
use tocsin_runtime::fd;
use tokio::io::{Interest, unix::AsyncFd};
use tracing::{info, warn};

use super::{
    inherited::{Carried, add},
    loader::{Loader, ProgramLog},
    pins::{NoPins, PinDir, Pins, Takeover},
    reader::{self, Count, Event, drain},
    wire::{Counts, Uncounted},
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
    /// What earlier agents counted.
    carried: Carried,
    /// What the programs of earlier agents missed.
    carried_missed: u64,
    /// With `BPF_LOG=true`.
    log: Option<AsyncFd<ProgramLog>>,
}

impl EventSource {
    /// Loads the programs, attaches every hook that this kernel has, and takes over from an earlier agent what it left
    /// pinned. The error says why there are no kernel events.
    pub fn load(
        config: &Settings,
        paths: &Paths,
        pins: Result<PinDir, NoPins>,
    ) -> Result<(Self, Takeover), String> {
        let syscalls = config.mount_hooks == MountHooks::Syscalls;
        let limit = settings::RECORDS_PER_SECOND;
        let mut loader =
            Loader::load(&paths.sys, limit, syscalls, config.bpf_log).map_err(|e| e.to_string())?;
        match pins {
            Ok(dir) => {
                if let Err(why) = loader.pin(dir) {
                    warn!(why, "nothing can be pinned: events while no agent runs are not counted");
                }
            }
            Err(NoPins::Off) => {}
            Err(why) => {
                info!(%why, "nothing is pinned: events while no agent runs are not counted");
            }
        }
        loader.attach_missing();
        let takeover = loader.pins().map_or_else(|| Ok(Takeover::default()), Pins::take_over)?;
        let (ring, counts, uncounted) = loader.take_maps().map_err(|e| e.to_string())?;
        let ring = fd::watch(ring, Interest::READABLE).map_err(|e| e.to_string())?;
        let log = if config.bpf_log {
            let log = loader.take_log().map_err(|e| e.to_string())?;
            Some(fd::watch(log, Interest::READABLE).map_err(|e| e.to_string())?)
        } else {
            None
        };
        let carried = Carried::default();
        Ok((Self { loader, ring, counts, uncounted, carried, carried_missed: 0, log }, takeover))
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

    /// Counts on from what earlier agents counted.
    pub fn carry(&mut self, carried: Carried, missed: u64) {
        (self.carried, self.carried_missed) = (carried, missed);
    }

    /// What the programs of earlier agents missed.
    #[must_use]
    pub fn carried_missed(&self) -> u64 {
        self.carried_missed
    }

    /// Number of events for which no program ran, those of earlier agents included.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.loader.missed() + self.carried_missed
    }

    /// What earlier agents counted.
    #[must_use]
    pub fn carried(&self) -> &Carried {
        &self.carried
    }

    /// Removes what earlier agents have left pinned: it is in the checkpoint now.
    pub fn forget_predecessors(&mut self) {
        if let Some(pins) = self.loader.pins() {
            pins.forget_predecessors();
        }
    }

    /// Reads the exact counters, with what earlier agents counted.
    pub fn counts(&self) -> Result<Vec<Count>, aya::maps::MapError> {
        let counts = reader::counts(&self.counts)?;
        if self.carried.is_empty() {
            return Ok(counts);
        }
        let mut sums = self.carried.clone();
        add(&mut sums, &counts);
        Ok(sums.into_values().collect())
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
