//! The lease of a node: whoever holds it acts on the node, and nobody else does.

use jiff::{SignedDuration, Timestamp};

use super::{
    super::{
        names, settings,
        world::{Lease, Node},
    },
    action::Action,
    draft::{Draft, Ill},
    reason::Reason,
    templates::Step,
};

/// Whether the lease is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// It is, and lasts long enough.
    Ours,
    /// A write for it comes first.
    Pending(Pending),
    /// Somebody else's; the node waits.
    Foreign,
}

/// Which write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// Make it, or take it over.
    Acquire,
    /// Renew it.
    Renew,
}

/// How long a lease is valid while `step` is under way.
fn duration(step: &Step) -> SignedDuration {
    step.length().saturating_add(settings::LEASE_BUFFER)
}

/// How the lease of the node stands before a remediation object is made; `fresh`: the node has had none yet.
pub(super) fn before_creation<'a>(
    draft: &mut Draft<'a>,
    ill: &Ill<'a>,
    step: &Step,
    fresh: bool,
) -> Hold {
    let Some(lease) = draft.world.leases.get(&names::lease(&ill.node.name)) else {
        return Hold::Pending(Pending::Acquire);
    };
    let now = draft.now;
    if lease.holder == names::holder(draft.name) {
        // One that is left over from a past remediation would count as overdue at once.
        let left_over =
            fresh && lease.acquired.is_none_or(|at| now.duration_since(at) > settings::FRESH_LEASE);
        return match (left_over, ends_too_soon(lease, step, now)) {
            (true, _) => Hold::Pending(Pending::Acquire),
            (false, true) => Hold::Pending(Pending::Renew),
            (false, false) => Hold::Ours,
        };
    }
    if !lease.holder.is_empty() && lease.valid(now) {
        let until = lease.expiry();
        let cordoned = if ill.node.unschedulable { ", and the node is cordoned" } else { "" };
        draft.wait(
            ill,
            Reason::LeaseHeld,
            format!("{} holds the lease of the node{cordoned}", lease.holder),
            until,
        );
        return Hold::Foreign;
    }
    Hold::Pending(Pending::Acquire)
}

/// The write that a pending lease needs.
pub(super) fn write(draft: &mut Draft<'_>, node: &Node, step: &Step, pending: Pending) {
    let lease = draft.world.leases.get(&names::lease(&node.name));
    match (pending, lease) {
        (Pending::Renew, Some(lease)) => draft.act(Action::RenewLease {
            node: node.name.to_string(),
            resource_version: lease.resource_version.clone(),
            duration: duration(step),
        }),
        (Pending::Acquire | Pending::Renew, lease) => {
            if !draft.world.lease_namespace && !draft.actions.contains(&Action::MakeLeaseNamespace)
            {
                draft.act(Action::MakeLeaseNamespace);
            }
            draft.act(Action::AcquireLease {
                node: node.name.to_string(),
                node_uid: node.uid.clone(),
                duration: duration(step),
                previous: lease.map(|lease| (lease.resource_version.clone(), lease.transitions)),
            });
        }
    }
}

fn ends_too_soon(lease: &Lease, step: &Step, now: Timestamp) -> bool {
    let wanted = now.checked_add(step.length()).unwrap_or(Timestamp::MAX);
    !lease.valid(now) || lease.expiry().is_none_or(|expiry| expiry < wanted)
}

/// Keeps our lease of a node while `step` is under way. True: it has been held for too long, the step is overdue.
pub(super) fn keep_for_step(draft: &mut Draft<'_>, node: &Node, index: usize) -> bool {
    let (step, now) = (draft.steps[index].clone(), draft.now);
    let Some(lease) = draft.own_lease(&node.name) else { return false };
    let before: SignedDuration = draft.steps[..index]
        .iter()
        .filter_map(|step| step.timeout)
        .fold(SignedDuration::ZERO, SignedDuration::saturating_add);
    let limit = step.length().saturating_mul(settings::OVERDUE_FACTOR).saturating_add(before);
    if let Some(overdue) = lease.acquired.and_then(|acquired| acquired.checked_add(limit).ok()) {
        if now > overdue {
            return true;
        }
        draft.wake_at(overdue.checked_add(settings::JUST_AFTER).unwrap_or(overdue));
    }
    if ends_too_soon(lease, &step, now) {
        write(draft, node, &step, Pending::Renew);
    } else {
        wake_at_half(draft, lease);
    }
    false
}

/// Keeps our lease of a node whose remediation object is there, but is not moved along now.
pub(super) fn keep(draft: &mut Draft<'_>, node: &str) {
    draft.leases.insert(names::lease(node));
    let Some(lease) = draft.own_lease(node) else { return };
    let half = half_life(lease);
    if half.is_some_and(|half| draft.now < half) {
        return wake_at_half(draft, lease);
    }
    let (resource_version, duration) = (lease.resource_version.clone(), lease.duration);
    draft.act(Action::RenewLease { node: node.to_owned(), resource_version, duration });
}

fn half_life(lease: &Lease) -> Option<Timestamp> {
    lease.renewed?.checked_add(lease.duration / 2).ok()
}

/// A lease is renewed when half of it is over: early enough for several attempts, seldom enough for many nodes.
fn wake_at_half(draft: &mut Draft<'_>, lease: &Lease) {
    if let Some(half) = half_life(lease) {
        draft.wake_at(half.max(draft.now.checked_add(settings::JUST_AFTER).unwrap_or(draft.now)));
    }
}

/// Gives back the leases that we hold for nothing.
pub(super) fn sweep(draft: &mut Draft<'_>) {
    let holder = names::holder(draft.name);
    let world = draft.world;
    for lease in world.leases.values() {
        let Some(node) = lease.name.strip_prefix("node-") else { continue };
        if lease.holder == holder && !draft.leases.contains(&lease.name) {
            draft.act(Action::ReleaseLease {
                node: node.to_owned(),
                uid: lease.uid.clone(),
                resource_version: lease.resource_version.clone(),
            });
        }
    }
}
