//! The registry of checks. A new check is one file and one line in [`all`].
//!
//! A check is a pure function from what is known to an [`Outcome`]; `health` alone says "ready".

mod beat;
pub mod container_runtime;
mod context;
mod custom_conditions;
pub mod disk_pressure;
mod exchange;
mod filesystem_ro;
pub mod http;
mod io_errors;
mod io_stall;
mod kernel;
pub mod network;
mod node;
mod node_ready;
pub mod probes;
pub mod runner;
mod schedulable;
pub mod settings;

use std::time::Duration;

pub use self::{
    context::{CheckContext, CheckSource},
    custom_conditions::{BadCondition, BadConditionError},
    node::{OnApiLoss, verdicts as node_verdicts},
};
use crate::model::Scope;

/// What becomes of an outcome that is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnknown {
    /// The check passes, and says that it is degraded.
    Pass,
    /// The check fails.
    Fail,
}

/// One row of the registry.
#[derive(Debug)]
pub struct Check {
    /// API: it is in URLs, JSON and metrics.
    pub name: &'static str,
    /// When it passes; one line, for tables.
    pub passes_when: &'static str,
    /// What becomes of "unknown".
    pub on_unknown: OnUnknown,
    /// The source that it rests on.
    pub source: CheckSource,
}

impl Check {
    /// Whether a request for it is an error while `NODE_NAME` is not set.
    #[must_use]
    pub fn needs_node_name(&self) -> bool {
        matches!(self.source, CheckSource::Node(_))
    }
}

/// What the operator wants of the checks.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `NODE_NAME`
    pub node_name: Option<String>,
    /// What `/health` runs when it is not told.
    pub default_checks: Vec<&'static Check>,
    /// `FAIL_ON_VOLUMES`
    pub fail_on_volumes: bool,
    /// `ON_API_LOSS`
    pub on_api_loss: OnApiLoss,
    /// `CUSTOM_CONDITIONS`, without those that the agent itself publishes.
    pub custom_conditions: Vec<BadCondition>,
    /// The operator's own checks.
    pub own: Vec<&'static Check>,
    /// `PROBE_INTERVAL`
    pub probe_interval: Duration,
}

impl Policy {
    /// Every check, the operator's own last.
    pub fn all(&self) -> impl Iterator<Item = &'static Check> {
        all().iter().chain(self.own.iter().copied())
    }

    /// The check of that name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&'static Check> {
        self.all().find(|check| check.name == name)
    }

    /// Whether a fault of that scope fails its check.
    #[must_use]
    pub fn counts(&self, scope: Scope) -> bool {
        match scope {
            Scope::Host => true,
            Scope::Volume => self.fail_on_volumes,
            Scope::Member => false,
        }
    }
}

/// Every check, in the order in which they are shown.
#[must_use]
pub fn all() -> &'static [Check] {
    static ALL: [Check; 11] = [
        node_ready::CHECK,
        schedulable::CHECK,
        custom_conditions::CHECK,
        filesystem_ro::CHECK,
        io_errors::CHECK,
        io_stall::CHECK,
        http::ROUTER,
        http::KUBELET,
        container_runtime::CHECK,
        disk_pressure::CHECK,
        network::CHECK,
    ];
    &ALL
}

