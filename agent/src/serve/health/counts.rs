//! What the health listener counts, for metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hyper::StatusCode;
pub use tocsin_runtime::http::ConnectionCounts;

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
