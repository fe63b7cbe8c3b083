//! No eBPF: the verdict is still right, at most a second later, and `/health` says what is missing.

use std::fs;
use std::os::unix::process::CommandExt;
use std::time::Instant;

use e2e::agent::PATIENCE;
use e2e::faultfs::{EVERYWHERE, Errno, Operation};
use e2e::{Agent, Filesystem, Sandbox, Volume, inject, require};

use crate::names;

fn start(sandbox: &Sandbox) -> Agent {
    let agent = Agent::start_with(sandbox, |command| {
        command.env("NO_EBPF", "true");
    });
    expect_degraded(&agent);
    agent
}

/// Passing, and saying why that is less sure than it could be.
fn expect_degraded(agent: &Agent) {
    let health = agent.health("");
    assert_eq!(health.status, 200);
    let why = health.check("io_errors").unwrap().degraded.clone();
    assert!(why.as_ref().is_some_and(|why| !why.is_empty()), "{health:?}");
    let hooks = agent.faults_page()["hooks"].clone();
    let hooks = hooks.as_array().unwrap();
    assert!(hooks.iter().all(|hook| hook["state"] != "attached"), "{hooks:?}");
    assert!(agent.admin("/metrics").body.contains("tocsin_check_degraded"));
}

#[test]
fn ext4_remount_ro() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let agent = start(&sandbox);
    let [device, point] = names(&volume);
    let at = inject::ext4_error(volume.device());
    agent.wait_failure(at, "filesystem_ro", &[&device, &point]);
    let at = Instant::now();
    volume.unmount();
    agent.wait_recovery(at, PATIENCE);
}

#[test]
fn ext4_continue() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=continue");
    let agent = start(&sandbox);
    let [device, point] = names(&volume);
    let at = inject::ext4_error(volume.device());
    agent.wait_failure(at, "io_errors", &[&device, &point]);
    assert!(agent.health("").passed("filesystem_ro"));
    let at = Instant::now();
    volume.unmount();
    agent.wait_recovery(at, PATIENCE);
}

#[test]
fn btrfs_forced_read_only() {
    if !require(Filesystem::Btrfs.is_available(), "no btrfs here") {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::breakable(&sandbox, "vol", Filesystem::Btrfs, "");
    let agent = start(&sandbox);
    let [device, point] = names(&volume);
    volume.control().fail(Operation::Write, Errno::EIO, EVERYWHERE);
    let at = Instant::now();
    fs::write(volume.path("file"), "").unwrap();
    inject::sync(volume.point()).unwrap_err();
    agent.wait_failure(at, "filesystem_ro", &[&device, &point]);
    volume.control().heal();
    let at = Instant::now();
    volume.unmount();
    agent.wait_recovery(at, PATIENCE);
}

#[test]
fn remount_ro_through_fsconfig() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    let agent = start(&sandbox);
    let [device, point] = names(&volume);
    let at = inject::reconfigure(volume.point(), "ro");
    agent.wait_failure(at, "filesystem_ro", &[&device, &point]);
    let at = inject::reconfigure(volume.point(), "rw");
    agent.wait_recovery(at, PATIENCE);
}

/// Not root, so neither tracefs nor bpf(2) is for us: what is left is the mount table.
#[test]
fn an_ordinary_user_with_an_unreadable_tracefs() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    // The binary may lie where only root can go.
    let binary = sandbox.path("tocsin");
    // By a process of its own: what this one has open for writing, a child of another test may have open too, and
    // then it cannot be run.
    let copied = std::process::Command::new("cp").arg(e2e::agent::binary()).arg(&binary).status();
    assert!(copied.unwrap().success());
    let run = sandbox.path("run");
    fs::create_dir(&run).unwrap();
    std::os::unix::fs::chown(&run, Some(65534), Some(65534)).unwrap();
    let agent = Agent::start_with(&sandbox, |command| {
        let mut other = std::process::Command::new(&binary);
        other.args(command.get_args());
        other.env_clear();
        other.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        other.env("CONTROL_SOCKET", run.join("control.sock"));
        other.uid(65534).gid(65534);
        other.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        e2e::sys::die_with_parent(&mut other);
        *command = other;
    });
    expect_degraded(&agent);
    let [device, point] = names(&volume);
    let at = inject::reconfigure(volume.point(), "ro");
    agent.wait_failure(at, "filesystem_ro", &[&device, &point]);
    let at = inject::reconfigure(volume.point(), "rw");
    agent.wait_recovery(at, PATIENCE);
}
