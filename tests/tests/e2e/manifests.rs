//! The manifests of `deploy`: the API server accepts them as they are, the agent understands their settings, and their
//! roles suffice.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard};

use e2e::agent::{TIMEOUT, run_cli};
use e2e::cluster::TestNode;
use e2e::sync::lock;
use e2e::{Agent, ControlPlane, Sandbox};
use rustix::mount::MountFlags;
use serde_json::Value;

/// The directories for `kubectl apply -k`.
pub(crate) const BASE: &str = "deploy/base";
pub(crate) const PUBLISHING: &str = "deploy/overlays/publish-conditions";

/// The user name of the agent's service account.
pub(crate) const ACCOUNT: &str = "system:serviceaccount:tocsin:tocsin";

/// The conditions that the overlay publishes.
const CONDITIONS: [&str; 3] = ["ReadonlyFilesystem", "DiskIOError", "DiskStalled"];

/// The directory below /var/run/secrets with a pod's service account files.
const SERVICE_ACCOUNT: &str = "kubernetes.io/serviceaccount";

/// Held by a test that applies the manifests: the objects have the same names in each.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static DEPLOYED: Mutex<()> = Mutex::new(());
    lock(&DEPLOYED)
}

pub(crate) fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// Runs kubectl on a directory; it has to succeed without a warning.
fn kubectl(cluster: &ControlPlane, arguments: &[&str], name: &str) -> Output {
    let directory = directory(name);
    let on: [&Path; 2] = ["-k".as_ref(), &directory];
    let arguments: Vec<_> = arguments.iter().map(Path::new).chain(on).collect();
    let output = cluster.kubectl(&arguments);
    let warnings = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {warnings}");
    assert_eq!(warnings, "", "{arguments:?}");
    output
}

/// The objects of a directory, as they are in its files.
pub(crate) fn objects(cluster: &ControlPlane, name: &str) -> Vec<Value> {
    let output = kubectl(cluster, &["create", "--dry-run=client", "--output=json"], name);
    let documents = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let documents = documents.map(|document| document.unwrap());
    // Some versions of kubectl print several objects as a List.
    let objects = documents.flat_map(|document| match document["items"].as_array() {
        Some(items) => items.clone(),
        None => vec![document],
    });
    objects.collect()
}

pub(crate) fn apply(cluster: &ControlPlane, name: &str) {
    kubectl(cluster, &["apply", "--server-side"], name);
}

/// Kind, namespace, name and resource version of a directory's objects in the API server, which has to have all of them.
pub(crate) fn applied(cluster: &ControlPlane, name: &str) -> BTreeSet<[String; 4]> {
    let output = kubectl(cluster, &["get", "--output=json"], name);
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let objects = list["items"].as_array().unwrap().iter();
    let versioned = objects.map(|object| {
        let meta = &object["metadata"];
        let of = |key: &str| text(&meta[key]);
        [text(&object["kind"]), of("namespace"), of("name"), of("resourceVersion")]
    });
    versioned.collect()
}

fn daemon_set(objects: &[Value]) -> &Value {
    objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap()
}

