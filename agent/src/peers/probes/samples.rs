//! Who is probed when, and what came of it: PURE.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::packet::{Packet, measure};
use crate::model::PeerProbe;

/// 8 peers are probed at a time, whatever the cluster's size: a row of the mesh that gossip can carry.
pub(super) const TARGETS: usize = 8;
/// 1 second between two probes, and so 8 seconds between two of the same peer: a probe, a reply and the same from others
/// are some hundred bytes a second.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// 1 second for a reply. A later one counts as lost: no member waits longer for an answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// 16 probes of a peer count, those of two minutes.
const KEPT: usize = 16;
/// 1 minute until one of the peers makes room for the next, where there are more than [`TARGETS`].
const TURN: Duration = Duration::from_mins(1);

/// 2 lost probes of a peer that has never answered one: one may be lost, above all the first, which comes before the link
/// is made.
const LOST_AT_LEAST: usize = 2;

/// A probe that was sent.
#[derive(Clone, Copy, Debug)]
struct Sample {
    number: u64,
    sent: Instant,
    /// The round trip and the offset of the clock.
    reply: Option<(Duration, Option<f64>)>,
}

/// The probes of one member.
#[derive(Debug)]
pub(super) struct Samples {
    order: RandomState,
    started: Instant,
    number: u64,
    /// By identifier.
    targets: BTreeMap<Arc<str>, VecDeque<Sample>>,
}

impl Samples {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            order: RandomState::new(),
            started: now,
            // A reply to a probe from before a restart fits none of this run.
            number: RandomState::new().hash_one(0),
            targets: BTreeMap::new(),
        }
    }

    /// Chooses the peers to probe from those that are reached: a few in an order of its own for each member, one of them
    /// another one each minute.
    pub(super) fn set_peers(&mut self, alive: impl IntoIterator<Item = Arc<str>>, now: Instant) {
        let mut alive: Vec<_> = alive.into_iter().collect();
        if alive.len() > TARGETS {
            alive.sort_by_cached_key(|id| self.order.hash_one(id));
            let turn = now.saturating_duration_since(self.started).as_secs() / TURN.as_secs();
            let shift = usize::try_from(turn).unwrap_or_default() % alive.len();
            alive.rotate_left(shift);
            alive.truncate(TARGETS);
        }
        self.targets.retain(|id, _| alive.contains(id));
        for id in alive {
            self.targets.entry(id).or_default();
        }
    }

    /// The next probe: of the peer whose last one is longest ago. `wall` is the time of the clock, in nanoseconds.
    pub(super) fn next(&mut self, now: Instant, wall: i64) -> Option<(Arc<str>, Packet)> {
        let last = |samples: &VecDeque<Sample>| samples.back().map(|sample| sample.sent);
        let (id, samples) = self.targets.iter_mut().min_by_key(|(_, samples)| last(samples))?;
        self.number = self.number.wrapping_add(1);
        if samples.len() >= KEPT {
            samples.pop_front();
        }
        samples.push_back(Sample { number: self.number, sent: now, reply: None });
        Some((id.clone(), Packet::Probe { number: self.number, sent: wall }))
    }

    /// Takes in a reply that arrived at `at`, by the clock at `wall`. One to no probe, or a second one, does nothing.
    pub(super) fn on_reply(&mut self, from: &str, reply: Packet, at: Instant, wall: i64) {
        let Packet::Reply { number, sent, received, replied } = reply else { return };
        let Some(samples) = self.targets.get_mut(from) else { return };
        let Some(sample) = samples.iter_mut().find(|sample| sample.number == number) else {
            return;
        };
        let elapsed = at.saturating_duration_since(sample.sent);
        if sample.reply.is_none() && elapsed < TIMEOUT {
            sample.reply = Some(measure((sent, received, replied), wall, elapsed));
        }
    }

    /// What is known of each peer that was probed.
    pub(super) fn results(&self, now: Instant) -> BTreeMap<Arc<str>, PeerProbe> {
        let results = self.targets.iter();
        results.filter_map(|(id, samples)| Some((id.clone(), result(samples, now)?))).collect()
    }
}

