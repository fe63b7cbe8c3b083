//! Tells the peers what fails here, and holds up what fails on too many of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tracing::{error, warn};

use super::{
    count::{Asking, OwnChecks, Tally, count},
    judge::{GuardChange, GuardView},
    settings::{JUDGE_INTERVAL, RELEASE_AFTER},
};
use crate::{
    cluster::event_recorder::{Direction, Notice, Subject},
    health::Board,
    model::PeerView,
    peers::{Gossip, PeerQuestions, Topic, gossip::status},
};

type Tallies = BTreeMap<Arc<str>, Tally>;

/// The task. It is the one writer of the [`GuardView`].
#[derive(Debug)]
pub struct StormGuard {
    /// Where the agent's own checks come from.
    pub board: Board,
    /// The peers, and what they say.
    pub peers: watch::Receiver<Arc<PeerView>>,
    /// Tells the peers.
    pub gossip: Gossip,
    /// Asks the peers.
    pub questions: PeerQuestions,
    /// What is held up.
    pub view: watch::Sender<Arc<GuardView>>,
    /// For the Node's events; nobody may be there.
    pub notices: mpsc::Sender<Notice>,
}

impl StormGuard {
    /// Says and judges without end.
    pub async fn run(self) {
        let mut changes = self.board.unguarded_changes().and(self.questions.answers.clone());
        let (mut said, mut asking) = (None, Asking::default());
        let mut guard = (**self.view.borrow()).clone();
        loop {
            let own = own_checks(&self.board);
            if said.as_ref() != Some(&own) {
                self.tell(&own).await;
                said = Some(own.clone());
            }
            let now = Instant::now();
            let tallies = count(&own, &self.peers.borrow(), &self.questions.answers.borrow(), now);
            self.judge(tallies.as_ref(), &mut guard, now);
            self.ask(tallies.as_ref(), &guard, &mut asking, now);
            tokio::time::sleep(JUDGE_INTERVAL).await;
            changes.wait().await;
        }
    }

    async fn tell(&self, own: &OwnChecks) {
        let OwnChecks { failing, passing } = own;
        let failing = failing.iter().map(|name| &**name);
        let bytes = status::encode(failing, passing.iter().map(|name| &**name));
        if let Err(error) = self.gossip.share(Topic::Status, bytes).await {
            error!(%error, "the peers are not told which checks fail here");
        }
    }

    /// Asks those who are said to fail themselves.
    fn ask(&self, tallies: Option<&Tallies>, guard: &GuardView, asking: &mut Asking, now: Instant) {
        let (Some(tallies), Some(threshold)) = (tallies, guard.threshold) else { return };
        let whom = asking.next(tallies, threshold, |name| guard.storms.contains_key(name), now);
        if !whom.is_empty() {
            // Who is not asked now is asked again soon.
            let _full = self.questions.ask.try_send(whom).is_err();
        }
    }

    fn judge(&self, tallies: Option<&Tallies>, guard: &mut GuardView, now: Instant) {
        let shares = tallies.map(|tallies| {
            let shares = tallies.iter().map(|(name, tally)| (name.clone(), tally.confirmed()));
            shares.collect::<BTreeMap<_, _>>()
        });
        let before = guard.storms.clone();
        let changes = guard.update(shares.as_ref(), now, SystemTime::now());
        for change in &changes {
            self.announce(change, guard);
        }
        if before != guard.storms {
            self.view.send_replace(Arc::new(guard.clone()));
        }
    }

    /// Says it loudly: to the log, and as an event of the Node.
    fn announce(&self, change: &GuardChange, guard: &GuardView) {
        let text = words(change, guard);
        let direction = if change.is_held { Direction::Opened } else { Direction::Closed };
        match direction {
            Direction::Opened => error!(check = &*change.check, "{text}"),
            Direction::Closed => warn!(check = &*change.check, "{text}"),
        }
        let notice = Notice { subject: Subject::StormGuard, direction, text };
        // The log has it in any case.
        let _nobody_or_full = self.notices.try_send(notice);
    }
}

/// What began or ended, in one line.
fn words(change: &GuardChange, guard: &GuardView) -> String {
    let GuardChange { check, is_held, share, held_for } = change;
    let threshold = guard.threshold.map(|share| share.to_string()).unwrap_or_default();
    let share =
        share.map_or_else(|| "an unknown share of the nodes".to_owned(), |share| share.to_string());
    if *is_held {
        format!(
            "storm guard: {check} fails on {share}, more than STORM_GUARD={threshold}: \
             failing it takes no node out of load balancers from now on; look for what the nodes have in common"
        )
    } else {
        format!(
            "storm guard over after {} s: {check} fails on {share}, and for {} s on no more than STORM_GUARD={threshold}: \
             failing it takes a node out again",
            held_for.as_secs(),
            RELEASE_AFTER.as_secs()
        )
    }
}

/// The checks of this agent that run, before the guard.
fn own_checks(board: &Board) -> OwnChecks {
    let results = board.unguarded();
    let names = |passed: bool| -> BTreeSet<Arc<str>> {
        let these = results.iter().filter(|result| result.passed == passed);
        these.map(|result| Arc::from(&*result.name)).collect()
    };
    OwnChecks { failing: names(false), passing: names(true) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::health::storm_guard::Failing;

    #[test]
    fn the_words_say_what_happens_and_what_to_look_for() {
        let guard = GuardView::new(Some("30%".parse().unwrap()));
        let share = Some(Failing { failing: 3, of: 5 });
        let (check, held_for) = (Arc::from("node_ready"), Duration::ZERO);
        let began = GuardChange { check, is_held: true, share, held_for };
        assert_eq!(
            words(&began, &guard),
            "storm guard: node_ready fails on 3 of 5 nodes, more than STORM_GUARD=30%: failing it takes no node out of \
             load balancers from now on; look for what the nodes have in common"
        );
        let held_for = Duration::from_secs(90);
        let over = GuardChange { is_held: false, share: None, held_for, ..began };
        assert_eq!(
            words(&over, &guard),
            "storm guard over after 90 s: node_ready fails on an unknown share of the nodes, and for 30 s on no more \
             than STORM_GUARD=30%: failing it takes a node out again"
        );
    }
}
