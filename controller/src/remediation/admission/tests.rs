use serde_json::{Value, json};

use super::*;

fn check(spec: &Value) -> NodeHealthCheck {
    serde_json::from_value(json!({
        "apiVersion": "remediation.medik8s.io/v1alpha1",
        "kind": "NodeHealthCheck",
        "metadata": { "name": "nhc" },
        "spec": spec,
    }))
    .unwrap()
}

fn template(kind: &str) -> Value {
    json!({ "apiVersion": "test.dev/v1", "kind": kind, "namespace": "rem", "name": "x" })
}

fn step(kind: &str, order: i32, timeout: &str) -> Value {
    json!({ "remediationTemplate": template(kind), "order": order, "timeout": timeout })
}

/// A spec that is allowed, with these fields instead; `null` removes one.
fn with(fields: &Value) -> Value {
    let mut spec = json!({
        "selector": { "matchLabels": { "a": "b" } },
        "minHealthy": "51%",
        "remediationTemplate": template("XTemplate"),
    });
    for (key, value) in fields.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

const DELETION: &str = "machineDELETIONremediationTemplate";

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn every_rule_has_its_message() {
    let cases = [
        ("allowed", json!({}), ""),
        ("a number", json!({ "minHealthy": 0 }), ""),
        ("a number in quotes", json!({ "minHealthy": "2" }), ""),
        (
            "1",
            json!({ "maxUnhealthy": 1 }),
            "minHealthy and maxUnhealthy cannot be specified at the same time",
        ),
        (
            "2",
            json!({ "minHealthy": null }),
            "one of minHealthy and maxUnhealthy should be specified",
        ),
        ("3", json!({ "minHealthy": -1 }), "minHealthy must not be negative: -1"),
        (
            "4",
            json!({ "minHealthy": null, "maxUnhealthy": -1 }),
            "maxUnhealthy must not be negative: -1",
        ),
        (
            "5",
            json!({ "minHealthy": null, "maxUnhealthy": 1, "remediationTemplate": template(DELETION) }),
            "maxUnhealthy can't be used with MachineDeletionRemediationTemplate",
        ),
        ("5, with minHealthy", json!({ "remediationTemplate": template(DELETION) }), ""),
        (
            "6",
            json!({
                "minHealthy": null,
                "maxUnhealthy": 1,
                "remediationTemplate": null,
                "escalatingRemediations": [step("XTemplate", 1, "1m"), step(DELETION, 2, "1m")],
            }),
            "maxUnhealthy can't be used with MachineDeletionRemediationTemplate escalating remediation",
        ),
        ("7", json!({ "selector": null }), "Selector is mandatory"),
        (
            "7, empty",
            json!({ "selector": { "matchLabels": {}, "matchExpressions": [] } }),
            "Selector is mandatory",
        ),
        (
            "8",
            json!({ "selector": { "matchExpressions": [{ "key": "a", "operator": "In" }] } }),
            "Invalid selector: values: Invalid value: null: for 'in', 'notin' operators, values set can't be empty",
        ),
        (
            "8, operator",
            json!({ "selector": { "matchExpressions": [{ "key": "a", "operator": "Like" }] } }),
            "Invalid selector: \"Like\" is not a valid label selector operator",
        ),
        (
            "8, values",
            json!({ "selector": { "matchExpressions": [{ "key": "a", "operator": "Exists", "values": ["b"] }] } }),
            "Invalid selector: values: Invalid value: [\"b\"]: values set must be empty for exists and does not exist",
        ),
        (
            "8, no label",
            json!({ "selector": { "matchLabels": { "a": "b c" } } }),
            "Invalid selector: values[0][a]: Invalid value: \"b c\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ),
        (
            "9",
            json!({ "remediationTemplate": null }),
            "Either RemediationTemplate or at least one EscalatingRemediations must be set",
        ),
        (
            "9, an empty list",
            json!({ "remediationTemplate": null, "escalatingRemediations": [] }),
            "Either RemediationTemplate or at least one EscalatingRemediations must be set",
        ),
        (
            "10",
            json!({ "escalatingRemediations": [step("XTemplate", 1, "1m")] }),
            "RemediationTemplate and EscalatingRemediations usage is mutual exclusive",
        ),
        (
            "11",
            json!({
                "remediationTemplate": null,
                "escalatingRemediations": [step("XTemplate", 42, "1m"), step("YTemplate", 42, "1m")],
            }),
            "EscalatingRemediation Order must be unique: found duplicate order 42",
        ),
        (
            "12",
            json!({ "remediationTemplate": null, "escalatingRemediations": [step("XTemplate", 1, "42s")] }),
            "EscalatingRemediation Timeout must be at least one minute: found timeout {42s}",
        ),
        (
            "13",
            json!({
                "remediationTemplate": null,
                "escalatingRemediations": [step("XTemplate", 1, "1m"), step("XTemplate", 2, "1m")],
            }),
            "Using multiple templates of same kind is not supported for this template: duplicate template kind: XTemplate",
        ),
        (
            "13, supported",
            json!({
                "remediationTemplate": null,
                "escalatingRemediations": [step("ManyTemplate", 1, "1m"), step("ManyTemplate", 2, "1m")],
            }),
            "",
        ),
        (
            "several at once",
            json!({ "minHealthy": null, "selector": {}, "remediationTemplate": null }),
            "[one of minHealthy and maxUnhealthy should be specified, Selector is mandatory, Either RemediationTemplate or at least one EscalatingRemediations must be set]",
        ),
        (
            "several of the steps",
            json!({
                "remediationTemplate": null,
                "escalatingRemediations": [step("XTemplate", 1, "1s"), step("XTemplate", 1, "1m")],
            }),
            "[EscalatingRemediation Order must be unique: found duplicate order 1, EscalatingRemediation Timeout must be at least one minute: found timeout {1s}, Using multiple templates of same kind is not supported for this template: duplicate template kind: XTemplate]",
        ),
    ];
    let cluster = Cluster { multiple: ["ManyTemplate".to_owned()].into(), topology: None };
    for (name, fields, message) in cases {
        let got = allow(&check(&with(&fields)), None, &cluster).err().unwrap_or_default();
        assert_eq!(got, message, "{name}");
    }
}

#[test]
fn the_topology_of_openshift() {
    for (topology, allowed) in [
        (None, true),
        (Some("HighlyAvailable"), true),
        (Some("SingleReplica"), true),
        (Some("HighlyAvailableArbiter"), true),
        (Some("External"), true),
        (Some("DualReplica"), false),
    ] {
        let cluster = Cluster { topology: topology.map(str::to_owned), ..Cluster::default() };
        let got = allow(&check(&with(&json!({}))), None, &cluster);
        assert_eq!(
            got,
            if allowed { Ok(()) } else { Err("Unsupported control plane topology".to_owned()) }
        );
    }
}

#[test]
fn while_nodes_are_remediated_some_things_stay() {
    let escalation = json!({ "remediationTemplate": null, "escalatingRemediations": [step("XTemplate", 1, "1m")] });
    let cases = [
        ("nothing", json!({}), json!({}), ""),
        ("15", json!({}), json!({ "selector": { "matchLabels": { "a": "c" } } }), "selector"),
        (
            "16",
            json!({}),
            json!({ "remediationTemplate": template("YTemplate") }),
            "remediation template",
        ),
        ("16, to an escalation", json!({}), escalation.clone(), "remediation template"),
        (
            "17",
            escalation,
            json!({ "remediationTemplate": null, "escalatingRemediations": [step("XTemplate", 1, "2m")] }),
            "escalating remediations",
        ),
        (
            "15 before 16",
            json!({}),
            json!({ "selector": { "matchLabels": { "a": "c" } }, "remediationTemplate": template("YTemplate") }),
            "selector",
        ),
        (
            "everything else",
            json!({}),
            json!({
                "minHealthy": 1, "healthyDelay": "1m", "pauseRequests": ["me"], "stormCooldownDuration": "1m",
                "unhealthyConditions": [{ "type": "Ready", "status": "False", "duration": "1s" }],
            }),
            "",
        ),
    ];
    let record = json!({
        "resource": { "kind": "X", "name": "n" },
        "started": "2026-01-01T00:00:00Z",
    });
    let states = [
        (json!([{ "name": "n", "remediations": [record] }]), true),
        (json!([{ "name": "n" }]), false),
        (json!([{ "name": "n", "remediations": [] }]), false),
        (json!(null), false),
    ];
    for (unhealthy, remediating) in states {
        for (name, before, after, what) in &cases {
            let mut old = check(&with(before));
            old.status = serde_json::from_value(json!({ "unhealthyNodes": unhealthy })).unwrap();
            let got = allow(&check(&with(after)), Some(&old), &Cluster::default());
            let refused = remediating && !what.is_empty();
            let message = format!("{what} update prohibited due to running remediation");
            assert_eq!(got, if refused { Err(message) } else { Ok(()) }, "{name} {unhealthy}");
            let deletion = "deletion prohibited due to running remediation".to_owned();
            assert_eq!(allow_deletion(&old), if remediating { Err(deletion) } else { Ok(()) });
        }
    }
}

#[test]
fn durations_are_told_as_go_tells_them() {
    for (text, expected) in [
        ("42s", "42s"),
        ("0.5m", "30s"),
        ("1500ms", "1.5s"),
        ("300ms", "300ms"),
        ("1500us", "1.5ms"),
        ("7us", "7µs"),
        ("9ns", "9ns"),
        ("0s", "0s"),
    ] {
        assert_eq!(go_text(crate::remediation::crd::parse_duration(text).unwrap()), expected);
    }
}
