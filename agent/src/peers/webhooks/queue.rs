//! The queue of webhooks about single peers: PURE.
//!
//! Every member of the majority queues every change that the majority agrees on. One member sends: the coordinator, or,
//! for changes from before the coordinator joined, the highest of the members that have them. What was accepted is told
//! to all by gossip ([`Share`]), and leaves every queue. So a change is lost only with all members that saw it; and it is
//! sent twice only where its sender dies before the others know that it was accepted, with the same key.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::receipts::{Accepted, NAMED_FOR, Share, fingerprint};
use crate::{
    model::{PeerChange, PeerRole, PeerState, PeerView},
    peers::settings::Retries,
};

/// 1,024 webhooks: all members of a large cluster at once. Then the oldest gives way, since the news matter more.
pub(super) const QUEUED: usize = 1024;
/// 1 day until a webhook that was never accepted is given up: nobody is on call for it any more.
const KEPT: Duration = Duration::from_hours(24);
/// 5 seconds that a member waits which is not the coordinator, or which comes back from isolation: gossip needs less to
/// tell it that a webhook was accepted.
const GRACE: Duration = Duration::from_secs(5);
/// 2 minutes that the coordinator waits for members that still send older webhooks, to keep the order: twice [`DELAY_MAX`].
const HOLD: Duration = Duration::from_mins(2);
/// 1 minute between attempts at most: a receiver that is back gets the news within it.
const DELAY_MAX: Duration = Duration::from_mins(1);
/// 100 milliseconds between attempts at least, whatever is configured.
const DELAY_MIN: Duration = Duration::from_millis(100);
/// 2,048 accepted webhooks that are remembered: twice the queue.
const REMEMBERED: usize = 2048;
/// 2,048 members whose word is kept, of which one is known for certain when it is looked up.
const MEMBERS: usize = 2048;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attempt {
    /// The receiver has it.
    Accepted,
    /// The receiver could not be reached.
    NotConnected,
    /// The receiver was reached, and did not say that it has it.
    NotAccepted,
}

/// How attempts follow each other: so many with the same pause between them, and then the pause doubles each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retry {
    /// After [`Attempt::NotConnected`].
    pub(super) connect: Retries,
    /// After [`Attempt::NotAccepted`].
    pub(super) send: Retries,
}

/// The pause after that many failures.
fn delay(retries: Retries, failures: u32) -> Duration {
    let Retries { attempts, cooldown } = retries;
    let doublings = failures.saturating_sub(attempts.get() - 1).min(16);
    cooldown.saturating_mul(1 << doublings).clamp(DELAY_MIN, DELAY_MAX.max(cooldown))
}

/// A queued webhook.
#[derive(Clone, Debug)]
struct Item {
    change: PeerChange,
    print: u64,
    at: Instant,
}

/// What another member said of itself last.
#[derive(Clone, Copy, Debug)]
struct Word {
    session: u32,
    /// Since when it queues what the majority agrees on; none if it does not.
    holds_since: Option<Instant>,
    behind: bool,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Send this one; then tell [`Queue::on_result`].
    Send(PeerChange),
    /// Nothing before that time, or before something happens.
    Wait(Option<Instant>),
}

/// What the queue gave up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct GivenUp {
    /// For want of room.
    pub(super) full: u64,
    /// Too old.
    pub(super) expired: u64,
}

/// The queue of one member.
#[derive(Debug)]
pub(super) struct Queue {
    retry: Retry,
    wants_recoveries: bool,
    session: u32,
    started: Instant,
    own: Option<Arc<str>>,
    coordinator: Option<Arc<str>>,
    majority_since: Option<Instant>,
    /// This coordinator may not tell of a death before `SANITY_CHECK_URL` answers 2xx.
    is_withholding: bool,
    /// It does not queue yet what the others agree on.
    is_catching_up: bool,
    /// Since when each other member is reached.
    alive_since: BTreeMap<Arc<str>, Instant>,
    words: BTreeMap<Arc<str>, Word>,
    items: VecDeque<Item>,
    accepted: Accepted,
    /// What was accepted from whichever member, and when this one heard of it.
    remembered: VecDeque<(u64, Instant)>,
    in_flight: Option<u64>,
    failures: u32,
    last_attempt: Option<Instant>,
    next_attempt: Option<Instant>,
    given_up: GivenUp,
}