/// Its only container.
pub(crate) fn container(objects: &[Value]) -> &Value {
    let containers = &daemon_set(objects)["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().map(Vec::len), Some(1));
    &containers[0]
}

#[test]
fn the_manifests_are_applied_without_a_warning_and_a_second_time_without_a_change() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let _alone = one_at_a_time();
    for (name, count) in [(BASE, 5), (PUBLISHING, 9)] {
        apply(&cluster, name);
        let first = applied(&cluster, name);
        assert_eq!(first.len(), count, "{name}: {first:#?}");
        apply(&cluster, name);
        assert_eq!(applied(&cluster, name), first, "{name}");
    }
    // Back to the base: what the component has added to the DaemonSet is gone.
    apply(&cluster, BASE);
    let daemon_set = cluster.kubectl(&["get", "-n", "tocsin", "daemonset", "tocsin", "-o", "json"]);
    let daemon_set: Value = serde_json::from_slice(&daemon_set.stdout).unwrap();
    let deployed = [daemon_set];
    let names = |objects: &[Value]| {
        let variables = container(objects)["env"].as_array().unwrap().iter();
        variables.map(|variable| variable["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&deployed), names(&objects(&cluster, BASE)));
}

/// Waits until `node_ready` fails for this reason, or passes where there is none; in both cases it is not `degraded`.
pub(crate) fn follows(agent: &Agent, failure: Option<&str>) {
    agent.wait_for(&format!("node_ready: {failure:?}"), TIMEOUT, |agent| {
        let health = agent.health("?check=node_ready");
        let check = health.check("node_ready")?;
        (check.reason.as_deref() == failure && check.degraded.is_none()).then_some(())
    });
}

/// The flags in `tocsin agent --help`, each with its text.
pub(crate) fn flags(sandbox: &Sandbox) -> Vec<String> {
    let help = run_cli(sandbox, &["agent", "--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    help.split("\n      --").map(str::to_owned).collect()
}

#[test]
fn the_daemon_set_has_the_agents_variables_ports_and_probe_paths() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let objects = objects(&cluster, PUBLISHING);
    let container = container(&objects);
    let flags = flags(&sandbox);
    let environment = container["env"].as_array().unwrap();
    assert_eq!(environment.len(), 3, "{environment:?}");
    for variable in environment {
        let known = format!("[env: {}=", variable["name"].as_str().unwrap());
        assert!(flags.iter().any(|flag| flag.contains(&known)), "{known}");
    }
    let port_of = |flag: &str| {
        let flag = flags.iter().find(|text| text.starts_with(flag)).unwrap();
        let default = flag.split("[default: ").nth(1).and_then(|rest| rest.split(']').next());
        default.and_then(|port| port.parse::<u64>().ok()).unwrap()
    };
    let ports = container["ports"].as_array().unwrap();
    for port in ports {
        let expected = match port["name"].as_str() {
            Some("health") => port_of("listen-port"),
            Some("admin") => port_of("admin-port"),
            Some("agent-check") => port_of("agent-check-port"),
            other => panic!("port {other:?}"),
        };
        assert_eq!(
            (&port["containerPort"], &port["hostPort"]),
            (&expected.into(), &expected.into())
        );
    }
    assert_eq!(ports.len(), 3);

    // The kubelet's probes get 200.
    let agent = Agent::start(&sandbox);
    for probe in ["livenessProbe", "readinessProbe"] {
        let get = &container[probe]["httpGet"];
        let path = get["path"].as_str().unwrap();
        let answer = if get["port"] == "health" { agent.get(path) } else { agent.admin(path) };
        assert_eq!(answer.status, 200, "{probe}: {get}");
    }
}

/// Sets up an agent as the kubelet would: the container's variables, and the service account's files. Its address is that
/// of the loopback.
pub(crate) fn in_pod<'a>(
    cluster: &'a ControlPlane,
    container: &'a Value,
    node: &'a TestNode,
) -> impl FnOnce(&mut Command) + use<'a> {
    let token = cluster.kubectl_ok(&["create", "token", "tocsin", "--namespace=tocsin"]);
    // In this test's mount namespace alone.
    let run = fs::canonicalize("/var/run").unwrap();
    let flags = MountFlags::empty();
    rustix::mount::mount("tmpfs", &run, "tmpfs", flags, c"mode=0755").unwrap();
    let files = run.join("secrets").join(SERVICE_ACCOUNT);
    fs::create_dir_all(&files).unwrap();
    let write = |name: &str, text: &[u8]| fs::write(files.join(name), text).unwrap();
    write("token", token.trim().as_bytes());
    write("ca.crt", cluster.ca_pem().as_bytes());
    write("namespace", b"tocsin");
    move |command| {
        for variable in container["env"].as_array().unwrap() {
            let name = variable["name"].as_str().unwrap();
            let value =
                variable["value"].as_str().unwrap_or_else(
                    || match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
                        Some("spec.nodeName") => node.name(),
                        Some("status.podIP") => "127.0.0.1",
                        Some("metadata.namespace") => "tocsin",
                        _ => "what the manifest asks of the kubelet is not known here",
                    },
                );
            command.env(name, value);
        }
        let url = cluster.url();
        let (host, port) = url.trim_start_matches("https://").rsplit_once(':').unwrap();
        command.env("KUBERNETES_SERVICE_HOST", host).env("KUBERNETES_SERVICE_PORT", port);
    }
}

/// The verbs of the service account's requests, without the first `before` of them; none of them was refused.
fn verbs(cluster: &ControlPlane, before: usize) -> BTreeSet<String> {
    let requests = cluster.requests_of(ACCOUNT).split_off(before);
    for entry in &requests {
        assert!(entry.code.is_none_or(|code| code < 300), "{entry:?}");
    }
    requests.into_iter().map(|entry| entry.verb).collect()
}

#[test]
fn an_agent_in_a_pod_of_the_base_follows_its_node() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let _alone = one_at_a_time();
    apply(&cluster, BASE);
    let objects = objects(&cluster, BASE);
    let node = cluster.node("deploy-base");
    let before = cluster.requests_of(ACCOUNT).len();
    let agent = Agent::start_with(&sandbox, in_pod(&cluster, container(&objects), &node));
    // node_ready is in the default set.
    assert!(agent.health("").check("node_ready").is_some());
    follows(&agent, None);
    node.set_ready("False", "KubeletNotReady");
    follows(&agent, Some("KubeletNotReady"));
    assert_eq!(agent.health("").status, 503);
    node.set_ready("True", "KubeletReady");
    follows(&agent, None);
    assert_eq!(verbs(&cluster, before), BTreeSet::from(["list", "watch"].map(str::to_owned)));
    assert_eq!(node.condition("ReadonlyFilesystem"), None, "the base does not publish");
}

