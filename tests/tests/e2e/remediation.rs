//! `tocsin-controller remediation` against a real API server: from a node's condition to a remediation object and back.
//! The remediators are played through the API.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use e2e::cluster::{AuditEntry, TestNode, free_port, rule};
use e2e::process::TIMEOUT;
use e2e::remediation::{
    controller_prints, define_node_health_check, new_node_health_check, node_health_check,
};
use e2e::sandbox::say;
use e2e::sync::lock;
use e2e::{ControlPlane, Remediation, Remediator};
use rustix::process::Signal;
use serde_json::{Value, json};

/// The label by which the check of a test selects its nodes.
pub(crate) const LABEL: &str = "tocsin.test/remediated";

pub(crate) fn labelled(cluster: &ControlPlane, name: &str, value: &str) -> TestNode {
    let node = cluster.node(name);
    node.patch(&json!({ "metadata": { "labels": { LABEL: value } } }));
    node
}

/// Held by a test with a controller: each of them acts on every `NodeHealthCheck` of the cluster.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ACTS: Mutex<()> = Mutex::new(());
    lock(&ACTS)
}

/// A `NodeHealthCheck` of the nodes with this label, unhealthy at once when not ready; deleted on drop.
pub(crate) struct Check {
    cluster: ControlPlane,
    name: String,
}

impl Check {
    pub(crate) fn new(cluster: &ControlPlane, name: &str, fields: &Value) -> Self {
        let mut spec = json!({
            "minHealthy": 0,
            "unhealthyConditions": [
                { "type": "Ready", "status": "False", "duration": "0s" },
                { "type": "Ready", "status": "Unknown", "duration": "1h" },
            ],
        });
        for (key, value) in fields.as_object().unwrap() {
            spec[key] = value.clone();
        }
        cluster.create(&new_node_health_check(name, LABEL, &spec));
        Self { cluster: cluster.clone(), name: name.to_owned() }
    }

    /// Changes its spec by a merge patch.
    pub(crate) fn change(&self, spec: &Value) {
        let change = json!({ "spec": spec }).to_string();
        self.cluster.kubectl_ok(&["patch", "nhc", &self.name, "--type=merge", "--patch", &change]);
    }

    pub(crate) fn annotate(&self, annotation: &str) {
        self.cluster.kubectl_ok(&["annotate", "nhc", &self.name, annotation]);
    }

    /// Why each node waits, by its name.
    pub(crate) fn waiting(&self) -> BTreeMap<String, String> {
        let status = self.get()["status"].clone();
        let nodes = status["waitingNodes"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        nodes.iter().map(|node| (text(&node["name"]), text(&node["reason"]))).collect()
    }

    /// Waits until the nodes that wait are these, each for its reason.
    pub(crate) fn wait_waiting(&self, controller: &Remediation, expected: &[(&str, &str)]) {
        let expected: BTreeMap<_, _> = expected
            .iter()
            .map(|(node, reason)| ((*node).to_owned(), (*reason).to_owned()))
            .collect();
        controller.wait(&format!("{}: {expected:?} wait", self.name), TIMEOUT, || {
            (self.waiting() == expected).then_some(())
        });
    }

    /// Waits for an event about it.
    pub(crate) fn wait_event(&self, controller: &Remediation, message: &str) {
        let field = format!("involvedObject.name={}", self.name);
        let json = ["get", "events", "--field-selector", &field, "--output=json"];
        controller.wait(&format!("event {message:?}"), TIMEOUT, || {
            let events: Value = serde_json::from_str(&self.cluster.kubectl_ok(&json)).unwrap();
            let events = events["items"].as_array().cloned().unwrap_or_default();
            events
                .iter()
                .any(|event| event["message"].as_str() == Some(&format!("[remediation] {message}")))
                .then_some(())
        });
    }

    pub(crate) fn get(&self) -> Value {
        node_health_check(&self.cluster, &self.name)
    }

    pub(crate) fn phase(&self) -> String {
        self.get()["status"]["phase"].as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        drop(self.cluster.kubectl(&["delete", "nhc", &self.name, "--ignore-not-found"]));
    }
}

/// Without election: the test is about something else.
pub(crate) fn alone(command: &mut Command) {
    command.env("LEADER_ELECTION", "false").env("REMEDIATION_COOL_OFF", "0s");
}

pub(crate) fn wait_names(
    controller: &Remediation,
    remediator: &Remediator,
    expected: &[&str],
) -> Duration {
    let began = Instant::now();
    controller.wait(&format!("objects {expected:?}"), TIMEOUT, || {
        (remediator.names() == expected).then_some(())
    });
    began.elapsed()
}

#[test]
fn from_a_condition_to_a_remediation_and_back() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let _guard = one_at_a_time();
    define_node_health_check(&cluster);
    let space = "rem-loop";
    let remediator = Remediator::new(&cluster, space, "LoopReboot");
    let kubeconfig = cluster.kubeconfig("admin");
    let controller = Remediation::start(&kubeconfig, space, alone);
    let nodes = ["rem-loop-0", "rem-loop-1"].map(|name| labelled(&cluster, name, space));
    let check =
        Check::new(&cluster, space, &json!({ "remediationTemplate": remediator.reference("a") }));
    controller.wait("two healthy nodes", TIMEOUT, || {
        (check.get()["status"]["healthyNodes"] == 2).then_some(())
    });
    assert_eq!(check.phase(), "Enabled");

