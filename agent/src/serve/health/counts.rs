//! What the health listener counts, for metrics.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use hyper::StatusCode;

/// Connections of all threads.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    /// Open now.
    pub open: AtomicUsize,
    /// Ended because there were too many.
    pub evicted: AtomicU64,
    /// Ended because a request was not complete in time.
    pub timed_out: AtomicU64,
}

/// Responses of all threads, by status.
#[derive(Debug, Default)]
pub struct ResponseCounts {
    /// 200
    pub ready: AtomicU64,
    /// 503
    pub not_ready: AtomicU64,
    /// Every other status.
    pub refused: AtomicU64,
}

impl ResponseCounts {
    /// Counts a response.
    pub fn count(&self, status: StatusCode) {
        let counter = match status {
            StatusCode::OK => &self.ready,
            StatusCode::SERVICE_UNAVAILABLE => &self.not_ready,
            _ => &self.refused,
        };
        counter.fetch_add(1, Relaxed);
    }
}
