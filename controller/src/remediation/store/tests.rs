use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::{super::world::TemplateState, *};

const GROUP: &str = "test.dev/v1";

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn kind(kind: &str) -> Kind {
    Kind { api_version: GROUP.to_owned(), kind: kind.to_owned() }
}

fn node(name: &str, version: u32, status: &str, heartbeat: &str) -> NodeObject {
    serde_json::from_value(json!({
        "metadata": { "name": name, "uid": name, "resourceVersion": version.to_string() },
        "status": { "conditions": [{ "type": "Ready", "status": status, "lastHeartbeatTime": heartbeat }] },
    }))
    .unwrap()
}

fn object(kind: &str, namespace: &str, name: &str, version: u32) -> DynamicObject {
    let mut object: DynamicObject = serde_json::from_value(json!({
        "apiVersion": GROUP, "kind": kind,
        "metadata": { "name": name, "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
            "ownerReferences": [{ "apiVersion": "remediation.medik8s.io/v1alpha1", "kind": "NodeHealthCheck", "name": "nhc", "uid": "u" }] },
        "spec": { "template": { "spec": {} } },
    }))
    .unwrap();
    object.metadata.namespace = Some(namespace.to_owned()).filter(|text| !text.is_empty());
    object
}

fn lease(name: &str, version: u32) -> Lease {
    serde_json::from_value(json!({ "metadata": { "name": name, "uid": name, "resourceVersion": version.to_string() } }))
        .unwrap()
}

fn check(fields: &Value, status: &Value) -> DynamicObject {
    let mut object = json!({
        "apiVersion": "remediation.medik8s.io/v1alpha1", "kind": "NodeHealthCheck",
        "metadata": { "name": "nhc", "uid": "u", "resourceVersion": "5" },
        "spec": { "minHealthy": 0 },
        "status": status,
    });
    for (key, value) in fields.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    serde_json::from_value(object).unwrap()
}

fn reference(namespace: &str) -> Value {
    json!({ "remediationTemplate": {
        "apiVersion": GROUP, "kind": "RebootTemplate", "namespace": namespace, "name": "a",
    } })
}

fn ready(store: &Store, node: &str) -> String {
    store.world.nodes[node].condition("Ready").unwrap().status.to_string()
}

#[test]
fn a_watch_that_is_late_changes_nothing_and_a_list_counts() {
    let mut store = Store::default();
    let mut take = |event, now| store.take(Change::Node(event), at(now));
    take(Event::Init, 0);
    take(Event::InitApply(node("n", 7, "True", "2027-01-01T00:00:00Z")), 0);
    take(Event::InitDone, 0);
    assert!(take(Event::Apply(node("n", 9, "False", "2027-01-01T00:00:00Z")), 1));
    assert!(!take(Event::Apply(node("n", 8, "True", "2027-01-01T00:00:00Z")), 2));
    assert_eq!(ready(&store, "n"), "False");
    // The API server's store was put back to an older state: every version is older, and true.
    let mut take = |event, now| store.take(Change::Node(event), at(now));
    take(Event::Init, 3);
    take(Event::InitApply(node("n", 3, "True", "2027-01-01T00:00:00Z")), 3);
    take(Event::InitDone, 3);
    assert!(take(Event::Apply(node("n", 4, "Unknown", "2027-01-01T00:00:00Z")), 4));
    assert_eq!(ready(&store, "n"), "Unknown");
}

#[test]
fn a_list_after_an_outage_is_not_the_silence_of_every_node() {
    let mut store = Store::default();
    let heard = |store: &Store| {
        store.world.nodes["n"].condition("Ready").unwrap().heard.duration_since(at(0)).as_secs()
    };
    store.take(Change::Node(Event::Apply(node("n", 7, "True", "2027-01-01T00:00:00Z"))), at(0));
    store.take(Change::Node(Event::Apply(node("n", 8, "True", "2027-01-01T00:00:00Z"))), at(10));
    assert_eq!(heard(&store), 0);
    store.take(Change::Node(Event::Init), at(1000));
    store.take(
        Change::Node(Event::InitApply(node("n", 8, "True", "2027-01-01T00:00:00Z"))),
        at(1000),
    );
    store.take(Change::Node(Event::InitDone), at(1000));
    assert_eq!(heard(&store), 1000);
}

