//! The latest sample of every probe, for readers, and the demand for it that readers make.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use super::settings;
use crate::model::Outcome;

/// One result of a probe.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The outcome.
    pub outcome: Outcome,
    /// How long the sample took.
    pub took: Duration,
    /// When the sample was finished.
    pub at: Instant,
}

/// The latest sample of every probe. Clones share the samples.
#[derive(Clone, Debug, Default)]
pub struct Probes(Arc<ProbeSlots>);

/// 1 second for being scheduled: a probe that is later than its time-out and this is stuck.
const MARGIN: Duration = Duration::from_secs(1);

impl Probes {
    pub(super) fn new(slots: impl IntoIterator<Item = (&'static str, ProbeSlot)>) -> Self {
        let by_name = slots.into_iter().collect();
        Self(Arc::new(ProbeSlots { by_name, changes: watch::Sender::default() }))
    }

    /// Requests these probes, and waits until each has a sample. A probe that runs already has one.
    pub async fn demand(&self, names: impl IntoIterator<Item = &str>) {
        let names = names.into_iter();
        let slots: Vec<_> = names.filter_map(|name| self.0.by_name.get(name)).collect();
        for slot in &slots {
            slot.request();
        }
        for slot in slots {
            let mut latest = slot.latest.subscribe();
            // Every sample ends with its time-out; only a thread that is stuck can take longer.
            let limit = slot.timeout + MARGIN;
            let _late_is_no_result = timeout(limit, latest.wait_for(Option::is_some)).await;
        }
    }

    /// Requests these probes, and returns whether each has a sample already.
    pub fn want<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> bool {
        let mut all = true;
        for slot in names.into_iter().filter_map(|name| self.0.by_name.get(name)) {
            slot.request();
            all &= slot.latest.borrow().is_some();
        }
        all
    }

    /// A number that changes whenever the outcome of any probe changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// The latest sample of that probe; `None` while it is not in demand. This is no request for it.
    #[must_use]
    pub fn latest(&self, name: &str) -> Option<Sample> {
        self.0.by_name.get(name).and_then(|slot| slot.latest.borrow().clone())
    }

    /// The outcome of that probe at the time `now`, where a sample is due every `period`.
    #[must_use]
    pub fn outcome(&self, name: &str, period: Duration, now: Instant) -> Outcome {
        let timeout = self.0.by_name.get(name).map_or(Duration::ZERO, |slot| slot.timeout);
        outcome(self.latest(name).as_ref(), timeout + period + MARGIN, now)
    }

    /// The state of the probes, for the runner.
    pub(super) fn slots(&self) -> Arc<ProbeSlots> {
        self.0.clone()
    }
}

/// The outcome that a sample stands for at the time `now`: a sample older than `limit` says nothing any more.
fn outcome(latest: Option<&Sample>, limit: Duration, now: Instant) -> Outcome {
    let Some(latest) = latest else { return Outcome::Unknown("no result yet".to_owned()) };
    let age = now.saturating_duration_since(latest.at);
    if age > limit {
        return Outcome::Unknown(format!("stuck for {} s", age.as_secs()));
    }
    latest.outcome.clone()
}

/// The state of every probe.
#[derive(Debug, Default)]
pub(super) struct ProbeSlots {
    by_name: BTreeMap<&'static str, ProbeSlot>,
    /// Counts changes of outcomes, not samples: readers wake only for news.
    changes: watch::Sender<u64>,
}

impl ProbeSlots {
    pub(super) fn get(&self, name: &str) -> Option<&ProbeSlot> {
        self.by_name.get(name)
    }

