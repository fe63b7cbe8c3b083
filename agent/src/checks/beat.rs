//! When probes begin again.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use tocsin_runtime::jitter;

/// When the next samples begin.
#[derive(Debug)]
pub(super) struct Beat {
    zero: Instant,
    next: Mutex<Option<Instant>>,
}

impl Beat {
    /// For a runtime that is made right after `zero`.
    pub(super) fn new(zero: Instant) -> Self {
        Self { zero, next: Mutex::default() }
    }

    /// For a probe whose last sample began at `began`.
    pub(super) fn next(&self, began: Instant, period: Duration) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let jitter = in_one_step(self.zero, began + period, jitter::up_to(period / SPREAD));
        let at = again(*next, began, Instant::now(), period, jitter);
        *next = Some(at);
        at
    }
}

/// tokio's timers go by a wheel: one that is more than 64 ms away first wakes its thread at a multiple of 64 ms since
/// the runtime was made, and then once more in its time. This makes the two one, where a jitter allows it.
fn in_one_step(zero: Instant, at: Instant, jitter: Duration) -> Duration {
    const SLOT: Duration = Duration::from_millis(64);
    let since = (at + jitter).saturating_duration_since(zero).as_nanos();
    let over = Duration::from_nanos(u64::try_from(since % SLOT.as_nanos()).unwrap_or(0));
    jitter.checked_sub(over).unwrap_or(if over.is_zero() {
        jitter
    } else {
        jitter + SLOT.saturating_sub(over)
    })
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
    fn the_jitter_ends_where_the_wheel_stands() {
        let zero = Instant::now();
        let ms = Duration::from_millis;
        // (when it may begin, the jitter, the jitter that is used)
        for (at, jitter, expected) in [
            (1000, 24, 24),
            (1000, 30, 24),
            (1000, 87, 24),
            (1000, 88, 88),
            (1000, 3, 24),
            (1024, 0, 0),
        ] {
            assert_eq!(in_one_step(zero, zero + ms(at), ms(jitter)), ms(expected), "{at} {jitter}");
        }
    }

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
