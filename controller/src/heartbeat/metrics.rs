//! The heartbeat's metrics. Names, units and help are API: one table, [`DESCRIPTIONS`].

use std::{
    fmt,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use tocsin_runtime::{
    http::ConnectionCounts,
    log::DroppedLines,
    metrics::{Collect, Encoder},
};

use super::{handler::Handler, tokens_file::TokenReloads};
use crate::api_server::ApiServer;

tocsin_runtime::descriptions! {
    pub static DESCRIPTIONS;
    REQUESTS = counter "heartbeat_requests" ["code"] "Requests to the API, by the status of the answer";
    WORKLOADS = gauge "heartbeat_workloads" [] "Workloads that are kept in memory";
    PODS = gauge "heartbeat_pods" [] "Pods with a controller that are kept in memory";
    CLIENTS = gauge "heartbeat_clients" [] "Clients with an open window of the rate limit";
    EVENT_NAMESPACES = gauge "heartbeat_event_namespaces" [] "Namespaces whose Warning events are watched";
    EVENTS = gauge "heartbeat_warnings" [] "Warning events that are kept in memory";
    EVENTS_DROPPED = counter "heartbeat_warnings_dropped" [] "Warning events for which there was no room";
    TOKEN_FAILURES = counter "heartbeat_token_file_failures" [] "Readings of AUTH_TOKEN_FILE that failed; the tokens from before stay";
    CERTIFICATE_FAILURES = counter "heartbeat_certificate_failures" [] "Readings of TLS_CERT and TLS_KEY that failed; the certificate from before stays";
    API_SYNCED = gauge "heartbeat_api_synced" [] "1 while what is kept in memory follows the API server";
    API_REQUESTS = counter "heartbeat_api_requests" ["code"] "Requests to the API server, by the status of the answer; none where there was none";
    CONNECTIONS = gauge "heartbeat_connections" [] "Open connections to the API's listener";
    EVICTED = counter "heartbeat_connections_evicted" [] "Connections that were ended to make room for others";
    TIMED_OUT = counter "heartbeat_connections_timed_out" [] "Connections whose request or answer took too long";
    LOG_DROPPED = counter "heartbeat_log_lines_dropped" [] "Log lines that nobody took in time";
    BUILD = gauge "heartbeat_build_info" ["version"] "1, with the version";
}

/// What the metrics are read from.
pub struct Sources {
    /// The answers.
    pub handler: Arc<Handler>,
    /// The API's listener.
    pub connections: Arc<ConnectionCounts>,
    /// The API server.
    pub server: Arc<ApiServer>,
    /// The token file.
    pub tokens: Arc<TokenReloads>,
    /// Readings of the certificate that failed.
    pub certificate_failures: Arc<AtomicU64>,
    /// The log.
    pub log_dropped: DroppedLines,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Collect for Sources {
    fn collect(&self, encoder: &mut Encoder<'_>) -> fmt::Result {
        let Self { handler, connections, server, tokens, certificate_failures, log_dropped } = self;
        let mut family = encoder.family(&REQUESTS)?;
        for (code, count) in handler.answered.by_status() {
            family.counter(&[("code", code)], count)?;
        }
        let (workloads, pods) = handler.store.read().unwrap_or_else(PoisonError::into_inner).len();
        encoder.integer(&WORKLOADS, workloads)?;
        encoder.integer(&PODS, pods)?;
        let clients = handler.rate.lock().unwrap_or_else(PoisonError::into_inner).len();
        encoder.integer(&CLIENTS, clients)?;
        let (namespaces, warnings, dropped) = handler.warnings.counts();
        encoder.integer(&EVENT_NAMESPACES, namespaces)?;
        encoder.integer(&EVENTS, warnings)?;
        encoder.counter(&EVENTS_DROPPED, dropped)?;
        encoder.counter(&TOKEN_FAILURES, tokens.failures.load(Relaxed))?;
        encoder.counter(&CERTIFICATE_FAILURES, certificate_failures.load(Relaxed))?;
        let is_synced = handler.api.borrow().unavailable(Instant::now()).is_none();
        encoder.flag(&API_SYNCED, is_synced)?;
        let mut family = encoder.family(&API_REQUESTS)?;
        for (code, count) in server.requests().by_code() {
            family.counter(&[("code", &*code)], count)?;
        }
        encoder.integer(&CONNECTIONS, connections.open.load(Relaxed))?;
        encoder.counter(&EVICTED, connections.evicted.load(Relaxed))?;
        encoder.counter(&TIMED_OUT, connections.timed_out.load(Relaxed))?;
        encoder.counter(&LOG_DROPPED, log_dropped())?;
        encoder.family(&BUILD)?.flag(&[("version", env!("CARGO_PKG_VERSION"))], true)
    }
}
