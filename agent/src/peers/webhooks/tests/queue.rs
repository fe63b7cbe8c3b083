//! One member's queue: order, attempts, bounds.

use std::{num::NonZero, time::Duration};

use tokio::time::Instant;

use super::{change, identity, retry, view};
use crate::peers::{
    settings::Retries,
    webhooks::{
        queue::{Attempt, GivenUp, QUEUED, Queue, Retry, Step},
        receipts::{Share, fingerprint},
    },
};

const SECOND: Duration = Duration::from_secs(1);

/// The queue of `c`, which coordinates `a` and `b`.
fn coordinator(now: Instant) -> Queue {
    let mut queue = Queue::new(retry(3, SECOND), false, 1, now);
    queue.on_view(&view("c", &["a", "b"], Some("c")), now);
    queue
}

fn sent(step: Step) -> String {
    match step {
        Step::Send(change) => {
            format!("{}{}", change.peer.node, if change.alive { "+" } else { "-" })
        }
        Step::Wait(until) => panic!("waits until {until:?}"),
    }
}

#[test]
fn webhooks_are_sent_in_order_and_once() {
    let now = Instant::now();
    let mut queue = coordinator(now);
    assert_eq!(queue.step(now), Step::Wait(None));
    queue.on_change(change("a", false, 1), now);
    queue.on_change(change("b", false, 1), now);
    // The same change twice, and a recovery, which is not asked for.
    queue.on_change(change("a", false, 1), now);
    queue.on_change(change("a", true, 1), now);
    assert_eq!(sent(queue.step(now)), "a-");
    // One at a time.
    assert_eq!(queue.step(now), Step::Wait(None));
    queue.on_result(Attempt::Accepted, now);
    assert_eq!(sent(queue.step(now)), "b-");
    queue.on_result(Attempt::Accepted, now);
    queue.on_change(change("b", false, 1), now);
    assert_eq!((queue.step(now), queue.len()), (Step::Wait(None), 0));
    // It died again: that is another death.
    queue.on_change(change("a", false, 2), now);
    assert_eq!(sent(queue.step(now)), "a-");
    let prints =
        [("b", 1), ("a", 1)].map(|(name, number)| fingerprint(&change(name, false, number).key));
    assert_eq!(queue.share(now).accepted, prints);
}

#[test]
fn recoveries_are_sent_where_they_are_asked_for() {
    let now = Instant::now();
    let mut queue = Queue::new(retry(3, SECOND), true, 1, now);
    queue.on_view(&view("c", &["a", "b"], Some("c")), now);
    for alive in [false, true] {
        queue.on_change(change("a", alive, 1), now);
    }
    for expected in ["a-", "a+"] {
        assert_eq!(sent(queue.step(now)), expected);
        queue.on_result(Attempt::Accepted, now);
    }
}

