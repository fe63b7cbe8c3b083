//! Deadlines and bounds of a listener.

use std::time::Duration;

/// Deadlines and bounds of a listener.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The listener's name in the log: `admin`.
    pub name: &'static str,
    /// Connections at once; one more ends others.
    pub connections: usize,
    /// Bytes of a request's line and headers; 8,192 at least. A longer one is answered with 431.
    pub header_bytes: usize,
    /// From the first byte of a request to the end of its headers, and for a TLS handshake.
    pub header_timeout: Duration,
    /// Until the next request begins on a connection.
    pub idle_timeout: Duration,
    /// How long a client may read nothing of an answer that it has asked for.
    pub write_timeout: Duration,
    /// For requests that are being answered when the process stops.
    pub drain: Duration,
    /// For requests that are on their way when the process stops: then idle connections end.
    pub drain_lull: Duration,
}

impl Settings {
    /// Settings for operators, Prometheus and webhooks.
    ///
    /// 1,024 connections, 9 MiB if each of them has sent nearly all of a header of 8 KiB, which is what nginx and Apache
    /// allow. 10 s for a header and for the taking of an answer, which are one round trip on a network that works. 75 s
    /// between requests, nginx's default: Prometheus asks every 15 to 60 s. 5 s and 50 ms at a stop.
    #[must_use]
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            connections: 1024,
            header_bytes: 8 * 1024,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(10),
            drain: Duration::from_secs(5),
            drain_lull: Duration::from_millis(50),
        }
    }
}
