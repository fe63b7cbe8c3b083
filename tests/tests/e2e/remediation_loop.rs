//! The closed loop of node remediation: a kernel's fault becomes a condition of the Node, which becomes a remediation
//! object, which goes when the fault is repaired. Real kernel, agent, API server and controller.

use std::time::Duration;

use e2e::closed_loop::ClosedLoop;
use e2e::remediation::{controller_prints, node_health_check};
use e2e::sandbox::say;
use e2e::{ControlPlane, Sandbox};

/// The time from a fault to its remediation object is 3 s at most (`cargo xtask bench` measures it), on a machine that
/// does nothing else; this is what a test may take.
const SOON: Duration = Duration::from_secs(30);
const NAME: &str = "rem-closed";

#[test]
fn a_kernel_fault_becomes_a_remediation_and_a_repair_ends_it() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(cluster) = ControlPlane::private() else { return };
    let mut closed = ClosedLoop::start(&cluster, &sandbox, NAME, |command| {
        command.env("REMEDIATION_COOL_OFF", "0s").env("REMEDIATION_ATTEMPTS", "3");
    });
    let round = |closed: &mut ClosedLoop| {
        let broken = closed.break_it();
        let object = closed.wait_object();
        let took = broken.elapsed();
        say(&format!("MEASURED kernel fault to remediation object: {took:?}"));
        assert!(took < SOON, "{took:?}");
        assert_eq!(object.metadata.name.as_deref(), Some(NAME));
        // It was the agent's condition that did it.
        let (reason, message) = closed.wait_condition("True");
        assert_eq!(reason, "FilesystemIsReadOnly");
        assert!(message.ends_with(" (hint: reboot)"), "{message}");
    };
    let repair = |closed: &mut ClosedLoop| {
        let repaired = closed.repair();
        closed.wait_no_object();
        say(&format!("MEASURED repair to no remediation object: {:?}", repaired.elapsed()));
        closed.wait_conditions("False");
    };
    for _ in 0..3 {
        round(&mut closed);
        repair(&mut closed);
    }
    // A node that flaps is no reboot loop: this one waits, and everybody can see why and what would help.
    closed.break_it();
    let waiting = closed.controller.wait("the node waits", SOON, || {
        let waiting = node_health_check(&cluster, NAME)["status"]["waitingNodes"][0].clone();
        waiting.is_object().then_some(waiting)
    });
    assert_eq!(waiting["reason"], "AttemptsExhausted", "{waiting}");
    assert_eq!(waiting["hint"], "reboot", "{waiting}");
    let table = cluster.kubectl_ok(&["get", "nhc", NAME]);
    assert!(table.contains("rem-closed AttemptsExhausted"), "{table}");
    let settings = ["explain", "--cool-off", "0s", "--attempts", "3", NAME];
    let explained = controller_prints(&cluster.kubeconfig("admin"), NAME, &settings);
    assert!(explained.contains("(FilesystemIsReadOnly); hint: reboot"), "{explained}");
    assert!(explained.contains("waits: AttemptsExhausted"), "{explained}");
    assert!(closed.remediator.objects().is_empty());
    closed.repair();
    closed.wait_conditions("False");
}
