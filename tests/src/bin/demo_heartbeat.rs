//! The heartbeat's demo: in a terminal, a Deployment in a real API server breaks and is repaired, and a status page is told.
//!
//! It starts an etcd and an API server of its own and leaves nothing behind. It exits with an error if the heartbeat does
//! not answer as it should.
#![expect(clippy::print_stdout, reason = "it prints, or panics")]

use std::process::ExitCode;
use std::time::Instant;

use e2e::{ControlPlane, Heartbeat, PodIs, Workloads};
use serde_json::json;

const PATH: &str = "/api/healthz/shop/deployment/web";

fn main() -> ExitCode {
    let began = Instant::now();
    let Some(cluster) = ControlPlane::private() else { return ExitCode::FAILURE };
    println!("A cluster: etcd and kube-apiserver, after {:.1?}", began.elapsed());
    let workloads = Workloads::new(&cluster, "shop");
    let deployment = workloads.deployment("web", 3, 1);
    let set = workloads.replica_set(&deployment, "web-1");
    for pod in ["web-1-a", "web-1-b", "web-1-c"] {
        workloads.pod(&set, pod, PodIs::Ready);
    }
    println!("\nA Deployment of three pods, of which one may be unavailable, and a heartbeat");
    let heartbeat = Heartbeat::start(&cluster.kubeconfig("admin"), |command| {
        command.env("HEARTBEAT_COMPAT", "false");
    });
    show(&heartbeat, 200);
    println!("\nOne pod fails its readiness probe: the Deployment is up, degraded");
    workloads.warn(
        "web-1-b",
        "Unhealthy",
        "Readiness probe failed: HTTP probe failed with statuscode: 503",
    );
    workloads.pod_is("web-1-b", PodIs::NotReady);
    heartbeat.wait("the degraded answer", || {
        heartbeat.get(PATH).body.contains("Readiness probe failed").then_some(())
    });
    show(&heartbeat, 200);
    println!("\nA second one is evicted: down");
    workloads.pod_is("web-1-c", PodIs::Evicted);
    println!("  told after {:.1?}", heartbeat.wait_status(PATH, 503));
    show(&heartbeat, 503);
    println!("\nRepaired: a new pod takes its place");
    workloads.pod(&set, "web-1-d", PodIs::Ready);
    println!("  told after {:.1?}", heartbeat.wait_status(PATH, 200));
    show(&heartbeat, 200);
    println!("\nThe API server dies: nobody can say, and the last answer is not repeated");
    cluster.kill_api();
    println!("  told after {:.1?}", heartbeat.wait_status(PATH, 502));
    show(&heartbeat, 502);
    println!("\nIt comes back; meanwhile somebody has scaled the Deployment to 0");
    cluster.start_api();
    workloads.patch("deployment", "web", &json!({ "spec": { "replicas": 0 } }));
    println!("  told after {:.1?}", heartbeat.wait_status(PATH, 503));
    show(&heartbeat, 503);
    assert!(heartbeat.terminate().success(), "the heartbeat ends in order");
    drop(cluster);
    println!("\nOver: heartbeat, API server and etcd are gone; that took {:.1?}", began.elapsed());
    ExitCode::SUCCESS
}

fn show(heartbeat: &Heartbeat, expected: u16) {
    let answer = heartbeat.get(PATH);
    println!("  $ curl -H 'Authorization: Basic …' http://{}{PATH}", heartbeat.api_address());
    println!("  {} {}", answer.status, answer.body);
    assert_eq!(answer.status, expected, "not the expected status");
}
