//! One control-plane node at a time, and never at the price of etcd's quorum.

use super::{
    super::{settings, world::Node},
    draft::{Draft, Ill},
    reason::Reason,
};

/// Whether a remediation of the control-plane node may begin; if not, the node waits.
pub(super) fn allows<'a>(draft: &mut Draft<'a>, ill: &Ill<'a>) -> bool {
    let node = ill.node;
    if !node.control_plane() {
        return true;
    }
    if let Some(other) = busy(draft, node) {
        draft.wait(
            ill,
            Reason::ControlPlane,
            format!("control-plane node {other} is being remediated, one at a time"),
            None,
        );
        return false;
    }
    if let Some(why) = etcd_refuses(draft, node) {
        let again = draft.now.checked_add(settings::ASK_AGAIN).ok();
        draft.wait(ill, Reason::ControlPlane, why.to_owned(), again);
        return false;
    }
    true
}

/// Another control-plane node that has a remediation object, whoever made it and even one that is being deleted.
fn busy(draft: &Draft<'_>, node: &Node) -> Option<String> {
    if let Some(other) = draft.control_plane.filter(|other| **other != *node.name) {
        return Some(other.to_owned());
    }
    draft
        .world
        .remediations
        .values()
        .filter(|remediation| *remediation.node() != *node.name)
        .find(|remediation| {
            remediation.control_plane
                || draft
                    .world
                    .nodes
                    .get(remediation.node())
                    .is_some_and(|node| node.control_plane())
        })
        .map(|remediation| remediation.node().to_owned())
}

/// Why etcd could lose its quorum; only `OpenShift` tells.
fn etcd_refuses(draft: &Draft<'_>, node: &Node) -> Option<&'static str> {
    let openshift = &draft.world.openshift;
    if !openshift.present {
        return None;
    }
    match openshift.etcd_budgets.as_slice() {
        [allowed] if *allowed >= 1 => None,
        [_] if openshift.etcd_guarded.contains(&*node.name) => {
            Some("etcd allows no disruption, and its member on this node works")
        }
        [_] => None,
        _ => Some("there is not exactly one PodDisruptionBudget in openshift-etcd"),
    }
}
