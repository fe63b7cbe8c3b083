//! When the kernel side last looked at the host: written by the kernel task, read by every thread that answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::host::clock;

/// When the kernel task last had a turn, and when the snapshot was taken that it knows. A clone is the same pulse.
///
/// A task that stands still publishes nothing, so its last view would be taken for the truth for ever. Whoever answers
/// from the view looks here how old it is.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Times>);

/// Both in `CLOCK_MONOTONIC` nanoseconds; 0 before the first turn.
#[derive(Debug, Default)]
struct Times {
    turn: AtomicU64,
    look: AtomicU64,
}

impl Pulse {
    /// The task has a turn, and its last snapshot is so old.
    pub(super) fn beat(&self, look_age: Duration) {
        let now = clock::monotonic();
        let age = u64::try_from(look_age.as_nanos()).unwrap_or(u64::MAX);
        self.0.look.store(now.saturating_sub(age), Relaxed);
        self.0.turn.store(now, Relaxed);
    }

    /// For how long the kernel task has had no turn; zero before its first.
    #[must_use]
    pub fn standstill(&self) -> Duration {
        since(&self.0.turn)
    }

    /// How old the last look at the host is: also the sampler may stand still. Zero before the first.
    #[must_use]
    pub fn look_age(&self) -> Duration {
        since(&self.0.look)
    }
}

fn since(time: &AtomicU64) -> Duration {
    match time.load(Relaxed) {
        0 => Duration::ZERO,
        then => Duration::from_nanos(clock::monotonic().saturating_sub(then)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_may_be_older_than_the_last_turn() {
        let pulse = Pulse::default();
        assert_eq!((pulse.standstill(), pulse.look_age()), (Duration::ZERO, Duration::ZERO));
        pulse.clone().beat(Duration::from_secs(4));
        assert!(pulse.standstill() < Duration::from_secs(4));
        assert!(pulse.look_age() >= Duration::from_secs(4));
    }
}