    nodes[0].set_ready("False", "KubeletNotReady");
    let took = wait_names(&controller, &remediator, &["rem-loop-0"]);
    say(&format!("from the condition to the object: {took:?}"));
    let object = serde_json::to_value(remediator.objects().remove(0)).unwrap();
    assert_eq!(object["spec"], json!({ "how": "a" }));
    assert_eq!(object["metadata"]["annotations"]["remediation.medik8s.io/node-name"], "rem-loop-0");
    assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], check.get()["metadata"]["uid"]);
    controller.wait("remediating", TIMEOUT, || (check.phase() == "Remediating").then_some(()));
    let lease = remediator.lease(space, "rem-loop-0").unwrap().spec.unwrap();
    assert_eq!(lease.holder_identity.as_deref(), Some("NodeHealthCheck-rem-loop"));
    assert_eq!(lease.lease_duration_seconds, Some(660));

    let table = cluster.kubectl_ok(&["get", "nhc", space]);
    assert!(
        table.contains("PHASE") && table.contains("WAITING") && table.contains("Remediating"),
        "{table}"
    );
    let explained = controller_prints(&kubeconfig, space, &["explain", "rem-loop-0"]);
    assert!(explained.contains("LoopReboot rem-loop-0 remediates it since"), "{explained}");
    let metrics = controller.get("/metrics").body;
    let ongoing = "nodehealthcheck_ongoing_remediation{name=\"rem-loop-0\",namespace=\"rem-loop\",remediation=\"LoopReboot\"} 1";
    assert!(metrics.contains(ongoing), "{metrics}");

    nodes[0].set_ready("True", "KubeletReady");
    wait_names(&controller, &remediator, &[]);
    controller.wait("enabled", TIMEOUT, || (check.phase() == "Enabled").then_some(()));
    controller.wait("no lease", TIMEOUT, || {
        remediator.lease(space, "rem-loop-0").is_none().then_some(())
    });
    assert_eq!(check.get()["status"]["unhealthyNodes"], Value::Null);
    let metrics = controller.get("/metrics").body;
    assert!(metrics.contains(&ongoing.replace("} 1", "} 0")), "{metrics}");
    assert!(
        metrics
            .contains("nodehealthcheck_unhealthy_node_duration_seconds_count{name=\"rem-loop-0\""),
        "{metrics}"
    );

    let field = format!("involvedObject.name={space}");
    controller.wait("events", TIMEOUT, || {
        let events = cluster.kubectl_ok(&["get", "events", "--field-selector", &field, "--output=json"]);
        let all = [
            "[remediation] Node matches unhealthy condition. Node \\\"rem-loop-0\\\", condition type \\\"Ready\\\", condition status \\\"False\\\"",
            "[remediation] Created remediation object for node rem-loop-0",
            "[remediation] Deleted remediation CR of kind LoopReboot with name rem-loop-0",
        ];
        all.iter().all(|message| events.contains(message)).then_some(())
    });
}

