//! What a write has made of the cluster, noted in the store before a watch tells.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use crate::remediation::{
    apply::Answer,
    crd::NodeHealthCheck,
    decide::Creation,
    events::About,
    names,
    store::Store,
    world::{Owner, Refusal, Remediation},
};

/// 1 second after its first refusal a creation is tried again; doubled up to [`REFUSED_MAX`].
const REFUSED: Duration = Duration::from_secs(1);
/// 1 minute: a remediator's webhook that comes back is noticed by then.
pub(super) const REFUSED_MAX: Duration = Duration::from_mins(1);

/// A creation that is on its way counts as made: for the budget, for the control plane, for everything.
pub(super) fn place(store: &mut Store, check: &NodeHealthCheck, creation: &Creation) {
    let labels = &creation.object["metadata"]["labels"];
    let template = creation.object["metadata"]["annotations"][names::TEMPLATE_NAME].as_str();
    let owner = Owner {
        api_version: names::API_VERSION.to_owned(),
        kind: names::KIND.to_owned(),
        name: check.metadata.name.clone().unwrap_or_default(),
    };
    let remediation = Remediation {
        key: creation.key.clone(),
        created: Timestamp::now(),
        owners: vec![owner],
        control_plane: !labels[names::CONTROL_PLANE_LABEL].is_null(),
        node_annotation: Some(creation.node.clone()),
        template_annotation: template.map(str::to_owned),
        ..Remediation::default()
    };
    store.world.remediations.entry(creation.key.clone()).or_insert_with(|| Arc::new(remediation));
}

/// What the API server answered is known at once, before a watch tells.
pub(super) fn keep(store: &mut Store, answer: Answer, now: Timestamp) {
    match answer {
        Answer::Lease(lease) => store.wrote_lease(*lease, now),
        Answer::LeaseGone(name, uid) => drop(store.remove_lease(&name, Some(&uid))),
        Answer::Remediation(kind, object) => store.wrote_remediation(&kind, &object, now),
        Answer::RemediationGone(key, uid) => drop(store.remove_remediation(&key, Some(&uid))),
        Answer::Node(node) => store.wrote_node(*node, now),
        Answer::Check(check) => store.wrote_check(*check, now),
        Answer::Namespace => store.world.lease_namespace = true,
    }
}

/// Notes that the API server refused what a remediation of the node begins with; it is tried again with a growing pause.
pub(super) fn refuse(store: &mut Store, about: &About, node: &str, why: &str) {
    let of = (about.name.clone(), node.to_owned());
    let times = store.world.refused.get(&of).map_or(0, |refusal| refusal.times) + 1;
    let pause = REFUSED.saturating_mul(1 << times.saturating_sub(1).min(6)).min(REFUSED_MAX);
    let pause = SignedDuration::try_from(pause).unwrap_or_default();
    let retry = Timestamp::now().checked_add(pause).unwrap_or(Timestamp::MAX);
    store.world.refused.insert(of, Refusal { message: why.to_owned(), retry, times });
}

/// The earlier of this moment and the end of a pause that begins now; a pause of zero has no end of its own.
pub(super) fn earlier(at: Option<Timestamp>, wait: Duration) -> Option<Timestamp> {
    if wait.is_zero() {
        return at;
    }
    let next =
        Timestamp::now().checked_add(SignedDuration::try_from(wait).unwrap_or_default()).ok();
    match (at, next) {
        (Some(at), Some(next)) => Some(at.min(next)),
        (at, next) => at.or(next),
    }
}
