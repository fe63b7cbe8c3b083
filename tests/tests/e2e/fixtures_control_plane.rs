//! Tests of the control plane, its proxy and the fake API server. No agent runs here: when one of these fails, the cause
//! is the fixture or the programs.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::ControlPlane;
use e2e::cluster::{FakeApiServer, rule};
use e2e::sandbox::say;
use hyper::Request;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

/// How long to wait for an answer that comes.
const ANSWERED: Duration = Duration::from_secs(10);

/// How long to wait for an answer that does not come.
const SILENT: Duration = Duration::from_millis(300);

/// A client of a kubeconfig file.
fn client(cluster: &ControlPlane, kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    cluster.block_on(async {
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        Client::try_from(config).unwrap()
    })
}

/// How a list of the Nodes ends: `ok`, a status, `error` without a status, or `nothing` within the time-out.
fn outcome(cluster: &ControlPlane, client: &Client, timeout: Duration) -> String {
    let nodes: Api<Node> = Api::all(client.clone());
    let answer = async { tokio::time::timeout(timeout, nodes.list(&ListParams::default())).await };
    match cluster.block_on(answer) {
        Ok(Ok(_)) => "ok".to_owned(),
        Ok(Err(kube::Error::Api(status))) => status.code.to_string(),
        Ok(Err(_)) => "error".to_owned(),
        Err(_) => "nothing".to_owned(),
    }
}

/// The version of HTTP that the server chooses for a client that knows both.
fn http_version(cluster: &ControlPlane) -> String {
    let quiet = ["-sS", "--insecure", "--output", "/dev/null"];
    let print = ["--write-out", "%{http_version}", &cluster.url()];
    e2e::tool::run("curl", &[&quiet[..], &print].concat())
}

/// The events, or the error, of a watch of the Nodes within a second.
fn watch(cluster: &ControlPlane, client: &Client, version: u64) -> String {
    let path = format!("/api/v1/nodes?watch=true&timeoutSeconds=1&resourceVersion={version}");
    let request = Request::get(path).body(Vec::new()).unwrap();
    match cluster.block_on(client.request_text(request)) {
        Ok(events) => events,
        Err(error) => error.to_string(),
    }
}

#[test]
fn nodes_have_conditions_taints_and_finalizers() {
    let Some(cluster) = ControlPlane::shared() else { return };
    assert_eq!(http_version(&cluster), "2");
    let node = cluster.node("fixture-a");
    assert_eq!(node.condition("Ready").as_deref(), Some("True"));
    assert_eq!(node.get().spec.unwrap().taints, None);

    let transition = || {
        let conditions = node.get().status.unwrap().conditions.unwrap();
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap();
        ready.last_transition_time.unwrap()
    };
    let before = transition();
    node.set_ready("True", "StillReady");
    assert_eq!(transition(), before);
    node.set_ready("False", "KubeletNotReady");
    assert_eq!(node.condition("Ready").as_deref(), Some("False"));
    node.set_condition("KernelDeadlock", "True", "Hung", "a task hangs");
    assert_eq!(node.condition("KernelDeadlock").as_deref(), Some("True"));
    node.remove_condition("KernelDeadlock");
    assert_eq!(node.condition("KernelDeadlock"), None);
    assert_eq!(node.condition("Ready").as_deref(), Some("False"));

    node.cordon();
    node.taint("example.com/broken", "NoExecute");
    let spec = node.get().spec.unwrap();
    assert_eq!(spec.unschedulable, Some(true));
    assert!(spec.taints.unwrap().iter().any(|taint| taint.key == "example.com/broken"));
    node.uncordon();
    node.untaint("example.com/broken");
    assert_eq!(node.get().spec.unwrap().unschedulable, None);

    node.set_finalizers(&["tocsin.test/held"]);
    node.delete();
    assert!(node.get().metadata.deletion_timestamp.is_some());
    drop(node);
    let kubectl = cluster.kubectl(&["get", "node", "fixture-a"]);
    assert!(String::from_utf8_lossy(&kubectl.stderr).contains("NotFound"), "{kubectl:?}");
}

