//! The API server: the client that all reflectors of a role share, and how things stand with it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tocsin_runtime::kube::{ClientSettings, ClusterClient, ClusterSource, RequestCounts};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tracing::{info, warn};

/// `User-Agent` of every role, which the API server's audit log shows.
pub const USER_AGENT: &str = concat!("tocsin-controller/", env!("CARGO_PKG_VERSION"));

/// 450 ms between PINGs on the connection of the watches, and 500 ms for each answer, as the agent has them: a server
/// that hangs is noticed within a second.
const PING_INTERVAL: Duration = Duration::from_millis(450);
/// See [`PING_INTERVAL`].
const PING_TIMEOUT: Duration = Duration::from_millis(500);
/// 1 second for a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// 1 second from the loss of the API server until it counts: a restart of one of several servers behind one address is
/// over by then.
pub const GRACE: Duration = Duration::from_secs(1);

/// The client, made anew when its connection or its credentials are of no use any more.
#[derive(Debug)]
pub struct ApiServer {
    source: ClusterSource,
    requests: Arc<RequestCounts>,
    current: AsyncMutex<Option<Shared>>,
}

/// A client with its number.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Of the clients that this process has made.
    pub number: u64,
    /// The client.
    pub cluster: ClusterClient,
}

impl ApiServer {
    /// No connection yet.
    #[must_use]
    pub fn new(source: ClusterSource) -> Self {
        Self { source, requests: Arc::default(), current: AsyncMutex::default() }
    }

    /// Requests that were made, by the status of their answer.
    #[must_use]
    pub fn requests(&self) -> &RequestCounts {
        &self.requests
    }

    /// The client that everybody uses; another one than number `bad`, of which the caller knows that it does not work.
    ///
    /// Fails where the credentials cannot be read or used.
    pub async fn client(&self, bad: Option<u64>) -> anyhow::Result<Shared> {
        let mut current = self.current.lock().await;
        if let Some(shared) = current.as_ref().filter(|shared| Some(shared.number) != bad) {
            return Ok(shared.clone());
        }
        let number = current.as_ref().map_or(0, |shared| shared.number + 1);
        let settings = ClientSettings {
            ping_interval: PING_INTERVAL,
            ping_timeout: PING_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            ..ClientSettings::new(USER_AGENT)
        };
        let cluster = self.source.connect(&settings, &self.requests).await?;
        let shared = Shared { number, cluster };
        *current = Some(shared.clone());
        Ok(shared)
    }
}

/// How one reflector stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stream {
    /// Its first list is not there yet.
    Starting,
    /// It follows every change.
    Synced,
    /// It has lost its watch.
    Broken { since: Instant, why: String },
}

/// How the reflectors stand together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiState {
    /// Not all first lists are there yet; the text says why, where something went wrong.
    Starting(Option<String>),
    /// Every reflector follows every change.
    Synced,
    /// One has lost its watch, since then; from [`GRACE`] on this counts as a loss.
    Broken {
        /// When anything was read last.
        since: Instant,
        /// What went wrong: one line without secrets.
        why: String,
    },
}

impl ApiState {
    /// Why what is kept in memory cannot be relied on any more; `None` where it can.
    #[must_use]
    pub fn unavailable(&self, now: Instant) -> Option<String> {
        match self {
            Self::Synced => None,
            Self::Starting(None) => Some("the first lists are being read".to_owned()),
            Self::Starting(Some(why)) => Some(why.clone()),
            Self::Broken { since, why } => {
                (now.saturating_duration_since(*since) >= GRACE).then(|| why.clone())
            }
        }
    }
}

/// The reflectors of a role, each with its state. Shared by the reflectors, which write, and the answers, which read.
#[derive(Debug)]
pub struct Streams {
    each: Mutex<Vec<(&'static str, Stream, bool)>>,
    state: watch::Sender<ApiState>,
    /// Losses of a watch, each attempt to have it back included.
    losses: Arc<AtomicU64>,
    /// Whether losses and returns are logged.
    logs: bool,
}

/// One reflector's hold of its state.
#[derive(Clone, Debug)]
pub struct StreamHandle {
    streams: Arc<Streams>,
    index: usize,
}

impl Streams {
    /// None yet.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::with(true, Arc::default()))
    }

    /// None yet, and nothing about them in the log: for those that come and go.
    #[must_use]
    pub fn quiet() -> Arc<Self> {
        Arc::new(Self::with(false, Arc::default()))
    }

    /// None yet, like [`Self::quiet`], with losses counted together with those of this one.
    #[must_use]
    pub fn beside(&self) -> Arc<Self> {
        Arc::new(Self::with(false, self.losses.clone()))
    }

