//! The conversation: one list and one watch on the own Node, again and again.
//!
//! The list and the watch are kube-client's; the loop around them is not kube-runtime's watcher, because that one does
//! not tell when a watch is established again, and whether the API server is there is half of what this is about.

use std::{
    error::Error,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, ListParams, Object, WatchEvent, WatchParams},
};
use serde::{Deserialize, Serialize};
use tocsin_runtime::{
    jitter,
    kube::{ClusterClient, ClusterSource, describe, error::LENGTH},
    text::one_line,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, interval_at, sleep, sleep_until, timeout},
};
use tracing::{debug, info};

use super::{
    link::{News, Trouble},
    stats::ApiStats,
};
use crate::{
    cluster::settings,
    model::{Condition, Node},
};

/// Only what is read of a Node: the rest (its images, above all) is skipped while the text is parsed.
pub(super) type NodeObject = Object<Spec, Status>;

/// All the Nodes.
pub(super) fn nodes(client: Client) -> Api<NodeObject> {
    Api::all_with(client, &ApiResource::erase::<v1::Node>(&()))
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Spec {
    unschedulable: Option<bool>,
    taints: Option<Vec<Taint>>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Taint {
    key: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Status {
    conditions: Option<Vec<Condition>>,
}

fn node(object: NodeObject) -> Node {
    Node {
        uid: object.metadata.uid.unwrap_or_default(),
        unschedulable: object.spec.unschedulable.unwrap_or_default(),
        is_being_deleted: object.metadata.deletion_timestamp.is_some(),
        taints: object.spec.taints.into_iter().flatten().map(|taint| taint.key).collect(),
        conditions: object.status.and_then(|status| status.conditions).unwrap_or_default(),
    }
}

/// The task.
pub struct Session {
    /// Where the cluster is.
    pub source: ClusterSource,
    /// The Node's name.
    pub node_name: String,
    /// Who wants to know.
    pub news: mpsc::Sender<News>,
    /// The client, for who writes; none while there is trouble.
    pub client: watch::Sender<Option<Client>>,
    /// Where to count.
    pub stats: Arc<ApiStats>,
    /// Whether the log says so already.
    pub without_http2: AtomicBool,
}

/// Nobody listens any more.
struct Deaf;

/// What ends a conversation.
enum End {
    Trouble(Trouble),
    Deaf,
}

impl End {
    fn new(why: String) -> Self {
        Self::Trouble(Trouble { why, silent: Duration::ZERO })
    }
}

impl From<Deaf> for End {
    fn from(_: Deaf) -> Self {
        Self::Deaf
    }
}

impl Session {
    /// Talks until nobody listens.
    pub async fn run(self) {
        let alive = async {
            let mut ticks = interval(settings::API_ALIVE_INTERVAL);
            loop {
                ticks.tick().await;
                // A full queue has newer signs of life in it.
                if let Err(mpsc::error::TrySendError::Closed(_)) = self.news.try_send(News::Alive) {
                    return;
                }
            }
        };
        tokio::select! {
            () = alive => {}
            () = self.talk() => {}
        }
    }

    async fn talk(&self) {
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let End::Trouble(trouble) = self.converse().await else { return };
            self.client.send_replace(None);
            debug!(why = trouble.why, "trouble with the Kubernetes API");
            if self.tell(News::Trouble(trouble)).await.is_err() {
                return;
            }
            // A conversation that lasted starts the count anew.
            failures = if started.elapsed() > STEADY { 0 } else { failures + 1 };
            sleep(retry_after(failures) + jitter::up_to(settings::API_JITTER)).await;
        }
    }

    async fn tell(&self, news: News) -> Result<(), Deaf> {
        self.news.send(news).await.map_err(|_| Deaf)
    }

    /// From a new connection to its end.
    async fn converse(&self) -> End {
        let connection = match self.source.connect(&settings::client(), &self.stats.requests).await
        {
            Ok(connection) => connection,
            Err(error) => {
                let why = describe(error.as_ref());
                return End::new(format!("no client for it can be made: {why}"));
            }
        };
        let Err(end) = self.follow(&nodes(connection.client.clone()), &connection).await;
        let silent = connection.last_read.elapsed();
        match end {
            // A PING is what a server does not answer when it is not in the middle of a request.
            End::Trouble(_)
                if is_followed(&self.client)
                    && !connection.is_without_http2()
                    && silent >= settings::API_PING_TIMEOUT =>
            {
                let ms = settings::API_PING_TIMEOUT.as_millis();
                let why = format!("no answer to a PING within {ms} ms");
                // It was there until then, as far as anybody knows.
                End::Trouble(Trouble { why, silent: settings::API_PING_TIMEOUT })
            }
            end => end,
        }
    }

    async fn follow(
        &self,
        api: &Api<NodeObject>,
        connection: &ClusterClient,
    ) -> Result<std::convert::Infallible, End> {
        let fields = format!("metadata.name={}", self.node_name);
        // The first request waits for the connection too.
        let limit = settings::API_CONNECT_TIMEOUT + settings::API_READ_TIMEOUT;
        let found =
            bounded(connection, limit, api.list(&ListParams::default().fields(&fields))).await?;
        let Some(mut version) = found.metadata.resource_version else {
            return Err(End::new("what it answers is no list of Nodes".to_owned()));
        };
        // Also where somebody between does not know field selectors.
        let is_own = |object: &NodeObject| object.name_any() == self.node_name;
        let mut last = found.items.into_iter().find(is_own).map(node);
        if connection.is_without_http2() && !self.without_http2.swap(true, Relaxed) {
            info!(
                "the Kubernetes API speaks HTTP/1.1 only: it is asked every {} seconds whether it is there",
                settings::API_ASK_INTERVAL.as_secs()
            );
        }
        let first = Instant::now() + settings::API_ASK_INTERVAL;
        let mut ask = interval_at(first, settings::API_ASK_INTERVAL);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let seconds =
                (settings::API_WATCH + jitter::up_to(settings::API_WATCH_SPREAD)).as_secs();
            let params = WatchParams::default()
                .fields(&fields)
                .timeout(u32::try_from(seconds).unwrap_or(u32::MAX));
            let stream =
                bounded(connection, settings::API_READ_TIMEOUT, api.watch(&params, &version))
                    .await?;
            let mut stream = pin!(stream);
            // Only now every change arrives by itself.
            self.tell(News::Word(last.clone())).await?;
            self.client.send_replace(Some(connection.client.clone()));
            let opened = Instant::now();
            // A proxy may hold what the API server has ended, and answer PINGs itself.
            let overdue = opened + Duration::from_secs(seconds) + OVERDUE;
            loop {
                let event = tokio::select! {
                    event = stream.next() => event,
                    _ = ask.tick(), if connection.is_without_http2() => {
                        is_there(connection).await?;
                        continue;
                    }
                    () = sleep_until(overdue) => {
                        return Err(End::new("the watch does not end when it should".to_owned()));
                    }
                };
                let object = match event {
                    None => break,
                    Some(Ok(WatchEvent::Bookmark(bookmark))) => {
                        version = bookmark.metadata.resource_version;
                        continue;
                    }
                    Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                        version = object.resource_version().unwrap_or_default();
                        if !is_own(&object) {
                            continue;
                        }
                        Some(object)
                    }
                    Some(Ok(WatchEvent::Deleted(object))) => {
                        version = object.resource_version().unwrap_or_default();
                        if !is_own(&object) {
                            continue;
                        }
                        None
                    }
                    // 410, above all: what came after `version` is forgotten. A new list knows.
                    Some(Ok(WatchEvent::Error(status))) => {
                        return Err(trouble(connection, &kube::Error::Api(status.boxed())));
                    }
                    Some(Err(error)) => return Err(trouble(connection, &error)),
                };
                let word = object.map(node);
                // Most of what changes in a Node is read by nobody here.
                if word != last {
                    last.clone_from(&word);
                    self.tell(News::Word(word)).await?;
                }
            }
            if opened.elapsed() < SHORT {
                return Err(End::new("it ends every watch at once".to_owned()));
            }
            self.tell(News::Ended).await?;
        }
    }
}

