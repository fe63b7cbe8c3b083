//! gRPC watches of all connections, and which of them has to go when there are too many.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::oneshot;

use super::connections::Seat;
use crate::serve::health::settings;

/// Every open watch.
#[derive(Debug, Default)]
pub struct Watches {
    connections: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// The oldest first.
    watches: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    connection: u64,
    /// Dropped to end it.
    _end: oneshot::Sender<()>,
}

/// One of them, counted for as long as it lives.
#[derive(Debug)]
pub struct Watch {
    id: u64,
    seat: Arc<Seat>,
    watches: Arc<Watches>,
    ended: oneshot::Receiver<()>,
}

impl Watches {
    /// A number for a connection.
    pub fn connection(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed)
    }

    /// One more. Where there are too many, the oldest one of the connection that has the most makes room: whoever
    /// takes all there are must not be able to keep others out.
    pub fn one_more(self: &Arc<Self>, connection: u64, seat: Arc<Seat>) -> Watch {
        let (end, ended) = oneshot::channel();
        let mut open = self.lock();
        if open.watches.len() >= settings::WATCHES {
            open.make_room();
        }
        let id = open.next;
        open.next += 1;
        open.watches.push(Entry { id, connection, _end: end });
        seat.watches(1);
        Watch { id, seat, watches: self.clone(), ended }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn make_room(&mut self) {
        let mut counts = HashMap::<u64, usize>::new();
        for entry in &self.watches {
            *counts.entry(entry.connection).or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or_default();
        let of_the_most = |entry: &Entry| counts.get(&entry.connection) == Some(&most);
        if let Some(oldest) = self.watches.iter().position(of_the_most) {
            self.watches.remove(oldest);
        }
    }
}

impl Watch {
    /// Ends when it has to go.
    pub async fn ended(&mut self) {
        let _nothing_is_ever_sent = (&mut self.ended).await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.seat.watches(-1);
        self.watches.lock().watches.retain(|entry| entry.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{super::connections::Table, *};

    #[tokio::test]
    async fn who_has_the_most_makes_room() {
        let mut table = Table::new(8, Instant::now(), Arc::default());
        let seat = table.take();
        let watches = Arc::<Watches>::default();
        let few = watches.connection();
        let mut old = watches.one_more(few, seat.clone());
        let many = watches.connection();
        let mut greedy: Vec<_> =
            (1..settings::WATCHES).map(|_| watches.one_more(many, seat.clone())).collect();
        assert!(greedy[0].ended.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        let mut new = watches.one_more(few, seat.clone());
        greedy[0].ended().await;
        for watch in [&mut old, &mut new, &mut greedy[1]] {
            assert_eq!(watch.ended.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        }
        assert_eq!(watches.lock().watches.len(), settings::WATCHES);
        drop((old, new, greedy));
        assert_eq!(watches.lock().watches.len(), 0);
    }
}
