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
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};
use serde_json::Value;
use tocsin_runtime::kube::describe;
use tokio::{sync::mpsc, time::sleep};
use tracing::debug;

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
        let (config, machine) = match client.list_api_groups().await {
            Ok(groups) => {
                let has = |name: &str| groups.groups.iter().any(|group| group.name == name);
                (has("config.openshift.io"), has("machine.openshift.io"))
            }
            Err(error) => {
                debug!(error = describe(&error), "cannot ask for the API's groups");
                sleep(ASK).await;
                continue;
            }
        };
        is_openshift.store(config, Relaxed);
        let mut told = vec![OpenShiftChange::Present { config, machine }];
        if machine {
            told.extend(machine_health_checks(&client).await);
        }
        if config {
            told.extend(progressing(&client).await);
            told.extend(etcd(&client).await);
        }
        for change in told {
            if changes.send(Change::OpenShift(change)).await.is_err() {
                return;
            }
        }
        sleep(if config || machine { ASK } else { LOOK }).await;
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

async fn machine_health_checks(client: &Client) -> Option<OpenShiftChange> {
    let api =
        api(client, "machine.openshift.io", "v1beta1", "MachineHealthCheck", "machinehealthchecks");
    let list = api.list(&ListParams::default()).await.ok()?;
    let types = |check: DynamicObject| {
        let conditions =
            check.data.pointer("/spec/unhealthyConditions").and_then(Value::as_array).cloned();
        let types = conditions
            .into_iter()
            .flatten()
            .filter_map(|it| it["type"].as_str().map(str::to_owned));
        types.collect::<BTreeSet<_>>()
    };
    Some(OpenShiftChange::MachineHealthChecks(list.items.into_iter().map(types).collect()))
}

async fn progressing(client: &Client) -> Option<OpenShiftChange> {
    let api = api(client, "config.openshift.io", "v1", "ClusterVersion", "clusterversions");
    let list = api.list(&ListParams::default()).await.ok()?;
    let progressing = list.items.iter().any(|version| {
        let conditions = version.data.pointer("/status/conditions").and_then(Value::as_array);
        conditions
            .into_iter()
            .flatten()
            .any(|it| it["type"] == "Progressing" && it["status"] == "True")
    });
    Some(OpenShiftChange::Progressing(progressing))
}

/// `controlPlaneTopology` of the Infrastructure, for the webhook.
pub(super) async fn topology(client: &Client) -> Option<String> {
    let api = api(client, "config.openshift.io", "v1", "Infrastructure", "infrastructures");
    let infrastructure = api.get("cluster").await.ok()?;
    infrastructure.data.pointer("/status/controlPlaneTopology")?.as_str().map(str::to_owned)
}

async fn etcd(client: &Client) -> Vec<OpenShiftChange> {
    let budgets = Api::<PodDisruptionBudget>::namespaced(client.clone(), ETCD);
    let Ok(budgets) = budgets.list(&ListParams::default()).await else { return Vec::new() };
    let allowed = |budget: &PodDisruptionBudget| {
        budget.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or_default()
    };
    let mut told = vec![OpenShiftChange::EtcdBudgets(budgets.items.iter().map(allowed).collect())];
    let selector = match budgets.items.as_slice() {
        [one] => one.spec.as_ref().and_then(|spec| spec.selector.clone()),
        _ => None,
    };
    let Some(Ok(selector)) = selector.map(kube::core::Selector::try_from) else { return told };
    let pods = Api::<Pod>::namespaced(client.clone(), ETCD);
    let Ok(pods) = pods.list(&ListParams::default().labels_from(&selector)).await else {
        return told;
    };
    let guarded = pods.items.into_iter().filter_map(|pod| {
        let conditions = pod.status?.conditions.unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
        (ready.status != "False").then(|| pod.spec?.node_name).flatten()
    });
    told.push(OpenShiftChange::EtcdGuarded(guarded.collect()));
    told
}
