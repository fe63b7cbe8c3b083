//! What a write is about: the `NodeHealthCheck`, the object and its kind.

use crate::remediation::{
    crd::NodeHealthCheck,
    decide::Action,
    events::About,
    names,
    world::{Kind, RemediationKey},
};

pub(super) fn about(check: &NodeHealthCheck) -> About {
    About {
        name: check.metadata.name.clone().unwrap_or_default(),
        uid: check.metadata.uid.clone().unwrap_or_default(),
    }
}

/// What [`object`] says of the namespace of the leases.
pub(super) const NAMESPACE_OBJECT: &str = "namespace";

/// The object that an action writes.
pub(super) fn object(action: &Action) -> String {
    let of = |key: &RemediationKey| {
        format!("{}/{}/{}/{}", key.kind.api_version, key.kind.kind, key.namespace, key.name)
    };
    match action {
        Action::MakeLeaseNamespace => NAMESPACE_OBJECT.to_owned(),
        Action::AcquireLease { node, .. }
        | Action::RenewLease { node, .. }
        | Action::ReleaseLease { node, .. } => names::lease(node),
        Action::Create(creation) => of(&creation.key),
        Action::Annotate { key, .. } | Action::Delete { key, .. } => of(key),
        Action::RemoveConfirmation { node, .. } => format!("node/{node}"),
    }
}

pub(super) fn kind_of(action: &Action) -> Option<&Kind> {
    match action {
        Action::Create(creation) => Some(&creation.key.kind),
        Action::Annotate { key, .. } | Action::Delete { key, .. } => Some(&key.kind),
        _ => None,
    }
}
