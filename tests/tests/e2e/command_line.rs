//! `tocsin check` and `tocsin faults`: what they print, and their exit codes.

use std::fs;
use std::process::Output;

use e2e::agent::run_cli;
use e2e::{Agent, Filesystem, Sandbox, Volume, inject};
use tocsin_api::faults::{Fault, FaultsResponse};
use tocsin_api::health::{HealthResponse, Status};

/// Exit code, and standard output followed by standard error.
fn text(output: &Output) -> (Option<i32>, String) {
    let bytes = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8(bytes).unwrap())
}

#[test]
fn check_exits_with_the_verdict() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let check = |arguments: &[&str]| {
        // The machine may have an agent of its own on the default port.
        text(&run_cli(&sandbox, &[&["check", "--local"], arguments].concat()))
    };
    let (code, table) = check(&[]);
    assert_eq!(code, Some(0), "{table}");
    assert!(table.contains("filesystem_ro") && table.contains("io_stall"), "{table}");
    let (code, json) = check(&["io_stall", "-o", "json"]);
    assert_eq!(code, Some(0), "{json}");
    let response: HealthResponse = serde_json::from_str(&json).unwrap();
    assert_eq!((response.status, response.checks.len()), (Status::Ready, 1));

    inject::shut_down(volume.point());
    let (code, table) = check(&[]);
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains(&volume.device().name()), "{table}");
    let (code, table) = check(&["io_stall"]);
    assert_eq!(code, Some(0), "{table}");

    // An unknown check is a usage error, not a failed check.
    let (code, message) = check(&["bogus"]);
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("bogus"), "{message}");

    // With a running agent, its answer is printed.
    let agent = Agent::start(&sandbox);
    let url = format!("http://{}", agent.health_address());
    let arguments = ["check", "filesystem_ro", "--health-url", &url, "-o", "json"];
    let (code, json) = text(&run_cli(&sandbox, &arguments));
    assert_eq!(code, Some(1), "{json}");
    let response: HealthResponse = serde_json::from_str(&json).unwrap();
    let health = agent.health("");
    assert!(health.failure("filesystem_ro").is_some());
    assert_eq!(response.checks[0].reason.as_deref(), health.failure("filesystem_ro"));
}

#[test]
fn faults_prints_a_table() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let agent = Agent::start(&sandbox);
    let url = format!("http://{}", agent.admin_address());
    let (code, _) = text(&run_cli(&sandbox, &["faults", "--admin-url", &url]));
    assert_eq!(code, Some(0));
    let at = inject::ext4_error(volume.device());
    agent.wait_failure(at, "filesystem_ro", &[]);
    let (code, table) = text(&run_cli(&sandbox, &["faults", "--admin-url", &url]));
    assert_eq!(code, Some(0), "{table}");
    assert!(table.contains(&volume.device().name()) && table.contains("filesystem_ro"), "{table}");
    let (_, json) = text(&run_cli(&sandbox, &["faults", "--admin-url", &url, "-o", "json"]));
    let response: FaultsResponse = serde_json::from_str(&json).unwrap();
    let ids = |faults: &[Fault]| faults.iter().map(|fault| fault.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&response.faults), ids(&agent.faults()));
    // No agent listens there.
    let (code, message) =
        text(&run_cli(&sandbox, &["faults", "--admin-url", "http://127.0.0.1:1"]));
    assert_eq!(code, Some(1), "{message}");
    assert_eq!(message.trim().lines().count(), 1, "{message}");
}

#[test]
fn only_root_can_clear_a_fault() {
    use std::os::unix::fs::MetadataExt;
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let socket = fs::metadata(agent.control_socket()).unwrap();
    assert_eq!((socket.uid(), socket.mode() & 0o077), (0, 0), "{:o}", socket.mode());
    let (code, message) = text(&run_cli(&sandbox, &["faults", "clear", "io_error-1:2"]));
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("io_error-1:2"), "{message}");
}
