//! When to probe one filesystem: pure.

use std::collections::BTreeSet;

use super::types::Mono;

/// 100 ms from the first probe after an event to the second one, in nanoseconds: the state may change some time after the
/// event.
pub(super) const SECOND_PROBE: Mono = 100_000_000;

/// 1 s between write probes of a filesystem whose errors go on, at first ...
const FIRST_BACKOFF: Mono = 1_000_000_000;
/// ... then twice as long each time, up to 60 s.
const LAST_BACKOFF: Mono = 60_000_000_000;

/// The probes of one filesystem: which are due, and when the last ones were.
#[derive(Clone, Debug, Default)]
pub(super) struct ProbeSchedule {
    /// When the next probes are due: two at most.
    pub(super) due: BTreeSet<Mono>,
    /// Whether a probe is running.
    pub(super) running: bool,
    /// Whether the next probe only checks the root directory.
    pub(super) skip_write: bool,
    /// When the last probe began.
    pub(super) last: Option<Mono>,
    /// When the last probe began that wrote.
    pub(super) last_write: Option<Mono>,
    /// How long to wait between two probes that write.
    backoff: Mono,
}

impl ProbeSchedule {
    /// Asks for a probe now and a second one soon, or for one at the end of the backoff.
    pub(super) fn request(&mut self, now: Mono) {
        match self.last_write {
            Some(last) if now.saturating_sub(last) < self.backoff => {
                self.due.insert(last + self.backoff);
            }
            _ => {
                self.due.extend([now, now + SECOND_PROBE]);
            }
        }
        // A storm of events asks without end; the earliest two probes are enough.
        while self.due.len() > 2 {
            self.due.pop_last();
        }
    }

    /// Whether to start a probe now; then it counts as running. A probe that does not write is no load and knows no
    /// backoff.
    pub(super) fn begin(&mut self, writes: bool, now: Mono) -> bool {
        if self.running || self.due.first().is_none_or(|due| *due > now) {
            return false;
        }
        self.due.retain(|due| *due > now);
        self.running = true;
        self.last = Some(now);
        if !writes {
            return true;
        }
        let quiet = self.last_write.is_none_or(|last| now.saturating_sub(last) > LAST_BACKOFF);
        self.backoff = if quiet { FIRST_BACKOFF } else { (self.backoff * 2).min(LAST_BACKOFF) };
        self.last_write = Some(now);
        true
    }
}
