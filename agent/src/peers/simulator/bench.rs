//! Figures of up to a thousand members; `cargo xtask bench peers` runs them.

use std::env;

use super::*;
use crate::peers::{gossip::Topic, probes::share_interval};

/// 137 bytes of a row of the mesh with eight peers.
const ROW_BYTES: usize = 137;
/// 900 bytes of a TCP connection with `GET /ping` and its answer, as the reference design makes them.
const REFERENCE_BYTES: f64 = 900.0;
/// 15 seconds between two of them to the same peer.
const REFERENCE_PERIOD: f64 = 15.0;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// What the probers of all agents do in so much time: a probe a second each, and their rows of the mesh.
fn probe(network: &mut Network, time: Duration) {
    let count = network.agents.len();
    let interval = share_interval(count).as_secs();
    for _ in 0..time.as_secs() {
        let second = network.now.as_secs();
        for n in (0..count).filter(|n| network.agents[*n].life == Life::Runs).collect::<Vec<_>>() {
            let now = network.instant();
            let other = (n + network.random.random_range(1..count)) % count;
            let peer = identifier(&name(other), address(other).ip());
            network.agents[n].mesh.probe(now, &peer, &[1; PROBE_BYTES]);
            // Each in its turn, as agents that did not start at the same moment.
            if (n as u64 * interval / count as u64) == second % interval {
                network.agents[n].mesh.share(now, Topic::Reach, vec![0; ROW_BYTES].into());
            }
            network.flush(n);
        }
        network.run(seconds(1));
    }
}

/// Packets and bytes a second that each agent sends.
fn rate(network: &mut Network, time: Duration) -> (f64, f64) {
    let sum = |network: &Network| {
        let sent = network.agents.iter().map(|agent| agent.sent);
        sent.fold((0, 0), |sum, sent| (sum.0 + sent.0, sum.1 + sent.1))
    };
    let before = sum(network);
    probe(network, time);
    let after = sum(network);
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let per = |n: u64| n as f64 / time.as_secs_f64() / network.agents.len() as f64;
    (per(after.0 - before.0), per(after.1 - before.1))
}

/// Deaths one after the other, at moments that have nothing to do with probes; gives the times until the coordinator
/// reported them, in order, and how many others were reported.
fn detection(count: usize, deaths: usize, seed: u64) -> (Vec<Duration>, usize) {
    let (mut times, mut wrong, mut seed) = (Vec::new(), 0, seed);
    while times.len() < deaths {
        let mut network = Network::settled(count, seed);
        seed += 1;
        // A majority stays, and so does the coordinator.
        let most = (count.saturating_sub(1) / 4).max(1).min(deaths - times.len());
        let began: Vec<_> = (0..most)
            .map(|victim| {
                let wait = network.random.random_range(900..1100);
                network.run(Duration::from_millis(wait));
                network.kill(victim);
                network.now
            })
            .collect();
        network.run(seconds(6));
        let reported = network.reported();
        wrong += reported.iter().filter(|(_, _, about, _)| *about >= most).count();
        times.extend(began.iter().enumerate().map(|(victim, began)| {
            let report = reported.iter().find(|(_, _, about, _)| *about == victim);
            report.map_or(Duration::MAX, |(at, ..)| at.saturating_sub(*began))
        }));
    }
    times.sort_unstable();
    (times, wrong)
}

fn quantile(times: &[Duration], share: usize) -> Duration {
    times[(times.len() * share / 100).min(times.len() - 1)]
}

/// Restarts all agents in order, a hundredth of them at a time; gives the number of reports.
fn rolling_restart(count: usize, seed: u64) -> usize {
    let mut network = Network::settled(count, seed);
    let all: Vec<_> = (0..count).collect();
    for some in all.chunks((count / 100).max(1)) {
        for &n in some {
            let now = network.instant();
            network.agents[n].mesh.leave(now);
            network.flush(n);
        }
        network.run(Duration::from_millis(300));
        for &n in some {
            network.kill(n);
        }
        network.run(Duration::from_millis(500));
        for &n in some {
            network.start(n, 200);
        }
    }
    network.run(seconds(10));
    network.told.len()
}