/// What the probes of one peer found; none before the first one has ended, and before [`LOST_AT_LEAST`] of a peer that
/// has never answered.
fn result(samples: &VecDeque<Sample>, now: Instant) -> Option<PeerProbe> {
    let is_over = |sample: &&Sample| {
        sample.reply.is_some() || now.saturating_duration_since(sample.sent) >= TIMEOUT
    };
    let over: Vec<_> = samples.iter().filter(is_over).collect();
    let mut replies: Vec<_> = over.iter().filter_map(|sample| sample.reply).collect();
    if over.is_empty() || replies.is_empty() && over.len() < LOST_AT_LEAST {
        return None;
    }
    replies.sort_by_key(|(round_trip, _)| *round_trip);
    let lost = over.len() - replies.len();
    let mut offsets: Vec<_> = replies.iter().filter_map(|(_, offset)| *offset).collect();
    offsets.sort_by(f64::total_cmp);
    #[expect(clippy::cast_precision_loss, reason = "at most 16 of them")]
    Some(PeerProbe {
        round_trip: replies.get(replies.len() / 2).map(|(round_trip, _)| *round_trip),
        loss: lost as f32 / over.len() as f32,
        clock_offset: offsets.get(offsets.len() / 2).copied(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn ids(count: usize) -> Vec<Arc<str>> {
        (0..count).map(|number| format!("n{number}@1").into()).collect()
    }

    /// Has a peer answer a probe after that time, with a clock that is as much ahead.
    fn reply(samples: &mut Samples, sent: (Arc<str>, Packet), now: Instant, ms: u64, ahead: i64) {
        let (id, Packet::Probe { number, sent }) = sent else { panic!("no probe") };
        let took = Duration::from_millis(ms);
        let nanos = i64::try_from(took.as_nanos()).unwrap();
        let there = sent + nanos / 2 + ahead;
        let reply = Packet::Reply { number, sent, received: there, replied: there };
        samples.on_reply(&id, reply, now + took, sent + nanos);
    }

    #[test]
    fn round_trips_losses_and_clocks_are_those_of_the_last_probes() {
        let mut now = Instant::now();
        let mut samples = Samples::new(now);
        samples.set_peers(ids(1), now);
        assert_eq!(samples.results(now), BTreeMap::new());
        for round in 0..20 {
            let probe = samples.next(now, 0).unwrap();
            // Every fourth one is lost, and every fifth one is slow.
            if round % 4 != 0 {
                reply(
                    &mut samples,
                    probe,
                    now,
                    if round % 5 == 0 { 500 } else { 10 },
                    2_000_000_000,
                );
            }
            now += INTERVAL;
        }
        let found = samples.results(now)["n0@1"];
        assert_eq!(found.round_trip, Some(Duration::from_millis(10)));
        assert_eq!((found.loss, found.clock_offset), (0.25, Some(2.0)));
        // A probe on its way is not lost yet; a reply that is too late is.
        let probe = samples.next(now, 0).unwrap();
        assert!(samples.results(now)["n0@1"].loss < 0.25);
        reply(&mut samples, probe, now, 1000, 0);
        now += INTERVAL;
        assert_eq!(Some(samples.results(now)["n0@1"].loss), Some(0.25));
        for _ in 0..16 {
            samples.next(now, 0).unwrap();
            now += INTERVAL;
        }
        let found = samples.results(now)["n0@1"];
        assert_eq!((found.round_trip, found.loss, found.clock_offset), (None, 1.0, None));
    }

    /// The first probe may come before the link is made.
    #[test]
    fn one_lost_probe_is_no_lost_peer() {
        let mut now = Instant::now();
        let mut samples = Samples::new(now);
        samples.set_peers(ids(1), now);
        for expected in [None, Some(1.0)] {
            samples.next(now, 0).unwrap();
            now += INTERVAL;
            assert_eq!(samples.results(now).get("n0@1").map(|probe| probe.loss), expected);
        }
    }

    #[test]
    fn replies_to_nothing_do_nothing() {
        let now = Instant::now();
        let mut samples = Samples::new(now);
        samples.set_peers(ids(2), now);
        let (id, probe) = samples.next(now, 0).unwrap();
        let Packet::Probe { number, .. } = probe else { panic!() };
        let answer = |number| Packet::Reply { number, sent: 0, received: 0, replied: 0 };
        let other = ids(2).into_iter().find(|other| *other != id).unwrap();
        samples.on_reply(&id, answer(number + 1), now, 0);
        samples.on_reply(&other, answer(number), now, 0);
        samples.on_reply("nobody", answer(number), now, 0);
        samples.on_reply(&id, probe, now, 0);
        assert_eq!(samples.results(now), BTreeMap::new());
        samples.on_reply(&id, answer(number), now, 0);
        samples.on_reply(&id, answer(number), now + INTERVAL / 2, 0);
        assert_eq!(samples.results(now)[&id].round_trip, Some(Duration::ZERO));
    }

    #[test]
    fn a_few_peers_are_probed_at_a_time_and_all_in_their_turn() {
        let mut now = Instant::now();
        let mut samples = Samples::new(now);
        let (mut probed, mut last) = (BTreeSet::new(), BTreeSet::new());
        for second in 0..40 * 60 {
            samples.set_peers(ids(30), now);
            assert_eq!(samples.targets.len(), TARGETS);
            let targets: BTreeSet<_> = samples.targets.keys().cloned().collect();
            assert!(second == 0 || targets.difference(&last).count() <= 1);
            last = targets;
            probed.insert(samples.next(now, 0).unwrap().0);
            now += INTERVAL;
        }
        assert_eq!(probed.len(), 30);
        // Few peers are all probed, one after the other.
        samples.set_peers(ids(3), now);
        let next: BTreeSet<_> = (0..3).map(|_| samples.next(now, 0).unwrap().0).collect();
        assert_eq!(next.len(), 3);
        samples.set_peers([], now);
        assert_eq!(samples.next(now, 0), None);
    }
}
