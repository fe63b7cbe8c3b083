//! Which connections there are, and which of them has to go when there are too many.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use tokio::task::AbortHandle;

use super::accept::Door;

/// What is known of one connection; written by its task, read by who accepts.
#[derive(Debug)]
pub struct Seat {
    /// Microseconds since the door opened: a flood has many in a millisecond.
    accepted: u64,
    /// The same of the last answer, plus one; 0 before the first.
    served: AtomicU64,
    /// Within a request that waits for a probe.
    waiting: AtomicBool,
    /// Ends by itself when the agent stops.
    ends_itself: AtomicBool,
    /// gRPC watches on it.
    watches: AtomicUsize,
    /// Not counted any more.
    left: AtomicBool,
    counts: Arc<Counts>,
    /// Of the thread that it is on.
    open: Arc<AtomicUsize>,
}

/// Connections of all threads, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Open now.
    pub open: AtomicUsize,
    /// Ended because there were too many.
    pub evicted: AtomicU64,
    /// Ended because a request was not complete in time.
    pub timed_out: AtomicU64,
}

impl Seat {
    /// A request was answered.
    pub fn served(&self, door: &Door) {
        self.served.store(door.microseconds() + 1, Relaxed);
    }

    /// When that was.
    pub fn last(&self) -> u64 {
        self.served.load(Relaxed)
    }

    /// A request has to wait, or not any more.
    pub fn waits(&self, waits: bool) {
        self.waiting.store(waits, Relaxed);
    }

    /// It knows how to end when the agent stops.
    pub fn ends_itself(&self) {
        self.ends_itself.store(true, Relaxed);
    }

    /// So many gRPC watches more, or fewer.
    pub fn watches(&self, more: isize) {
        // Wraps around, both ways.
        self.watches.fetch_add(more.cast_unsigned(), Relaxed);
    }

    /// A request was not complete in time.
    pub fn timed_out(&self) {
        self.counts.timed_out.fetch_add(1, Relaxed);
    }

    fn is_watching(&self) -> bool {
        self.watches.load(Relaxed) > 0
    }

    /// Who goes first, and of those the one with the lowest number.
    fn rank(&self) -> Rank {
        match self.served.load(Relaxed) {
            0 if !self.waiting.load(Relaxed) => Rank::Silent(self.accepted),
            0 => Rank::Asked(self.accepted),
            served if self.is_watching() => Rank::Watches(served),
            served => Rank::Asked(served),
        }
    }
}

/// What a connection is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It never asked anything; when it came.
    Silent(u64),
    /// When it was answered last.
    Asked(u64),
    /// The same, where it is told of news since then.
    Watches(u64),
}

