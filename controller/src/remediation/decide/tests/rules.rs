use jiff::Timestamp;
use serde_json::json;

use super::{
    super::health::{self, Health},
    kit::{CHECK, Cluster, START, duration},
};

/// (name, unhealthy conditions as `type=status:duration`, node's conditions as `type=status:age`, expected)
const HEALTH: [(&str, &str, &str, &str); 16] = [
    ("no conditions at all", "Ready=False:300s", "", "healthy"),
    ("the type is missing", "Ready=False:300s", "Other=False:900s", "healthy"),
    ("another status", "Ready=False:300s", "Ready=True:900s", "healthy"),
    ("status is compared as text", "Ready=false:300s", "Ready=False:900s", "healthy"),
    ("not long enough", "Ready=False:300s", "Ready=False:200s", "soon in 100s"),
    ("exactly as long is not longer", "Ready=False:300s", "Ready=False:300s", "soon in 0s"),
    ("longer", "Ready=False:300s", "Ready=False:301s", "unhealthy Ready=False for 1s"),
    ("no duration", "Bad=True:0s", "Bad=True:1s", "unhealthy Bad=True for 1s"),
    ("a fraction", "Bad=True:1500ms", "Bad=True:2s", "unhealthy Bad=True for 500ms"),
    (
        "the first of the list is told of",
        "A=True:1s,B=True:1s",
        "B=True:9s,A=True:5s",
        "unhealthy A=True for 8s",
    ),
    (
        "what is not yet long enough hides nothing",
        "A=True:100s,B=True:1s",
        "A=True:5s,B=True:5s",
        "unhealthy B=True for 4s",
    ),
    ("the nearest of several", "A=True:100s,B=True:50s", "A=True:5s,B=True:5s", "soon in 45s"),
    (
        "one type, two statuses",
        "Ready=False:10s,Ready=Unknown:5s",
        "Ready=Unknown:6s",
        "unhealthy Ready=Unknown for 1s",
    ),
    ("an empty list", "", "Ready=False:900s", "healthy"),
    ("the clock of the writer is ahead", "Ready=False:10s", "Ready=False:-5s", "soon in 15s"),
    ("292 years", "Ready=False:9999999999h", "Ready=False:900s", "soon in 9223371136.854775807s"),
];

fn pairs(text: &str) -> Vec<(&str, &str, &str)> {
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (kind, rest) = part.split_once('=').unwrap();
            let (status, time) = rest.split_once(':').unwrap();
            (kind, status, time)
        })
        .collect()
}

#[test]
fn a_node_is_healthy_by_its_conditions() {
    for (name, unhealthy, conditions, expected) in HEALTH {
        let mut cluster = Cluster::new(0);
        cluster.node("n", &[]);
        cluster.change("n", |node| node.conditions = [].into());
        let now = cluster.now;
        for (kind, status, age) in pairs(conditions) {
            cluster.now = now.checked_sub(duration(age)).unwrap();
            cluster.condition("n", kind, status);
        }
        let list: Vec<_> = pairs(unhealthy)
            .into_iter()
            .map(|(kind, status, time)| json!({ "type": kind, "status": status, "duration": time }))
            .collect();
        let list: Vec<_> = serde_json::from_value(json!(list)).unwrap();
        let got = match health::judge(&cluster.world.nodes["n"], &list, now) {
            Health::Healthy => "healthy".to_owned(),
            Health::Soon(at, _) => format!("soon in {}", seconds(now, at)),
            Health::Unhealthy(since, condition) => {
                format!(
                    "unhealthy {}={} for {}",
                    condition.kind,
                    condition.status,
                    seconds(since, now)
                )
            }
        };
        assert_eq!(got, expected, "{name}");
    }
}

fn seconds(from: Timestamp, to: Timestamp) -> String {
    let time = to.duration_since(from);
    match time.subsec_millis() {
        0 => format!("{}s", time.as_secs()),
        millis if time.as_secs() == 0 => format!("{millis}ms"),
        _ => format!("{}.{:09}s", time.as_secs(), time.subsec_nanos()),
    }
}