/// Whether there is a watch, and not only an attempt at one.
fn is_followed(client: &watch::Sender<Option<Client>>) -> bool {
    client.borrow().is_some()
}

/// A watch that is that late will not end.
const OVERDUE: Duration = Duration::from_secs(5);

/// Any answer to an idle question says that the server is there, but for one that it is in trouble.
async fn is_there(connection: &ClusterClient) -> Result<(), End> {
    let asked =
        bounded(connection, settings::API_READ_TIMEOUT, connection.client.apiserver_version());
    match asked.await {
        Err(_)
            if connection.last_read.elapsed() < settings::API_READ_TIMEOUT
                && connection.status() < 500 =>
        {
            Ok(())
        }
        other => other.map(drop),
    }
}

/// What to do about a 403.
const RIGHTS: &str = " (list and watch of nodes are needed: deploy/base/rbac.yaml)";

/// A conversation of this length was a good one.
const STEADY: Duration = Duration::from_secs(5);
/// No server ends a watch of minutes after this little time, but one that is in trouble.
const SHORT: Duration = Duration::from_secs(1);

/// The first reconnection is at once, and the next ones come ever later.
fn retry_after(failures: u32) -> Duration {
    let step = settings::API_RETRY_MAX / 3;
    (step * failures).min(settings::API_RETRY_MAX)
}

