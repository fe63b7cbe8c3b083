//! The admin listener of every role, for operators. Read-only.
//!
//! * `GET /` — what is here
//! * `GET /metrics` — `OpenMetrics`, or Prometheus text
//! * `GET /livez` — 200 while the process lives, whatever the API server does
//! * `GET /readyz` — 200 while what is kept in memory follows the API server; else 503 and why

use std::{fmt, sync::Arc};

use hyper::{HeaderMap, Method, Request, StatusCode};
use tocsin_runtime::{
    http::{Reply, Server, Settings, TEXT, error, not_allowed, reply},
    metrics::Metrics,
};

const INDEX: &str = "tocsin-controller\n\n/metrics  OpenMetrics\n/livez    200 while the process lives\n\
/readyz   200 while it follows the Kubernetes API\n";

/// The handler.
#[derive(Clone)]
pub struct Admin {
    scrape: Arc<dyn Fn(&HeaderMap) -> Reply + Send + Sync>,
    is_ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// A handler that tells these metrics, and whether the role is ready or why not.
    pub fn new(
        metrics: Metrics,
        is_ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self::with_scrape(move |headers| metrics.reply(headers), is_ready)
    }

    /// The same, where a scrape is more than [`Metrics`].
    pub fn with_scrape(
        scrape: impl Fn(&HeaderMap) -> Reply + Send + Sync + 'static,
        is_ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self { scrape: Arc::new(scrape), is_ready: Arc::new(is_ready) }
    }

    /// A listener that answers with it.
    #[must_use]
    pub fn server(self) -> Server {
        Server::new(Settings::new("admin"), move |request, _| {
            let reply = self.handle(&request);
            async move { reply }
        })
    }

    fn handle<B>(&self, request: &Request<B>) -> Reply {
        let path = request.uri().path();
        if !matches!(path, "/" | "/metrics" | "/livez" | "/readyz") {
            return error(StatusCode::NOT_FOUND, "not found");
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return not_allowed("GET, HEAD");
        }
        match path {
            "/metrics" => (self.scrape)(request.headers()),
            "/livez" => reply(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => match (self.is_ready)() {
                Ok(()) => reply(StatusCode::OK, TEXT, "ok\n"),
                Err(why) => reply(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
            },
            _ => reply(StatusCode::OK, TEXT, INDEX),
        }
    }
}
