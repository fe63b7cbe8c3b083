//! Nodes that are healthy again, and those that are gone: their remediation objects go too.

use jiff::{SignedDuration, Timestamp};

use super::{
    super::{
        names, settings,
        world::{Node, Remediation},
    },
    action::{Action, Recovery},
    draft::{Draft, is_record_of, time},
    lease,
};

/// Ends the remediation of a healthy node. True: nothing is left of it, the node counts as healthy.
pub(super) fn recover(draft: &mut Draft<'_>, node: &Node) -> bool {
    let owned = draft.owned(&node.name);
    let confirmed = node.annotation(names::CONFIRMED_HEALTHY).is_some();
    if owned.is_empty() {
        draft.say(&node.name, || "is healthy, and nothing is left of a remediation".to_owned());
        if let Some(entry) = draft.remove_entry(&node.name) {
            for record in entry.remediations.into_iter().flatten() {
                let Some(started) = record.started else { continue };
                draft.recovered.push(Recovery {
                    node: node.name.to_string(),
                    namespace: record.resource.namespace.unwrap_or_default(),
                    kind: record.resource.kind.unwrap_or_default(),
                    after: draft.now.duration_since(started.0),
                });
            }
        }
        // It is meant for every object of the node, whoever made it.
        if confirmed && !draft.by_node.contains_key(&*node.name) {
            draft.act(Action::RemoveConfirmation {
                node: node.name.to_string(),
                resource_version: node.resource_version.clone(),
            });
        }
        return true;
    }
    draft.record(&node.name);
    let now = time(draft.now);
    draft.entry(&node.name).conditions_healthy_timestamp.get_or_insert(now);
    lease::keep(draft, &node.name);
    let delay = if confirmed { SignedDuration::ZERO } else { delay(draft) };
    for remediation in owned.into_iter().filter(|remediation| !remediation.deleting) {
        if let Some(until) = delayed(draft, remediation, delay) {
            draft.say(&node.name, || {
                let until = match until {
                    Until::Time(until) => until.to_string(),
                    Until::Confirmed => {
                        format!("the annotation {} is set", names::CONFIRMED_HEALTHY)
                    }
                };
                format!("is healthy; healthyDelay keeps the remediation object until {until}")
            });
            continue;
        }
        if let Some(until) = has_to_be_remembered(draft, remediation) {
            draft.wake_at(until);
            continue;
        }
        draft.say(&node.name, || "is healthy; the remediation object is deleted".to_owned());
        delete(draft, remediation);
    }
    false
}

/// Until when an object waits for the status that tells of it: without that, the attempt would be forgotten with the
/// object, and a node that flaps fast would have any number of them.
fn has_to_be_remembered(draft: &Draft<'_>, remediation: &Remediation) -> Option<Timestamp> {
    let entries = draft.before.unhealthy_nodes.iter().flatten();
    let mut records = entries
        .filter(|entry| entry.name == remediation.node())
        .flat_map(|entry| entry.remediations.iter().flatten());
    if records.any(|record| is_record_of(record, remediation)) {
        return None;
    }
    let until = remediation.created.checked_add(settings::REMEMBERED_WITHIN).ok()?;
    (draft.now < until).then_some(until)
}

fn delay(draft: &Draft<'_>) -> SignedDuration {
    draft.check.spec.healthy_delay.as_ref().map_or(SignedDuration::ZERO, |delay| delay.0.get())
}

/// Until when the object of a healthy node is kept.
enum Until {
    /// This moment.
    Time(Timestamp),
    /// A person confirms that the node is healthy.
    Confirmed,
}

/// Until when the object of a healthy node is kept; `None`: no longer.
fn delayed(
    draft: &mut Draft<'_>,
    remediation: &Remediation,
    delay: SignedDuration,
) -> Option<Until> {
    if delay.is_zero() {
        return None;
    }
    if delay.is_negative() {
        return Some(Until::Confirmed);
    }
    let since =
        remediation.healthy_delay.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
    let since = since.unwrap_or_else(|| {
        draft.act(Action::Annotate {
            key: remediation.key.clone(),
            node: remediation.node().to_owned(),
            resource_version: remediation.resource_version.clone(),
            annotation: names::HEALTHY_DELAY,
            value: Some(time(draft.now).0.to_string()),
        });
        time(draft.now).0
    });
    let until = since.checked_add(delay).unwrap_or(Timestamp::MAX);
    if draft.now >= until {
        return None;
    }
    draft.entry(remediation.node()).healthy_delayed = Some(true);
    draft.due_at(until);
    Some(Until::Time(until))
}

/// A node that is unhealthy again has not been healthy: its delay begins anew when it is.
pub(super) fn restart_delay(draft: &mut Draft<'_>, node: &str) {
    if draft.has_entry(node) {
        let entry = draft.entry(node);
        entry.conditions_healthy_timestamp = None;
        entry.healthy_delayed = None;
    }
    for remediation in draft.owned(node) {
        if remediation.healthy_delay.is_some() && !remediation.deleting {
            draft.act(Action::Annotate {
                key: remediation.key.clone(),
                node: node.to_owned(),
                resource_version: remediation.resource_version.clone(),
                annotation: names::HEALTHY_DELAY,
                value: None,
            });
        }
    }
}

fn delete(draft: &mut Draft<'_>, remediation: &Remediation) {
    draft.act(Action::Delete {
        key: remediation.key.clone(),
        node: remediation.node().to_owned(),
        uid: remediation.uid.clone(),
        resource_version: remediation.resource_version.clone(),
    });
}

/// Deletes the objects of nodes that are gone or not selected any more, and forgets those nodes.
///
/// An object whose remediator expects that the node is deleted for good is left to it until it succeeded.
pub(super) fn clean(draft: &mut Draft<'_>, selected: &dyn Fn(&str) -> bool) {
    let orphans: Vec<_> = draft
        .by_node
        .values()
        .flatten()
        .copied()
        .filter(|remediation| remediation.owned_by(draft.name) && !selected(remediation.node()))
        .collect();
    let mut kept: Vec<&str> = Vec::new();
    for remediation in orphans {
        if remediation.deleting {
            continue;
        }
        if remediation.permanent_deletion && remediation.succeeded.as_deref() != Some("True") {
            let node = remediation.node();
            draft.record(node);
            lease::keep(draft, node);
            kept.push(node);
            continue;
        }
        delete(draft, remediation);
    }
    if let Some(entries) = &mut draft.status.unhealthy_nodes {
        entries.retain(|entry| selected(&entry.name) || kept.contains(&entry.name.as_str()));
    }
}
