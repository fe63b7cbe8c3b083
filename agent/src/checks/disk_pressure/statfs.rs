//! Samples the free space of filesystems, any of which may never answer.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    fs::{StatVfsMountFlags, fstat, fstatvfs},
    io::{Errno, Result},
};
use tokio::task::JoinSet;

use super::{
    settings,
    space::{Amount, Space, StatfsResult},
};
use crate::host::{Bounded, Stuck, on_own_descriptors, open_below};

/// Samples paths by statfs(2).
///
/// One thread asks for all paths in turn, because to start a thread costs more than the calls. Where one path hangs,
/// each other path gets a thread of its own until that one returns: no path waits for another, and no path is asked
/// for again while it is stuck.
#[derive(Debug)]
pub(super) struct StatfsSampler {
    root: PathBuf,
    bounded: Bounded,
    /// The pass of the thread for all paths that began last.
    last_pass: Mutex<Arc<Mutex<Pass>>>,
}

/// One pass over all paths by one thread.
#[derive(Debug, Default)]
struct Pass {
    results: Vec<StatfsResult>,
    /// The path whose call has not returned yet.
    current: Option<PathBuf>,
    /// The rest of the paths is sampled by other threads: this one stops as soon as it can.
    is_abandoned: bool,
}

impl StatfsSampler {
    /// A sampler of paths below `root`.
    pub(super) fn new(root: PathBuf, bounded: Bounded) -> Self {
        Self { root, bounded, last_pass: Mutex::default() }
    }

    /// The result for each path, in their order. It takes two deadlines at most.
    pub(super) async fn sample(self: &Arc<Self>, paths: &[PathBuf]) -> Vec<StatfsResult> {
        let stuck = |path: &PathBuf| self.bounded.running_for(&call_name(path));
        let known: Vec<_> = paths.iter().map(|path| stuck(path).map(StatfsResult::Stuck)).collect();
        let others = paths.iter().zip(&known).filter(|(_, known)| known.is_none());
        let others: Vec<_> = others.map(|(path, _)| path.clone()).collect();
        let mut results = self.sample_in_turn(&others).await.into_iter();
        let result = |known: Option<StatfsResult>| known.or_else(|| results.next());
        known.into_iter().map_while(result).collect()
    }

    /// Samples paths of which none has a stuck thread of its own: on one thread, as far as it gets.
    async fn sample_in_turn(self: &Arc<Self>, paths: &[PathBuf]) -> Vec<StatfsResult> {
        let pass = Arc::<Mutex<Pass>>::default();
        let (this, all, shared) = (self.clone(), paths.to_vec(), pass.clone());
        let call = move || {
            lock(&this.last_pass).clone_from(&shared);
            on_own_descriptors(|| run_pass(&this.root, all, &shared))
        };
        // The thread for all paths has the empty name.
        let (mut results, stuck, time) =
            match self.bounded.run(String::new(), settings::DISK_DEADLINE, call).await {
                Ok(Ok(())) => return std::mem::take(&mut lock(&pass).results),
                Err(Stuck::Late) => {
                    let (results, current) = abandon(&pass);
                    (results, current, settings::DISK_DEADLINE)
                }
                Err(Stuck::Still(time)) => {
                    let pass = lock(&self.last_pass).clone();
                    (Vec::new(), abandon(&pass).1, time)
                }
                Ok(Err(_)) | Err(Stuck::NoThread) => {
                    let why = Stuck::NoThread.to_string();
                    return vec![StatfsResult::Failed(why); paths.len()];
                }
            };
        let rest = paths.get(results.len()..).unwrap_or_default();
        results.extend(self.sample_each(rest, stuck.as_deref(), time).await);
        results
    }

    /// Samples each path on a thread of its own, except the one that has been stuck for `time`.
    async fn sample_each(
        self: &Arc<Self>,
        paths: &[PathBuf],
        stuck: Option<&Path>,
        time: Duration,
    ) -> Vec<StatfsResult> {
        let mut tasks = JoinSet::new();
        for (number, path) in paths.iter().enumerate() {
            let (this, path) = (self.clone(), path.clone());
            let is_stuck = Some(path.as_path()) == stuck;
            tasks.spawn(async move {
                let result =
                    if is_stuck { StatfsResult::Stuck(time) } else { this.sample_one(path).await };
                (number, result)
            });
        }
        let mut results = tasks.join_all().await;
        results.sort_unstable_by_key(|(number, _)| *number);
        results.into_iter().map(|(_, result)| result).collect()
    }

    async fn sample_one(&self, path: PathBuf) -> StatfsResult {
        let (name, root) = (call_name(&path), self.root.clone());
        let call = move || on_own_descriptors(|| statfs(&root, &path));
        match self.bounded.run(name, settings::DISK_DEADLINE, call).await {
            Ok(Ok(result)) => result,
            Err(Stuck::Late) => StatfsResult::Stuck(settings::DISK_DEADLINE),
            Err(Stuck::Still(time)) => StatfsResult::Stuck(time),
            Ok(Err(_)) | Err(Stuck::NoThread) => StatfsResult::Failed(Stuck::NoThread.to_string()),
        }
    }
}

/// The name under which the call for this path runs.
fn call_name(path: &Path) -> String {
    path.display().to_string()
}

/// Blocks for as long as any of the filesystems does.
fn run_pass(root: &Path, paths: Vec<PathBuf>, pass: &Mutex<Pass>) {
    for path in paths {
        let mut this = lock(pass);
        this.current = Some(path.clone());
        if this.is_abandoned {
            return;
        }
        drop(this);
        let result = statfs(root, &path);
        lock(pass).results.push(result);
    }
}

/// Takes the results so far and the path at which the thread is: it goes no further.
fn abandon(pass: &Mutex<Pass>) -> (Vec<StatfsResult>, Option<PathBuf>) {
    let mut pass = lock(pass);
    pass.is_abandoned = true;
    (std::mem::take(&mut pass.results), pass.current.clone())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn statfs(root: &Path, path: &Path) -> StatfsResult {
    match space_at(root, path) {
        Ok(space) => StatfsResult::Space(space),
        Err(Errno::NOENT | Errno::NOTDIR) => StatfsResult::Missing,
        Err(error) => StatfsResult::Failed(error.to_string()),
    }
}

/// The space of the filesystem of `path`, below `root`.
pub(super) fn space_at(root: &Path, path: &Path) -> Result<Space> {
    let fd = open_below(root, path)?;
    let (dev, stat) = (fstat(&fd)?.st_dev, fstatvfs(&fd)?);
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Space {
        dev,
        bytes: Amount { free: bytes(stat.f_bavail), size: bytes(stat.f_blocks) },
        inodes: Amount { free: stat.f_ffree, size: stat.f_files },
        is_read_only: stat.f_flag.contains(StatVfsMountFlags::RDONLY),
    })
}
