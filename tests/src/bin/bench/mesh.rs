//! Five agents that watch each other, each in a network namespace of its own: what that costs while nothing happens, and
//! how soon a death is told.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use e2e::peer_net::{Node, Outside, PEERS_PORT, Post};
use e2e::switch::Switch;
use e2e::{Agent, Sandbox};

use crate::idle::cpu_time;
use crate::report::Report;
use crate::scale::Scale;

const AGENTS: usize = 5;
/// One more agent, for comparison: its peers are off.
const ALONE: usize = AGENTS;
/// The port of the server outside.
const OUTSIDE: usize = AGENTS + 1;
/// Ten times what a death takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// Agents ask each other more often in their first seconds.
const SETTLING: Duration = Duration::from_secs(15);

/// What ends an agent.
#[derive(Clone, Copy)]
enum End {
    Kill,
    Stop,
    Unplug,
}

/// Measures five agents and one without peers.
pub(crate) fn run(sandbox: &Sandbox, scale: Scale, report: &mut Report) {
    let Some(switch) = Switch::new(AGENTS + 2) else { return };
    let outside = Outside::start(&switch, OUTSIDE);
    let url = outside.url("/peer");
    let join: Vec<_> =
        (0..AGENTS).map(|peer| format!("{}:{PEERS_PORT}", Switch::address(peer))).collect();
    let join = join.join(",");
    thread::scope(|scope| {
        let nodes = Node::start_all(scope, sandbox, &switch, AGENTS + 1, move |number, command| {
            command
                .env("NO_EBPF", "true")
                .env_remove("IO_ERROR_WINDOW")
                .env_remove("IO_STALL_AFTER")
                .env("PEERS_JOIN", &join)
                .env("PEER_STATUS_URL", &url)
                .env("PEER_RECOVERY", "true")
                .env("PEERS", if number == ALONE { "off" } else { "on" });
        });
        thread::sleep(SETTLING);
        idle(&nodes, scale, report);
        let mut told = 0;
        for (name, end) in [("kill", End::Kill), ("SIGSTOP", End::Stop), ("unplug", End::Unplug)] {
            let mut times: Vec<_> = (0..scale.deaths)
                .map(|round| death(&nodes, &switch, &outside, (round % AGENTS, end), &mut told))
                .collect();
            times.sort_unstable();
            let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
            let what = format!("mesh, {name} told, of {}", times.len());
            report.note(&format!("{what}, median"), &format!("{:.2} s", at(50).as_secs_f64()));
            report.below(&format!("{what}, p99"), at(99).as_secs_f64(), 3.0, "s");
        }
        let posts = outside.posts("/peer").len();
        report.exact("mesh, deaths and recoveries told once", posts as u64, told as u64);
        drop(nodes);
    });
}

/// CPU time, resident KiB, and bytes that left the node's interface.
fn usage(agent: &Agent) -> (Duration, u64, u64) {
    let devices = fs::read_to_string("/proc/thread-self/net/dev").expect("interfaces");
    let line = devices.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
    let sent = line.and_then(|line| line.split_whitespace().nth(8)?.parse().ok());
    (cpu_time(agent), agent.resident_kib(), sent.expect("bytes sent by eth0"))
}

fn idle(nodes: &[Node], scale: Scale, report: &mut Report) {
    let look = || -> Vec<_> { nodes.iter().map(|node| node.ask(usage)).collect() };
    let (before, began) = (look(), Instant::now());
    thread::sleep(Duration::from_secs(scale.idle_seconds));
    let (after, wall) = (look(), began.elapsed().as_secs_f64());
    let cpu = |number: usize| {
        let used = after[number].0.saturating_sub(before[number].0);
        used.as_secs_f64() / wall * 100.0
    };
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let mean = |figure: &dyn Fn(usize) -> f64| (0..AGENTS).map(figure).sum::<f64>() / AGENTS as f64;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (memory, bytes) = (
        |number: usize| after[number].1 as f64 / 1024.0,
        |number: usize| (after[number].2 - before[number].2) as f64 / wall,
    );
    let with = "mesh, idle with peers";
    let (own, alone) = (mean(&cpu), cpu(ALONE));
    report.note(&format!("{with} and without, CPU"), &format!("{own:.3} and {alone:.3} %"));
    report.below(&format!("{with}, CPU beyond"), (own - alone).max(0.0), 0.1, "% of a core");
    let (own, alone) = (mean(&memory), memory(ALONE));
    report.note(&format!("{with} and without, resident"), &format!("{own:.2} and {alone:.2} MiB"));
    report.below(&format!("{with}, resident beyond"), (own - alone).max(0.0), 2.0, "MiB");
    report.below(&format!("{with}, sent, with Ethernet"), mean(&bytes), 2048.0, "bytes/s");
}

/// Ends an agent, waits until that is told, and brings it back; gives how long it took to tell.
fn death(
    nodes: &[Node],
    switch: &Switch,
    outside: &Outside,
    (victim, end): (usize, End),
    told: &mut usize,
) -> Duration {
    let node = &nodes[victim];
    let began = match end {
        End::Kill => node.kill(),
        End::Stop => node.freeze(true),
        End::Unplug => {
            let at = Instant::now();
            switch.plug(victim, false);
            at
        }
    };
    let died = wait(outside, &node.id(), false, *told);
    match end {
        End::Kill => node.start(),
        End::Stop => {
            node.freeze(false);
        }
        End::Unplug => switch.plug(victim, true),
    }
    wait(outside, &node.id(), true, *told + 1);
    *told += 2;
    // Until all agree that it is back; the moment of the next death has nothing to do with this one.
    thread::sleep(Duration::from_millis(1500 + 37 * (*told as u64 % 11)));
    died.at.saturating_duration_since(began)
}

/// Waits for the next change, which has to be this one.
fn wait(outside: &Outside, id: &str, alive: bool, told: usize) -> Post {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(post) = outside.posts("/peer").into_iter().nth(told) {
            let (peer, is_alive, _) = post.change();
            assert_eq!((&*peer, is_alive), (id, alive), "another change was told");
            return post;
        }
        assert!(Instant::now() < deadline, "{id} alive={alive} is never told");
        thread::sleep(Duration::from_millis(2));
    }
}
