//! The heartbeat in a cluster of ten thousand pods: memory, time to ready, requests on one processor, and how soon an
//! answer follows a change.

use std::fmt::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use e2e::heartbeat::TOKEN;
use e2e::{ControlPlane, Heartbeat, Sandbox, require, tool};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::report::Report;
use crate::scale::Scale;

/// The Deployments, and the pods of each.
const DEPLOYMENTS: usize = 500;
const PODS: usize = 20;
const NAMESPACE: &str = "bench-heartbeat";
/// Requests to the API server at once while they are made.
const AT_ONCE: usize = 64;

pub(crate) fn run(_: &Sandbox, scale: Scale, report: &mut Report) {
    let has = |name: &str| require(tool::is_installed(name), &format!("{name} is not installed"));
    if !has("wrk") || !has("taskset") {
        return;
    }
    let Some(cluster) = ControlPlane::private() else { return };
    let account = cluster.admin_account(NAMESPACE, "heartbeat");
    let kubeconfig = cluster.kubeconfig(&account.user);
    let settings = |command: &mut Command| {
        command.env("HEARTBEAT_COMPAT", "false").env("RATE_LIMIT", "1000000000");
    };
    let empty = Heartbeat::start(&kubeconfig, settings).process().resident_kib();
    let began = Instant::now();
    cluster.block_on(populate(&cluster));
    report.note("objects made", &format!("{} pods in {:.0?}", DEPLOYMENTS * PODS, began.elapsed()));

    let began = Instant::now();
    let heartbeat = Heartbeat::start(&kubeconfig, settings);
    report.below("start to ready", began.elapsed().as_secs_f64(), 5.0, "s");
    assert!((heartbeat.metric("tocsin_heartbeat_pods") - 10_000.0).abs() < 1.0);
    let kib = heartbeat.process().resident_kib();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (resident, grown) = (kib as f64, kib.saturating_sub(empty) as f64);
    report.below("resident with 10,000 pods", resident / 1024.0, 64.0, "MiB");
    let each = grown * 1024.0 / 10_000.0;
    report.note("resident per pod, more than with none", &format!("{each:.0} bytes"));

    let before = cluster.requests_of(&account.user).len();
    let pid = heartbeat.process().pid().to_string();
    tool::run("taskset", &["-a", "-c", "-p", "0", &pid]);
    let url =
        format!("http://{}/api/healthz/{NAMESPACE}/deployment/web-7", heartbeat.api_address());
    let duration = format!("{}s", scale.http_seconds.max(2));
    let header = format!("Authorization: Basic {TOKEN}");
    let output = tool::run(
        "taskset",
        &["-c", "1", "wrk", "-t1", "-c32", "-d", &duration, "-H", &header, &url],
    );
    let number = |name: &str| {
        let value = output.lines().find_map(|line| line.trim().strip_prefix(name));
        value.and_then(|value| value.trim().parse::<f64>().ok())
    };
    assert!(!output.contains("Non-2xx"), "{output}");
    let per_second = number("Requests/sec:").expect("wrk's figure");
    report.at_least("requests/s on one processor", per_second, 20_000.0, "/s");
    let made = cluster.requests_of(&account.user).len() - before;
    // The first answer begins the watch of its namespace's events: a list and a watch.
    report.note("requests to the API server meanwhile", &made.to_string());
    assert!(made <= 4, "{made} requests to the API server");

    let mut times = changes(&cluster, &heartbeat, scale.flips);
    report.times("pods' readiness to the changed answer", &mut times, Some([50.0, 100.0]));
}

