//! `disk_pressure`: the key filesystems have bytes and inodes to spare.
//!
//! By default those are `/`, the kubelet's directory and the runtime's images, with the limits at which the kubelet
//! begins to evict pods; see [`Thresholds`] for others. A filesystem that hangs costs one thread, and the others are
//! still judged. It is not a prediction (how fast a disk fills), and quotas are not looked at.

mod judge;
mod thresholds;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use rustix::{
    fs::{StatVfsMountFlags, fstat, fstatvfs},
    io::{Errno, Result},
};
use tokio::{task::JoinSet, time::timeout};

use self::judge::{Amount, Look, Low, Space, judge};
pub use self::thresholds::{BadThreshold, Thresholds};
use super::{Check, Kind, OnUnknown, runner::Probe};
use crate::{
    config,
    host::{Bounded, Paths, Stuck, open_below},
    model::Outcome,
};

pub(super) const CHECK: Check = Check {
    name: "disk_pressure",
    passes_when: "bytes and inodes free on `/`, `/var/lib/kubelet` and the image filesystem are above `DISK_THRESHOLDS`",
    on_unknown: OnUnknown::Pass,
    needs_node_name: false,
    kind: Kind::Probe,
};

/// Asks the container runtime where its images are; `None` where it cannot be asked.
pub type AskImages =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Option<Vec<PathBuf>>> + Send>> + Send + Sync>;

/// The probe.
pub struct DiskPressure {
    thresholds: Thresholds,
    root: PathBuf,
    bounded: Bounded,
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
    pub fn new(thresholds: Thresholds, paths: &Paths, ask_images: Option<AskImages>) -> Self {
        Self {
            thresholds,
            root: paths.root.clone(),
            bounded: Bounded::default(),
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
            timeout: config::DISK_TIMEOUT,
            sample: Box::new(move || Box::pin(this.clone().sample())),
        }
    }

    /// One sample.
    pub async fn sample(self: Arc<Self>) -> Outcome {
        let targets = self.thresholds.targets(&self.images().await);
        // All at once: one that hangs is not waited for before the next is looked at.
        let mut looking = JoinSet::new();
        for (at, target) in targets.into_iter().enumerate() {
            let this = self.clone();
            looking.spawn(async move {
                let look = this.look(&target.path).await;
                (at, target, look)
            });
        }
        let mut looks = looking.join_all().await;
        looks.sort_unstable_by_key(|(at, ..)| *at);
        let looks: Vec<_> = looks.into_iter().map(|(_, target, look)| (target, look)).collect();
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
            let answer = timeout(config::DISK_IMAGES_TIMEOUT, ask()).await.ok().flatten();
            let mut images = lock(&self.images);
            let wait = match answer {
                Some(paths) => {
                    images.paths = paths;
                    config::DISK_IMAGES_INTERVAL
                }
                // Whether the runtime answers is another check's question: the last answer has to do.
                None => config::DISK_IMAGES_RETRY,
            };
            images.ask_again = Instant::now().checked_add(wait);
        }
        lock(&self.images).paths.clone()
    }

    async fn look(&self, path: &Path) -> Look {
        let (root, inner) = (self.root.clone(), path.to_owned());
        let call = move || space_at(&root, &inner);
        let name = format!("statfs {}", path.display());
        match self.bounded.run(name, config::DISK_DEADLINE, call).await {
            Ok(Ok(space)) => Look::Seen(space),
            Ok(Err(Errno::NOENT | Errno::NOTDIR)) => Look::Missing,
            Ok(Err(error)) => Look::Failed(error.to_string()),
            Err(Stuck::Late) => Look::Stuck(config::DISK_DEADLINE),
            Err(Stuck::Still(time)) => Look::Stuck(time),
            Err(stuck @ Stuck::NoThread) => Look::Failed(stuck.to_string()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the filesystem of `path` has, below `root`. Blocks for as long as the filesystem likes.
fn space_at(root: &Path, path: &Path) -> Result<Space> {
    let fd = open_below(root, path)?;
    let (dev, seen) = (fstat(&fd)?.st_dev, fstatvfs(&fd)?);
    let bytes = |blocks: u64| blocks.saturating_mul(seen.f_frsize);
    Ok(Space {
        dev,
        bytes: Amount { free: bytes(seen.f_bavail), size: bytes(seen.f_blocks) },
        inodes: Amount { free: seen.f_ffree, size: seen.f_files },
        is_read_only: seen.f_flag.contains(StatVfsMountFlags::RDONLY),
    })
}
