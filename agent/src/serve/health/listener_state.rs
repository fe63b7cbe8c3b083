//! The state that all connections of one thread share.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tocsin_runtime::tls::Acceptor;

use super::{
    cache::ResponseCache, counts::ResponseCounts, heap_trimmer::HeapTrimmer,
    watch_registry::WatchRegistry,
};

/// The state that all connections of one thread share.
pub struct ListenerState {
    /// The thread's rendered responses.
    pub cache: ResponseCache,
    /// Responses of all threads.
    pub responses: Arc<ResponseCounts>,
    /// gRPC watches of all threads.
    pub watches: Arc<WatchRegistry>,
    /// TLS, where it is configured.
    pub tls: Option<Acceptor>,
    /// Returns memory after a crowd of the thread's connections.
    pub trimmer: Arc<HeapTrimmer>,
    /// Whether the agent stops.
    pub draining: Draining,
}

/// Whether the agent stops: then every connection ends after its current request.
#[derive(Debug, Default)]
pub struct Draining(AtomicBool);

impl Draining {
    /// The agent stops.
    pub fn begin(&self) {
        self.0.store(true, Relaxed);
    }

    /// Whether the agent stops.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.load(Relaxed)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::serve::health::route::Router;

    /// A state that answers from `router`.
    pub(in crate::serve::health) fn state(router: Router) -> ListenerState {
        ListenerState {
            cache: ResponseCache::new(router),
            responses: Arc::default(),
            watches: Arc::default(),
            tls: None,
            trimmer: Arc::new(HeapTrimmer::new(Arc::default())),
            draining: Draining::default(),
        }
    }
}
