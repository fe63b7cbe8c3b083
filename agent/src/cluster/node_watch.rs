//! The list and the watches of the own Node, on one connection.
//!
//! The list and the watch are kube-client's. The loop around them is not kube-runtime's watcher: that one does not tell
//! when a watch is established again, and the agent needs to know whether the API server is there.

use std::{convert::Infallible, pin::pin, time::Duration};

use futures_util::StreamExt;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
};
use tocsin_runtime::{jitter, kube::ClusterClient};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};

use super::{
    node_object::{self, NodeObject, to_node},
    request::{SessionEnd, message, request},
    session_event::SessionEvent,
    settings,
};
use crate::model::Node;

/// 5 seconds after its deadline, a watch that has not ended does not end by itself.
const OVERDUE: Duration = Duration::from_secs(5);
/// 1 second: a server that ends a watch of minutes sooner is in trouble.
const SHORT: Duration = Duration::from_secs(1);

/// The receivers of what a watch shows.
#[derive(Clone, Copy)]
pub(super) struct Outputs<'a> {
    /// The events of the session.
    pub(super) events: &'a mpsc::Sender<SessionEvent>,
    /// The client for writes; none while no watch is established.
    pub(super) client: &'a watch::Sender<Option<Client>>,
}

/// The watch of the own Node.
pub(super) struct NodeWatch<'a> {
    node_name: &'a str,
    connection: &'a ClusterClient,
    outputs: Outputs<'a>,
    api: Api<NodeObject>,
    /// The Node as it was listed or as the last watch event showed it.
    last: Option<Node>,
    /// The resource version after which the next watch begins.
    version: String,
}

impl<'a> NodeWatch<'a> {
    /// Lists the Node, and with it the version that a watch can begin with.
    pub(super) async fn list(
        node_name: &'a str,
        connection: &'a ClusterClient,
        outputs: Outputs<'a>,
    ) -> Result<Self, SessionEnd> {
        let api = node_object::api(connection.client.clone());
        // The first request includes the connection.
        let limit = settings::API_CONNECT_TIMEOUT + settings::API_READ_TIMEOUT;
        let params = ListParams::default().fields(&field_selector(node_name));
        let list = request(connection, limit, api.list(&params)).await?;
        let Some(version) = list.metadata.resource_version else {
            return Err(SessionEnd::failed("what it answers is no list of Nodes".to_owned()));
        };
        let own = list.items.into_iter().find(|object| object.name_any() == node_name);
        Ok(Self { node_name, connection, outputs, api, last: own.map(to_node), version })
    }

    /// Watches the Node, one watch after the other, until the connection fails.
    pub(super) async fn run(mut self) -> Result<Infallible, SessionEnd> {
        let mut polls = poll_timer();
        loop {
            self.watch_once(&mut polls).await?;
            self.send(SessionEvent::WatchEnded).await?;
        }
    }

    /// One watch, from its request to its regular end.
    async fn watch_once(&mut self, polls: &mut Interval) -> Result<(), SessionEnd> {
        let length = settings::API_WATCH + jitter::up_to(settings::API_WATCH_SPREAD);
        let seconds = u32::try_from(length.as_secs()).unwrap_or(u32::MAX);
        let params =
            WatchParams::default().fields(&field_selector(self.node_name)).timeout(seconds);
        let watch = self.api.watch(&params, &self.version);
        let stream = request(self.connection, settings::API_READ_TIMEOUT, watch).await?;
        let mut stream = pin!(stream);
        // Only from here on does every change arrive by itself.
        self.send(SessionEvent::Observed(self.last.clone())).await?;
        self.outputs.client.send_replace(Some(self.connection.client.clone()));
        let opened = Instant::now();
        // A proxy may keep a connection open that the API server has ended, and answer its PINGs.
        let overdue = opened + length + OVERDUE;
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                _ = polls.tick(), if self.connection.is_without_http2() => {
                    poll(self.connection).await?;
                    continue;
                }
                () = sleep_until(overdue) => {
                    let message = "the watch does not end when it should";
                    return Err(SessionEnd::failed(message.to_owned()));
                }
            };
            match event {
                Some(event) => self.on_event(event).await?,
                None if opened.elapsed() < SHORT => {
                    return Err(SessionEnd::failed("it ends every watch at once".to_owned()));
                }
                None => return Ok(()),
            }
        }
    }

    /// Takes in one event of the watch, and reports the Node if it changed.
    async fn on_event(
        &mut self,
        event: kube::Result<WatchEvent<NodeObject>>,
    ) -> Result<(), SessionEnd> {
        let (object, is_there) = match event {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => (object, true),
            Ok(WatchEvent::Deleted(object)) => (object, false),
            Ok(WatchEvent::Bookmark(bookmark)) => {
                self.version = bookmark.metadata.resource_version;
                return Ok(());
            }
            // Above all a 410: the server has forgotten the changes after `version`, and a new list is needed.
            Ok(WatchEvent::Error(status)) => {
                return Err(self.failed(&kube::Error::Api(status.boxed())));
            }
            Err(error) => return Err(self.failed(&error)),
        };
        self.version = object.resource_version().unwrap_or_default();
        // A proxy that ignores the field selector shows every Node.
        if object.name_any() != self.node_name {
            return Ok(());
        }
        let node = is_there.then(|| to_node(object));
        // Most changes of a Node are in fields that the agent does not read.
        if node == self.last {
            return Ok(());
        }
        self.last.clone_from(&node);
        self.send(SessionEvent::Observed(node)).await
    }

    fn failed(&self, error: &kube::Error) -> SessionEnd {
        SessionEnd::failed(message(self.connection, error))
    }

    async fn send(&self, event: SessionEvent) -> Result<(), SessionEnd> {
        self.outputs.events.send(event).await.map_err(|_| SessionEnd::ReceiverClosed)
    }
}

fn field_selector(node_name: &str) -> String {
    format!("metadata.name={node_name}")
}

/// The timer of [`poll`].
fn poll_timer() -> Interval {
    let first = Instant::now() + settings::API_POLL_INTERVAL;
    let mut timer = interval_at(first, settings::API_POLL_INTERVAL);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}

/// Asks a server without HTTP/2, and so without PING, whether it is there. Any answer says so, but for one of a server
/// in trouble (5xx).
async fn poll(connection: &ClusterClient) -> Result<(), SessionEnd> {
    let version = connection.client.apiserver_version();
    match request(connection, settings::API_READ_TIMEOUT, version).await {
        Err(_)
            if connection.last_read.elapsed() < settings::API_READ_TIMEOUT
                && connection.status() < 500 =>
        {
            Ok(())
        }
        result => result.map(drop),
    }
}