impl Queue {
    /// An empty queue of an agent that starts; `session` is a random number.
    pub(super) fn new(retry: Retry, wants_recoveries: bool, session: u32, now: Instant) -> Self {
        Self {
            retry,
            wants_recoveries,
            session,
            started: now,
            own: None,
            coordinator: None,
            majority_since: None,
            is_withholding: false,
            is_catching_up: false,
            alive_since: BTreeMap::new(),
            words: BTreeMap::new(),
            items: VecDeque::new(),
            accepted: Accepted::default(),
            remembered: VecDeque::new(),
            in_flight: None,
            failures: 0,
            last_attempt: None,
            next_attempt: None,
            given_up: GivenUp::default(),
        }
    }

    /// Number of queued webhooks, on every member.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// What was given up so far.
    pub(super) fn given_up(&self) -> GivenUp {
        self.given_up
    }

    /// Takes in what is known of the peers.
    pub(super) fn on_view(&mut self, view: &PeerView, now: Instant) {
        let was_coordinator = self.is_coordinator();
        self.own = view.own.as_ref().map(|own| own.id.clone());
        self.coordinator = match &view.role {
            PeerRole::Coordinator => self.own.clone(),
            PeerRole::Follower { coordinator } => Some(coordinator.clone()),
            PeerRole::Undecided | PeerRole::Isolated => None,
        };
        if self.is_coordinator() && !was_coordinator {
            // The coordinator before may have died before it told everybody.
            for (print, _) in self.remembered.iter().filter(|(_, at)| *at + NAMED_FOR > now) {
                self.accepted.push(*print, now);
            }
        }
        (self.is_withholding, self.is_catching_up) =
            (!view.withheld.is_empty(), view.is_catching_up);
        self.majority_since = match (&self.coordinator, self.majority_since) {
            (None, _) => None,
            (Some(_), since) => since.or(Some(now)),
        };
        let is_alive = |state| matches!(state, PeerState::Alive | PeerState::Suspect);
        let alive = view.peers.iter().filter(|peer| is_alive(peer.state));
        let since = |id| self.alive_since.get(id).copied().unwrap_or(now);
        self.alive_since =
            alive.map(|peer| (peer.identity.id.clone(), since(&peer.identity.id))).collect();
        // A member that was away has missed changes. It may say the same as before when it is back, and nothing else.
        for (id, word) in &mut self.words {
            if !self.alive_since.contains_key(id) {
                word.holds_since = None;
            }
        }
        if self.words.len() > MEMBERS {
            self.words.retain(|id, _| self.alive_since.contains_key(id));
        }
    }

    fn is_coordinator(&self) -> bool {
        self.coordinator.is_some() && self.coordinator == self.own
    }

    /// Queues a change.
    pub(super) fn on_change(&mut self, change: PeerChange, now: Instant) {
        let print = fingerprint(&change.key);
        if change.is_withdrawn {
            // As if it were accepted: so everybody forgets it.
            self.remember(print, now);
            self.accepted.push(print, now);
            return;
        }
        let is_known =
            self.is_remembered(print) || self.items.iter().any(|item| item.print == print);
        if is_known || (change.alive && !self.wants_recoveries) {
            return;
        }
        if self.items.len() >= QUEUED {
            let oldest = self.items.iter().position(|item| Some(item.print) != self.in_flight);
            self.given_up.full += u64::from(oldest.and_then(|at| self.items.remove(at)).is_some());
        }
        self.items.push_back(Item { change, print, at: now });
        // News are a reason to try a receiver again that did not answer for long.
        if let (Some(last), Some(next)) = (self.last_attempt, &mut self.next_attempt) {
            *next = (*next).min(last + self.retry.send.cooldown.max(DELAY_MIN));
        }
    }

    /// Counts changes that were missed.
    pub(super) fn on_missed(&mut self, count: u64) {
        self.given_up.full += count;
    }

    /// Takes in what a member says by gossip. What is not understood is skipped.
    pub(super) fn on_share(&mut self, origin: &Arc<str>, bytes: &[u8], now: Instant) {
        let Some(share) = Share::decode(bytes) else { return };
        for print in share.accepted {
            self.remember(print, now);
        }
        if self.own.as_ref() == Some(origin) {
            return;
        }
        let before = self.words.get(origin).filter(|word| word.session == share.session);
        let holds_since =
            share.holds.then(|| before.and_then(|word| word.holds_since).unwrap_or(now));
        let word = Word { session: share.session, holds_since, behind: share.behind };
        self.words.insert(origin.clone(), word);
    }

