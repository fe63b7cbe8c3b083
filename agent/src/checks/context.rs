//! The sources that checks rest on, and what all of them say at one moment: pure.
//!
//! A new source is a variant of [`CheckSource`] and a field of [`CheckContext`] here, and a field of
//! `health::Sources`; the compiler asks for the rest.

use std::{sync::Arc, time::Instant};

use super::{Check, Policy, runner::Probes};
use crate::model::{FaultView, Link, Node, NodeView, Outcome};

/// The source that a check rests on, and what the check makes of it.
#[derive(Clone, Copy, Debug)]
pub enum CheckSource {
    /// The kernel side: the check fails while a fault of its name is open. The function says why the kernel side may
    /// miss such faults, if it may.
    Kernel(fn(&FaultView) -> Option<String>),
    /// The Node object in the cluster. The function judges it.
    Node(fn(&Node, &Policy) -> Outcome),
    /// The check's own probe: the latest sample that the [`runner`](super::runner) took.
    Probe,
}

/// What every source says at one moment, and what the operator wants.
#[derive(Clone, Debug)]
pub struct CheckContext {
    /// Faults and blind spots of the kernel side.
    pub kernel: Arc<FaultView>,
    /// What the cluster says about this node.
    pub node: Arc<NodeView>,
    /// The samples of the probes.
    pub probes: Probes,
    /// What the operator wants.
    pub policy: Arc<Policy>,
    /// This moment.
    pub now: Instant,
}

impl CheckContext {
    /// A context in which no source has said anything; its fields are public, to be set.
    #[must_use]
    pub fn new(policy: Arc<Policy>, now: Instant) -> Self {
        let (kernel, node, probes) = (Arc::default(), Arc::default(), Probes::default());
        Self { kernel, node, probes, policy, now }
    }

    /// The check's outcome.
    #[must_use]
    pub fn outcome(&self, check: &Check) -> Outcome {
        match check.source {
            CheckSource::Kernel(blind_spot) => self.kernel_outcome(check.name, blind_spot),
            CheckSource::Node(judge) => self.node_outcome(judge),
            CheckSource::Probe => {
                self.probes.outcome(check.name, self.policy.probe_interval, self.now)
            }
        }
    }

    /// Whether the check's source is there: a cluster is configured, or the probe runs.
    #[must_use]
    pub fn has_source(&self, check: &Check) -> bool {
        match check.source {
            CheckSource::Kernel(_) => true,
            CheckSource::Node(_) => self.policy.node_name.is_some() && self.node.link != Link::None,
            CheckSource::Probe => self.probes.latest(check.name).is_some(),
        }
    }
}
