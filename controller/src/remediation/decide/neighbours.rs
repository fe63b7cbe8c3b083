//! Who else decides about a node: what another controller has begun is respected, said in `status`, never undone.

use super::{
    super::{names, world::Node},
    reason::Reason,
};

/// Conditions of KEP-5683 by which a node says that somebody works on it.
const MAINTENANCE: [&str; 3] =
    ["MaintenanceInProgress", "DrainInProgress", "GracefulNodeShutdownInProgress"];
/// What kubelet's graceful shutdown has in the message of `Ready`.
const SHUTTING_DOWN: &str = "node is shutting down";
/// Karpenter's taint on a node that it drains, from 1.0 on, and the one before.
const KARPENTER: [&str; 2] = ["karpenter.sh/disrupted", "karpenter.sh/disruption"];
/// The cluster autoscaler's taint on a node that it is about to delete.
const AUTOSCALER: &str = "ToBeDeletedByClusterAutoscaler";

/// Why nothing new is begun on `node`, because of what others do with it.
#[must_use]
pub(super) fn held(node: &Node) -> Option<(Reason, String)> {
    if node.label(names::EXCLUDE) == Some("true") {
        return Some((Reason::Excluded, format!("the node has the label {}=true", names::EXCLUDE)));
    }
    if let Some((who, why)) = veto(node) {
        let why = if why.is_empty() { "no reason given" } else { why };
        return Some((Reason::Vetoed, format!("{who} vetoes it: {why}")));
    }
    if node.deleting {
        return Some((Reason::BeingDeleted, "the node is being deleted".to_owned()));
    }
    let tainted = |key: &str| node.taints.iter().any(|taint| *taint.key == *key);
    if let Some(taint) = KARPENTER.into_iter().find(|key| tainted(key)) {
        return Some((
            Reason::BeingDisrupted,
            format!("Karpenter is disrupting the node (taint {taint})"),
        ));
    }
    if tainted(AUTOSCALER) {
        let message = format!("the cluster autoscaler is deleting the node (taint {AUTOSCALER})");
        return Some((Reason::BeingScaledDown, message));
    }
    let maintenance = MAINTENANCE
        .into_iter()
        .find(|kind| node.condition(kind).is_some_and(|condition| *condition.status == *"True"));
    if let Some(kind) = maintenance {
        return Some((Reason::Maintenance, format!("the node's condition {kind} is True")));
    }
    let ready = node.condition("Ready")?;
    (*ready.status == *"False" && ready.message.contains(SHUTTING_DOWN))
        .then(|| (Reason::Maintenance, "the node is shutting down in order".to_owned()))
}

/// The first veto, by label or annotation: who and why.
fn veto(node: &Node) -> Option<(&str, &str)> {
    node.labels
        .iter()
        .chain(&node.annotations)
        .filter_map(|(key, why)| Some((key.strip_prefix(names::VETO_PREFIX)?, &**why)))
        .find(|(_, why)| *why != "false")
}
