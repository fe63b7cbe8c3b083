//! Asks the filesystems, any of which may never answer.

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

use super::judge::{Amount, Look, Space};
use crate::{
    checks::disk_pressure::settings,
    host::{Bounded, Stuck, open_below},
};

/// Looks at paths. One thread looks at all of them, one after the other, since a thread costs more than what it does
/// here. Where one hangs, the others are looked at by a thread each until it answers: no path is ever asked again
/// while it is stuck, and none waits for another.
#[derive(Debug)]
pub(super) struct Eyes {
    root: PathBuf,
    bounded: Bounded,
    /// Where the thread for all of them is.
    round: Mutex<Arc<Mutex<Round>>>,
}

/// Free bytes in percent, of what can be written at all.
pub(super) fn free_percent(look: &Look) -> Option<f64> {
    let Look::Seen(Space { bytes, is_read_only: false, .. }) = look else { return None };
    #[expect(clippy::cast_precision_loss, reason = "a percentage needs fewer than 52 bits")]
    let percent = 100.0 * bytes.free as f64 / bytes.size as f64;
    percent.is_finite().then_some(percent)
}

/// One look at all paths.
#[derive(Debug, Default)]
struct Round {
    seen: Vec<Look>,
    /// What is being looked at.
    at: Option<PathBuf>,
    /// Nobody waits for the rest any more.
    is_given_up: bool,
}

impl Eyes {
    pub(super) fn new(root: PathBuf, bounded: Bounded) -> Self {
        Self { root, bounded, round: Mutex::default() }
    }

    /// What is seen of each path, in their order, after two deadlines at most.
    pub(super) async fn look_at(self: &Arc<Self>, paths: &[PathBuf]) -> Vec<Look> {
        let stuck = |path: &PathBuf| self.bounded.running_for(&name_of(path));
        let known: Vec<_> = paths.iter().map(|path| stuck(path).map(Look::Stuck)).collect();
        let others = paths.iter().zip(&known).filter(|(_, known)| known.is_none());
        let others: Vec<_> = others.map(|(path, _)| path.clone()).collect();
        let mut seen = self.look_at_free(&others).await.into_iter();
        let look = |known: Option<Look>| known.or_else(|| seen.next());
        known.into_iter().map_while(look).collect()
    }

    /// The same where no path has a thread of its own that is stuck.
    async fn look_at_free(self: &Arc<Self>, paths: &[PathBuf]) -> Vec<Look> {
        let round = Arc::<Mutex<Round>>::default();
        let (this, all, here) = (self.clone(), paths.to_vec(), round.clone());
        let call = move || {
            lock(&this.round).clone_from(&here);
            go_round(&this.root, all, &here);
        };
        let (mut seen, stuck, time) =
            match self.bounded.run(String::new(), settings::DISK_DEADLINE, call).await {
                Ok(()) => return std::mem::take(&mut lock(&round).seen),
                Err(Stuck::Late) => {
                    let (seen, at) = give_up(&round);
                    (seen, at, settings::DISK_DEADLINE)
                }
                Err(Stuck::Still(time)) => {
                    let round = lock(&self.round).clone();
                    (Vec::new(), give_up(&round).1, time)
                }
                Err(Stuck::NoThread) => {
                    return vec![Look::Failed(Stuck::NoThread.to_string()); paths.len()];
                }
            };
        let rest = paths.get(seen.len()..).unwrap_or_default();
        seen.extend(self.look_at_each(rest, stuck.as_deref(), time).await);
        seen
    }

    /// The same with a thread each, but for the one that is stuck.
    async fn look_at_each(
        self: &Arc<Self>,
        paths: &[PathBuf],
        stuck: Option<&Path>,
        time: Duration,
    ) -> Vec<Look> {
        let mut looking = JoinSet::new();
        for (number, path) in paths.iter().enumerate() {
            let (this, path, is_stuck) =
                (self.clone(), path.clone(), Some(path.as_path()) == stuck);
            looking.spawn(async move {
                (number, if is_stuck { Look::Stuck(time) } else { this.look(path).await })
            });
        }
        let mut looks = looking.join_all().await;
        looks.sort_unstable_by_key(|(number, _)| *number);
        looks.into_iter().map(|(_, look)| look).collect()
    }

    async fn look(&self, path: PathBuf) -> Look {
        let name = name_of(&path);
        let root = self.root.clone();
        match self.bounded.run(name, settings::DISK_DEADLINE, move || see(&root, &path)).await {
            Ok(look) => look,
            Err(Stuck::Late) => Look::Stuck(settings::DISK_DEADLINE),
            Err(Stuck::Still(time)) => Look::Stuck(time),
            Err(stuck @ Stuck::NoThread) => Look::Failed(stuck.to_string()),
        }
    }
}

/// The thread for all of them has the empty name.
fn name_of(path: &Path) -> String {
    path.display().to_string()
}

/// Blocks for as long as any of them likes.
fn go_round(root: &Path, paths: Vec<PathBuf>, round: &Mutex<Round>) {
    for path in paths {
        let mut this = lock(round);
        this.at = Some(path.clone());
        if this.is_given_up {
            return;
        }
        drop(this);
        let look = see(root, &path);
        lock(round).seen.push(look);
    }
}

/// What was seen, and where that thread is: it goes no further.
fn give_up(round: &Mutex<Round>) -> (Vec<Look>, Option<PathBuf>) {
    let mut round = lock(round);
    round.is_given_up = true;
    (std::mem::take(&mut round.seen), round.at.clone())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn see(root: &Path, path: &Path) -> Look {
    match space_at(root, path) {
        Ok(space) => Look::Seen(space),
        Err(Errno::NOENT | Errno::NOTDIR) => Look::Missing,
        Err(error) => Look::Failed(error.to_string()),
    }
}

/// What the filesystem of `path` has, below `root`.
pub(super) fn space_at(root: &Path, path: &Path) -> Result<Space> {
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
