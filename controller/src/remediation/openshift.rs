//! What there is of `OpenShift`: read whole when any of it changes, which is seldom; most clusters have none.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, ObjectList},
    core::Status,
    runtime::watcher::{self, Event},
};
use serde_json::Value;
use tocsin_runtime::kube::describe;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    store::{Change, OpenShiftChange},
    watch::Source,
};
use crate::reflect::{self, follow_until};

/// 10 minutes between questions whether `OpenShift` is there, and may be read.
const LOOK: Duration = Duration::from_mins(10);
/// 5 seconds before what could not be read is read again.
const AGAIN: Duration = Duration::from_secs(5);
/// 100 milliseconds during which changes gather before all is read again.
const GATHER: Duration = Duration::from_millis(100);
/// Namespace of etcd.
const ETCD: &str = "openshift-etcd";

/// Tells the engine, for ever.
pub(super) async fn follow(client: Client, source: Source, is_openshift: Arc<AtomicBool>) {
    let (changed, mut watches) = (Arc::new(Notify::new()), JoinSet::new());
    let mut before = (false, false);
    loop {
        let told = match look(&client).await {
            Ok(told) => told,
            Err(error) => {
                debug!(error = describe(&error), "OpenShift cannot be read");
                sleep(AGAIN).await;
                continue;
            }
        };
        let mut present = (false, false);
        for change in told {
            if let OpenShiftChange::Present { config, machine } = change {
                present = (config, machine);
            }
            if source.changes.send(Change::OpenShift(change)).await.is_err() {
                return;
            }
        }
        let (config, machine) = present;
        is_openshift.store(config, Relaxed);
        if before != present {
            before = present;
            watches.abort_all();
            watches = watch(&source, &changed, config, machine);
            debug!(watches = watches.len(), "OpenShift is watched");
        }
        // A first list says that there may have been changes since the look, and is one of them.
        if timeout(LOOK, changed.notified()).await.is_ok() {
            sleep(GATHER).await;
        }
    }
}

/// Watches what is served, until the set is dropped.
fn watch(source: &Source, changed: &Arc<Notify>, config: bool, machine: bool) -> JoinSet<()> {
    let mut kinds = Vec::new();
    if machine {
        kinds.push(("", MACHINE_HEALTH_CHECKS));
    }
    if config {
        kinds.extend([("", CLUSTER_VERSIONS), (ETCD, BUDGETS), (ETCD, PODS)]);
    }
    let mut watches = JoinSet::new();
    for (namespace, kind) in kinds {
        watches.spawn(watch_kind(source.clone(), changed.clone(), namespace, kind));
    }
    watches
}

