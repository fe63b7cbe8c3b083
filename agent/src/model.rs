//! Plain data that the rest of the agent passes around. No file, socket or clock in here.

mod blind_spot;
mod dev;
mod fault;
mod node;
mod peers;

pub use self::{
    blind_spot::{BlindSpot, BlindSpots},
    dev::{BadDev, Dev},
    fault::{
        Fault, FaultChange, FaultKind, FaultView, MOUNT_POINTS_SHOWN, RequiredMounts, Scope,
        Transition,
    },
    node::{ApiState, Condition, Node, NodeObservation, NodeView},
    peers::{Peer, PeerChange, PeerIdentity, PeerProbe, PeerRole, PeerState, PeerView},
};

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The check passes.
    Pass,
    /// The check passes, but something keeps it from seeing everything: one line.
    Degraded(String),
    /// The check fails; the reason in one line.
    Fail(String),
    /// The check could not be made; why, in one line. The policy of the check turns this into a verdict.
    Unknown(String),
}