    /// How often a watch was lost, each attempt to have it back included.
    #[must_use]
    pub fn losses(&self) -> Arc<AtomicU64> {
        self.losses.clone()
    }

    fn with(logs: bool, losses: Arc<AtomicU64>) -> Self {
        let state = watch::channel(ApiState::Starting(None)).0;
        Self { each: Mutex::default(), state, losses, logs }
    }

    /// One more that has to be synced.
    #[must_use]
    pub fn add(self: &Arc<Self>, name: &'static str) -> StreamHandle {
        let mut streams = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        streams.push((name, Stream::Starting, false));
        StreamHandle { streams: self.clone(), index: streams.len() - 1 }
    }

    /// How they stand together.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ApiState> {
        self.state.subscribe()
    }

    fn set(&self, index: usize, new: Stream) {
        let mut streams = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((_, stream, was_synced)) = streams.get_mut(index) else { return };
        *was_synced |= new == Stream::Synced;
        *stream = new;
        let state = together(&streams);
        drop(streams);
        self.state.send_if_modified(|old| {
            if self.logs {
                log_change(old, &state);
            }
            let is_new = *old != state;
            *old = state;
            is_new
        });
    }
}

/// The state of all from the states of each: the worst counts, and of broken ones the first.
fn together(streams: &[(&'static str, Stream, bool)]) -> ApiState {
    let why = |name: &str, why: &str| format!("{name}: {why}");
    let starting =
        streams.iter().filter(|(_, stream, was_synced)| !was_synced && *stream != Stream::Synced);
    let mut is_starting = false;
    for (name, stream, _) in starting {
        if let Stream::Broken { why: text, .. } = stream {
            return ApiState::Starting(Some(why(name, text)));
        }
        is_starting = true;
    }
    if is_starting {
        return ApiState::Starting(None);
    }
    let broken = streams.iter().filter_map(|(name, stream, _)| match stream {
        Stream::Broken { since, why: text } => Some((*since, why(name, text))),
        Stream::Starting | Stream::Synced => None,
    });
    match broken.min_by_key(|(since, _)| *since) {
        Some((since, why)) => ApiState::Broken { since, why },
        None => ApiState::Synced,
    }
}

/// One line for each loss and each return.
fn log_change(old: &ApiState, new: &ApiState) {
    match (old, new) {
        (ApiState::Synced, ApiState::Broken { why, .. }) => {
            warn!(why, "the Kubernetes API is lost");
        }

        (ApiState::Starting(before), ApiState::Starting(Some(why)))
            if before.as_ref() != Some(why) =>
        {
            warn!(why, "the first lists cannot be read");
        }
        (ApiState::Starting(_) | ApiState::Broken { .. }, ApiState::Synced) => {
            info!("following the Kubernetes API");
        }

        _ => {}
    }
}

impl StreamHandle {
    /// The list is complete, and every change follows.
    pub fn synced(&self) {
        self.streams.set(self.index, Stream::Synced);
    }

    /// The watch is lost, and nothing has been read for `silent_for`. A loss that goes on keeps its beginning.
    pub fn broken(&self, silent_for: Duration, why: String) {
        self.streams.losses.fetch_add(1, Relaxed);
        let now = Instant::now();
        let since = {
            let streams = self.streams.each.lock().unwrap_or_else(PoisonError::into_inner);
            match streams.get(self.index) {
                Some((_, Stream::Broken { since, .. }, _)) => *since,
                _ => now.checked_sub(silent_for).unwrap_or(now),
            }
        };
        self.streams.set(self.index, Stream::Broken { since, why });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_counts() {
        let streams = Streams::new();
        let state = streams.state();
        let (pods, sets) = (streams.add("pods"), streams.add("sets"));
        let now = Instant::now();
        let of = |at: Instant| state.borrow().unavailable(at);
        assert_eq!(of(now).unwrap(), "the first lists are being read");
        pods.synced();
        sets.broken(Duration::ZERO, "403 Forbidden".to_owned());
        assert_eq!(of(now).unwrap(), "sets: 403 Forbidden");
        sets.synced();
        assert_eq!(of(now), None);
        pods.broken(Duration::from_millis(900), "no PING".to_owned());
        let broken_at = Instant::now();
        assert_eq!(of(broken_at), None, "a short loss changes nothing");
        assert_eq!(of(broken_at + GRACE).unwrap(), "pods: no PING");
        assert_eq!(
            of(broken_at + Duration::from_millis(150)).unwrap(),
            "pods: no PING",
            "it began before"
        );
        pods.broken(Duration::ZERO, "refused".to_owned());
        assert_eq!(
            of(broken_at + Duration::from_millis(150)).unwrap(),
            "pods: refused",
            "it keeps its beginning"
        );
        pods.synced();
        assert_eq!(of(broken_at + GRACE), None);
    }
}
