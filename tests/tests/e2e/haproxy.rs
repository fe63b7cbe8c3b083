//! A real `HAProxy` with the files of `deploy/lb` as they are, in front of three hosts.

use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use e2e::agent::TIMEOUT;
use e2e::haproxy::{self, Haproxy, Line, Server};
use e2e::pool::{HOSTS, Host};
use e2e::sandbox::say;
use e2e::sys::monotonic_ns;
use e2e::{ControlPlane, NetNs, Sandbox};

use crate::pool_scenario::{self, PoolScenario, example, example_text};

const AGENT_CHECK: &str = "haproxy-agent-check.cfg";
const HTTPCHK: &str = "haproxy-httpchk.cfg";

/// Runs `steps` in a pool behind `HAProxy` with one of the examples.
fn run(
    file: &str,
    sandbox: &Sandbox,
    change: impl Fn(&mut Command) + Sync,
    steps: impl FnOnce(&PoolScenario<Haproxy>) + Send,
) {
    if !haproxy::is_installed() {
        return;
    }
    let start = |_: &[Host; 3]| {
        let haproxy = Haproxy::start(sandbox, &example_text(file)).unwrap();
        for (name, _) in HOSTS {
            haproxy.wait_for(("nodes", name), "up", is_up);
        }
        haproxy
    };
    pool_scenario::run(sandbox, change, start, steps);
}

fn is_up(server: &Server) -> bool {
    server.status() == "UP"
}

fn wait_for(
    pool: &PoolScenario<Haproxy>,
    host: &Host,
    what: &str,
    holds: impl Fn(&Server) -> bool,
) {
    pool.balancer.wait_for(("nodes", host.name()), what, holds);
}

#[test]
fn the_examples_pass_its_own_check() {
    if !haproxy::is_installed() {
        return;
    }
    for name in [AGENT_CHECK, HTTPCHK] {
        let output = haproxy::check(&example(name));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name}: {errors}");
        assert!(!errors.contains("WARNING"), "{name}: {errors}");
    }
}

/// The disk of one host breaks, which `HAProxy` logs with `words`, and is repaired.
fn a_broken_host(file: &str, words: &[&str]) {
    let Some(sandbox) = Sandbox::new() else { return };
    run(
        file,
        &sandbox,
        |_| {},
        |pool| {
            let victim = &pool.hosts[1];
            let slow = pool.slow_requests();
            let broke = victim.break_disk();
            let down = pool.balancer.wait_line(broke, &["Server nodes/node-2 is DOWN"]);
            let took = Duration::from_nanos(down.at_ns - broke);
            say(&format!("MEASURED {}: DOWN {took:.1?} after the fault", sandbox.name()));
            let logged =
                pool.balancer.wait_line(broke, &[words, &["nodes/node-2 failed"]].concat());
            say(&format!("LOGGED {}", logged.text));
            pool.gets_no_more_requests(victim);
            slow.finish();

            let before = monotonic_ns();
            victim.repair_disk();
            let up = pool.balancer.wait_line(before, &["Server nodes/node-2 is UP"]);
            let took = Duration::from_nanos(up.at_ns - before);
            say(&format!("MEASURED {}: UP {took:.1?} after the repair began", sandbox.name()));
            pool.clients.wait_served_by(victim.name(), TIMEOUT);
        },
    );
}

#[test]
fn httpchk_takes_a_broken_host_out() {
    a_broken_host(HTTPCHK, &["code: 503"]);
}

#[test]
fn the_agent_check_takes_a_broken_host_out_and_says_why() {
    // The reason is ext4's error at first, and some milliseconds later that the filesystem is read-only.
    a_broken_host(AGENT_CHECK, &["via agent : down (", "ext4 on ", "/node-2: "]);
}

/// The first host's Node is cordoned, after which `HAProxy` has this `status` for the server.
fn a_cordon(file: &str, name: &str, status: &str) {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node(name);
    // The API server is outside of the pool's network namespace.
    let outside = NetNs::outside();
    let proxy = OnceLock::new();
    let on_node = |command: &mut Command| {
        let proxy = proxy.get_or_init(|| cluster.proxy());
        command.env("KUBECONFIG", proxy.kubeconfig("admin")).env("NODE_NAME", node.name());
    };
    run(file, &sandbox, on_node, |pool| {
        let host = &pool.hosts[0];
        let slow = pool.slow_requests();
        outside.run(|| node.cordon());
        wait_for(pool, host, status, |server| server.status() == status);
        pool.gets_no_more_requests(host);
        slow.finish();
        let lines = pool.balancer.log();
        let forced = |line: &&Line| line.text.contains("remains in forced drain");
        let count = lines.iter().filter(forced).count();
        // One for each change, and not one for each check.
        assert!(count <= 2, "{count} lines about the drain while nothing changes");
        outside.run(|| node.uncordon());
        wait_for(pool, host, "up", is_up);
        pool.clients.wait_served_by(host.name(), TIMEOUT);
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

/// With the agent-check, `HAProxy` keeps a host whose agent restarts, and takes out one whose agent stays away.
#[test]
fn the_agent_check_keeps_a_host_whose_agent_restarts_and_takes_out_one_without_an_agent() {
    let Some(sandbox) = Sandbox::new() else { return };
    run(
        AGENT_CHECK,
        &sandbox,
        |_| {},
        |pool| {
            let host = &pool.hosts[0];
            let before = monotonic_ns();
            host.stop_agent();
            thread::sleep(Duration::from_millis(500));
            host.start_agent();
            thread::sleep(Duration::from_secs(1));
            assert!(is_up(&pool.balancer.server("nodes", host.name())));
            let down = pool.balancer.find_line(before, &["Server nodes/", "is DOWN"]);
            assert!(down.is_none(), "{down:?}");

            let before = monotonic_ns();
            host.kill_agent();
            pool.balancer.wait_line(before, &["Server nodes/node-1 is DOWN"]);
            pool.gets_no_more_requests(host);
            host.start_agent();
            wait_for(pool, host, "up", is_up);
        },
    );
}