    /// Publishes a sample, or that there is none any more.
    pub(super) fn publish(&self, slot: &ProbeSlot, sample: Option<Sample>) {
        let outcome = |sample: &Option<Sample>| sample.as_ref().map(|s| s.outcome.clone());
        let now = outcome(&sample);
        if outcome(&slot.latest.send_replace(sample)) != now {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }
}

/// The state of one probe: its latest sample, and the demand for it.
#[derive(Debug)]
pub(super) struct ProbeSlot {
    /// The probe's own time-out.
    timeout: Duration,
    /// The probe is in the default set, and so always in demand.
    is_default: bool,
    /// The time from which `last_request` counts.
    zero: Instant,
    /// Milliseconds from `zero` to the last request, plus one; 0 while the probe is not in demand.
    last_request: AtomicU64,
    first_request: Notify,
    latest: watch::Sender<Option<Sample>>,
}

impl ProbeSlot {
    pub(super) fn new(timeout: Duration, is_default: bool) -> Self {
        Self {
            timeout,
            is_default,
            zero: Instant::now(),
            last_request: AtomicU64::new(0),
            first_request: Notify::new(),
            latest: watch::Sender::new(None),
        }
    }

    fn request(&self) {
        let ms = u64::try_from(self.zero.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        if self.last_request.swap(ms + 1, Relaxed) == 0 {
            self.first_request.notify_one();
        }
    }

    /// Whether the probe is to be sampled. If not, the next request ends [`Self::first_request`].
    pub(super) fn is_in_demand(&self) -> bool {
        let mut last = self.last_request.load(Relaxed);
        loop {
            let since = self.zero.elapsed().saturating_sub(Duration::from_millis(last));
            if self.is_default || (last != 0 && since < settings::PROBE_IDLE) {
                return true;
            }
            // A request that comes in between saw that the probe runs, and wakes nothing: it has to count here.
            match self.last_request.compare_exchange(last, 0, Relaxed, Relaxed) {
                Ok(_) => return false,
                Err(now) => last = now,
            }
        }
    }

    /// Waits for the first request since the probe was not in demand.
    pub(super) async fn first_request(&self) {
        self.first_request.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(20);

    #[test]
    fn an_old_sample_says_nothing() {
        let now = Instant::now();
        let sample = Sample { outcome: Outcome::Pass, took: TIMEOUT, at: now };
        let limit = Duration::from_secs(3);
        for (age, expected) in [
            (0, Outcome::Pass),
            (3, Outcome::Pass),
            (4, Outcome::Unknown("stuck for 4 s".into())),
            (90, Outcome::Unknown("stuck for 90 s".into())),
        ] {
            let now = now + Duration::from_secs(age);
            assert_eq!(outcome(Some(&sample), limit, now), expected, "{age}");
        }
        assert_eq!(outcome(None, limit, now), Outcome::Unknown("no result yet".into()));
    }

    #[test]
    fn only_a_change_of_an_outcome_is_news() {
        let probes = Probes::new([("a", ProbeSlot::new(TIMEOUT, true))]);
        let slots = probes.slots();
        let slot = slots.get("a").unwrap();
        let sample = |outcome| Some(Sample { outcome, took: TIMEOUT, at: Instant::now() });
        let mut changes = probes.changes();
        for (next, is_news) in [
            (sample(Outcome::Pass), true),
            (sample(Outcome::Pass), false),
            (sample(Outcome::Fail("no".into())), true),
            (None, true),
            (None, false),
        ] {
            changes.mark_unchanged();
            slots.publish(slot, next.clone());
            assert_eq!(changes.has_changed().unwrap(), is_news, "{next:?}");
        }
    }

    #[test]
    fn demand_ends() {
        let slot = ProbeSlot::new(TIMEOUT, false);
        assert!(!slot.is_in_demand());
        slot.request();
        assert!(slot.is_in_demand());
        let long_ago = Instant::now().checked_sub(settings::PROBE_IDLE * 2).unwrap();
        let slot = ProbeSlot { zero: long_ago, ..ProbeSlot::new(TIMEOUT, false) };
        slot.last_request.store(1, Relaxed);
        assert!(!slot.is_in_demand());
        // The next request is a first one again.
        assert_eq!(slot.last_request.load(Relaxed), 0);
        slot.request();
        assert!(slot.is_in_demand());
        assert!(ProbeSlot { zero: long_ago, ..ProbeSlot::new(TIMEOUT, true) }.is_in_demand());
    }
}
