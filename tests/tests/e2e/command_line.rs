//! The other commands, signals, and what the agent costs a healthy disk.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Output;

use e2e::agent::run_cli;
use e2e::{Agent, Filesystem, MIB, Sandbox, Volume, inject};
use rustix::process::Signal;

fn text(output: &Output) -> (Option<i32>, String) {
    let bytes = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.code(), String::from_utf8(bytes).unwrap())
}

#[test]
fn check_says_it_by_its_exit_code() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let check = |arguments: &[&str]| {
        // This machine may have an agent of its own on the usual port.
        text(&run_cli(&sandbox, &[&["check", "--local"], arguments].concat()))
    };
    let (code, table) = check(&[]);
    assert_eq!(code, Some(0), "{table}");
    assert!(table.contains("filesystem_ro") && table.contains("io_stall"), "{table}");
    let (code, json) = check(&["io_stall", "-o", "json"]);
    assert_eq!(code, Some(0), "{json}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["status"], "ready");

    inject::shut_down(volume.point());
    let (code, table) = check(&[]);
    assert_eq!(code, Some(1), "{table}");
    assert!(table.contains(&volume.device().name()), "{table}");
    let (code, table) = check(&["io_stall"]);
    assert_eq!(code, Some(0), "{table}");

    // A check that nobody knows is not one that failed.
    let (code, message) = check(&["bogus"]);
    assert_eq!(code, Some(2), "{message}");
    assert!(message.contains("bogus"), "{message}");

    // A running agent knows more than a look does.
    let agent = Agent::start(&sandbox);
    let url = format!("http://{}", agent.health_address());
    let arguments = ["check", "filesystem_ro", "--health-url", &url, "-o", "json"];
    let (code, json) = text(&run_cli(&sandbox, &arguments));
    assert_eq!(code, Some(1), "{json}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let reason = json["checks"][0]["reason"].as_str().unwrap();
    assert_eq!(Some(reason), agent.health("").failure("filesystem_ro"));
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
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["faults"].as_array().unwrap().len(), agent.faults().len());
    // Nobody there.
    let (code, message) =
        text(&run_cli(&sandbox, &["faults", "--admin-url", "http://127.0.0.1:1"]));
    assert!(code.is_some_and(|code| code != 0), "{message}");
    assert_eq!(message.trim().lines().count(), 1, "{message}");
}

#[test]
fn clearing_is_for_root_alone() {
    use std::os::unix::fs::MetadataExt;
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let socket = fs::metadata(agent.control_socket()).unwrap();
    assert_eq!((socket.uid(), socket.mode() & 0o077), (0, 0), "{:o}", socket.mode());
    let (code, message) = text(&run_cli(&sandbox, &["faults", "clear", "io_error-1:2"]));
    assert!(code.is_some_and(|code| code != 0), "{message}");
    assert!(message.contains("io_error-1:2"), "{message}");
}

#[test]
fn sigterm_and_sigint_end_it_in_order() {
    let Some(sandbox) = Sandbox::new() else { return };
    for signal in [Signal::TERM, Signal::INT] {
        let mut agent = Agent::start(&sandbox);
        // An open, idle connection does not hold it up.
        assert_eq!(agent.health("").status, 200);
        agent.signal(signal);
        assert_eq!(agent.wait_exit().code(), Some(0), "{signal:?}");
        assert!(!agent.control_socket().exists(), "it left its socket behind");
    }
    // A socket left by a killed agent does not keep the next one from starting.
    let mut agent = Agent::start(&sandbox);
    agent.signal(Signal::KILL);
    agent.wait_exit();
    let agent = Agent::start(&sandbox);
    assert_eq!(agent.terminate().code(), Some(0));
}

/// An agent that was told to stop while a client was in the middle of its request.
fn stopping_with_half_a_request(sandbox: &Sandbox) -> (Agent, TcpStream) {
    let agent = Agent::start(sandbox);
    let mut client = TcpStream::connect(agent.health_address()).unwrap();
    client.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n").unwrap();
    // Answered by the same loop, so the half request has been accepted before the signal.
    assert_eq!(agent.health("").status, 200);
    agent.signal(Signal::TERM);
    agent.wait_told(&["stopping"]);
    (agent, client)
}

#[test]
fn a_request_that_has_begun_is_answered_before_the_end() {
    let Some(sandbox) = Sandbox::new() else { return };
    let (mut agent, mut client) = stopping_with_half_a_request(&sandbox);
    client.write_all(b"\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(r#""status":"ready""#), "{answer}");
    assert_eq!(agent.wait_exit().code(), Some(0));
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let Some(sandbox) = Sandbox::new() else { return };
    let (mut agent, _client) = stopping_with_half_a_request(&sandbox);
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait_exit().code(), Some(1));
    agent.wait_told(&["second signal"]);
}

/// The runs of all programs that the agent holds, from the kernel's own statistics.
fn program_runs(agent: &Agent) -> (u64, u64) {
    let directory = format!("/proc/{}/fdinfo", agent.pid());
    let (mut programs, mut runs) = (0, 0);
    for entry in fs::read_dir(directory).unwrap() {
        let info = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let count = info.lines().find_map(|line| line.strip_prefix("run_cnt:"));
        if let Some(count) = count {
            programs += 1;
            runs += count.trim().parse::<u64>().unwrap();
        }
    }
    (programs, runs)
}

/// Turns the kernel's statistics on, and back to what they were.
struct Statistics(String);

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl Statistics {
    fn on() -> Self {
        let before = fs::read_to_string(STATISTICS).unwrap();
        fs::write(STATISTICS, "1").unwrap();
        Self(before)
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _restored = fs::write(STATISTICS, &self.0);
    }
}

#[test]
fn healthy_io_runs_no_program() {
    // Alone: the programs see the faults that other tests make.
    let Some(sandbox) = Sandbox::alone() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    let agent = Agent::start(&sandbox);
    let _statistics = Statistics::on();
    let device = volume.device().path();
    // Somebody else on this machine may break something at the same time, but not every time.
    let quiet = (0..5).any(|_| {
        let before = program_runs(&agent);
        assert!(before.0 > 0, "the agent holds no program");
        assert_eq!(inject::read_block_times(&device, 32 * MIB, 10_000), 0);
        inject::write_synced(&volume.path("file"), 8 << 20).unwrap();
        program_runs(&agent) == before
    });
    assert!(quiet, "programs ran each time: {:?}", program_runs(&agent));
    let before = program_runs(&agent).1;
    // The statistics do count.
    inject::ext4_error(volume.device());
    assert!(program_runs(&agent).1 > before);
}
