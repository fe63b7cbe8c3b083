//! The pace of writes to the API: one a second, and ever fewer while they fail.

use std::time::{Duration, Instant};

use tocsin_runtime::jitter;
use tracing::{info, warn};

use super::{settings, writer::WriteError};

/// When the next write of one kind may be made. It logs when writes begin to fail, and when they work again.
#[derive(Debug)]
pub(super) struct WriteBackoff {
    what: &'static str,
    earliest: Instant,
    /// Writes that failed in a row.
    failures: u32,
}

impl WriteBackoff {
    /// For writes of `what`, as the log calls it; the first may be made now.
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, earliest: Instant::now(), failures: 0 }
    }

    /// When the next write may be made.
    pub(super) fn earliest(&self) -> Instant {
        self.earliest
    }

    /// Takes in how a write ended.
    pub(super) fn wrote(&mut self, result: Result<(), &WriteError>) {
        let what = self.what;
        match result {
            Ok(()) => {
                if self.failures > 0 {
                    info!("{what} can be written again");
                }
                self.failures = 0;
            }
            Err(WriteError { message, .. }) => {
                if self.failures == 0 {
                    warn!("{what} cannot be written, and will be tried again: {message}");
                }
                self.failures = self.failures.saturating_add(1);
            }
        }
        let jitter =
            if self.failures == 0 { Duration::ZERO } else { jitter::up_to(settings::API_JITTER) };
        self.earliest = Instant::now() + pause(self.failures) + jitter;
    }
}

/// The pause after that many failures in a row, without its jitter.
fn pause(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(5);
    (settings::PUBLISH_INTERVAL * 2_u32.pow(doublings)).min(settings::PUBLISH_RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_writes_come_ever_more_seldom() {
        let seconds: Vec<_> = [0, 1, 2, 3, 4, 5, 6, 7, u32::MAX].map(|n| pause(n).as_secs()).into();
        assert_eq!(seconds, [1, 1, 2, 4, 8, 16, 30, 30, 30]);
    }
}