/// Says whenever an object of a kind changes, for ever. What may not be read is tried again now and then.
async fn watch_kind(
    source: Source,
    changed: Arc<Notify>,
    namespace: &'static str,
    kind: [&'static str; 4],
) {
    let resource = resource(kind);
    loop {
        let api = |client| match namespace {
            "" => Api::<DynamicObject>::all_with(client, &resource),
            _ => Api::namespaced_with(client, namespace, &resource),
        };
        // Only what is asked for is known without it: its loss is no reason to stop everything.
        let stream = source.streams.beside().add("OpenShift");
        let (server, config) = (source.server.clone(), watcher::Config::default());
        follow_until(server, stream, config, api, Changed(changed.clone())).await;
        sleep(LOOK).await;
    }
}

/// Says that something changed.
struct Changed(Arc<Notify>);

impl reflect::Sink<DynamicObject> for Changed {
    fn take(&mut self, event: Event<DynamicObject>) -> impl Future<Output = bool> + Send {
        if !matches!(event, Event::Init | Event::InitApply(_)) {
            self.0.notify_one();
        }
        std::future::ready(true)
    }

    fn ends(&self, status: &Status) -> bool {
        matches!(status.code, 403 | 404)
    }
}

/// What there is now; whether it is there at all comes last, so that nothing is decided from half of it. What may not be
/// asked is left out.
pub(super) async fn look(client: &Client) -> kube::Result<Vec<OpenShiftChange>> {
    let groups = client.list_api_groups().await?;
    let has = |name: &str| groups.groups.iter().any(|group| group.name == name);
    let (config, machine) = (has("config.openshift.io"), has("machine.openshift.io"));
    let mut told = Vec::new();
    if machine {
        told.extend(machine_health_checks(client).await?);
    }
    if config {
        told.extend(progressing(client).await?);
        told.extend(etcd(client).await?);
    }
    told.push(OpenShiftChange::Present { config, machine });
    Ok(told)
}

/// The items of a list; `None` where they are not served, or may not be read.
fn allowed<K: Clone>(list: kube::Result<ObjectList<K>>) -> kube::Result<Option<Vec<K>>> {
    match list {
        Ok(list) => Ok(Some(list.items)),
        Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
            // At every change it would be noise.
            static TOLD: AtomicBool = AtomicBool::new(false);
            if !TOLD.swap(true, Relaxed) {
                warn!(why = status.message, "this is OpenShift, and some of it may not be read");
            }
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Group, version, kind and plural.
const MACHINE_HEALTH_CHECKS: [&str; 4] =
    ["machine.openshift.io", "v1beta1", "MachineHealthCheck", "machinehealthchecks"];
const CLUSTER_VERSIONS: [&str; 4] =
    ["config.openshift.io", "v1", "ClusterVersion", "clusterversions"];
const INFRASTRUCTURES: [&str; 4] =
    ["config.openshift.io", "v1", "Infrastructure", "infrastructures"];
const BUDGETS: [&str; 4] = ["policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"];
const PODS: [&str; 4] = ["", "v1", "Pod", "pods"];

fn resource([group, version, kind, plural]: [&str; 4]) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

fn all(client: &Client, kind: [&str; 4]) -> Api<DynamicObject> {
    Api::all_with(client.clone(), &resource(kind))
}

async fn machine_health_checks(client: &Client) -> kube::Result<Option<OpenShiftChange>> {
    let api = all(client, MACHINE_HEALTH_CHECKS);
    let Some(items) = allowed(api.list(&ListParams::default()).await)? else { return Ok(None) };
    let types = |check: DynamicObject| {
        let conditions =
            check.data.pointer("/spec/unhealthyConditions").and_then(Value::as_array).cloned();
        let types = conditions
            .into_iter()
            .flatten()
            .filter_map(|it| it["type"].as_str().map(str::to_owned));
        types.collect::<BTreeSet<_>>()
    };
    Ok(Some(OpenShiftChange::MachineHealthChecks(items.into_iter().map(types).collect())))
}

async fn progressing(client: &Client) -> kube::Result<Option<OpenShiftChange>> {
    let api = all(client, CLUSTER_VERSIONS);
    let Some(items) = allowed(api.list(&ListParams::default()).await)? else { return Ok(None) };
    let progressing = items.iter().any(|version| {
        let conditions = version.data.pointer("/status/conditions").and_then(Value::as_array);
        conditions
            .into_iter()
            .flatten()
            .any(|it| it["type"] == "Progressing" && it["status"] == "True")
    });
    Ok(Some(OpenShiftChange::Progressing(progressing)))
}

/// `controlPlaneTopology` of the Infrastructure, for the webhook.
pub(super) async fn topology(client: &Client) -> Option<String> {
    let api = all(client, INFRASTRUCTURES);
    let infrastructure = api.get("cluster").await.ok()?;
    infrastructure.data.pointer("/status/controlPlaneTopology")?.as_str().map(str::to_owned)
}

async fn etcd(client: &Client) -> kube::Result<Vec<OpenShiftChange>> {
    let budgets = Api::<PodDisruptionBudget>::namespaced(client.clone(), ETCD);
    let Some(budgets) = allowed(budgets.list(&ListParams::default()).await)? else {
        return Ok(Vec::new());
    };
    let disruptions = |budget: &PodDisruptionBudget| {
        budget.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or_default()
    };
    let mut told = vec![OpenShiftChange::EtcdBudgets(budgets.iter().map(disruptions).collect())];
    let selector = match budgets.as_slice() {
        [one] => one.spec.as_ref().and_then(|spec| spec.selector.clone()),
        _ => None,
    };
    let Some(Ok(selector)) = selector.map(kube::core::Selector::try_from) else { return Ok(told) };
    let pods = Api::<Pod>::namespaced(client.clone(), ETCD);
    let list = pods.list(&ListParams::default().labels_from(&selector)).await;
    let Some(pods) = allowed(list)? else { return Ok(told) };
    let guarded = pods.into_iter().filter_map(|pod| {
        let conditions = pod.status?.conditions.unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
        (ready.status != "False").then(|| pod.spec?.node_name).flatten()
    });
    told.push(OpenShiftChange::EtcdGuarded(guarded.collect()));
    Ok(told)
}
