//! The state that all connections of one thread share.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use super::{
    cache::ResponseCache, counts::ResponseCounts, heap_trimmer::HeapTrimmer,
    http2_limits::Http2Limits,
};

/// The state that all connections of one thread share.
pub struct ListenerState {
    /// The thread's rendered responses.
    pub cache: ResponseCache,
    /// Responses of all threads.
    pub responses: Arc<ResponseCounts>,
    /// The bounds of HTTP/2, shared by all threads.
    pub http2: Arc<Http2Limits>,
    /// Returns memory after a crowd of connections, of all threads.
    pub trimmer: Arc<HeapTrimmer>,
    /// Whether the agent stops, for all threads.
    pub draining: Arc<Draining>,
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
            http2: Arc::default(),
            trimmer: Arc::new(HeapTrimmer::new(Arc::default())),
            draining: Arc::default(),
        }
    }
}
