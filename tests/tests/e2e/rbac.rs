//! Every right that is shipped is needed: one test for each, of what is missing without it and how the
//! agent says so. The roles are read from the manifests, so a right that nobody has a test for is found.

use std::collections::BTreeSet;
use std::fs;
use std::time::Instant;

use e2e::agent::PATIENCE;
use e2e::cluster::{Account, TestNode};
use e2e::{Agent, ControlPlane, Filesystem, Sandbox, Volume, inject};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};

use crate::deploy::{BASE, PUBLISHING, follows, objects};

/// A group of the API, a resource of it, and what may be done with that.
type Right = (&'static str, &'static str, &'static str);

const LIST_NODES: Right = ("", "nodes", "list");
const WATCH_NODES: Right = ("", "nodes", "watch");
const PATCH_STATUS: Right = ("", "nodes/status", "patch");
const CREATE_EVENTS: Right = ("events.k8s.io", "events", "create");
const PATCH_EVENTS: Right = ("events.k8s.io", "events", "patch");

/// Each has a test below.
const TESTED: [Right; 5] = [LIST_NODES, WATCH_NODES, PATCH_STATUS, CREATE_EVENTS, PATCH_EVENTS];

/// Roles of a directory.
fn roles(cluster: &ControlPlane, directory: &str) -> Vec<Value> {
    let mut objects = objects(cluster, directory);
    objects.retain(|object| object["kind"] == "ClusterRole" || object["kind"] == "Role");
    objects
}

fn strings(value: &Value) -> Vec<String> {
    let texts = value.as_array().unwrap().iter();
    texts.map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// What roles grant.
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
fn every_right_that_is_shipped_has_a_test() {
    let Some(cluster) = ControlPlane::shared() else { return };
    assert_eq!(rights(&roles(&cluster, PUBLISHING)), named(&TESTED));
    assert_eq!(rights(&roles(&cluster, BASE)), named(&[LIST_NODES, WATCH_NODES]));
}

/// Takes one right out of roles.
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

/// A service account with the rights that are shipped, under names of its own, but `missing`.
fn account(cluster: &ControlPlane, name: &str, missing: Option<Right>) -> Account {
    let account = cluster.service_account(name, "agent");
    let mut roles = roles(cluster, PUBLISHING);
    if let Some(missing) = missing {
        let all = rights(&roles).len();
        remove(&mut roles, missing);
        assert_eq!(rights(&roles).len(), all - 1, "{missing:?} is not shipped");
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
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("roles.json");
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
    fs::write(&file, list.to_string()).unwrap();
    let output = cluster.kubectl(&["create".as_ref(), "-f".as_ref(), file.as_os_str()]);
    assert!(output.status.success(), "{output:?}");
    // The server reads its own roles by watching them.
    let deadline = Instant::now() + PATIENCE;
    while !left.iter().all(|right| may(cluster, &account, right)) {
        assert!(Instant::now() < deadline, "the roles have no effect");
    }
    account
}

/// Whether somebody may do that to the objects of the agent's kind, by the server's own word.
fn may(cluster: &ControlPlane, account: &Account, [group, resource, verb]: &[String; 3]) -> bool {
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (resource.as_str(), None),
    };
    let namespace = (resource == "events").then(|| "default".to_owned());
    let asked = ResourceAttributes {
        group: Some(group.clone()),
        resource: Some(resource.to_owned()),
        subresource,
        namespace,
        verb: Some(verb.clone()),
        ..Default::default()
    };
    let spec = SubjectAccessReviewSpec {
        user: Some(account.user.clone()),
        resource_attributes: Some(asked),
        ..Default::default()
    };
    let review = SubjectAccessReview { spec, ..Default::default() };
    let reviews: Api<SubjectAccessReview> = Api::all(cluster.client());
    let answer = cluster.block_on(async { reviews.create(&PostParams::default(), &review).await });
    answer.unwrap().status.is_some_and(|status| status.allowed)
}

fn start(sandbox: &Sandbox, cluster: &ControlPlane, account: &Account, node: &TestNode) -> Agent {
    Agent::start_with(sandbox, |command| {
        command
            .env("KUBECONFIG", cluster.kubeconfig(&account.user))
            .env("NODE_NAME", node.name())
            .env("PUBLISH_CONDITIONS", "true");
    })
}

/// Without one of the rights to read, the Node is unknown: that passes, and says what is missing.
fn is_blind_without(name: &str, missing: Right) {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let account = account(&cluster, name, Some(missing));
    let node = cluster.node(name);
    // What nobody may know must not matter.
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
    agent.wait_for(&format!("degraded with {words:?}"), PATIENCE, |agent| {
        let health = agent.health("?check=node_ready");
        assert_eq!(health.status, 200);
        let why = health.check("node_ready")?.degraded.clone()?;
        words.iter().all(|word| why.contains(word)).then_some(())
    });
    let refused = format!("cannot {verb} resource \"nodes\"");
    agent.wait_for("a warning", PATIENCE, |agent| warned(agent, &refused).then_some(()));
}

#[test]
fn without_list_of_nodes() {
    is_blind_without("rbac-list-nodes", LIST_NODES);
}

#[test]
fn without_watch_of_nodes() {
    is_blind_without("rbac-watch-nodes", WATCH_NODES);
}

/// Writes so far, by the agent's own count.
fn writes(agent: &Agent, what: &str, result: &str) -> u64 {
    let metric = format!("tocsin_api_writes_total{{what=\"{what}\",result=\"{result}\"}} ");
    let metrics = agent.admin("/metrics").body;
    let count = metrics.lines().find_map(|line| line.strip_prefix(&metric)?.parse().ok());
    count.unwrap_or_else(|| agent.fail(&format!("no metric {metric}")))
}

fn wait_writes(agent: &Agent, what: &str, result: &str, count: u64) {
    agent.wait_for(&format!("{count} writes of {what}: {result}"), PATIENCE, |agent| {
        (writes(agent, what, result) >= count).then_some(())
    });
}

/// Whether there is a warning with these words of the server's.
fn warned(agent: &Agent, words: &str) -> bool {
    agent.log().iter().any(|line| {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        let message = line["message"].as_str().unwrap_or_default();
        line["level"] == "WARN" && message.contains(words)
    })
}

/// That a write failed is counted, and logged with the words of the refusal.
fn is_told(agent: &Agent, what: &str, words: &str) {
    wait_writes(agent, what, "failed", 1);
    agent.wait_for("a warning", PATIENCE, |agent| warned(agent, words).then_some(()));
}

/// A filesystem that becomes read-only.
fn fault(agent: &Agent, volume: &Volume) {
    let at = inject::reconfigure(volume.point(), "ro");
    agent.wait_failure(at, "filesystem_ro", &[&volume.device().name()]);
}

/// The same again, with the same words, minutes before the event about the first time is forgotten.
fn fault_again(agent: &Agent, volume: &Volume) {
    let at = inject::reconfigure(volume.point(), "rw");
    agent.wait_recovery(at, PATIENCE);
    fault(agent, volume);
}

/// The other way to tell it.
fn wait_condition(agent: &Agent, node: &TestNode) {
    agent.wait_for("the condition", PATIENCE, |_| {
        (node.condition("ReadonlyFilesystem").as_deref() == Some("True")).then_some(())
    });
}

/// How often that fault was told, by each event of it.
fn told(node: &TestNode) -> Vec<i32> {
    let events = node.events().into_iter();
    let opened = events.filter(|event| event.reason.as_deref() == Some("ReadonlyFilesystem"));
    opened.map(|event| event.series.and_then(|series| series.count).unwrap_or(1)).collect()
}

#[test]
fn all_of_them_suffice() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    let account = account(&cluster, "rbac-all", None);
    let node = cluster.node("rbac-all");
    let agent = start(&sandbox, &cluster, &account, &node);
    wait_writes(&agent, "conditions", "ok", 1);
    fault(&agent, &volume);
    wait_writes(&agent, "event", "ok", 1);
    assert_eq!(told(&node), [1]);
    fault_again(&agent, &volume);
    wait_writes(&agent, "event", "ok", 3);
    assert_eq!(told(&node), [2]);
    wait_condition(&agent, &node);
    // Where people look.
    let described = cluster.kubectl(&["describe", "node", node.name()]);
    let described = String::from_utf8(described.stdout).unwrap();
    let (conditions, events) = described.split_once("Events:").unwrap();
    assert!(conditions.contains("FilesystemIsReadOnly"), "{described}");
    assert!(events.contains("(x2 over") && events.contains("became read-only"), "{described}");
    follows(&agent, None);
    for what in ["conditions", "event"] {
        assert_eq!(writes(&agent, what, "failed"), 0, "{what}");
    }
    let audit = cluster.audit_of(&account.user);
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
    is_told(&agent, "conditions", "cannot patch resource \"nodes/status\"");
    // The other way to tell it works.
    fault(&agent, &volume);
    wait_writes(&agent, "event", "ok", 1);
    assert_eq!(told(&node), [1]);
    assert_eq!(writes(&agent, "conditions", "ok"), 0);
    assert_eq!(node.condition("ReadonlyFilesystem"), None);
    // What is read is as good as ever.
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
    is_told(&agent, "event", "cannot create resource \"events\"");
    assert_eq!(told(&node), [0; 0]);
    // The other way to tell it works.
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
    is_told(&agent, "event", "cannot patch resource \"events\"");
    assert_eq!(told(&node), [1], "told once, and not again");
    assert_eq!(writes(&agent, "conditions", "failed"), 0);
}
