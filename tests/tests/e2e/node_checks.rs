//! `node_ready`, `schedulable`, `custom_conditions` and `/nodecheck`, with a real API server and Node objects.

use std::process::Command;
use std::time::{Duration, Instant};

use e2e::cluster::TestNode;
use e2e::sandbox::say;
use e2e::{Agent, ControlPlane, Sandbox};

/// How soon a change of the Node shows: it takes some 5 ms on an idle machine.
const FOLLOWS: Duration = Duration::from_secs(3);

/// Sets the environment of an agent for a Node of this cluster.
pub(crate) fn on<'a>(
    cluster: &'a ControlPlane,
    node: &'a TestNode,
) -> impl FnOnce(&mut Command) + use<'a> {
    move |command| {
        command.env("KUBECONFIG", cluster.kubeconfig("admin")).env("NODE_NAME", node.name());
    }
}

/// Waits until a check fails for exactly this reason, or passes where there is none; in both cases it is not `degraded`.
pub(crate) fn follows(agent: &Agent, check: &str, failure: Option<&str>) {
    let began = Instant::now();
    agent.wait_for(&format!("{check}: {failure:?}"), FOLLOWS, |agent| {
        let health = agent.health(&format!("?check={check}"));
        let answer = health.check(check)?;
        let is_so = answer.reason.as_deref() == failure && answer.degraded.is_none();
        (is_so && health.status == if failure.is_some() { 503 } else { 200 }).then_some(())
    });
    let took = began.elapsed().as_secs_f64() * 1e3;
    say(&format!("MEASURED {check} {failure:?} after {took:.1} ms"));
}

/// Makes a Node with this name in the shared control plane, and an agent for it.
macro_rules! agent_on {
    ($name:literal, $cluster:ident, $node:ident, $agent:ident) => {
        let Some($cluster) = ControlPlane::shared() else { return };
        let Some(sandbox) = Sandbox::new() else { return };
        let $node = $cluster.node($name);
        let $agent = Agent::start_with(&sandbox, on(&$cluster, &$node));
    };
}

#[test]
fn node_ready_follows_the_condition_with_its_reason() {
    agent_on!("cluster-ready", cluster, node, agent);
    // With a cluster, node_ready is in the default set, and the first answer is right.
    let first = agent.health("");
    assert_eq!(first.status, 200);
    assert!(first.check("node_ready").is_some_and(|check| check.degraded.is_none()), "{first:?}");
    assert!(first.check("schedulable").is_none(), "{first:?}");
    for (status, reason) in [("False", "KubeletNotReady"), ("Unknown", "NodeStatusUnknown")] {
        node.set_ready(status, reason);
        follows(&agent, "node_ready", Some(reason));
        assert_eq!(agent.health("").status, 503);
        node.set_ready("True", "KubeletReady");
        follows(&agent, "node_ready", None);
    }
    node.remove_condition("Ready");
    follows(&agent, "node_ready", Some("the Node has no Ready condition"));
    assert_eq!(agent.metric("tocsin_api_up"), Some(1.0));
}

#[test]
fn an_agent_that_starts_on_a_node_that_is_not_ready_never_says_ready() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("cluster-start");
    node.set_ready("False", "KubeletNotReady");
    let agent = Agent::start_with(&sandbox, on(&cluster, &node));
    assert_eq!(agent.health("?check=node_ready").failure("node_ready"), Some("KubeletNotReady"));
}

#[test]
fn a_node_that_is_not_there_is_not_ready() {
    agent_on!("cluster-deleted", cluster, node, agent);
    follows(&agent, "node_ready", None);
    node.set_finalizers(&["tocsin.test/held"]);
    node.delete();
    follows(&agent, "schedulable", Some("the Node is being deleted (metadata.deletionTimestamp)"));
    follows(&agent, "node_ready", None);
    drop(node);
    let absent = "the cluster has no Node named \"cluster-deleted\"";
    for check in ["node_ready", "schedulable", "custom_conditions"] {
        follows(&agent, check, Some(absent));
    }
    assert_eq!(agent.get("/nodecheck").body, "Down");
    // Its kubelet registers it again.
    let _node = cluster.node("cluster-deleted");
    follows(&agent, "node_ready", None);
    agent.wait_for_log(&["the cluster has no Node"]);
}

