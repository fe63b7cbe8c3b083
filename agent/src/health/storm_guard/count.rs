//! On how many nodes a check fails, as those nodes themselves say: PURE.
//!
//! Gossip passes through other members, and all of them have the key: one compromised node can forge what others say.
//! So a peer counts only where its own direct answer says so too, and only at an address that discovery names.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::settings::{ASK_AGAIN, ASKED_AT_ONCE, LEAST_FAILING, REFRESH_AFTER, SAMPLE};
use crate::{
    model::{PeerRole, PeerState, PeerView},
    peers::{
        probes::confirm::{ANSWER_COUNTS, Answers},
        settings::Share,
    },
};

/// On how many nodes a check fails, of those where it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failing {
    /// Nodes on which it fails.
    pub failing: usize,
    /// Nodes on which it runs.
    pub of: usize,
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} nodes", self.failing, self.of)
    }
}

impl Failing {
    /// The share, 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "numbers of nodes")]
    pub fn share(self) -> f64 {
        self.failing as f64 / self.of.max(1) as f64
    }

    /// Whether that is a storm.
    pub(super) fn is_beyond(self, threshold: Share) -> bool {
        self.failing >= LEAST_FAILING && self.share() > threshold.get()
    }
}

/// The checks of one agent, before any guard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnChecks {
    /// The names of those that fail.
    pub failing: BTreeSet<Arc<str>>,
    /// The names of those that pass.
    pub passing: BTreeSet<Arc<str>>,
}

/// One check on all nodes that run it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    own: usize,
    of: usize,
    /// Where it fails according to gossip, by identifier: whether the peer's latest answer says so too; none without an
    /// answer.
    claimants: BTreeMap<Arc<str>, Option<bool>>,
}

impl Tally {
    /// Where it fails, if all claims are true.
    fn claimed(&self) -> Failing {
        Failing { failing: self.own + self.claimants.len(), of: self.of }
    }

    /// Where it fails for all that is confirmed.
    ///
    /// Of more than [`SAMPLE`] claimants, a random sample stands for all, if three quarters of it confirm: gossip that
    /// much of which is false is no measure, and then only who has confirmed counts.
    #[must_use]
    pub fn confirmed(&self) -> Failing {
        let (confirmed, answered) = self.sample();
        let claimants = self.claimants.len();
        let peers =
            if self.is_enough() { claimants * confirmed / answered.max(1) } else { confirmed };
        Failing { failing: self.own + peers, of: self.of }
    }

    /// How many confirm, and how many have answered.
    fn sample(&self) -> (usize, usize) {
        let answers = || self.claimants.values().flatten();
        (answers().filter(|confirms| **confirms).count(), answers().count())
    }

    /// Whether the answers stand for all claimants.
    fn is_enough(&self) -> bool {
        let (confirmed, answered) = self.sample();
        answered >= SAMPLE && confirmed * 4 >= answered * 3
    }

    /// The claimants to ask, and whether they have confirmed.
    fn to_ask(&self) -> impl Iterator<Item = (&Arc<str>, bool)> {
        let is_enough = self.is_enough();
        let asked = self.claimants.iter().filter(move |(_, answer)| !is_enough || answer.is_some());
        asked.map(|(id, answer)| (id, *answer == Some(true)))
    }
}

/// On which nodes each check that runs on this one fails. None where this agent is isolated or has not found the others
/// yet: it knows nothing of them.
///
/// One host has one voice, and who its host is, discovery says: an agent whose address discovery does not name does not
/// count, and of several on one node the first counts. So a node with several addresses is still one. Beside that, of
/// several agents that claim the same node or address, the first counts.
#[must_use]
pub fn count(
    own: &OwnChecks,
    view: &PeerView,
    answers: &Answers,
    now: Instant,
) -> Option<BTreeMap<Arc<str>, Tally>> {
    if !matches!(view.role, PeerRole::Coordinator | PeerRole::Follower { .. }) {
        return None;
    }
    let own_voice = view.own.as_ref()?;
    let mut nodes: BTreeSet<&str> = BTreeSet::from([&*own_voice.node]);
    let mut addresses: BTreeSet<IpAddr> = BTreeSet::from([own_voice.address.ip()]);
    // Where discovery knows addresses alone, the own address is the own host, which is among those already.
    let mut hosts: BTreeSet<&str> = BTreeSet::from([&*own_voice.node]);
    let mut tallies: BTreeMap<Arc<str>, Tally> = BTreeMap::new();
    for name in own.failing.iter().chain(&own.passing) {
        let own = usize::from(own.failing.contains(name));
        tallies.insert(name.clone(), Tally { own, of: 1, ..Tally::default() });
    }
    // Of a suspect, what it said lately counts: its silence is seconds old at most.
    let is_there = |state| matches!(state, PeerState::Alive | PeerState::Suspect);
    for peer in view.peers.iter().filter(|peer| is_there(peer.state)) {
        let Some(host) = &peer.host else { continue };
        let is_new = addresses.insert(peer.identity.address.ip());
        if !is_new || !hosts.insert(host) || !nodes.insert(&peer.identity.node) {
            continue;
        }
        let answer = answers.get(&peer.identity.id);
        let answer = answer.filter(|one| now.saturating_duration_since(one.at) < ANSWER_COUNTS);
        for (name, tally) in &mut tallies {
            let confirms = answer.map(|answer| answer.status.failing.contains(name));
            let claims = peer.failing.contains(name);
            if claims {
                tally.claimants.insert(peer.identity.id.clone(), confirms);
            }
            // A peer that does not say what passes may run it: that makes a storm less likely, not more.
            let runs = claims || peer.passing.as_ref().is_none_or(|names| names.contains(name));
            tally.of += usize::from(runs);
        }
    }
    Some(tallies)
}

/// Decides whom to ask when.
#[derive(Debug, Default)]
pub struct Asking {
    /// By identifier, when each was asked.
    asked: BTreeMap<Arc<str>, Instant>,
    order: RandomState,
}

impl Asking {
    /// Those to ask now: of the checks that would be beyond the threshold if all claims were true, or that `holds` says
    /// are held up. Those that were never asked come first, in an order that nobody else knows.
    pub fn next(
        &mut self,
        tallies: &BTreeMap<Arc<str>, Tally>,
        threshold: Share,
        holds: impl Fn(&str) -> bool,
        now: Instant,
    ) -> Vec<Arc<str>> {
        let age = |at: Instant| now.saturating_duration_since(at);
        self.asked.retain(|_, at| age(*at) < ANSWER_COUNTS);
        let asked = |id: &Arc<str>| self.asked.get(id).copied();
        let matters = tallies
            .iter()
            .filter(|(name, tally)| tally.claimed().is_beyond(threshold) || holds(name));
        let due = matters.flat_map(|(_, tally)| tally.to_ask()).filter(|(id, has_confirmed)| {
            let pause: Duration = if *has_confirmed { REFRESH_AFTER } else { ASK_AGAIN };
            asked(id).is_none_or(|at| age(at) >= pause)
        });
        let due: BTreeSet<_> = due.map(|(id, _)| id).collect();
        let mut due: Vec<_> = due.into_iter().cloned().collect();
        due.sort_by_cached_key(|id| (asked(id), self.order.hash_one(id)));
        due.truncate(ASKED_AT_ONCE);
        self.asked.extend(due.iter().map(|id| (id.clone(), now)));
        due
    }
}
