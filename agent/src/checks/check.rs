//! A check, and what the operator wants of checks: plain data.

use std::{path::PathBuf, time::Duration};

use super::{bad_condition::BadCondition, node::OnApiLoss, on_blind::OnBlind};
use crate::model::{BlindSpots, Node, Outcome, PeerView, Scope};

/// One row of the registry.
#[derive(Debug)]
pub struct Check {
    /// The check's name. It is part of the API: URLs, JSON and metrics have it.
    pub name: &'static str,
    /// When the check passes; one line, for tables.
    pub passes_when: &'static str,
    /// What becomes of the outcome "unknown".
    pub on_unknown: OnUnknown,
    /// The source that the check rests on.
    pub source: CheckSource,
}

impl Check {
    /// Whether a request for the check is an error while `NODE_NAME` is not set.
    #[must_use]
    pub fn needs_node_name(&self) -> bool {
        matches!(self.source, CheckSource::Node(_))
    }
}

/// What becomes of an outcome that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnknown {
    /// The check passes, and the answer says that it is degraded.
    Pass,
    /// The check fails.
    Fail,
}

/// The source that a check rests on, and what the check makes of it. A new source is an entry here, a field of
/// `CheckContext` and a field of `health::Sources`; the compiler points at the rest.
#[derive(Clone, Copy, Debug)]
pub enum CheckSource {
    /// The kernel side: the check fails while a fault of its name is open. The function says why the kernel side may
    /// miss such faults, if it may.
    Kernel(fn(&BlindSpots) -> Option<String>),
    /// What the kernel side says of the mounts that the operator requires.
    Mounts,
    /// The Node object in the cluster. The function judges it.
    Node(fn(&Node, &Policy) -> Outcome),
    /// The agents of other nodes. The function judges what this one knows of them.
    Peers(fn(&PeerView, &Policy) -> Outcome),
    /// The check's own probe: the latest sample that the [`runner`](super::runner) took.
    Probe,
}

/// What the operator wants of the checks.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `NODE_NAME`: this node's name in the cluster.
    pub node_name: Option<String>,
    /// `DEFAULT_CHECKS`: the checks of a request for `/health` that names none.
    pub default_checks: Vec<&'static Check>,
    /// `FAIL_ON_VOLUMES`: faults of volumes fail their checks too.
    pub fail_on_volumes: bool,
    /// Whether `REQUIRE_MOUNTS` names any mount.
    pub requires_mounts: bool,
    /// `ON_BLIND`: the outcome of the kernel's checks while the kernel side sees nothing; `None` for what each check and
    /// reason has by itself.
    pub on_blind: Option<OnBlind>,
    /// `ON_API_LOSS`: the outcome of the Node's checks while the API server cannot be reached.
    pub on_api_loss: OnApiLoss,
    /// `CUSTOM_CONDITIONS`, without those that the agent itself publishes.
    pub custom_conditions: Vec<BadCondition>,
    /// `HTTP_PROBES`: the operator's own checks.
    pub own: Vec<&'static Check>,
    /// `PEERS_MIN`: the share of its peers that this node has to reach, 0 to 1.
    pub peers_min: f64,
    /// `REQUIRE_WRITABLE`: mount points whose kernel faults the storm guard never holds up.
    pub require_writable: Vec<PathBuf>,
    /// `PROBE_INTERVAL`: the time between two samples of a probe.
    pub probe_interval: Duration,
}

impl Policy {
    /// Whether a fault of that scope fails its check.
    #[must_use]
    pub fn counts(&self, scope: Scope) -> bool {
        match scope {
            Scope::Host => true,
            Scope::Volume => self.fail_on_volumes,
            Scope::Member | Scope::Ignored => false,
        }
    }
}
