//! What an agent begins with: the checkpoint and the pinned counters of the agent before it.

use std::{collections::BTreeSet, time::SystemTime};

use tracing::{info, warn};

use super::{
    checkpoint::{Ignored, Keeper, Kept},
    ebpf::{
        inherited::{self, Acknowledged, Takeover},
        pins::{NoPins, PinDir},
    },
    ledger::{Ledger, Memory, Mono, Now},
    sampling::{fanotify::ErrorMarks, mounts::Vanished},
    settings::Settings,
    stats::StatsReader,
    wake_ups::WakeUps,
};
use crate::host::{Paths, clock};

const UNREADABLE: &str = "an agent of another version counted events that cannot be read";
const LATE: &str = "the kernel programs were loaded late";

/// The parts of the kernel task that know what was before.
pub(super) struct Recalled {
    pub(super) wake_ups: WakeUps,
    pub(super) error_marks: Option<ErrorMarks>,
    pub(super) ledger: Ledger,
    pub(super) keeper: Keeper,
    /// The ids of the faults that were open when the agent before ended.
    pub(super) restored: BTreeSet<String>,
    pub(super) stats: StatsReader,
    pub(super) late: Late,
    /// Devices that were gone already.
    pub(super) vanished: Vec<Vanished>,
}

/// What is needed to take over the counters of earlier agents when the kernel programs are loaded later than the agent
/// starts.
#[derive(Debug)]
pub(super) struct Late {
    acknowledged: Option<Acknowledged>,
    /// Without a checkpoint, what happened before is over.
    since: Mono,
}

/// Reads the checkpoint, loads the hooks, and takes over the counters of the agent before.
pub(super) async fn recall(config: &Settings, paths: &Paths) -> Recalled {
    let instance = clock::monotonic();
    let keep = &config.keep;
    let (mut keeper, kept) = Keeper::open(keep.checkpoint.clone(), paths, instance).await;
    let pins =
        if config.no_ebpf { Err(NoPins::Off) } else { PinDir::open(&keep.pin_dir, instance) };
    let (mut kept, mut missed) = told(kept);
    if let Err(NoPins::Held(_)) = pins {
        warn!("another agent runs on this host: this one keeps nothing for the next");
        keeper.disable();
        (kept, missed) = (None, None);
    }
    let (mut wake_ups, error_marks, takeover) = WakeUps::open(config, paths, pins).await;
    let Takeover { inherited, unreadable } = takeover;
    let acknowledged = kept.as_ref().map(Kept::acknowledged);
    let carried = inherited::carried(acknowledged.as_ref(), &inherited);
    let carried_missed = inherited::carried_missed(acknowledged.as_ref(), &inherited);
    let known = acknowledged.as_ref().map_or(carried_missed, |checkpoint| checkpoint.missed.1);
    if !unreadable.is_empty() {
        missed = Some(UNREADABLE.to_owned());
    }
    let now = Now { mono: instance, wall: SystemTime::now() };
    // Without a checkpoint nobody knows what was dealt with: what is older than an open fault would be is over.
    let window = u64::try_from(config.rules.io_error_window.as_nanos()).unwrap_or(u64::MAX);
    let since = instance.saturating_sub(window);
    let memory = kept.map_or_else(|| Memory::of_counts(&carried, since), |kept| kept.memory);
    let mut ledger = Ledger::new(config.rules.clone());
    let open = ledger.restore(&memory, now);
    let restored: BTreeSet<String> = ledger.view().faults.into_iter().map(|f| f.id).collect();
    if open > 0 {
        info!(open, "faults were open when the agent before this one ended");
    }
    if let Some(why) = missed {
        ledger.look_everywhere(why);
    }
    if let Some(source) = wake_ups.source_mut() {
        source.carry(carried, carried_missed);
    }
    if !keeper.is_enabled() {
        wake_ups.forget_predecessors();
    }
    let stats = StatsReader::new(known);
    let late = Late { acknowledged, since };
    let vanished = memory.vanished;
    Recalled { wake_ups, error_marks, ledger, keeper, restored, stats, late, vanished }
}

impl Late {
    /// Counts on from what the programs have taken over, now that they are loaded. What happened meanwhile was counted by
    /// the hooks of the agent before, if there was one, and is dealt with when the counters are read next.
    pub(super) fn adopt(&self, takeover: &Takeover, wake_ups: &mut WakeUps, ledger: &mut Ledger) {
        let Some(source) = wake_ups.source_mut() else { return };
        let acknowledged = self.acknowledged.as_ref();
        let mut carried = inherited::carried(acknowledged, &takeover.inherited);
        if acknowledged.is_none() {
            carried.retain(|_, count| count.last >= self.since);
        }
        source.carry(carried, inherited::carried_missed(acknowledged, &takeover.inherited));
        info!("the kernel programs are loaded");
        let unreadable = (!takeover.unreadable.is_empty()).then_some(UNREADABLE);
        ledger.look_everywhere(unreadable.unwrap_or(LATE).to_owned());
    }
}

/// Says why a checkpoint is ignored. The second value says what is not known because of it.
fn told(kept: Result<Option<Kept>, Ignored>) -> (Option<Kept>, Option<String>) {
    match kept {
        Ok(kept) => (kept, None),
        Err(why @ Ignored::OtherBoot) => {
            info!(%why, "the checkpoint is ignored");
            (None, None)
        }
        Err(why) => {
            warn!(%why, "the checkpoint is ignored");
            (None, Some(format!("the checkpoint of the agent before is ignored ({why})")))
        }
    }
}
