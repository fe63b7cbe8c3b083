//! What becomes of agents in a network that is not what it should be.

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// Nobody waits longer for a death to be reported.
const LIMIT: Duration = Duration::from_secs(3);

fn milliseconds(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn a_new_member_reaches_everybody_within_seconds_and_nobody_has_to_be_first() {
    let mut network = Network::new(20, 1, None);
    network.run(SECOND * 4);
    for n in 0..20 {
        assert_eq!(network.sees(n, PeerState::Alive), 19, "node {n}");
    }
    let coordinators = |network: &Network| {
        let is = |n: &usize| *network.role(*n) == PeerRole::Coordinator;
        (0..network.agents.len()).filter(is).collect::<Vec<_>>()
    };
    assert_eq!(coordinators(&network), [19]);
    assert!(network.told.is_empty());
}

#[test]
fn a_death_is_reported_once_by_everybody_with_one_key() {
    for seed in 0..2 {
        for victim in [0, 4] {
            let mut network = Network::settled(5, seed);
            let began = network.now;
            network.kill(victim);
            network.run(SECOND * 20);
            let coordinator = if victim == 4 { 3 } else { 4 };
            let reported = network.reported();
            assert_eq!(reported.len(), 1, "{reported:?}");
            let (at, by, about, alive) = reported[0];
            assert_eq!((by, about, alive), (coordinator, victim, false));
            let after = at.saturating_sub(began);
            assert!(after < LIMIT, "seed {seed}: {after:?}");
            assert_eq!(network.told.len(), 4);
            assert!(network.told.iter().all(|told| told.change == network.told[0].change));
            // It is back in another life.
            network.start(victim, 200);
            network.run(SECOND * 5);
            let alive: Vec<_> = network.told[4..].iter().map(|told| told.change.alive).collect();
            assert_eq!(alive, [true; 4]);
        }
    }
}

#[test]
fn a_pause_of_one_and_a_half_seconds_is_no_death_and_three_seconds_are() {
    for seed in 0..4 {
        let mut network = Network::settled(if seed % 2 == 0 { 5 } else { 9 }, seed);
        let victim = usize::try_from(seed % 5).unwrap();
        network.stop(victim);
        network.run(milliseconds(1500));
        network.resume(victim);
        network.run(SECOND * 10);
        assert!(network.told.is_empty(), "seed {seed}: {:?}", network.told);
        network.stop(victim);
        network.run(SECOND * 3);
        assert_eq!(network.reported().len(), 1, "seed {seed}");
        network.resume(victim);
        network.run(SECOND * 10);
        assert_eq!(network.sees(victim, PeerState::Alive), network.agents.len() - 1);
        // The one that was stopped blames nobody.
        assert!(network.told.iter().all(|told| told.by != victim), "seed {seed}");
    }
}

#[test]
fn an_isolated_agent_reports_nothing_then_and_later() {
    for seed in 0..2 {
        for victim in [4, 0] {
            let mut network = Network::settled(5, seed);
            let began = network.now;
            network.unplug(victim);
            network.run(SECOND * 6);
            assert_eq!(*network.role(victim), PeerRole::Isolated, "seed {seed}");
            let reported = network.reported();
            assert_eq!(reported.len(), 1, "seed {seed}: {reported:?}");
            assert!(
                reported[0].2 == victim && reported[0].0.saturating_sub(began) < LIMIT,
                "{reported:?}"
            );
            network.cut.clear();
            network.run(SECOND * 20);
            let wrong = network.told.iter().filter(|told| told.by == victim && !told.change.alive);
            assert_eq!(wrong.count(), 0, "seed {seed}: {:?}", network.told);
            assert!((0..5).all(|n| network.sees(n, PeerState::Alive) == 4), "seed {seed}");
            let deaths: Vec<_> = network.told.iter().filter(|told| !told.change.alive).collect();
            assert_eq!(deaths.len(), 4, "seed {seed}: {deaths:?}");
        }
    }
}

#[test]
fn of_two_sides_the_larger_one_speaks() {
    for seed in 0..2 {
        let mut network = Network::settled(5, seed);
        let began = network.now;
        // The highest identifiers are in the minority.
        network.partition(&[3, 4], &[0, 1, 2]);
        network.run(SECOND * 8);
        assert!((3..5).all(|n| *network.role(n) == PeerRole::Isolated));
        let mut reported = network.reported();
        reported.sort_by_key(|report| report.2);
        let who: Vec<_> = reported.iter().map(|(_, by, about, _)| (*by, *about)).collect();
        assert_eq!(who, [(2, 3), (2, 4)], "seed {seed}");
        assert!(
            reported.iter().all(|report| report.0.saturating_sub(began) < milliseconds(3500)),
            "{reported:?}"
        );
        // Two of the remaining three are a majority of what was agreed.
        network.partition(&[0], &[1, 2]);
        network.run(SECOND * 8);
        assert_eq!(network.reported().last().map(|(_, by, about, _)| (*by, *about)), Some((2, 0)));
        network.cut.clear();
        network.run(SECOND * 30);
        assert!((0..5).all(|n| network.sees(n, PeerState::Alive) == 4), "seed {seed}");
        assert_eq!(
            *network.role(0),
            PeerRole::Follower { coordinator: identifier(&name(4), address(4).ip()) }
        );
        let deaths = network.told.iter().filter(|told| !told.change.alive);
        assert_eq!(deaths.count(), 3 * 2 + 2, "seed {seed}");
    }
}

#[test]
fn loss_and_delay_are_no_deaths() {
    let mut network = Network::settled(7, 3);
    network.loss = 0.3;
    network.run(SECOND * 30);
    assert!(network.told.is_empty(), "{:?}", network.told);
    network.loss = 0.0;
    network.delay = milliseconds(200);
    network.run(SECOND * 30);
    assert!(network.told.is_empty(), "{:?}", network.told);
    network.loss = 0.05;
    network.delay = milliseconds(1);
    network.run(SECOND * 100);
    assert!(network.told.is_empty(), "{:?}", network.told);
}

/// A cut between two members is nobody's death, since the others reach both. Who hears nobody is dead, and so is who is
/// heard by nobody.
#[test]
fn one_way_cuts() {
    for (seed, one_way) in (0..2).flat_map(|seed| [(seed, true), (seed, false)]) {
        let mut network = Network::settled(5, seed);
        network.cut.extend(if one_way { vec![(1, 3)] } else { vec![(1, 3), (3, 1)] });
        network.run(SECOND * 30);
        assert!(network.told.is_empty(), "seed {seed}: {:?}", network.told);
        network.cut = (0..5).map(|n| if one_way { (4, n) } else { (n, 4) }).collect();
        let began = network.now;
        network.run(SECOND * 10);
        let reported = network.reported();
        assert_eq!(reported.len(), 1, "seed {seed}: {reported:?}");
        assert!((reported[0].1, reported[0].2) == (3, 4), "{reported:?}");
        assert!(
            reported[0].0.saturating_sub(began) < LIMIT,
            "seed {seed}: {:?}",
            reported[0].0.saturating_sub(began)
        );
    }
}

#[test]
fn restarts_are_no_deaths() {
    let mut network = Network::settled(9, 5);
    // One after the other, in order: the next begins before the one before is back everywhere.
    for n in 0..9 {
        network.leave(n);
        network.run(SECOND * 4);
        network.start(n, 200);
        network.run(SECOND * 2);
    }
    assert!(network.told.is_empty(), "{:?}", network.told);
    // A crash, and a clock that says it is earlier than it was.
    network.kill(3);
    network.run(milliseconds(700));
    network.start(3, 7);
    network.run(SECOND * 10);
    assert!(network.told.is_empty(), "{:?}", network.told);
    // All at once.
    for n in 0..9 {
        network.kill(n);
    }
    network.run(SECOND);
    for n in 0..9 {
        network.start(n, 300);
    }
    network.run(SECOND * 10);
    assert!(network.told.is_empty(), "{:?}", network.told);
    assert!((0..9).all(|n| network.sees(n, PeerState::Alive) == 8));
    assert_eq!(*network.role(8), PeerRole::Coordinator);
}

#[test]
fn of_two_halves_the_one_with_the_highest_identifier_speaks_or_the_one_with_a_sanity_check() {
    let mut network = Network::settled(4, 1);
    network.partition(&[0, 1], &[2, 3]);
    network.run(SECOND * 8);
    let mut who: Vec<_> = network.reported().iter().map(|r| (r.1, r.2)).collect();
    who.sort_unstable();
    assert_eq!(who, [(3, 0), (3, 1)]);
    assert!((0..2).all(|n| *network.role(n) == PeerRole::Isolated));
    let mut network = Network::new(2, 1, Some(false));
    network.agents[0].answers_sanity = Some(true);
    network.run(SECOND * 5);
    network.unplug(0);
    network.run(SECOND * 12);
    let who: Vec<_> = network.reported().iter().map(|r| (r.1, r.2)).collect();
    assert_eq!(who, [(0, 1)]);
}

#[test]
fn a_coordinator_whose_sanity_check_fails_blames_nobody_and_tries_again() {
    let mut network = Network::new(5, 1, Some(false));
    network.run(SECOND * 10);
    network.kill(1);
    network.run(SECOND * 12);
    assert_eq!(network.reported(), []);
    network.agents[4].answers_sanity = Some(true);
    network.run(SECOND * 6);
    let who: Vec<_> = network.reported().iter().map(|r| (r.1, r.2)).collect();
    assert_eq!(who, [(4, 1)]);
}

#[test]
fn a_slow_sanity_check_delays_each_death_and_hides_none() {
    let mut network = Network::new(5, 1, Some(true));
    network.sanity_delay = milliseconds(300);
    network.run(SECOND * 10);
    for victim in [1, 2] {
        let began = network.now;
        network.kill(victim);
        network.run(SECOND * 20);
        let (at, _, about, _) = *network.reported().last().unwrap();
        assert_eq!(about, victim);
        assert!(at.saturating_sub(began) < LIMIT + milliseconds(300), "{victim}: {at:?}");
    }
}

/// Discovery does not work either where the network does not, so an agent knows of nobody.
#[test]
fn an_agent_that_starts_while_it_is_cut_off_does_not_speak() {
    let mut network = Network::settled(5, 1);
    let known = network.discovered.clone();
    let degraded = Some("no DNS".into());
    network.kill(4);
    network.unplug(4);
    network.run(SECOND * 10);
    network.discovered = Discovered { degraded, ..Discovered::default() };
    network.start(4, 200);
    network.run(SECOND * 10);
    assert_eq!(*network.role(4), PeerRole::Undecided);
    let now = network.instant();
    network.agents[4].mesh.discover(now, known);
    network.run(SECOND * 10);
    assert_eq!(*network.role(4), PeerRole::Undecided);
    network.cut.clear();
    network.run(SECOND * 10);
    assert_eq!(*network.role(4), PeerRole::Coordinator);
    assert!(network.told.iter().all(|told| told.by != 4), "{:?}", network.told);
}

/// The agents of the other family of a dual-stack cluster are the same ones.
#[test]
fn addresses_of_the_other_family_are_nobody() {
    let mut network = Network::new(3, 1, None);
    let other = |peer: &DiscoveredPeer| {
        let SocketAddr::V4(v4) = peer.address else { unreachable!() };
        let address = SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port());
        DiscoveredPeer { address, node: peer.node.clone() }
    };
    let others: Vec<_> = network.discovered.peers.iter().map(other).collect();
    network.discovered.peers.extend(others);
    for n in 0..3 {
        network.start(n, 200);
    }
    network.run(SECOND * 5);
    assert_eq!(*network.role(2), PeerRole::Coordinator);
    assert_eq!((network.sees(2, PeerState::Alive), network.sees(2, PeerState::Unseen)), (2, 0));
}

/// A drained node may wait for seconds until its agent is killed.
#[test]
fn who_leaves_judges_nobody() {
    for seed in 0..3 {
        let mut network = Network::settled(9, seed);
        let now = network.instant();
        network.agents[3].mesh.leave(now);
        network.flush(3);
        network.run(SECOND * 30);
        assert!(network.told.is_empty(), "seed {seed}: {:?}", network.told);
        assert_eq!(network.sees(8, PeerState::Alive), 7);
    }
}
