//! `peers`: this node reaches enough of the peers that others reach.
//!
//! A peer that nobody reaches is dead, which is no fault of this node. A node that reaches nobody cannot tell whether it
//! is cut off or alone, and says so.

use super::{Check, CheckSource, OnUnknown, Policy};
use crate::model::{Outcome, Peer, PeerRole, PeerState, PeerView};

pub(super) const CHECK: Check = Check {
    name: "peers",
    passes_when: "this node reaches at least PEERS_MIN of the peers that others reach",
    on_unknown: OnUnknown::Pass,
    source: CheckSource::Peers(judge),
};

/// 3 peers that a reason names.
const NAMED: usize = 3;

/// Whether a peer is reached, by direct probes where there are any.
fn is_reached(peer: &Peer) -> bool {
    match &peer.probe {
        Some(probe) => probe.round_trip.is_some(),
        None => peer.state == PeerState::Alive,
    }
}

fn judge(view: &PeerView, policy: &Policy) -> Outcome {
    if !view.is_configured {
        return Outcome::Unknown("peers are off (PEERS=on)".to_owned());
    }
    let has_answered = |peer: &&Peer| {
        matches!(peer.state, PeerState::Alive | PeerState::Suspect | PeerState::Dead)
    };
    let known: Vec<&Peer> = view.peers.iter().filter(has_answered).collect();
    if known.is_empty() {
        return Outcome::Unknown(match view.peers.len() {
            0 => "no peers: discovery has found none".to_owned(),
            count => format!("none of {count} peers has answered yet"),
        });
    }
    let (reached, unreached): (Vec<&Peer>, Vec<&Peer>) =
        known.iter().copied().partition(|peer| is_reached(peer));
    let cut: Vec<&Peer> =
        unreached.into_iter().filter(|peer| is_reached_by_others(peer, &reached, view)).collect();
    let (count, all) = (reached.len(), reached.len() + cut.len());
    if !cut.is_empty() && share(count, all) < policy.peers_min {
        return Outcome::Fail(format!(
            "reaches {count} of {all} peers, and others reach those that it does not: {}",
            names(&cut)
        ));
    }
    if reached.is_empty() {
        return Outcome::Unknown(format!(
            "reaches none of {} peers: this node is cut off, or they are all gone",
            known.len()
        ));
    }
    if view.role == PeerRole::Isolated {
        return Outcome::Unknown(format!(
            "isolated: reaches {count} of {} peers, and none of those says that it reaches the others",
            known.len()
        ));
    }
    degraded(view, &cut).map_or(Outcome::Pass, Outcome::Degraded)
}

/// Whether others reach a peer that this node does not: membership says so, which asks others too; or a peer that this
/// node reaches.
fn is_reached_by_others(peer: &Peer, reached: &[&Peer], view: &PeerView) -> bool {
    let is_member = matches!(view.role, PeerRole::Coordinator | PeerRole::Follower { .. });
    let says_so = |other: &&Peer| {
        let mut row = other.reaches.iter();
        row.any(|(id, probe)| *id == peer.identity.id && probe.round_trip.is_some())
    };
    (is_member && peer.state == PeerState::Alive) || reached.iter().any(says_so)
}

