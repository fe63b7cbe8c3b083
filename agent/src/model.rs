//! Plain data that the rest of the agent passes around. No file, socket or clock in here.

mod blind_spot;
mod dev;
mod fault;
mod node;

pub use self::{
    blind_spot::{BlindSpot, BlindSpots},
    dev::{BadDev, Dev},
    fault::{Fault, FaultChange, FaultKind, FaultView, MOUNT_POINTS_SHOWN, Scope, Transition},
    node::{ApiState, Condition, Node, NodeObservation, NodeView},
};

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Pass,
    /// All is well as far as can be seen, and it says what cannot be seen.
    Degraded(String),
    /// It is not, and why: one line.
    Fail(String),
    /// The check could not be made, and why; the check's policy turns this into a verdict.
    Unknown(String),
}
