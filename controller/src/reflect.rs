//! One reflector: the list and the watch of one kind of object, again and again, handed to a sink event by event.
//!
//! kube-runtime's watcher resumes a watch silently after an error, and whether the API server is there is half of what
//! its users want to know. So a watch that ends with an error ends its watcher, and the next one begins with a list:
//! its end ([`Event::InitDone`]) says that the server is back and nothing was missed. A watch that reaches its time
//! limit is no error, and is resumed without a list.

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use kube::{
    Api, Client, Resource,
    core::Status,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tocsin_runtime::{jitter, kube::describe};
use tokio::time::sleep;
use tracing::debug;

use crate::api_server::{ApiServer, StreamHandle};

/// Up to a quarter of a second at random before each new list, so that replicas that lost their API server together do
/// not come back as one.
const JITTER: Duration = Duration::from_millis(250);
/// 50 ms before the second attempt, doubled up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Three quarters of a second: an API server that is back is followed within two seconds.
const RETRY_MAX: Duration = Duration::from_millis(750);
/// 10 seconds for the next piece of a list: a page of some hundred objects takes the server milliseconds.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the events of a reflector go. A closure that takes an event is one.
pub trait Sink<K>: Send {
    /// Takes an event, and may wait: meanwhile the watch waits too. False: nobody wants to know any more.
    fn take(&mut self, event: Event<K>) -> impl Future<Output = bool> + Send;

    /// Whether the reflector ends when the API server refuses the list or the watch so.
    fn ends(&self, _: &Status) -> bool {
        false
    }
}

impl<K: Send, F: FnMut(Event<K>) + Send> Sink<K> for F {
    fn take(&mut self, event: Event<K>) -> impl Future<Output = bool> + Send {
        self(event);
        std::future::ready(true)
    }
}

/// Why a watch has ended.
enum End {
    /// Something went wrong; whether another client may do better.
    Lost(String, bool),
    /// A refusal for which the sink wants the reflector to end, or nobody wants to know any more.
    Over(Option<Box<Status>>),
}

/// Follows the objects of one kind for ever.
pub async fn follow<K, S>(
    server: Arc<ApiServer>,
    stream: StreamHandle,
    config: watcher::Config,
    api: impl Fn(Client) -> Api<K> + Send,
    sink: S,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    S: FnMut(Event<K>) + Send,
{
    follow_until(server, stream, config, api, sink).await;
}

/// Follows the objects of one kind, until its sink wants no more: with the refusal that was the reason, if one was.
pub async fn follow_until<K, S>(
    server: Arc<ApiServer>,
    stream: StreamHandle,
    config: watcher::Config,
    api: impl Fn(Client) -> Api<K> + Send,
    mut sink: S,
) -> Option<Box<Status>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    S: Sink<K>,
{
    let (mut bad, mut pause) = (None, RETRY_MIN);
    loop {
        match server.client(bad).await {
            Ok(shared) => {
                let mut is_synced = false;
                let cluster = &shared.cluster;
                let events = watcher(api(cluster.client.clone()), config.clone());
                let synced = || {
                    is_synced = true;
                    stream.synced();
                };
                let end = watch(events, &mut sink, synced).await;
                if is_synced {
                    pause = RETRY_MIN;
                }
                let (error, is_bad) = match end {
                    End::Lost(error, is_bad) => (error, is_bad),
                    End::Over(refusal) => return refusal,
                };
                bad = is_bad.then_some(shared.number);
                let silent_for = if is_bad { cluster.last_read.elapsed() } else { Duration::ZERO };
                debug!(error, "a watch has ended");
                stream.broken(silent_for, error);
            }
            Err(error) => stream.broken(Duration::ZERO, describe(error.as_ref())),
        }
        sleep(pause + jitter::up_to(JITTER)).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// One list, and the watch after it.
async fn watch<K, S: Sink<K>>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send,
    sink: &mut S,
    mut synced: impl FnMut() + Send,
) -> End {
    let mut events = std::pin::pin!(events);
    let mut is_listing = true;
    loop {
        let next = async {
            if is_listing {
                tokio::time::timeout(LIST_TIMEOUT, events.next()).await.ok()
            } else {
                Some(events.next().await)
            }
        };
        match next.await {
            Some(Some(Ok(event))) => {
                let is_done = matches!(event, Event::InitDone);
                if !sink.take(event).await {
                    return End::Over(None);
                }
                if is_done {
                    is_listing = false;
                    synced();
                }
            }
            Some(Some(Err(error))) => {
                return match refusal(&error).filter(|status| sink.ends(status)) {
                    Some(status) => End::Over(Some(Box::new(status.clone()))),
                    None => End::Lost(describe(&error), is_of_the_connection(&error)),
                };
            }
            Some(None) => return End::Lost("the watch has ended".to_owned(), false),
            None => return End::Lost(format!("no list within {} s", LIST_TIMEOUT.as_secs()), true),
        }
    }
}

/// The API server's own answer, where a list or a watch failed with one.
fn refusal(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

/// Whether another client may do better: this one's connection is gone, or its credentials are refused.
fn is_of_the_connection(error: &watcher::Error) -> bool {
    let error = match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => error,
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => return false,
    };
    match error {
        kube::Error::Api(status) => status.code == 401,
        _ => true,
    }
}
