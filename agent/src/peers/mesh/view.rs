//! What an agent knows of its peers, for the rest of the agent.

use std::collections::BTreeSet;

use super::Mesh;
use crate::{
    model::{Peer, PeerIdentity, PeerState, PeerView},
    peers::{
        channels::{DiscoveredPeer, ProbeResults},
        gossip::status::Status,
        settings::{UNKNOWN_NODE, identifier},
    },
};

impl Mesh {
    /// What this agent knows of its peers, without what they say of those that they probe themselves (`reaches`).
    #[must_use]
    pub fn view(&self, probes: &ProbeResults, degraded: Vec<String>) -> PeerView {
        let seen = self.states.iter().filter_map(|(address, (state, since))| {
            let identity = self.identities.get(address)?.clone();
            let probe = probes.get(&identity.id).copied();
            let Status { failing, passing } =
                self.statuses.get(address).cloned().unwrap_or_default();
            let (state, since, reaches) = (*state, *since, Vec::new());
            Some(Peer { identity, state, since, failing, passing, probe, reaches })
        });
        let unseen = self.unseen().map(|peer| Peer {
            identity: PeerIdentity {
                id: identifier(peer.node.as_deref().unwrap_or(UNKNOWN_NODE), peer.address.ip()),
                node: peer.node.clone().unwrap_or_else(|| UNKNOWN_NODE.into()),
                address: peer.address,
            },
            state: PeerState::Unseen,
            since: self.started,
            failing: BTreeSet::new(),
            passing: None,
            probe: None,
            reaches: Vec::new(),
        });
        let mut peers: Vec<_> = seen.chain(unseen).collect();
        peers.sort_by(|a, b| a.identity.id.cmp(&b.identity.id));
        let (own, role) = (Some(self.own.clone()), self.quorum.role().clone());
        PeerView { is_configured: true, own, role, peers, degraded }
    }

    /// Those that discovery knows and that were never seen.
    pub(super) fn unseen(&self) -> impl Iterator<Item = &DiscoveredPeer> {
        (self.discovered.peers.iter()).filter(|peer| {
            peer.address != self.own.address && !self.states.contains_key(&peer.address)
        })
    }
}
