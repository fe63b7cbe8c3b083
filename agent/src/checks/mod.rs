//! The checks. A new one is one file and one line in [`all`].
//!
//! A check is a pure function from what its source says to an [`Outcome`](crate::model::Outcome). The `health` module
//! alone says "ready".

mod bad_condition;
mod check;
pub mod container_runtime;
mod context;
mod custom_conditions;
pub mod disk_pressure;
mod filesystem_ro;
pub mod http;
mod http_client;
mod http_response;
mod io_errors;
mod io_stall;
mod kernel;
mod mounts;
pub mod network;
mod node;
mod node_ready;
mod on_blind;
pub mod peers;
pub mod probes;
mod registry;
pub mod runner;
mod sample_schedule;
pub mod samples;
mod schedulable;
pub mod settings;

pub use self::{
    bad_condition::{BadCondition, BadConditionError},
    check::{Check, CheckSource, OnUnknown, Policy},
    context::{CheckContext, node_verdicts},
    node::OnApiLoss,
    on_blind::OnBlind,
    registry::{all, find},
};

/// What tests of several modules share.
#[cfg(test)]
pub(crate) mod tests {
    use std::time::SystemTime;

    use crate::model::{BlindSpot, BlindSpots, Dev, Fault, FaultKind, FaultView, Scope};

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

    /// A view with that blind spot and no fault.
    pub(crate) fn without_sight(spot: BlindSpot, why: &str) -> FaultView {
        let blind_spots = BlindSpots::from_iter([(spot, why.to_owned())]);
        FaultView { blind_spots, ..FaultView::default() }
    }
}
