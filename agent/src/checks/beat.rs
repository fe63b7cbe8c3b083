//! When probes begin again.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::host::jitter;

/// When the next samples begin.
#[derive(Debug, Default)]
pub(super) struct Beat(Mutex<Option<Instant>>);

impl Beat {
    /// For a probe whose last sample began at `began`.
    pub(super) fn next(&self, began: Instant, period: Duration) -> Instant {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = again(*next, began, Instant::now(), period, jitter(period / SPREAD));
        *next = Some(at);
        at
    }
}

/// A tenth of the period, at random, keeps agents that started together from asking together.
const SPREAD: u32 = 10;

/// Probes begin together where that is in each one's time: to wake up costs more than most samples, and what follows on
/// another sample finds its code in the caches. One that took longer than a period begins at once.
fn again(
    next: Option<Instant>,
    began: Instant,
    now: Instant,
    period: Duration,
    jitter: Duration,
) -> Instant {
    let earliest = now.max(began + period);
    let latest = began + period + period / SPREAD;
    let others = next.filter(|next| (earliest..=latest).contains(next));
    others.unwrap_or_else(|| now.max(began + period + jitter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_begin_together_where_that_is_in_time() {
        let zero = Instant::now();
        let at = |ms| zero + Duration::from_millis(ms);
        let (period, jitter) = (Duration::from_secs(1), Duration::from_millis(30));
        // (what others wait for, began, now, when it begins again)
        for (next, began, now, expected) in [
            (None, 0, 10, 1030),
            (Some(1050), 0, 10, 1050),
            (Some(1000), 0, 10, 1000),
            (Some(1100), 0, 10, 1100),
            // Before its time, or after.
            (Some(999), 0, 10, 1030),
            (Some(1101), 0, 10, 1030),
            // A slow one; one that took longer than a period.
            (Some(1050), 0, 1040, 1050),
            (Some(1050), 0, 1060, 1060),
            (Some(900), 0, 1010, 1030),
            (Some(6030), 0, 5000, 5000),
        ] {
            let next = again(next.map(at), at(began), at(now), period, jitter);
            assert_eq!(next - zero, Duration::from_millis(expected), "{began} {now}");
        }
    }
}
