//! Who speaks for the cluster, and which deaths are reported. Pure.
//!
//! The *agreed membership* is whom this agent has seen alive, without those that left, that discovery forgot, or whose
//! death was confirmed. A side of a partition speaks if it reaches more than half of it. A confirmed death makes the
//! agreed membership smaller, so of five members two may speak after two partitions in a row. Where exactly half is
//! reached (two members, an even split), the side speaks whose `SANITY_CHECK_URL` answers 2xx; where none is set, the one
//! with the highest identifier. Of those that speak, the one with the highest identifier reports.
//!
//! To reach a member means that it is alive and not suspect. That is late by seconds for whom nobody has probed yet, so
//! more than half of those that this agent has probed lately have to have been heard, too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::model::PeerRole;

/// 500 ms without a majority is isolation: what died in it is not reported. A shorter loss of it is packet loss.
const ISOLATED_AFTER: Duration = Duration::from_millis(500);
/// 400 ms without another suspect: after a partition, others are about to be suspected.
const SETTLED_AFTER: Duration = Duration::from_millis(400);
/// 800 ms that a death waits for that, at most.
const SETTLED_AT_LATEST: Duration = Duration::from_millis(800);
/// 2 seconds for which a death counts as part of one event.
const ONE_EVENT: Duration = Duration::from_secs(2);
/// 5 seconds between questions for `SANITY_CHECK_URL` while it does not answer 2xx.
const SANITY_AGAIN: Duration = Duration::from_secs(5);
/// 2 seconds for which its answer holds.
const SANITY_HOLDS: Duration = Duration::from_secs(2);

/// How a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It answers.
    Alive,
    /// It may not.
    Suspect,
    /// It did not answer since then.
    Dead(Instant),
    /// It said that it leaves.
    Left,
}

/// What this agent sees.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// The members but this agent, by identifier.
    pub members: BTreeMap<Arc<str>, Standing>,
    /// How many others discovery knows that were never seen.
    pub unseen: usize,
    /// Discovery has not said yet who else there may be.
    pub is_blind: bool,
    /// How many members were probed lately.
    pub probed: usize,
    /// How many of these were heard.
    pub heard: usize,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The members whose death is confirmed.
    pub died: Vec<Arc<str>>,
    /// The members that are back after a confirmed death.
    pub recovered: Vec<Arc<str>>,
    /// `SANITY_CHECK_URL` has to be asked.
    pub asks_sanity: bool,
    /// Something waits: decide again soon.
    pub is_waiting: bool,
}

/// What was agreed, and what waits.
#[derive(Debug)]
pub struct Quorum {
    own: Arc<str>,
    role: PeerRole,
    agreed: BTreeSet<Arc<str>>,
    is_decided: bool,
    /// Since when no majority is reached.
    silent_since: Option<Instant>,
    is_isolated: bool,
    /// The members that died unseen, or while this agent was isolated: others have reported them.
    excused: BTreeSet<Arc<str>>,
    /// The members whose death was confirmed, until they are back.
    reported: BTreeSet<Arc<str>>,
    suspects: usize,
    restless_at: Option<Instant>,
    sanity: Option<Sanity>,
}

/// What is known of `SANITY_CHECK_URL`.
#[derive(Clone, Copy, Debug, Default)]
struct Sanity {
    asked: Option<Instant>,
    answered: Option<(Instant, bool)>,
}

impl Quorum {
    /// Nothing agreed. `asks_sanity` says whether a `SANITY_CHECK_URL` is set.
    #[must_use]
    pub fn new(own: Arc<str>, asks_sanity: bool) -> Self {
        Self {
            agreed: BTreeSet::from([own.clone()]),
            own,
            role: PeerRole::Undecided,
            is_decided: false,
            silent_since: None,
            is_isolated: false,
            excused: BTreeSet::new(),
            reported: BTreeSet::new(),
            suspects: 0,
            restless_at: None,
            sanity: asks_sanity.then(Sanity::default),
        }
    }

    /// The part of this agent.
    #[must_use]
    pub fn role(&self) -> &PeerRole {
        &self.role
    }

    /// `SANITY_CHECK_URL` has answered.
    pub fn sanity(&mut self, now: Instant, is_success: bool) {
        if let Some(sanity) = &mut self.sanity {
            sanity.answered = Some((now, is_success));
        }
    }

    /// Decides by what this agent sees now.
    pub fn decide(&mut self, now: Instant, sight: &Sight) -> Decision {
        self.join(sight);
        let mut decision = Decision::default();
        let speaks = self.speaks(now, sight, &mut decision);
        if speaks {
            self.is_decided = true;
            if self.is_isolated {
                self.is_isolated = false;
                self.excuse(sight);
            }
            self.silent_since = None;
            self.confirm(now, sight, &mut decision);
        } else if self.is_decided {
            let since = *self.silent_since.get_or_insert(now);
            self.is_isolated |= now.duration_since(since) >= ISOLATED_AFTER;
            decision.is_waiting |= !self.is_isolated;
        }
        self.role = self.part(sight);
        decision
    }

    /// Who lives belongs to the membership, and who left or is forgotten does not.
    fn join(&mut self, sight: &Sight) {
        for (id, standing) in &sight.members {
            match standing {
                Standing::Alive => {
                    self.agreed.insert(id.clone());
                    self.excused.remove(id);
                }
                Standing::Left => {
                    self.agreed.remove(id);
                    self.excused.remove(id);
                }
                Standing::Suspect | Standing::Dead(_) => {}
            }
        }
        let own = self.own.clone();
        let is_known = |id: &Arc<str>| *id == own || sight.members.contains_key(id);
        self.agreed.retain(is_known);
        self.excused.retain(is_known);
        self.reported.retain(is_known);
    }

