//! The storm guard, with five agents that watch each other and a real `HAProxy` before them.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::host_root::HostRoot;
use e2e::http::exchange;
use e2e::peer_net::Node;
use e2e::switch::Switch;
use e2e::sys::monotonic_ns;
use e2e::{Filesystem, Haproxy, Sandbox, Volume, inject};

const AGENTS: usize = 5;
/// The share of nodes is beyond 30 % with two of five, and it takes three.
const GUARD: &str = "30%";

/// The disks of a node: its root, and one more at /data.
struct Disks {
    // Dropped in this order.
    root: HostRoot,
    data: Volume,
    system: Volume,
}

impl Disks {
    fn new(sandbox: &Sandbox, number: usize) -> Self {
        let system = Volume::new(sandbox, &format!("root-{number}"), Filesystem::Ext4, "");
        let data = Volume::new(sandbox, &format!("data-{number}"), Filesystem::Ext4, "");
        fs::create_dir(system.path("data")).unwrap();
        rustix::mount::mount_bind(data.point(), system.path("data")).unwrap();
        Self { root: HostRoot::new(system.point()), data, system }
    }
}

fn configuration() -> String {
    let server = |number: usize| {
        format!("    server node-{} {}:25001\n", number + 1, Switch::address(number))
    };
    format!(
        "global\n    log /dev/log local0\n    stats socket /run/haproxy/admin.sock mode 660 level admin\n\
         defaults\n    mode http\n    log global\n    option log-health-checks\n    timeout connect 5s\n    \
         timeout client 1m\n    timeout server 1m\n\
         backend nodes\n    option httpchk GET /health\n    \
         default-server check inter 1s fall 4 rise 2\n{}",
        (0..AGENTS).map(server).collect::<String>()
    )
}

#[test]
fn what_fails_on_many_nodes_takes_none_out_but_a_broken_root_does() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(switch) = Switch::new(AGENTS + 1) else { return };
    switch.port(AGENTS).enter();
    let disks: Vec<_> = (0..AGENTS).map(|number| Disks::new(&sandbox, number)).collect();
    let tables: Vec<PathBuf> = disks.iter().map(|disks| disks.root.mount_table()).collect();
    thread::scope(|scope| {
        let nodes = Node::start_all(scope, &sandbox, &switch, AGENTS, move |number, command| {
            command
                .env("NO_EBPF", "true")
                .env("MOUNT_TABLE", &tables[number])
                .env("AGENT_CHECK_PORT", "25003")
                .env("STORM_GUARD", GUARD)
                .env("REREAD_INTERVAL", "100ms");
        });
        for node in &nodes {
            wait_peers(node);
        }
        let Some(haproxy) = Haproxy::start(&sandbox, &configuration()) else { return };
        let is = |node: usize, status: &'static str| {
            let name = format!("node-{}", node + 1);
            let what = format!("{status} ({node})");
            haproxy.wait_for(("nodes", &name), &what, |server| server.status().starts_with(status));
        };
        (0..AGENTS).for_each(|node| is(node, "UP"));

        // One of five leaves.
        inject::reconfigure(disks[0].data.point(), "ro");
        is(0, "DOWN");
        (1..AGENTS).for_each(|node| is(node, "UP"));
        inject::reconfigure(disks[0].data.point(), "rw");
        is(0, "UP");

        // Three of five stay, and say why.
        let since = monotonic_ns();
        for disks in &disks[..3] {
            inject::reconfigure(disks.data.point(), "ro");
        }
        for node in &nodes[..3] {
            node.ask(|agent| {
                let words =
                    "storm guard: fails on 3 of 5 nodes, more than 30%, so this node stays in: ";
                agent.wait_for(words, TIMEOUT, |agent| {
                    let health = agent.health("");
                    let why = health.degraded("filesystem_ro")?;
                    (health.status == 200 && why.starts_with(words) && why.contains("/data"))
                        .then_some(())
                });
                assert_eq!(exchange(agent.agent_check_address(), b""), "up ready 100%\n");
                agent.wait_for_log(&["storm guard: filesystem_ro fails on 3 of 5 nodes"]);
                let active = "tocsin_storm_guard_active{check=\"filesystem_ro\"}";
                assert_eq!(agent.metric(active), Some(1.0));
            });
        }
        // Long enough for four failed checks in a row.
        thread::sleep(Duration::from_secs(5));
        for node in 0..AGENTS {
            is(node, "UP");
            let name = format!("nodes/node-{}", node + 1);
            let down = haproxy.find_line(since, &[&name, "is DOWN"]);
            assert!(down.is_none(), "{down:?}");
        }

        // A root that cannot be written takes its node out, guard or not.
        for disks in &disks[..3] {
            inject::reconfigure(disks.system.point(), "ro");
        }
        (0..3).for_each(|node| is(node, "DOWN"));
        (3..AGENTS).for_each(|node| is(node, "UP"));
        for node in &nodes[..3] {
            node.ask(|agent| {
                let health = agent.health("");
                assert!(health.failure("filesystem_ro").is_some(), "{health:?}");
            });
        }
        drop(haproxy);
        drop(nodes);
    });
    for disks in &disks {
        inject::reconfigure(disks.system.point(), "rw");
        inject::reconfigure(disks.data.point(), "rw");
    }
}

/// Waits until an agent has found its peers.
fn wait_peers(node: &Node) {
    let began = Instant::now();
    node.ask(move |agent| {
        agent.wait_for("four peers", TIMEOUT, |agent| {
            let health = agent.health("?check=peers");
            let is_well = health.passed("peers") && health.degraded("peers").is_none();
            is_well.then_some(())
        });
        e2e::sandbox::say(&format!("MEASURED peers: found after {:?}", began.elapsed()));
    });
}
