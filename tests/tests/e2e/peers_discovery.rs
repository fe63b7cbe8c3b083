//! Peers by the `EndpointSlices` of a Service, with a real API server.

use std::path::Path;

use e2e::agent::TIMEOUT;
use e2e::cluster::{free_port, rule};
use e2e::{Agent, ControlPlane, Sandbox};
use serde_json::{Value, json};
use tocsin_api::peers::PeersResponse;

const NAME: &str = "peers-discovery";

/// Starts an agent that finds its peers behind the Service `agents` of that namespace.
fn start(sandbox: &Sandbox, kubeconfig: &Path, node: &str, namespace: &str) -> Agent {
    Agent::start_with(sandbox, |command| {
        command
            .env("KUBECONFIG", kubeconfig)
            .env("NODE_NAME", node)
            .env("PEERS", "on")
            .env("POD_IP", "127.0.0.1")
            .env("PEERS_PORT", free_port().to_string())
            .env("SERVICE_NAME", "agents")
            .env("NAMESPACE", namespace);
    })
}

fn slice(name: &str, endpoints: &Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": NAME,
            "labels": { "kubernetes.io/service-name": "agents" },
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
    })
}

fn peers(agent: &Agent) -> PeersResponse {
    agent.admin("/peers").read()
}

/// Waits until the peers are these, with the names of their nodes.
fn wait_for(agent: &Agent, expected: &[(&str, &str)]) {
    agent.wait_for(&format!("{expected:?}"), TIMEOUT, |agent| {
        let found = peers(agent);
        let mut found: Vec<_> = found
            .peers
            .iter()
            .map(|peer| (peer.identity.address.split(':').next().unwrap(), &*peer.identity.node))
            .collect();
        found.sort_unstable();
        (found == expected).then_some(())
    });
}

/// The agent's own address is a loopback one, from which the kernel sends nothing to another host.
#[test]
fn endpoint_slices_are_listed_once_and_watched() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node(NAME);
    let account = cluster.service_account(NAME, "agent");
    let verbs = &["list", "watch"];
    cluster.grant(
        &account,
        &[rule("", "nodes", verbs), rule("discovery.k8s.io", "endpointslices", verbs)],
    );
    let ready =
        json!({ "addresses": ["192.0.2.1"], "nodeName": "n1", "conditions": { "ready": true } });
    let not_ready =
        json!({ "addresses": ["192.0.2.2"], "nodeName": "n2", "conditions": { "ready": false } });
    cluster.apply(&slice("agents-1", &json!([ready, not_ready])));
    let agent = start(&sandbox, &cluster.kubeconfig(&account.user), node.name(), NAME);
    wait_for(&agent, &[("192.0.2.1", "n1"), ("192.0.2.2", "n2")]);
    assert!(peers(&agent).peers.iter().all(|peer| peer.state == "unseen"));
    let third = json!({ "addresses": ["192.0.2.3"], "nodeName": "n3" });
    cluster.apply(&slice("agents-2", &json!([third])));
    wait_for(&agent, &[("192.0.2.1", "n1"), ("192.0.2.2", "n2"), ("192.0.2.3", "n3")]);
    cluster.apply(&slice("agents-1", &json!([not_ready])));
    wait_for(&agent, &[("192.0.2.2", "n2"), ("192.0.2.3", "n3")]);
    cluster.delete(&slice("agents-2", &json!([])));
    wait_for(&agent, &[("192.0.2.2", "n2")]);
    let requests = cluster.requests_of(&account.user);
    let slices: Vec<_> =
        requests.iter().filter(|entry| entry.resource == "endpointslices").collect();
    let of = |verb: &str| slices.iter().filter(|entry| entry.verb == verb).count();
    assert_eq!((of("list"), of("watch"), slices.len()), (1, 1, 2), "{slices:?}");
}

#[test]
fn a_refusal_names_the_rights_that_are_needed() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let name = "peers-refused";
    let node = cluster.node(name);
    let account = cluster.service_account(name, "agent");
    cluster.grant(&account, &[rule("", "nodes", &["list", "watch"])]);
    let agent = start(&sandbox, &cluster.kubeconfig(&account.user), node.name(), name);
    let words = ["EndpointSlices of peers-refused/agents: ", "403", "deploy/components/peers"];
    agent.wait_for("the refusal", TIMEOUT, |agent| {
        let degraded = peers(agent).degraded;
        degraded.iter().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
    });
}