#[test]
fn a_cordon_is_down_on_nodecheck_and_503_for_schedulable() {
    agent_on!("cluster-cordon", cluster, node, agent);
    let page = |body: &str| {
        agent.wait_for(body, FOLLOWS, |agent| (agent.get("/nodecheck").body == body).then_some(()));
        let answer = agent.get("/nodecheck");
        assert_eq!((answer.status, answer.body.as_str()), (200, body));
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    };
    page("OK");
    assert_eq!(agent.get("/nodename").body, "Node: \"cluster-cordon\"");
    let out = cluster.kubectl(&["cordon", node.name()]);
    assert!(out.status.success(), "{out:?}");
    follows(&agent, "schedulable", Some("the Node is cordoned (spec.unschedulable)"));
    page("Down");
    assert_eq!(agent.health("").status, 200, "schedulable is not in the default set");
    assert_eq!(agent.health("?check=node_ready,schedulable").status, 503);
    let out = cluster.kubectl(&["uncordon", node.name()]);
    assert!(out.status.success(), "{out:?}");
    follows(&agent, "schedulable", None);
    page("OK");
    for taint in ["ToBeDeletedByClusterAutoscaler", "node.kubernetes.io/out-of-service"] {
        node.taint(taint, "NoSchedule");
        follows(&agent, "schedulable", Some(&format!("the Node has the taint {taint}")));
        node.untaint(taint);
        follows(&agent, "schedulable", None);
    }
}

#[test]
fn nodecheck_down_status_is_the_status_of_nodecheck() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("cluster-cordon-503");
    node.cordon();
    let agent = Agent::start_with(&sandbox, |command| {
        on(&cluster, &node)(command);
        command.env("NODECHECK_DOWN_STATUS", "503");
    });
    let answer = agent.get("/nodecheck");
    assert_eq!((answer.status, answer.body.as_str()), (503, "Down"));
}

#[test]
fn custom_conditions_fail_with_reason_and_message() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("cluster-custom");
    let agent = Agent::start_with(&sandbox, |command| {
        on(&cluster, &node)(command);
        command.env("CUSTOM_CONDITIONS", "KernelDeadlock, TimeSynced=False");
    });
    follows(&agent, "custom_conditions", None);
    node.set_condition("KernelDeadlock", "True", "DockerHung", "task docker:7 blocked");
    let reason = "KernelDeadlock is True: DockerHung: task docker:7 blocked";
    follows(&agent, "custom_conditions", Some(reason));
    node.set_condition("KernelDeadlock", "False", "KernelHasNoDeadlock", "");
    follows(&agent, "custom_conditions", None);
    node.set_condition("TimeSynced", "False", "NoServer", "");
    follows(&agent, "custom_conditions", Some("TimeSynced is False: NoServer"));
    // A condition that is not in the list.
    node.remove_condition("TimeSynced");
    node.set_condition("XfsShutdown", "True", "XfsHasShutdown", "");
    follows(&agent, "custom_conditions", None);
}

#[test]
fn the_default_conditions_are_those_of_a_dead_node() {
    agent_on!("cluster-default-conditions", cluster, node, agent);
    for kind in ["DiskPressure", "NTPProblem"] {
        node.set_condition(kind, "True", "X", "");
    }
    follows(&agent, "custom_conditions", None);
    for kind in ["KernelDeadlock", "ReadonlyFilesystem", "NetworkUnavailable"] {
        node.set_condition(kind, "True", "X", "");
        follows(&agent, "custom_conditions", Some(&format!("{kind} is True: X")));
        node.remove_condition(kind);
        follows(&agent, "custom_conditions", None);
    }
}

#[test]
fn without_node_name_the_checks_of_the_node_are_an_error() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("KUBECONFIG", cluster.kubeconfig("admin")).env_remove("NODE_NAME");
    });
    for path in ["/health", "/health?check=node_ready", "/health?check=schedulable", "/nodecheck"] {
        assert_eq!(agent.get(path).status, 500, "{path}");
    }
    assert_eq!(agent.health("?check=filesystem_ro,io_errors,io_stall").status, 200);
    assert_eq!(agent.get("/nodename").body, "Node: \"\"");
    agent.wait_for_log(&["NODE_NAME is not set"]);
}

#[test]
fn an_agent_in_a_pod_does_not_use_the_environments_proxy() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("cluster-pod");
    let account = cluster.admin_account("cluster-pod", "tocsin");
    // The files that the kubelet puts into a pod.
    let directory = "/var/run/secrets/kubernetes.io/serviceaccount";
    let secrets = PodSecrets::mount(&sandbox, directory);
    secrets.write("token", &account.token);
    secrets.write("ca.crt", &cluster.ca_pem());
    secrets.write("namespace", "cluster-pod");
    let url = cluster.url();
    let (host, port) = url.strip_prefix("https://").unwrap().split_once(':').unwrap();
    let agent = Agent::start_with(&sandbox, |command| {
        command
            .env("NODE_NAME", node.name())
            .env("KUBERNETES_SERVICE_HOST", host)
            .env("KUBERNETES_SERVICE_PORT", port);
        // No proxy listens there.
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
            command.env(name, "http://127.0.0.1:9");
        }
    });
    follows(&agent, "node_ready", None);
    node.set_ready("False", "KubeletNotReady");
    follows(&agent, "node_ready", Some("KubeletNotReady"));
    assert!(
        agent.health("").check("node_ready").is_some(),
        "in a pod, node_ready is in the default set"
    );
}

