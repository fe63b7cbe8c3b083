//! The demo of node remediation: in a terminal, a real filesystem of a node breaks, a remediation begins, a remediator
//! that is played here repairs it, and the remediation ends. Then it breaks again, too soon.
//!
//! It starts an etcd and an API server of its own, an agent and a controller, and leaves nothing behind. It exits with an
//! error if they do not act as they should.
#![expect(clippy::print_stdout, reason = "it prints, or panics")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use e2e::closed_loop::ClosedLoop;
use e2e::remediation::{controller_prints, node_health_check};
use e2e::{ControlPlane, Sandbox};
use serde_json::json;

const NODE: &str = "node-7";
/// For what takes a second.
const SOON: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let Some(sandbox) = Sandbox::new() else { return ExitCode::FAILURE };
    let began = Instant::now();
    let Some(cluster) = ControlPlane::private() else { return ExitCode::FAILURE };
    println!("A cluster: etcd and kube-apiserver, after {:.1?}", began.elapsed());
    let mut closed = ClosedLoop::start(&cluster, &sandbox, NODE, |_| {});
    println!("An agent on {NODE}, which watches an ext4 filesystem on {}", place(&closed));
    println!(
        "A controller, and a NodeHealthCheck: the agent's conditions make a node unhealthy at once"
    );
    kubectl(&cluster, &["get", "nhc", NODE]);

    println!("\nThe filesystem reports an error, and the kernel stops all writing");
    let broken = closed.break_it();
    let (reason, message) = closed.wait_condition("True");
    println!("  after {:.1?} the Node's condition ReadonlyFilesystem is True:", broken.elapsed());
    println!("    {reason}: {message}");
    let object = closed.wait_object();
    println!("  after {:.1?} there is a remediation object", broken.elapsed());
    let name = object.metadata.name.unwrap_or_default();
    closed.controller.wait("the status", SOON, || {
        (node_health_check(&cluster, NODE)["status"]["phase"] == "Remediating").then_some(())
    });
    kubectl(&cluster, &["get", "nhc", NODE]);
    kubectl(&cluster, &["get", "reboots", "--namespace", NODE]);
    explain(&cluster);

    println!("\nThe remediator takes it: it \"reboots\" the node (umount, e2fsck, mount)");
    let processing = json!([{ "type": "Processing", "status": "True" }]);
    closed.remediator.change(&name, &json!({
        "metadata": { "finalizers": ["tocsin.demo/remediator"] }, "status": { "conditions": processing },
    }));
    let repaired = closed.repair();
    closed.wait_condition("False");
    println!("  after {:.1?} the condition is False", repaired.elapsed());
    closed.controller.wait("the deletion", SOON, || {
        closed.remediator.objects().pop()?.metadata.deletion_timestamp
    });
    println!("  after {:.1?} the controller deletes its object", repaired.elapsed());
    closed.remediator.change(&name, &json!({ "metadata": { "finalizers": null } }));
    closed.wait_no_object();
    println!("  after {:.1?} the remediator has let it go, and it is gone", repaired.elapsed());
    closed.wait_conditions("False");

    println!("\nIt breaks again at once: a node that flaps must not become a reboot loop");
    closed.break_it();
    closed.controller.wait("the node waits", SOON, || {
        (node_health_check(&cluster, NODE)["status"]["waitingNodes"][0]["reason"] == "CoolingOff")
            .then_some(())
    });
    kubectl(&cluster, &["get", "nhc", NODE]);
    explain(&cluster);
    assert!(closed.remediator.objects().is_empty(), "no second remediation so soon");

    let ClosedLoop { agent, controller, remediator, node, volume } = closed;
    assert!(agent.terminate().success(), "the agent ends in order");
    drop((controller, remediator, node, volume));
    drop(cluster);
    drop(sandbox);
    println!(
        "\nOver: agent, controller, cluster, mount and loop device are gone; that took {:.1?}",
        began.elapsed()
    );
    ExitCode::SUCCESS
}

fn place(closed: &ClosedLoop) -> String {
    format!("{} at {}", closed.volume.device().path().display(), closed.volume.point().display())
}

fn kubectl(cluster: &ControlPlane, arguments: &[&str]) {
    println!("  $ kubectl {}", arguments.join(" "));
    indented(&cluster.kubectl_ok(arguments));
}

fn explain(cluster: &ControlPlane) {
    println!("  $ tocsin-controller explain {NODE}");
    indented(&controller_prints(&cluster.kubeconfig("admin"), NODE, &["explain", NODE]));
}

fn indented(text: &str) {
    for line in text.lines() {
        println!("    {line}");
    }
}
