//! The fullest filesystem, for the weight of this host.

use std::sync::Arc;

use super::{
    Thresholds,
    space::{Space, StatfsResult},
    statfs::StatfsSampler,
};
use crate::host::{Bounded, Paths};

/// Samples how full the fullest filesystem of `disk_pressure` is. Image filesystems of their own are left out.
#[derive(Clone, Debug)]
pub struct FullestFilesystem {
    thresholds: Thresholds,
    statfs: Arc<StatfsSampler>,
}

impl FullestFilesystem {
    /// The fullest of the filesystems that `thresholds` names, below the root of `paths`.
    #[must_use]
    pub fn new(thresholds: Thresholds, paths: &Paths) -> Self {
        // Not the `Bounded` of the probe, whose calls for the same paths have the same names.
        let statfs = StatfsSampler::new(paths.root.clone(), Bounded::default());
        Self { thresholds, statfs: Arc::new(statfs) }
    }

    /// Its free bytes in percent of its size, from 0 to 100; `None` where no filesystem answered.
    pub async fn free_percent(&self) -> Option<f64> {
        let targets = self.thresholds.targets(&[]);
        let paths: Vec<_> = targets.into_iter().map(|target| target.path).collect();
        let results = self.statfs.sample(&paths).await;
        results.iter().filter_map(free_percent).min_by(f64::total_cmp)
    }
}

/// The free bytes in percent, of a filesystem that can be written.
fn free_percent(result: &StatfsResult) -> Option<f64> {
    let StatfsResult::Space(Space { bytes, is_read_only: false, .. }) = result else { return None };
    #[expect(clippy::cast_precision_loss, reason = "a percentage needs fewer than 52 bits")]
    let percent = 100.0 * bytes.free as f64 / bytes.size as f64;
    percent.is_finite().then_some(percent)
}