/// The check of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Check> {
    all().iter().find(|check| check.name == name)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        sync::Arc,
        time::{Instant, SystemTime},
    };

    use super::*;
    use crate::model::{
        BlindSpot, BlindSpots, Dev, Fault, FaultKind, FaultView, NodeView, Outcome,
    };

    pub(crate) fn fault(kind: FaultKind, scope: Scope) -> Fault {
        Fault {
            id: format!("{}-7:3", kind.name()),
            kind,
            check: kind.check(),
            device: Dev::new(7, 3),
            device_name: "loop3".into(),
            filesystem: "ext4".into(),
            mount_points: vec!["/mnt/x".into()],
            scope,
            opened: SystemTime::UNIX_EPOCH,
            last: SystemTime::UNIX_EPOCH,
            count: 1,
            errno: None,
            kernel_ns: None,
            reason: format!("loop3 (7:3) ext4 on /mnt/x: {}", kind.name()),
            evidence: Vec::new(),
        }
    }

    /// A context in which no probe has ever run.
    pub(crate) fn context(kernel: FaultView, node: NodeView, policy: &Policy) -> CheckContext {
        let context = CheckContext::new(Arc::new(policy.clone()), Instant::now());
        CheckContext { kernel: Arc::new(kernel), node: Arc::new(node), ..context }
    }

    /// A view with that blind spot and no fault.
    pub(crate) fn without_sight(spot: BlindSpot, why: &str) -> FaultView {
        let blind_spots = BlindSpots::from_iter([(spot, why.to_owned())]);
        FaultView { blind_spots, ..FaultView::default() }
    }

    fn view(faults: &[Fault]) -> FaultView {
        FaultView { faults: faults.to_vec(), ..FaultView::default() }
    }

    fn judge(name: &str, kernel: &FaultView, fail_on_volumes: bool) -> Outcome {
        let policy = Policy { fail_on_volumes, ..Policy::default() };
        context(kernel.clone(), NodeView::default(), &policy).outcome(find(name).unwrap())
    }

    #[test]
    fn names_are_unique_and_found() {
        for check in all() {
            assert_eq!(all().iter().filter(|other| other.name == check.name).count(), 1);
            assert_eq!(find(check.name).unwrap().name, check.name);
        }
        assert!(find("bogus").is_none());
    }

    #[test]
    fn each_kind_of_fault_fails_its_own_check_only() {
        for kind in FaultKind::ALL {
            let view = view(&[fault(kind, Scope::Host)]);
            for name in ["filesystem_ro", "io_errors", "io_stall"] {
                let outcome = judge(name, &view, false);
                if name == kind.check() {
                    let reason = format!("loop3 (7:3) ext4 on /mnt/x: {}", kind.name());
                    assert_eq!(outcome, Outcome::Fail(reason), "{name}");
                } else {
                    assert_eq!(outcome, Outcome::Pass, "{name} {kind:?}");
                }
            }
        }
    }

    #[test]
    fn volumes_and_members_do_not_take_the_node_out() {
        for (scope, fail_on_volumes, fails) in [
            (Scope::Host, false, true),
            (Scope::Volume, false, false),
            (Scope::Volume, true, true),
            (Scope::Member, true, false),
        ] {
            let view = view(&[fault(FaultKind::IoError, scope)]);
            let outcome = judge("io_errors", &view, fail_on_volumes);
            assert_eq!(matches!(outcome, Outcome::Fail(_)), fails, "{scope:?} {fail_on_volumes}");
        }
    }

    #[test]
    fn what_cannot_be_seen_is_said_and_never_hides_a_fault() {
        let blind = without_sight(BlindSpot::Blind, "no table");
        let no_events = without_sight(BlindSpot::NoEvents, "not root");
        for name in ["filesystem_ro", "io_errors", "io_stall"] {
            assert_eq!(judge(name, &blind, false), Outcome::Unknown("no table".into()));
        }
        assert!(matches!(judge("filesystem_ro", &no_events, false), Outcome::Degraded(_)));
        assert!(matches!(judge("io_errors", &no_events, false), Outcome::Degraded(_)));
        assert_eq!(judge("io_stall", &no_events, false), Outcome::Pass);
        let both = FaultView {
            faults: vec![fault(FaultKind::FilesystemRo, Scope::Host)],
            ..blind.clone()
        };
        assert!(matches!(judge("filesystem_ro", &both, false), Outcome::Fail(_)));
    }

    #[test]
    fn several_faults_are_counted() {
        let view = view(&[
            fault(FaultKind::FilesystemError, Scope::Host),
            fault(FaultKind::IoError, Scope::Host),
            fault(FaultKind::IoError, Scope::Volume),
        ]);
        let expected = "loop3 (7:3) ext4 on /mnt/x: filesystem_error (and 1 more)";
        assert_eq!(judge("io_errors", &view, false), Outcome::Fail(expected.into()));
    }
}
