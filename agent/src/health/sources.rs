//! The sources that the health board reads. A new source is a field here and in [`CheckContext`], and a line in each
//! of the functions below: the compiler asks for both.

use std::{sync::Arc, time::Instant};

use tokio::sync::watch;

use super::{Changes, GuardView};
use crate::{
    checks::{CheckContext, Policy, samples::Probes},
    kernel::Pulse,
    model::{FaultView, NodeView, PeerView},
};

/// What each source publishes.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Written by the kernel task.
    pub kernel: watch::Receiver<Arc<FaultView>>,
    /// Written by the kernel task too: how old its faults are.
    pub pulse: Pulse,
    /// Written by the cluster task.
    pub node: watch::Receiver<Arc<NodeView>>,
    /// Written by the peers task.
    pub peers: watch::Receiver<Arc<PeerView>>,
    /// Written by the storm guard's task.
    pub guard: watch::Receiver<Arc<GuardView>>,
    /// Written by the runner of the probes.
    pub probes: Probes,
}

impl Default for Sources {
    /// Sources that never say anything.
    fn default() -> Self {
        Self {
            kernel: watch::channel(Arc::default()).1,
            pulse: Pulse::default(),
            node: watch::channel(Arc::default()).1,
            peers: watch::channel(Arc::default()).1,
            guard: watch::channel(Arc::default()).1,
            probes: Probes::default(),
        }
    }
}

impl Sources {
    /// What all sources say now.
    #[must_use]
    pub fn context(&self, policy: Arc<Policy>) -> CheckContext {
        let Self { kernel, pulse, node, peers, guard: _, probes } = self;
        CheckContext {
            kernel: kernel.borrow().clone(),
            look_age: pulse.look_age(),
            node: node.borrow().clone(),
            peers: peers.borrow().clone(),
            probes: probes.clone(),
            policy,
            now: Instant::now(),
        }
    }

    /// The signal that one of them published something.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.unguarded_changes().and(self.guard.clone())
    }

    /// The signal that one of them, but for the storm guard, published something.
    #[must_use]
    pub fn unguarded_changes(&self) -> Changes {
        let Self { kernel, pulse: _, node, peers, guard: _, probes } = self;
        Changes::default()
            .and(kernel.clone())
            .and(node.clone())
            .and(peers.clone())
            .and(probes.changes())
    }
}
