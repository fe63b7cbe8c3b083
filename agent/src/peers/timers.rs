//! The timers that foca has set.

use std::{collections::BTreeMap, time::Duration};

use foca::Timer;
use tokio::time::Instant;

use super::member::Node;

/// The timers, by the time at which they are due. Two of them wait without a time, to wake nobody:
/// that of the gossip while there is no news, and that of the second stage of a probe that was answered.
#[derive(Debug, Default)]
pub struct Timers {
    queue: BTreeMap<(Instant, u64), Timer<Node>>,
    count: u64,
    gossip: Option<(Instant, Timer<Node>)>,
    second_stage: Option<(Instant, u64)>,
}

impl Timers {
    /// Adds a timer.
    pub fn add(&mut self, at: Instant, timer: Timer<Node>) {
        if matches!(timer, Timer::PeriodicGossip(_)) {
            self.gossip = Some((at, timer));
            return;
        }
        self.count += 1;
        let key = (at, self.count);
        if matches!(timer, Timer::SendIndirectProbe { .. }) {
            self.second_stage = Some(key);
        }
        self.queue.insert(key, timer);
    }

    /// Lets the gossip go on, since there is news.
    pub fn wake_gossip(&mut self, now: Instant) {
        if let Some((at, timer)) = self.gossip.take() {
            self.count += 1;
            self.queue.insert((at.max(now), self.count), timer);
        }
    }

    /// The timer of the second stage of the probe of this member, if it is not due yet.
    pub fn take_second_stage(&mut self, probed: &Node) -> Option<Timer<Node>> {
        let key = self.second_stage?;
        let of = self.queue.get(&key)?;
        let is_of = matches!(of, Timer::SendIndirectProbe { probed_id, .. } if probed_id == probed);
        if is_of { self.queue.remove(&key) } else { None }
    }

    /// The next timer that is due.
    pub fn pop(&mut self, now: Instant) -> Option<Timer<Node>> {
        let entry = self.queue.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    /// When the next one is due.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// Puts all of them off.
    pub fn put_off(&mut self, by: Duration) {
        let queue = std::mem::take(&mut self.queue);
        self.queue = queue.into_iter().map(|((at, n), timer)| ((at + by, n), timer)).collect();
        if let Some((at, _)) = &mut self.second_stage {
            *at += by;
        }
        if let Some((at, _)) = &mut self.gossip {
            *at += by;
        }
    }
}
