//! `tocsin-controller remediation` in its surroundings: the operator that it replaces, `OpenShift`, templates of every scope,
//! and the webhook's certificate.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use e2e::cluster::free_port;
use e2e::process::TIMEOUT;
use e2e::remediation::{controller_prints, define_node_health_check};
use e2e::{ControlPlane, Remediation, Remediator, require, tool};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::remediation::{
    Check, LABEL, alone, labelled, one_at_a_time, refusal, wait_names, webhook_configuration,
};

const GROUP: &str = "remediators.tocsin.test";

/// A remediation object as the operator has made it.
fn made_by_the_operator(
    check: &Check,
    space: &str,
    name: &str,
    node: Option<(&str, &str)>,
) -> Value {
    let mut object = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "OldReboot",
        "metadata": {
            "name": name, "namespace": space,
            "labels": { "app.kubernetes.io/part-of": "node-healthcheck-controller" },
            "ownerReferences": [{
                "apiVersion": "remediation.medik8s.io/v1alpha1", "kind": "NodeHealthCheck", "name": space,
                "uid": check.get()["metadata"]["uid"], "controller": false,
            }],
        },
        "spec": { "how": "old" },
    });
    if let Some((node, template)) = node {
        object["metadata"]["annotations"] = json!({
            "remediation.medik8s.io/node-name": node, "remediation.medik8s.io/template-name": template,
        });
    }
    object
}

#[test]
fn what_the_operator_has_begun_goes_on() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let _guard = one_at_a_time();
    define_node_health_check(&cluster);
    let space = "rem-migration";
    let remediator = Remediator::new(&cluster, space, "OldReboot");
    remediator.template("a", &["remediation.medik8s.io/multiple-templates-support"]);
    cluster.namespace(&format!("{space}-leases"));
    let names = ["rem-migration-0", "rem-migration-1", "rem-migration-2"];
    let nodes = names.map(|name| labelled(&cluster, name, space));
    for node in &nodes[..2] {
        node.set_ready("False", "KubeletNotReady");
    }
    let check =
        Check::new(&cluster, space, &json!({ "remediationTemplate": remediator.reference("a") }));
    // One of an old version without annotations, one with a generated name, one whose node has recovered meanwhile.
    cluster.create(&made_by_the_operator(&check, space, names[0], None));
    cluster.create(&made_by_the_operator(
        &check,
        space,
        "rem-migration-1-x7k2p",
        Some((names[1], "a")),
    ));
    cluster.create(&made_by_the_operator(
        &check,
        space,
        "rem-migration-2-b4d9f",
        Some((names[2], "a")),
    ));
    let began = (Timestamp::now() - SignedDuration::from_mins(8))
        .strftime("%Y-%m-%dT%H:%M:%S.%6fZ")
        .to_string();
    for name in &names {
        cluster.create(&json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": format!("node-{name}"), "namespace": format!("{space}-leases") },
            "spec": {
                "holderIdentity": "NodeHealthCheck-rem-migration", "leaseDurationSeconds": 660,
                "acquireTime": began, "renewTime": began, "leaseTransitions": 0,
            },
        }));
    }
    let uids = |remediator: &Remediator| {
        remediator
            .objects()
            .into_iter()
            .filter_map(|object| object.metadata.uid)
            .collect::<Vec<_>>()
    };
    let before = uids(&remediator);
    // The lease by which the operator elected its leader: it ended in order and gave it up.
    cluster.create(&json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "e1f13584.medik8s.io", "namespace": space },
        "spec": { "holderIdentity": "", "leaseDurationSeconds": 1, "leaseTransitions": 4 },
    }));

    let controller = Remediation::start(&cluster.kubeconfig("admin"), space, |_| {});
    wait_names(&controller, &remediator, &[names[0], "rem-migration-1-x7k2p"]);
    assert_eq!(uids(&remediator), before[..2], "nothing is made anew");
    controller.wait("the status tells of them", TIMEOUT, || {
        (check.get()["status"]["reason"] == "NHC is remediating 2 nodes").then_some(())
    });
    controller.wait("their leases are renewed", TIMEOUT, || {
        let lease = remediator.lease(space, names[0])?.spec?;
        let renewed = lease.renew_time?.0 > Timestamp::now() - SignedDuration::from_mins(1);
        (renewed && lease.acquire_time?.0.to_string()[..19] == began[..19]).then_some(())
    });
    controller.wait("the lease of the one that recovered is gone", TIMEOUT, || {
        remediator.lease(space, names[2]).is_none().then_some(())
    });
    for node in &nodes[..2] {
        node.set_ready("True", "KubeletReady");
    }
    wait_names(&controller, &remediator, &[]);
}

