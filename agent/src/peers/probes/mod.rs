//! Direct probes: the round trip, the loss and the clock of a rotating few of the peers, at a constant cost.
//!
//! The peers task signs, checks and carries the packets; what is in them and who is probed when is decided here. Every
//! member tells the others its own row of the mesh by gossip.

pub mod clock;
pub mod confirm;
mod packet;
pub mod row;
mod samples;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tocsin_runtime::jitter;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tracing::error;

use self::{
    confirm::{ANSWER_COUNTS, Message, Questions},
    packet::Packet,
    samples::{INTERVAL, Samples, TARGETS},
};
use super::{
    channels::{ProbePacket, Prober},
    gossip::{Gossip, Topic},
};
use crate::model::{PeerProbe, PeerState, PeerView};

/// 10 seconds between results that differ in numbers alone: every published result is work for all that read the view.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(10);
/// 8 seconds for each member between two rows of a member, in which numbers alone or the peers that had their turn differ:
/// all members pass on all rows, so with this some 20 bytes a second are each member's for each time it passes one on.
/// How often it does grows with the logarithm of the number of members.
const SHARE_INTERVAL_EACH: Duration = Duration::from_secs(8);
/// 200 ms for each member before a row in which a peer is lost or back. Up to five members know it at the next tick.
const NEWS_INTERVAL_EACH: Duration = Duration::from_millis(200);

type Row = BTreeMap<Arc<str>, PeerProbe>;

/// Probes peers and answers their probes, until the peers task ends.
pub async fn run(mut prober: Prober, view: watch::Receiver<Arc<PeerView>>, gossip: Gossip) {
    let start = Instant::now();
    let (mut samples, mut questions) = (Samples::new(start), Questions::default());
    // Agents that started together do not probe together.
    let mut ticks = interval_at(start + jitter::up_to(INTERVAL), INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut published, mut published_at) = (Row::new(), start);
    let (mut shared, mut shared_at) = (Row::new(), start);
    loop {
        tokio::select! {
            packet = prober.received.recv() => {
                let Some(packet) = packet else { return };
                on_packet(&mut samples, &mut questions, &prober, packet);
                continue;
            }
            Some(peers) = prober.asked.recv() => {
                for peer in peers {
                    let question = questions.ask(peer.clone(), Instant::now());
                    send(&prober, peer, question.encode());
                }
                continue;
            }
            _ = ticks.tick() => {}
        }
        let now = Instant::now();
        let is_alive = |state| matches!(state, PeerState::Alive | PeerState::Suspect);
        let alive: Vec<_> = {
            let view = view.borrow();
            let peers = view.peers.iter().filter(|peer| is_alive(peer.state));
            peers.map(|peer| peer.identity.id.clone()).collect()
        };
        let members = alive.len() + 1;
        samples.set_peers(alive, now);
        if let Some((peer, packet)) = samples.next(now, wall(now)) {
            send(&prober, peer, packet.encode());
        }
        forget_old_answers(&prober, now);
        let row = samples.results(now);
        let is_due = now.saturating_duration_since(published_at) >= PUBLISH_INTERVAL;
        if row != published && (is_due || !reaches_the_same(&row, &published)) {
            prober.results.send_replace(Arc::new(row.clone()));
            (published, published_at) = (row.clone(), now);
        }
        if row != shared && now.saturating_duration_since(shared_at) >= wait(&row, &shared, members)
        {
            if let Err(too_long) = gossip.share(Topic::Reach, row::encode(&row)).await {
                error!(%too_long, "the row of the mesh cannot be told to other agents");
            }
            (shared, shared_at) = (row, now);
        }
    }
}

/// How long after the last row that was told to all members this one is.
fn wait(row: &Row, shared: &Row, members: usize) -> Duration {
    let each = |interval: Duration| interval * u32::try_from(members).unwrap_or(u32::MAX);
    let changed = |(id, probe): (&Arc<str>, &PeerProbe)| {
        shared.get(id).is_some_and(|was| is_lost(was) != is_lost(probe))
    };
    // More peers are news, and so is another set of them where all are probed.
    let is_all = members <= TARGETS + 1 && !row.keys().eq(shared.keys());
    let is_more = row.len() > shared.len();
    if shared.is_empty() {
        Duration::ZERO
    } else if is_all || is_more || row.iter().any(changed) {
        each(NEWS_INTERVAL_EACH)
    } else {
        share_interval(members)
    }
}

/// How long after the last row that was told to all members one with other numbers is.
#[must_use]
pub fn share_interval(members: usize) -> Duration {
    let each = SHARE_INTERVAL_EACH * u32::try_from(members).unwrap_or(u32::MAX);
    each.max(PUBLISH_INTERVAL)
}

fn is_lost(probe: &PeerProbe) -> bool {
    probe.round_trip.is_none()
}

/// Whether the same peers were probed, and the same of them are reached.
fn reaches_the_same(row: &Row, other: &Row) -> bool {
    row.len() == other.len()
        && row
            .iter()
            .zip(other)
            .all(|((id, probe), (other, was))| id == other && is_lost(probe) == is_lost(was))
}

fn forget_old_answers(prober: &Prober, now: Instant) {
    prober.answers.send_if_modified(|answers| {
        let is_old = |at: Instant| now.saturating_duration_since(at) >= ANSWER_COUNTS;
        let any = answers.values().any(|answer| is_old(answer.at));
        if any {
            Arc::make_mut(answers).retain(|_, answer| !is_old(answer.at));
        }
        any
    });
}

