//! End-to-end tests: real kernel faults, a real API server, real load balancers, and what users see of the agent.
//!
//! Each file is named after the check or the part that it tests; `fixtures*.rs` test the fixtures themselves. Every
//! test has a mount namespace of its own and runs beside others; see `e2e::sandbox`.
#![expect(clippy::unwrap_used, reason = "tests panic")]

mod abuse;
mod agent_check;
mod api_credentials;
mod command_line;
mod container_runtime;
mod disk_pressure;
mod everything_hangs;
mod filesystem_ro;
mod first_verdict;
mod fixtures;
mod fixtures_control_plane;
mod fixtures_switch;
mod grpc;
mod haproxy;
mod health_endpoint;
mod health_http2;
mod health_http2_limits;
mod health_listener;
mod health_listener_abuse;
mod heartbeat;
mod heartbeat_abuse;
mod heartbeat_manifests;
mod http_probes;
mod invalid_input;
mod io_errors;
mod io_stall;
mod kernel_programs;
mod load_balancers;
mod lookout;
mod manifests;
mod manifests_peers;
mod memory;
mod memory_superblocks;
mod mount_table;
mod mounts;
mod network_dns;
mod network_gateway;
mod no_false_alarms;
mod node_checks;
mod on_api_loss;
mod peers;
mod peers_discovery;
mod peers_storm_guard;
mod pool_scenario;
mod publish_conditions;
mod rbac;
mod remediation;
mod remediation_fleet;
mod remediation_install;
mod remediation_loop;
mod remediation_rules;
mod shutdown;
mod stacks;
mod standstill;
mod state_file;
mod tls;
mod tracefs_hangs;
mod umount;
mod week;
mod without_ebpf;

use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::Agent;
use e2e::sandbox::say;
use e2e::{LoopDevice, Volume};
use tocsin_api::faults::Fault;

/// The median of answers that wait for nothing: they take some 0.5 ms on an idle machine.
const MEDIAN_LIMIT: Duration = Duration::from_millis(25);

/// The slowest of such answers, on a machine that may be busy: less than the shortest time-out (1 s) of anything that
/// the agent asks, so an answer that waited for one of these is found.
const SLOWEST_LIMIT: Duration = Duration::from_millis(900);

/// The one open fault of this kind on this device; the fields that every fault has are checked.
fn fault(agent: &Agent, kind: &str, device: &LoopDevice) -> Fault {
    let faults = agent.faults().into_iter();
    let mut found = faults.filter(|fault| fault.kind == kind && fault.device == device.number());
    let (Some(fault), None) = (found.next(), found.next()) else {
        agent.fail(&format!("not one fault {kind} on {}", device.number()));
    };
    // The number in it may be another one: btrfs has one of its own.
    assert!(fault.id.starts_with(&format!("{kind}-")), "{fault:?}");
    assert_eq!(fault.device_name, device.name());
    assert!(fault.count >= 1, "{fault:?}");
    assert!(fault.opened.contains('T') && fault.last >= fault.opened, "{fault:?}");
    assert!(!fault.reason.is_empty() && !fault.evidence.is_empty(), "{fault:?}");
    fault
}

/// The names that a reason has to have: the device's and the mount point's.
fn names(volume: &Volume) -> [String; 2] {
    [volume.device().name(), volume.point_text()]
}

/// Measures an answer many times, 5 ms apart; fails if answers wait for something.
fn answers_do_not_wait(what: &str, times: usize, mut answer: impl FnMut()) {
    let mut took: Vec<_> = (0..times)
        .map(|_| {
            let began = Instant::now();
            answer();
            let took = began.elapsed();
            thread::sleep(Duration::from_millis(5));
            took
        })
        .collect();
    do_not_wait(what, &mut took);
}

/// Fails if these answers waited for something.
fn do_not_wait(what: &str, took: &mut [Duration]) {
    took.sort_unstable();
    let (median, slowest) = (took[took.len() / 2], took[took.len() - 1]);
    say(&format!(
        "MEASURED {what}: {} answers, median {median:?}, slowest {slowest:?}",
        took.len()
    ));
    assert!(median < MEDIAN_LIMIT, "{what}: the median is {median:?}");
    assert!(slowest < SLOWEST_LIMIT, "{what}: the slowest took {slowest:?}");
}