#[test]
fn escalation_follows_what_the_remediators_say() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let _guard = one_at_a_time();
    define_node_health_check(&cluster);
    let space = "rem-steps";
    let (first, second) = (
        Remediator::new(&cluster, space, "StepReboot"),
        Remediator::new(&cluster, space, "StepFence"),
    );
    let controller = Remediation::start(&cluster.kubeconfig("admin"), space, alone);
    let node = labelled(&cluster, "rem-steps-0", space);
    let step = |remediator: &Remediator, order: i32, timeout: &str| json!({ "remediationTemplate": remediator.reference("a"), "order": order, "timeout": timeout });
    let steps = json!([step(&second, 2, "10m"), step(&first, 1, "4s")]);
    let check = Check::new(&cluster, space, &json!({ "escalatingRemediations": steps }));
    node.set_ready("False", "KubeletNotReady");
    wait_names(&controller, &first, &["rem-steps-0"]);
    first.change("rem-steps-0", &json!({ "metadata": { "finalizers": ["tocsin.test/cleanup"] } }));
    // The exact timeout: the next step begins then, and the first one is told to stop.
    wait_names(&controller, &second, &["rem-steps-0"]);
    let stopped = first.objects().remove(0).metadata.annotations.unwrap_or_default();
    assert!(stopped.contains_key("remediation.medik8s.io/nhc-timed-out"), "{stopped:?}");
    second.change(
        "rem-steps-0",
        &json!({ "status": { "conditions": [{ "type": "Succeeded", "status": "False" }] } }),
    );
    controller.wait("no template left", TIMEOUT, || {
        let waiting = check.get()["status"]["waiting"].as_str().map(str::to_owned);
        (waiting.as_deref() == Some("rem-steps-0 NoTemplateLeft")).then_some(())
    });
    node.set_ready("True", "KubeletReady");
    wait_names(&controller, &second, &[]);
    controller.wait("deletion", TIMEOUT, || first.objects().remove(0).metadata.deletion_timestamp);
    assert_eq!(check.get()["status"]["healthyNodes"], 0, "until the remediator is done");
    first.change("rem-steps-0", &json!({ "metadata": { "finalizers": null } }));
    controller
        .wait("healthy", TIMEOUT, || (check.get()["status"]["healthyNodes"] == 1).then_some(()));
}

#[test]
fn templates_come_and_go() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let _guard = one_at_a_time();
    define_node_health_check(&cluster);
    let space = "rem-templates";
    let remediator = Remediator::new(&cluster, space, "LateReboot");
    let controller = Remediation::start(&cluster.kubeconfig("admin"), space, alone);
    let node = labelled(&cluster, "rem-templates-0", space);
    let check = Check::new(
        &cluster,
        space,
        &json!({ "remediationTemplate": remediator.reference("late") }),
    );
    node.set_ready("False", "KubeletNotReady");
    controller.wait("disabled", TIMEOUT, || {
        (check.get()["status"]["waiting"] == "rem-templates-0 Disabled").then_some(())
    });
    assert_eq!(check.phase(), "Disabled");
    let status = check.get()["status"].clone();
    assert_eq!(
        status["reason"],
        "NHC is disabled: RemediationTemplateNotFound: Remediation template not found: \"failed to get external remediation template rem-templates/late: latereboottemplates.remediators.tocsin.test \"late\" not found\""
    );
    remediator.template("late", &[]);
    wait_names(&controller, &remediator, &["rem-templates-0"]);
}

fn writes(entries: Vec<AuditEntry>) -> Vec<AuditEntry> {
    let leader =
        |entry: &AuditEntry| entry.resource == "leases" && entry.name == "e1f13584.medik8s.io";
    entries.into_iter().filter(|entry| entry.is_write() && !leader(entry)).collect()
}

