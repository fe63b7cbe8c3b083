//! Publishes what the kernel task knows.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use tokio::sync::{broadcast, watch};
use tracing::{info, warn};

use super::{changes, sampling::mounts::MountTable, stats::KernelStats};
use crate::model::{
    BlindSpots, Fault, FaultChange, FaultView, MOUNT_POINTS_SHOWN, RequiredMounts, Transition,
};

/// The one writer of the fault view, the stream of its changes and the statistics.
#[derive(Debug)]
pub(super) struct Publisher {
    faults: watch::Sender<Arc<FaultView>>,
    stats: watch::Sender<Arc<KernelStats>>,
    changes: broadcast::Sender<FaultChange>,
    /// The ledger's version in the view that was published last.
    version: Option<u64>,
    /// The ids of faults that were open when the agent before this one ended, until the first view.
    restored: BTreeSet<String>,
}

impl Publisher {
    /// A publisher that has not published anything.
    pub(super) fn new(
        faults: watch::Sender<Arc<FaultView>>,
        stats: watch::Sender<Arc<KernelStats>>,
        changes: broadcast::Sender<FaultChange>,
    ) -> Self {
        Self { faults, stats, changes, version: None, restored: BTreeSet::new() }
    }

    /// These faults were open when the agent before this one ended: they do not open with the first view, they go on.
    pub(super) fn restored(&mut self, ids: BTreeSet<String>) {
        self.restored = ids;
    }

    /// Whether the view that was published last is of this version of the ledger and has these blind spots and mounts.
    pub(super) fn is_current(
        &self,
        version: u64,
        blind_spots: &BlindSpots,
        required_mounts: &RequiredMounts,
    ) -> bool {
        let view = self.faults.borrow();
        self.version == Some(version)
            && view.blind_spots == *blind_spots
            && view.required_mounts == *required_mounts
    }

    /// Publishes the view of a version of the ledger, and then its changes: the answers of `/health` are made of the view.
    /// Each fault that opened or closed is a line in the log.
    pub(super) fn publish(&mut self, version: u64, mut view: FaultView) {
        let before = self.faults.borrow().clone();
        let at = SystemTime::now();
        let mut restored = std::mem::take(&mut self.restored);
        let changes: Vec<_> = (before.sequence + 1..)
            .zip(changes::between(&before.faults, &view.faults))
            .map(|(sequence, (transition, fault))| {
                let goes_on = restored.remove(&fault.id);
                let transition = if goes_on { Transition::Updated } else { transition };
                if goes_on {
                    warn!(id = fault.id, reason = fault.reason, "fault is still open");
                }
                FaultChange { sequence, at, transition, fault: Arc::new(fault.clone()) }
            })
            .collect();
        for id in restored {
            info!(id, "fault closed while no agent ran");
        }
        view.sequence = changes.last().map_or(before.sequence, |change| change.sequence);
        self.version = Some(version);
        if before.required_mounts != view.required_mounts {
            log_mounts(&view.required_mounts);
        }
        self.faults.send_replace(Arc::new(view));
        for change in changes {
            log(&change);
            // An error means that there is no receiver.
            let _unheard = self.changes.send(change);
        }
    }

    /// The counters as they were published last.
    pub(super) fn stats(&self) -> Arc<KernelStats> {
        self.stats.borrow().clone()
    }

    /// Publishes the counters and the states of the hooks.
    pub(super) fn publish_stats(&self, stats: KernelStats) {
        self.stats.send_replace(Arc::new(stats));
    }
}

fn log_mounts(RequiredMounts { wrong, untold }: &RequiredMounts) {
    if wrong.is_empty() && untold.is_empty() {
        info!("required mounts are there");
    } else {
        warn!(wrong = wrong.join("; "), untold = untold.join("; "), "required mounts");
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

/// The watched filesystems, for the first lines of the log: `/ (ext4 on vda)`.
pub(super) fn watched(table: &MountTable) -> String {
    let names = table.filesystems.values().take(MOUNT_POINTS_SHOWN).map(|filesystem| {
        let mount = filesystem.best_mount().map(|mount| mount.point.display().to_string());
        let disk = filesystem.members.first().map_or("?", |member| member.name.as_str());
        format!("{} ({} on {disk})", mount.unwrap_or_default(), filesystem.fs_type)
    });
    let more = table.filesystems.len().saturating_sub(MOUNT_POINTS_SHOWN);
    let more = (more > 0).then(|| format!("and {more} more"));
    names.chain(more).collect::<Vec<_>>().join(", ")
}