/// Defines the kinds `KIND` and `KINDTemplate`, both without namespaces.
fn define_cluster_scoped(cluster: &ControlPlane, kind: &str) {
    for kind in [kind.to_owned(), format!("{kind}Template")] {
        define(cluster, GROUP, "v1", &kind, "Cluster", &[]);
    }
}

fn define(
    cluster: &ControlPlane,
    group: &str,
    version: &str,
    kind: &str,
    scope: &str,
    subresources: &[&str],
) {
    let plural = format!("{}s", kind.to_lowercase());
    let subresources: serde_json::Map<_, _> =
        subresources.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
    let mut metadata = json!({ "name": format!("{plural}.{group}") });
    if group.ends_with("openshift.io") {
        metadata["annotations"] = json!({ "api-approved.kubernetes.io": "unapproved, for a test" });
    }
    cluster.apply(&json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": metadata,
        "spec": {
            "group": group, "scope": scope,
            "names": { "kind": kind, "plural": plural, "singular": kind.to_lowercase() },
            "versions": [{
                "name": version, "served": true, "storage": true, "subresources": subresources,
                "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
            }],
        },
    }));
    let resource = format!("crd/{plural}.{group}");
    cluster.kubectl_ok(&["wait", "--for=condition=Established", "--timeout=30s", &resource]);
}

#[test]
fn templates_without_a_namespace() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let _guard = one_at_a_time();
    define_node_health_check(&cluster);
    let space = "rem-scope";
    cluster.namespace(space);
    define_cluster_scoped(&cluster, "WideReboot");
    cluster.apply(&json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "WideRebootTemplate", "metadata": { "name": "a" },
        "spec": { "template": { "spec": { "how": "wide" } } },
    }));
    let controller = Remediation::start(&cluster.kubeconfig("admin"), space, alone);
    let node = labelled(&cluster, "rem-scope-0", space);
    // A namespace in the reference means nothing here.
    let reference = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "WideRebootTemplate", "namespace": space, "name": "a",
    });
    let check = Check::new(&cluster, space, &json!({ "remediationTemplate": reference }));
    node.set_ready("False", "KubeletNotReady");
    let kind = "widereboots.remediators.tocsin.test";
    controller.wait("the object", TIMEOUT, || {
        let names = cluster.kubectl_ok(&["get", kind, "--output=name"]);
        names.trim().ends_with("/rem-scope-0").then_some(())
    });
    controller.wait("remediating", TIMEOUT, || (check.phase() == "Remediating").then_some(()));
    node.set_ready("True", "KubeletReady");
    controller.wait("its end", TIMEOUT, || {
        cluster.kubectl_ok(&["get", kind, "--output=name"]).is_empty().then_some(())
    });
}

