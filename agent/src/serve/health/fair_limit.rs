//! A bound on what all connections hold together. When it is reached, the connection that holds the most loses its oldest
//! one: a client that takes all there are cannot keep others out.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// A bound on what all connections hold together: gRPC watches, or requests that wait.
#[derive(Debug)]
pub struct FairLimit {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    /// The oldest has the lowest number.
    held: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    connection: u64,
    /// Dropped to evict it.
    _evict: oneshot::Sender<()>,
}

/// One of the things that are bounded. It counts until it is dropped or evicted.
#[derive(Debug)]
pub struct Held {
    id: u64,
    limit: Arc<FairLimit>,
    evicted: oneshot::Receiver<()>,
}

impl FairLimit {
    /// A bound of `limit` for all connections together.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, state: Mutex::default() })
    }

    /// Holds one more for the connection with that number; evicts another one if the bound is reached.
    pub fn hold(self: &Arc<Self>, connection: u64) -> Held {
        let (evict, evicted) = oneshot::channel();
        let mut state = self.lock();
        if state.held.len() >= self.limit {
            state.evict_one();
        }
        let id = state.next_id;
        state.next_id += 1;
        state.held.insert(id, Entry { connection, _evict: evict });
        Held { id, limit: self.clone(), evicted }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn evict_one(&mut self) {
        let mut counts = HashMap::<u64, usize>::new();
        for entry in self.held.values() {
            *counts.entry(entry.connection).or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or_default();
        let mut held = self.held.iter();
        let oldest = held.find(|(_, entry)| counts.get(&entry.connection) == Some(&most));
        if let Some(id) = oldest.map(|(id, _)| *id) {
            self.held.remove(&id);
        }
    }
}

impl Held {
    /// Completes when it is evicted.
    pub async fn evicted(&mut self) {
        let _sender_dropped = (&mut self.evicted).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.limit.lock().held.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_connection_that_holds_the_most_loses_its_oldest() {
        const LIMIT: usize = 100;
        let is_held =
            |held: &mut Held| held.evicted.try_recv() == Err(oneshot::error::TryRecvError::Empty);
        let limit = FairLimit::new(LIMIT);
        let (few, many) = (1, 2);
        let mut old = limit.hold(few);
        let mut greedy: Vec<_> = (1..LIMIT).map(|_| limit.hold(many)).collect();
        assert!(is_held(&mut greedy[0]));
        let mut new = limit.hold(few);
        greedy[0].evicted().await;
        for held in [&mut old, &mut new, &mut greedy[1]] {
            assert!(is_held(held));
        }
        assert_eq!(limit.lock().held.len(), LIMIT);
        drop((old, new, greedy));
        assert_eq!(limit.lock().held.len(), 0);
    }
}
