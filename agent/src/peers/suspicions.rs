//! The members that this agent suspects by its own probes: each is told so directly, and can answer within a round trip
//! instead of by gossip.

use std::time::Duration;

use tokio::time::Instant;

use super::member::Node;

/// 300 ms between two notices to a suspect: five of them until it is dead.
const NOTICE_PERIOD: Duration = Duration::from_millis(300);
/// 64 suspects that are told directly; beyond, something else is wrong, and gossip tells them.
const SUSPECTS: usize = 64;

/// The suspects.
#[derive(Debug, Default)]
pub struct Suspicions(Vec<Suspicion>);

#[derive(Debug)]
struct Suspicion {
    node: Node,
    incarnation: u16,
    until: Instant,
    next: Instant,
}

impl Suspicions {
    /// Adds one.
    pub fn add(&mut self, now: Instant, node: Node, incarnation: u16, until: Instant) {
        self.0.retain(|suspicion| suspicion.node != node);
        if self.0.len() < SUSPECTS {
            self.0.push(Suspicion { node, incarnation, until, next: now });
        }
    }

    /// Those that are to be told now. `is_suspect` says whether a member is a suspect still.
    pub fn due(
        &mut self,
        now: Instant,
        is_suspect: impl Fn(&Node, u16) -> bool,
    ) -> Vec<(Node, u16)> {
        if self.next().is_none_or(|next| next > now) {
            return Vec::new();
        }
        self.0.retain(|s| s.until > now && is_suspect(&s.node, s.incarnation));
        let due = self.0.iter_mut().filter(|suspicion| suspicion.next <= now);
        due.map(|suspicion| {
            suspicion.next = now + NOTICE_PERIOD;
            (suspicion.node.clone(), suspicion.incarnation)
        })
        .collect()
    }

    /// When one of them is to be told.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.0.iter().map(|suspicion| suspicion.next).min()
    }

    /// Puts all of them off.
    pub fn put_off(&mut self, by: Duration) {
        for suspicion in &mut self.0 {
            suspicion.until += by;
            suspicion.next += by;
        }
    }
}
