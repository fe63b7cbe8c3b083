//! A decision while it is made.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Timestamp, Unit};
use k8s_openapi::{
    api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};

use super::{
    super::{
        crd::{
            NodeHealthCheck, NodeHealthCheckStatus, RemediationRecord, UnhealthyNode, WaitingNode,
        },
        names,
        settings::{self, Settings},
        world::{self, Lease, Node, Remediation, World},
    },
    action::{Action, Note},
    budget::Budget,
    health,
    reason::Reason,
    templates::Step,
};

/// A decision while it is made: what it is made from, and what it has come to so far.
pub(super) struct Draft<'a> {
    pub(super) world: &'a World,
    pub(super) settings: &'a Settings,
    pub(super) check: &'a NodeHealthCheck,
    /// The name of the `NodeHealthCheck`.
    pub(super) name: &'a str,
    pub(super) now: Timestamp,
    pub(super) dry_run: bool,
    pub(super) steps: Vec<Step>,
    /// The remediation objects of each node, oldest first.
    pub(super) by_node: BTreeMap<&'a str, Vec<&'a Remediation>>,
    pub(super) budget: Budget<'a>,
    /// The status before.
    pub(super) before: NodeHealthCheckStatus,
    /// The status to be.
    pub(super) status: NodeHealthCheckStatus,
    pub(super) waiting: Vec<(Reason, WaitingNode)>,
    pub(super) actions: Vec<Action>,
    pub(super) notes: Vec<Note>,
    pub(super) recovered: Vec<super::action::Recovery>,
    pub(super) wake: Option<Timestamp>,
    /// When something is due that a user cares about.
    pub(super) deadline: Option<Timestamp>,
    /// Names of the leases of ours that are needed.
    pub(super) leases: BTreeSet<String>,
    /// A control-plane node for which a remediation begins in this decision.
    pub(super) control_plane: Option<&'a str>,
    pub(super) explain: Option<&'a str>,
    pub(super) why: Vec<String>,
}

/// A moment in a status: whole seconds, as the API has them.
pub(super) fn time(at: Timestamp) -> Time {
    Time(
        at.round(jiff::TimestampRound::new().smallest(Unit::Second).mode(jiff::RoundMode::Trunc))
            .unwrap_or(at),
    )
}

