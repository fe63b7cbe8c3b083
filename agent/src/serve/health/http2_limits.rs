//! The bounds of HTTP/2 that all threads share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::fair_limit::FairLimit;
use crate::serve::health::settings;

/// The bounds of HTTP/2 that all threads share.
#[derive(Debug)]
pub struct Http2Limits {
    /// Open gRPC watches.
    pub watches: Arc<FairLimit>,
    /// Requests that wait: for a probe's first result, or for the rest of a gRPC message.
    pub waiting: Arc<FairLimit>,
    connections: AtomicU64,
}

impl Default for Http2Limits {
    fn default() -> Self {
        Self::new(settings::WATCHES, settings::HTTP2_WAITING)
    }
}

impl Http2Limits {
    /// Bounds of so many watches and waiting requests.
    #[must_use]
    pub fn new(watches: usize, waiting: usize) -> Self {
        Self {
            watches: FairLimit::new(watches),
            waiting: FairLimit::new(waiting),
            connections: AtomicU64::new(0),
        }
    }

    /// A number for one more connection.
    pub fn number_connection(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed)
    }
}
