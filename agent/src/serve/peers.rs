//! The body of `GET /peers`: pure.

use humantime::format_rfc3339_millis;
use tocsin_api::peers::{Identity, Peer, PeersResponse, Probe, Reach, Storm};

use crate::{
    health::{self, GuardView},
    model::{self, PeerIdentity, PeerProbe, PeerRole, PeerState, PeerView},
    peers::{probes::clock, webhooks::WebhookStats},
};

/// The word for the part of an agent among its peers.
pub(super) fn role(view: &PeerView) -> &'static str {
    match &view.role {
        _ if !view.is_configured => "off",
        PeerRole::Undecided => "undecided",
        PeerRole::Coordinator => "coordinator",
        PeerRole::Follower { .. } => "follower",
        PeerRole::Isolated => "isolated",
    }
}

/// The word for the state of a peer.
pub(super) fn state(state: PeerState) -> &'static str {
    match state {
        PeerState::Unseen => "unseen",
        PeerState::Alive => "alive",
        PeerState::Suspect => "suspect",
        PeerState::Dead => "dead",
        PeerState::Left => "left",
    }
}

/// The probes that this agent makes itself.
pub(super) fn probes(view: &PeerView) -> impl Iterator<Item = &PeerProbe> {
    view.peers.iter().filter_map(|peer| peer.probe.as_ref())
}

/// The mesh as this agent sees it.
pub(super) fn response(
    view: &PeerView,
    guard: &GuardView,
    webhooks: &WebhookStats,
) -> PeersResponse {
    let coordinator = match &view.role {
        PeerRole::Coordinator => view.own.as_ref().map(|own| &own.id),
        PeerRole::Follower { coordinator } => Some(coordinator),
        PeerRole::Undecided | PeerRole::Isolated => None,
    };
    let mut peers: Vec<_> = view.peers.iter().map(peer).collect();
    peers.sort_by(|one, other| one.identity.id.cmp(&other.identity.id));
    let mut degraded = view.degraded.clone();
    degraded.extend(webhooks.failing());
    PeersResponse {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        role: role(view).to_owned(),
        coordinator: coordinator.map(ToString::to_string),
        own: view.own.as_ref().map(identity),
        peers,
        clock_offset_seconds: clock::offset(probes(view)).map(|offset| rounded(offset, 1e6)),
        webhooks_queued: u64::try_from(webhooks.queued()).unwrap_or(u64::MAX),
        storms: guard.storms.iter().map(|(check, one)| storm(check, one)).collect(),
        degraded,
    }
}

fn storm(check: &str, storm: &health::storm_guard::Storm) -> Storm {
    Storm {
        check: check.to_owned(),
        failing: storm.share.failing,
        of: storm.share.of,
        since: format_rfc3339_millis(storm.since).to_string(),
    }
}

fn identity(identity: &PeerIdentity) -> Identity {
    let PeerIdentity { id, node, address } = identity;
    Identity { id: id.to_string(), node: node.to_string(), address: address.to_string() }
}

fn peer(peer: &model::Peer) -> Peer {
    let reach =
        |(id, found): &(_, PeerProbe)| Reach { id: ToString::to_string(id), probe: probe(found) };
    Peer {
        identity: identity(&peer.identity),
        state: state(peer.state).to_owned(),
        state_seconds: rounded(peer.since.elapsed().as_secs_f64(), 1e3),
        failing: peer.failing.iter().map(ToString::to_string).collect(),
        probe: peer.probe.as_ref().map(probe),
        reaches: peer.reaches.iter().map(reach).collect(),
    }
}

/// A number with as many digits as it is good for: 0.1, not 0.10000000149.
fn rounded(number: f64, per_unit: f64) -> f64 {
    (number * per_unit).round() / per_unit
}

fn probe(probe: &PeerProbe) -> Probe {
    Probe {
        round_trip_seconds: probe.round_trip.map(|time| rounded(time.as_secs_f64(), 1e6)),
        loss: rounded(f64::from(probe.loss), 1e3),
        clock_offset_seconds: probe.clock_offset.map(|offset| rounded(offset, 1e6)),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        time::{Duration, SystemTime},
    };

    use tokio::time::Instant;

    use super::*;

    #[test]
    fn a_view_becomes_the_answer() {
        let identity = |name: &str, last: u8| PeerIdentity {
            id: format!("{name}@100{last}").into(),
            node: name.into(),
            address: ([10, 0, 0, last], 25004).into(),
        };
        let peer = |name, last, state, probe| model::Peer {
            identity: identity(name, last),
            state,
            since: Instant::now(),
            host: None,
            failing: BTreeSet::from(["io_errors".into()]),
            passing: None,
            probe,
            reaches: vec![(
                identity("a", 1).id,
                PeerProbe { round_trip: None, loss: 1.0, clock_offset: None },
            )],
        };
        let seen = PeerProbe {
            round_trip: Some(Duration::from_millis(2)),
            loss: 0.1,
            clock_offset: Some(3.0),
        };
        let view = PeerView {
            is_configured: true,
            own: Some(identity("a", 1)),
            role: PeerRole::Follower { coordinator: identity("c", 3).id },
            peers: vec![
                peer("c", 3, PeerState::Alive, Some(seen)),
                peer("b", 2, PeerState::Dead, Some(seen)),
            ],
            withheld: BTreeSet::new(),
            is_catching_up: false,
            degraded: vec!["no key".into()],
        };
        let mut guard = GuardView::new(Some("30%".parse().unwrap()));
        let failing = health::storm_guard::Failing { failing: 3, of: 5 };
        let storms = BTreeMap::from([("network".into(), failing)]);
        guard.update(Some(&storms), Instant::now(), SystemTime::UNIX_EPOCH);
        let found = response(&view, &guard, &WebhookStats::default());
        assert_eq!((&*found.role, found.coordinator.as_deref()), ("follower", Some("c@1003")));
        let ids: Vec<_> =
            found.peers.iter().map(|peer| (&*peer.identity.id, &*peer.state)).collect();
        assert_eq!(ids, [("b@1002", "dead"), ("c@1003", "alive")]);
        let probe =
            Probe { round_trip_seconds: Some(0.002), loss: 0.1, clock_offset_seconds: Some(3.0) };
        assert_eq!(found.peers[1].probe, Some(probe));
        assert_eq!(found.peers[1].reaches[0].id, "a@1001");
        assert_eq!(found.clock_offset_seconds, Some(3.0));
        assert_eq!(found.degraded, ["no key"]);
        let storm = found.storms.first().unwrap();
        assert_eq!((&*storm.check, storm.failing, storm.of), ("network", 3, 5));
        let off = response(&PeerView::default(), &GuardView::default(), &WebhookStats::default());
        assert_eq!((&*off.role, off.peers.len()), ("off", 0));
    }
}
