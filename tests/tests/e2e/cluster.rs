//! What a real API server says of a real Node, and what the agent makes of it.

use std::process::Command;
use std::time::{Duration, Instant};

use e2e::agent::run_cli;
use e2e::cluster::TestNode;
use e2e::sandbox::say;
use e2e::{Agent, ControlPlane, Sandbox};

/// How soon a change of the Node must show.
const FOLLOWS: Duration = Duration::from_secs(1);

/// An agent's environment for a Node of this cluster.
pub(crate) fn on<'a>(
    cluster: &'a ControlPlane,
    node: &'a TestNode,
) -> impl FnOnce(&mut Command) + use<'a> {
    move |command| {
        command.env("KUBECONFIG", cluster.kubeconfig("admin")).env("NODE_NAME", node.name());
    }
}

/// Waits until that check answers so; `None` is "passes", and nothing of it is `degraded`.
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

/// A cluster, a sandbox, a Node and its agent.
macro_rules! agent_on {
    ($name:literal, $cluster:ident, $node:ident, $agent:ident) => {
        let Some($cluster) = ControlPlane::shared() else { return };
        let Some(sandbox) = Sandbox::new() else { return };
        let $node = $cluster.node($name);
        let $agent = Agent::start_with(&sandbox, on(&$cluster, &$node));
    };
}

#[test]
fn ready_is_followed_with_its_reason() {
    agent_on!("cluster-ready", cluster, node, agent);
    // A cluster puts node_ready into the default set, and the very first answer is right.
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
    assert!(agent.admin("/metrics").body.contains("\ntocsin_api_up 1\n"));
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
    agent.wait_told(&["the cluster has no Node"]);
}

#[test]
fn a_cordon_is_down_on_the_old_page_and_503_on_the_new() {
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
    assert_eq!(agent.health("").status, 200, "a cordon is not in the default set");
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
fn the_old_page_can_say_503() {
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
fn custom_conditions_fail_with_what_they_say() {
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
    // Not in the list.
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
fn without_the_nodes_name_what_needs_it_is_an_error() {
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
    agent.wait_told(&["NODE_NAME is not set"]);
}

#[test]
fn the_way_to_the_api_never_leads_through_the_environments_proxy_in_a_pod() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("cluster-pod");
    let account = cluster.service_account("cluster-pod", "tocsin");
    let bind = ["create", "clusterrolebinding", "cluster-pod", "--clusterrole=cluster-admin"];
    let to = "--serviceaccount=cluster-pod:tocsin";
    assert!(cluster.kubectl(&[&bind[..], &[to]].concat()).status.success());
    // What the kubelet puts into a pod.
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
        // Nobody is there.
        for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
            command.env(name, "http://127.0.0.1:9");
        }
    });
    follows(&agent, "node_ready", None);
    node.set_ready("False", "KubeletNotReady");
    follows(&agent, "node_ready", Some("KubeletNotReady"));
    assert!(agent.health("").check("node_ready").is_some(), "a pod has a cluster");
}

#[test]
fn a_single_look_asks_the_cluster_too() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("cluster-look");
    let look = |status: i32, words: &str| {
        let mut command = Command::new(e2e::agent::binary());
        command
            .args(["check", "--local", "node_ready"])
            .env_clear()
            .env("MOUNT_TABLE", "/proc/self/mountinfo");
        on(&cluster, &node)(&mut command);
        let out = command.output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert_eq!(out.status.code(), Some(status), "{text}{out:?}");
        assert!(text.contains(words), "{text}");
    };
    look(0, "pass");
    node.set_ready("False", "KubeletNotReady");
    look(1, "KubeletNotReady");
    let help = run_cli(&sandbox, &["agent", "--help"]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("ON_API_LOSS"));
}

