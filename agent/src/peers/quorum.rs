//! Who speaks for the cluster, and which deaths are reported. Pure.
//!
//! The *agreed membership* is whom this agent has seen alive, without those that left, that discovery forgot, or whose
//! death was confirmed. A side of a partition speaks if it reaches more than half of it. A confirmed death makes the
//! agreed membership smaller, so of five members two may speak after two partitions in a row. Where exactly half is
//! reached (two members, an even split), the side speaks whose `SANITY_CHECK_URL` answers 2xx; where none is set, the one
//! with the highest identifier. Of those that speak, the one with the highest identifier reports.
//!
//! An agent that finds a majority again *excuses* those that it does not reach: most of them are about to be back, and of
//! the others a majority may have reported the death meanwhile. It asks the others. A death that they agreed on is agreed
//! here too, and not told again; one that nobody agreed on counts after [`EXCUSED_FOR`] or [`EXCUSED_FOR_LONG`].
//!
//! Where a `SANITY_CHECK_URL` is set, a coordinator tells of a death only once the URL has answered 2xx. Until then it
//! *withholds* the death, which the others have agreed on and keep for its successors. If the member is back by then,
//! nobody is told: the death is withdrawn everywhere.
//!
//! To reach a member means that it is alive and not suspect. That is late by seconds for whom nobody has probed yet, so
//! more than half of those that this agent has probed lately have to have been heard, too.

mod sanity;
mod sight;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use self::sanity::Sanity;
pub use self::sight::{Decision, Sight, Standing};
use crate::model::PeerRole;

/// 500 ms without a majority is isolation: what died in it is not reported. A shorter loss of it is packet loss.
const ISOLATED_AFTER: Duration = Duration::from_millis(500);
/// 400 ms without another suspect: after a partition, others are about to be suspected.
const SETTLED_AFTER: Duration = Duration::from_millis(400);
/// 800 ms that a death waits for that, at most.
const SETTLED_AT_LATEST: Duration = Duration::from_millis(800);
/// 2 seconds for which a death counts as part of one event.
const ONE_EVENT: Duration = Duration::from_secs(2);
/// 10 seconds for those that live to be back after an isolation, and for ten questions what others agreed on.
const EXCUSED_FOR: Duration = Duration::from_secs(10);
/// 45 seconds after an isolation that was longer than that: for discovery, too, which tries every 30 seconds, to say who
/// is not there any more.
const EXCUSED_FOR_LONG: Duration = Duration::from_secs(45);

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
    /// The members that were not reached when this agent found a majority again, and until when they are excused.
    excused: BTreeMap<Arc<str>, Instant>,
    /// The deaths of which this agent does not know that a sane coordinator told them; `true` where it withheld them as
    /// the coordinator, and `false` where it agreed on them as a follower.
    withheld: BTreeMap<Arc<str>, bool>,
    /// The members whose death was confirmed, until they are back.
    reported: BTreeSet<Arc<str>>,
    suspects: usize,
    restless_at: Option<Instant>,
    sanity: Option<Sanity>,
}

