//! The agent's roles: every right is needed. One test for each right says what is missing without it, and how the agent
//! reports that. The roles are read from the manifests, so a right without a test is found.

use std::collections::BTreeSet;
use std::time::Instant;

use e2e::agent::TIMEOUT;
use e2e::cluster::{Account, TestNode};
use e2e::{Agent, ControlPlane, Filesystem, Sandbox, Volume, inject};
use serde_json::{Value, json};

use crate::manifests::{BASE, PUBLISHING, follows, objects};

/// An API group, a resource of it, and a verb.
type Right = (&'static str, &'static str, &'static str);

const LIST_NODES: Right = ("", "nodes", "list");
const WATCH_NODES: Right = ("", "nodes", "watch");
const PATCH_STATUS: Right = ("", "nodes/status", "patch");
const CREATE_EVENTS: Right = ("events.k8s.io", "events", "create");
const PATCH_EVENTS: Right = ("events.k8s.io", "events", "patch");

/// The rights that have a test below.
const TESTED: [Right; 5] = [LIST_NODES, WATCH_NODES, PATCH_STATUS, CREATE_EVENTS, PATCH_EVENTS];

/// The roles in a directory of `deploy`.
fn roles(cluster: &ControlPlane, directory: &str) -> Vec<Value> {
    let mut objects = objects(cluster, directory);
    objects.retain(|object| object["kind"] == "ClusterRole" || object["kind"] == "Role");
    objects
}

fn strings(value: &Value) -> Vec<String> {
    let texts = value.as_array().unwrap().iter();
    texts.map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// The rights that roles grant.
fn rights(roles: &[Value]) -> BTreeSet<[String; 3]> {
    let mut rights = BTreeSet::new();
    for rule in roles.iter().flat_map(|role| role["rules"].as_array().unwrap()) {
        let keys: BTreeSet<_> = rule.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, BTreeSet::from(["apiGroups", "resources", "verbs"]), "{rule}");
        for group in strings(&rule["apiGroups"]) {
            for resource in strings(&rule["resources"]) {
                for verb in strings(&rule["verbs"]) {
                    rights.insert([group.clone(), resource.clone(), verb]);
                }
            }
        }
    }
    rights
}

fn named(rights: &[Right]) -> BTreeSet<[String; 3]> {
    rights
        .iter()
        .map(|(group, resource, verb)| [group, resource, verb].map(|text| (*text).to_owned()))
        .collect()
}

#[test]
fn every_right_in_the_manifests_has_a_test() {
    let Some(cluster) = ControlPlane::shared() else { return };
    assert_eq!(rights(&roles(&cluster, PUBLISHING)), named(&TESTED));
    assert_eq!(rights(&roles(&cluster, BASE)), named(&[LIST_NODES, WATCH_NODES]));
}

/// Removes one right from roles.
fn remove(roles: &mut [Value], (group, resource, verb): Right) {
    for rule in roles.iter_mut().flat_map(|role| role["rules"].as_array_mut().unwrap()) {
        let has = |key: &str, text: &str| strings(&rule[key]).iter().any(|have| have == text);
        if has("apiGroups", group) && has("resources", resource) {
            let alone =
                strings(&rule["apiGroups"]).len() == 1 && strings(&rule["resources"]).len() == 1;
            assert!(alone, "one rule, one resource: {rule}");
            rule["verbs"].as_array_mut().unwrap().retain(|have| have != verb);
        }
    }
    for role in roles {
        let kept = role["rules"].as_array_mut().unwrap();
        kept.retain(|rule| rule["verbs"].as_array().is_some_and(|verbs| !verbs.is_empty()));
    }
}

/// A service account with the rights of the manifests except `missing`, by roles with names of its own.
fn account(cluster: &ControlPlane, name: &str, missing: Option<Right>) -> Account {
    let account = cluster.service_account(name, "agent");
    let mut roles = roles(cluster, PUBLISHING);
    if let Some(missing) = missing {
        let all = rights(&roles).len();
        remove(&mut roles, missing);
        assert_eq!(rights(&roles).len(), all - 1, "{missing:?} is not in the manifests");
    }
    let left = rights(&roles);
    let mut objects = Vec::new();
    for mut role in roles {
        let kind = role["kind"].as_str().unwrap().to_owned();
        let renamed = json!(format!("{name}-{}", role["metadata"]["name"].as_str().unwrap()));
        role["metadata"]["name"] = renamed.clone();
        objects.push(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": format!("{kind}Binding"),
            "metadata": role["metadata"],
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": renamed },
            "subjects": [{ "kind": "ServiceAccount", "name": "agent", "namespace": name }],
        }));
        objects.push(role);
    }
    cluster.create(&json!({ "apiVersion": "v1", "kind": "List", "items": objects }));
    // The API server reads its roles by watching them.
    let deadline = Instant::now() + TIMEOUT;
    let is_allowed =
        |[group, resource, verb]: &[String; 3]| cluster.is_allowed(&account, group, resource, verb);
    while !left.iter().all(is_allowed) {
        assert!(Instant::now() < deadline, "the roles have no effect");
    }
    account
}

