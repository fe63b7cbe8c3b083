//! Real kernel faults, and what the agent makes of them. One module per family.
//!
//! Every test has a mount namespace of its own and runs beside others; see `e2e::sandbox`. The
//! names of the faults are the rows of the table in the spine's specification.
#![expect(clippy::unwrap_used, reason = "tests panic")]

mod abuse;
mod agent_check;
mod all_hang;
mod bad_input;
mod cluster;
mod cluster_loss;
mod command_line;
mod container_runtime;
mod deploy;
mod disk_pressure;
mod door;
mod filesystem_ro;
mod fixtures;
mod fixtures_cluster;
mod grpc;
mod haproxy;
mod health;
mod http2_bodies;
mod http_probes;
mod io_errors;
mod io_stall;
mod load_balancers;
mod many_mounts;
mod nameservers;
mod network;
mod publish;
mod rbac;
mod restart;
mod shop;
mod silent;
mod without_ebpf;

use e2e::agent::Agent;
use e2e::{LoopDevice, Volume};
use serde_json::Value;

/// The one open fault of this kind on this device, with the fields every fault has checked.
fn fault(agent: &Agent, kind: &str, device: &LoopDevice) -> Value {
    let faults = agent.faults();
    let mut found =
        faults.iter().filter(|fault| fault["kind"] == kind && fault["device"] == device.number());
    let (Some(fault), None) = (found.next(), found.next()) else {
        agent.fail(&format!("not one fault {kind} on {}", device.number()));
    };
    assert!(fault["id"].as_str().unwrap().starts_with(&format!("{kind}-")), "{fault}");
    assert_eq!(fault["device_name"], device.name());
    assert!(fault["count"].as_u64().unwrap() >= 1, "{fault}");
    assert!(fault["opened"].as_str().unwrap().contains('T'), "{fault}");
    assert!(!fault["reason"].as_str().unwrap().is_empty(), "{fault}");
    assert!(!fault["evidence"].as_array().unwrap().is_empty(), "{fault}");
    fault.clone()
}

/// What a reason has to name: the device and the mount point.
fn names(volume: &Volume) -> [String; 2] {
    [volume.device().name(), volume.point_text()]
}