/// Whether this agent's side may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Voice {
    Speaks,
    /// Exactly half is reached, and `SANITY_CHECK_URL` is being asked.
    Asks,
    Silent,
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
            excused: BTreeMap::new(),
            withheld: BTreeMap::new(),
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
            sanity.answer(now, is_success);
        }
    }

    /// The deaths that this agent, the coordinator, does not tell before `SANITY_CHECK_URL` answers 2xx.
    pub fn withheld(&self) -> impl Iterator<Item = &Arc<str>> {
        let coordinates = self.role == PeerRole::Coordinator;
        let withheld = self.withheld.iter().filter(move |(_, is_own)| coordinates && **is_own);
        withheld.map(|(id, _)| id)
    }

    /// Whether `SANITY_CHECK_URL` did not answer 2xx when it was asked last.
    #[must_use]
    pub fn is_insane(&self) -> bool {
        self.sanity.is_some_and(|sanity| sanity.is_bad())
    }

    /// Whether this agent may still hear of deaths that others have agreed on without it.
    #[must_use]
    pub fn is_catching_up(&self) -> bool {
        !self.excused.is_empty()
    }

    /// Whether the death of that member is still to be agreed on: it must not be forgotten before. Of those that are
    /// excused, others may have forgotten it already.
    #[must_use]
    pub fn is_pending(&self, id: &str) -> bool {
        let is_excused = self.excused.contains_key(id);
        self.is_decided && !self.is_isolated && !is_excused && self.agreed.contains(id)
    }

    /// Decides by what this agent sees now.
    pub fn decide(&mut self, now: Instant, sight: &Sight) -> Decision {
        self.join(sight);
        let mut decision = Decision::default();
        match self.voice(now, sight, &mut decision) {
            Voice::Speaks => {
                self.is_decided = true;
                if self.is_isolated {
                    self.is_isolated = false;
                    decision.is_back = true;
                    self.excuse(now, sight);
                }
                self.silent_since = None;
                self.end_excuses(now, sight);
                self.vouch(now, sight, &mut decision);
                self.confirm(now, sight, &mut decision);
            }
            Voice::Silent if self.is_decided => {
                let since = *self.silent_since.get_or_insert(now);
                self.is_isolated |= now.duration_since(since) >= ISOLATED_AFTER;
                decision.is_waiting |= !self.is_isolated;
            }
            Voice::Asks | Voice::Silent => {}
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
                    self.withheld.remove(id);
                }
                Standing::Suspect | Standing::Dead(_) => {}
            }
        }
        let own = self.own.clone();
        let is_known = |id: &Arc<str>| *id == own || sight.members.contains_key(id);
        self.agreed.retain(is_known);
        self.excused.retain(|id, _| is_known(id));
        self.withheld.retain(|id, _| is_known(id));
        self.reported.retain(is_known);
    }

    fn is_reached(&self, id: &Arc<str>, sight: &Sight) -> bool {
        *id == self.own || sight.members.get(id) == Some(&Standing::Alive)
    }

    fn voice(&mut self, now: Instant, sight: &Sight, decision: &mut Decision) -> Voice {
        // An agent that was started while it was cut off is alone for all it knows.
        if !self.is_decided && sight.is_blind && sight.members.is_empty() {
            return Voice::Silent;
        }
        let unseen = if self.is_decided { 0 } else { sight.unseen };
        let all = self.agreed.len() + unseen;
        let reached = self.agreed.iter().filter(|id| self.is_reached(id, sight)).count();
        let (probed, heard) = (sight.probed + 1, sight.heard + 1);
        if reached * 2 < all || heard * 2 < probed {
            return Voice::Silent;
        }
        if reached * 2 > all && heard * 2 > probed {
            return Voice::Speaks;
        }
        let speaks = if self.sanity.is_some() {
            self.is_sane(now, decision)
        } else {
            let highest = self.agreed.last();
            unseen == 0 && highest.is_some_and(|id| self.is_reached(id, sight))
        };
        match self.sanity {
            _ if speaks => Voice::Speaks,
            Some(sanity) if sanity.is_awaited(now) => Voice::Asks,
            _ => Voice::Silent,
        }
    }

    /// Asks `SANITY_CHECK_URL`; whether it answers 2xx. Where none is set, it does.
    fn is_sane(&mut self, now: Instant, decision: &mut Decision) -> bool {
        let Some(sanity) = &mut self.sanity else { return true };
        decision.is_waiting = true;
        if sanity.is_good_now(now) {
            return true;
        }
        decision.asks_sanity |= sanity.ask(now);
        false
    }

    /// Who is not reached as a majority is reached again is excused.
    fn excuse(&mut self, now: Instant, sight: &Sight) {
        let is_away =
            |standing: &Standing| matches!(standing, Standing::Suspect | Standing::Dead(_));
        let away = sight.members.iter().filter(|(_, standing)| is_away(standing));
        let is_short = self.silent_since.is_some_and(|at| now.duration_since(at) < EXCUSED_FOR);
        let until = now + if is_short { EXCUSED_FOR } else { EXCUSED_FOR_LONG };
        self.excused.extend(away.map(|(id, _)| (id.clone(), until)));
        // Another coordinator may have told these.
        self.withheld.clear();
    }

    /// What others agreed on is agreed, and what they did not agree on in time is to be told.
    fn end_excuses(&mut self, now: Instant, sight: &Sight) {
        for id in self.excused.keys().filter(|id| sight.agreed_dead.contains(*id)) {
            self.agreed.remove(id);
            self.reported.insert(id.clone());
        }
        self.excused.retain(|id, until| !self.reported.contains(id) && now < *until);
    }

    /// Tells what was withheld, or withdraws it.
    fn vouch(&mut self, now: Instant, sight: &Sight, decision: &mut Decision) {
        let is_back = |id: &Arc<str>| sight.members.get(id) == Some(&Standing::Alive);
        let withdrawn = self.withheld.iter().filter(|(id, is_own)| **is_own && is_back(id));
        decision.withdrawn = withdrawn.map(|(id, _)| id.clone()).collect();
        self.withheld.retain(|id, _| !is_back(id));
        if self.withheld.is_empty() || self.coordinator(sight) != self.own {
            return;
        }
        if self.is_sane(now, decision) {
            self.withheld.clear();
        } else {
            self.withheld.values_mut().for_each(|is_own| *is_own = true);
        }
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
            .filter(|(id, _)| self.agreed.contains(id) && !self.excused.contains_key(id))
            .collect();
        let is_settled = self.is_settled(now, sight, &died);
        if died.is_empty() {
            return;
        }
        decision.is_waiting = true;
        let reports = self.coordinator(sight) == self.own;
        if !is_settled {
            return;
        }
        if reports && !self.is_sane(now, decision) {
            self.withheld.extend(died.into_keys().map(|id| (id, true)));
            return;
        }
        for id in died.into_keys() {
            self.agreed.remove(&id);
            if self.sanity.is_some() && !reports {
                self.withheld.insert(id.clone(), false);
            }
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
