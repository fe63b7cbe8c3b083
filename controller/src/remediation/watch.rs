//! Watches: one for each kind of object, each a task that tells the engine of changes for ever.

use std::{
    fmt::Debug,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Resource,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    core::Status,
    discovery::{Scope, pinned_kind},
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;
use tocsin_runtime::kube::describe;
use tokio::{sync::mpsc, time::sleep};
use tracing::warn;

use super::{
    crd::NodeHealthCheck,
    objects::NodeObject,
    settings,
    store::{Change, KindState},
    world::Kind,
};
use crate::{
    api_server::{ApiServer, StreamHandle, Streams},
    reflect::{self, follow_until},
};

/// 1,024 changes that wait for the engine, which takes each in microseconds; a full queue makes the watches wait, and
/// nothing is lost.
pub const CHANGES: usize = 1024;

/// 1 second before the API is asked again what it serves, after an error.
const AGAIN: Duration = Duration::from_secs(1);

/// What watches read from, and where they tell of changes.
#[derive(Clone, Debug)]
pub struct Source {
    /// The API server.
    pub server: Arc<ApiServer>,
    /// How the watches stand without which nothing is decided.
    pub streams: Arc<Streams>,
    /// Changes.
    pub changes: mpsc::Sender<Change>,
}

impl Source {
    /// False: the engine is gone.
    async fn tell(&self, change: Change) -> bool {
        self.changes.send(change).await.is_ok()
    }

    async fn follow<K>(
        &self,
        stream: StreamHandle,
        api: impl Fn(kube::Client) -> Api<K> + Send,
        told: impl Fn(Event<K>) -> Change + Send + Sync,
        ends: fn(&Status, bool) -> bool,
    ) -> Option<Box<Status>>
    where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let sink = Told { change: told, ends, is_listed: false, changes: &self.changes };
        follow_until(self.server.clone(), stream, watcher::Config::default(), api, sink).await
    }
}

/// Tells the engine of events, and waits while its queue is full.
struct Told<'a, F> {
    change: F,
    /// Whether a refusal ends it, also by whether a list has been complete.
    ends: fn(&Status, bool) -> bool,
    is_listed: bool,
    changes: &'a mpsc::Sender<Change>,
}

impl<K: Send, F: Fn(Event<K>) -> Change + Send + Sync> reflect::Sink<K> for Told<'_, F> {
    async fn take(&mut self, event: Event<K>) -> bool {
        self.is_listed |= matches!(event, Event::InitDone);
        self.changes.send((self.change)(event)).await.is_ok()
    }

    fn ends(&self, status: &Status) -> bool {
        (self.ends)(status, self.is_listed)
    }
}

/// Follows nodes.
pub async fn nodes(source: Source) {
    let stream = source.streams.add("nodes");
    source.follow(stream, Api::<NodeObject>::all, Change::Node, |_, _| false).await;
}

/// Follows `NodeHealthChecks`. They are read one by one, so that one odd object hides no other.
pub async fn checks(source: Source) {
    let resource = ApiResource::erase::<NodeHealthCheck>(&());
    let stream = source.streams.add("nodehealthchecks");
    let api = |client| Api::<DynamicObject>::all_with(client, &resource);
    source.follow(stream, api, Change::Check, |_, _| false).await;
}

/// Follows the leases of nodes.
pub async fn leases(source: Source, namespace: String) {
    let stream = source.streams.add("leases");
    let api = |client| Api::<Lease>::namespaced(client, &namespace);
    source.follow(stream, api, Change::Lease, |_, _| false).await;
}

/// Follows the objects of a kind, and whether it is served at all.
pub async fn kind(source: Source, kind: Kind) {
    let Some(gvk) = gvk(&kind) else {
        let why = no_matches(&kind);
        source.tell(Change::Kind(kind, KindState::Missing(why))).await;
        return std::future::pending().await;
    };
    let (losses, mut refused) = (source.streams.losses(), None);
    loop {
        let asked = match source.server.client(None).await {
            Ok(shared) => pinned_kind(&shared.cluster.client, &gvk).await.map_err(|error| {
                let why = describe(&error);
                (is_missing(&error), why)
            }),
            Err(error) => Err((false, describe(error.as_ref()))),
        };
        let mut pause = settings::TEMPLATE_RETRY.unsigned_abs();
        match asked {
            Ok((resource, capabilities)) => {
                let state = KindState::Served {
                    resource: format!("{}.{}", resource.plural, resource.group),
                    namespaced: capabilities.scope == Scope::Namespaced,
                };
                if !source.tell(Change::Kind(kind.clone(), state)).await {
                    return;
                }
                let refusal = follow_kind(&source, &kind, &resource).await;
                if let Some(why) = refusal.as_ref().filter(|_| refusal != refused) {
                    warn!(kind = kind.kind, why, "the objects of a kind cannot be read");
                }
                refused = refusal;
            }
            Err((true, _)) => {
                let why = no_matches(&kind);
                if !source.tell(Change::Kind(kind.clone(), KindState::Missing(why))).await {
                    return;
                }
            }
            Err((false, error)) => {
                losses.fetch_add(1, Relaxed);
                warn!(kind = kind.kind, error, "cannot ask what the API serves");
                pause = AGAIN;
            }
        }
        sleep(pause).await;
    }
}

/// Until the kind is not served any more, or cannot be listed; then with the API's words.
async fn follow_kind(source: &Source, kind: &Kind, resource: &ApiResource) -> Option<String> {
    let api = |client| Api::<DynamicObject>::all_with(client, resource);
    let told = |event| Change::Object(kind.clone(), event);
    // One remediator's objects that cannot be read must not stop the others.
    let stream = source.streams.beside().add("objects of a remediator");
    let Status { code, message, .. } = *source.follow(stream, api, told, is_refusal).await?;
    let state = match code {
        404 => KindState::Missing(no_matches(kind)),
        _ => KindState::Refused(message.clone()),
    };
    source.tell(Change::Kind(kind.clone(), state)).await;
    Some(message)
}

/// Whether the objects of a kind cannot be read as it is now. An error of the server itself (a conversion webhook that
/// fails) is one where none has been read yet: what has been read is good for a while.
fn is_refusal(status: &Status, is_listed: bool) -> bool {
    matches!(status.code, 403 | 404) || (status.code == 500 && !is_listed)
}

/// Group, version and kind; `None` where the API version cannot be one.
#[must_use]
pub fn gvk(kind: &Kind) -> Option<GroupVersionKind> {
    let (group, version) = kind.api_version.split_once('/').unwrap_or(("", &kind.api_version));
    (!version.is_empty() && !version.contains('/'))
        .then(|| GroupVersionKind::gvk(group, version, &kind.kind))
}

/// What the API server's clients say of a kind that it does not serve.
#[must_use]
pub fn no_matches(kind: &Kind) -> String {
    format!("no matches for kind \"{}\" in version \"{}\"", kind.kind, kind.api_version)
}

fn is_missing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Discovery(_) => true,
        kube::Error::Api(status) => status.code == 404,
        _ => false,
    }
}