fn start(sandbox: &Sandbox, cluster: &ControlPlane, account: &Account, node: &TestNode) -> Agent {
    Agent::start_with(sandbox, |command| {
        command
            .env("KUBECONFIG", cluster.kubeconfig(&account.user))
            .env("NODE_NAME", node.name())
            .env("PUBLISH_CONDITIONS", "true");
    })
}

/// Without a right to read the Node, `node_ready` passes, degraded, and says what is missing.
fn is_degraded_without(name: &str, missing: Right) {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let account = account(&cluster, name, Some(missing));
    let node = cluster.node(name);
    // The agent may not see that the Node is not ready.
    node.set_ready("False", "KubeletNotReady");
    let agent = start(&sandbox, &cluster, &account, &node);
    let (_, _, verb) = missing;
    let words = [
        "403",
        "is forbidden",
        &account.user,
        &format!("cannot {verb} resource \"nodes\""),
        "deploy/base/rbac.yaml",
    ];
    agent.wait_for(&format!("degraded with {words:?}"), TIMEOUT, |agent| {
        let health = agent.health("?check=node_ready");
        assert_eq!(health.status, 200);
        let why = health.check("node_ready")?.degraded.clone()?;
        words.iter().all(|word| why.contains(word)).then_some(())
    });
    let refused = format!("cannot {verb} resource \"nodes\"");
    agent.wait_for("a warning", TIMEOUT, |agent| warned(agent, &refused).then_some(()));
}

#[test]
fn without_list_of_nodes() {
    is_degraded_without("rbac-list-nodes", LIST_NODES);
}

#[test]
fn without_watch_of_nodes() {
    is_degraded_without("rbac-watch-nodes", WATCH_NODES);
}

/// The number of writes so far, by the agent's own metric.
fn writes(agent: &Agent, what: &str, result: &str) -> u64 {
    agent.counter(&format!("tocsin_api_writes_total{{what=\"{what}\",result=\"{result}\"}}"))
}

fn wait_writes(agent: &Agent, what: &str, result: &str, count: u64) {
    agent.wait_for(&format!("{count} writes of {what}: {result}"), TIMEOUT, |agent| {
        (writes(agent, what, result) >= count).then_some(())
    });
}

/// Whether the log has a warning with these words of the API server.
fn warned(agent: &Agent, words: &str) -> bool {
    agent.log().iter().any(|line| {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        let message = line["message"].as_str().unwrap_or_default();
        line["level"] == "WARN" && message.contains(words)
    })
}

/// Waits until a failed write is counted, and logged with the words of the API server.
fn is_reported(agent: &Agent, what: &str, words: &str) {
    wait_writes(agent, what, "failed", 1);
    agent.wait_for("a warning", TIMEOUT, |agent| warned(agent, words).then_some(()));
}

/// Makes the filesystem read-only, and waits for the verdict.
fn fault(agent: &Agent, volume: &Volume) {
    let at = inject::reconfigure(volume.point(), "ro");
    agent.wait_failure(at, "filesystem_ro", &[&volume.device().name()]);
}

