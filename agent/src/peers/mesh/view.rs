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
    pub fn view(&self, probes: &ProbeResults, mut degraded: Vec<String>) -> PeerView {
        let seen = self.states.iter().filter_map(|(address, (state, since))| {
            let identity = self.identities.get(address)?.clone();
            let probe = probes.get(&identity.id).copied();
            let Status { failing, passing } =
                self.statuses.get(address).cloned().unwrap_or_default();
            let (state, since, reaches) = (*state, *since, Vec::new());
            let host = self.hosts.get(address).cloned();
            Some(Peer { identity, state, since, host, failing, passing, probe, reaches })
        });
        let unseen = self.unseen().map(|peer| Peer {
            identity: PeerIdentity {
                id: identifier(peer.node.as_deref().unwrap_or(UNKNOWN_NODE), peer.address.ip()),
                node: peer.node.clone().unwrap_or_else(|| UNKNOWN_NODE.into()),
                address: peer.address,
            },
            state: PeerState::Unseen,
            since: self.started,
            host: self.hosts.get(&peer.address).cloned(),
            failing: BTreeSet::new(),
            passing: None,
            probe: None,
            reaches: Vec::new(),
        });
        let mut peers: Vec<_> = seen.chain(unseen).collect();
        peers.sort_by(|a, b| a.identity.id.cmp(&b.identity.id));
        let (own, role) = (Some(self.own.clone()), self.quorum.role().clone());
        let withheld = self.quorum.withheld().cloned().collect::<BTreeSet<_>>();
        if !withheld.is_empty() && self.quorum.is_insane() {
            degraded.push(format!(
                "SANITY_CHECK_URL does not answer 2xx, so nobody is told of the death of {} peers",
                withheld.len()
            ));
        }
        let is_catching_up = self.quorum.is_catching_up();
        PeerView { is_configured: true, own, role, peers, withheld, is_catching_up, degraded }
    }

    /// Those that discovery knows and that were never seen.
    pub(super) fn unseen(&self) -> impl Iterator<Item = &DiscoveredPeer> {
        (self.discovered.peers.iter()).filter(|peer| {
            peer.address != self.own.address && !self.states.contains_key(&peer.address)
        })
    }
}
