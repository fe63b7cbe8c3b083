//! The bodies of the webhooks, byte for byte as `k8_networking_health` documents them: compact JSON in this order of
//! fields, without a newline at the end.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    model::{PeerChange, PeerIdentity, PeerState, PeerView},
    peers::settings::UNKNOWN_NODE,
};

/// 1 minute until a peer that has never answered is told as not alive: the image of its agent may still be on its way.
const UNSEEN: Duration = Duration::from_mins(1);

/// One peer.
#[derive(Debug, Serialize)]
struct Peer<'a> {
    id: &'a str,
    address: String,
    alive: bool,
    node_name: &'a str,
}

/// The body for `PEER_STATUS_URL`.
#[derive(Debug, Serialize)]
struct PeerStatus<'a> {
    peer: Peer<'a>,
    coordinator: &'a str,
    coordinator_address: String,
}

/// The body for `CLUSTER_STATUS_URL`.
#[derive(Debug, Serialize)]
struct ClusterStatus<'a> {
    peer_map: Vec<Peer<'a>>,
    coordinator: &'a str,
    coordinator_address: String,
}

impl<'a> Peer<'a> {
    fn new(identity: &'a PeerIdentity, alive: bool) -> Self {
        let PeerIdentity { id, node, address } = identity;
        Self { id, address: address.to_string(), alive, node_name: node }
    }
}

/// Tells of one peer that died or came back.
pub(super) fn peer_status(change: &PeerChange, coordinator: &PeerIdentity) -> String {
    json(&PeerStatus {
        peer: Peer::new(&change.peer, change.alive),
        coordinator: &coordinator.id,
        coordinator_address: coordinator.address.to_string(),
    })
}

/// Tells of all peers but the coordinator, in the order of their identifiers. It leaves out those that said that they
/// leave, for [`UNSEEN`] those that have never answered, and of these for good the addresses whose node nobody knows:
/// they have no identifier yet. A peer whose death is withheld is told as alive: a coordinator that `SANITY_CHECK_URL`
/// does not answer blames nobody.
pub(super) fn cluster_status(view: &PeerView, coordinator: &PeerIdentity, now: Instant) -> String {
    let mut peer_map: Vec<_> = view
        .peers
        .iter()
        .filter_map(|peer| {
            let is_named = *peer.identity.node != *UNKNOWN_NODE;
            let has_had_time = now.saturating_duration_since(peer.since) >= UNSEEN;
            let alive = match peer.state {
                PeerState::Alive | PeerState::Suspect => true,
                PeerState::Dead => view.withheld.contains(&peer.identity.id),
                PeerState::Unseen if is_named && has_had_time => false,
                PeerState::Unseen | PeerState::Left => return None,
            };
            Some(Peer::new(&peer.identity, alive))
        })
        .collect();
    peer_map.sort_by_key(|peer| peer.id);
    json(&ClusterStatus {
        peer_map,
        coordinator: &coordinator.id,
        coordinator_address: coordinator.address.to_string(),
    })
}

/// Texts, booleans and lists of them always have a form in JSON.
fn json(body: &impl Serialize) -> String {
    serde_json::to_string(body).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{Peer, PeerRole};

    fn identity(id: &str, address: &str) -> PeerIdentity {
        let node = id.split('@').next().unwrap();
        PeerIdentity { id: id.into(), node: node.into(), address: address.parse().unwrap() }
    }

    #[test]
    fn a_peers_status_is_the_documented_one() {
        for (alive, peer, coordinator, expected) in [
            (
                false,
                identity("my-node1@103205", "10.32.0.5:8080"),
                identity("my-node2@103217", "10.32.1.7:8080"),
                r#"{"peer":{"id":"my-node1@103205","address":"10.32.0.5:8080","alive":false,"node_name":"my-node1"},"coordinator":"my-node2@103217","coordinator_address":"10.32.1.7:8080"}"#,
            ),
            (
                true,
                identity("a@fd00::5", "[fd00::5]:25004"),
                identity("b@fd00::6", "[fd00::6]:25004"),
                r#"{"peer":{"id":"a@fd00::5","address":"[fd00::5]:25004","alive":true,"node_name":"a"},"coordinator":"b@fd00::6","coordinator_address":"[fd00::6]:25004"}"#,
            ),
        ] {
            let change = PeerChange { peer, alive, key: "k".into(), is_withdrawn: false };
            assert_eq!(peer_status(&change, &coordinator), expected);
        }
    }

    #[test]
    fn the_clusters_status_is_the_documented_one() {
        let now = Instant::now() + Duration::from_hours(1);
        let peer = |id: &str, address: &str, state, seconds| Peer {
            identity: identity(id, address),
            state,
            since: now.checked_sub(Duration::from_secs(seconds)).unwrap(),
            host: None,
            failing: BTreeSet::default(),
            passing: None,
            probe: None,
            reaches: Vec::new(),
        };
        let coordinator = identity("z@10009", "10.0.0.9:25004");
        let status = |peers: Vec<Peer>| {
            let (role, withheld) = (PeerRole::Coordinator, BTreeSet::from(["w@10011".into()]));
            let view =
                PeerView { is_configured: true, role, peers, withheld, ..PeerView::default() };
            cluster_status(&view, &coordinator, now)
        };
        assert_eq!(
            status(Vec::new()),
            r#"{"peer_map":[],"coordinator":"z@10009","coordinator_address":"10.0.0.9:25004"}"#
        );
        let all = vec![
            peer("d@10004", "10.0.0.4:1", PeerState::Dead, 0),
            peer("a@10001", "10.0.0.1:1", PeerState::Alive, 0),
            peer("s@10005", "10.0.0.5:1", PeerState::Suspect, 0),
            // Its image may still be on its way.
            peer("u@10006", "10.0.0.6:1", PeerState::Unseen, 59),
            peer("v@10007", "10.0.0.7:1", PeerState::Unseen, 60),
            peer("l@10008", "10.0.0.8:1", PeerState::Left, 100),
            // The sanity check does not answer.
            peer("w@10011", "10.0.0.11:1", PeerState::Dead, 100),
            // From a list of addresses: nobody knows whose it is.
            peer("?@100010", "10.0.0.10:1", PeerState::Unseen, 3000),
        ];
        assert_eq!(
            status(all),
            concat!(
                r#"{"peer_map":[{"id":"a@10001","address":"10.0.0.1:1","alive":true,"node_name":"a"},"#,
                r#"{"id":"d@10004","address":"10.0.0.4:1","alive":false,"node_name":"d"},"#,
                r#"{"id":"s@10005","address":"10.0.0.5:1","alive":true,"node_name":"s"},"#,
                r#"{"id":"v@10007","address":"10.0.0.7:1","alive":false,"node_name":"v"},"#,
                r#"{"id":"w@10011","address":"10.0.0.11:1","alive":true,"node_name":"w"}],"#,
                r#""coordinator":"z@10009","coordinator_address":"10.0.0.9:25004"}"#
            )
        );
    }
}