#[test]
fn an_agent_in_a_pod_of_the_overlay_publishes() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let _alone = one_at_a_time();
    apply(&cluster, PUBLISHING);
    let objects = objects(&cluster, PUBLISHING);
    let node = cluster.node("deploy-publishing");
    let before = cluster.requests_of(ACCOUNT).len();
    let agent = Agent::start_with(&sandbox, in_pod(&cluster, container(&objects), &node));
    follows(&agent, None);
    for kind in CONDITIONS {
        agent.wait_for(&format!("condition {kind}"), TIMEOUT, |_| {
            (node.condition(kind).as_deref() == Some("False")).then_some(())
        });
    }
    let expected = BTreeSet::from(["list", "watch", "patch"].map(str::to_owned));
    assert_eq!(verbs(&cluster, before), expected);

    // Publishing is switched off again by the commands in docs/kubernetes.md.
    drop(agent);
    let name = format!("node/{}", node.name());
    let page = fs::read_to_string(directory("docs/kubernetes.md")).unwrap();
    let commands = page.split("  kubectl patch \"$node\" ").nth(1).unwrap();
    let (patch, rest) = commands.split_once('\n').unwrap();
    let patch = patch.replace('\'', "");
    cluster.kubectl_ok(&["patch", &name].into_iter().chain(patch.split(' ')).collect::<Vec<_>>());
    let commands = rest.split("```").next().unwrap().lines();
    let deletions = commands.filter_map(|line| line.strip_prefix("kubectl "));
    let deleted = deletions.map(|line| cluster.kubectl_ok(&line.split(' ').collect::<Vec<_>>()));
    assert_eq!(deleted.count(), 2);
    assert_eq!(applied(&cluster, BASE).len(), 5, "all objects of the base are left");
    for kind in CONDITIONS {
        assert_eq!(node.condition(kind), None);
    }
    assert_eq!(
        node.condition("Ready").as_deref(),
        Some("True"),
        "the kubelet's condition is untouched"
    );
}
