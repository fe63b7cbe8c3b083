//! Which checks fail on so many nodes that a failure of this one says nothing about this node: pure.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{count::Failing, settings::RELEASE_AFTER};
use crate::peers::settings::Share;

/// What the guard holds up; written by the storm guard's task alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuardView {
    /// `STORM_GUARD`; none where the guard is off.
    pub threshold: Option<Share>,
    /// The checks that fail on too many nodes, by name.
    pub storms: BTreeMap<Arc<str>, Storm>,
    /// How often a storm began since the agent started.
    pub begun: u64,
}

/// A check that fails on too many nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Storm {
    /// Where it fails, and where it runs, now.
    pub share: Failing,
    /// When it went beyond the threshold.
    pub since: SystemTime,
    /// When it was last seen beyond the threshold; the guard lets go [`RELEASE_AFTER`] later.
    beyond: Instant,
}

/// A storm began or ended.
#[derive(Clone, Debug, PartialEq)]
pub struct GuardChange {
    /// The check.
    pub check: Arc<str>,
    /// Whether the guard holds it up from now on.
    pub is_held: bool,
    /// Where it fails now; none where this agent cannot tell.
    pub share: Option<Failing>,
    /// How long the guard held it up; zero where that begins.
    pub held_for: Duration,
}

impl GuardView {
    /// A guard with that threshold that holds nothing up yet.
    #[must_use]
    pub fn new(threshold: Option<Share>) -> Self {
        Self { threshold, ..Self::default() }
    }

    /// Takes in where checks fail now; gives what begins and ends.
    ///
    /// A storm begins at once. It ends when the share was no longer beyond the threshold for [`RELEASE_AFTER`], or when
    /// nothing was known for as long.
    pub fn update(
        &mut self,
        counts: Option<&BTreeMap<Arc<str>, Failing>>,
        now: Instant,
        wall: SystemTime,
    ) -> Vec<GuardChange> {
        let Some(threshold) = self.threshold else { return Vec::new() };
        let mut changes = Vec::new();
        for (check, share) in counts.into_iter().flatten() {
            let is_beyond = share.is_beyond(threshold);
            if let Some(storm) = self.storms.get_mut(check) {
                storm.share = *share;
                if is_beyond {
                    storm.beyond = now;
                }
            } else if is_beyond {
                let storm = Storm { share: *share, since: wall, beyond: now };
                self.storms.insert(check.clone(), storm);
                self.begun = self.begun.saturating_add(1);
                changes.push(GuardChange {
                    check: check.clone(),
                    is_held: true,
                    share: Some(*share),
                    held_for: Duration::ZERO,
                });
            }
        }
        self.storms.retain(|check, storm| {
            let is_over = now.saturating_duration_since(storm.beyond) >= RELEASE_AFTER;
            if is_over {
                changes.push(GuardChange {
                    check: check.clone(),
                    is_held: false,
                    share: counts.and_then(|counts| counts.get(check)).copied(),
                    held_for: wall.duration_since(storm.since).unwrap_or_default(),
                });
            }
            !is_over
        });
        changes
    }

    /// Why that check passes although it fails: one line. None where the guard does not hold it up.
    #[must_use]
    pub fn holds(&self, check: &str, reason: &str) -> Option<String> {
        let threshold = self.threshold?;
        let Storm { share, .. } = self.storms.get(check)?;
        Some(format!(
            "storm guard: fails on {share}, more than {threshold}, so this node stays in: {reason}"
        ))
    }
}

#[cfg(test)]
mod tests;
