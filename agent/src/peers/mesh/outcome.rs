//! What follows from a decision.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use foca::{Member, State};
use tokio::time::Instant;

use super::{Mesh, Output, WAITING};
use crate::{
    model::PeerChange,
    peers::{
        deaths::{End, Ended},
        member::Node,
        quorum::{Decision, Sight, Standing},
    },
};

/// The address and the generation of each member, by identifier.
pub(super) type Ids = BTreeMap<Arc<str>, (SocketAddr, u32)>;

impl Mesh {
    /// Tells what was decided, and remembers it for those that miss it.
    pub(super) fn told_by(&mut self, now: Instant, decision: &Decision, ids: &Ids) {
        for id in &decision.died {
            if let Some((address, generation)) = ids.get(id) {
                let (address, generation) = (*address, *generation);
                self.membership.agree_on_end(now, Ended { address, generation, end: End::Death });
                self.tell(id, address, generation, false, false);
            }
        }
        for id in &decision.recovered {
            if let Some((address, generation)) = ids.get(id) {
                self.tell(id, *address, *generation, true, false);
            }
        }
        for id in &decision.withdrawn {
            let Some((address, generation)) = ids.get(id) else { continue };
            if let Some(died_as) = self.died_as.get(id).copied() {
                self.tell(id, *address, died_as, false, true);
            }
            self.tell(id, *address, *generation, true, true);
        }
        if decision.is_back {
            self.membership.catch_up(now);
        }
        if decision.asks_sanity {
            self.outputs.push(Output::AskSanity);
        }
        self.died_as.retain(|id, _| ids.contains_key(id));
    }

    /// Remembers who left, for those that miss it.
    pub(super) fn note_leaves(&mut self, now: Instant, sight: &Sight, ids: &Ids) {
        let left = sight.members.iter().filter(|(_, standing)| **standing == Standing::Left);
        for (address, generation) in left.filter_map(|(id, _)| ids.get(id)) {
            let (address, generation) = (*address, *generation);
            self.membership.agree_on_end(now, Ended { address, generation, end: End::Leave });
        }
    }

    fn tell(
        &mut self,
        id: &Arc<str>,
        address: SocketAddr,
        generation: u32,
        alive: bool,
        is_withdrawn: bool,
    ) {
        let Some(peer) = self.identities.get(&address).cloned() else { return };
        let key = format!("{id}-{generation}-{}", if alive { "alive" } else { "dead" }).into();
        self.outputs.push(Output::Change(PeerChange { peer, alive, key, is_withdrawn }));
    }

    /// Forgets the dead that discovery does not know any more, but for those whose death is still to be agreed on.
    pub(super) fn forget_gone(&mut self, now: Instant) {
        if !self.discovered.is_complete {
            return;
        }
        let is_gone = |node: &Node| {
            let is_pending = |id: &str| self.quorum.is_pending(id);
            let identity = self.identities.get(&node.address);
            identity.is_none_or(|identity| !is_pending(&identity.id))
                && self.discovered.peers.iter().all(|peer| peer.address != node.address)
        };
        let down = self.membership.members().filter(|member| member.state() == State::Down);
        let gone: Vec<_> = down.map(Member::id).filter(|node| is_gone(node)).cloned().collect();
        if !gone.is_empty() {
            self.decides_at = now + WAITING;
        }
        for node in gone {
            let address = node.address;
            self.membership.forget(now, node);
            self.statuses.remove(&address);
            self.identities.remove(&address);
            self.left.remove(&address);
        }
    }
}
