//! The gRPC watches of all connections, and which of them is ended when there are too many.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::sync::oneshot;

use super::connection_slot::ConnectionSlot;
use crate::serve::health::settings;

/// All open watches.
#[derive(Debug, Default)]
pub struct WatchRegistry {
    connections: AtomicU64,
    open: Mutex<OpenWatches>,
}

#[derive(Debug, Default)]
struct OpenWatches {
    next_id: u64,
    /// The oldest first.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    connection: u64,
    /// Dropped to end the watch.
    _end: oneshot::Sender<()>,
}

/// A registered watch. It counts until it is dropped.
#[derive(Debug)]
pub struct RegisteredWatch {
    id: u64,
    slot: Arc<ConnectionSlot>,
    registry: Arc<WatchRegistry>,
    ended: oneshot::Receiver<()>,
}

impl WatchRegistry {
    /// A number for a connection, under which its watches are counted.
    pub fn connection_number(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed)
    }

    /// Registers a watch of a connection. Where there are too many, the connection with the most watches loses its
    /// oldest one: a client that opens all the watches there are cannot keep others out.
    pub fn register(
        self: &Arc<Self>,
        connection: u64,
        slot: Arc<ConnectionSlot>,
    ) -> RegisteredWatch {
        let (end, ended) = oneshot::channel();
        let mut open = self.lock();
        if open.entries.len() >= settings::WATCHES {
            open.evict_one();
        }
        let id = open.next_id;
        open.next_id += 1;
        open.entries.push(Entry { id, connection, _end: end });
        slot.watch_opened();
        RegisteredWatch { id, slot, registry: self.clone(), ended }
    }

    fn lock(&self) -> MutexGuard<'_, OpenWatches> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenWatches {
    fn evict_one(&mut self) {
        let mut counts = HashMap::<u64, usize>::new();
        for entry in &self.entries {
            *counts.entry(entry.connection).or_default() += 1;
        }
        let most = counts.values().copied().max().unwrap_or_default();
        let has_most = |entry: &Entry| counts.get(&entry.connection) == Some(&most);
        if let Some(oldest) = self.entries.iter().position(has_most) {
            self.entries.remove(oldest);
        }
    }
}

impl RegisteredWatch {
    /// Completes when the watch has to end because there are too many.
    pub async fn evicted(&mut self) {
        let _sender_dropped = (&mut self.ended).await;
    }
}

impl Drop for RegisteredWatch {
    fn drop(&mut self) {
        self.slot.watch_closed();
        self.registry.lock().entries.retain(|entry| entry.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn the_connection_with_the_most_watches_loses_its_oldest() {
        let slot = ConnectionSlot::new(Instant::now(), Arc::default(), Arc::default());
        let slot = Arc::new(slot);
        let registry = Arc::<WatchRegistry>::default();
        let few = registry.connection_number();
        let mut old = registry.register(few, slot.clone());
        let many = registry.connection_number();
        let mut greedy: Vec<_> =
            (1..settings::WATCHES).map(|_| registry.register(many, slot.clone())).collect();
        assert!(greedy[0].ended.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        let mut new = registry.register(few, slot.clone());
        greedy[0].evicted().await;
        for watch in [&mut old, &mut new, &mut greedy[1]] {
            assert_eq!(watch.ended.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        }
        assert_eq!(registry.lock().entries.len(), settings::WATCHES);
        drop((old, new, greedy));
        assert_eq!(registry.lock().entries.len(), 0);
    }
}
