//! What the cluster side counts.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tocsin_runtime::kube::RequestCounts;

/// Counters for metrics.
#[derive(Debug, Default)]
pub struct ApiStats {
    /// Requests by status.
    pub requests: Arc<RequestCounts>,
    lost: AtomicU64,
    condition_writes: [AtomicU64; 2],
    event_writes: [AtomicU64; 2],
}

impl ApiStats {
    /// The API server was lost.
    pub fn lost(&self) {
        self.lost.fetch_add(1, Relaxed);
    }

    /// Losses.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// A write of conditions ended.
    pub fn wrote_conditions(&self, ok: bool) {
        self.condition_writes[usize::from(ok)].fetch_add(1, Relaxed);
    }

    /// A write of an event ended.
    pub fn wrote_event(&self, ok: bool) {
        self.event_writes[usize::from(ok)].fetch_add(1, Relaxed);
    }

    /// Writes by what was written and whether it worked.
    #[must_use]
    pub fn writes(&self) -> [(&'static str, &'static str, u64); 4] {
        let of = |what, counters: &[AtomicU64; 2]| {
            let [failed, ok] = counters;
            [(what, "ok", ok.load(Relaxed)), (what, "failed", failed.load(Relaxed))]
        };
        let [a, b] = of("conditions", &self.condition_writes);
        let [c, d] = of("event", &self.event_writes);
        [a, b, c, d]
    }
}