#[test]
fn what_we_wrote_survives_a_list_that_was_asked_for_before() {
    let mut store = Store::default();
    let reboot = kind("Reboot");
    store.expect_kind(&reboot);
    let list = |store: &mut Store, objects: Vec<DynamicObject>, now| {
        store.take(Change::Object(reboot.clone(), Event::Init), at(now));
        for object in objects {
            store.take(Change::Object(reboot.clone(), Event::InitApply(object)), at(now));
        }
        store.take(Change::Object(reboot.clone(), Event::InitDone), at(now));
    };
    store.wrote_remediation(&reboot, &object("Reboot", "rem", "n", 9), at(0));
    list(&mut store, vec![], 1);
    assert_eq!(store.world.remediations.len(), 1, "the list is from before the write");
    // No watch tells of it: it is gone.
    store.forget_unconfirmed(at(9));
    assert_eq!(store.world.remediations.len(), 1);
    store.forget_unconfirmed(at(12));
    assert_eq!(store.world.remediations.len(), 0);

    store.wrote_remediation(&reboot, &object("Reboot", "rem", "n", 19), at(20));
    list(&mut store, vec![object("Reboot", "rem", "n", 15)], 21);
    let version =
        |store: &Store| store.world.remediations.values().next().unwrap().resource_version.clone();
    assert_eq!(version(&store), "19", "an older version is from before the write");
    store.take(
        Change::Object(reboot.clone(), Event::Apply(object("Reboot", "rem", "n", 19))),
        at(22),
    );
    store.forget_unconfirmed(at(60));
    assert_eq!(store.world.remediations.len(), 1, "the watch told of it");
    list(&mut store, vec![], 61);
    assert!(store.world.remediations.is_empty());

    let leases = |store: &Store| store.world.leases.len();
    store.wrote_lease(lease("node-n", 9), at(0));
    store.take(Change::Lease(Event::Init), at(1));
    store.take(Change::Lease(Event::InitDone), at(1));
    assert_eq!(leases(&store), 1);
    store.take(Change::Lease(Event::Init), at(30));
    store.take(Change::Lease(Event::InitDone), at(30));
    assert_eq!(leases(&store), 0);
}

#[test]
fn the_deletion_of_another_object_of_the_same_name_is_not_that_of_this_one() {
    let mut store = Store::default();
    let reboot = kind("Reboot");
    store.expect_kind(&reboot);
    store.wrote_remediation(&reboot, &object("Reboot", "rem", "n", 9), at(0));
    let mut old = object("Reboot", "rem", "n", 8);
    old.metadata.uid = Some("another".to_owned());
    store.take(Change::Object(reboot.clone(), Event::Delete(old)), at(1));
    assert_eq!(store.world.remediations.len(), 1);
    let this = object("Reboot", "rem", "n", 10);
    store.take(Change::Object(reboot, Event::Delete(this)), at(2));
    assert!(store.world.remediations.is_empty());
}

/// A store with a check of this reference, where the API serves both kinds with these scopes.
fn with_kinds(namespace: &str, template_namespaced: bool, made_namespaced: bool) -> Store {
    let mut store = Store::default();
    store.take(Change::Check(Event::Apply(check(&reference(namespace), &json!({})))), at(0));
    for (name, namespaced) in [("RebootTemplate", template_namespaced), ("Reboot", made_namespaced)]
    {
        let (of, plural) = (kind(name), format!("{}s.test.dev", name.to_lowercase()));
        store.expect_kind(&of);
        store.take(
            Change::Kind(of.clone(), KindState::Served { resource: plural, namespaced }),
            at(0),
        );
        store.take(Change::Object(of.clone(), Event::Init), at(0));
        if name == "RebootTemplate" {
            let place = if namespaced { "rem" } else { "" };
            store.take(
                Change::Object(of.clone(), Event::InitApply(object(name, place, "a", 3))),
                at(0),
            );
        }
        store.take(Change::Object(of, Event::InitDone), at(0));
    }
    store
}