#[test]
fn a_leader_that_wakes_up_late_writes_nothing() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let _guard = one_at_a_time();
    define_node_health_check(&cluster);
    let space = "rem-leader";
    let remediator = Remediator::new(&cluster, space, "LeaderReboot");
    let users = ["first", "second"].map(|name| cluster.admin_account(space, name).user);
    let start = |user: &str, name: &'static str| {
        Remediation::start(&cluster.kubeconfig(user), space, |command| {
            command.env("POD_NAME", name);
        })
    };
    let first = start(&users[0], "first");
    let leads = |controller: &Remediation| {
        controller.get("/metrics").body.contains("tocsin_remediation_leader 1\n")
    };
    first.wait("the first leads", TIMEOUT, || leads(&first).then_some(()));
    let second = start(&users[1], "second");
    let node = labelled(&cluster, "rem-leader-0", space);
    let check =
        Check::new(&cluster, space, &json!({ "remediationTemplate": remediator.reference("a") }));
    first.wait("a status", TIMEOUT, || (check.phase() == "Enabled").then_some(()));

    first.process().stop();
    let stopped = Instant::now();
    node.set_ready("False", "KubeletNotReady");
    second.wait("the second acts", Duration::from_mins(1), || {
        (remediator.names() == ["rem-leader-0"]).then_some(())
    });
    let took = stopped.elapsed();
    say(&format!("from the loss of the leader to the object: {took:?}"));
    assert!(
        took < Duration::from_secs(40),
        "{took:?}: 15 s of the lease, and as much for a slow machine"
    );
    second.wait("remediating", TIMEOUT, || (check.phase() == "Remediating").then_some(()));
    // What the first one would do: the node recovered, and its watch tells of it when it wakes up.
    let before = writes(cluster.requests_of(&users[0])).len();
    assert!(first.process().is_stopped(), "something outside this test has continued the first");
    second.process().stop();
    node.set_ready("True", "KubeletReady");
    first.process().signal(Signal::CONT);
    thread::sleep(Duration::from_secs(3));
    let after = writes(cluster.requests_of(&users[0]));
    if after.len() != before {
        // Who held the lease when, and who made the object.
        let all = users.iter().flat_map(|user| cluster.requests_of(user));
        let mut all: Vec<_> = all.filter(AuditEntry::is_write).collect();
        all.sort_unstable_by(|a, b| a.received.cmp(&b.received));
        panic!(
            "stopped {took:?} before, the first wrote {:#?}\nall writes: {all:#?}",
            &after[before..]
        );
    }
    second.process().signal(Signal::CONT);
    second.wait("the end of the remediation", Duration::from_mins(1), || {
        remediator.names().is_empty().then_some(())
    });
}

#[test]
fn the_next_leader_goes_on_at_once_when_the_last_one_ends_in_order() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let _guard = one_at_a_time();
    define_node_health_check(&cluster);
    let space = "rem-handover";
    let remediator = Remediator::new(&cluster, space, "HandoverReboot");
    let kubeconfig = cluster.kubeconfig("admin");
    let first = Remediation::start(&kubeconfig, space, |_| {});
    let leads = |controller: &Remediation| {
        controller.get("/metrics").body.contains("tocsin_remediation_leader 1\n")
    };
    first.wait("the first leads", TIMEOUT, || leads(&first).then_some(()));
    let second = Remediation::start(&kubeconfig, space, |_| {});
    let node = labelled(&cluster, "rem-handover-0", space);
    let _check =
        Check::new(&cluster, space, &json!({ "remediationTemplate": remediator.reference("a") }));
    first.process().signal(Signal::TERM);
    let mut first = first;
    let ended = first.wait_exit();
    assert!(ended.success(), "{ended}: {}", first.process().log().join("\n"));
    node.set_ready("False", "KubeletNotReady");
    wait_names(&second, &remediator, &["rem-handover-0"]);
}

