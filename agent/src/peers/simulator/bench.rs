//! Figures for a thousand members; `cargo xtask bench peers` runs them.

use super::*;

fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

fn rate(network: &mut Network, time: Duration) -> (f64, f64) {
    let sum = |network: &Network| {
        let sent = network.agents.iter().map(|agent| agent.sent);
        sent.fold((0, 0), |sum, sent| (sum.0 + sent.0, sum.1 + sent.1))
    };
    let before = sum(network);
    network.run(time);
    let after = sum(network);
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let per = |n: u64| n as f64 / time.as_secs_f64() / network.agents.len() as f64;
    (per(after.0 - before.0), per(after.1 - before.1))
}

/// Deaths one after the other; gives the times until the coordinator reported them, in order.
fn detection(count: usize, deaths: usize, seed: u64) -> Vec<Duration> {
    let mut network = Network::settled(count, seed);
    let mut times = Vec::new();
    for n in 0..deaths {
        let victim = (n * 7 + 1) % (count - 1);
        if network.agents[victim].life == Life::Dead {
            continue;
        }
        let began = network.now;
        network.kill(victim);
        network.run(Duration::from_secs(6));
        let report = network.reported().into_iter().rfind(|report| report.2 == victim);
        times.push(report.map_or(Duration::MAX, |report| report.0.saturating_sub(began)));
        network.start(victim, 200 + u32::try_from(n).unwrap() * 10);
        network.run(Duration::from_secs(6));
    }
    times.sort_unstable();
    times
}

fn quantile(times: &[Duration], share: usize) -> Duration {
    times[(times.len() * share / 100).min(times.len() - 1)]
}

#[test]
fn bytes_do_not_grow_with_the_members() {
    for count in [10, 40] {
        let mut network = Network::settled(count, 1);
        network.run(Duration::from_secs(20));
        let (packets, bytes) = rate(&mut network, Duration::from_secs(20));
        println!("{count} members: {packets:.1} packets/s, {bytes:.0} bytes/s sent by each");
        assert!(bytes < 2048.0, "{count}: {bytes}");
    }
    let times = detection(20, 4, 2);
    assert!(quantile(&times, 100) < Duration::from_secs(3), "{times:?}");
}

#[test]
#[ignore = "takes minutes in a release build"]
fn figures() {
    use std::env::var;
    let number = |name, default| var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let members = usize::try_from(number("PEERS_BENCH_MEMBERS", 1000)).unwrap();
    for count in [10, 100, 1000] {
        let mut network = Network::new(count, 1, None);
        network.run(minutes(5));
        let (packets, bytes) = rate(&mut network, minutes(2));
        println!(
            "{count:5} members: {packets:.1} packets/s and {bytes:.0} bytes/s sent by each, IP and UDP included"
        );
    }
    for (count, deaths) in [(5, 400), (100, 200), (members, number("PEERS_BENCH_DEATHS", 100))] {
        let times = detection(count, usize::try_from(deaths).unwrap(), 2);
        println!(
            "{count:5} members, {} deaths: reported after p50 {:?}, p99 {:?}, at most {:?}",
            times.len(),
            quantile(&times, 50),
            quantile(&times, 99),
            quantile(&times, 100)
        );
    }
    let mut network = Network::settled(members, 3);
    for n in 0..members {
        network.leave(n);
        network.run(Duration::from_millis(500));
        network.start(n, 200);
    }
    network.run(minutes(1));
    println!("{members:5} members, rolling restart of all: {} false reports", network.told.len());
    let mut network = Network::settled(members, 4);
    network.loss = 0.05;
    let hours = number("PEERS_BENCH_HOURS", 10);
    for hour in 0..hours {
        network.run(minutes(60));
        println!(
            "{members:5} members, 5 % loss, {} h: {} false reports",
            hour + 1,
            network.told.len()
        );
    }
    let pings = f64::from(u32::try_from(members).unwrap() - 1) / 15.0;
    println!(
        "{members:5} members, the reference design: its coordinator alone makes {pings:.0} connections/s, some {:.0} bytes/s, one after the other, and knows of a death after 4 s (refused) or 154 s (dropped)",
        pings * 900.0
    );
}
