//! The connections of one thread, and which of them are evicted when there are too many.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::task::AbortHandle;

use super::{
    connection_slot::{ConnectionSlot, Rank},
    counts::ConnectionCounts,
};

/// The connections of one thread.
#[derive(Debug)]
pub struct ConnectionTable {
    limit: usize,
    began: Instant,
    counts: Arc<ConnectionCounts>,
    open: Arc<AtomicUsize>,
    /// Slots and the tasks of their connections. Some have ended: they are removed when they are as many as the others.
    entries: Vec<(Weak<ConnectionSlot>, AbortHandle)>,
}

impl ConnectionTable {
    /// A table for `limit` connections at once.
    #[must_use]
    pub fn new(limit: usize, began: Instant, counts: Arc<ConnectionCounts>) -> Self {
        Self { limit: limit.max(1), began, counts, open: Arc::default(), entries: Vec::new() }
    }

    /// A slot for one more connection. A full table evicts another one first.
    pub fn allocate(&mut self) -> Arc<ConnectionSlot> {
        if self.open.load(Relaxed) >= self.limit {
            self.evict();
        }
        let slot = ConnectionSlot::new(self.began, self.counts.clone(), self.open.clone());
        if self.entries.len() >= 64 + 2 * self.open.load(Relaxed) {
            self.entries.retain(|(slot, _)| slot.strong_count() > 0);
        }
        Arc::new(slot)
    }

    /// Enters the task that holds the slot, so that it can be evicted.
    pub fn insert(&mut self, slot: Weak<ConnectionSlot>, task: AbortHandle) {
        self.entries.push((slot, task));
    }

    fn evict(&mut self) {
        self.entries.retain(|(slot, task)| slot.strong_count() > 0 && !task.is_finished());
        let entries = self.entries.iter().enumerate();
        let ranks = entries.filter_map(|(at, (slot, _))| Some((slot.upgrade()?.rank(), at)));
        let mut ranks: Vec<_> = ranks.collect();
        // Watches are spared as long as they hold no more than half of all slots.
        let watching = ranks.iter().filter(|(rank, _)| matches!(rank, Rank::Watches(_))).count();
        if watching > self.limit / 2 {
            for (rank, _) in &mut ranks {
                if let Rank::Watches(answered) = *rank {
                    *rank = Rank::Asked(answered);
                }
            }
        }
        // Several silent ones at once, so that a flood does not cost a search per connection; but no more than one of
        // those that load balancers keep open.
        let silent = ranks.iter().filter(|(rank, _)| matches!(rank, Rank::Silent(_))).count();
        let count = (self.limit / 32).clamp(1, silent.max(1)).min(ranks.len());
        if count == 0 {
            return;
        }
        ranks.select_nth_unstable(count - 1);
        let mut evicted: Vec<_> = ranks[..count].iter().map(|(_, at)| *at).collect();
        // From the last to the first, as `swap_remove` moves the last entry.
        evicted.sort_unstable_by(|a, b| b.cmp(a));
        for at in evicted {
            let (slot, task) = self.entries.swap_remove(at);
            if let Some(slot) = slot.upgrade() {
                slot.release();
            }
            task.abort();
            self.counts.evicted.fetch_add(1, Relaxed);
        }
    }

    /// Ends every idle connection, and gives how many connections are left.
    pub fn end_idle(&mut self) -> usize {
        self.entries.retain(|(slot, task)| match slot.upgrade() {
            Some(slot) if !slot.is_idle() => true,
            Some(_) => {
                task.abort();
                false
            }
            None => false,
        });
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn table(limit: usize) -> ConnectionTable {
        ConnectionTable::new(limit, Instant::now(), Arc::default())
    }

    /// Opens a connection whose task never ends by itself; its last response was `answered` microseconds after the
    /// listener was opened, 0 for none.
    fn connect(table: &mut ConnectionTable, answered: u64) -> Weak<ConnectionSlot> {
        let slot = table.allocate();
        if answered > 0 {
            slot.answered(table.began + Duration::from_micros(answered));
        }
        let weak = Arc::downgrade(&slot);
        let task = tokio::spawn(async move {
            let _slot = slot;
            std::future::pending::<()>().await;
        });
        table.insert(weak.clone(), task.abort_handle());
        weak
    }

    fn is_open(slot: &Weak<ConnectionSlot>) -> bool {
        slot.strong_count() > 0
    }

    async fn let_tasks_end() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn silent_connections_go_first_then_those_with_the_oldest_response() {
        let mut table = table(4);
        let long_ago = connect(&mut table, 10);
        let silent = connect(&mut table, 0);
        let lately = connect(&mut table, 30);
        let before = connect(&mut table, 20);
        let mut open = Vec::new();
        for _ in 0..3 {
            connect(&mut table, 40);
            let_tasks_end().await;
            open.push([&silent, &long_ago, &before, &lately].map(is_open));
        }
        assert_eq!(
            open,
            [[false, true, true, true], [false, false, true, true], [false, false, false, true]]
        );
        assert_eq!(table.counts.evicted.load(Relaxed), 3);
        assert_eq!(table.counts.open.load(Relaxed), 4);
    }

    #[tokio::test]
    async fn watches_are_spared_up_to_half_of_all_slots() {
        let mut table = table(4);
        let watching = connect(&mut table, 1);
        watching.upgrade().unwrap().watch_opened();
        // An HTTP/2 preface alone is no request.
        let greeting = connect(&mut table, 0);
        greeting.upgrade().unwrap().set_ends_itself();
        let asked = [2, 3].map(|answered| connect(&mut table, answered));
        let mut open = Vec::new();
        for answered in 4..7 {
            connect(&mut table, answered);
            let_tasks_end().await;
            open.push([&watching, &greeting, &asked[0], &asked[1]].map(is_open));
        }
        assert_eq!(
            open,
            [[true, false, true, true], [true, false, false, true], [true, false, false, false]]
        );
        for answered in 7..11 {
            connect(&mut table, answered).upgrade().unwrap().watch_opened();
            let_tasks_end().await;
        }
        assert!(!is_open(&watching));
    }

    #[tokio::test]
    async fn a_flood_is_bounded_and_spares_connections_with_requests() {
        let mut table = table(64);
        let asking: Vec<_> = (1..10).map(|at| connect(&mut table, at)).collect();
        for turn in 0..10_000 {
            connect(&mut table, 0);
            // In a burst, no task has a turn to end before more connections have come.
            if turn % 40 == 0 {
                let_tasks_end().await;
            }
            assert!(table.open.load(Relaxed) <= 64);
            assert!(table.entries.len() <= 64 * 4);
        }
        assert!(asking.iter().all(is_open));
        let latest: Vec<_> = (0..32).map(|_| connect(&mut table, 0)).collect();
        let_tasks_end().await;
        assert!(latest.iter().all(is_open), "a burst evicts itself");
    }
}