/// Makes Deployments with their sets and pods, each pod as large as real ones are.
async fn populate(cluster: &ControlPlane) {
    let (permits, mut tasks) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    for number in 0..DEPLOYMENTS {
        let (client, permits) = (cluster.client(), permits.clone());
        tasks.spawn(async move {
            let _permit = permits.acquire_owned().await.expect("a permit");
            let name = format!("web-{number}");
            let labels = json!({ "app": name });
            let template = json!({ "metadata": { "labels": labels }, "spec": spec() });
            let deployments: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
            let deployment = create(&deployments, json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
                "spec": { "replicas": PODS, "selector": { "matchLabels": labels }, "template": template,
                    "strategy": { "rollingUpdate": { "maxUnavailable": 1, "maxSurge": 1 } } }
            })).await;
            let uid = deployment.metadata.uid.clone();
            status(&deployments, &name, json!({ "observedGeneration": 1, "replicas": PODS, "conditions": [
                { "type": "Available", "status": "True", "reason": "MinimumReplicasAvailable" }] })).await;
            let set_name = format!("{name}-1");
            let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), NAMESPACE);
            let set = create(&sets, json!({
                "apiVersion": "apps/v1", "kind": "ReplicaSet",
                "metadata": { "name": set_name, "ownerReferences": owner("Deployment", &name, uid.as_deref()) },
                "spec": { "replicas": PODS, "selector": { "matchLabels": labels }, "template": template }
            })).await;
            let uid = set.metadata.uid.clone();
            let pods: Api<Pod> = Api::namespaced(client, NAMESPACE);
            for pod in 0..PODS {
                let pod_name = format!("{set_name}-{pod}");
                create(&pods, json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": { "name": pod_name, "labels": labels, "ownerReferences": owner("ReplicaSet", &set_name, uid.as_deref()) },
                    "spec": spec()
                })).await;
                ready(&pods, &pod_name, true).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("objects");
    }
}

fn owner(kind: &str, name: &str, uid: Option<&str>) -> Value {
    json!([{ "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid, "controller": true }])
}

/// The spec of a pod with some kilobytes of environment, as applications have.
fn spec() -> Value {
    let variable = |n: usize| json!({ "name": format!("SETTING_{n}"), "value": "v".repeat(80) });
    json!({ "containers": [{
        "name": "app", "image": "registry.example.org/team/application:2026.11.24",
        "env": (0..30).map(variable).collect::<Vec<_>>(),
        "resources": { "requests": { "cpu": "100m", "memory": "128Mi" } }
    }] })
}

async fn create<K>(api: &Api<K>, object: Value) -> K
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned + serde::Serialize,
{
    let object: K = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object).await.expect("create an object")
}

async fn status<K>(api: &Api<K>, name: &str, status: Value)
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let patch = Patch::Merge(json!({ "status": status }));
    api.patch_status(name, &PatchParams::default(), &patch).await.expect("change a status");
}

async fn ready(pods: &Api<Pod>, name: &str, is_ready: bool) {
    let condition = json!([{ "type": "Ready", "status": if is_ready { "True" } else { "False" } }]);
    status(pods, name, json!({ "phase": "Running", "conditions": condition })).await;
}

/// Two pods of a Deployment that may lack one become not ready and ready again: the time from before the write that
/// decides until the answer is another one.
fn changes(cluster: &ControlPlane, heartbeat: &Heartbeat, flips: usize) -> Vec<Duration> {
    let pods: Api<Pod> = Api::namespaced(cluster.client(), NAMESPACE);
    let mut path = String::new();
    let _infallible = write!(path, "/api/healthz/{NAMESPACE}/deployment/web-9");
    let header = format!("Basic {TOKEN}");
    let headers = [("Authorization", header.as_str())];
    let mut connection = heartbeat.connect();
    let mut times = Vec::new();
    cluster.block_on(ready(&pods, "web-9-1-0", false));
    for flip in 0..flips {
        let is_ready = flip % 2 == 1;
        let wanted = if is_ready { 200 } else { 503 };
        let before = Instant::now();
        cluster.block_on(ready(&pods, "web-9-1-1", is_ready));
        while connection.request_with("GET", &path, &headers).expect("an answer").status != wanted {
            assert!(before.elapsed() < Duration::from_secs(30), "no change within 30 s");
        }
        times.push(before.elapsed());
    }
    times
}