/// The same in the future: a deadline is not shown as earlier than it is.
pub(super) fn due(at: Timestamp) -> Time {
    Time(
        at.round(jiff::TimestampRound::new().smallest(Unit::Second).mode(jiff::RoundMode::Ceil))
            .unwrap_or(at),
    )
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        world: &'a World,
        settings: &'a Settings,
        check: &'a NodeHealthCheck,
        now: Timestamp,
        explain: Option<&'a str>,
    ) -> Self {
        let name = check.metadata.name.as_deref().unwrap_or_default();
        let annotations = check.metadata.annotations.as_ref();
        let dry_run = annotations
            .and_then(|annotations| annotations.get(names::DRY_RUN))
            .is_some_and(|value| value != "false");
        let mut by_node: BTreeMap<&str, Vec<&Remediation>> = BTreeMap::new();
        for remediation in world.remediations.values() {
            by_node.entry(remediation.node()).or_default().push(remediation);
        }
        for list in by_node.values_mut() {
            list.sort_by_key(|remediation| remediation.created);
        }
        let before = check.status.clone().unwrap_or_default();
        let status = NodeHealthCheckStatus {
            observed_nodes: Some(0),
            healthy_nodes: Some(0),
            in_flight_remediations: None,
            ..before.clone()
        };
        Self {
            world,
            settings,
            check,
            name,
            now,
            dry_run,
            steps: Vec::new(),
            by_node,
            budget: Budget::new(world, settings, name),
            before,
            status,
            waiting: Vec::new(),
            actions: Vec::new(),
            notes: Vec::new(),
            recovered: Vec::new(),
            wake: None,
            deadline: None,
            leases: BTreeSet::new(),
            control_plane: None,
            explain,
            why: Vec::new(),
        }
    }

    /// Adds a write, unless this is a dry run, or a write of the same object comes first.
    pub(super) fn act(&mut self, action: Action) {
        if !self.dry_run && !self.actions.iter().any(|before| before.same_object(&action)) {
            self.actions.push(action);
        }
    }

    /// Decide again then at the latest.
    pub(super) fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }

    /// Decide again just after this moment, which a user cares about.
    pub(super) fn due_at(&mut self, at: Timestamp) {
        if at == Timestamp::MAX {
            return;
        }
        let after = at.checked_add(settings::JUST_AFTER).unwrap_or(at);
        self.wake_at(after);
        self.deadline = Some(self.deadline.map_or(at, |deadline| deadline.min(at)));
    }

    /// Adds a line to the explanation, where this node is asked about.
    pub(super) fn say(&mut self, node: &str, line: impl FnOnce() -> String) {
        if self.explain == Some(node) {
            let line = line();
            self.why.push(line);
        }
    }

    /// The node waits, for this reason, and until then at the latest.
    pub(super) fn wait(
        &mut self,
        ill: &Ill<'a>,
        reason: Reason,
        message: String,
        until: Option<Timestamp>,
    ) {
        self.say(&ill.node.name, || match until {
            Some(until) => format!("waits: {}: {message}; decided again at {until}", reason.name()),
            None => format!("waits: {}: {message}", reason.name()),
        });
        if let Some(until) = until {
            self.due_at(until);
        }
        let node = WaitingNode {
            name: ill.node.name.to_string(),
            reason: reason.name().to_owned(),
            message,
            since: (ill.since > Timestamp::UNIX_EPOCH).then(|| time(ill.since)),
            next_deadline: until.map(due),
            hint: health::hint(ill.condition).map(str::to_owned),
        };
        self.waiting.push((reason, node));
    }

    /// The remediation objects of `node` that this `NodeHealthCheck` owns, oldest first.
    pub(super) fn owned(&self, node: &str) -> Vec<&'a Remediation> {
        let all = self.by_node.get(node).map_or(&[][..], Vec::as_slice);
        all.iter().copied().filter(|remediation| remediation.owned_by(self.name)).collect()
    }

    /// The lease of `node`, if this `NodeHealthCheck` holds it.
    pub(super) fn own_lease(&self, node: &str) -> Option<&'a Lease> {
        let lease = self.world.leases.get(&names::lease(node))?;
        (lease.holder == names::holder(self.name)).then_some(lease)
    }

    /// The entry of `node` in the status to be.
    pub(super) fn entry(&mut self, node: &str) -> &mut UnhealthyNode {
        let list = self.status.unhealthy_nodes.get_or_insert_default();
        let index = list.iter().position(|entry| entry.name == node).unwrap_or_else(|| {
            list.push(UnhealthyNode { name: node.to_owned(), ..UnhealthyNode::default() });
            list.len() - 1
        });
        &mut list[index]
    }

    /// Whether the status to be has an entry of `node`.
    pub(super) fn has_entry(&self, node: &str) -> bool {
        self.status.unhealthy_nodes.iter().flatten().any(|entry| entry.name == node)
    }

    /// Removes the entry of `node`, and gives it back.
    pub(super) fn remove_entry(&mut self, node: &str) -> Option<UnhealthyNode> {
        let list = self.status.unhealthy_nodes.as_mut()?;
        let index = list.iter().position(|entry| entry.name == node)?;
        Some(list.remove(index))
    }

    /// Brings the entry of `node` in step with the remediation objects that are there.
    ///
    /// What the status does not have of them is derived from them, so that a crash between a write and the status loses
    /// nothing. A record whose object is gone is kept only when it timed out: that is the memory of the escalation.
    pub(super) fn record(&mut self, node: &str) {
        let owned = self.owned(node);
        let now = self.now;
        let records = self.entry(node).remediations.get_or_insert_default();
        records.retain(|record| {
            record.timed_out.is_some()
                || owned.iter().any(|remediation| is_record_of(record, remediation))
        });
        // One without an identity is a write that is on its way.
        for remediation in owned.into_iter().filter(|remediation| !remediation.uid.is_empty()) {
            let index = records.iter().position(|record| is_record_of(record, remediation));
            let index = index.unwrap_or_else(|| {
                records.push(new_record(remediation));
                records.len() - 1
            });
            let record = &mut records[index];
            if record.template_name.is_none() {
                record.template_name.clone_from(&remediation.template_annotation);
            }
            if let (None, Some(text)) = (&record.timed_out, &remediation.timed_out) {
                record.timed_out = Some(time(text.parse().unwrap_or(now)));
            }
        }
        if records.is_empty() {
            self.entry(node).remediations = None;
        }
    }

    /// Sets a condition; the time of its transition changes with its status only.
    pub(super) fn condition(&mut self, kind: &str, on: bool, reason: &str, message: &str) {
        let status = if on { "True" } else { "False" };
        let now = time(self.now);
        let list = self.status.conditions.get_or_insert_default();
        let fresh = |since| Condition {
            last_transition_time: since,
            message: message.to_owned(),
            observed_generation: None,
            reason: reason.to_owned(),
            status: status.to_owned(),
            type_: kind.to_owned(),
        };
        match list.iter_mut().find(|condition| condition.type_ == kind) {
            Some(condition) => {
                let since = if condition.status == status {
                    condition.last_transition_time.clone()
                } else {
                    now
                };
                *condition = fresh(since);
            }
            None => list.push(fresh(now)),
        }
    }

    /// The condition of this type in the status to be, if it is True.
    pub(super) fn is_on(&self, kind: &str) -> Option<&Condition> {
        let conditions = self.status.conditions.iter().flatten();
        conditions
            .into_iter()
            .find(|condition| condition.type_ == kind && condition.status == "True")
    }
}

/// A node that is not healthy.
#[derive(Clone, Copy)]
pub(super) struct Ill<'a> {
    pub(super) node: &'a Node,
    /// Since when, or from when on.
    pub(super) since: Timestamp,
    /// The condition that says so.
    pub(super) condition: &'a world::Condition,
}

/// Whether `record` is about `remediation`.
pub(super) fn is_record_of(record: &RemediationRecord, remediation: &Remediation) -> bool {
    match &record.resource.uid {
        Some(uid) => *uid == remediation.uid,
        None => {
            record.resource.kind.as_ref() == Some(&remediation.key.kind.kind)
                && record.resource.name.as_ref() == Some(&remediation.key.name)
        }
    }
}

fn new_record(remediation: &Remediation) -> RemediationRecord {
    let key = &remediation.key;
    RemediationRecord {
        resource: ObjectReference {
            api_version: Some(key.kind.api_version.clone()),
            kind: Some(key.kind.kind.clone()),
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            uid: Some(remediation.uid.clone()),
            ..ObjectReference::default()
        },
        started: Some(time(remediation.created)),
        timed_out: None,
        template_name: remediation.template_annotation.clone(),
    }
}
