//! A real `HAProxy` with the very files of `deploy/lb`, three hosts behind it, and customers who count.

use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use e2e::agent::PATIENCE;
use e2e::haproxy::{self, Haproxy, Server};
use e2e::pool::{HOSTS, Host};
use e2e::sandbox::say;
use e2e::sys::monotonic_ns;
use e2e::{ControlPlane, NetNs, Sandbox};

use crate::shop::{Shop, shipped, shop, text};

const AGENT_CHECK: &str = "haproxy-agent-check.cfg";
const HTTPCHK: &str = "haproxy-httpchk.cfg";

/// A shop behind `HAProxy` with one of the shipped files.
fn open(
    file: &str,
    sandbox: &Sandbox,
    change: impl Fn(&mut Command) + Sync,
    story: impl FnOnce(&Shop<Haproxy>) + Send,
) {
    if !haproxy::is_here() {
        return;
    }
    let start = |_: &[Host; 3]| {
        let haproxy = Haproxy::start(sandbox, &text(file)).unwrap();
        for (name, _) in HOSTS {
            haproxy.wait_for(("nodes", name), "up", is_up);
        }
        haproxy
    };
    shop(sandbox, change, start, story);
}

fn is_up(server: &Server) -> bool {
    server.status() == "UP"
}

fn wait_for(shop: &Shop<Haproxy>, host: &Host, what: &str, right: impl Fn(&Server) -> bool) {
    shop.balancer.wait_for(("nodes", host.name()), what, right);
}

#[test]
fn the_shipped_files_are_right() {
    if !haproxy::is_here() {
        return;
    }
    for name in [AGENT_CHECK, HTTPCHK] {
        let output = haproxy::check(&shipped(name));
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name}: {words}");
        assert!(!words.contains("WARNING"), "{name}: {words}");
    }
}

/// A disk breaks on one of three; what `HAProxy` says of it has `words`; it is repaired.
fn a_broken_host(file: &str, words: &[&str]) {
    let Some(sandbox) = Sandbox::new() else { return };
    open(
        file,
        &sandbox,
        |_| {},
        |shop| {
            let victim = &shop.hosts[1];
            let slow = shop.slow_requests();
            let broke = victim.break_disk();
            let down = shop.balancer.wait_line(broke, &["Server nodes/node-2 is DOWN"]);
            let took = Duration::from_nanos(down.at_ns - broke);
            say(&format!("MEASURED {}: DOWN {took:.1?} after the fault", sandbox.name()));
            let told = shop.balancer.wait_line(broke, &[words, &["nodes/node-2 failed"]].concat());
            say(&format!("LOGGED {}", told.text));
            shop.serves_no_more(victim);
            slow.finished();

            let before = monotonic_ns();
            victim.repair_disk();
            let up = shop.balancer.wait_line(before, &["Server nodes/node-2 is UP"]);
            let took = Duration::from_nanos(up.at_ns - before);
            say(&format!("MEASURED {}: UP {took:.1?} after the repair began", sandbox.name()));
            shop.customers.wait_served_by(victim.name(), PATIENCE);
        },
    );
}

#[test]
fn httpchk_takes_a_broken_host_out() {
    a_broken_host(HTTPCHK, &["code: 503"]);
}

#[test]
fn the_agent_check_takes_a_broken_host_out_and_says_why() {
    // Whichever comes first: ext4's error, or what becomes of the filesystem some milliseconds later.
    a_broken_host(AGENT_CHECK, &["via agent : down (", "ext4 on ", "/node-2: "]);
}

/// The first host's Node is cordoned: `status` is what `HAProxy` then calls the server.
fn a_cordon(file: &str, name: &str, status: &str) {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node(name);
    // The API server is out there.
    let outside = NetNs::outside();
    let tunnel = OnceLock::new();
    let on_node = |command: &mut Command| {
        let tunnel = tunnel.get_or_init(|| cluster.tunnel());
        command.env("KUBECONFIG", tunnel.kubeconfig("admin")).env("NODE_NAME", node.name());
    };
    open(file, &sandbox, on_node, |shop| {
        let host = &shop.hosts[0];
        let slow = shop.slow_requests();
        outside.run(|| node.cordon());
        wait_for(shop, host, status, |server| server.status() == status);
        shop.serves_no_more(host);
        slow.finished();
        let lines = shop.balancer.log();
        let noise =
            lines.iter().filter(|line| line.text.contains("remains in forced drain")).count();
        // One for each change, and not one for each check.
        assert!(noise <= 2, "{noise} lines in the log while nothing happens");
        outside.run(|| node.uncordon());
        wait_for(shop, host, "up", is_up);
        shop.customers.wait_served_by(host.name(), PATIENCE);
    });
}

#[test]
fn a_cordon_is_a_drain_by_httpchk() {
    a_cordon(HTTPCHK, "haproxy-httpchk", "NOLB");
}

#[test]
fn a_cordon_is_a_drain_by_the_agent_check() {
    a_cordon(AGENT_CHECK, "haproxy-agent-check", "DRAIN (agent)");
}

/// With the agent-check, an upgrade of the agent is nothing to notice; a host that is gone is.
#[test]
fn an_agent_that_is_restarted_is_not_missed_and_one_that_is_gone_is() {
    let Some(sandbox) = Sandbox::new() else { return };
    open(
        AGENT_CHECK,
        &sandbox,
        |_| {},
        |shop| {
            let host = &shop.hosts[0];
            let before = monotonic_ns();
            host.stop_agent();
            thread::sleep(Duration::from_millis(500));
            host.start_agent();
            thread::sleep(Duration::from_secs(1));
            assert!(is_up(&shop.balancer.server("nodes", host.name())));
            let down = shop.balancer.find_line(before, &["Server nodes/", "is DOWN"]);
            assert!(down.is_none(), "{down:?}");

            let before = monotonic_ns();
            host.kill_agent();
            shop.balancer.wait_line(before, &["Server nodes/node-1 is DOWN"]);
            shop.serves_no_more(host);
            host.start_agent();
            wait_for(shop, host, "up", is_up);
        },
    );
}