impl Seat {
    /// Stops counting it: who is told to go is gone, also where the task has had no turn to end yet. Otherwise every
    /// connection of a burst would send more away, until the burst sends away itself.
    fn leave(&self) {
        if !self.left.swap(true, Relaxed) {
            self.counts.open.fetch_sub(1, Relaxed);
            self.open.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The connections of one thread.
#[derive(Debug)]
pub struct Table {
    limit: usize,
    began: Instant,
    counts: Arc<Counts>,
    open: Arc<AtomicUsize>,
    /// Also some that have ended: they are cleared away when they are as many as the others.
    seats: Vec<(std::sync::Weak<Seat>, AbortHandle)>,
}

impl Table {
    /// For so many at once.
    #[must_use]
    pub fn new(limit: usize, began: Instant, counts: Arc<Counts>) -> Self {
        Self { limit: limit.max(1), began, counts, open: Arc::default(), seats: Vec::new() }
    }

    /// A seat for one more; where there is none, somebody's.
    pub fn take(&mut self) -> Arc<Seat> {
        if self.open.load(Relaxed) >= self.limit {
            self.evict();
        }
        let open = self.open.fetch_add(1, Relaxed) + 1;
        self.counts.open.fetch_add(1, Relaxed);
        if self.seats.len() >= 64 + 2 * open {
            self.seats.retain(|(seat, _)| seat.strong_count() > 0);
        }
        Arc::new(Seat {
            accepted: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
            served: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            ends_itself: AtomicBool::new(false),
            watches: AtomicUsize::new(0),
            left: AtomicBool::new(false),
            counts: self.counts.clone(),
            open: self.open.clone(),
        })
    }

    /// How many there are, for whoever waits until they are fewer.
    #[must_use]
    pub fn open(&self) -> Arc<AtomicUsize> {
        self.open.clone()
    }

    /// Says how the task of that seat is ended.
    pub fn seated(&mut self, seat: std::sync::Weak<Seat>, handle: AbortHandle) {
        self.seats.push((seat, handle));
    }

    fn evict(&mut self) {
        self.seats.retain(|(seat, handle)| seat.strong_count() > 0 && !handle.is_finished());
        let seats = self.seats.iter().enumerate();
        let ranks = seats.filter_map(|(at, (seat, _))| Some((seat.upgrade()?.rank(), at)));
        let mut ranks: Vec<_> = ranks.collect();
        // Half of all seats for good is enough for who only watches.
        let watching = ranks.iter().filter(|(rank, _)| matches!(rank, Rank::Watches(_))).count();
        if watching > self.limit / 2 {
            for (rank, _) in &mut ranks {
                if let Rank::Watches(served) = *rank {
                    *rank = Rank::Asked(served);
                }
            }
        }
        // Some at once, so that a flood does not mean a search for each of its connections; but of those that a
        // load balancer keeps, no more than has to be.
        let silent = ranks.iter().filter(|(rank, _)| matches!(rank, Rank::Silent(_))).count();
        let count = (self.limit / 32).clamp(1, silent.max(1)).min(ranks.len());
        if count == 0 {
            return;
        }
        ranks.select_nth_unstable(count - 1);
        let mut going: Vec<_> = ranks[..count].iter().map(|(_, at)| *at).collect();
        going.sort_unstable_by(|a, b| b.cmp(a));
        for at in going {
            let (seat, handle) = self.seats.swap_remove(at);
            if let Some(seat) = seat.upgrade() {
                seat.leave();
            }
            handle.abort();
            self.counts.evicted.fetch_add(1, Relaxed);
        }
    }

    /// Ends those that are not being answered; gives how many are left.
    pub fn end_idle(&mut self) -> usize {
        self.seats.retain(|(seat, handle)| match seat.upgrade() {
            Some(seat) if seat.waiting.load(Relaxed) || seat.ends_itself.load(Relaxed) => true,
            Some(_) => {
                handle.abort();
                false
            }
            None => false,
        });
        self.seats.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(limit: usize) -> Table {
        Table::new(limit, Instant::now(), Arc::default())
    }

    /// Takes a seat with a task that never ends by itself.
    fn sit(table: &mut Table, served: u64) -> (std::sync::Weak<Seat>, AbortHandle) {
        let seat = table.take();
        seat.served.store(served, Relaxed);
        let weak = Arc::downgrade(&seat);
        let task = tokio::spawn(async move {
            let _seat = seat;
            std::future::pending::<()>().await;
        });
        table.seated(weak.clone(), task.abort_handle());
        (weak, task.abort_handle())
    }

    async fn settle() {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_never_asked_goes_first_then_who_asked_longest_ago() {
        let mut table = table(4);
        let long_ago = sit(&mut table, 10).0;
        let silent = sit(&mut table, 0).0;
        let lately = sit(&mut table, 30).0;
        let before = sit(&mut table, 20).0;
        let mut alive = Vec::new();
        for _ in 0..3 {
            drop(sit(&mut table, 40));
            settle().await;
            let seats = [&silent, &long_ago, &before, &lately];
            alive.push(seats.map(|seat| seat.strong_count() > 0));
        }
        assert_eq!(
            alive,
            [[false, true, true, true], [false, false, true, true], [false, false, false, true]]
        );
        assert_eq!(table.counts.evicted.load(Relaxed), 3);
        assert_eq!(table.counts.open.load(Relaxed), 4);
    }

    #[tokio::test]
    async fn a_watch_keeps_its_seat_among_those_who_ask_but_not_more_than_half_of_all() {
        let mut table = table(4);
        let watches = sit(&mut table, 1).0;
        watches.upgrade().unwrap().watches(1);
        // What only says that it speaks HTTP/2 has not asked anything.
        let greets = sit(&mut table, 0).0;
        greets.upgrade().unwrap().ends_itself();
        let asked = [2, 3].map(|served| sit(&mut table, served).0);
        let mut alive = Vec::new();
        for served in 4..7 {
            sit(&mut table, served);
            settle().await;
            let seats = [&watches, &greets, &asked[0], &asked[1]];
            alive.push(seats.map(|seat| seat.strong_count() > 0));
        }
        assert_eq!(
            alive,
            [[true, false, true, true], [true, false, false, true], [true, false, false, false]]
        );
        for served in 7..11 {
            sit(&mut table, served).0.upgrade().unwrap().watches(1);
            settle().await;
        }
        assert_eq!(watches.strong_count(), 0);
    }

    #[tokio::test]
    async fn a_flood_is_bounded_and_leaves_who_asks() {
        let mut table = table(64);
        let asking: Vec<_> = (1..10).map(|at| sit(&mut table, at).0).collect();
        for turn in 0..10_000 {
            drop(sit(&mut table, 0));
            // As in a burst: nobody has a turn to go before more have come.
            if turn % 40 == 0 {
                settle().await;
            }
            assert!(table.open.load(Relaxed) <= 64);
            assert!(table.seats.len() <= 64 * 4);
        }
        assert!(asking.iter().all(|seat| seat.strong_count() == 1));
        let latest: Vec<_> = (0..32).map(|_| sit(&mut table, 0).0).collect();
        settle().await;
        assert!(latest.iter().all(|seat| seat.strong_count() == 1), "a burst sends away itself");
    }
}
