//! Keeps the checkpoint file current.

use std::{
    fs,
    future::pending,
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;
use tracing::{info, warn};

use super::file::{Ignored, Kept};
use crate::host::{Bounded, Paths, replace};

/// 100 milliseconds from one write to the next: a storm of events changes the ledger all the time. What was dealt with in
/// that time is told again by the kernel's counters.
const INTERVAL: Duration = Duration::from_millis(100);
/// 5 seconds for the one reading at the start: on a node that boots under load even a tmpfs may keep the agent waiting, and a
/// checkpoint that is given up is overwritten.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// 1 second for one writing of a file on a tmpfs, which takes less than a millisecond.
const DEADLINE: Duration = Duration::from_secs(1);

/// The one writer of the checkpoint file.
#[derive(Debug)]
pub(crate) struct Keeper {
    /// `None` where nothing is kept.
    path: Option<PathBuf>,
    boot: String,
    instance: u64,
    bounded: Bounded,
    /// The running write: one at most.
    writing: JoinSet<Result<(), String>>,
    /// Whether something has changed since the last write began.
    is_dirty: bool,
    next_at: Instant,
    /// Why the last write failed.
    failed: Option<String>,
    failures: u64,
}

impl Keeper {
    /// Reads what the agent before has left in the file, if anything. The second value is that, or why it is ignored.
    pub(crate) async fn open(
        path: PathBuf,
        paths: &Paths,
        instance: u64,
    ) -> (Self, Result<Option<Kept>, Ignored>) {
        let boot = fs::read_to_string(paths.proc.join("sys/kernel/random/boot_id"));
        let boot = boot.map(|text| text.trim().to_owned()).unwrap_or_default();
        let path = Some(path).filter(|path| !path.as_os_str().is_empty() && !boot.is_empty());
        let bounded = Bounded::default();
        let kept = match path.clone() {
            Some(path) => {
                let boot = boot.clone();
                let read = move || Kept::read(&path, &boot);
                let read = bounded.run("read".to_owned(), READ_DEADLINE, read).await;
                read.unwrap_or_else(|stuck| Err(Ignored::Unreadable(io::Error::other(stuck))))
            }
            None => Ok(None),
        };
        let keeper = Self {
            path,
            boot,
            instance,
            bounded,
            writing: JoinSet::new(),
            is_dirty: true,
            next_at: Instant::now(),
            failed: None,
            failures: 0,
        };
        (keeper, kept)
    }

    /// Does not write: another agent keeps the file.
    pub(crate) fn disable(&mut self) {
        self.path = None;
    }

    /// Whether there is a file to keep.
    #[must_use]
    pub(crate) fn is_enabled(&self) -> bool {
        self.path.is_some()
    }

    /// Something has changed.
    pub(crate) fn changed(&mut self) {
        self.is_dirty = true;
    }

    /// When to write; `None` if nothing has changed, or while a write is running.
    #[must_use]
    pub(crate) fn due(&self) -> Option<Instant> {
        (self.is_dirty && self.path.is_some() && self.writing.is_empty()).then_some(self.next_at)
    }

    /// Begins to write.
    pub(crate) fn write(&mut self, kept: Kept) {
        let Some(path) = self.path.clone() else { return };
        self.is_dirty = false;
        self.next_at = Instant::now() + INTERVAL;
        let (boot, bounded) = (self.boot.clone(), self.bounded.clone());
        self.writing.spawn(async move {
            let write = move || {
                let text = kept.text(&boot).map_err(|error| error.to_string())?;
                replace(&path, &text, 0o600).map_err(|error| error.to_string())
            };
            let written = bounded.run("write".to_owned(), DEADLINE, write).await;
            written.unwrap_or_else(|stuck| Err(stuck.to_string()))
        });
    }

    /// Writes what has changed at the end of the agent, and waits for it: a second write may have to follow a running one.
    pub(crate) async fn finish(&mut self, kept: Kept) {
        if !self.writing.is_empty() {
            self.written().await;
        }
        if self.is_dirty && self.path.is_some() {
            self.write(kept);
            self.written().await;
        }
    }

    /// Waits for the running write to end, for ever if none is running; true if it succeeded. A call that is dropped loses
    /// nothing.
    pub(crate) async fn written(&mut self) -> bool {
        let result = match self.writing.join_next().await {
            Some(result) => result.unwrap_or_else(|error| Err(error.to_string())),
            None => return pending().await,
        };
        match result {
            Ok(()) => {
                if self.failed.take().is_some() {
                    info!("the checkpoint can be written again");
                }
                true
            }
            Err(error) => {
                self.failures += 1;
                self.is_dirty = true;
                self.next_at = Instant::now() + DEADLINE;
                if self.failed.as_ref() != Some(&error) {
                    warn!(path = ?self.path, error, "the checkpoint could not be written");
                }
                self.failed = Some(error);
                false
            }
        }
    }

    /// The number of the agent that writes.
    #[must_use]
    pub(crate) fn instance(&self) -> u64 {
        self.instance
    }

    /// Number of writes that failed.
    #[must_use]
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }
}
