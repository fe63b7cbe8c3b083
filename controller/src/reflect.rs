//! One reflector: the list and the watch of one kind of object, again and again, handed to a sink event by event.
//!
//! kube-runtime's watcher resumes a watch silently after an error, and whether the API server is there is half of what
//! its users want to know. So a watch that ends with an error ends its watcher, and the next one begins with a list:
//! its end ([`Event::InitDone`]) says that the server is back and nothing was missed. A watch that reaches its time
//! limit is no error, and is resumed without a list.

use std::{fmt::Debug, sync::Arc, time::Duration};

use futures_util::StreamExt;
use kube::{
    Api, Client, Resource,
    core::Status,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tocsin_runtime::{
    jitter,
    kube::{describe, error::LENGTH},
    text::one_line,
};
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

/// Follows the objects of one kind for ever.
pub async fn follow<K, S>(
    server: Arc<ApiServer>,
    stream: StreamHandle,
    config: watcher::Config,
    api: impl Fn(Client) -> Api<K>,
    mut sink: S,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    S: FnMut(Event<K>),
{
    let (mut bad, mut pause) = (None, RETRY_MIN);
    loop {
        match server.client(bad).await {
            Ok(shared) => {
                bad = None;
                let mut events =
                    watcher(api(shared.cluster.client.clone()), config.clone()).boxed();
                let mut is_listing = true;
                let error = loop {
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
                            sink(event);
                            if is_done {
                                is_listing = false;
                                pause = RETRY_MIN;
                                stream.synced();
                            }
                        }
                        Some(Some(Err(error))) => {
                            if is_of_the_connection(&error) {
                                bad = Some(shared.number);
                            }
                            break words(&error);
                        }
                        Some(None) => break "the watch has ended".to_owned(),
                        None => {
                            bad = Some(shared.number);
                            break format!("no list within {} s", LIST_TIMEOUT.as_secs());
                        }
                    }
                };
                let silent_for =
                    if bad.is_some() { shared.cluster.last_read.elapsed() } else { Duration::ZERO };
                debug!(error, "a watch has ended");
                stream.broken(silent_for, error);
            }
            Err(error) => stream.broken(Duration::ZERO, describe(error.as_ref())),
        }
        sleep(pause + jitter::up_to(JITTER)).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// The API server's own answer, where a list or a watch failed with one.
#[must_use]
pub fn refusal(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

/// What went wrong, in one line: the API server's own words where it answered.
fn words(error: &watcher::Error) -> String {
    match refusal(error).filter(|status| !status.message.is_empty()) {
        Some(status) => format!("{} ({})", one_line(&status.message, LENGTH), status.code),
        None => describe(error),
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
