//! What is answered, before it matters over which protocol.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hyper::{StatusCode, body::Bytes};

use crate::serve::JSON;

/// Methods that every page below `/health` takes.
pub const ALLOW: &str = "GET, HEAD, OPTIONS";

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its status.
    pub status: StatusCode,
    /// Its media type.
    pub content_type: &'static str,
    /// What is allowed, where the method was not.
    pub allow: Option<&'static str>,
    /// `X-Tocsin-Reason`.
    pub reason: Option<String>,
    /// The body.
    pub body: Bytes,
}

impl Page {
    /// A page with nothing special about it.
    #[must_use]
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, allow: None, reason: None, body: body.into() }
    }

    /// `{"error":"…"}`
    #[must_use]
    pub fn error(status: StatusCode, message: &str) -> Self {
        Self::new(status, JSON, serde_json::json!({ "error": message }).to_string())
    }

    /// 405
    #[must_use]
    pub fn not_allowed() -> Self {
        let page = Self::error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
        Self { allow: Some(ALLOW), ..page }
    }
}

/// Answers to requests, by status.
#[derive(Debug, Default)]
pub struct Answered {
    /// 200
    pub ready: AtomicU64,
    /// 503
    pub not_ready: AtomicU64,
    /// Everything else
    pub refused: AtomicU64,
}

impl Answered {
    /// Counts one.
    pub fn count(&self, status: StatusCode) {
        let counter = match status {
            StatusCode::OK => &self.ready,
            StatusCode::SERVICE_UNAVAILABLE => &self.not_ready,
            _ => &self.refused,
        };
        counter.fetch_add(1, Relaxed);
    }
}