async fn bounded<T>(
    connection: &ClusterClient,
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, End> {
    match timeout(limit, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(trouble(connection, &error)),
        Err(_) => Err(End::new(format!("no answer within {} s", limit.as_secs()))),
    }
}

fn trouble(connection: &ClusterClient, error: &kube::Error) -> End {
    if let kube::Error::Api(status) = error {
        // A body that is no Status of Kubernetes has no code in it. An error on a watch has no other one.
        let code = if status.code == 0 { connection.status() } else { status.code };
        let said = [&status.reason, &status.message].map(|text| one_line(text, LENGTH));
        let said = said.iter().filter(|text| !text.is_empty()).map(|text| format!(": {text}"));
        let hint = if code == 403 { RIGHTS } else { "" };
        return End::new(format!("it answers {code}{}{hint}", said.collect::<String>()));
    }
    if let kube::Error::SerdeError(error) = error {
        let code = connection.status();
        return End::new(format!("it answers {code} with what is no JSON of Kubernetes: {error}"));
    }
    // kube's own error says no more than the next one, where there is one.
    let first: &(dyn Error + 'static) = error;
    let first = first.source().unwrap_or(first);
    End::new(describe(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_read_from_what_the_api_writes() {
        let text = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n","uid":"u","resourceVersion":"7",
            "deletionTimestamp":"2026-01-01T00:00:00Z"},"spec":{"podCIDR":"10.0.0.0/24","unschedulable":true,
            "taints":[{"key":"a","effect":"NoSchedule","timeAdded":"2026-01-01T00:00:00Z"}]},"status":{"images":[{"names":["x"]}],
            "conditions":[{"type":"Ready","status":"False","lastHeartbeatTime":null,
            "lastTransitionTime":"2026-01-01T00:00:00Z","reason":"R","message":"M"}]}}"#;
        let found = node(serde_json::from_str(text).unwrap());
        let ready = Condition {
            kind: "Ready".into(),
            status: "False".into(),
            reason: "R".into(),
            message: "M".into(),
            last_transition_time: "2026-01-01T00:00:00Z".into(),
            last_heartbeat_time: String::new(),
        };
        assert_eq!(
            found,
            Node {
                uid: "u".into(),
                unschedulable: true,
                is_being_deleted: true,
                taints: vec!["a".into()],
                conditions: vec![ready],
            }
        );
        let empty = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n"},"spec":{}}"#;
        assert_eq!(node(serde_json::from_str(empty).unwrap()), Node::default());
    }

    #[test]
    fn attempts_come_later_and_never_too_late() {
        let ms: Vec<_> = (0..6).map(|failures| retry_after(failures).as_millis()).collect();
        assert_eq!(ms, [0, 250, 500, 750, 750, 750]);
    }
}