#[test]
fn users_have_their_own_rights_and_their_requests_are_logged() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let nobody = client(&cluster, &cluster.kubeconfig("nobody"));
    assert_eq!(outcome(&cluster, &nobody, ANSWERED), "403");

    let account = cluster.service_account("fixture-users", "agent");
    let agent = client(&cluster, &cluster.kubeconfig(&account.user));
    assert_eq!(outcome(&cluster, &agent, ANSWERED), "403");
    cluster.grant(&account, &[rule("", "nodes", &["list"])]);
    assert_eq!(outcome(&cluster, &agent, ANSWERED), "ok");
    assert_eq!(outcome(&cluster, &cluster.client_of(&account.user), ANSWERED), "ok");

    let requests = cluster.requests_of(&account.user);
    let (first, last) = (requests.first().unwrap(), requests.last().unwrap());
    assert_eq!((first.verb.as_str(), first.code), ("list", Some(403)));
    assert_eq!((last.uri.as_str(), last.code, last.is_over), ("/api/v1/nodes?", Some(200), true));
    assert!(last.is("list", "nodes") && !last.is_write());
    // A request is in the log before it is answered.
    for count in 1..=20 {
        assert_eq!(outcome(&cluster, &agent, ANSWERED), "ok");
        assert_eq!(cluster.requests_of(&account.user).len(), requests.len() + count);
    }
}

#[test]
fn a_privileged_daemon_set_is_accepted() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let labels = json!({ "app": "fixture" });
    let container = json!({
        "name": "c", "image": "i", "securityContext": { "privileged": true },
    });
    cluster.create(&json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": { "name": "fixture", "namespace": "default" },
        "spec": {
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": { "containers": [container] } },
        },
    }));
    cluster.kubectl_ok(&["delete", "daemonset", "fixture"]);
}

#[test]
fn events_of_a_node_are_listed() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let (node, other) = (cluster.node("fixture-told"), cluster.node("fixture-untold"));
    cluster.create(&json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": { "name": "fixture", "namespace": "default" },
        "regarding": { "kind": "Node", "name": node.name() },
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "test/fixture",
        "reportingInstance": "fixture",
        "action": "Test",
        "reason": "Told",
        "type": "Warning",
        "note": "something happened",
    }));
    let events = node.events();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].reason.as_deref(), Some("Told"));
    assert_eq!(events[0].message.as_deref(), Some("something happened"));
    assert!(other.events().is_empty());
}

#[test]
fn many_nodes_are_made_at_once_and_deleted() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let count = 100;
    let at = Instant::now();
    let nodes = cluster.nodes(count, "fixture-many");
    let took = at.elapsed();
    say(&format!("MEASURED {count} nodes in {} ms", took.as_millis()));
    assert_eq!(nodes.len(), count);
    assert_eq!(nodes[99].name(), "fixture-many-99");
    assert_eq!(nodes[99].condition("Ready").as_deref(), Some("True"));
    drop(nodes);
    let left = cluster.kubectl(&["get", "node", "fixture-many-0"]);
    assert!(!left.status.success());
}

