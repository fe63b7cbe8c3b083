//! When the next sample of a probe begins.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tocsin_runtime::jitter;

/// A tenth of the period, at random, keeps agents that started together from probing together.
const SPREAD: u32 = 10;

/// The schedule that all probes share: it gives samples that are due at about the same time the same time.
///
/// To wake the thread costs more than most samples, and a sample right after another one finds its code in the caches.
#[derive(Debug, Default)]
pub(super) struct SampleSchedule {
    /// When the samples begin that were scheduled last.
    next: Mutex<Option<Instant>>,
}

impl SampleSchedule {
    /// When the next sample begins of a probe whose last one began at `began`.
    pub(super) fn next(&self, began: Instant, period: Duration) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let jitter = jitter::up_to(period / SPREAD);
        let at = begin_again(*next, began, Instant::now(), period, jitter);
        *next = Some(at);
        at
    }
}

/// Pure: the time that others wait for (`next`) if it is within this probe's own spread, else the period and the jitter
/// after the last sample began. After a sample that took longer than a period, the next one begins at once.
fn begin_again(
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
        // (the time that others wait for, began, now, when the next sample begins)
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
            let next = begin_again(next.map(at), at(began), at(now), period, jitter);
            assert_eq!(next - zero, Duration::from_millis(expected), "{began} {now}");
        }
    }
}
