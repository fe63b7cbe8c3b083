//! The session with the API server: one connection after the other, each with a list and watches of the own Node.
//!
//! A connection that fails is replaced by a new one, which begins with a list: that is one small request, and nothing
//! can be resumed wrongly.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tocsin_runtime::{
    jitter,
    kube::{ClusterClient, ClusterSource, describe},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, interval, sleep},
};
use tracing::{debug, info};

use super::{
    node_watch::{NodeWatch, Outputs},
    request::SessionEnd,
    session_event::{SessionError, SessionEvent},
    settings,
    stats::ApiStats,
};

/// 5 seconds: after a session of this length the delay between attempts begins anew.
const STEADY: Duration = Duration::from_secs(5);

/// The task that keeps the session.
pub struct Session {
    source: ClusterSource,
    node_name: String,
    events: mpsc::Sender<SessionEvent>,
    client: watch::Sender<Option<Client>>,
    stats: Arc<ApiStats>,
    /// Whether the log already says that the server has no HTTP/2.
    has_logged_http1: bool,
}

impl Session {
    /// A session that sends what happens to `events`, and the client for writes to `client`: none while there is no
    /// watch.
    #[must_use]
    pub fn new(
        source: ClusterSource,
        node_name: String,
        events: mpsc::Sender<SessionEvent>,
        client: watch::Sender<Option<Client>>,
        stats: Arc<ApiStats>,
    ) -> Self {
        Self { source, node_name, events, client, stats, has_logged_http1: false }
    }

    /// Keeps the session until the receiver of its events is gone.
    pub async fn run(mut self) {
        let heartbeats = send_heartbeats(self.events.clone());
        tokio::select! {
            () = heartbeats => {}
            () = self.reconnect() => {}
        }
    }

    /// Makes one connection after the other.
    async fn reconnect(&mut self) {
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let SessionEnd::Failed(error) = self.connect_and_watch().await else { return };
            self.client.send_replace(None);
            debug!(error = error.message, "the session with the Kubernetes API failed");
            if self.events.send(SessionEvent::Failed(error)).await.is_err() {
                return;
            }
            failures = if started.elapsed() > STEADY { 0 } else { failures + 1 };
            sleep(retry_delay(failures) + jitter::up_to(settings::API_JITTER)).await;
        }
    }

    /// One connection, from its beginning to its end.
    async fn connect_and_watch(&mut self) -> SessionEnd {
        let connection = self.source.connect(&settings::client(), &self.stats.requests).await;
        let connection = match connection {
            Ok(connection) => connection,
            Err(error) => {
                let cause = describe(error.as_ref());
                return SessionEnd::failed(format!("no client for it can be made: {cause}"));
            }
        };
        let end = self.watch(&connection).await;
        let silent_for = connection.last_read.elapsed();
        match end {
            // hyper ends a connection without an answer to its PING like one that the server closed; only the silence
            // tells them apart. Before there is a watch, the request's own deadline has passed.
            SessionEnd::Failed(_)
                if self.client.borrow().is_some()
                    && !connection.is_without_http2()
                    && silent_for >= settings::API_PING_TIMEOUT =>
            {
                let limit = settings::API_PING_TIMEOUT;
                let message = format!("no answer to a PING within {} ms", limit.as_millis());
                // The loss began when the PING was sent.
                SessionEnd::Failed(SessionError { message, silent_for: limit })
            }
            end => end,
        }
    }

    /// Lists and watches the Node until the connection fails.
    async fn watch(&mut self, connection: &ClusterClient) -> SessionEnd {
        let outputs = Outputs { events: &self.events, client: &self.client };
        let watch = match NodeWatch::list(&self.node_name, connection, outputs).await {
            Ok(watch) => watch,
            Err(end) => return end,
        };
        if connection.is_without_http2() && !self.has_logged_http1 {
            self.has_logged_http1 = true;
            info!(
                "the Kubernetes API speaks HTTP/1.1 only: it is asked every {} seconds whether it is there",
                settings::API_POLL_INTERVAL.as_secs()
            );
        }
        let Err(end) = watch.run().await;
        end
    }
}

/// Sends a heartbeat at every interval, until the receiver is gone.
async fn send_heartbeats(events: mpsc::Sender<SessionEvent>) {
    let mut ticks = interval(settings::HEARTBEAT_INTERVAL);
    loop {
        ticks.tick().await;
        // A full queue holds newer signs of life than this one.
        if let Err(mpsc::error::TrySendError::Closed(_)) = events.try_send(SessionEvent::Heartbeat)
        {
            return;
        }
    }
}

/// The delay before the next attempt, without its jitter: none at first, then ever longer.
fn retry_delay(failures: u32) -> Duration {
    let step = settings::API_RETRY_MAX / 3;
    (step * failures).min(settings::API_RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_later_and_never_too_late() {
        let ms: Vec<_> = (0..6).map(|failures| retry_delay(failures).as_millis()).collect();
        assert_eq!(ms, [0, 250, 500, 750, 750, 750]);
    }
}