/// 5 % loss, until so much real time or virtual time has passed; gives the virtual time and the number of reports.
fn loss(count: usize, seed: u64, real: Duration, most: Duration) -> (Duration, usize) {
    let mut network = Network::settled(count, seed);
    network.loss = 0.05;
    let (began, start) = (std::time::Instant::now(), network.now);
    while network.now.saturating_sub(start) < most && began.elapsed() < real {
        network.run(seconds(10));
    }
    (network.now.saturating_sub(start), network.told.len())
}

#[test]
fn bytes_do_not_grow_with_the_members() {
    let mut bytes = [10, 40].map(|count| {
        let mut network = Network::settled(count, 1);
        rate(&mut network, seconds(20)).1
    });
    assert!(bytes[1] < 2048.0 && bytes[1] < bytes[0] * 1.5, "{bytes:?}");
    bytes.sort_by(f64::total_cmp);
    let (times, wrong) = detection(20, 4, 2);
    assert!(quantile(&times, 100) < seconds(3) && wrong == 0, "{times:?}, {wrong}");
}

/// The table of figures.
#[derive(Default)]
struct Table {
    missed: usize,
}

impl Table {
    fn row(&mut self, what: &str, measured: &str, budget: &str, is_kept: bool) {
        let verdict = if is_kept { "ok" } else { "MISSED" };
        self.missed += usize::from(!is_kept);
        println!("{what:62}  {measured:>34}  {budget:>9}  {verdict}");
    }
}

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().unwrap())
}

#[test]
#[ignore = "`cargo xtask bench peers` runs it, for minutes"]
fn figures() {
    let members = usize::try_from(number("PEERS_BENCH_MEMBERS", 100)).unwrap();
    let hours = env::var("PEERS_BENCH_HOURS").ok().map(|hours| hours.parse::<f64>().unwrap());
    let mut table = Table::default();
    println!();
    for count in [10, members] {
        let mut network = Network::settled(count, 1);
        probe(&mut network, seconds(20));
        let (packets, bytes) = rate(&mut network, seconds(40));
        table.row(
            &format!("{count} members: what each sends, IP and UDP included"),
            &format!("{packets:.1} packets/s, {bytes:.0} bytes/s"),
            "< 2048",
            bytes < 2048.0,
        );
        let pings = f64::from(u32::try_from(count).unwrap() - 1) / REFERENCE_PERIOD;
        println!(
            "{:62}  {:>34}",
            "  the reference design's coordinator, computed",
            format!("{pings:.1} conn./s, {:.0} bytes/s", pings * REFERENCE_BYTES)
        );
    }
    for (count, deaths) in [(10, 200), (members, 100)] {
        let (times, wrong) = detection(count, deaths, 2);
        let [p50, p99, max] = [50, 99, 100].map(|share| quantile(&times, share).as_secs_f64());
        table.row(
            &format!("{count} members: {deaths} deaths until reported, p50, p99, max"),
            &format!("{p50:.2} s, {p99:.2} s, {max:.2} s"),
            "p99 < 3 s",
            p99 < 3.0,
        );
        let what = format!("{count} members: others reported meanwhile");
        table.row(&what, &wrong.to_string(), "0", wrong == 0);
    }
    println!("{:62}  {:>34}", "  the reference design, computed: refused, dropped", "4 s, 154 s");
    let reports = rolling_restart(members, 3);
    let what = format!("{members} members: rolling restart of all, reports");
    table.row(&what, &reports.to_string(), "0", reports == 0);
    for (count, real) in [(100, 40), (members, 60)] {
        let bounds = hours.map_or((seconds(real), Duration::MAX), |hours| {
            (Duration::MAX, seconds(3600).mul_f64(hours))
        });
        let (time, reports) = loss(count, 4, bounds.0, bounds.1);
        table.row(
            &format!(
                "{count} members: 5 % loss, {:.1} minutes, reports",
                time.as_secs_f64() / 60.0
            ),
            &reports.to_string(),
            "0",
            reports == 0,
        );
    }
    assert_eq!(table.missed, 0, "figures miss their budgets");
}
