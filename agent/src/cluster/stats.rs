//! What the cluster side counts.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Counters for metrics.
#[derive(Debug, Default)]
pub struct ApiStats {
    requests: Mutex<BTreeMap<u16, u64>>,
    lost: AtomicU64,
    condition_writes: [AtomicU64; 2],
    event_writes: [AtomicU64; 2],
}

/// Status of a request that got no answer.
const NO_ANSWER: u16 = 0;

impl ApiStats {
    /// A request ended with that status, or without an answer.
    pub fn request(&self, status: Option<u16>) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry(status.unwrap_or(NO_ANSWER)).or_default() += 1;
    }

    /// Requests by status; `none` is in the map from the start.
    #[must_use]
    pub fn requests(&self) -> Vec<(String, u64)> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let without = (NO_ANSWER, requests.get(&NO_ANSWER).copied().unwrap_or_default());
        let answered = requests.iter().filter(|(code, _)| **code != NO_ANSWER);
        let name = |code: u16| if code == NO_ANSWER { "none".to_owned() } else { code.to_string() };
        answered
            .map(|(code, count)| (*code, *count))
            .chain([without])
            .map(|(code, count)| (name(code), count))
            .collect()
    }

    /// The API server was lost.
    pub fn lost(&self) {
        self.lost.fetch_add(1, Relaxed);
    }

    /// Losses.
    #[must_use]
    pub fn losses(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// A write of conditions ended.
    pub fn wrote_conditions(&self, ok: bool) {
        self.condition_writes[usize::from(ok)].fetch_add(1, Relaxed);
    }

    /// A write of an event ended.
    pub fn wrote_event(&self, ok: bool) {
        self.event_writes[usize::from(ok)].fetch_add(1, Relaxed);
    }

    /// Writes by what was written and whether it worked.
    #[must_use]
    pub fn writes(&self) -> [(&'static str, &'static str, u64); 4] {
        let of = |what, counters: &[AtomicU64; 2]| {
            let [failed, ok] = counters;
            [(what, "ok", ok.load(Relaxed)), (what, "failed", failed.load(Relaxed))]
        };
        let [a, b] = of("conditions", &self.condition_writes);
        let [c, d] = of("event", &self.event_writes);
        [a, b, c, d]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_status() {
        let stats = ApiStats::default();
        assert_eq!(stats.requests(), [("none".to_owned(), 0)]);
        for status in [Some(200), Some(403), None, Some(200)] {
            stats.request(status);
        }
        let expected = [("200", 2), ("403", 1), ("none", 1)];
        assert_eq!(stats.requests(), expected.map(|(code, count)| (code.to_owned(), count)));
    }
}
