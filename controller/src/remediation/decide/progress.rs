//! An unhealthy node whose remediation is allowed: begins it, moves it along its steps, or says why not.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    super::{
        names, settings,
        world::{Remediation, RemediationKey},
    },
    action::{Action, Creation},
    attempts, control_plane,
    draft::{Draft, Ill, is_record_of, time},
    lease::{self, Hold},
    neighbours,
    reason::Reason,
    templates::Step,
};

/// Moves the remediation of an unhealthy node along.
pub(super) fn progress<'a>(draft: &mut Draft<'a>, ill: &Ill<'a>) {
    let name: &'a str = &ill.node.name;
    if let Some((reason, message)) = neighbours::held(ill.node) {
        keep_what_is_there(draft, name);
        return draft.wait(ill, reason, message, None);
    }
    flag_old(draft, name);
    if let Some(other) = of_no_step(draft, name) {
        let message = format!(
            "{} {} is there, of a template that is not named any more",
            other.key.kind.kind, other.key.name
        );
        keep_what_is_there(draft, name);
        return draft.wait(ill, Reason::RemediatedByAnother, message, None);
    }
    for index in 0..draft.steps.len() {
        let step = draft.steps[index].clone();
        if timed_out(draft, name, &step) {
            draft.say(name, || format!("step {}: {} timed out", index + 1, step.key.name));
            continue;
        }
        match find(draft, name, &step) {
            Some(remediation) if !remediation.owned_by(draft.name) => {
                return draft.wait(
                    ill,
                    Reason::RemediatedByAnother,
                    format!(
                        "{} {} is there and is not ours",
                        step.makes.kind, remediation.key.name
                    ),
                    None,
                );
            }
            Some(remediation) => {
                if !give_up(draft, ill, index, remediation) {
                    draft.leases.insert(names::lease(name));
                    return;
                }
            }
            None => return begin(draft, ill, &step),
        }
    }
    // The status has to remember this before the lease goes: only it does.
    let remembered = draft.before.unhealthy_nodes.iter().flatten().find(|entry| entry.name == name);
    let now = draft.status.unhealthy_nodes.iter().flatten().find(|entry| entry.name == name);
    if remembered
        .is_none_or(|before| Some(&before.remediations) != now.map(|entry| &entry.remediations))
    {
        draft.leases.insert(names::lease(name));
    }
    draft.wait(ill, Reason::NoTemplateLeft, "every template was tried".to_owned(), None);
}

/// Keeps the lease of a node whose remediation is not moved along now.
pub(super) fn keep_what_is_there(draft: &mut Draft<'_>, node: &str) {
    let owned = draft.owned(node);
    if owned.iter().any(|remediation| remediation.timed_out.is_none()) {
        lease::keep(draft, node);
    }
}

/// Whether the step was given up for this node.
fn timed_out(draft: &Draft<'_>, node: &str, step: &Step) -> bool {
    let entries = draft.status.unhealthy_nodes.iter().flatten();
    entries
        .filter(|entry| entry.name == node)
        .flat_map(|entry| entry.remediations.iter().flatten())
        .any(|record| {
            record.timed_out.is_some()
                && record.resource.kind.as_ref() == Some(&step.makes.kind)
                && record.resource.api_version.as_ref() == Some(&step.makes.api_version)
                && record
                    .template_name
                    .as_ref()
                    .is_none_or(|name| name.is_empty() || *name == step.key.name)
        })
}

/// The remediation object of this step for this node, whoever made it.
fn find<'a>(draft: &Draft<'a>, node: &str, step: &Step) -> Option<&'a Remediation> {
    let all = draft.by_node.get(node)?;
    all.iter().copied().find(|remediation| remediation.is_of(&step.makes, &step.key.name, node))
}

/// An object of ours that a remediator works on, but that none of the steps makes: the spec was changed meanwhile. A second
/// remediator must not act on the node beside it.
fn of_no_step<'a>(draft: &Draft<'a>, node: &str) -> Option<&'a Remediation> {
    draft.owned(node).into_iter().find(|remediation| {
        remediation.timed_out.is_none()
            && !is_given_up(draft, node, remediation)
            && !draft.steps.iter().any(|step| remediation.is_of(&step.makes, &step.key.name, node))
    })
}

