//! What the queue of one member does, and what several members lose and repeat when they die.

mod crash;
mod queue;
mod sender;

use std::{collections::BTreeSet, num::NonZero, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::queue::Retry;
use crate::{
    model::{Peer, PeerChange, PeerIdentity, PeerRole, PeerState, PeerView},
    peers::settings::Retries,
};

/// A member of that name at an address of its own.
pub(in crate::peers) fn identity(name: &str) -> PeerIdentity {
    let last = name.bytes().last().unwrap_or_default();
    PeerIdentity {
        id: format!("{name}@100{last}").into(),
        node: name.into(),
        address: ([10, 0, 0, last], 25004).into(),
    }
}

/// What a member sees: those that it reaches, and who coordinates.
pub(in crate::peers) fn view(own: &str, alive: &[&str], coordinator: Option<&str>) -> PeerView {
    let role = match coordinator {
        None => PeerRole::Isolated,
        Some(name) if name == own => PeerRole::Coordinator,
        Some(name) => PeerRole::Follower { coordinator: identity(name).id },
    };
    let peer = |name: &&str| Peer {
        identity: identity(name),
        state: PeerState::Alive,
        since: Instant::now(),
        host: None,
        failing: BTreeSet::default(),
        passing: None,
        probe: None,
        reaches: Vec::new(),
    };
    let peers = alive.iter().filter(|name| **name != own).map(peer).collect();
    PeerView { is_configured: true, own: Some(identity(own)), role, peers, ..PeerView::default() }
}

/// The death of a member, or its return.
pub(super) fn change(name: &str, alive: bool, number: u32) -> PeerChange {
    let peer = identity(name);
    let key: Arc<str> =
        format!("{}/{number}/{}", peer.id, if alive { "alive" } else { "dead" }).into();
    PeerChange { peer, alive, key, is_withdrawn: false }
}

/// The same settings for both kinds of failures.
pub(super) fn retry(attempts: u32, cooldown: Duration) -> Retry {
    let retries = Retries { attempts: NonZero::new(attempts).unwrap(), cooldown };
    Retry { connect: retries, send: retries }
}