#[test]
fn nothing_is_asked_when_nothing_happens() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let _guard = one_at_a_time();
    define_node_health_check(&cluster);
    let space = "rem-idle";
    let remediator = Remediator::new(&cluster, space, "IdleReboot");
    let user = cluster.admin_account(space, "idle").user;
    let controller = Remediation::start(&cluster.kubeconfig(&user), space, |_| {});
    let nodes = cluster.nodes(50, "rem-idle");
    let failing = labelled(&cluster, "rem-idle-failing", space);
    let check =
        Check::new(&cluster, space, &json!({ "remediationTemplate": remediator.reference("a") }));
    failing.set_ready("False", "KubeletNotReady");
    wait_names(&controller, &remediator, &["rem-idle-failing"]);
    controller.wait("remediating", TIMEOUT, || (check.phase() == "Remediating").then_some(()));
    thread::sleep(Duration::from_secs(1));
    let before = cluster.requests_of(&user).len();
    thread::sleep(Duration::from_secs(10));
    let later: Vec<_> = cluster.requests_of(&user).split_off(before);
    assert!(later.len() < 10, "less than one a second: {later:#?}");
    assert!(later.iter().all(|entry| entry.verb != "list"), "{later:#?}");
    // A change of many nodes' status is no request either.
    let before = cluster.requests_of(&user).len();
    failing.set_condition("MemoryPressure", "True", "Test", "");
    failing.set_condition("MemoryPressure", "False", "Test", "");
    thread::sleep(Duration::from_secs(2));
    let later: Vec<_> = cluster.requests_of(&user).split_off(before);
    assert!(later.iter().all(|entry| entry.verb != "list") && later.len() < 4, "{later:#?}");
    drop(nodes);
}

/// The configuration of a webhook at this address.
pub(crate) fn webhook_configuration(name: &str, url: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": name },
        "webhooks": [{
            "name": "vnodehealthcheck.kb.io",
            "admissionReviewVersions": ["v1"],
            "clientConfig": { "url": url },
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "rules": [{
                "apiGroups": ["remediation.medik8s.io"],
                "apiVersions": ["v1alpha1"],
                "operations": ["CREATE", "UPDATE", "DELETE"],
                "resources": ["nodehealthchecks"],
            }],
        }],
    })
}