/// Whether the status says that the object was given up.
fn is_given_up(draft: &Draft<'_>, node: &str, remediation: &Remediation) -> bool {
    let entries = draft.status.unhealthy_nodes.iter().flatten();
    let mut records = entries
        .filter(|entry| entry.name == node)
        .flat_map(|entry| entry.remediations.iter().flatten());
    records.any(|record| record.timed_out.is_some() && is_record_of(record, remediation))
}

/// Whether the step is over without success: its time, its remediator's word, or its lease says so.
fn give_up<'a>(
    draft: &mut Draft<'a>,
    ill: &Ill<'a>,
    index: usize,
    remediation: &Remediation,
) -> bool {
    let node = ill.node;
    let step = draft.steps[index].clone();
    let kind = &step.makes.kind;
    let mut over = None;
    if let Some(timeout) = step.timeout {
        let ends = remediation.created.checked_add(timeout).unwrap_or(Timestamp::MAX);
        if draft.now > ends {
            over = Some(format!("{kind} timed out at {ends}"));
        } else if remediation.succeeded.as_deref() == Some("False") {
            over = Some(format!("{kind} failed"));
        } else {
            draft.due_at(ends);
        }
    }
    if over.is_none() && lease::keep_for_step(draft, node, index) {
        over = Some(format!("{kind} is overdue"));
    }
    let Some(over) = over else {
        draft.say(&node.name, || {
            format!("{kind} {} remediates it since {}", remediation.key.name, remediation.created)
        });
        return false;
    };
    draft.say(&node.name, || over);
    if draft.dry_run {
        // Its remediator is not told to stop, so the step is not over.
        return false;
    }
    let now = time(draft.now);
    let records = draft.entry(&node.name).remediations.iter_mut().flatten();
    for record in records.filter(|record| is_record_of(record, remediation)) {
        record.timed_out = Some(now.clone());
    }
    if remediation.succeeded.as_deref() != Some("True") && remediation.timed_out.is_none() {
        draft.act(Action::Annotate {
            key: remediation.key.clone(),
            node: node.name.to_string(),
            resource_version: remediation.resource_version.clone(),
            annotation: names::TIMED_OUT,
            value: Some(now.0.to_string()),
        });
    }
    true
}

/// Marks remediation objects that are older than two days.
fn flag_old(draft: &mut Draft<'_>, node: &str) {
    for remediation in draft.owned(node) {
        let old = remediation.created.checked_add(settings::OLD_AGE).unwrap_or(Timestamp::MAX);
        if remediation.old_flag {
            continue;
        }
        if draft.now > old {
            draft.act(Action::Annotate {
                key: remediation.key.clone(),
                node: node.to_owned(),
                resource_version: remediation.resource_version.clone(),
                annotation: names::OLD_FLAG,
                value: Some(names::OLD_FLAG_ON.to_owned()),
            });
        } else {
            draft.wake_at(old.checked_add(settings::JUST_AFTER).unwrap_or(old));
        }
    }
}

