//! The rules of `tocsin-controller remediation`, one scenario for each group of them, against a real API server.

use std::time::Duration;

use e2e::process::TIMEOUT;
use e2e::remediation::{controller_prints, define_node_health_check};
use e2e::{ControlPlane, Remediation, Remediator};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::remediation::{Check, LABEL, alone, labelled, one_at_a_time, wait_names};

const MICROSECONDS: &str = "%Y-%m-%dT%H:%M:%S.%6fZ";

/// A lease of a node, as another operator would take it.
fn lease(space: &str, node: &str, holder: &str, renewed: Timestamp, seconds: i32) -> Value {
    let renewed = renewed.strftime(MICROSECONDS).to_string();
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": format!("node-{node}"), "namespace": format!("{space}-leases") },
        "spec": {
            "holderIdentity": holder, "leaseDurationSeconds": seconds,
            "acquireTime": renewed, "renewTime": renewed, "leaseTransitions": 0,
        },
    })
}

fn condition(status: &Value, kind: &str) -> String {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind);
    found.map_or_else(String::new, |found| found["status"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn thresholds_storms_pauses_dry_runs_and_silence() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let _guard = one_at_a_time();
    define_node_health_check(&cluster);
    let space = "rem-gates";
    let remediator = Remediator::new(&cluster, space, "GateReboot");
    let template = remediator.reference("a");
    let controller = Remediation::start(&cluster.kubeconfig("admin"), space, |command| {
        alone(command);
        command.env("SILENCE_AFTER", "4s");
    });

    // Below the threshold nothing begins; then a storm's cooldown, then the remediation.
    let nodes =
        ["rem-gates-0", "rem-gates-1", "rem-gates-2"].map(|name| labelled(&cluster, name, space));
    let check = Check::new(
        &cluster,
        space,
        &json!({ "remediationTemplate": template, "minHealthy": "51%", "stormCooldownDuration": "2s" }),
    );
    nodes[0].set_ready("False", "KubeletNotReady");
    wait_names(&controller, &remediator, &["rem-gates-0"]);
    nodes[1].set_ready("False", "KubeletNotReady");
    check.wait_waiting(
        &controller,
        &[("rem-gates-0", "BelowMinHealthy"), ("rem-gates-1", "BelowMinHealthy")],
    );
    check.wait_event(&controller, "Skipped remediation because the number of healthy nodes selected by the selector is 1 and should equal or exceed 2");
    check.wait_event(
        &controller,
        "Storm recovery mode activated - delaying remediation until threshold is reached",
    );
    assert_eq!(condition(&check.get()["status"], "StormActive"), "True");
    assert_eq!(remediator.names(), ["rem-gates-0"], "what is under way stays");
    nodes[0].set_ready("True", "KubeletReady");
    wait_names(&controller, &remediator, &["rem-gates-1"]);
    check.wait_event(&controller, "Storm recovery mode will exit after cooldown delay");
    check.wait_event(&controller, "Storm recovery mode deactivated - normal remediation resumed");

    // A pause stops everything, also the end of a remediation.
    check.change(&json!({ "pauseRequests": ["maintenance", "of racks"] }));
    controller.wait("paused", TIMEOUT, || (check.phase() == "Paused").then_some(()));
    assert_eq!(check.get()["status"]["reason"], "NHC is paused: maintenance,of racks");
    nodes[1].set_ready("True", "KubeletReady");
    nodes[2].set_ready("False", "KubeletNotReady");
    check.wait_waiting(&controller, &[("rem-gates-2", "Paused")]);
    assert_eq!(remediator.names(), ["rem-gates-1"]);
    assert_eq!(check.get()["status"]["observedNodes"], 0);
    check.change(&json!({ "pauseRequests": null }));
    wait_names(&controller, &remediator, &["rem-gates-2"]);
    drop((check, nodes));

    // A dry run says what it would do, in the status, in an event and in a terminal.
    let node = labelled(&cluster, "rem-dry", "rem-dry");
    let check = Check::new(
        &cluster,
        "rem-dry",
        &json!({ "remediationTemplate": template, "pauseRequests": ["until it is annotated"] }),
    );
    check.annotate("tocsin.dev/dry-run=true");
    check.change(&json!({ "pauseRequests": null }));
    node.set_ready("False", "KubeletNotReady");
    check.wait_waiting(&controller, &[("rem-dry", "DryRun")]);
    check.wait_event(&controller, "Node rem-dry: would create GateReboot rem-dry");
    let explained = controller_prints(&cluster.kubeconfig("admin"), space, &["explain", "rem-dry"]);
    assert!(explained.contains("waits: DryRun: would create GateReboot rem-dry"), "{explained}");
    assert!(!remediator.names().contains(&"rem-dry".to_owned()));
    assert!(remediator.lease(space, "rem-dry").is_none());
    check.annotate("tocsin.dev/dry-run-");
    controller.wait("the object", TIMEOUT, || {
        remediator.names().contains(&"rem-dry".to_owned()).then_some(())
    });

    // What the agent published and renews no more is Unknown; what others published is not ours to judge.
    node.set_condition("DiskIOError", "False", "DiskHasNoIOErrors", "");
    node.set_condition("ReadonlyFilesystem", "False", "FilesystemIsFine", "");
    controller.wait("Unknown", TIMEOUT, || {
        (node.condition("DiskIOError").as_deref() == Some("Unknown")).then_some(())
    });
    let conditions = node.get().status.unwrap().conditions.unwrap();
    let told = conditions.iter().find(|condition| condition.type_ == "DiskIOError").unwrap();
    assert_eq!(told.reason.as_deref(), Some("AgentIsSilent"));
    assert_eq!(node.condition("ReadonlyFilesystem").as_deref(), Some("False"));
    node.set_condition("DiskIOError", "False", "DiskHasNoIOErrors", "");
    assert_eq!(node.condition("DiskIOError").as_deref(), Some("False"));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story in one cluster")]
fn others_who_decide_about_a_node_are_respected() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let _guard = one_at_a_time();
    define_node_health_check(&cluster);
    let space = "rem-others";
    let remediator = Remediator::new(&cluster, space, "OtherReboot");
    let template = remediator.reference("a");
    cluster.namespace(&format!("{space}-leases"));
    let node = |name: &str| labelled(&cluster, &format!("rem-others-{name}"), space);
    let names = [
        "autoscaler",
        "drain",
        "exclude",
        "karpenter",
        "leased",
        "maintenance",
        "odd-label",
        "shutdown",
        "veto",
    ];
    let nodes = names.map(node);
    let [autoscaler, drain, exclude, karpenter, leased, maintenance, odd, shutdown, veto] = &nodes;
    let exclude_label = "remediation.medik8s.io/exclude-from-remediation";
    autoscaler.taint("ToBeDeletedByClusterAutoscaler", "NoSchedule");
    drain.set_condition("DrainInProgress", "True", "Drain", "");
    exclude.patch(&json!({ "metadata": { "labels": { exclude_label: "true" } } }));
    karpenter.taint("karpenter.sh/disrupted", "NoSchedule");
    maintenance.set_condition("MaintenanceInProgress", "True", "Firmware", "");
    odd.patch(&json!({ "metadata": { "labels": { exclude_label: "" } } }));
    veto.patch(&json!({ "metadata": { "annotations": { "veto.remediation.tocsin.dev/storage": "a disk is rebuilt" } } }));
    cluster.create(&lease(space, leased.name(), "node-maintenance", Timestamp::now(), 3600));

    let controller = Remediation::start(&cluster.kubeconfig("admin"), space, alone);
    let check = Check::new(&cluster, space, &json!({ "remediationTemplate": template }));
    for node in &nodes {
        node.set_ready("False", "KubeletNotReady");
    }
    shutdown.set_condition("Ready", "False", "KubeletNotReady", "node is shutting down");
    wait_names(&controller, &remediator, &["rem-others-odd-label"]);
    check.wait_waiting(
        &controller,
        &[
            ("rem-others-autoscaler", "BeingScaledDown"),
            ("rem-others-drain", "Maintenance"),
            ("rem-others-exclude", "Excluded"),
            ("rem-others-karpenter", "BeingDisrupted"),
            ("rem-others-leased", "LeaseHeld"),
            ("rem-others-maintenance", "Maintenance"),
            ("rem-others-shutdown", "Maintenance"),
            ("rem-others-veto", "Vetoed"),
        ],
    );
    let status = check.get()["status"].clone();
    let of_lease = status["waitingNodes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|node| node["reason"] == "LeaseHeld")
        .unwrap()
        .clone();
    assert!(of_lease["nextDeadline"].is_string(), "when the lease ends: {of_lease}");
    for message in [
        "Remediation skipped on node rem-others-exclude: node has Exclude from Remediation label",
        "Node rem-others-odd-label has exclude-from-remediation label with empty value, label will be ignored. Set value to 'true' to exclude node from remediation",
        "Skipped remediation of node: rem-others-leased, because node lease is already taken",
        "Remediation skipped on node rem-others-veto: storage vetoes it: a disk is rebuilt",
    ] {
        check.wait_event(&controller, message);
    }
    let explained =
        controller_prints(&cluster.kubeconfig("admin"), space, &["explain", "rem-others-leased"]);
    assert!(explained.contains("node-maintenance holds the lease of the node"), "{explained}");

    // Another check of the same node sees that somebody has it.
    let other = Check::new(
        &cluster,
        "rem-others-2",
        &json!({
            "selector": { "matchLabels": { "kubernetes.io/hostname": "rem-others-odd-label" } },
            "remediationTemplate": template,
        }),
    );
    odd.patch(
        &json!({ "metadata": { "labels": { "kubernetes.io/hostname": "rem-others-odd-label" } } }),
    );
    other.wait_waiting(&controller, &[("rem-others-odd-label", "RemediatedByAnother")]);

    // Each of them goes on at once when the other is done; a lease that ended is taken over.
    autoscaler.untaint("ToBeDeletedByClusterAutoscaler");
    drain.set_condition("DrainInProgress", "False", "Drained", "");
    exclude.patch(&json!({ "metadata": { "labels": { exclude_label: null } } }));
    karpenter.untaint("karpenter.sh/disrupted");
    maintenance.remove_condition("MaintenanceInProgress");
    shutdown.set_condition(
        "Ready",
        "Unknown",
        "NodeStatusUnknown",
        "Kubelet stopped posting node status.",
    );
    check.change(&json!({ "unhealthyConditions": [
        { "type": "Ready", "status": "False", "duration": "0s" },
        { "type": "Ready", "status": "Unknown", "duration": "0s" },
    ] }));
    veto.patch(&json!({ "metadata": { "annotations": { "veto.remediation.tocsin.dev/storage": "false" } } }));
    let ended = Timestamp::now() - SignedDuration::from_hours(1);
    let over =
        json!({ "spec": { "renewTime": ended.strftime(MICROSECONDS).to_string() } }).to_string();
    let (of, within) = (format!("node-{}", leased.name()), format!("--namespace={space}-leases"));
    cluster.kubectl_ok(&["patch", "lease", &of, &within, "--type=merge", "--patch", &over]);
    let mut all: Vec<_> = nodes.iter().map(|node| node.name().to_owned()).collect();
    all.sort();
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    wait_names(&controller, &remediator, &all);
    let taken = remediator.lease(space, leased.name()).unwrap().spec.unwrap();
    assert_eq!(taken.holder_identity.as_deref(), Some("NodeHealthCheck-rem-others"));
    assert_eq!(taken.lease_transitions, Some(1));

    // A lease that somebody takes away meanwhile is neither renewed nor released.
    cluster.delete(&lease(space, leased.name(), "", Timestamp::now(), 60));
    cluster.create(&lease(space, leased.name(), "node-maintenance", Timestamp::now(), 3600));
    leased.set_ready("True", "KubeletReady");
    controller.wait("the end of it", TIMEOUT, || {
        (!remediator.names().contains(&leased.name().to_owned())).then_some(())
    });
    let kept = remediator.lease(space, leased.name()).unwrap().spec.unwrap();
    assert_eq!(kept.holder_identity.as_deref(), Some("node-maintenance"));
}

#[test]
fn recovery_its_delay_and_nodes_that_are_gone() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let _guard = one_at_a_time();
    define_node_health_check(&cluster);
    let space = "rem-recovery";
    let remediator = Remediator::new(&cluster, space, "RecoveryReboot");
    let controller = Remediation::start(&cluster.kubeconfig("admin"), space, alone);
    let names = ["rem-recovery-0", "rem-recovery-1", "rem-recovery-2", "rem-recovery-3"];
    let nodes = names.map(|name| labelled(&cluster, name, space));
    let fields = json!({ "remediationTemplate": remediator.reference("a"), "healthyDelay": "2s" });
    let check = Check::new(&cluster, space, &fields);
    for node in &nodes {
        node.set_ready("False", "KubeletNotReady");
    }
    wait_names(&controller, &remediator, &names);
    let entry = |node: &str| {
        let nodes = check.get()["status"]["unhealthyNodes"].as_array().cloned().unwrap_or_default();
        nodes.into_iter().find(|entry| entry["name"] == node).unwrap_or_default()
    };
    let delayed_since = |name: &str| {
        let objects = remediator.objects();
        let object =
            objects.into_iter().find(|object| object.metadata.name.as_deref() == Some(name))?;
        object
            .metadata
            .annotations?
            .get("remediation.medik8s.io/healthy-delay")?
            .parse::<Timestamp>()
            .ok()
    };

    // A healthy node keeps its object for the delay; a flap begins it anew.
    nodes[0].set_ready("True", "KubeletReady");
    let first = controller.wait("the delay", TIMEOUT, || delayed_since(names[0]));
    controller.wait("told", TIMEOUT, || (entry(names[0])["healthyDelayed"] == true).then_some(()));
    nodes[0].set_ready("False", "KubeletNotReady");
    controller.wait("no delay", TIMEOUT, || delayed_since(names[0]).is_none().then_some(()));
    std::thread::sleep(Duration::from_secs(1));
    nodes[0].set_ready("True", "KubeletReady");
    let second = controller.wait("the second delay", TIMEOUT, || delayed_since(names[0]));
    assert!(second > first, "{second} {first}");
    controller.wait("its end", TIMEOUT, || {
        (!remediator.names().contains(&names[0].to_owned())).then_some(())
    });
    let ended = Timestamp::now();
    assert!(ended >= second + SignedDuration::from_secs(2), "{ended} {second}");

    // A node that is not selected any more is cleaned up at once, its lease too.
    nodes[1].patch(&json!({ "metadata": { "labels": { LABEL: null } } }));
    wait_names(&controller, &remediator, &names[2..]);
    controller
        .wait("no lease", TIMEOUT, || remediator.lease(space, names[1]).is_none().then_some(()));
    controller.wait("no entry", TIMEOUT, || entry(names[1]).is_null().then_some(()));

    // One whose remediator deletes it for good is left to it until it succeeded; another one is not.
    let expected = json!({ "status": { "conditions": [{ "type": "PermanentNodeDeletionExpected", "status": "True" }] } });
    remediator.change(names[2], &expected);
    nodes[2].delete();
    nodes[3].delete();
    wait_names(&controller, &remediator, &names[2..3]);
    controller.wait("no entry", TIMEOUT, || entry(names[3]).is_null().then_some(()));
    assert!(!entry(names[2]).is_null());
    let done = json!({ "status": { "conditions": [
        { "type": "PermanentNodeDeletionExpected", "status": "True" },
        { "type": "Succeeded", "status": "True" },
    ] } });
    remediator.change(names[2], &done);
    wait_names(&controller, &remediator, &[]);
    controller.wait("nothing is left", TIMEOUT, || {
        check.get()["status"]["unhealthyNodes"].is_null().then_some(())
    });

    // An object that somebody deleted is made again, as another attempt, and a node of the same name is another node.
    check.change(&json!({ "healthyDelay": null }));
    let node = labelled(&cluster, names[3], space);
    node.set_ready("False", "KubeletNotReady");
    wait_names(&controller, &remediator, &names[3..]);
    let uid = |remediator: &Remediator| {
        remediator.objects().first().and_then(|object| object.metadata.uid.clone())
    };
    let first = uid(&remediator);
    let kind = "recoveryreboots.remediators.tocsin.test";
    cluster.kubectl_ok(&["delete", kind, names[3], "--namespace", space]);
    let second = controller.wait("another object", TIMEOUT, || {
        uid(&remediator).filter(|uid| Some(uid) != first.as_ref())
    });
    controller.wait("its record", TIMEOUT, || {
        (entry(names[3])["remediations"][0]["resource"]["uid"] == *second).then_some(())
    });
    assert!(entry(names[3])["remediations"][1].is_null(), "no stale record is left");
}

#[test]
fn control_planes_budgets_and_attempts() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let _guard = one_at_a_time();
    define_node_health_check(&cluster);
    let space = "rem-limits";
    let (one, two) = (
        Remediator::new(&cluster, space, "LimitReboot"),
        Remediator::new(&cluster, space, "LimitFence"),
    );
    let controller = Remediation::start(&cluster.kubeconfig("admin"), space, |command| {
        alone(command);
        command
            .env("REMEDIATION_BUDGET", "2")
            .env("REMEDIATION_ZONE_BUDGET", "1")
            .env("REMEDIATION_ATTEMPTS", "2");
    });
    let zoned = |name: &str, check: &str, zone: &str| {
        let node = labelled(&cluster, name, check);
        node.patch(&json!({ "metadata": { "labels": { "topology.kubernetes.io/zone": zone } } }));
        node
    };
    // Two checks share the budget: one of each zone, two in all.
    let nodes = [
        zoned("rem-limits-0", "rem-limits-1", "a"),
        zoned("rem-limits-1", "rem-limits-1", "a"),
        zoned("rem-limits-2", "rem-limits-2", "b"),
        zoned("rem-limits-3", "rem-limits-2", "c"),
    ];
    let first =
        Check::new(&cluster, "rem-limits-1", &json!({ "remediationTemplate": one.reference("a") }));
    let second =
        Check::new(&cluster, "rem-limits-2", &json!({ "remediationTemplate": two.reference("a") }));
    nodes[0].set_ready("False", "KubeletNotReady");
    wait_names(&controller, &one, &["rem-limits-0"]);
    nodes[1].set_ready("False", "KubeletNotReady");
    first.wait_waiting(&controller, &[("rem-limits-1", "ZoneBudgetExhausted")]);
    nodes[2].set_ready("False", "KubeletNotReady");
    wait_names(&controller, &two, &["rem-limits-2"]);
    nodes[3].set_ready("False", "KubeletNotReady");
    second.wait_waiting(&controller, &[("rem-limits-3", "BudgetExhausted")]);
    // A place that becomes free goes to the one that has waited longest, also of another check.
    nodes[0].set_ready("True", "KubeletReady");
    wait_names(&controller, &one, &["rem-limits-1"]);
    second.wait_waiting(&controller, &[("rem-limits-3", "BudgetExhausted")]);
    nodes[1].set_ready("True", "KubeletReady");
    wait_names(&controller, &two, &["rem-limits-2", "rem-limits-3"]);
    nodes[2].set_ready("True", "KubeletReady");
    nodes[3].set_ready("True", "KubeletReady");
    wait_names(&controller, &two, &[]);

    // A node that fails again and again is left alone in the end, until a person says that it is mended.
    for _ in 0..2 {
        nodes[3].set_ready("True", "KubeletReady");
        wait_names(&controller, &two, &[]);
        // Attempts are told by the second in which they began.
        std::thread::sleep(Duration::from_secs(1));
        nodes[3].set_ready("False", "KubeletNotReady");
        controller.wait("an object, or its limit", TIMEOUT, || {
            (two.names() == ["rem-limits-3"] || second.waiting().contains_key("rem-limits-3"))
                .then_some(())
        });
    }
    second.wait_waiting(&controller, &[("rem-limits-3", "AttemptsExhausted")]);
    assert!(second.get()["status"]["nextDeadline"].is_string());
    let now = Timestamp::now().to_string();
    nodes[3].patch(&json!({ "metadata": { "annotations": { "remediation.tocsin.dev/forget-attempts-before": now } } }));
    wait_names(&controller, &two, &["rem-limits-3"]);
    nodes[3].set_ready("True", "KubeletReady");
    wait_names(&controller, &two, &[]);

    // One node of the control plane at a time, over all checks and kinds.
    for node in [&nodes[1], &nodes[2]] {
        node.patch(
            &json!({ "metadata": { "labels": { "node-role.kubernetes.io/control-plane": "" } } }),
        );
    }
    nodes[1].set_ready("False", "KubeletNotReady");
    wait_names(&controller, &one, &["rem-limits-1"]);
    let labels = one.objects().remove(0).metadata.labels.unwrap_or_default();
    assert!(labels.contains_key("remediation.medik8s.io/isControlPlaneNode"), "{labels:?}");
    nodes[2].set_ready("False", "KubeletNotReady");
    second.wait_waiting(&controller, &[("rem-limits-2", "ControlPlane")]);
    second.wait_event(&controller, "Skipping remediation of rem-limits-2 for preventing control plane / etcd quorum loss, going to retry in a minute");
    nodes[1].set_ready("True", "KubeletReady");
    wait_names(&controller, &two, &["rem-limits-2"]);
}
