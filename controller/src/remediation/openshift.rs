//! What there is of `OpenShift`: asked now and then, as most of it changes seldom and most clusters have none.

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
};
use serde_json::Value;
use tocsin_runtime::kube::describe;
use tokio::{sync::mpsc, time::sleep};
use tracing::{debug, warn};

use super::store::{Change, OpenShiftChange};

/// 15 seconds between questions where `OpenShift` is.
const ASK: Duration = Duration::from_secs(15);
/// 10 minutes between questions whether it is.
const LOOK: Duration = Duration::from_mins(10);
/// Namespace of etcd.
const ETCD: &str = "openshift-etcd";

/// Tells the engine, for ever.
pub(super) async fn follow(
    client: Client,
    changes: mpsc::Sender<Change>,
    is_openshift: Arc<AtomicBool>,
) {
    loop {
        let told = match look(&client).await {
            Ok(told) => told,
            Err(error) => {
                debug!(error = describe(&error), "cannot ask for the API's groups");
                sleep(ASK).await;
                continue;
            }
        };
        let (mut is_there, mut has_config) = (false, false);
        for change in told {
            if let OpenShiftChange::Present { config, machine } = change {
                (is_there, has_config) = (config || machine, config);
            }
            if changes.send(Change::OpenShift(change)).await.is_err() {
                return;
            }
        }
        is_openshift.store(has_config, Relaxed);
        sleep(if is_there { ASK } else { LOOK }).await;
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
            // Every 15 seconds it would be noise.
            static TOLD: AtomicBool = AtomicBool::new(false);
            if !TOLD.swap(true, Relaxed) {
                warn!(why = status.message, "this is OpenShift, and some of it may not be read");
            }
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn api(
    client: &Client,
    group: &str,
    version: &str,
    kind: &str,
    plural: &str,
) -> Api<DynamicObject> {
    let gvk = GroupVersionKind::gvk(group, version, kind);
    Api::all_with(client.clone(), &ApiResource::from_gvk_with_plural(&gvk, plural))
}

async fn machine_health_checks(client: &Client) -> kube::Result<Option<OpenShiftChange>> {
    let api =
        api(client, "machine.openshift.io", "v1beta1", "MachineHealthCheck", "machinehealthchecks");
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
    let api = api(client, "config.openshift.io", "v1", "ClusterVersion", "clusterversions");
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
    let api = api(client, "config.openshift.io", "v1", "Infrastructure", "infrastructures");
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