/// What is not as it should be while the node reaches enough of its peers.
fn degraded(view: &PeerView, cut: &[&Peer]) -> Option<String> {
    let paths =
        (!cut.is_empty()).then(|| format!("no direct way to {}, which others reach", names(cut)));
    let all: Vec<_> = paths.into_iter().chain(view.degraded.iter().cloned()).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// The nodes of peers, for a reason.
fn names(peers: &[&Peer]) -> String {
    let first: Vec<&str> = peers.iter().take(NAMED).map(|peer| &*peer.identity.node).collect();
    match peers.len().saturating_sub(NAMED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of nodes")]
fn share(count: usize, all: usize) -> f64 {
    count as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::time::Instant;

    use super::*;
    use crate::model::{PeerIdentity, PeerProbe};

    const COORDINATOR: PeerRole = PeerRole::Coordinator;

    fn probe(is_answered: bool) -> PeerProbe {
        let round_trip = is_answered.then(|| Duration::from_millis(1));
        PeerProbe { round_trip, loss: if is_answered { 0.0 } else { 1.0 }, clock_offset: None }
    }

    /// Peers `n2`, `n3` ... from one word each: the state's letter (`a`live, `s`uspect, `d`ead, `l`eft, `u`nseen), `+`
    /// or `-` for a probe that was answered or not, and the digits of the nodes that it says it reaches.
    fn view(role: PeerRole, text: &str) -> PeerView {
        let id = |number: usize| Arc::from(format!("n{number}@10000{number}"));
        let peers = text.split_whitespace().enumerate().map(|(place, word)| {
            let state = match word.as_bytes()[0] {
                b'a' => PeerState::Alive,
                b's' => PeerState::Suspect,
                b'd' => PeerState::Dead,
                b'l' => PeerState::Left,
                _ => PeerState::Unseen,
            };
            let row = word.chars().filter_map(|c| c.to_digit(10));
            Peer {
                identity: PeerIdentity {
                    id: id(place + 2),
                    node: format!("n{}", place + 2).into(),
                    address: ([10, 0, 0, 2], 25004).into(),
                },
                state,
                since: Instant::now(),
                host: None,
                failing: std::collections::BTreeSet::default(),
                passing: None,
                probe: match word.as_bytes().get(1) {
                    Some(b'+') => Some(probe(true)),
                    Some(b'-') => Some(probe(false)),
                    _ => None,
                },
                reaches: row.map(|number| (id(number as usize), probe(true))).collect(),
            }
        });
        PeerView { is_configured: true, role, peers: peers.collect(), ..PeerView::default() }
    }

    fn half() -> Policy {
        Policy { peers_min: 0.5, ..Policy::default() }
    }

    #[test]
    fn a_node_fails_when_others_reach_those_that_it_does_not() {
        let pass = || Outcome::Pass;
        let fail = |why: &str| Outcome::Fail(why.to_owned());
        let unknown = |why: &str| Outcome::Unknown(why.to_owned());
        let degraded = |why: &str| Outcome::Degraded(why.to_owned());
        let isolated = || PeerRole::Isolated;
        for (role, peers, expected) in [
            (COORDINATOR, "a+ a+ a+ a+", pass()),
            // Not probed yet, or one of many that this node does not probe.
            (COORDINATOR, "a a a+ a", pass()),
            // Dead for everybody: no fault of this node. Gone on purpose, or never there: neither.
            (COORDINATOR, "a+ a+ d- d-", pass()),
            (COORDINATOR, "a+ d- d- d-", pass()),
            (COORDINATOR, "a+ l- u- s-", pass()),
            // One path is broken: membership knows by others that the peer is alive.
            (COORDINATOR, "a+ a+ a+ a-", degraded("no direct way to n5, which others reach")),
            (COORDINATOR, "a+ a+ a- a-", degraded("no direct way to n4, n5, which others reach")),
            (
                COORDINATOR,
                "a+ a- a- a-",
                fail("reaches 1 of 4 peers, and others reach those that it does not: n3, n4, n5"),
            ),
            (
                COORDINATOR,
                "a- a- a- a- a-",
                fail(
                    "reaches 0 of 5 peers, and others reach those that it does not: n2, n3, n4 and 2 more",
                ),
            ),
            // The mesh says so although membership does not.
            (
                isolated(),
                "a+345 d- d- d-",
                fail("reaches 1 of 4 peers, and others reach those that it does not: n3, n4, n5"),
            ),
            // Two of five: the three others are away for both.
            (
                isolated(),
                "a+1 d- d- d-",
                unknown(
                    "isolated: reaches 1 of 4 peers, and none of those says that it reaches the others",
                ),
            ),
            (
                isolated(),
                "d- d- d- d-",
                unknown("reaches none of 4 peers: this node is cut off, or they are all gone"),
            ),
            // What an unreached peer once said of others is old.
            (
                isolated(),
                "d-345 d-245 d- d-",
                unknown("reaches none of 4 peers: this node is cut off, or they are all gone"),
            ),
            (PeerRole::Undecided, "u u", unknown("none of 2 peers has answered yet")),
            (PeerRole::Undecided, "", unknown("no peers: discovery has found none")),
        ] {
            assert_eq!(judge(&view(role.clone(), peers), &half()), expected, "{role:?} {peers}");
        }
        let off = PeerView::default();
        assert_eq!(judge(&off, &half()), unknown("peers are off (PEERS=on)"));
    }

    #[test]
    fn peers_min_is_the_least_share() {
        for (least, fails) in [(0.25, false), (0.26, true), (1.0, true)] {
            let policy = Policy { peers_min: least, ..Policy::default() };
            let outcome = judge(&view(COORDINATOR, "a+ a- a- a-"), &policy);
            assert_eq!(matches!(outcome, Outcome::Fail(_)), fails, "{least}: {outcome:?}");
        }
    }

    /// Of the key, of discovery, and of this node's clock.
    #[test]
    fn what_keeps_the_mesh_from_working_is_told() {
        let mut view = view(COORDINATOR, "a+ a+ a-");
        view.degraded = vec!["no key".to_owned(), "this node's clock is off".to_owned()];
        let why = "no direct way to n4, which others reach; no key; this node's clock is off";
        assert_eq!(judge(&view, &half()), Outcome::Degraded(why.to_owned()));
    }
}
