//! The sources that the health board reads. A new source is a field here and in [`CheckContext`], and a line in each
//! of the functions below: the compiler asks for both.

use std::{sync::Arc, time::Instant};

use tokio::sync::watch;

use super::Changes;
use crate::{
    checks::{CheckContext, Policy, samples::Probes},
    model::{FaultView, NodeView},
};

/// What each source publishes.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Written by the kernel task.
    pub kernel: watch::Receiver<Arc<FaultView>>,
    /// Written by the cluster task.
    pub node: watch::Receiver<Arc<NodeView>>,
    /// Written by the runner of the probes.
    pub probes: Probes,
}

impl Sources {
    /// What all sources say now.
    #[must_use]
    pub fn context(&self, policy: Arc<Policy>) -> CheckContext {
        let Self { kernel, node, probes } = self;
        CheckContext {
            kernel: kernel.borrow().clone(),
            node: node.borrow().clone(),
            probes: probes.clone(),
            policy,
            now: Instant::now(),
        }
    }

    /// The signal that one of them published something.
    #[must_use]
    pub fn changes(&self) -> Changes {
        let Self { kernel, node, probes } = self;
        Changes::default().and(kernel.clone()).and(node.clone()).and(probes.changes())
    }
}