#[test]
fn check_local_reads_the_node_too() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(_sandbox) = Sandbox::new() else { return };
    let node = cluster.node("cluster-look");
    let check = |code: i32, words: &str| {
        let mut command = Command::new(e2e::agent::binary());
        command
            .args(["check", "--local", "node_ready"])
            .env_clear()
            .env("MOUNT_TABLE", "/proc/self/mountinfo");
        on(&cluster, &node)(&mut command);
        let out = command.output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert_eq!(out.status.code(), Some(code), "{text}{out:?}");
        assert!(text.contains(words), "{text}");
    };
    check(0, "pass");
    node.set_ready("False", "KubeletNotReady");
    check(1, "KubeletNotReady");
}

#[test]
fn settings_that_contradict_each_other_are_an_error_at_the_start() {
    let Some(sandbox) = Sandbox::new() else { return };
    for (variables, words) in [
        (&[("PUBLISH_CONDITIONS", "true")][..], "PUBLISH_CONDITIONS needs a cluster"),
        (&[("CUSTOM_CONDITIONS", "A=maybe")], "CUSTOM_CONDITIONS: \"A=maybe\""),
        (&[("NODECHECK_DOWN_STATUS", "204")], "NODECHECK_DOWN_STATUS: 204"),
        (&[("ON_API_LOSS", "perhaps")], "--on-api-loss"),
        (
            &[("PUBLISH_CONDITIONS", "true"), ("KUBECONFIG", "/k"), ("NODE_NAME", "")],
            "PUBLISH_CONDITIONS needs NODE_NAME",
        ),
    ] {
        let ended = Agent::refuses_to_start(&sandbox, |command| {
            command.envs(variables.iter().copied());
        });
        assert_eq!(ended.status.code(), Some(2), "{variables:?}");
        let log = ended.log.join("\n");
        assert!(log.contains(words), "{variables:?}: {log}");
    }
}

/// The directory with a pod's service account files, in this test's mount namespace alone.
struct PodSecrets {
    place: std::path::PathBuf,
}

impl PodSecrets {
    /// The sandbox shows that the thread has a mount namespace of its own.
    fn mount(_: &Sandbox, place: &str) -> Self {
        let out =
            Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/var/run"]).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        std::fs::create_dir_all(place).unwrap();
        Self { place: place.into() }
    }

    fn write(&self, name: &str, text: &str) {
        // A new file replaces the old one, as the kubelet does it.
        let new = self.place.join(format!(".{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.place.join(name)).unwrap();
    }
}

impl Drop for PodSecrets {
    fn drop(&mut self) {
        // If this fails, the mount ends with the namespace.
        let _output = Command::new("umount").args(["-l", "/var/run"]).output();
    }
}

#[test]
fn changes_of_other_nodes_cost_nothing() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("cluster-one-of-many");
    let proxy = cluster.proxy();
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("KUBECONFIG", proxy.kubeconfig("admin")).env("NODE_NAME", node.name());
    });
    follows(&agent, "node_ready", None);
    std::thread::sleep(Duration::from_millis(500));
    let (before, resident) = (proxy.bytes_down(), agent.resident_kib());
    let others = cluster.nodes(200, "cluster-other");
    for other in others.iter().take(20) {
        other.set_ready("False", "KubeletNotReady");
    }
    let received = proxy.bytes_down() - before;
    let grown = agent.resident_kib().saturating_sub(resident);
    say(&format!(
        "MEASURED 220 changes of other Nodes: {received} bytes received, {grown} KiB more"
    ));
    // 220 Nodes would be more than 220 KiB; the answers to PINGs are 50 bytes or so, twice a second.
    assert!(received < 20 * 1024, "{received} bytes");
    assert!(grown < 1024, "{grown} KiB");
    follows(&agent, "node_ready", None);
}

#[test]
fn probes_cause_no_request_to_the_api_server() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("cluster-cost");
    let account = cluster.admin_account("cluster-cost", "tocsin");
    let proxy = cluster.proxy();
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("KUBECONFIG", proxy.kubeconfig(&account.user)).env("NODE_NAME", node.name());
    });
    follows(&agent, "node_ready", None);
    let until = Instant::now() + Duration::from_secs(5);
    let mut probes = 0;
    while Instant::now() < until {
        for query in ["", "?check=node_ready,schedulable,custom_conditions"] {
            assert_eq!(agent.health(query).status, 200);
        }
        assert_eq!(agent.get("/nodecheck").body, "OK");
        probes += 3;
        std::thread::sleep(Duration::from_millis(10));
    }
    let requests = cluster.requests_of(&account.user);
    let count = |verb: &str| requests.iter().filter(|request| request.is(verb, "nodes")).count();
    let (lists, watches) = (count("list"), count("watch"));
    let connections = proxy.connections();
    say(&format!("MEASURED {probes} probes, {lists} lists and {watches} watches"));
    assert_eq!(lists + watches, requests.len(), "{requests:#?}");
    // One list and one watch, and again where a busy machine has lost the connection.
    assert!(watches >= 1 && lists as u64 <= connections && watches as u64 <= connections + 1);
    assert!(connections <= 3, "{connections} connections");
}