#[test]
fn a_condition_without_a_beginning_has_lasted_for_ever() {
    let mut cluster = Cluster::new(1);
    cluster.fail("n0");
    cluster.change("n0", |node| {
        for condition in &mut node.conditions {
            condition.since = None;
        }
    });
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n0"]);
}

#[test]
fn hints_are_read_from_reasons_and_messages() {
    let cases = [
        ("DiskHasIOErrors", "sda: write failed: EIO (hint: replace)", Some("replace")),
        ("DiskHasIOErrors", "sda: write failed: ENOSPC", None),
        ("FilesystemIsReadOnly", "/ is read-only", Some("reboot")),
        ("FilesystemIsReadOnly", "/data is read-only (hint: volume-only)", Some("volume-only")),
        ("Whatever", "it broke; hint: replace", Some("replace")),
        ("Whatever", "it broke; hint: pray", None),
        ("KubeletNotReady", "", None),
    ];
    for (reason, message, expected) in cases {
        let mut cluster = Cluster::new(1);
        cluster.fail("n0");
        cluster.change("n0", |node| {
            for condition in &mut node.conditions {
                (condition.reason, condition.message) = (reason.into(), message.into());
            }
        });
        assert_eq!(
            health::hint(&cluster.world.nodes["n0"].conditions[0]),
            expected,
            "{reason} {message}"
        );
    }
}

#[test]
fn a_remediation_object_is_what_the_reference_makes() {
    let mut cluster = Cluster::new(2);
    cluster.fail("n1");
    let decision = cluster.decide(CHECK);
    assert_eq!(decision.actions.len(), 1, "the lease comes first: {:?}", decision.actions);
    cluster.take(CHECK, &decision.actions[0]).unwrap();
    let decision = cluster.decide(CHECK);
    let [super::super::Action::Create(creation)] = decision.actions.as_slice() else {
        panic!("{:?}", decision.actions)
    };
    assert_eq!(
        creation.object,
        json!({
            "apiVersion": "test.dev/v1",
            "kind": "Reboot",
            "metadata": {
                "name": "n1",
                "namespace": "rem",
                "labels": { "app.kubernetes.io/part-of": "node-healthcheck-controller" },
                "annotations": {
                    "remediation.medik8s.io/node-name": "n1",
                    "remediation.medik8s.io/template-name": "reboot",
                },
                "ownerReferences": [{
                    "apiVersion": "remediation.medik8s.io/v1alpha1",
                    "kind": "NodeHealthCheck",
                    "name": "nhc",
                    "uid": "uid-nhc",
                    "controller": false,
                }],
            },
            "spec": { "how": "reboot" },
        })
    );
    let lease = &cluster.world.leases["node-n1"];
    assert_eq!(lease.holder, "NodeHealthCheck-nhc");
    assert_eq!(lease.duration.as_secs(), 660);
}

#[test]
fn the_status_tells_of_a_remediation() {
    let mut cluster = Cluster::new(2);
    cluster.settle();
    let status = cluster.status();
    assert_eq!((status.observed_nodes, status.healthy_nodes), (Some(2), Some(2)));
    assert_eq!(status.phase.as_deref(), Some("Enabled"));
    assert_eq!(status.reason.as_deref(), Some("NHC is enabled, no ongoing remediation"));
    assert_eq!(cluster.events(), ["Normal Enabled: No issues found, NodeHealthCheck is enabled."]);

    cluster.fail("n1");
    cluster.settle();
    let status = cluster.status();
    assert_eq!((status.observed_nodes, status.healthy_nodes), (Some(2), Some(1)));
    assert_eq!(status.phase.as_deref(), Some("Remediating"));
    assert_eq!(status.reason.as_deref(), Some("NHC is remediating 1 nodes"));
    let node = &status.unhealthy_nodes.unwrap()[0];
    let record = &node.remediations.as_ref().unwrap()[0];
    assert_eq!(node.name, "n1");
    assert_eq!(record.resource.kind.as_deref(), Some("Reboot"));
    assert_eq!(record.resource.namespace.as_deref(), Some("rem"));
    assert_eq!(record.started.as_ref().unwrap().0.as_second(), START);
    assert_eq!(record.template_name.as_deref(), Some("reboot"));
    assert_eq!(
        cluster.events(),
        [
            "Normal DetectedUnhealthy: Node matches unhealthy condition. Node \"n1\", condition type \"Ready\", condition status \"False\""
        ]
    );

    cluster.heal("n1");
    cluster.settle();
    let status = cluster.status();
    assert_eq!((status.observed_nodes, status.healthy_nodes), (Some(2), Some(2)));
    assert_eq!(status.unhealthy_nodes, None);
    assert!(cluster.remediations().is_empty() && cluster.world.leases.is_empty());
    assert_eq!(
        cluster.writes,
        ["acquire n1", "create Reboot/n1", "delete Reboot/n1", "release n1"]
    );
}

