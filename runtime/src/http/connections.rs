//! The connections of a listener, and which of them end when there are too many.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::task::AbortHandle;

use super::activity::{Activity, Rank};

/// Counters of a listener's connections, for metrics.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    /// Open now.
    pub open: AtomicUsize,
    /// Ended because there were too many.
    pub evicted: AtomicU64,
    /// Ended because a request was not complete in time, or its answer was not taken in time.
    pub timed_out: AtomicU64,
}

/// A connection's place among the others; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) activity: Arc<Activity>,
    freed: AtomicBool,
    counts: Arc<ConnectionCounts>,
}

impl Slot {
    /// Stops counting the connection. A task that was aborted ends only at its next turn; counted until then, it would
    /// make each connection of a burst end one more.
    fn free(&self) {
        if !self.freed.swap(true, Relaxed) {
            self.counts.open.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.free();
    }
}

/// The connections of a listener.
#[derive(Debug)]
pub(super) struct Connections {
    limit: usize,
    began: Instant,
    counts: Arc<ConnectionCounts>,
    /// Also some that have ended: they are cleared away when they are as many as the others.
    entries: Vec<(Weak<Slot>, AbortHandle)>,
}

impl Connections {
    /// No connections yet, and never more than `limit`.
    pub(super) fn new(limit: usize, counts: Arc<ConnectionCounts>) -> Self {
        Self { limit: limit.max(1), began: Instant::now(), counts, entries: Vec::new() }
    }

    /// A slot for one more; where there is none, others end.
    pub(super) fn slot(&mut self) -> Arc<Slot> {
        if self.counts.open.load(Relaxed) >= self.limit {
            self.evict();
        }
        let open = self.counts.open.fetch_add(1, Relaxed) + 1;
        if self.entries.len() >= 64 + 2 * open {
            self.entries.retain(|(slot, _)| slot.strong_count() > 0);
        }
        let activity = Arc::new(Activity::new(self.began));
        Arc::new(Slot { activity, freed: AtomicBool::new(false), counts: self.counts.clone() })
    }

    /// Notes how the task that has the slot is ended.
    pub(super) fn add(&mut self, slot: Weak<Slot>, task: AbortHandle) {
        self.entries.push((slot, task));
    }

    fn evict(&mut self) {
        self.entries.retain(|(slot, task)| slot.strong_count() > 0 && !task.is_finished());
        let entries = self.entries.iter().enumerate();
        let ranks =
            entries.filter_map(|(at, (slot, _))| Some((slot.upgrade()?.activity.rank(), at)));
        let mut ended = least(self.limit, ranks.collect());
        ended.sort_unstable_by(|a, b| b.cmp(a));
        for at in ended {
            let (slot, task) = self.entries.swap_remove(at);
            if let Some(slot) = slot.upgrade() {
                slot.free();
            }
            task.abort();
            self.counts.evicted.fetch_add(1, Relaxed);
        }
    }
}

/// The connections that end, by their place in the table. Several of those without a request end at once, so that a
/// flood does not mean a search for each of its connections; of the others, one.
fn least(limit: usize, mut ranks: Vec<(Rank, usize)>) -> Vec<usize> {
    // Half of all slots for good is enough for streams.
    let answering = ranks.iter().filter(|(rank, _)| matches!(rank, Rank::Answering(_))).count();
    if answering > limit / 2 {
        for (rank, _) in &mut ranks {
            if let Rank::Answering(asked) = *rank {
                *rank = Rank::Asked(asked);
            }
        }
    }
    let never_asked = ranks.iter().filter(|(rank, _)| matches!(rank, Rank::NeverAsked(_))).count();
    let count = (limit / 32).clamp(1, never_asked.max(1)).min(ranks.len());
    if count == 0 {
        return Vec::new();
    }
    ranks.select_nth_unstable(count - 1);
    ranks[..count].iter().map(|(_, at)| *at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Rank::{Answering, Asked, NeverAsked};

    #[test]
    fn the_least_connections_end() {
        // (limit, ranks, the places of those that end)
        for (limit, ranks, expected) in [
            (4, vec![Asked(1), NeverAsked(9), Asked(3), NeverAsked(5)], vec![3]),
            (4, vec![Asked(3), Asked(1), Answering(0), Asked(2)], vec![1]),
            // Streams have half of the slots; more of them compete with idle connections.
            (4, vec![Answering(2), Answering(1), Answering(3), Asked(4)], vec![1]),
            (4, vec![Answering(2), Answering(1), Asked(9), Asked(8)], vec![3]),
            // Connections without a request end many at once, others one by one.
            (128, vec![NeverAsked(1), NeverAsked(4), Asked(0), NeverAsked(2)], vec![0, 1, 3]),
            (128, vec![Asked(1), Asked(4), Asked(0)], vec![2]),
            (4, vec![], vec![]),
        ] {
            let ranks = ranks.into_iter().zip(0..).collect();
            let mut found = least(limit, ranks);
            found.sort_unstable();
            assert_eq!(found, expected, "limit {limit}");
        }
    }

    #[tokio::test]
    async fn an_evicted_connection_is_not_counted_even_before_its_task_has_ended() {
        let counts = Arc::<ConnectionCounts>::default();
        let mut connections = Connections::new(4, counts.clone());
        for _ in 0..1000 {
            let slot = connections.slot();
            let weak = Arc::downgrade(&slot);
            // No task has a turn in here.
            let task = tokio::spawn(async move {
                let _slot = slot;
                std::future::pending::<()>().await;
            });
            connections.add(weak, task.abort_handle());
            assert!(counts.open.load(Relaxed) <= 4 && connections.entries.len() <= 80);
        }
        assert_eq!(counts.evicted.load(Relaxed), 996);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(counts.open.load(Relaxed), 4);
    }
}
