//! What agents tell that were isolated, that wait, or that have just started.

use super::*;
use crate::peers::gossip::{Topic, status};

const SECOND: Duration = Duration::from_secs(1);

/// The reports of one agent about another: whether it is alive.
fn reports(network: &Network, by: usize, about: usize) -> Vec<bool> {
    let told = network.told.iter().filter(|told| told.by == by);
    let of_it = told.filter(|told| told.change.peer.address == address(about));
    of_it.map(|told| told.change.alive).collect()
}

/// A switch fails, so everybody is isolated, and somebody dies meanwhile: nobody has reported that.
#[test]
fn who_died_while_all_were_isolated_is_reported_once_all_are_back() {
    for (count, seed) in [(5, 1), (5, 2), (9, 3)] {
        let mut network = Network::settled(count, seed);
        let all: Vec<_> = (0..count).collect();
        for n in 0..count {
            network.partition(&[n], &all);
        }
        network.run(SECOND);
        network.kill(1);
        network.run(SECOND * 5);
        assert!((0..count).filter(|n| *n != 1).all(|n| *network.role(n) == PeerRole::Isolated));
        network.cut.clear();
        network.run(SECOND * 60);
        let told = &network.told;
        assert!(told.iter().all(|told| told.change.peer.address == address(1)), "{told:?}");
        assert!(told.iter().all(|told| !told.change.alive), "seed {seed}: {told:?}");
        // All keep it until it is reported.
        assert_eq!(told.len(), count - 1, "seed {seed}: {told:?}");
        assert_eq!(told.iter().map(|told| &told.change.key).collect::<BTreeSet<_>>().len(), 1);
    }
}

/// Others report a death while an agent is away, for longer than gossip speaks of it.
#[test]
fn who_was_isolated_reports_no_death_again_but_the_recovery() {
    for (seed, late) in [(1, 20), (2, 20), (3, 600)] {
        let mut network = Network::settled(5, seed);
        network.unplug(4);
        network.run(SECOND * 5);
        network.kill(1);
        network.run(SECOND * late);
        assert_eq!(reports(&network, 3, 1), [false]);
        network.cut.clear();
        network.run(SECOND * 60);
        assert_eq!(*network.role(4), PeerRole::Coordinator);
        assert_eq!(reports(&network, 4, 1), [false; 0], "seed {seed}");
        network.start(1, 200);
        network.run(SECOND * 5);
        assert_eq!(reports(&network, 4, 1), [true], "seed {seed}");
    }
}

/// An orderly stop that an agent missed is no death for it either.
#[test]
fn who_left_while_an_agent_was_isolated_is_not_reported() {
    let mut network = Network::settled(5, 1);
    network.unplug(4);
    network.run(SECOND * 5);
    network.leave(1);
    network.run(SECOND * 20);
    network.cut.clear();
    network.run(SECOND * 60);
    assert_eq!(*network.role(4), PeerRole::Coordinator);
    assert_eq!((0..5).flat_map(|by| reports(&network, by, 1)).count(), 0);
    network.start(1, 200);
    network.run(SECOND * 5);
    assert_eq!((0..5).flat_map(|by| reports(&network, by, 1)).count(), 0);
}

/// A short cut is no isolation for longer than it lasts: who dies right after it is reported at once.
#[test]
fn a_glitch_hides_no_death() {
    for seed in 0..5 {
        let mut network = Network::settled(5, seed);
        let all: Vec<_> = (0..5).collect();
        for n in 0..5 {
            network.partition(&[n], &all);
        }
        network.run(SECOND);
        network.cut.clear();
        network.run(SECOND);
        network.kill(1);
        network.run(SECOND * 4);
        let about: Vec<_> = network.reported().iter().map(|report| report.2).collect();
        assert_eq!(about, [1], "seed {seed}");
    }
}

/// Discovery forgets a pod before its death could be told.
#[test]
fn a_death_that_waits_is_not_forgotten_by_discovery() {
    let mut network = Network::new(5, 1, Some(false));
    network.run(SECOND * 10);
    network.kill(1);
    network.run(SECOND * 5);
    network.discovered.peers.retain(|peer| peer.address != address(1));
    for n in [0, 2, 3, 4] {
        let now = network.instant();
        network.agents[n].mesh.discover(now, network.discovered.clone());
        network.flush(n);
    }
    network.run(SECOND * 30);
    assert_eq!(reports(&network, 4, 1), [false; 0]);
    assert_eq!(network.sees(4, PeerState::Dead), 1);
    // The others have agreed on it.
    assert_eq!(network.sees(3, PeerState::Dead), 0);
    network.agents[4].answers_sanity = Some(true);
    network.run(SECOND * 10);
    assert_eq!(reports(&network, 4, 1), [false]);
    // Then it is forgotten, without another event of discovery.
    assert_eq!(network.sees(4, PeerState::Dead), 0);
}

#[test]
fn a_death_that_nobody_vouched_for_is_withdrawn_when_the_member_is_back() {
    let mut network = Network::new(5, 1, Some(false));
    network.run(SECOND * 10);
    network.kill(1);
    network.run(SECOND * 10);
    let view = network.agents[4].mesh.view(&Arc::default(), Vec::new());
    assert!(view.withheld.len() == 1 && view.degraded.len() == 1, "{view:?}");
    network.start(1, 200);
    network.run(SECOND * 5);
    let keys = |by: usize, is_withdrawn: bool| -> BTreeSet<_> {
        let told = network.told.iter().filter(|told| told.by == by);
        let these = told.filter(|told| told.change.is_withdrawn == is_withdrawn);
        these.map(|told| told.change.key.clone()).collect()
    };
    // What its followers keep is what the coordinator withdraws.
    assert_eq!(keys(3, false).len(), 2);
    assert_eq!((keys(4, true), keys(4, false)), (keys(3, false), BTreeSet::new()));
}

/// An agent's items may arrive before anybody has said that it is alive.
#[test]
fn the_first_items_of_an_agent_reach_all_others() {
    for seed in 0..10 {
        let mut network = Network::new(8, seed, None);
        network.loss = 0.2;
        for n in 0..8 {
            let now = network.instant();
            network.agents[n].mesh.share(now, Topic::Status, Arc::from(*b";a"));
            network.flush(n);
        }
        network.run(SECOND * 12);
        let told: BTreeSet<_> =
            network.items.iter().map(|(by, item)| (*by, item.origin.clone())).collect();
        assert_eq!(told.len(), 8 * 7, "seed {seed}");
    }
}

/// A restarted agent of a large cluster knows a storm before a load balancer takes its node out.
#[test]
fn a_restarted_agent_sees_a_storm() {
    let (count, failing) = (60, 40);
    let mut network = Network::settled(count, 1);
    for n in 0..count {
        let now = network.instant();
        let fails = ["node_ready"].into_iter().filter(|_| n < failing);
        let many = ["filesystem_ro", "io_errors", "io_stall", "kubelet", "container_runtime"];
        let bytes = status::encode(fails, many);
        network.agents[n].mesh.share(now, Topic::Status, bytes.into());
        network.flush(n);
        // The rows of the mesh come later, and again and again.
        network.agents[n].mesh.share(now, Topic::Reach, Arc::from([1; 137]));
        network.flush(n);
    }
    network.run(SECOND * 20);
    network.kill(count - 1);
    network.run(SECOND / 2);
    network.start(count - 1, 200);
    network.run(SECOND * 4);
    let view = network.agents[count - 1].mesh.view(&Arc::default(), Vec::new());
    let known = view.peers.iter().filter(|peer| !peer.failing.is_empty()).count();
    assert_eq!(known, failing);
}
