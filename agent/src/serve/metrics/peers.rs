//! The metrics of the peers. No label names a peer: a cluster may have thousands, and `/peers` names them.

use std::fmt;

use tocsin_runtime::metrics::Encoder;

use super::descriptions as described;
use crate::{
    model::{PeerProbe, PeerState, PeerView},
    peers::{
        Published, Rejection,
        probes::clock,
        webhooks::{WebhookKind, WebhookStats},
    },
    serve::peers::{probes, role, state},
};

const STATES: [PeerState; 5] =
    [PeerState::Unseen, PeerState::Alive, PeerState::Suspect, PeerState::Dead, PeerState::Left];
const ROLES: [&str; 5] = ["off", "undecided", "coordinator", "follower", "isolated"];

pub(super) fn collect(
    encoder: &mut Encoder<'_>,
    peers: &Published,
    webhooks: &WebhookStats,
) -> fmt::Result {
    let view = peers.view.borrow().clone();
    let mut family = encoder.family(&described::PEERS)?;
    for one in STATES {
        let count = view.peers.iter().filter(|peer| peer.state == one).count();
        family.integer(&[("state", state(one))], count)?;
    }
    let mut family = encoder.family(&described::PEER_ROLE)?;
    for one in ROLES {
        family.flag(&[("role", one)], one == role(&view))?;
    }
    packets(encoder, peers)?;
    probed(encoder, &view)?;
    let mut family = encoder.family(&described::WEBHOOKS)?;
    for kind in WebhookKind::ALL {
        for (result, count) in
            [("accepted", webhooks.accepted(kind)), ("failed", webhooks.failed(kind))]
        {
            family.counter(&[("kind", kind.name()), ("result", result)], count)?;
        }
    }
    let mut family = encoder.family(&described::WEBHOOKS_DROPPED)?;
    for (reason, count) in webhooks.dropped() {
        family.counter(&[("reason", reason)], count)?;
    }
    encoder.integer(&described::WEBHOOKS_QUEUED, webhooks.queued())
}

fn packets(encoder: &mut Encoder<'_>, peers: &Published) -> fmt::Result {
    let stats = &peers.stats;
    let (sent, received) = (stats.sent(), stats.received());
    let mut family = encoder.family(&described::PEER_PACKETS)?;
    family.counter(&[("direction", "sent")], sent.0)?;
    family.counter(&[("direction", "received")], received.0)?;
    let mut family = encoder.family(&described::PEER_BYTES)?;
    family.counter(&[("direction", "sent")], sent.1)?;
    family.counter(&[("direction", "received")], received.1)?;
    let mut family = encoder.family(&described::PEER_REJECTED)?;
    for why in Rejection::ALL {
        family.counter(&[("reason", why.name())], stats.rejected(why))?;
    }
    encoder.counter(&described::PEER_PROBES_DROPPED, stats.probes_dropped())?;
    encoder.counter(&described::PEER_KEY_FAILURES, stats.key_reload_failures())
}

/// What direct probes found; nothing where there were none.
fn probed(encoder: &mut Encoder<'_>, view: &PeerView) -> fmt::Result {
    let times = probes(view).filter_map(|probe| probe.round_trip).map(|time| time.as_secs_f64());
    let losses = probes(view).map(|probe: &PeerProbe| f64::from(probe.loss));
    for (description, values) in [
        (&described::PEER_ROUND_TRIP, times.collect::<Vec<_>>()),
        (&described::PEER_LOSS, losses.collect()),
    ] {
        let mut values = values;
        values.sort_by(f64::total_cmp);
        let mut family = encoder.family(description)?;
        for (peers, value) in [("median", values.get(values.len() / 2)), ("worst", values.last())] {
            if let Some(value) = value {
                family.float(&[("peers", peers)], *value)?;
            }
        }
    }
    match clock::offset(probes(view)) {
        Some(offset) => encoder.float(&described::PEER_CLOCK, offset),
        None => Ok(()),
    }
}
