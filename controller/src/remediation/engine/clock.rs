//! A clock that nobody sets.

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// The time by the wall clock when it was made, going on steadily: what counts how long something lasted does not jump
/// when the wall clock is set.
#[derive(Clone, Copy, Debug)]
pub struct Steady {
    wall: Timestamp,
    began: Instant,
}

impl Default for Steady {
    fn default() -> Self {
        Self { wall: Timestamp::now(), began: Instant::now() }
    }
}

impl Steady {
    pub(super) fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.began.elapsed()).unwrap_or_default();
        self.wall.checked_add(passed).unwrap_or(Timestamp::MAX)
    }
}