#[test]
fn what_cannot_work_is_said_at_the_start() {
    let Some(sandbox) = Sandbox::new() else { return };
    for (variables, words) in [
        (&[("PUBLISH_CONDITIONS", "true")][..], "PUBLISH_CONDITIONS needs a cluster"),
        (&[("CUSTOM_CONDITIONS", "A=maybe")], "CUSTOM_CONDITIONS: \"A=maybe\""),
        (&[("NODECHECK_DOWN_STATUS", "204")], "NODECHECK_DOWN_STATUS: 204"),
        (&[("ON_API_LOSS", "perhaps")], "ON_API_LOSS"),
        (
            &[("PUBLISH_CONDITIONS", "true"), ("KUBECONFIG", "/k"), ("NODE_NAME", "")],
            "PUBLISH_CONDITIONS needs NODE_NAME",
        ),
    ] {
        let ended = Agent::try_start_with(&sandbox, |command| {
            command.envs(variables.iter().copied());
        });
        let Err(ended) = ended else { panic!("it started with {variables:?}") };
        assert_eq!(ended.status.code(), Some(2), "{variables:?}");
        let log = ended.log.join("\n");
        assert!(log.contains(words) || log.contains("--on-api-loss"), "{variables:?}: {log}");
    }
}

/// A directory over the place where pods have their service account's files, in this mount namespace alone.
struct PodSecrets {
    place: std::path::PathBuf,
}

impl PodSecrets {
    /// The mount namespace is that of the thread's sandbox.
    fn mount(_: &Sandbox, place: &str) -> Self {
        let out =
            Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/var/run"]).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        std::fs::create_dir_all(place).unwrap();
        Self { place: place.into() }
    }

    fn write(&self, name: &str, text: &str) {
        // As the kubelet does: a new file in the old one's place.
        let new = self.place.join(format!(".{name}.new"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.place.join(name)).unwrap();
    }
}

impl Drop for PodSecrets {
    fn drop(&mut self) {
        let _gone_with_the_namespace = Command::new("umount").args(["-l", "/var/run"]).output();
    }
}

#[test]
fn other_nodes_cost_nothing() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("cluster-one-of-many");
    let tunnel = cluster.tunnel();
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("KUBECONFIG", tunnel.kubeconfig("admin")).env("NODE_NAME", node.name());
    });
    follows(&agent, "node_ready", None);
    std::thread::sleep(Duration::from_millis(500));
    let (before, resident) = (tunnel.bytes_down(), agent.resident_kib());
    let others = cluster.nodes(200, "cluster-other");
    for other in others.iter().take(20) {
        other.set_ready("False", "KubeletNotReady");
    }
    let (heard, grown) =
        (tunnel.bytes_down() - before, agent.resident_kib().saturating_sub(resident));
    say(&format!("MEASURED 220 changes of other Nodes: {heard} bytes heard, {grown} KiB more"));
    // A Node has a kilobyte and more; answers to PINGs have 50 bytes or so, twice a second.
    assert!(heard < 20 * 1024, "{heard} bytes");
    assert!(grown < 1024, "{grown} KiB");
    follows(&agent, "node_ready", None);
}

#[test]
fn the_cost_of_a_watch() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("cluster-cost");
    let account = cluster.service_account("cluster-cost", "tocsin");
    let bind = ["create", "clusterrolebinding", "cluster-cost", "--clusterrole=cluster-admin"];
    let to = "--serviceaccount=cluster-cost:tocsin";
    assert!(cluster.kubectl(&[&bind[..], &[to]].concat()).status.success());
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("KUBECONFIG", cluster.kubeconfig(&account.user)).env("NODE_NAME", node.name());
    });
    follows(&agent, "node_ready", None);
    let until = Instant::now() + Duration::from_secs(5);
    let mut probes = 0;
    while Instant::now() < until {
        for query in ["", "?check=node_ready,schedulable,custom_conditions"] {
            assert_eq!(agent.health(query).status, 200);
        }
        let _page = agent.get("/nodecheck");
        probes += 3;
        std::thread::sleep(Duration::from_millis(10));
    }
    let asked: Vec<_> = cluster
        .audit_of(&account.user)
        .iter()
        .map(|entry| (entry.verb.clone(), entry.over))
        .collect();
    say(&format!("MEASURED {probes} probes, requests to the API: {asked:?}"));
    let verbs: Vec<_> = asked.iter().map(|(verb, _)| verb.as_str()).collect();
    assert_eq!(verbs.iter().filter(|verb| **verb == "list").count(), 1, "{asked:?}");
    assert!(verbs.iter().all(|verb| ["list", "watch"].contains(verb)), "{asked:?}");
    assert!(verbs.iter().filter(|verb| **verb == "watch").count() <= 2, "{asked:?}");
}