fn on_packet(
    samples: &mut Samples,
    questions: &mut Questions,
    prober: &Prober,
    packet: ProbePacket,
) {
    let ProbePacket { peer, at, bytes } = packet;
    let received = wall(at);
    match Packet::decode(&bytes) {
        Some(Packet::Probe { number, sent }) => {
            let replied = wall(Instant::now());
            let reply = Packet::Reply { number, sent, received, replied };
            send(prober, peer, reply.encode());
        }
        Some(reply @ Packet::Reply { .. }) => samples.on_reply(&peer, reply, at, received),
        None => on_message(questions, prober, peer, at, &bytes),
    }
}

fn on_message(
    questions: &mut Questions,
    prober: &Prober,
    peer: Arc<str>,
    at: Instant,
    bytes: &[u8],
) {
    match Message::decode(bytes) {
        Some(Message::Ask(number)) => {
            let status = prober.status.borrow().clone();
            send(prober, peer, Message::Answer(number, &status).encode());
        }
        Some(Message::Answer(number, status)) => {
            if let Some(answer) = questions.take(&peer, number, status, at) {
                prober.answers.send_modify(|answers| {
                    Arc::make_mut(answers).insert(peer, answer);
                });
            }
        }
        None => {}
    }
}

/// A packet that finds no room is dropped, and counts as lost.
fn send(prober: &Prober, peer: Arc<str>, bytes: Vec<u8>) {
    let packet = ProbePacket { peer, at: Instant::now(), bytes };
    let _no_room = prober.send.try_send(packet).is_err();
}

/// The time of the clock at that moment, in nanoseconds since 1970.
fn wall(at: Instant) -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let at = since.saturating_sub(at.elapsed());
    i64::try_from(at.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::{sync::mpsc, time::timeout};

    use super::*;
    use crate::peers::{
        self, Channels,
        webhooks::tests::{identity, view as view_of},
    };

    #[test]
    fn rows_are_told_less_often_the_more_members_pass_them_on() {
        let row = |peers: &[(&str, Option<u64>)]| -> Row {
            let probe = |micros: &Option<u64>| PeerProbe {
                round_trip: micros.map(Duration::from_micros),
                loss: 0.0,
                clock_offset: None,
            };
            peers.iter().map(|(id, micros)| (Arc::from(*id), probe(micros))).collect()
        };
        let shared = row(&[("a", Some(100)), ("b", None)]);
        let numbers = row(&[("a", Some(101)), ("b", None)]);
        let lost = row(&[("a", None), ("b", None)]);
        let turn = row(&[("a", Some(100)), ("c", None)]);
        let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
        for (row, shared, members, expected) in [
            (&numbers, &Row::new(), 1000, seconds(0)),
            (&numbers, &shared, 2, seconds(16)),
            (&numbers, &shared, 5, seconds(40)),
            (&numbers, &shared, 1000, seconds(8000)),
            (&lost, &shared, 5, seconds(1)),
            (&lost, &shared, 1000, seconds(200)),
            (&turn, &shared, 5, seconds(1)),
            (&turn, &shared, 9, millis(1800)),
            (&turn, &shared, 10, seconds(80)),
            (&turn, &shared, 1000, seconds(8000)),
        ] {
            assert_eq!(wait(row, shared, members), expected, "{members}: {row:?}");
        }
    }

    /// Two probers that carry each other's packets find each other.
    #[tokio::test]
    async fn probers_measure_each_other() {
        let patience = Duration::from_mins(1);
        let mut ends = Vec::new();
        for (own, other) in [("a", "b"), ("b", "a")] {
            let (send, outbox) = mpsc::channel(16);
            let (receive, received) = mpsc::channel(16);
            let (results, found) = watch::channel(Arc::default());
            let view = watch::channel(Arc::new(view_of(own, &[other], Some("b")))).1;
            let channels = peers::channels();
            let Channels { prober, published, task, .. } = channels;
            let prober = Prober { send, received, results, ..prober };
            published.gossip.share(Topic::Status, format!("{own};").into_bytes()).await.unwrap();
            tokio::spawn(run(prober, view, published.gossip.clone()));
            ends.push((own, outbox, receive, found, published.questions, task));
        }
        let [
            (a, mut a_sent, a_receive, mut a_found, mut a_asks, _a_task),
            (b, mut b_sent, b_receive, mut b_found, mut b_asks, _b_task),
        ] = ends.try_into().unwrap();
        let carry = async {
            loop {
                tokio::select! {
                    Some(packet) = a_sent.recv() => {
                        let packet = ProbePacket { peer: identity(a).id, at: Instant::now(), ..packet };
                        b_receive.send(packet).await.unwrap();
                    }
                    Some(packet) = b_sent.recv() => {
                        let packet = ProbePacket { peer: identity(b).id, at: Instant::now(), ..packet };
                        a_receive.send(packet).await.unwrap();
                    }
                }
            }
        };
        let find = async {
            for (found, other) in [(&mut a_found, b), (&mut b_found, a)] {
                let row = found.wait_for(|row| !row.is_empty()).await.unwrap();
                let probe = row[&identity(other).id];
                assert!(probe.round_trip.is_some(), "{probe:?}");
                assert!(probe.clock_offset.is_some_and(|offset| offset.abs() < 1.0), "{probe:?}");
            }
            // Each of them answers for itself.
            for (asks, other) in [(&mut a_asks, b), (&mut b_asks, a)] {
                let id = identity(other).id;
                asks.ask.try_send(vec![id.clone()]).unwrap();
                let answers = asks.answers.wait_for(|answers| !answers.is_empty()).await.unwrap();
                assert!(answers[&id].status.failing.contains(other), "{answers:?}");
            }
        };
        tokio::select! {
            () = carry => {}
            found = timeout(patience, find) => found.unwrap(),
        }
    }
}