#[test]
fn a_node_that_will_be_unhealthy_is_seen_at_the_exact_moment() {
    let mut cluster = Cluster::new(2);
    cluster.condition("n0", "Ready", "Unknown");
    let decision = cluster.settle();
    assert_eq!(cluster.waiting(), ["n0 DurationNotElapsed"]);
    assert_eq!(cluster.status().healthy_nodes, Some(1));
    assert_eq!(decision.wake, Some(cluster.now.checked_add(duration("300s1ms")).unwrap()));
    cluster.advance("300s");
    cluster.settle();
    assert!(cluster.remediations().is_empty());
    cluster.advance("1ms");
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n0"]);
}

#[test]
fn nothing_is_done_twice_and_nothing_changes_by_itself() {
    let mut cluster = Cluster::new(5);
    cluster.fail("n1");
    cluster.fail("n3");
    cluster.settle();
    let (writes, status) = (cluster.writes.len(), cluster.status());
    for _ in 0..20 {
        cluster.advance("2s");
        cluster.settle();
    }
    assert_eq!((cluster.writes.len(), cluster.status()), (writes, status));
}

#[test]
fn the_lease_namespace_is_made_when_it_is_missing() {
    let mut cluster = Cluster::new(1);
    cluster.world.lease_namespace = false;
    cluster.settle();
    assert!(cluster.writes.is_empty());
    cluster.fail("n0");
    cluster.settle();
    assert_eq!(cluster.writes, ["namespace", "acquire n0", "create Reboot/n0"]);
}

#[test]
fn without_a_selector_all_nodes_are_selected() {
    let mut cluster = Cluster::new(2);
    cluster.node("other", &[]);
    for selector in [json!(null), json!({})] {
        cluster.check(CHECK, &json!({ "selector": selector }));
        cluster.settle();
        assert_eq!(cluster.status().observed_nodes, Some(3), "{selector}");
    }
}

#[test]
fn selectors_match_as_the_api_has_it() {
    let cases = [
        (json!({ "matchLabels": { "a": "1" } }), "x"),
        (
            json!({ "matchExpressions": [{ "key": "a", "operator": "In", "values": ["1", "2"] }] }),
            "xy",
        ),
        (
            json!({ "matchExpressions": [{ "key": "a", "operator": "NotIn", "values": ["1"] }] }),
            "yz",
        ),
        (json!({ "matchExpressions": [{ "key": "a", "operator": "Exists" }] }), "xy"),
        (json!({ "matchExpressions": [{ "key": "a", "operator": "DoesNotExist" }] }), "z"),
        (
            json!({ "matchLabels": { "a": "1" }, "matchExpressions": [{ "key": "b", "operator": "Exists" }] }),
            "",
        ),
    ];
    for (selector, expected) in cases {
        let mut cluster = Cluster::new(0);
        cluster.node("x", &[("a", "1")]);
        cluster.node("y", &[("a", "2"), ("b", "")]);
        cluster.node("z", &[]);
        let parsed: k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector =
            serde_json::from_value(selector.clone()).unwrap();
        let parsed = super::super::Selector::new(Some(&parsed)).unwrap();
        let got: String = cluster
            .world
            .nodes
            .values()
            .filter(|node| parsed.matches(node))
            .map(|node| node.name.to_string())
            .collect();
        assert_eq!(got, expected, "{selector}");
    }
}