#[test]
fn a_private_api_server_stops_dies_and_comes_back() {
    let at = Instant::now();
    let change = |api_server: &mut Command| {
        api_server.arg("--disable-http2-serving");
    };
    let Some(cluster) = ControlPlane::private_with(change) else { return };
    let started = at.elapsed();
    let (api, etcd) = cluster.resident_kib();
    say(&format!(
        "MEASURED control plane ready after {} ms, {api} + {etcd} KiB",
        started.as_millis()
    ));
    let node = cluster.node("fixture-b");
    let admin = cluster.client();
    let fresh = || client(&cluster, &cluster.kubeconfig("admin"));
    let version = || {
        let version = node.get().metadata.resource_version.unwrap();
        version.parse::<u64>().unwrap()
    };
    assert_eq!(outcome(&cluster, &admin, ANSWERED), "ok");

    cluster.stop_api();
    assert_eq!(outcome(&cluster, &admin, SILENT), "nothing");
    cluster.resume_api();
    assert_eq!(outcome(&cluster, &admin, ANSWERED), "ok");

    let before = version();
    node.set_ready("False", "Later");
    assert!(watch(&cluster, &admin, before).contains("Later"));
    cluster.compact();
    cluster.kill_api();
    assert_eq!(outcome(&cluster, &fresh(), ANSWERED), "error");
    let at = Instant::now();
    cluster.start_api();
    say(&format!("MEASURED API server back after {} ms", at.elapsed().as_millis()));
    assert_eq!(outcome(&cluster, &fresh(), ANSWERED), "ok");
    assert_eq!(http_version(&cluster), "1.1");
    // The new API server does not have in memory what etcd has forgotten.
    let watched = watch(&cluster, &admin, before);
    assert!(watched.contains("410"), "{watched}");

    let at = Instant::now();
    cluster.start_api_wiped();
    say(&format!("MEASURED another cluster after {} ms", at.elapsed().as_millis()));
    assert!(!cluster.kubectl(&["get", "node", "fixture-b"]).status.success());
    let anew = cluster.node("fixture-b");
    assert!(anew.get().metadata.resource_version.is_some());
    // Both values stand for the Node of this name, and the first drop deletes it.
}

#[test]
fn a_tunnel_can_be_cut() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let proxy = cluster.proxy();
    let path = proxy.kubeconfig("admin");
    let through = client(&cluster, &path);
    assert_eq!((proxy.connections(), proxy.bytes_up(), proxy.bytes_down()), (0, 0, 0));
    assert_eq!(outcome(&cluster, &through, ANSWERED), "ok");
    assert_eq!((proxy.connections(), proxy.open_connections()), (1, 1));
    assert!(proxy.bytes_up() > 100 && proxy.bytes_down() > 100);

    proxy.blackhole();
    let (up, down) = (proxy.bytes_up(), proxy.bytes_down());
    assert_eq!(outcome(&cluster, &through, SILENT), "nothing");
    assert_eq!(outcome(&cluster, &client(&cluster, &path), SILENT), "nothing");
    assert_eq!((proxy.bytes_up(), proxy.bytes_down()), (up, down));
    proxy.pass();
    assert_eq!(outcome(&cluster, &through, ANSWERED), "ok");

    proxy.refuse();
    assert_eq!(proxy.open_connections(), 0);
    assert_eq!(outcome(&cluster, &client(&cluster, &path), ANSWERED), "error");
    proxy.pass();
    assert_eq!(outcome(&cluster, &through, ANSWERED), "ok");
}

#[test]
fn a_front_answers_or_rewrites() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let fake = FakeApiServer::answering(401, r#"{"kind":"Status","code":401}"#);
    let answered = client(&cluster, &fake.kubeconfig());
    assert_eq!(outcome(&cluster, &answered, ANSWERED), "401");
    assert_eq!(fake.requests(), ["GET /api/v1/nodes?"]);

    let fake = FakeApiServer::rewriting(&cluster, 1);
    let through = client(&cluster, &fake.kubeconfig());
    let node = cluster.node("fixture-rewriting");
    assert_eq!(outcome(&cluster, &through, ANSWERED), "ok");
    let version = node.get().metadata.resource_version.unwrap().parse().unwrap();
    node.set_ready("False", "Changed");
    let gone = watch(&cluster, &through, version);
    assert!(gone.contains("410"), "{gone}");
    let seen = watch(&cluster, &through, version);
    assert!(seen.contains("fixture-rewriting"), "{seen}");
}
