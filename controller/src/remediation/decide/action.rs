//! What comes out of a decision.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::super::{
    crd::NodeHealthCheckStatus,
    world::{Kind, RemediationKey},
};

/// A write to make. Each one is conditional on what it was decided from.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Make the namespace of the leases.
    MakeLeaseNamespace,
    /// Make or take over the lease of a node.
    AcquireLease {
        /// The node.
        node: String,
        /// Its identity, for the lease's owner reference.
        node_uid: String,
        /// How long it is valid.
        duration: SignedDuration,
        /// The resource version and the transitions of the lease that is there, and whether it is ours already.
        previous: Option<(String, i32)>,
    },
    /// Renew a lease of ours.
    RenewLease {
        /// The node.
        node: String,
        /// The lease's resource version.
        resource_version: String,
        /// How long it is valid from now.
        duration: SignedDuration,
    },
    /// Delete a lease of ours.
    ReleaseLease {
        /// The node.
        node: String,
        /// The lease's identity.
        uid: String,
        /// The lease's resource version.
        resource_version: String,
    },
    /// Make a remediation object.
    Create(Box<Creation>),
    /// Write an annotation of a remediation object, or remove it.
    Annotate {
        /// Which object.
        key: RemediationKey,
        /// The node that it is for.
        node: String,
        /// Its resource version.
        resource_version: String,
        /// The annotation.
        annotation: &'static str,
        /// Its value; `None` removes it.
        value: Option<String>,
    },
    /// Delete a remediation object.
    Delete {
        /// Which object.
        key: RemediationKey,
        /// The node that it is for.
        node: String,
        /// Its identity.
        uid: String,
        /// Its resource version.
        resource_version: String,
    },
    /// Remove the annotation by which a person confirmed that a node is healthy.
    RemoveConfirmation {
        /// The node.
        node: String,
        /// Its resource version.
        resource_version: String,
    },
}

impl Action {
    /// Whether both write the same object: the second one would be refused, and comes in the next round.
    #[must_use]
    pub fn same_object(&self, other: &Self) -> bool {
        self.object() == other.object()
    }

    /// The object that it writes.
    fn object(&self) -> Object<'_> {
        match self {
            Self::MakeLeaseNamespace => Object::Namespace,
            Self::AcquireLease { node, .. }
            | Self::RenewLease { node, .. }
            | Self::ReleaseLease { node, .. } => Object::Lease(node),
            Self::Create(creation) => Object::Remediation(&creation.key),
            Self::Annotate { key, .. } | Self::Delete { key, .. } => Object::Remediation(key),
            Self::RemoveConfirmation { node, .. } => Object::Node(node),
        }
    }

    /// The node that it is for.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::MakeLeaseNamespace => None,
            Self::Create(creation) => Some(&creation.node),
            Self::AcquireLease { node, .. }
            | Self::RenewLease { node, .. }
            | Self::ReleaseLease { node, .. }
            | Self::Annotate { node, .. }
            | Self::Delete { node, .. }
            | Self::RemoveConfirmation { node, .. } => Some(node),
        }
    }
}

/// What an action writes.
#[derive(PartialEq)]
enum Object<'a> {
    Namespace,
    Lease(&'a str),
    Remediation(&'a RemediationKey),
    Node(&'a str),
}

/// A remediation object to make.
#[derive(Clone, Debug, PartialEq)]
pub struct Creation {
    /// Which object.
    pub key: RemediationKey,
    /// The node that it is for.
    pub node: String,
    /// The object.
    pub object: Value,
    /// Namespace and name of the node's Machine, which becomes a second owner.
    pub machine: Option<(String, String)>,
}

/// Normal or Warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

/// An event about the `NodeHealthCheck`, without the prefix that all messages have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Its type.
    pub severity: Severity,
    /// Its reason.
    pub reason: &'static str,
    /// Its message.
    pub message: String,
}

impl Note {
    /// An event of type Normal.
    #[must_use]
    pub fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Normal, reason, message: message.into() }
    }

    /// An event of type Warning.
    #[must_use]
    pub fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, reason, message: message.into() }
    }
}

/// A node that is healthy again and has no remediation object left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// The node.
    pub node: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Kind of the object.
    pub kind: String,
    /// How long ago the object was made.
    pub after: SignedDuration,
}

/// What to do about one `NodeHealthCheck`.
///
/// While there are actions, they come first: the status tells what is, not what is hoped for, and is written once
/// nothing is left to do. Decide again after every round of writes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// Writes: one an object, and none that depends on another one.
    pub actions: Vec<Action>,
    /// The next status; `lastUpdateTime` is not touched.
    pub status: NodeHealthCheckStatus,
    /// Events that go with the change of the status.
    pub notes: Vec<Note>,
    /// Nodes that recovered by this change of the status.
    pub recovered: Vec<Recovery>,
    /// When to decide again, if nothing changes before.
    pub wake: Option<Timestamp>,
    /// The chain of reasons for the node that was asked about.
    pub why: Vec<String>,
    /// Kinds of remediation objects that this `NodeHealthCheck` makes.
    pub kinds: Vec<Kind>,
}