    fn is_reached(&self, id: &Arc<str>, sight: &Sight) -> bool {
        *id == self.own || sight.members.get(id) == Some(&Standing::Alive)
    }

    /// Whether this agent's side may speak.
    fn speaks(&mut self, now: Instant, sight: &Sight, decision: &mut Decision) -> bool {
        // An agent that was started while it was cut off is alone for all it knows.
        if !self.is_decided && sight.is_blind && sight.members.is_empty() {
            return false;
        }
        let unseen = if self.is_decided { 0 } else { sight.unseen };
        let all = self.agreed.len() + unseen;
        let reached = self.agreed.iter().filter(|id| self.is_reached(id, sight)).count();
        let (probed, heard) = (sight.probed + 1, sight.heard + 1);
        if reached * 2 < all || heard * 2 < probed {
            return false;
        }
        if reached * 2 > all && heard * 2 > probed {
            return true;
        }
        if self.sanity.is_some() {
            return self.is_sane(now, decision);
        }
        let highest = self.agreed.last();
        unseen == 0 && highest.is_some_and(|id| self.is_reached(id, sight))
    }

    /// Asks `SANITY_CHECK_URL`; whether it answers 2xx. Where none is set, it does.
    fn is_sane(&mut self, now: Instant, decision: &mut Decision) -> bool {
        let Some(sanity) = &mut self.sanity else { return true };
        decision.is_waiting = true;
        let fresh = sanity.answered.filter(|(at, _)| now.duration_since(*at) < SANITY_HOLDS);
        if let Some((_, true)) = fresh {
            return true;
        }
        let lately = sanity.asked.filter(|at| now.duration_since(*at) < SANITY_AGAIN);
        let is_answered = |asked| sanity.answered.is_some_and(|(at, _)| at >= asked);
        // Where the last answer is old and was good, the next question need not wait, unless one is still open.
        let was_good = fresh.is_none() && sanity.answered.is_some_and(|(_, is_success)| is_success);
        if lately.is_none_or(|asked| was_good && is_answered(asked)) {
            sanity.asked = Some(now);
            decision.asks_sanity = true;
        }
        false
    }

    /// What is dead or suspect as a majority is reached again died unseen.
    fn excuse(&mut self, sight: &Sight) {
        let gone = sight.members.iter().filter(|(_, standing)| **standing != Standing::Alive);
        self.excused.extend(gone.map(|(id, _)| id.clone()));
    }

    fn confirm(&mut self, now: Instant, sight: &Sight, decision: &mut Decision) {
        let back = |id: &&Arc<str>| sight.members.get(*id) == Some(&Standing::Alive);
        decision.recovered = self.reported.iter().filter(back).cloned().collect();
        self.reported.retain(|id| !decision.recovered.contains(id));
        let died: BTreeMap<_, _> = (sight.members.iter())
            .filter_map(|(id, standing)| match standing {
                Standing::Dead(since) => Some((id.clone(), *since)),
                _ => None,
            })
            .filter(|(id, _)| self.agreed.contains(id) && !self.excused.contains(id))
            .collect();
        let is_settled = self.is_settled(now, sight, &died);
        if died.is_empty() {
            return;
        }
        decision.is_waiting = true;
        let reports = self.coordinator(sight) == self.own;
        if !is_settled || reports && !self.is_sane(now, decision) {
            return;
        }
        for id in died.into_keys() {
            self.agreed.remove(&id);
            self.reported.insert(id.clone());
            decision.died.push(id);
        }
    }

    /// Whether no more deaths of the same event are to be expected. A single death never waits.
    fn is_settled(
        &mut self,
        now: Instant,
        sight: &Sight,
        died: &BTreeMap<Arc<str>, Instant>,
    ) -> bool {
        let is_lately = |standing: &&Standing| match standing {
            Standing::Suspect => true,
            Standing::Dead(since) => now.duration_since(*since) < ONE_EVENT,
            Standing::Alive | Standing::Left => false,
        };
        let suspects = sight.members.values().filter(is_lately).count();
        if suspects > self.suspects {
            self.restless_at = Some(now);
        }
        self.suspects = suspects;
        let is_one_of_few = suspects < 2 || suspects * 10 <= self.agreed.len();
        let is_quiet = self.restless_at.is_none_or(|at| now.duration_since(at) >= SETTLED_AFTER);
        let is_late = died.values().any(|since| now.duration_since(*since) >= SETTLED_AT_LATEST);
        is_one_of_few || is_quiet || is_late
    }

    fn coordinator(&self, sight: &Sight) -> Arc<str> {
        let is_there = |id: &&Arc<str>| {
            let standing = sight.members.get(*id);
            **id == self.own || matches!(standing, Some(Standing::Alive | Standing::Suspect))
        };
        self.agreed.iter().rfind(is_there).unwrap_or(&self.own).clone()
    }

    fn part(&self, sight: &Sight) -> PeerRole {
        if !self.is_decided {
            return PeerRole::Undecided;
        }
        if self.is_isolated {
            return PeerRole::Isolated;
        }
        let coordinator = self.coordinator(sight);
        if coordinator == self.own {
            PeerRole::Coordinator
        } else {
            PeerRole::Follower { coordinator }
        }
    }
}

#[cfg(test)]
mod tests;
