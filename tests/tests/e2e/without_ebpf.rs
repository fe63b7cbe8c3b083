//! Without eBPF: the verdict is still right, at most a second later, and `/health` says what is missing.

use std::fs;
use std::os::unix::process::CommandExt;
use std::time::Instant;

use e2e::agent::TIMEOUT;
use e2e::faulty_disk::{EVERYWHERE, Errno, Operation};
use e2e::{Agent, Filesystem, Sandbox, Volume, inject, require};

use crate::names;

fn start(sandbox: &Sandbox) -> Agent {
    let agent = Agent::start_with(sandbox, |command| {
        command.env("NO_EBPF", "true");
    });
    is_degraded(&agent);
    agent
}

/// The checks pass and are degraded, in `/health`, in `/faults` and in the metrics.
fn is_degraded(agent: &Agent) {
    let health = agent.health("");
    assert_eq!(health.status, 200);
    assert!(health.degraded("io_errors").is_some_and(|why| !why.is_empty()), "{health:?}");
    let page = agent.faults_page();
    assert!(page.hooks.iter().all(|hook| hook.state != "attached"), "{:?}", page.hooks);
    assert!(!page.degraded.is_empty(), "{page:?}");
    assert_eq!(agent.metric("tocsin_check_degraded{check=\"io_errors\"}"), Some(1.0));
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
    agent.wait_recovery(at, TIMEOUT);
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
    agent.wait_recovery(at, TIMEOUT);
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
    agent.wait_recovery(at, TIMEOUT);
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
    agent.wait_recovery(at, TIMEOUT);
}

/// An agent that is not root can read neither tracefs nor use bpf(2): the mount table is left.
#[test]
fn an_agent_that_is_not_root() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    // The binary may be in a directory that only root can enter.
    let binary = sandbox.path("tocsin");
    // Copied by another process: a file that this one has open for writing may be inherited by a child of another test,
    // and cannot be executed as long.
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
    is_degraded(&agent);
    let [device, point] = names(&volume);
    let at = inject::reconfigure(volume.point(), "ro");
    agent.wait_failure(at, "filesystem_ro", &[&device, &point]);
    let at = inject::reconfigure(volume.point(), "rw");
    agent.wait_recovery(at, TIMEOUT);
}
