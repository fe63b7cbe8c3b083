//! When `SANITY_CHECK_URL` is asked, and how long its answer counts. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// 5 seconds between questions for `SANITY_CHECK_URL` while it does not answer 2xx.
const SANITY_AGAIN: Duration = Duration::from_secs(5);
/// 2 seconds for which its answer holds.
const SANITY_HOLDS: Duration = Duration::from_secs(2);

/// 2 seconds that a first answer may take: a TLS handshake across the world, or one lost packet.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// What is known of `SANITY_CHECK_URL`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sanity {
    asked: Option<Instant>,
    answered: Option<(Instant, bool)>,
}

impl Sanity {
    /// It has answered.
    pub(super) fn answer(&mut self, now: Instant, is_success: bool) {
        self.answered = Some((now, is_success));
    }

    /// Whether it answered 2xx so lately that it need not be asked.
    pub(super) fn is_good_now(&self, now: Instant) -> bool {
        let is_fresh = |at: Instant| now.duration_since(at) < SANITY_HOLDS;
        self.answered.is_some_and(|(at, is_success)| is_success && is_fresh(at))
    }

    /// Whether its last answer was not 2xx.
    pub(super) fn is_bad(&self) -> bool {
        self.answered.is_some_and(|(_, is_success)| !is_success)
    }

    /// Whether it has to be asked now; takes note of that.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        let was_lately = self.asked.is_some_and(|at| now.duration_since(at) < SANITY_AGAIN);
        // Where the last answer is old and was good, the next question need not wait, unless one is still open.
        let is_due = !was_lately || self.was_good() && !self.is_open(now);
        if is_due {
            self.asked = Some(now);
        }
        is_due
    }

    /// Whether its answer is awaited, and may be good: it is being asked, and was not bad lately.
    pub(super) fn is_awaited(&self, now: Instant) -> bool {
        let patience = if self.was_good() { SANITY_AGAIN } else { FIRST_ANSWER };
        let is_within = |asked: Instant| now.duration_since(asked) < patience;
        let was_bad = |(at, is_success): (Instant, bool)| {
            !is_success && now.duration_since(at) < SANITY_AGAIN * 2
        };
        self.is_open(now)
            && self.asked.is_some_and(is_within)
            && !self.answered.is_some_and(was_bad)
    }

    fn was_good(&self) -> bool {
        self.answered.is_some_and(|(_, is_success)| is_success)
    }

    /// Whether a question waits for its answer.
    fn is_open(&self, now: Instant) -> bool {
        let is_answered = |asked| self.answered.is_some_and(|(at, _)| at >= asked);
        self.asked
            .is_some_and(|asked| now.duration_since(asked) < SANITY_AGAIN && !is_answered(asked))
    }
}
