//! The kernel's counters and the states of the hooks, for `/faults` and `/metrics`.

use tracing::warn;

use super::{
    ebpf::{EventSource, HookStatus, reader::kind_name},
    ledger::{Ledger, Now},
};
use crate::{errno, model::Dev};

/// What the kernel side counts. Published when a request for `/faults` or `/metrics` comes, every second while events
/// come, and every few seconds otherwise.
#[derive(Clone, Debug, Default)]
pub struct KernelStats {
    /// The kernel's exact counters.
    pub counts: Vec<NamedCount>,
    /// Every hook.
    pub hooks: Vec<HookStatus>,
    /// Events for which there was no room among the counters.
    pub uncounted: u64,
    /// Events for which no program ran.
    pub missed: u64,
    /// Events that the agent gave up because too many waited for their filesystem.
    pub forgotten: u64,
    /// Hooks that stay attached when this process ends.
    pub pinned_hooks: usize,
    /// Writes of the checkpoint that failed.
    pub checkpoint_failures: u64,
    /// Probes that are running or stuck.
    pub probes_running: usize,
    /// Seconds that the last snapshot took.
    pub snapshot_seconds: f64,
}

/// One of the kernel's counters, with names.
#[derive(Clone, Debug)]
pub struct NamedCount {
    /// The kind of event ([`kind_name`]).
    pub kind: &'static str,
    /// The device.
    pub device: Dev,
    /// Its name in the kernel; empty if it is not known.
    pub device_name: String,
    /// Name of the errno; empty if the tracepoint has none.
    pub errno: String,
    /// Events.
    pub count: u64,
    /// Those of them that were not sent because of the rate limit.
    pub suppressed: u64,
    /// Those of them that were not sent because the ring buffer was full.
    pub dropped: u64,
}

/// Reads the counters and hooks of the loaded programs.
#[derive(Debug, Default)]
pub(super) struct StatsReader {
    /// All events counted at the last reading.
    total: u64,
    /// Events for which no program ran, or for which there was no room among the counters.
    missed: u64,
    /// Those of them for which there was no room, at the last reading.
    uncounted: u64,
}

impl StatsReader {
    /// A reader that knows of so many missed events already.
    pub(super) fn new(missed: u64) -> Self {
        Self { missed, ..Self::default() }
    }

    /// Number of all events counted at the last reading.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Number of missed events at the last reading.
    pub(super) fn missed(&self) -> u64 {
        self.missed
    }

    /// Reads for how many events there was no room.
    pub(super) fn read_uncounted(&mut self, source: &EventSource) {
        self.uncounted = source.uncounted();
    }

    /// Has everything looked at if events were missed since the last look, because nobody knows what they told; true if so.
    /// A missed event changes no counter. This reads no map either: while a map is read, the programs of that CPU miss
    /// events.
    pub(super) fn look_for_missed(&mut self, source: &EventSource, ledger: &mut Ledger) -> bool {
        self.note_missed(source.missed(), ledger)
    }

    /// Takes in the number of events for which no program ran.
    fn note_missed(&mut self, unrun: u64, ledger: &mut Ledger) -> bool {
        let missed = unrun + self.uncounted;
        let new = missed.saturating_sub(self.missed);
        self.missed = missed;
        if new > 0 {
            let why = format!("{new} kernel events were missed");
            // In a storm there is one look after another.
            if ledger.missed().is_none() {
                warn!(why, "looking at every filesystem");
            }
            ledger.look_everywhere(why);
        }
        new > 0
    }

    /// Reads the counters into the ledger and into statistics. Counters that cannot be read stay as they were in
    /// `before`.
    pub(super) fn read(
        &mut self,
        source: Option<&mut EventSource>,
        before: &KernelStats,
        ledger: &mut Ledger,
        now: Now,
    ) -> KernelStats {
        let Some(source) = source else { return KernelStats::default() };
        let counts = match source.counts() {
            Ok(mut counts) => {
                let outdated = ledger.outdated(&counts);
                if !outdated.is_empty() {
                    source.forget(&outdated);
                    ledger.forget_counts(&outdated);
                    counts.retain(|c| !outdated.contains(&(c.kind, c.dev, c.errno)));
                }
                self.total = counts.iter().map(|count| count.count).sum();
                ledger.counted(&counts, now);
                let table = ledger.table();
                let named = counts.iter().map(|count| NamedCount {
                    kind: kind_name(count.kind),
                    device: count.dev,
                    device_name: table.device_name(count.dev).to_owned(),
                    errno: match count.errno {
                        0 => String::new(),
                        errno => errno::name(errno).into_owned(),
                    },
                    count: count.count,
                    suppressed: count.suppressed,
                    dropped: count.dropped,
                });
                named.collect()
            }
            Err(error) => {
                warn!(%error, "the kernel's counters cannot be read");
                before.counts.clone()
            }
        };
        KernelStats {
            counts,
            hooks: source.hooks().hooks(),
            uncounted: self.uncounted,
            missed: self.missed.saturating_sub(self.uncounted),
            pinned_hooks: source.hooks().pinned(),
            ..KernelStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::kernel::ledger::Rules;

    #[test]
    fn a_missed_event_is_enough_for_a_look_at_everything() {
        let mut ledger = Ledger::new(Rules {
            io_error_window: Duration::from_mins(5),
            io_stall_after: Duration::from_secs(5),
            require_writable: Vec::new(),
        });
        // What the agent before has looked for is not looked for again.
        let mut stats = StatsReader::new(7);
        for (unrun, expected) in [
            (7, None),
            (8, Some("1 kernel events were missed: looking at every filesystem")),
            (8, Some("1 kernel events were missed: looking at every filesystem")),
            (11, Some("3 kernel events were missed: looking at every filesystem")),
        ] {
            let before = stats.missed();
            assert_eq!(stats.note_missed(unrun, &mut ledger), unrun > before, "{unrun}");
            assert_eq!(ledger.missed().as_deref(), expected, "{unrun}");
        }
    }
}
