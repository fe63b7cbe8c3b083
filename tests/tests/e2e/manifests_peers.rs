//! `deploy/components/peers`: the API server accepts it, the agent understands its settings, and its role suffices.

use std::path::Path;

use e2e::agent::TIMEOUT;
use e2e::{Agent, ControlPlane, Sandbox, tool};
use serde_json::{Value, json};

use crate::manifests::{
    ACCOUNT, BASE, applied, apply, container, directory, flags, in_pod, objects, one_at_a_time,
};

/// Where the key is, in a copy of `deploy`.
const KEY: &str = "deploy/components/peers/peers.key";

/// The overlay in a copy of `deploy`, which gets a key.
fn with_key(sandbox: &Sandbox) -> String {
    let copy = sandbox.path("deploy");
    tool::run("cp", &["-r", &directory("deploy").to_string_lossy(), &copy.to_string_lossy()]);
    std::fs::write(sandbox.path(KEY), e2e::peer_net::KEY).unwrap();
    copy.join("overlays/peers").to_string_lossy().into_owned()
}

fn find<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let mut these = objects
        .iter()
        .filter(|object| object["kind"] == kind && object["metadata"]["name"] == "tocsin-peers");
    these.next().ok_or_else(|| format!("no {kind}")).unwrap()
}

#[test]
fn the_peers_are_deployed_with_a_key_and_not_without() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let _alone = one_at_a_time();
    if !directory(KEY).exists() {
        let overlay = directory("deploy/overlays/peers");
        let on: [&Path; 4] =
            ["create".as_ref(), "--dry-run=client".as_ref(), "-k".as_ref(), &overlay];
        let output = cluster.kubectl(&on);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains("peers.key"), "{errors}");
    }
    let overlay = with_key(&sandbox);
    apply(&cluster, &overlay);
    let first = applied(&cluster, &overlay);
    assert_eq!(first.len(), 10, "{first:#?}");
    apply(&cluster, &overlay);
    assert_eq!(applied(&cluster, &overlay), first);

    // What the agent is told exists, and the port is its own.
    let objects = objects(&cluster, &overlay);
    let container = container(&objects);
    let flags = flags(&sandbox);
    let variables = container["env"].as_array().unwrap();
    for variable in variables {
        let known = format!("[env: {}=", variable["name"].as_str().unwrap());
        assert!(flags.iter().any(|flag| flag.contains(&known)), "{known}");
    }
    let port = flags.iter().find(|flag| flag.starts_with("peers-port")).unwrap();
    assert!(port.contains("[default: 25004]"), "{port}");
    let ports = container["ports"].as_array().unwrap().iter();
    let ports: Vec<_> = ports.filter(|port| port["hostPort"] == 25004).collect();
    assert_eq!(ports.len(), 2, "UDP and TCP: {ports:?}");
    let service = &find(&objects, "Service")["spec"];
    assert_eq!(
        (&service["clusterIP"], &service["publishNotReadyAddresses"]),
        (&json!("None"), &json!(true))
    );
    // The Service finds the DaemonSet's pods, and the agents ask for this Service.
    let set = objects.iter().find(|object| object["kind"] == "DaemonSet").unwrap();
    assert_eq!(service["selector"], set["spec"]["selector"]["matchLabels"]);
    assert!(variables.contains(&json!({ "name": "SERVICE_NAME", "value": "tocsin-peers" })));
    // The key arrives where the agent reads it.
    let mount = container["volumeMounts"].as_array().unwrap().iter();
    let mount = mount.map(|mount| mount["mountPath"].as_str().unwrap());
    let files = find(&objects, "Secret")["data"].as_object().unwrap().keys();
    let paths: Vec<_> =
        mount.flat_map(|path| files.clone().map(move |file| format!("{path}/{file}"))).collect();
    let told = variables.iter().find(|variable| variable["name"] == "PEERS_KEY_FILE").unwrap();
    assert!(paths.contains(&told["value"].as_str().unwrap().to_owned()), "{paths:?}");
}

#[test]
fn an_agent_in_a_pod_of_the_overlay_finds_a_peer_by_its_endpoint_slice() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let _alone = one_at_a_time();
    let overlay = with_key(&sandbox);
    apply(&cluster, &overlay);
    let objects = objects(&cluster, &overlay);
    let node = cluster.node("deploy-peers");
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "tocsin-peers-test",
            "namespace": "tocsin",
            "labels": { "kubernetes.io/service-name": "tocsin-peers" },
        },
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": ["192.0.2.7"],
            "conditions": { "ready": false },
            "nodeName": "another-node",
        }],
        "ports": [{ "name": "peers", "port": 25004, "protocol": "UDP" }],
    });
    let file = sandbox.path("slice.json");
    std::fs::write(&file, slice.to_string()).unwrap();
    cluster.kubectl_ok(&["apply", "-f", &file.to_string_lossy()]);
    let before = cluster.requests_of(ACCOUNT).len();
    let in_pod = in_pod(&cluster, container(&objects), &node);
    let key = sandbox.path(KEY);
    let agent = Agent::start_with(&sandbox, |command| {
        in_pod(command);
        command.env("PEERS_KEY_FILE", key);
    });
    agent.wait_for("the peer of the slice, which is not ready", TIMEOUT, |agent| {
        let health = agent.health("?check=peers");
        health
            .degraded("peers")
            .filter(|why| why.contains("none of 1 peers has answered"))
            .map(drop)
    });
    for entry in cluster.requests_of(ACCOUNT).split_off(before) {
        assert!(entry.code.is_none_or(|code| code < 300), "{entry:?}");
    }
    drop(agent);
    cluster.kubectl_ok(&["delete", "-n", "tocsin", "endpointslice", "tocsin-peers-test"]);
    // Back to the base, for the other tests.
    apply(&cluster, BASE);
}
