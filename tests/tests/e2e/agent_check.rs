//! `HAProxy`'s agent-check: one line, whose words `HAProxy` acts on.

use std::fs;
use std::net::TcpStream;
use std::path::Path;

use e2e::agent::TIMEOUT;
use e2e::host_root::HostRoot;
use e2e::http::exchange;
use e2e::sandbox::say;
use e2e::{Agent, ControlPlane, Filesystem, Sandbox, Volume, inject, tool};
use rustix::mount::UnmountFlags;

use crate::answers_do_not_wait;
use crate::disk_pressure::fill;

#[test]
fn every_connection_gets_one_line_whatever_it_sends() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let to = agent.agent_check_address();
    let long = vec![b'x'; 3000];
    for sent in [&b""[..], b"be/srv\n", b"GET / HTTP/1.1\r\n\r\n", &long] {
        assert_eq!(exchange(to, sent), "up ready 100%\n");
    }
    // Many connections at once, most of which never read and stay open.
    let held: Vec<_> = (0..600).map(|_| TcpStream::connect(to).unwrap()).collect();
    answers_do_not_wait("agent-check beside 600 connections", 200, || {
        assert_eq!(exchange(to, b""), "up ready 100%\n");
    });
    drop(held);
    assert_eq!(agent.counter("tocsin_agent_checks_total"), 804);
}

#[test]
fn a_fault_is_down_with_its_reason_and_a_recovery_is_up() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "data", Filesystem::Ext4, "errors=remount-ro");
    let agent = Agent::start(&sandbox);
    let to = agent.agent_check_address();
    let at = inject::ext4_error(volume.device());
    let down = agent.wait_for("down", TIMEOUT, |_| {
        let line = exchange(to, b"");
        line.starts_with("down ").then_some(line)
    });
    say(&format!("MEASURED {}: down after {:?}", sandbox.name(), at.elapsed()));
    let device = volume.device().name();
    assert!(down.starts_with("down ready 100% #") && down.contains(&device), "{down}");
    assert_eq!(down.matches('\n').count(), 1);
    volume.unmount();
    agent.wait_for("up", TIMEOUT, |_| (exchange(to, b"") == "up ready 100%\n").then_some(()));
}

#[test]
fn a_cordon_is_a_drain_although_schedulable_is_not_in_the_default_set() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(plane) = ControlPlane::shared() else { return };
    let node = plane.node("drained");
    for (maint, expected) in [("false", "up drain\n"), ("true", "up maint\n")] {
        let agent = Agent::start_with(&sandbox, |command| {
            command
                .env("NODE_NAME", node.name())
                .env("KUBECONFIG", plane.kubeconfig("admin"))
                .env("AGENT_CHECK_MAINT", maint);
        });
        let to = agent.agent_check_address();
        let wait = |expected: &str| {
            agent.wait_for(expected, TIMEOUT, |_| (exchange(to, b"") == expected).then_some(()));
        };
        wait("up ready 100%\n");
        node.cordon();
        wait(expected);
        assert_eq!(agent.get("/health").status, 200);
        assert_eq!(agent.get("/health?drain=404").status, 404);
        node.uncordon();
        wait("up ready 100%\n");
        assert_eq!(agent.get("/health?drain=404").status, 200);
    }
}

/// Waits until the agent-check has this weight.
fn wait_weight(agent: &Agent, percent: u8) {
    let expected = format!("up ready {percent}%\n");
    agent.wait_for(&expected, TIMEOUT, |agent| {
        (exchange(agent.agent_check_address(), b"") == expected).then_some(())
    });
}

#[test]
fn a_weight_by_the_fullest_disk() {
    let Some(sandbox) = Sandbox::new() else { return };
    fs::create_dir(sandbox.path("root")).unwrap();
    let volume = Volume::new(&sandbox, "root/data", Filesystem::Ext4, "");
    // The machine's own root may be fuller than the volume.
    let root = HostRoot::new(&sandbox.path("root"));
    let agent = Agent::start_with(&sandbox, |command| {
        command
            .env("MOUNT_TABLE", root.mount_table())
            .env("AGENT_WEIGHT", "disk")
            .env("DISK_THRESHOLDS", "/data:1%");
    });
    for (per_mille, percent) in [(520, 50), (220, 20), (820, 80)] {
        fill(volume.point(), per_mille);
        wait_weight(&agent, percent);
    }
    drop(agent);
    drop(root);
}

/// The machine's own load would be any: a file of this test's own stands in for /proc/loadavg.
#[test]
fn a_weight_by_the_load() {
    let Some(sandbox) = Sandbox::new() else { return };
    let processors: f64 = tool::run("getconf", &["_NPROCESSORS_ONLN"]).trim().parse().unwrap();
    let (file, place) = (sandbox.path("loadavg"), Path::new("/proc/loadavg"));
    let set_load = |share: f64| {
        fs::write(&file, format!("{:.2} 0.00 0.00 1/100 1234\n", share * processors)).unwrap();
    };
    set_load(0.5);
    // In this test's mount namespace alone.
    rustix::mount::mount_bind(&file, place).unwrap();
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("AGENT_WEIGHT", "load");
    });
    for (share, percent) in [(0.5, 50), (2.0, 10), (0.0, 100)] {
        set_load(share);
        wait_weight(&agent, percent);
    }
    drop(agent);
    rustix::mount::unmount(place, UnmountFlags::DETACH).unwrap();
}
