//! The slot of one connection in its thread's connection table: what decides whether it is evicted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use super::counts::ConnectionCounts;

/// What is known of one connection. The connection's task writes it, the thread's accept loop reads it.
#[derive(Debug)]
pub struct ConnectionSlot {
    /// When the listener was opened: times are in microseconds since then, as a flood has many in a millisecond.
    began: Instant,
    accepted: u64,
    /// The time of the last response, plus one; 0 before the first.
    answered: AtomicU64,
    /// Whether a request waits for a probe.
    is_waiting: AtomicBool,
    /// Whether the connection's task ends by itself when the agent stops.
    ends_itself: AtomicBool,
    /// Open gRPC watches.
    watches: AtomicUsize,
    /// Whether the connection is not counted any more.
    is_released: AtomicBool,
    counts: Arc<ConnectionCounts>,
    /// Open connections of the thread.
    open: Arc<AtomicUsize>,
}

impl ConnectionSlot {
    /// A slot for a connection that is accepted now. It counts as open until it is dropped or released.
    #[must_use]
    pub fn new(began: Instant, counts: Arc<ConnectionCounts>, open: Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Relaxed);
        counts.open.fetch_add(1, Relaxed);
        Self {
            began,
            accepted: microseconds(began, Instant::now()),
            answered: AtomicU64::new(0),
            is_waiting: AtomicBool::new(false),
            ends_itself: AtomicBool::new(false),
            watches: AtomicUsize::new(0),
            is_released: AtomicBool::new(false),
            counts,
            open,
        }
    }

    /// A request was answered at that time.
    pub fn answered(&self, now: Instant) {
        self.answered.store(microseconds(self.began, now) + 1, Relaxed);
    }

    /// The time of the last response, to be compared with an earlier value only.
    #[must_use]
    pub fn last_answer(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    /// A request begins to wait for a probe, or ends to.
    pub fn set_waiting(&self, is_waiting: bool) {
        self.is_waiting.store(is_waiting, Relaxed);
    }

    /// The connection's task ends by itself when the agent stops.
    pub fn set_ends_itself(&self) {
        self.ends_itself.store(true, Relaxed);
    }

    /// A gRPC watch was opened.
    pub fn watch_opened(&self) {
        self.watches.fetch_add(1, Relaxed);
    }

    /// A gRPC watch was closed.
    pub fn watch_closed(&self) {
        self.watches.fetch_sub(1, Relaxed);
    }

    /// A request was not complete in time, or a response was not taken in time.
    pub fn timed_out(&self) {
        self.counts.timed_out.fetch_add(1, Relaxed);
    }

    /// Whether the connection is idle at a stop of the agent: nothing is lost when its task is aborted.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.is_waiting.load(Relaxed) && !self.ends_itself.load(Relaxed)
    }

    /// Takes the connection out of all counts. A connection that is evicted is released at once, before its task had a
    /// turn to end: otherwise every connection of a burst would evict more, until the burst evicts itself.
    pub fn release(&self) {
        if !self.is_released.swap(true, Relaxed) {
            self.counts.open.fetch_sub(1, Relaxed);
            self.open.fetch_sub(1, Relaxed);
        }
    }

    /// How much the connection is worth keeping.
    #[must_use]
    pub fn rank(&self) -> Rank {
        match self.answered.load(Relaxed) {
            0 if !self.is_waiting.load(Relaxed) => Rank::Silent(self.accepted),
            0 => Rank::Asked(self.accepted),
            answered if self.watches.load(Relaxed) > 0 => Rank::Watches(answered),
            answered => Rank::Asked(answered),
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.release();
    }
}

fn microseconds(since: Instant, now: Instant) -> u64 {
    let elapsed = now.saturating_duration_since(since).as_micros();
    u64::try_from(elapsed).unwrap_or(u64::MAX - 1)
}

/// How much a connection is worth keeping: the smallest is evicted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// It never sent a request; the time when it was accepted.
    Silent(u64),
    /// The time of its last response.
    Asked(u64),
    /// The same, for a connection with an open gRPC watch.
    Watches(u64),
}