fn merge(cluster: &ControlPlane, resource: &[&str], change: &Value) {
    let change = change.to_string();
    let arguments = [&["patch"], resource, &["--type=merge", "--patch", &change]].concat();
    cluster.kubectl_ok(&arguments);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one story in one cluster")]
fn openshift_is_asked_about_upgrades_machine_health_checks_and_etcd() {
    let Some(cluster) = ControlPlane::private() else { return };
    define_node_health_check(&cluster);
    define(&cluster, "config.openshift.io", "v1", "ClusterVersion", "Cluster", &[]);
    define(&cluster, "config.openshift.io", "v1", "Infrastructure", "Cluster", &[]);
    define(&cluster, "machine.openshift.io", "v1beta1", "MachineHealthCheck", "Namespaced", &[]);
    define(&cluster, "machine.openshift.io", "v1beta1", "Machine", "Namespaced", &[]);
    let space = "openshift-machines";
    let remediator = Remediator::new(&cluster, space, "ShiftReboot");
    cluster.namespace("openshift-etcd");
    cluster.create(&json!({
        "apiVersion": "config.openshift.io/v1", "kind": "Infrastructure", "metadata": { "name": "cluster" },
        "status": { "controlPlaneTopology": "DualReplica" },
    }));
    cluster.create(&json!({
        "apiVersion": "config.openshift.io/v1", "kind": "ClusterVersion", "metadata": { "name": "version" },
        "status": { "conditions": [{ "type": "Progressing", "status": "True" }] },
    }));
    let health_check = json!({
        "apiVersion": "machine.openshift.io/v1beta1", "kind": "MachineHealthCheck",
        "metadata": { "name": "custom", "namespace": space },
        "spec": { "unhealthyConditions": [{ "type": "Ready", "status": "False" }] },
    });
    cluster.create(&health_check);
    cluster.create(&json!({
        "apiVersion": "machine.openshift.io/v1beta1", "kind": "Machine",
        "metadata": { "name": "m", "namespace": space },
    }));
    let node = labelled(&cluster, "shift-0", space);
    node.patch(&json!({ "metadata": {
        "labels": { "node-role.kubernetes.io/master": "" },
        "annotations": { "machine.openshift.io/machine": format!("{space}/m") },
    } }));
    node.set_ready("False", "KubeletNotReady");

    let port = free_port();
    let path = "validate-remediation-medik8s-io-v1alpha1-nodehealthcheck";
    let kubeconfig = cluster.kubeconfig("admin");
    let check =
        Check::new(&cluster, space, &json!({ "remediationTemplate": remediator.reference("a") }));
    cluster.create(&webhook_configuration(space, &format!("https://127.0.0.1:{port}/{path}")));
    let controller = Remediation::start(&kubeconfig, space, |command| {
        alone(command);
        command.env("WEBHOOK_CONFIGURATION", space).env("WEBHOOK_PORT", port.to_string());
    });
    controller.wait("disabled", TIMEOUT, || (check.phase() == "Disabled").then_some(()));
    check.wait_event(
        &controller,
        "Custom MachineHealthCheck(s) detected, disabling NodeHealthCheck to avoid conflicts",
    );
    assert_eq!(
        check.get()["status"]["reason"],
        "NHC is disabled: ConflictingMachineHealthCheckDetected: Custom MachineHealthCheck(s) detected, disabling NodeHealthCheck to avoid conflicts"
    );
    // Rule 14 of the webhook: only topologies in which a node can be remediated.
    controller.process().wait_for_log(&["the webhook answers"]);
    let said = refusal(
        &cluster,
        &["patch", "nhc", space, "--type=merge", "--patch", r#"{"spec":{"minHealthy":"1%"}}"#],
    );
    assert!(said.ends_with("denied the request: Unsupported control plane topology"), "{said}");
    merge(
        &cluster,
        &["infrastructure", "cluster"],
        &json!({ "status": { "controlPlaneTopology": "HighlyAvailable" } }),
    );
    check.change(&json!({ "minHealthy": "0%" }));

    let explains = |expected: &str| {
        let text = controller_prints(&kubeconfig, space, &["explain", "shift-0"]);
        assert!(text.contains(expected), "{text}\nhas not: {expected}");
    };
    explains("NHC is disabled: ConflictingMachineHealthCheckDetected");
    cluster.delete(&health_check);
    explains("waits: ClusterUpgrade: the cluster is being upgraded");
    let version = ["clusterversion", "version"];
    let progressing = |status: &str| json!({ "status": { "conditions": [{ "type": "Progressing", "status": status }] } });
    merge(&cluster, &version, &progressing("False"));
    node.patch(&json!({ "metadata": { "annotations": {
        "machineconfiguration.openshift.io/desiredConfig": "b", "machineconfiguration.openshift.io/currentConfig": "a",
    } } }));
    explains("waits: ClusterUpgrade");
    node.patch(&json!({ "metadata": { "annotations": { "machineconfiguration.openshift.io/currentConfig": "b" } } }));
    explains("waits: ControlPlane: there is not exactly one PodDisruptionBudget in openshift-etcd");
    controller.wait("the controller saw it", TIMEOUT, || {
        (check.waiting().get("shift-0").map(String::as_str) == Some("ControlPlane")).then_some(())
    });
    cluster.create(&json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default", "namespace": "openshift-etcd" } }));
    cluster.create(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "etcd-guard-0", "namespace": "openshift-etcd", "labels": { "app": "guard" } },
        "spec": { "nodeName": "shift-0", "containers": [{ "name": "guard", "image": "guard" }] },
    }));
    let pod = ["pod", "etcd-guard-0", "--namespace=openshift-etcd", "--subresource=status"];
    let ready = |status: &str| json!({ "status": { "conditions": [{ "type": "Ready", "status": status }] } });
    merge(&cluster, &pod, &ready("True"));
    cluster.create(&json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "name": "etcd-guard-pdb", "namespace": "openshift-etcd" },
        "spec": { "minAvailable": 2, "selector": { "matchLabels": { "app": "guard" } } },
    }));
    explains("waits: ControlPlane: etcd allows no disruption, and its member on this node works");
    merge(&cluster, &pod, &ready("False"));
    explains("ShiftReboot shift-0 is made from a");
    controller.wait("the object", TIMEOUT, || (remediator.names() == ["shift-0"]).then_some(()));
    let owners = remediator.objects().remove(0).metadata.owner_references.unwrap_or_default();
    let owners: Vec<_> = owners.iter().map(|owner| owner.kind.as_str()).collect();
    assert_eq!(owners, ["NodeHealthCheck", "Machine"]);
    node.set_ready("True", "KubeletReady");
    wait_names(&controller, &remediator, &[]);
    cluster.kubectl_ok(&["delete", "validatingwebhookconfiguration", space]);
}

