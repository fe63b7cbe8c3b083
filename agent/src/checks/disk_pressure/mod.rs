//! `disk_pressure`: the key filesystems have bytes and inodes to spare.
//!
//! By default those are `/`, the kubelet's directory and the runtime's images, with the limits at which the kubelet
//! begins to evict pods; see [`Thresholds`] for others. A filesystem that hangs costs one thread, and the others are
//! still judged. It is not a prediction (how fast a disk fills), and quotas are not looked at.

mod judge;
mod look;
pub mod settings;
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

pub use self::thresholds::{BadThreshold, Thresholds};
use self::{
    judge::{Low, judge},
    look::{Eyes, lock},
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

/// How full the fullest of the filesystems is, for who weighs hosts; image filesystems of their own are left out.
#[derive(Clone, Debug)]
pub struct Fullest {
    thresholds: Thresholds,
    eyes: Arc<Eyes>,
}

impl Fullest {
    /// Of the filesystems of `thresholds`, below the root of `paths`.
    #[must_use]
    pub fn new(thresholds: Thresholds, paths: &Paths) -> Self {
        // The probe looks at the same paths, which are names there.
        let eyes = Eyes::new(paths.root.clone(), Bounded::default());
        Self { thresholds, eyes: Arc::new(eyes) }
    }

    /// Its free bytes, in percent of its size. `None` where none could be looked at.
    pub async fn free_percent(&self) -> Option<f64> {
        let targets = self.thresholds.targets(&[]);
        let paths: Vec<_> = targets.into_iter().map(|target| target.path).collect();
        let looks = self.eyes.look_at(&paths).await;
        looks.iter().filter_map(look::free_percent).min_by(f64::total_cmp)
    }
}

/// Asks the container runtime where its images are; `None` where it cannot be asked.
pub type AskImages =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Option<Vec<PathBuf>>> + Send>> + Send + Sync>;

/// The probe.
pub struct DiskPressure {
    thresholds: Thresholds,
    eyes: Arc<Eyes>,
    low: Mutex<Low>,
    ask_images: Option<AskImages>,
    images: Mutex<Images>,
}

/// What the runtime said last.
#[derive(Debug, Default)]
struct Images {
    paths: Vec<PathBuf>,
    ask_again: Option<Instant>,
}

impl fmt::Debug for DiskPressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskPressure").field("thresholds", &self.thresholds).finish_non_exhaustive()
    }
}

impl DiskPressure {
    /// A probe that looks below the root of `paths`, for the image filesystems at what `ask_images` says.
    #[must_use]
    pub fn new(
        thresholds: Thresholds,
        paths: &Paths,
        ask_images: Option<AskImages>,
        bounded: Bounded,
    ) -> Self {
        Self {
            thresholds,
            eyes: Arc::new(Eyes::new(paths.root.clone(), bounded)),
            low: Mutex::default(),
            ask_images,
            images: Mutex::default(),
        }
    }

    /// The same for the runner.
    #[must_use]
    pub fn probe(self) -> Probe {
        let this = Arc::new(self);
        Probe {
            name: CHECK.name,
            timeout: settings::DISK_TIMEOUT,
            sample: Box::new(move || Box::pin(this.clone().sample())),
        }
    }

    /// One sample.
    pub async fn sample(self: Arc<Self>) -> Outcome {
        let targets = self.thresholds.targets(&self.images().await);
        let paths: Vec<_> = targets.iter().map(|target| target.path.clone()).collect();
        let looks: Vec<_> = targets.into_iter().zip(self.eyes.look_at(&paths).await).collect();
        let mut low = lock(&self.low);
        let (now, outcome) = judge(&low, &looks);
        *low = now;
        outcome
    }

    /// Where the images are. Asked for rarely: they do not move while a runtime runs.
    async fn images(&self) -> Vec<PathBuf> {
        let Some(ask) = &self.ask_images else { return Vec::new() };
        let is_due = lock(&self.images).ask_again.is_none_or(|at| Instant::now() >= at);
        if is_due {
            let answer = timeout(settings::DISK_IMAGES_TIMEOUT, ask()).await.ok().flatten();
            let mut images = lock(&self.images);
            let wait = match answer {
                Some(paths) => {
                    images.paths = paths;
                    settings::DISK_IMAGES_INTERVAL
                }
                // Whether the runtime answers is another check's question: the last answer has to do.
                None => settings::DISK_IMAGES_RETRY,
            };
            images.ask_again = Instant::now().checked_add(wait);
        }
        lock(&self.images).paths.clone()
    }
}