#[test]
fn attempts_follow_the_settings_and_then_slow_down() {
    let start = Instant::now();
    let mut queue = coordinator(start);
    queue.on_change(change("a", false, 1), start);
    let mut now = start;
    let mut pauses = Vec::new();
    for _ in 0..10 {
        assert_eq!(sent(queue.step(now)), "a-");
        queue.on_result(Attempt::NotAccepted, now);
        let Step::Wait(Some(until)) = queue.step(now) else { panic!("no pause") };
        pauses.push((until - now).as_secs());
        now = until;
    }
    // 3 attempts with the pause of the settings, then twice as long each time, up to a minute.
    assert_eq!(pauses, [1, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(sent(queue.step(now)), "a-");
    queue.on_result(Attempt::NotAccepted, now);
    // News make it try again sooner, and the order stays.
    queue.on_change(change("b", false, 1), now + SECOND / 2);
    assert_eq!(queue.step(now + SECOND / 2), Step::Wait(Some(now + SECOND)));
    assert_eq!(sent(queue.step(now + SECOND)), "a-");
    queue.on_result(Attempt::Accepted, now + SECOND);
    assert_eq!(sent(queue.step(now + SECOND)), "b-");
    queue.on_result(Attempt::NotAccepted, now + SECOND);
    assert_eq!(queue.step(now + SECOND), Step::Wait(Some(now + 2 * SECOND)));
    // A receiver that cannot be reached has settings of its own.
    let connect = Retries { attempts: NonZero::new(2).unwrap(), cooldown: 3 * SECOND };
    let mut queue = Queue::new(Retry { connect, ..retry(3, SECOND) }, false, 1, start);
    queue.on_view(&view("c", &["a"], Some("c")), start);
    queue.on_change(change("a", false, 1), start);
    let mut now = start;
    for pause in [3, 6, 12] {
        assert_eq!(sent(queue.step(now)), "a-");
        queue.on_result(Attempt::NotConnected, now);
        assert_eq!(queue.step(now), Step::Wait(Some(now + pause * SECOND)));
        now += pause * SECOND;
    }
    // Not even a setting of zero makes it try without a pause.
    let mut queue = Queue::new(retry(1, Duration::ZERO), false, 1, start);
    queue.on_view(&view("c", &["a"], Some("c")), start);
    queue.on_change(change("a", false, 1), start);
    assert_eq!(sent(queue.step(start)), "a-");
    queue.on_result(Attempt::NotAccepted, start);
    assert_eq!(queue.step(start), Step::Wait(Some(start + SECOND / 10)));
}

#[test]
fn only_a_majority_sends_and_only_its_coordinator() {
    let start = Instant::now();
    let mut queue = Queue::new(retry(3, SECOND), false, 1, start);
    // Another member's word that it has a queue.
    let holds = Share { session: 9, holds: true, ..Share::default() };
    queue.on_view(&view("b", &["a", "c"], Some("c")), start);
    queue.on_share(&identity("c").id, &holds.encode(), start);
    queue.on_change(change("a", false, 1), start);
    let late = start + 3600 * SECOND;
    assert_eq!(queue.step(late), Step::Wait(None));
    assert!(!queue.share(late).behind);
    // Isolated: nothing at all, and nothing is forgotten.
    queue.on_view(&view("b", &[], None), late);
    assert_eq!(queue.step(late), Step::Wait(None));
    assert!(!queue.share(late).holds);
    // Back, as the coordinator: it first hears what was accepted in the meantime.
    queue.on_view(&view("b", &["a"], Some("b")), late);
    assert_eq!(queue.step(late), Step::Wait(Some(late + 5 * SECOND)));
    let accepted = vec![fingerprint(&change("a", false, 1).key)];
    let told = Share { accepted, ..holds };
    queue.on_share(&identity("c").id, &told.encode(), late + SECOND);
    assert_eq!((queue.step(late + 5 * SECOND), queue.len()), (Step::Wait(None), 0));
    // What it is told before it sees the change itself counts too.
    queue.on_change(change("a", false, 1), late + 6 * SECOND);
    assert_eq!(queue.len(), 0);
}

#[test]
fn the_queue_is_bounded_in_number_and_age() {
    let start = Instant::now();
    let mut queue = coordinator(start);
    queue.on_change(change("a", false, 0), start);
    assert_eq!(sent(queue.step(start)), "a-");
    for number in 1..=u32::try_from(QUEUED).unwrap() {
        queue.on_change(change("b", false, number), start);
    }
    // The one on its way stays; the oldest of the others gave way.
    assert_eq!((queue.len(), queue.given_up()), (QUEUED, GivenUp { full: 1, expired: 0 }));
    queue.on_result(Attempt::Accepted, start);
    assert_eq!(queue.step(start), Step::Send(change("b", false, 2)));
    queue.on_result(Attempt::NotAccepted, start);
    queue.on_missed(3);
    assert_eq!(queue.step(start + Duration::from_hours(24)), Step::Wait(None));
    let expired = u64::try_from(QUEUED - 1).unwrap();
    assert_eq!((queue.len(), queue.given_up()), (0, GivenUp { full: 4, expired }));
}
