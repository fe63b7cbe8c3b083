//! `deploy/heartbeat`: the API server accepts it under restricted Pod Security, and its role has exactly the rights that
//! the heartbeat needs.

use e2e::cluster::rule;
use e2e::{ControlPlane, Heartbeat, PodIs, Workloads};
use serde_json::{Value, json};

use crate::manifests::{applied, apply, objects};

const HEARTBEAT: &str = "deploy/heartbeat";

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap()
}

#[test]
fn the_heartbeat_is_applied_and_its_pod_is_accepted() {
    let Some(cluster) = ControlPlane::shared() else { return };
    apply(&cluster, HEARTBEAT);
    let first = applied(&cluster, HEARTBEAT);
    assert_eq!(first.len(), 8, "{first:#?}");
    apply(&cluster, HEARTBEAT);
    assert_eq!(applied(&cluster, HEARTBEAT), first, "a second time nothing changes");
    // What the Deployment's controller would make of it; a pod that wants more is refused in that namespace.
    let objects = objects(&cluster, HEARTBEAT);
    let mut pod = of_kind(&objects, "Deployment")["spec"]["template"].clone();
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!("heartbeat-pod");
    pod["metadata"]["namespace"] = json!("tocsin-heartbeat");
    cluster.apply(&pod);
    pod["metadata"]["name"] = json!("privileged-pod");
    pod["spec"]["containers"][0]["securityContext"]["privileged"] = json!(true);
    pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, pod.to_string()).unwrap();
    let path = file.path().display().to_string();
    let refused = cluster.kubectl(&["create", "--filename", &path]);
    let words = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && words.contains("violates PodSecurity \"restricted"),
        "{words}"
    );
}

#[test]
fn the_deployment_has_the_heartbeats_variables_and_ports() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let objects = objects(&cluster, HEARTBEAT);
    let container = &of_kind(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    let binary = e2e::process::binary("tocsin-controller", "TOCSIN_CONTROLLER_BIN");
    let help = std::process::Command::new(binary).args(["heartbeat", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for variable in container["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        assert!(help.contains(&format!("[env: {name}")), "{name} is no variable of the heartbeat");
    }
    for port in container["ports"].as_array().unwrap() {
        let number = port["containerPort"].to_string();
        assert!(help.contains(&format!("[default: {number}]")), "{port} is no default port");
    }
}

/// Every right is needed: without it, what the heartbeat needs it for is said to be missing.
#[test]
fn every_right_of_the_heartbeat_is_needed() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let workloads = Workloads::new(&cluster, "hb-roles");
    let deployment = workloads.deployment("web", 1, 0);
    let set = workloads.replica_set(&deployment, "web-1");
    workloads.pod(&set, "web-1-a", PodIs::Ready);
    let objects = objects(&cluster, HEARTBEAT);
    let rules = of_kind(&objects, "ClusterRole")["rules"].as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let rights: Vec<(String, String)> = rules
        .iter()
        .map(|rule| (text(&rule["apiGroups"][0]), text(&rule["resources"][0])))
        .collect();
    assert!(rules.iter().all(|rule| rule["verbs"] == json!(["list", "watch"])));
    assert_eq!(rights.len(), 6);
    let path = "/api/healthz/hb-roles/deployment/web";
    for missing in [None].into_iter().chain(rights.iter().map(Some)) {
        let name = format!("without-{}", missing.map_or("nothing", |(_, resource)| resource));
        let account = cluster.service_account("hb-roles", &name);
        let granted = rights.iter().filter(|right| Some(*right) != missing);
        let granted: Vec<_> =
            granted.map(|(group, resource)| rule(group, resource, &["list", "watch"])).collect();
        cluster.grant(&account, &granted);
        let kubeconfig = cluster.kubeconfig(&account.user);
        let heartbeat = Heartbeat::start_unready(&kubeconfig, |command| {
            command.env("HEARTBEAT_COMPAT", "false");
        });
        match missing {
            None => {
                heartbeat.wait_status(path, 200);
            }
            // Warnings are worth having, and no more.
            Some((_, resource)) if resource == "events" => {
                heartbeat.wait_status(path, 200);
                heartbeat.wait("the missing events", || {
                    let found = heartbeat.get(path);
                    assert_eq!(found.status, 200);
                    found.body.contains("its events cannot be read: events: ").then_some(())
                });
            }
            Some((_, resource)) => heartbeat.wait("the missing right", || {
                let found = heartbeat.get(path);
                assert_eq!(found.status, 502, "{resource}");
                let words =
                    [format!("{resource} is forbidden"), format!("{resource}.apps is forbidden")];
                words.iter().any(|words| found.body.contains(words)).then_some(())
            }),
        }
    }
}
