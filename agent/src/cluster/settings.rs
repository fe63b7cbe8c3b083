//! Periods, deadlines and bounds of the cluster side, each with its unit and its reason.

use std::time::Duration;

use tocsin_runtime::kube::ClientSettings;

/// 450 ms between HTTP/2 PINGs on the connection of the watch: with [`API_PING_TIMEOUT`] and what is left of
/// [`API_GRACE`] after it, a server that stops answering is called lost between 1.0 and 1.45 seconds later.
pub const API_PING_INTERVAL: Duration = Duration::from_millis(450);
/// 500 ms for the answer to a PING, which a healthy API server gives within a round trip.
pub const API_PING_TIMEOUT: Duration = Duration::from_millis(500);
/// 4 seconds between requests that ask a server without HTTP/2 whether it is there: nine times [`API_PING_INTERVAL`],
/// since a request costs the server more than a PING.
pub const API_POLL_INTERVAL: Duration = Duration::from_secs(4);
/// 1 second from the loss of the API server to the verdict that goes by it: a restart of one of several servers
/// behind one address is over by then.
pub const API_GRACE: Duration = Duration::from_secs(1);
/// 1 second for a connection to the API server, TLS included.
pub const API_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// 10 seconds for a kubeconfig's login plugin, which may have to ask a cloud.
pub const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// 1 second for an answer on an established connection.
pub const API_READ_TIMEOUT: Duration = Duration::from_secs(1);
/// 270 to 290 seconds per watch: kube refuses more than 294, and bookmarks make a renewal cheap. The spread keeps
/// agents that started together from renewing together.
pub const API_WATCH: Duration = Duration::from_secs(270);
/// See [`API_WATCH`].
pub const API_WATCH_SPREAD: Duration = Duration::from_secs(20);
/// Up to a quarter of a second at random before every reconnection, so that 5,000 agents do not come back as one.
pub const API_JITTER: Duration = Duration::from_millis(250);
/// Three quarters of a second between attempts at most, besides [`API_JITTER`]: the return of the API server is
/// noticed within 2 seconds.
pub const API_RETRY_MAX: Duration = Duration::from_millis(750);
/// 8 MiB for the Node, or for a change of it: etcd takes objects of 1.5 MiB.
pub const API_LINE: usize = 8 << 20;
/// 5 seconds between heartbeats of the thread that talks to the API server; without two of them the server is lost.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// 16 session events that wait for the task beside the listeners, which has nothing else to do.
pub const SESSION_EVENTS: usize = 16;
/// 1 second between writes of conditions, and between writes of events.
pub const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);
/// 30 seconds between failing writes at most.
pub const PUBLISH_RETRY_MAX: Duration = Duration::from_secs(30);
/// 10 seconds between writes that change nothing but a condition's message.
pub const PUBLISH_MESSAGE_INTERVAL: Duration = Duration::from_secs(10);
/// 5 minutes between heartbeats of conditions that do not change: node-problem-detector's.
pub const PUBLISH_HEARTBEAT: Duration = Duration::from_mins(5);
/// 6 minutes during which a repeated event is counted up instead of written again: client-go's event recorder's.
pub const EVENT_SERIES: Duration = Duration::from_mins(6);

/// 32 notices that wait to become events: one for each check that can begin or end a storm.
pub const NOTICES: usize = 32;

/// How the client talks to the API server.
#[must_use]
pub fn client() -> ClientSettings {
    ClientSettings {
        user_agent: concat!("tocsin/", env!("CARGO_PKG_VERSION")),
        connect_timeout: API_CONNECT_TIMEOUT,
        login_timeout: LOGIN_TIMEOUT,
        ping_interval: API_PING_INTERVAL,
        ping_timeout: API_PING_TIMEOUT,
        line_limit: API_LINE,
    }
}
