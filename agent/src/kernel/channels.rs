//! The channels between the kernel task and the rest of the agent.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::{publish::Publisher, pulse::Pulse, settings, stats::KernelStats};
use crate::model::{BlindSpot, BlindSpots, FaultChange, FaultView};

/// What another task can have the kernel task do.
#[derive(Debug)]
pub enum Command {
    /// Clear the fault with this id. The answer says whether there was one.
    Clear(String, oneshot::Sender<bool>),
    /// Read the kernel's counters now. The answer comes when they are published.
    Refresh(oneshot::Sender<()>),
}

/// The ends of the kernel task's channels. They are made before the task, so that the tasks that read from it can be
/// started in any order.
#[derive(Debug)]
pub struct Channels {
    /// For [`Kernel::start`](super::task::Kernel::start).
    pub task: TaskChannels,
    /// For the tasks that read what the kernel task publishes.
    pub published: Published,
    /// For the tasks that have the kernel task do something. When the last sender is dropped, the kernel task ends.
    pub commands: mpsc::Sender<Command>,
}

/// The kernel task's own ends.
#[derive(Debug)]
pub struct TaskChannels {
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) publisher: Publisher,
    pub(super) pulse: Pulse,
}

/// What the kernel task publishes.
#[derive(Clone, Debug)]
pub struct Published {
    /// Open faults and blind spots. The first value is blind and stands for "not known yet"; `changed` returns for the first
    /// time when the kernel task has published a view.
    pub faults: watch::Receiver<Arc<FaultView>>,
    /// Counters and hooks.
    pub stats: watch::Receiver<Arc<KernelStats>>,
    /// How old all of that is.
    pub pulse: Pulse,
    changes: broadcast::WeakSender<FaultChange>,
}

impl Published {
    /// A receiver of the changes from now on. One that falls more than [`settings::CHANGES`] behind loses the oldest, gets
    /// their number (`RecvError::Lagged`), and has to begin again with `faults`. The stream ends with the kernel task.
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
    let pulse = Pulse::default();
    let published = Published {
        faults: faults_seen,
        stats: stats_seen,
        pulse: pulse.clone(),
        changes: changes.downgrade(),
    };
    let task = TaskChannels {
        commands: commanded,
        publisher: Publisher::new(faults, stats, changes),
        pulse,
    };
    Channels { task, published, commands }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast::error::{RecvError, TryRecvError};

    use super::*;
    use crate::{kernel::changes::tests::fault, model::Transition};

    fn view(minors: impl IntoIterator<Item = u32>) -> FaultView {
        FaultView { faults: minors.into_iter().map(fault).collect(), ..FaultView::default() }
    }

    #[tokio::test]
    async fn a_view_and_the_changes_after_it_are_complete() {
        let Channels { mut task, published, .. } = channels();
        let mut early = published.changes();
        assert!(published.faults.borrow().blind_spots.get(BlindSpot::Blind).is_some());
        task.publisher.publish(0, view([1, 2]));
        assert!(published.faults.has_changed().unwrap());
        // A later receiver begins with a view, and gets the changes after it.
        let mut late = published.changes();
        assert_eq!(published.faults.borrow().sequence, 2);
        task.publisher.publish(0, view([2]));
        let mut told = Vec::new();
        while let Ok(change) = early.try_recv() {
            told.push((change.sequence, change.transition, change.fault.device.minor()));
        }
        let closed = (3, Transition::Closed, 1);
        assert_eq!(told, [(1, Transition::Opened, 1), (2, Transition::Opened, 2), closed]);
        assert_eq!(late.recv().await.unwrap().sequence, 3);
        assert_eq!(late.try_recv(), Err(TryRecvError::Empty));
        // A receiver that does not read gets the number of changes that it has missed.
        task.publisher.publish(0, view(0..1100));
        assert_eq!(early.recv().await, Err(RecvError::Lagged(1099 - 1024)));
        drop(task);
        assert_eq!(published.changes().recv().await, Err(RecvError::Closed));
    }
}