    /// Takes a webhook out of the queue that was accepted from whichever member.
    fn remember(&mut self, print: u64, now: Instant) {
        if self.is_remembered(print) {
            return;
        }
        if self.remembered.len() >= REMEMBERED {
            self.remembered.pop_front();
        }
        self.remembered.push_back((print, now));
        self.items.retain(|item| item.print != print);
    }

    fn is_remembered(&self, print: u64) -> bool {
        self.remembered.iter().any(|(remembered, _)| *remembered == print)
    }

    /// Takes in how the last [`Step::Send`] ended.
    pub(super) fn on_result(&mut self, attempt: Attempt, now: Instant) {
        let Some(print) = self.in_flight.take() else { return };
        let retries = match attempt {
            Attempt::Accepted => {
                self.remember(print, now);
                self.accepted.push(print, now);
                self.failures = 0;
                self.next_attempt = None;
                return;
            }
            Attempt::NotConnected => self.retry.connect,
            Attempt::NotAccepted => self.retry.send,
        };
        self.failures = self.failures.saturating_add(1);
        self.next_attempt = Some(now + delay(retries, self.failures));
    }

    /// The next step.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        while let Some(first) = self.items.front()
            && now.saturating_duration_since(first.at) >= KEPT
            && self.in_flight != Some(first.print)
        {
            self.items.pop_front();
            self.given_up.expired += 1;
        }
        if self.in_flight.is_some() || self.is_withholding {
            return Step::Wait(None);
        }
        let Some(item) = self.items.iter().find(|item| self.is_ours(item)) else {
            return Step::Wait(None);
        };
        let Some(due) = self.due(item) else { return Step::Wait(None) };
        if now < due {
            return Step::Wait(Some(due));
        }
        let change = item.change.clone();
        self.in_flight = Some(item.print);
        self.last_attempt = Some(now);
        Step::Send(change)
    }

    /// When that webhook may be sent; none outside of a majority.
    fn due(&self, item: &Item) -> Option<Instant> {
        let majority_since = self.majority_since?;
        let mut due = self.next_attempt.unwrap_or(item.at);
        if item.at < majority_since {
            due = due.max(majority_since + GRACE);
        }
        if self.is_coordinator() {
            let is_behind = |id| {
                self.words.get(id).is_some_and(|word| word.behind && word.holds_since.is_some())
            };
            if self.alive_since.keys().any(is_behind) {
                due = due.max(item.at + HOLD);
            }
        } else {
            due = due.max(item.at + GRACE);
        }
        Some(due)
    }

    /// Whether it is on this member to send it.
    fn is_ours(&self, item: &Item) -> bool {
        let (Some(own), Some(coordinator)) = (&self.own, &self.coordinator) else { return false };
        if own == coordinator {
            return true;
        }
        if self.holds(coordinator, item) {
            return false;
        }
        // The highest of those that have it.
        let others = self
            .alive_since
            .range::<str, _>((std::ops::Bound::Excluded(own.as_ref()), std::ops::Bound::Unbounded));
        !others.into_iter().any(|(id, _)| self.holds(id, item))
    }

    /// Whether another member is there that has it in its queue.
    fn holds(&self, id: &str, item: &Item) -> bool {
        let alive = self.alive_since.get(id);
        let holds = self.words.get(id).and_then(|word| word.holds_since.as_ref());
        alive.is_some_and(|since| *since <= item.at) && holds.is_some_and(|since| *since <= item.at)
    }

    /// Whether [`Self::share`] may change by time alone.
    pub(super) fn is_changing(&self, now: Instant) -> bool {
        !self.items.is_empty() || self.accepted.is_turning(now)
    }

    /// What to tell the other members.
    pub(super) fn share(&self, now: Instant) -> Share {
        Share {
            session: self.session,
            holds: self.coordinator.is_some() && !self.is_catching_up,
            // One that is younger may be on its way by the coordinator.
            behind: !self.is_coordinator()
                && self.items.iter().any(|item| now >= item.at + GRACE && self.is_ours(item)),
            accepted: self.accepted.named(now, now.saturating_duration_since(self.started)),
        }
    }
}