fn state(store: &Store) -> String {
    match store.world.templates.values().next().unwrap() {
        TemplateState::Found(_, namespace) => format!("makes in {namespace:?}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn templates_with_and_without_namespaces() {
    for (reference, template, made, expected) in [
        ("rem", true, true, "makes in \"rem\""),
        ("rem", true, false, "makes in \"\""),
        ("", true, true, "NeedsNamespace"),
        ("", false, false, "makes in \"\""),
        // It means nothing, and hurts nobody.
        ("rem", false, false, "makes in \"\""),
        ("rem", false, true, "NoPlace"),
        ("other", true, true, "NotFound(\"reboottemplates.test.dev \\\"a\\\" not found\")"),
    ] {
        let store = with_kinds(reference, template, made);
        assert_eq!(state(&store), expected, "{reference:?} {template} {made}");
    }
}

#[test]
fn a_kind_that_vanishes_takes_its_objects_along() {
    let mut store = with_kinds("rem", true, true);
    let reboot = kind("Reboot");
    store.wrote_remediation(&reboot, &object("Reboot", "rem", "n", 9), at(0));
    store.take(Change::Kind(reboot.clone(), KindState::Missing("no matches".to_owned())), at(1));
    assert!(store.world.remediations.is_empty());
    assert_eq!(state(&store), "NotFound(\"no matches\")");
    let served = KindState::Served { resource: "reboots.test.dev".to_owned(), namespaced: true };
    store.take(Change::Kind(reboot, served), at(2));
    assert!(store.world.templates.is_empty(), "nothing is known until its list is complete");
}

#[test]
fn kinds_are_watched_as_long_as_something_of_them_is_left() {
    let mut store = with_kinds("rem", true, true);
    let names =
        |store: &Store| store.wanted_kinds().into_iter().map(|kind| kind.kind).collect::<Vec<_>>();
    assert_eq!(names(&store), ["Reboot", "RebootTemplate"]);
    let mut other = reference("rem");
    other["remediationTemplate"]["kind"] = json!("FenceTemplate");
    let record = json!({ "unhealthyNodes": [{ "name": "n", "remediations": [
        { "resource": { "apiVersion": GROUP, "kind": "Old", "name": "n" }, "started": "2027-01-01T00:00:00Z" },
    ] }] });
    store.take(Change::Check(Event::Apply(check(&other, &record))), at(1));
    assert_eq!(names(&store), ["Reboot", "RebootTemplate"], "the same version says nothing new");
    let mut newer = check(&other, &record);
    newer.metadata.resource_version = Some("6".to_owned());
    store.take(Change::Check(Event::Apply(newer)), at(1));
    assert_eq!(names(&store), ["Fence", "FenceTemplate", "Old"]);
    store.wrote_remediation(&kind("Reboot"), &object("Reboot", "rem", "n", 9), at(0));
    assert_eq!(names(&store), ["Fence", "FenceTemplate", "Old", "Reboot"]);
}

#[test]
fn a_check_that_cannot_be_read_hides_no_other_and_keeps_its_last_word() {
    let mut store = Store::default();
    store.take(Change::Check(Event::Apply(check(&json!({}), &json!({})))), at(0));
    let mut odd = check(&json!({ "pauseRequests": 7 }), &json!({}));
    odd.metadata.resource_version = Some("6".to_owned());
    assert!(!store.take(Change::Check(Event::Apply(odd.clone())), at(1)));
    store.take(Change::Check(Event::Init), at(2));
    store.take(Change::Check(Event::InitApply(odd)), at(2));
    store.take(Change::Check(Event::InitDone), at(2));
    assert_eq!(store.world.checks.len(), 1);
}
