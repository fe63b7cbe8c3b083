//! Watches: one for each kind of object, each a task that tells the engine of changes for ever.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, Resource,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    core::Status,
    discovery::{Scope, pinned_kind},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tocsin_runtime::kube::describe;
use tokio::{sync::mpsc, time::sleep};
use tracing::{info, warn};

use super::{
    crd::NodeHealthCheck,
    objects::NodeObject,
    settings,
    store::{Change, KindState},
    world::Kind,
};
use crate::reflect::refusal;

/// 1,024 changes that wait for the engine, which takes each in microseconds; a full queue makes the watches wait, and
/// nothing is lost.
pub const CHANGES: usize = 1024;

/// Where watches tell of changes, and count their errors.
#[derive(Clone, Debug)]
pub struct Sink {
    /// Changes.
    pub changes: mpsc::Sender<Change>,
    /// Errors of watches, for a metric.
    pub errors: Arc<AtomicU64>,
}

impl Sink {
    /// False: the engine is gone.
    async fn tell(&self, change: Change) -> bool {
        self.changes.send(change).await.is_ok()
    }
}

/// Follows nodes.
pub async fn nodes(client: Client, sink: Sink) {
    follow(Api::<NodeObject>::all(client), "nodes", Change::Node, &sink, |_| false).await;
}

/// Follows `NodeHealthChecks`. They are read one by one, so that one odd object hides no other.
pub async fn checks(client: Client, sink: Sink) {
    let resource = ApiResource::erase::<NodeHealthCheck>(&());
    let api = Api::<DynamicObject>::all_with(client, &resource);
    follow(api, "nodehealthchecks", Change::Check, &sink, |_| false).await;
}

/// Follows the leases of nodes.
pub async fn leases(client: Client, namespace: String, sink: Sink) {
    follow(Api::<Lease>::namespaced(client, &namespace), "leases", Change::Lease, &sink, |_| false)
        .await;
}

/// Follows the objects of a kind, and whether it is served at all.
pub async fn kind(client: Client, kind: Kind, sink: Sink) {
    let Some(gvk) = gvk(&kind) else {
        let why = no_matches(&kind);
        sink.tell(Change::Kind(kind, KindState::Missing(why))).await;
        return std::future::pending().await;
    };
    loop {
        match pinned_kind(&client, &gvk).await {
            Ok((resource, capabilities)) => {
                let state = KindState::Served {
                    resource: format!("{}.{}", resource.plural, resource.group),
                    namespaced: capabilities.scope == Scope::Namespaced,
                };
                if !sink.tell(Change::Kind(kind.clone(), state)).await {
                    return;
                }
                follow_kind(&client, &kind, &resource, &sink).await;
            }
            Err(error) if is_missing(&error) => {
                let why = no_matches(&kind);
                if !sink.tell(Change::Kind(kind.clone(), KindState::Missing(why))).await {
                    return;
                }
            }
            Err(error) => {
                sink.errors.fetch_add(1, Relaxed);
                warn!(kind = kind.kind, error = describe(&error), "cannot ask what the API serves");
            }
        }
        sleep(Duration::from_secs(settings::TEMPLATE_RETRY.as_secs().unsigned_abs())).await;
    }
}

/// Until the kind is not served any more, or may not be listed.
async fn follow_kind(client: &Client, kind: &Kind, resource: &ApiResource, sink: &Sink) {
    let api = Api::<DynamicObject>::all_with(client.clone(), resource);
    let told = |event| Change::Object(kind.clone(), event);
    let end = follow(api, &resource.plural, told, sink, |status| matches!(status.code, 403 | 404));
    if let Some(status) = end.await {
        let state = if status.code == 403 {
            KindState::Refused(status.message.clone())
        } else {
            KindState::Missing(no_matches(kind))
        };
        sink.tell(Change::Kind(kind.clone(), state)).await;
    }
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

/// Follows one kind of objects; ends with the refusal for which `ends` is true.
async fn follow<K>(
    api: Api<K>,
    name: &str,
    told: impl Fn(Event<K>) -> Change,
    sink: &Sink,
    ends: impl Fn(&Status) -> bool,
) -> Option<Box<Status>>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let stream = watcher(api, watcher::Config::default()).default_backoff();
    pin_mut!(stream);
    let mut lost = false;
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => {
                if lost && matches!(event, Event::InitDone | Event::Apply(_) | Event::Delete(_)) {
                    lost = false;
                    info!(resource = name, "the watch is back");
                }
                if !sink.tell(told(event)).await {
                    return None;
                }
            }
            Err(error) => {
                sink.errors.fetch_add(1, Relaxed);
                if let Some(status) = refusal(&error).filter(|status| ends(status)) {
                    return Some(Box::new(status.clone()));
                }
                // An expired version (410) is how the API server says "list again".
                let expired = refusal(&error).is_some_and(|status| status.code == 410);
                if !lost && !expired {
                    lost = true;
                    warn!(resource = name, error = describe(&error), "the watch is lost");
                }
            }
        }
    }
    None
}
