use std::fmt::Write as _;

use serde_json::{Value, json};

use super::*;

/// The reference's schema as a list of facts, made from its documentation: one line a field.
const REFERENCE: &str = include_str!("../../../fixtures/nodehealthcheck.schema");

/// Fields that Tocsin adds.
const ADDED: [&str; 4] =
    ["status.waitingNodes", "status.waiting", "status.nextDeadline", "status.attempts"];

/// `schema` as such a list.
fn facts(path: &str, schema: &Value, out: &mut String) {
    let bare = path.trim_end_matches("[]");
    if ADDED.iter().any(|added| bare == *added || bare.starts_with(&format!("{added}."))) {
        return;
    }
    let mut line = format!("{}:", if path.is_empty() { "." } else { path });
    let Value::Object(fields) = schema else { panic!("{path}: {schema}") };
    for (key, value) in fields {
        match (key.as_str(), value) {
            ("description" | "properties" | "items", _) => {}
            ("additionalProperties", value) => {
                write!(line, " values={}", value["type"].as_str().unwrap()).unwrap();
            }
            ("required", Value::Array(names)) => {
                let mut names: Vec<_> = names.iter().map(|name| name.as_str().unwrap()).collect();
                names.sort_unstable();
                write!(line, " required={}", names.join(",")).unwrap();
            }
            // The API's type of a minimum is a float.
            ("minimum", value) => write!(line, " minimum={}", value.as_f64().unwrap()).unwrap(),
            (key, Value::String(text)) => write!(line, " {key}={text}").unwrap(),
            (key, value) => write!(line, " {key}={value}").unwrap(),
        }
    }
    out.push_str(&line);
    out.push('\n');
    if let Some(Value::Object(properties)) = fields.get("properties") {
        for (name, property) in properties {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            facts(&path, property, out);
        }
    }
    if let Some(items) = fields.get("items") {
        facts(&format!("{path}[]"), items, out);
    }
}

#[test]
fn the_schema_is_the_references_field_by_field() {
    let crd = serde_json::to_value(definition()).unwrap();
    let mut ours = String::new();
    facts("", &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], &mut ours);
    let mut ours: Vec<_> = ours.lines().collect();
    let mut theirs: Vec<_> =
        REFERENCE.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    ours.sort_unstable();
    theirs.sort_unstable();
    let missing: Vec<_> = theirs.iter().filter(|line| !ours.contains(line)).collect();
    let odd: Vec<_> = ours.iter().filter(|line| !theirs.contains(line)).collect();
    assert!(
        missing.is_empty() && odd.is_empty(),
        "missing: {missing:#?}\nnot in the reference: {odd:#?}"
    );
}

#[test]
fn the_definition_has_the_references_names() {
    let crd = serde_json::to_value(definition()).unwrap();
    assert_eq!(crd["metadata"]["name"], "nodehealthchecks.remediation.medik8s.io");
    assert_eq!(crd["spec"]["group"], "remediation.medik8s.io");
    assert_eq!(crd["spec"]["scope"], "Cluster");
    let names = &crd["spec"]["names"];
    assert_eq!(names["kind"], "NodeHealthCheck");
    assert_eq!(names["plural"], "nodehealthchecks");
    assert_eq!(names["singular"], "nodehealthcheck");
    assert_eq!(names["shortNames"], json!(["nhc"]));
    assert_eq!(crd["spec"]["versions"].as_array().unwrap().len(), 1);
    let version = &crd["spec"]["versions"][0];
    assert_eq!(
        (&version["name"], &version["served"], &version["storage"]),
        (&json!("v1alpha1"), &json!(true), &json!(true))
    );
    assert_eq!(version["subresources"], json!({ "status": {} }));
}

#[test]
fn an_object_of_the_reference_is_read_and_written_unchanged() {
    let object = json!({
        "apiVersion": "remediation.medik8s.io/v1alpha1",
        "kind": "NodeHealthCheck",
        "metadata": { "name": "workers" },
        "spec": {
            "selector": { "matchExpressions": [{ "key": "node-role.kubernetes.io/worker", "operator": "Exists" }] },
            "unhealthyConditions": [{ "type": "Ready", "status": "False", "duration": "1.5h" }],
            "minHealthy": "51%",
            "stormCooldownDuration": "5m0s",
            "escalatingRemediations": [{
                "remediationTemplate": { "apiVersion": "a/v1", "kind": "XTemplate", "name": "x", "namespace": "n" },
                "order": 1,
                "timeout": "300s",
            }],
            "pauseRequests": ["me"],
            "healthyDelay": "-1s",
        },
        "status": {
            "observedNodes": 0,
            "healthyNodes": 0,
            "unhealthyNodes": [{
                "name": "n1",
                "remediations": [{
                    "resource": { "apiVersion": "a/v1", "kind": "X", "name": "n1", "namespace": "n", "uid": "u" },
                    "started": "2026-01-02T03:04:05Z",
                    "templateName": "x",
                }],
            }],
            "conditions": [],
            "phase": "Remediating",
        },
    });
    let read: NodeHealthCheck = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), object);
}
