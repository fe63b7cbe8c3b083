//! Counters of the cluster side, for metrics.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tocsin_runtime::kube::RequestCounts;

/// Counters since the start of the agent.
#[derive(Debug, Default)]
pub struct ApiStats {
    /// Requests by status.
    pub requests: Arc<RequestCounts>,
    losses: AtomicU64,
    condition_writes: WriteCounts,
    event_writes: WriteCounts,
    missed_changes: AtomicU64,
}

#[derive(Debug, Default)]
struct WriteCounts {
    ok: AtomicU64,
    failed: AtomicU64,
}

impl WriteCounts {
    fn count(&self, is_ok: bool) {
        let counter = if is_ok { &self.ok } else { &self.failed };
        counter.fetch_add(1, Relaxed);
    }
}

impl ApiStats {
    /// Counts a loss of the API server.
    pub fn count_loss(&self) {
        self.losses.fetch_add(1, Relaxed);
    }

    /// Losses of the API server.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.losses.load(Relaxed)
    }

    /// Counts a write of the Node's conditions.
    pub fn count_condition_write(&self, is_ok: bool) {
        self.condition_writes.count(is_ok);
    }

    /// Counts a write of an event.
    pub fn count_event_write(&self, is_ok: bool) {
        self.event_writes.count(is_ok);
    }

    /// Writes as (what was written, result, count).
    #[must_use]
    pub fn writes(&self) -> [(&'static str, &'static str, u64); 4] {
        let of = |what, counts: &WriteCounts| {
            let WriteCounts { ok, failed } = counts;
            [(what, "ok", ok.load(Relaxed)), (what, "failed", failed.load(Relaxed))]
        };
        let [a, b] = of("conditions", &self.condition_writes);
        let [c, d] = of("event", &self.event_writes);
        [a, b, c, d]
    }

    /// Counts changes of faults that the event recorder did not read in time.
    pub fn count_missed_changes(&self, count: u64) {
        self.missed_changes.fetch_add(count, Relaxed);
    }

    /// Changes of faults that the event recorder did not read in time.
    #[must_use]
    pub fn missed_changes(&self) -> u64 {
        self.missed_changes.load(Relaxed)
    }
}
