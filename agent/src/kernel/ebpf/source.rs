//! The loaded programs as a source of events.

use std::{future::pending, io};

use aya::maps::{MapData, RingBuf};
use tocsin_ebpf::CountKey;
use tocsin_runtime::fd;
use tokio::io::{Interest, unix::AsyncFd};
use tracing::{info, warn};

use super::{
    inherited::{Carried, CountId, Takeover, add},
    loader::{Loader, ProgramLog},
    pins::{NoPins, PinDir, Pins},
    reader::{self, Count, Event, drain},
    report::HookReport,
    wire::{Counts, Uncounted, Wire},
};
use crate::{
    host::Paths,
    kernel::settings::{self, MountHooks, Settings},
};

/// 256 events that are taken out of the ring buffer before the kernel task's other work gets its turn.
pub const BATCH: usize = 256;

/// The loaded programs with their maps, as the thread that loads them hands them over.
pub(crate) struct Loaded {
    pub(crate) loader: Loader,
    ring: RingBuf<MapData>,
    counts: Counts,
    uncounted: Uncounted,
    log: Option<ProgramLog>,
    /// What earlier agents have left.
    pub(crate) takeover: Takeover,
}

impl Loaded {
    /// Loads the programs, attaches every hook that this kernel has, and takes over from an earlier agent what it left
    /// pinned. This may hang, as everything on tracefs may. The error says why there are no kernel events.
    pub(crate) fn load(
        config: &Settings,
        paths: &Paths,
        pins: Result<PinDir, NoPins>,
    ) -> Result<Self, String> {
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
        let log =
            config.bpf_log.then(|| loader.take_log().map_err(|e| e.to_string())).transpose()?;
        Ok(Self { loader, ring, counts, uncounted, log, takeover })
    }
}

/// The maps of the loaded programs.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct EventSource {
    /// How the hooks stood when the loader was last here.
    hooks: HookReport,
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
    /// Watches the maps from this task's runtime; gives the loader and what was taken over.
    pub(crate) fn new(loaded: Loaded) -> Result<(Self, Loader, Takeover), String> {
        let Loaded { loader, ring, counts, uncounted, log, takeover } = loaded;
        let ring = fd::watch(ring, Interest::READABLE).map_err(|e| e.to_string())?;
        let log = log.map(|log| fd::watch(log, Interest::READABLE)).transpose();
        let source = Self {
            hooks: loader.report(),
            ring,
            counts,
            uncounted,
            carried: Carried::default(),
            carried_missed: 0,
            log: log.map_err(|error| error.to_string())?,
        };
        Ok((source, loader, takeover))
    }

    /// How the hooks stand.
    #[must_use]
    pub fn hooks(&self) -> &HookReport {
        &self.hooks
    }

    /// The loader was here, with this report.
    pub(crate) fn report(&mut self, hooks: HookReport) {
        self.hooks = hooks;
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
        self.hooks.missed() + self.carried_missed
    }

    /// What earlier agents counted.
    #[must_use]
    pub fn carried(&self) -> &Carried {
        &self.carried
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

    /// Forgets counters, so that there is room for those of other devices.
    pub fn forget(&mut self, ids: &[CountId]) {
        for id in ids {
            self.carried.remove(id);
            let (kind, dev, errno) = *id;
            let key = CountKey { dev: dev.0, errno, kind: kind as u16, reserved: 0 };
            // Only what an earlier agent counted is not there.
            let _not_there = self.counts.remove(&Wire(key));
        }
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