/// The same fault again, with the same words, so that its Event is counted up.
fn fault_again(agent: &Agent, volume: &Volume) {
    let at = inject::reconfigure(volume.point(), "rw");
    agent.wait_recovery(at, TIMEOUT);
    fault(agent, volume);
}

/// Waits until the fault is a condition of the Node.
fn wait_condition(agent: &Agent, node: &TestNode) {
    agent.wait_for("the condition", TIMEOUT, |_| {
        (node.condition("ReadonlyFilesystem").as_deref() == Some("True")).then_some(())
    });
}

/// The counts of the Events about the fault.
fn event_counts(node: &TestNode) -> Vec<i32> {
    let events = node.events().into_iter();
    let opened = events.filter(|event| event.reason.as_deref() == Some("ReadonlyFilesystem"));
    opened.map(|event| event.series.and_then(|series| series.count).unwrap_or(1)).collect()
}

#[test]
fn the_rights_of_the_manifests_suffice() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    let account = account(&cluster, "rbac-all", None);
    let node = cluster.node("rbac-all");
    let agent = start(&sandbox, &cluster, &account, &node);
    wait_writes(&agent, "conditions", "ok", 1);
    fault(&agent, &volume);
    wait_writes(&agent, "event", "ok", 1);
    assert_eq!(event_counts(&node), [1]);
    fault_again(&agent, &volume);
    wait_writes(&agent, "event", "ok", 3);
    assert_eq!(event_counts(&node), [2]);
    wait_condition(&agent, &node);
    // `kubectl describe node` shows both.
    let described = cluster.kubectl(&["describe", "node", node.name()]);
    let described = String::from_utf8(described.stdout).unwrap();
    let (conditions, events) = described.split_once("Events:").unwrap();
    assert!(conditions.contains("FilesystemIsReadOnly"), "{described}");
    assert!(events.contains("(x2 over") && events.contains("became read-only"), "{described}");
    follows(&agent, None);
    for what in ["conditions", "event"] {
        assert_eq!(writes(&agent, what, "failed"), 0, "{what}");
    }
    let audit = cluster.requests_of(&account.user);
    assert!(audit.iter().all(|entry| entry.code.is_none_or(|code| code < 300)), "{audit:#?}");
}

#[test]
fn without_patch_of_nodes_status() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    let account = account(&cluster, "rbac-patch-status", Some(PATCH_STATUS));
    let node = cluster.node("rbac-patch-status");
    let agent = start(&sandbox, &cluster, &account, &node);
    is_reported(&agent, "conditions", "cannot patch resource \"nodes/status\"");
    // The other way to publish it works.
    fault(&agent, &volume);
    wait_writes(&agent, "event", "ok", 1);
    assert_eq!(event_counts(&node), [1]);
    assert_eq!(writes(&agent, "conditions", "ok"), 0);
    assert_eq!(node.condition("ReadonlyFilesystem"), None);
    // The Node is still read.
    follows(&agent, None);
}

#[test]
fn without_create_of_events() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    let account = account(&cluster, "rbac-create-events", Some(CREATE_EVENTS));
    let node = cluster.node("rbac-create-events");
    let agent = start(&sandbox, &cluster, &account, &node);
    fault(&agent, &volume);
    is_reported(&agent, "event", "cannot create resource \"events\"");
    assert_eq!(event_counts(&node), [0; 0]);
    // The other way to publish it works.
    wait_condition(&agent, &node);
    assert_eq!(writes(&agent, "conditions", "failed"), 0);
}

#[test]
fn without_patch_of_events() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    let account = account(&cluster, "rbac-patch-events", Some(PATCH_EVENTS));
    let node = cluster.node("rbac-patch-events");
    let agent = start(&sandbox, &cluster, &account, &node);
    fault(&agent, &volume);
    wait_writes(&agent, "event", "ok", 1);
    assert_eq!(writes(&agent, "event", "failed"), 0);
    fault_again(&agent, &volume);
    is_reported(&agent, "event", "cannot patch resource \"events\"");
    assert_eq!(event_counts(&node), [1], "counted once, and not again");
    assert_eq!(writes(&agent, "conditions", "failed"), 0);
}
