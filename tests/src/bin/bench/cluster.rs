//! How fast the agent follows its Node, and what that costs the agent and the API server.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use e2e::cluster::{TcpProxy, TestNode};
use e2e::sync::SetOnDrop;
use e2e::sys::monotonic_ns;
use e2e::{Agent, ControlPlane, Sandbox};

use crate::detect::{expect, watch_status};
use crate::idle::cpu_time;
use crate::report::Report;
use crate::scale::Scale;

/// The number of Nodes of a large cluster.
const MANY: usize = 5000;
/// Probes a second, of several load balancers together.
const PROBES: u32 = 100;

fn start(sandbox: &Sandbox, node: &TestNode, proxy: &TcpProxy, user: &str) -> Agent {
    Agent::start_with(sandbox, |command| {
        command
            .env("KUBECONFIG", proxy.kubeconfig(user))
            .env("NODE_NAME", node.name())
            .env_remove("IO_ERROR_WINDOW")
            .env_remove("IO_STALL_AFTER");
    })
}

/// Measures from before the write of a Ready condition to the first byte of the response that follows it.
pub(crate) fn flips(sandbox: &Sandbox, scale: Scale, report: &mut Report) {
    let Some(cluster) = ControlPlane::shared() else { return };
    let node = cluster.node("bench-flips");
    let proxy = cluster.proxy();
    let agent = start(sandbox, &node, &proxy, "admin");
    let (mut down, mut up, done) = (Vec::new(), Vec::new(), AtomicBool::new(false));
    thread::scope(|scope| {
        let _stop = SetOnDrop(&done);
        let path = "/health?check=node_ready";
        let changes = watch_status(scope, agent.health_address(), path, &done);
        for _ in 0..scale.flips {
            for (status, code, times) in [("False", 503, &mut down), ("True", 200, &mut up)] {
                let before = monotonic_ns();
                node.set_ready(status, "Bench");
                let at = expect(&agent, &changes, code);
                times.push(Duration::from_nanos(at.saturating_sub(before)));
            }
        }
    });
    report.times("Ready False to 503", &mut down, Some([50.0, 100.0]));
    report.times("Ready True to 200", &mut up, None);
}

/// Measures memory, CPU and traffic in a cluster with one Node, and in one with thousands that change all the time.
pub(crate) fn many_nodes(sandbox: &Sandbox, scale: Scale, report: &mut Report) {
    let Some(cluster) = ControlPlane::private() else { return };
    let node = cluster.node("bench-own");
    let mut resident = [0.0; 2];
    for (many, resident) in [false, true].into_iter().zip(&mut resident) {
        let _others = many.then(|| cluster.nodes(MANY, "bench-other"));
        let others: Vec<_> = if many {
            (0..10).map(|n| cluster.node(&format!("bench-busy-{n}"))).collect()
        } else {
            Vec::new()
        };
        let (proxy, count) = (cluster.proxy(), if many { MANY } else { 1 });
        let agent = start(sandbox, &node, &proxy, "admin");
        thread::sleep(Duration::from_secs(2));
        let bytes = || proxy.bytes_up() + proxy.bytes_down();
        let (cpu, sent) = (cpu_time(&agent), bytes());
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(scale.idle_seconds) {
            for other in &others {
                other.set_ready("True", "Busy");
            }
            thread::sleep(Duration::from_millis(100));
        }
        let seconds = began.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let (kib, sent) = (agent.resident_kib() as f64, (bytes() - sent) as f64);
        *resident = kib / 1024.0;
        report.below(&format!("resident, {count} Nodes"), *resident, 16.0, "MiB");
        report.note(
            &format!("traffic with the API, {count} Nodes"),
            &format!("{:.0} bytes/s", sent / seconds),
        );
        let share = cpu_time(&agent).saturating_sub(cpu).as_secs_f64() / seconds * 100.0;
        let what = format!("CPU with a watch over {seconds:.0} s, {count} Nodes");
        report.note(&what, &format!("{share:.3} % of a core"));
    }
    report.below("resident, many Nodes to one", resident[1] / resident[0], 1.1, "");
}

/// Counts the requests to the API server while load balancers probe.
pub(crate) fn requests(sandbox: &Sandbox, scale: Scale, report: &mut Report) {
    let Some(cluster) = ControlPlane::shared() else { return };
    let node = cluster.node("bench-requests");
    let account = cluster.admin_account("bench", "tocsin");
    let proxy = cluster.proxy();
    let agent = start(sandbox, &node, &proxy, &account.user);
    let (period, mut probes) = (Duration::from_secs(1) / PROBES, 0_u32);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(scale.probe_seconds) {
        let health = agent.health("?check=node_ready,schedulable,custom_conditions");
        assert_eq!(health.status, 200, "{health:?}");
        probes += 1;
        thread::sleep((period * probes).saturating_sub(began.elapsed()));
    }
    let mut verbs: BTreeMap<String, u64> = BTreeMap::new();
    for entry in cluster.requests_of(&account.user) {
        *verbs.entry(entry.verb).or_default() += 1;
    }
    let asked: Vec<_> = verbs.iter().map(|(verb, count)| format!("{count} {verb}")).collect();
    let what = format!("requests to the API during {probes} probes in {} s", scale.probe_seconds);
    report.note(&what, &asked.join(", "));
    let watches = scale.probe_seconds / 270 + 1;
    let other: u64 = verbs.values().sum::<u64>() - verbs.get("watch").copied().unwrap_or(0);
    report.count("of these, other than watches", 1, other, 0);
    let found = verbs.get("watch").copied().unwrap_or(0);
    report
        .note("watches, and as many as there should be at most", &format!("{found} of {watches}"));
}