/// What kubectl says of a refusal.
pub(crate) fn refusal(cluster: &ControlPlane, arguments: &[&str]) -> String {
    let output = cluster.kubectl(arguments);
    assert!(!output.status.success(), "{arguments:?} was taken");
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, and what needs the same cluster")]
fn the_webhook_speaks_the_words_of_the_reference() {
    let Some(cluster) = ControlPlane::private() else { return };
    define_node_health_check(&cluster);
    let space = "rem-webhook";
    let remediator = Remediator::new(&cluster, space, "HookReboot");
    let port = free_port();
    cluster.create(&webhook_configuration(
        space,
        &format!(
            "https://127.0.0.1:{port}/validate-remediation-medik8s-io-v1alpha1-nodehealthcheck"
        ),
    ));
    let controller = Remediation::start(&cluster.kubeconfig("admin"), space, |command| {
        alone(command);
        command.env("WEBHOOK_CONFIGURATION", space).env("WEBHOOK_PORT", port.to_string());
    });
    assert_eq!(controller.webhook().port(), port);
    controller.process().wait_for_log(&["the webhook answers"]);
    let node = labelled(&cluster, "rem-webhook-0", space);
    let fields = json!({
        "minHealthy": 0,
        "unhealthyConditions": [{ "type": "Ready", "status": "False", "duration": "0s" }],
        "remediationTemplate": remediator.reference("a"),
    });
    let good = new_node_health_check(space, LABEL, &fields);
    let mut deletion = remediator.reference("a");
    deletion["kind"] = json!("MachineDeletionRemediationTemplate");
    let step = |order: i32, timeout: &str| json!({ "remediationTemplate": remediator.reference("a"), "order": order, "timeout": timeout });
    let rows = [
        (
            json!({ "maxUnhealthy": 1 }),
            "minHealthy and maxUnhealthy cannot be specified at the same time",
        ),
        (json!({ "minHealthy": null }), "one of minHealthy and maxUnhealthy should be specified"),
        (json!({ "minHealthy": -1 }), "minHealthy must not be negative: -1"),
        (
            json!({ "minHealthy": null, "maxUnhealthy": -1 }),
            "maxUnhealthy must not be negative: -1",
        ),
        (
            json!({ "minHealthy": null, "maxUnhealthy": 1, "remediationTemplate": deletion }),
            "maxUnhealthy can't be used with MachineDeletionRemediationTemplate",
        ),
        (
            json!({
                "minHealthy": null, "maxUnhealthy": 1, "remediationTemplate": null,
                "escalatingRemediations": [
                    step(1, "1m"),
                    { "remediationTemplate": deletion, "order": 2, "timeout": "1m" },
                ],
            }),
            "maxUnhealthy can't be used with MachineDeletionRemediationTemplate escalating remediation",
        ),
        (json!({ "selector": null }), "Selector is mandatory"),
        (
            json!({ "selector": { "matchLabels": { "a": "b c" } } }),
            "Invalid selector: values[0][a]: Invalid value: \"b c\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ),
        (
            json!({ "remediationTemplate": null }),
            "Either RemediationTemplate or at least one EscalatingRemediations must be set",
        ),
        (
            json!({ "escalatingRemediations": [step(1, "1m")] }),
            "RemediationTemplate and EscalatingRemediations usage is mutual exclusive",
        ),
        (
            json!({ "remediationTemplate": null, "escalatingRemediations": [
                step(42, "1m"),
                { "remediationTemplate": deletion, "order": 42, "timeout": "1m" },
            ] }),
            "EscalatingRemediation Order must be unique: found duplicate order 42",
        ),
        (
            json!({ "selector": { "matchExpressions": [{ "key": "a", "operator": "In" }] } }),
            "Invalid selector: values: Invalid value: null: for 'in', 'notin' operators, values set can't be empty",
        ),
        (
            json!({ "remediationTemplate": null, "escalatingRemediations": [step(1, "42s")] }),
            "EscalatingRemediation Timeout must be at least one minute: found timeout {42s}",
        ),
        (
            json!({ "remediationTemplate": null, "escalatingRemediations": [step(1, "1m"), step(2, "1m")] }),
            "Using multiple templates of same kind is not supported for this template: duplicate template kind: HookRebootTemplate",
        ),
        (
            json!({ "minHealthy": null, "selector": {} }),
            "[one of minHealthy and maxUnhealthy should be specified, Selector is mandatory]",
        ),
    ];
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display().to_string();
    for (fields, message) in rows {
        let mut object = good.clone();
        for (key, value) in fields.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        std::fs::write(file.path(), object.to_string()).unwrap();
        let said = refusal(&cluster, &["apply", "--filename", &path]);
        let expected =
            format!("admission webhook \"vnodehealthcheck.kb.io\" denied the request: {message}");
        assert!(said.ends_with(&expected), "{said}\nnot: {expected}");
    }
    // Several templates of a kind, where all of them allow it; escalations stay too while nodes are remediated.
    let mut object = good.clone();
    object["spec"]["remediationTemplate"] = Value::Null;
    object["spec"]["escalatingRemediations"] = json!([step(1, "1m"), step(2, "1m")]);
    remediator.template("a", &["remediation.medik8s.io/multiple-templates-support"]);
    cluster.create(&object);
    node.set_ready("False", "KubeletNotReady");
    let wait_phase = |phase: &str| {
        controller.wait(phase, TIMEOUT, || {
            (node_health_check(&cluster, space)["status"]["phase"] == *phase).then_some(())
        });
    };
    wait_phase("Remediating");
    let refused_patch = |patch: Value| {
        refusal(&cluster, &["patch", "nhc", space, "--type=merge", "--patch", &patch.to_string()])
    };
    let denied = "denied the request: ";
    let said = refused_patch(json!({ "spec": { "escalatingRemediations": [step(1, "2m")] } }));
    assert!(
        said.ends_with(&format!(
            "{denied}escalating remediations update prohibited due to running remediation"
        )),
        "{said}"
    );
    node.set_ready("True", "KubeletReady");
    wait_phase("Enabled");
    cluster.kubectl_ok(&["delete", "nhc", space]);

    cluster.create(&good);
    node.set_ready("False", "KubeletNotReady");
    wait_phase("Remediating");
    let said =
        refused_patch(json!({ "spec": { "selector": { "matchLabels": { LABEL: "other" } } } }));
    assert!(
        said.ends_with(&format!("{denied}selector update prohibited due to running remediation")),
        "{said}"
    );
    let said = refused_patch(json!({ "spec": { "remediationTemplate": { "name": "b" } } }));
    assert!(
        said.ends_with(&format!(
            "{denied}remediation template update prohibited due to running remediation"
        )),
        "{said}"
    );
    let said = refusal(&cluster, &["delete", "nhc", space]);
    assert!(
        said.ends_with(&format!("{denied}deletion prohibited due to running remediation")),
        "{said}"
    );
    cluster.kubectl_ok(&[
        "patch",
        "nhc",
        space,
        "--type=merge",
        "--patch",
        r#"{"spec":{"minHealthy":"1%"}}"#,
    ]);
    node.set_ready("True", "KubeletReady");
    controller.wait("enabled", TIMEOUT, || {
        (node_health_check(&cluster, space)["status"]["phase"] == "Enabled").then_some(())
    });
    cluster.kubectl_ok(&["delete", "nhc", space]);
}

#[test]
fn the_roles_of_the_manifests_suffice() {
    let Some(cluster) = ControlPlane::private() else { return };
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/remediation");
    let directory = directory.display().to_string();
    // Twice: the definition comes with the objects that need it.
    cluster.kubectl_ok(&["apply", "--server-side", "-k", &directory]);
    cluster.kubectl_ok(&[
        "wait",
        "--for=condition=Established",
        "crd/nodehealthchecks.remediation.medik8s.io",
    ]);
    let space = "tocsin-remediation";
    let remediator = Remediator::new(&cluster, space, "RoleReboot");
    // The API server does not reach Services here: the webhook of this test has an address.
    let port = free_port();
    let mut configuration = webhook_configuration(
        space,
        &format!(
            "https://127.0.0.1:{port}/validate-remediation-medik8s-io-v1alpha1-nodehealthcheck"
        ),
    );
    configuration["webhooks"][0]["name"] = json!("vnodehealthcheck.kb.io");
    cluster.kubectl_ok(&["delete", "validatingwebhookconfiguration", space]);
    cluster.create(&configuration);
    let account = cluster.service_account(space, space);
    // What a remediator brings along; no controller aggregates it here.
    let group = "remediators.tocsin.test";
    cluster.grant(
        &account,
        &[
            rule(group, "rolereboottemplates", &["get", "list", "watch"]),
            rule(
                group,
                "rolereboots",
                &["get", "list", "watch", "create", "update", "patch", "delete"],
            ),
        ],
    );
    let controller = Remediation::start(&cluster.kubeconfig(&account.user), space, |command| {
        command
            .env("LEASE_NAMESPACE", "medik8s-leases")
            .env("WEBHOOK_CONFIGURATION", space)
            .env("WEBHOOK_PORT", port.to_string());
    });
    controller.process().wait_for_log(&["the webhook answers"]);
    let node = labelled(&cluster, "rem-roles-0", space);
    let check =
        Check::new(&cluster, space, &json!({ "remediationTemplate": remediator.reference("a") }));
    node.set_ready("False", "KubeletNotReady");
    controller.wait("an object", TIMEOUT, || (remediator.names() == ["rem-roles-0"]).then_some(()));
    controller.wait("remediating", TIMEOUT, || (check.phase() == "Remediating").then_some(()));
    node.patch(&json!({ "metadata": { "annotations": { "remediation.medik8s.io/manually-confirmed-healthy": "" } } }));
    node.set_ready("True", "KubeletReady");
    controller.wait("the end", TIMEOUT, || {
        let annotated = node.get().metadata.annotations.unwrap_or_default();
        (remediator.names().is_empty()
            && !annotated.contains_key("remediation.medik8s.io/manually-confirmed-healthy"))
        .then_some(())
    });
    controller.wait("enabled", TIMEOUT, || (check.phase() == "Enabled").then_some(()));
    let events = cluster.kubectl_ok(&["get", "events", "--output=json"]);
    assert!(events.contains("RemediationCreated"), "{events}");
    let refused: Vec<_> = cluster
        .requests_of(&account.user)
        .into_iter()
        .filter(|entry| entry.code == Some(403))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn the_definition_in_the_manifests_is_the_one_that_is_printed() {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/remediation/crd.yaml");
    let printed = controller_prints(std::path::Path::new("/nonexistent"), "x", &["crds"]);
    assert_eq!(
        std::fs::read_to_string(path).unwrap(),
        printed,
        "run `tocsin-controller crds > deploy/remediation/crd.yaml`"
    );
}