/// What the webhook's certificate may be replaced by while clients ask: none of them is ever refused.
#[test]
#[expect(clippy::too_many_lines, reason = "one story in one cluster")]
fn the_webhooks_certificate_changes_without_a_refused_request() {
    let Some(cluster) = ControlPlane::private() else { return };
    if !require(tool::is_installed("openssl"), "openssl makes the certificates") {
        return;
    }
    define_node_health_check(&cluster);
    let space = "rem-tls";
    let remediator = Remediator::new(&cluster, space, "TlsReboot");
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let [first, second] = ["first", "second"].map(|name| tool::self_signed_certificate(&at(name)));
    let both = at("both.crt");
    fs::write(
        &both,
        format!(
            "{}{}",
            fs::read_to_string(&first.0).unwrap(),
            fs::read_to_string(&second.0).unwrap()
        ),
    )
    .unwrap();
    let (cert, key) = (at("tls.crt"), at("tls.key"));
    fs::copy(&first.0, &cert).unwrap();
    fs::copy(&first.1, &key).unwrap();
    let controller = Remediation::start(&cluster.kubeconfig("admin"), space, |command| {
        alone(command);
        command.env("WEBHOOK_CERT", &cert).env("WEBHOOK_KEY", &key);
    });
    let path = "validate-remediation-medik8s-io-v1alpha1-nodehealthcheck";
    let url = format!("https://{}/{path}", controller.webhook());
    let mut configuration = webhook_configuration(space, &url);
    let base64 = tool::run("openssl", &["base64", "-A", "-in", &both.display().to_string()]);
    configuration["webhooks"][0]["clientConfig"]["caBundle"] = json!(base64.trim());
    cluster.create(&configuration);
    let check = json!({
        "apiVersion": "remediation.medik8s.io/v1alpha1", "kind": "NodeHealthCheck", "metadata": { "name": space },
        "spec": {
            "selector": { "matchLabels": { LABEL: space } }, "minHealthy": 0,
            "remediationTemplate": remediator.reference("a"),
        },
    });
    let good = at("check.json");
    fs::write(&good, check.to_string()).unwrap();
    let apply = ["apply", "--dry-run=server", "--filename", &good.display().to_string()];
    let question = at("question.json");
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": { "uid": "u", "operation": "CREATE", "object": check },
    });
    fs::write(&question, review.to_string()).unwrap();
    // Ten questions over one connection each time, as a client asks that keeps its connection.
    let ask = |authority: &PathBuf, count: usize| {
        let urls = vec![url.as_str(); count];
        let output = Command::new("curl")
            .args([
                "-sS",
                "--http1.1",
                "--max-time",
                "20",
                "--cacert",
                &authority.display().to_string(),
            ])
            .args(["--data-binary", &format!("@{}", question.display())])
            .args(urls)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).matches(r#""allowed":true"#).count()
    };
    assert_eq!((ask(&first.0, 1), ask(&second.0, 1)), (1, 0));

    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    assert_eq!(ask(&both, 10), 10, "a question was not answered");
                    asked.fetch_add(10, Relaxed);
                }
            });
        }
        let api = scope.spawn(|| {
            while !stop.load(Relaxed) {
                cluster.kubectl_ok(&apply);
                asked.fetch_add(1, Relaxed);
            }
        });
        fs::copy(&second.0, &cert).unwrap();
        fs::copy(&second.1, &key).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_mins(1);
        while ask(&second.0, 1) == 0 && std::time::Instant::now() < deadline && !api.is_finished() {
            thread::sleep(Duration::from_millis(200));
        }
        stop.store(true, Relaxed);
    });
    assert_eq!((ask(&first.0, 1), ask(&second.0, 1)), (0, 1), "the second certificate is used");
    assert!(asked.load(Relaxed) > 20, "{asked:?} questions");
    drop(controller);

    // The certificate of our own making: it is renewed by one replica, and the other one's still counts.
    let port = free_port();
    cluster.kubectl_ok(&["delete", "validatingwebhookconfiguration", space]);
    cluster.create(&webhook_configuration(space, &format!("https://127.0.0.1:{port}/{path}")));
    let start = |port: u16| {
        let controller = Remediation::start(&cluster.kubeconfig("admin"), space, |command| {
            command.env("WEBHOOK_CONFIGURATION", space).env("WEBHOOK_PORT", port.to_string());
        });
        controller.process().wait_for_log(&["the webhook answers"]);
        controller
    };
    let first = start(port);
    cluster.kubectl_ok(&apply);
    let secret = |key: &str| {
        let path = format!("--output=jsonpath={{.data.{}}}", key.replace('.', "\\."));
        cluster.kubectl_ok(&[
            "get",
            "secret",
            "tocsin-webhook-certificate",
            "--namespace",
            space,
            &path,
        ])
    };
    let bundle = || {
        let path = "--output=jsonpath={.webhooks[0].clientConfig.caBundle}";
        cluster.kubectl_ok(&["get", "validatingwebhookconfiguration", space, path])
    };
    let (old, old_bundle) = (secret("tls.crt"), bundle());
    cluster.kubectl_ok(&[
        "annotate",
        "--overwrite",
        "secret",
        "tocsin-webhook-certificate",
        "--namespace",
        space,
        "tocsin.dev/renew-after=2020-01-01T00:00:00Z",
    ]);
    let second = start(free_port());
    assert_ne!(secret("tls.crt"), old, "it was renewed");
    assert!(bundle().len() > old_bundle.len(), "both are trusted");
    assert_eq!(secret("ca.crt"), bundle());
    cluster.kubectl_ok(&apply);
    drop(second);
    drop(first);
    // And one that starts again on the first one's port has the new one.
    let _third = start(port);
    cluster.kubectl_ok(&apply);
}
