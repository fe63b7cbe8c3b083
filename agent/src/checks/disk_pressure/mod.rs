//! `disk_pressure`: the key filesystems have bytes and inodes to spare.
//!
//! By default these are the filesystems of `/`, of the kubelet's directory and of the runtime's images, with the limits
//! at which the kubelet begins to evict pods; see [`Thresholds`] for others. A filesystem that hangs costs one thread,
//! and the others are still judged. The check predicts nothing (how fast a disk fills) and ignores quotas.

mod fullest;
mod judge;
pub mod settings;
mod space;
mod statfs;
mod thresholds;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex},
    time::Instant,
};

use tokio::time::timeout;

pub use self::{
    fullest::FullestFilesystem,
    thresholds::{BadThreshold, Thresholds},
};
use self::{
    judge::{Shortages, judge},
    statfs::{StatfsSampler, lock},
};
use super::{Check, CheckSource, OnUnknown, runner::Probe};
use crate::{
    host::{Bounded, Paths},
    model::Outcome,
};

pub(super) const CHECK: Check = Check {
    name: "disk_pressure",
    passes_when: "bytes and inodes free on `/`, `/var/lib/kubelet` and the image filesystem are above `DISK_THRESHOLDS`",
    on_unknown: OnUnknown::Pass,
    source: CheckSource::Probe,
};

/// Looks up the image filesystems of the container runtime; the answer is `None` where the runtime gives none.
pub type ImageLookup =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Option<Vec<PathBuf>>> + Send>> + Send + Sync>;

/// The probe.
pub struct DiskPressure {
    thresholds: Thresholds,
    statfs: Arc<StatfsSampler>,
    shortages: Mutex<Shortages>,
    image_lookup: Option<ImageLookup>,
    images: Mutex<ImagePaths>,
}

/// The last answer of the runtime.
#[derive(Debug, Default)]
struct ImagePaths {
    paths: Vec<PathBuf>,
    /// When the next lookup is due; `None` before the first one.
    due: Option<Instant>,
}

impl fmt::Debug for DiskPressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskPressure").field("thresholds", &self.thresholds).finish_non_exhaustive()
    }
}

impl DiskPressure {
    /// A probe of filesystems below the root of `paths`; `image_lookup` says which the image filesystems are.
    #[must_use]
    pub fn new(
        thresholds: Thresholds,
        paths: &Paths,
        image_lookup: Option<ImageLookup>,
        bounded: Bounded,
    ) -> Self {
        Self {
            thresholds,
            statfs: Arc::new(StatfsSampler::new(paths.root.clone(), bounded)),
            shortages: Mutex::default(),
            image_lookup,
            images: Mutex::default(),
        }
    }

    /// This probe, for the runner.
    #[must_use]
    pub fn probe(self) -> Probe {
        let this = Arc::new(self);
        Probe {
            name: CHECK.name,
            timeout: settings::DISK_TIMEOUT,
            sample: Box::new(move || Box::pin(this.clone().sample())),
        }
    }

    /// Takes one sample.
    pub async fn sample(self: Arc<Self>) -> Outcome {
        let targets = self.thresholds.targets(&self.images().await);
        let paths: Vec<_> = targets.iter().map(|target| target.path.clone()).collect();
        let sample: Vec<_> = targets.into_iter().zip(self.statfs.sample(&paths).await).collect();
        let mut shortages = lock(&self.shortages);
        let (now, outcome) = judge(&shortages, &sample);
        *shortages = now;
        outcome
    }

    /// The image filesystems. The lookup is rare, because they do not move while a runtime runs.
    async fn images(&self) -> Vec<PathBuf> {
        let Some(look_up) = &self.image_lookup else { return Vec::new() };
        let is_due = lock(&self.images).due.is_none_or(|at| Instant::now() >= at);
        if is_due {
            let answer = timeout(settings::DISK_IMAGES_TIMEOUT, look_up()).await.ok().flatten();
            let mut images = lock(&self.images);
            let wait = match answer {
                Some(paths) => {
                    images.paths = paths;
                    settings::DISK_IMAGES_INTERVAL
                }
                // The last answer stays: `container_runtime` is the check that says what is wrong.
                None => settings::DISK_IMAGES_RETRY,
            };
            images.due = Instant::now().checked_add(wait);
        }
        lock(&self.images).paths.clone()
    }
}
