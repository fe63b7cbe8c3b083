//! Counters of the webhooks, and what is wrong with them.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// What a webhook tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum WebhookKind {
    /// One peer that died or came back: `PEER_STATUS_URL`.
    Peer,
    /// All peers: `CLUSTER_STATUS_URL`.
    Cluster,
}

impl WebhookKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Peer, Self::Cluster];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Cluster => "cluster",
        }
    }
}

/// Counters of the webhooks that this agent sent.
#[derive(Debug, Default)]
pub struct WebhookStats {
    accepted: [AtomicU64; 2],
    failed: [AtomicU64; 2],
    failing: [Mutex<Option<String>>; 2],
    full: AtomicU64,
    expired: AtomicU64,
    queued: AtomicUsize,
}

impl WebhookStats {
    /// Webhooks that were accepted.
    #[must_use]
    pub fn accepted(&self, kind: WebhookKind) -> u64 {
        self.accepted[kind as usize].load(Relaxed)
    }

    /// Attempts that failed.
    #[must_use]
    pub fn failed(&self, kind: WebhookKind) -> u64 {
        self.failed[kind as usize].load(Relaxed)
    }

    /// Webhooks that were given up for want of room, and since they were a day old.
    #[must_use]
    pub fn dropped(&self) -> [(&'static str, u64); 2] {
        [("full", self.full.load(Relaxed)), ("expired", self.expired.load(Relaxed))]
    }

    /// Webhooks in the queue, which every member of the majority has.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued.load(Relaxed)
    }

    /// Why the last attempts failed, one line for each URL that does not accept.
    #[must_use]
    pub fn failing(&self) -> Vec<String> {
        let texts = self.failing.iter();
        texts
            .filter_map(|text| text.lock().unwrap_or_else(PoisonError::into_inner).clone())
            .collect()
    }

    /// Counts an attempt; says whether it ended as the one before did.
    pub(super) fn count(&self, kind: WebhookKind, failure: Option<String>) -> bool {
        let counter = if failure.is_none() { &self.accepted } else { &self.failed };
        counter[kind as usize].fetch_add(1, Relaxed);
        let mut failing =
            self.failing[kind as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = failing.is_some() == failure.is_some();
        *failing = failure;
        is_same
    }

    pub(super) fn set_queue(&self, queued: usize, full: u64, expired: u64) {
        self.queued.store(queued, Relaxed);
        self.full.store(full, Relaxed);
        self.expired.store(expired, Relaxed);
    }
}
