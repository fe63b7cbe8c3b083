//! What the kernel task tells the other tasks, and the channels that it does so through.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::{broadcast, mpsc, watch};
use tracing::{info, warn};

use super::{Command, KernelStats, changes, settings};
use crate::model::{BlindSpot, BlindSpots, Fault, FaultChange, FaultView, Transition};

/// The ends of the kernel task's channels. They are made before the task, so that the tasks that read from it can be
/// started in any order.
#[derive(Debug)]
pub struct Channels {
    /// For [`Kernel::start`](super::task::Kernel::start).
    pub task: TaskChannels,
    /// For everybody who wants to know.
    pub published: Published,
    /// For everybody who wants something done. When the last sender is gone, the kernel task ends.
    pub commands: mpsc::Sender<Command>,
}

/// The kernel task's own ends.
#[derive(Debug)]
pub struct TaskChannels {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) publisher: Publisher,
}

/// What the kernel task tells.
#[derive(Clone, Debug)]
pub struct Published {
    /// Open faults and blind spots. Until the kernel task has published its first view, this is one that is blind;
    /// then `changed` says so for the first time.
    pub faults: watch::Receiver<Arc<FaultView>>,
    /// Counters and hooks.
    pub stats: watch::Receiver<Arc<KernelStats>>,
    changes: broadcast::WeakSender<FaultChange>,
}

impl Published {
    /// The stream of changes, from now on. A receiver that falls more than [`settings::CHANGES`] behind is told how
    /// many it has missed (`RecvError::Lagged`), and finds in `faults` how things stand. The stream ends with the
    /// kernel task.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<FaultChange> {
        let ended = || broadcast::channel(1).1;
        self.changes.upgrade().map_or_else(ended, |sender| sender.subscribe())
    }
}

/// Makes the channels.
#[must_use]
pub fn channels() -> Channels {
    let unread = "the mount table has not been read yet".to_owned();
    let blind_spots = BlindSpots::from_iter([(BlindSpot::Blind, unread)]);
    let view = FaultView { blind_spots, ..FaultView::default() };
    let (commands, commanded) = mpsc::channel(settings::COMMANDS);
    let (faults, faults_seen) = watch::channel(Arc::new(view));
    let (stats, stats_seen) = watch::channel(Arc::default());
    let (changes, _none_yet) = broadcast::channel(settings::CHANGES);
    let published =
        Published { faults: faults_seen, stats: stats_seen, changes: changes.downgrade() };
    let task =
        TaskChannels { commands: commanded, publisher: Publisher { faults, stats, changes } };
    Channels { task, published, commands }
}

/// The one writer of the fault view, the stream of its changes and the statistics.
#[derive(Debug)]
pub(super) struct Publisher {
    faults: watch::Sender<Arc<FaultView>>,
    stats: watch::Sender<Arc<KernelStats>>,
    changes: broadcast::Sender<FaultChange>,
}

impl Publisher {
    /// What cannot be seen, as it was published last.
    pub(super) fn has_blind_spots(&self, blind_spots: &BlindSpots) -> bool {
        self.faults.borrow().blind_spots == *blind_spots
    }

    /// Publishes a view, then what changed since the one before: first what answers are made of. Each fault that
    /// opened or closed is a line in the log.
    pub(super) fn publish(&self, mut view: FaultView) {
        let before = self.faults.borrow().clone();
        let at = SystemTime::now();
        let changes: Vec<_> = (before.sequence + 1..)
            .zip(changes::between(&before.faults, &view.faults))
            .map(|(sequence, (transition, fault))| FaultChange {
                sequence,
                at,
                transition,
                fault: Arc::new(fault.clone()),
            })
            .collect();
        view.sequence = changes.last().map_or(before.sequence, |change| change.sequence);
        self.faults.send_replace(Arc::new(view));
        for change in changes {
            log(&change);
            // An error means that nobody listens.
            let _unheard = self.changes.send(change);
        }
    }

    /// The counters as they were published last.
    pub(super) fn stats(&self) -> Arc<KernelStats> {
        self.stats.borrow().clone()
    }

    /// Publishes the counters and how the hooks stand.
    pub(super) fn publish_stats(&self, stats: KernelStats) {
        self.stats.send_replace(Arc::new(stats));
    }
}

fn log(change: &FaultChange) {
    let Fault { id, scope, reason, evidence, count, .. } = &*change.fault;
    match change.transition {
        Transition::Opened => {
            let evidence = evidence.join("; ");
            warn!(id, scope = scope.name(), reason, evidence, "fault opened");
        }
        Transition::Updated => {}
        Transition::Closed => info!(id, reason, count, "fault closed"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast::error::{RecvError, TryRecvError};

    use super::*;
    use crate::model::{Dev, FaultKind, Scope};

    fn view(minors: impl IntoIterator<Item = u32>) -> FaultView {
        let fault = |minor| Fault {
            id: format!("io_stall-7:{minor}"),
            kind: FaultKind::IoStall,
            check: FaultKind::IoStall.check(),
            device: Dev::new(7, minor),
            device_name: String::new(),
            filesystem: String::new(),
            mount_points: Vec::new(),
            scope: Scope::Host,
            opened: SystemTime::UNIX_EPOCH,
            last: SystemTime::UNIX_EPOCH,
            count: 1,
            errno: None,
            kernel_ns: None,
            reason: String::new(),
            evidence: Vec::new(),
        };
        FaultView { faults: minors.into_iter().map(fault).collect(), ..FaultView::default() }
    }

    #[tokio::test]
    async fn a_view_and_the_changes_after_it_are_the_whole_story() {
        let Channels { task, published, .. } = channels();
        let mut early = published.changes();
        assert!(published.faults.borrow().blind_spots.get(BlindSpot::Blind).is_some());
        task.publisher.publish(view([1, 2]));
        assert!(published.faults.has_changed().unwrap());
        // Later readers begin with a view, and find in the stream what came after it.
        let mut late = published.changes();
        assert_eq!(published.faults.borrow().sequence, 2);
        task.publisher.publish(view([2]));
        let mut told = Vec::new();
        while let Ok(change) = early.try_recv() {
            told.push((change.sequence, change.transition, change.fault.device.minor()));
        }
        let closed = (3, Transition::Closed, 1);
        assert_eq!(told, [(1, Transition::Opened, 1), (2, Transition::Opened, 2), closed]);
        assert_eq!(late.recv().await.unwrap().sequence, 3);
        assert_eq!(late.try_recv(), Err(TryRecvError::Empty));
        // One that does not read is told how much it missed.
        task.publisher.publish(view(0..1100));
        assert_eq!(early.recv().await, Err(RecvError::Lagged(1099 - 1024)));
        drop(task);
        assert_eq!(published.changes().recv().await, Err(RecvError::Closed));
    }
}