/// Makes the remediation object of this step, if nothing speaks against it.
fn begin<'a>(draft: &mut Draft<'a>, ill: &Ill<'a>, step: &Step) {
    let name: &'a str = &ill.node.name;
    let key = key(draft, name, step);
    if let Some(taken) = draft.world.remediations.get(&key) {
        let by = taken.template_annotation.as_deref().unwrap_or("somebody else");
        return draft.wait(
            ill,
            Reason::NameTaken,
            format!("{} {} is there already, made from {by}", step.makes.kind, key.name),
            None,
        );
    }
    if let Some(refusal) = draft.world.refused.get(&(draft.name.to_owned(), name.to_owned()))
        && draft.now < refusal.retry
    {
        let (message, retry) = (refusal.message.clone(), refusal.retry);
        draft.leases.insert(names::lease(name));
        return draft.wait(ill, Reason::WriteRefused, message, Some(retry));
    }
    if !control_plane::allows(draft, ill) {
        return;
    }
    let records = draft.status.unhealthy_nodes.iter().flatten().find(|entry| entry.name == name);
    let first = records.is_none_or(|entry| entry.remediations.as_ref().is_none_or(Vec::is_empty));
    let hold = lease::before_creation(draft, ill, step, first);
    if hold == Hold::Foreign {
        return;
    }
    if first {
        let history = attempts::history(draft.world, draft.settings, ill.node, draft.now);
        draft.say(name, || format!("{} remediations began recently", history.len()));
        if let Err((reason, message, until)) =
            attempts::allowed(&history, draft.settings, draft.now)
        {
            return draft.wait(ill, reason, message, Some(until));
        }
    }
    if let Err((reason, message)) = draft.budget.try_take(draft.world, name, ill.since) {
        return draft.wait(ill, reason, message, None);
    }
    if ill.node.control_plane() {
        draft.control_plane = Some(name);
    }
    draft.leases.insert(names::lease(name));
    if draft.dry_run {
        let message = format!("would create {} {}", step.makes.kind, key.name);
        return draft.wait(ill, Reason::DryRun, message, None);
    }
    draft.say(name, || format!("{} {} is made from {}", step.makes.kind, key.name, step.key.name));
    match hold {
        Hold::Ours => {
            let creation = creation(draft, ill, step, key);
            draft.act(Action::Create(Box::new(creation)));
        }
        Hold::Pending(pending) => lease::write(draft, ill.node, step, pending),
        Hold::Foreign => {}
    }
}

/// Which remediation object the step makes.
///
/// Where several templates of a kind may be used, the name has a suffix as `generateName` would give it, but always the
/// same one for the same step: whatever crashes or wakes up late, the second of two cannot be made.
fn key(draft: &Draft<'_>, node: &str, step: &Step) -> RemediationKey {
    let name = if step.template.multiple {
        let uid = draft.check.metadata.uid.as_deref().unwrap_or_default();
        let seed =
            [draft.name, uid, &step.key.kind.api_version, &step.namespace, &step.key.name, node];
        format!("{}-{}", trimmed(node), suffix(&seed))
    } else {
        node.to_owned()
    };
    RemediationKey { kind: step.makes.clone(), namespace: step.namespace.clone(), name }
}

/// The API server cuts the base of a generated name at 58 of 63 characters.
const BASE_MAX: usize = 57;

fn trimmed(node: &str) -> &str {
    // What follows is a hyphen, which no part between two dots begins with.
    node.get(..BASE_MAX).unwrap_or(node).trim_end_matches('.')
}

/// Five characters that depend on `seed` alone (FNV-1a), of the letters that Kubernetes uses for generated names.
fn suffix(seed: &[&str]) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in seed {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    let mut text = String::new();
    for _ in 0..5 {
        let index = usize::try_from(hash % 27).unwrap_or_default();
        text.push(char::from(LETTERS[index]));
        hash /= 27;
    }
    text
}

fn creation(draft: &Draft<'_>, ill: &Ill<'_>, step: &Step, key: RemediationKey) -> Creation {
    let node = ill.node;
    let mut labels = json!({ names::PART_OF: names::PART_OF_VALUE });
    if node.control_plane() {
        labels[names::CONTROL_PLANE_LABEL] = json!("");
    }
    let mut metadata = json!({
        "name": key.name,
        "labels": labels,
        "annotations": { names::NODE_NAME: &*node.name, names::TEMPLATE_NAME: step.key.name },
        "ownerReferences": [{
            "apiVersion": names::API_VERSION,
            "kind": names::KIND,
            "name": draft.name,
            "uid": draft.check.metadata.uid,
            "controller": false,
        }],
    });
    if !key.namespace.is_empty() {
        metadata["namespace"] = json!(key.namespace);
    }
    let object = json!({
        "apiVersion": key.kind.api_version,
        "kind": key.kind.kind,
        "metadata": metadata,
        "spec": step.template.spec.clone().unwrap_or(Value::Null),
    });
    let machine = node
        .annotation("machine.openshift.io/machine")
        .filter(|_| draft.world.openshift.machine_api)
        .and_then(|machine| machine.split_once('/'))
        .filter(|(namespace, _)| *namespace == key.namespace)
        .map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
    Creation { key, node: node.name.to_string(), object, machine }
}
