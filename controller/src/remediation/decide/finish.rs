//! The whole `NodeHealthCheck`: whether it works at all, and what its status says in the end.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    super::{
        crd::{Attempts, UnhealthyNode},
        names,
        settings::{self, Settings},
    },
    action::{Decision, Note},
    attempts,
    draft::{Draft, Ill, due},
    recovery::restart_delay,
    storm,
};

/// `MachineConfig` of a node, as the machine-config operator wants it and as it is.
const MACHINE_CONFIGS: [&str; 2] = [
    "machineconfiguration.openshift.io/desiredConfig",
    "machineconfiguration.openshift.io/currentConfig",
];

impl<'a> Draft<'a> {
    /// Whether a `MachineHealthCheck` acts on the same nodes. One of `OpenShift`'s own, which waits for the condition
    /// `Terminating` alone, does not.
    pub(super) fn conflicts(&self) -> bool {
        let openshift = &self.world.openshift;
        openshift.machine_api
            && match openshift.machine_health_checks.as_slice() {
                [] => false,
                [one] => !one.iter().eq(["Terminating"]),
                _ => true,
            }
    }

    /// Whether the cluster is being upgraded: nodes come and go then.
    pub(super) fn upgrading(&self, unhealthy: &[Ill<'_>]) -> bool {
        let openshift = &self.world.openshift;
        openshift.present
            && (openshift.progressing
                || unhealthy.iter().any(|ill| {
                    let [desired, current] = MACHINE_CONFIGS.map(|key| ill.node.annotation(key));
                    desired.is_some_and(|desired| !desired.is_empty()) && desired != current
                }))
    }

    pub(super) fn disable(&mut self, reason: &str, message: &str) {
        let changed = self.is_on("Disabled").is_none_or(|condition| condition.reason != reason);
        self.condition("Disabled", true, reason, message);
        if changed {
            let note = if reason == "ConflictingMachineHealthCheckDetected" {
                message.to_owned()
            } else {
                format!("Disabling NHC. Reason: {reason}, Message: {message}")
            };
            self.notes.push(Note::warning("Disabled", note));
        }
    }

    pub(super) fn enable(&mut self) {
        let conditions = self.status.conditions.iter().flatten();
        let is_enabled =
            conditions.into_iter().any(|c| c.type_ == "Disabled" && c.status == "False");
        let message = "No issues found, NodeHealthCheck is enabled.";
        self.condition("Disabled", false, "NodeHealthCheckEnabled", message);
        if !is_enabled {
            self.notes.push(Note::normal("Enabled", message));
        }
    }

    /// Enters an unhealthy node into the status.
    pub(super) fn enter(&mut self, ill: &Ill<'a>) {
        let name = &*ill.node.name;
        let Ill { condition, since, .. } = ill;
        self.say(name, || {
            format!(
                "condition {} is {} ({}), unhealthy since {since}",
                condition.kind, condition.status, condition.reason
            )
        });
        if !self.has_entry(name) {
            self.notes.push(Note::normal(
                "DetectedUnhealthy",
                format!(
                    "Node matches unhealthy condition. Node \"{name}\", condition type \"{}\", condition status \"{}\"",
                    condition.kind, condition.status
                ),
            ));
            if ill.node.label(names::EXCLUDE) == Some("") {
                self.notes.push(Note::warning(
                    "InvalidNodeLabel",
                    format!(
                        "Node {name} has exclude-from-remediation label with empty value, label will be ignored. Set value to 'true' to exclude node from remediation"
                    ),
                ));
            }
        }
        self.entry(name);
        restart_delay(self, name);
        self.record(name);
    }

    /// When the cooldown after a storm ends.
    pub(super) fn deadline_of_storm(&self) -> Option<Timestamp> {
        let cooldown = self.check.spec.storm_cooldown_duration.as_ref()?.get();
        self.is_on(storm::COOLDOWN)?.last_transition_time.0.checked_add(cooldown).ok()
    }

    /// Nothing can be said yet: the status stays.
    pub(super) fn not_yet(self) -> Decision {
        Decision { status: self.before, ..Decision::default() }
    }

    /// The decision.
    pub(super) fn finish(mut self) -> Decision {
        self.remember_attempts();
        self.tell_waiting();
        if self.status.unhealthy_nodes.as_ref().is_some_and(Vec::is_empty) {
            self.status.unhealthy_nodes = None;
        }
        let (phase, reason) = self.phase();
        self.status.phase = Some(phase.to_owned());
        self.status.reason = Some(reason);
        self.status.next_deadline = self.deadline.map(due);
        let Self { actions, status, notes, recovered, wake, why, steps, .. } = self;
        let kinds = steps.into_iter().map(|step| step.makes).collect();
        Decision { actions, status, notes, recovered, wake, why, kinds }
    }

    fn phase(&self) -> (&'static str, String) {
        if let Some(condition) = self.is_on("Disabled") {
            let reason = format!("NHC is disabled: {}: {}", condition.reason, condition.message);
            return ("Disabled", reason);
        }
        let requests =
            self.check.spec.pause_requests.as_ref().filter(|requests| !requests.is_empty());
        if let Some(requests) = requests {
            return ("Paused", format!("NHC is paused: {}", requests.join(",")));
        }
        let remediated = |entry: &&UnhealthyNode| {
            entry.remediations.as_ref().is_some_and(|remediations| !remediations.is_empty())
        };
        match self.status.unhealthy_nodes.iter().flatten().filter(remediated).count() {
            0 => ("Enabled", "NHC is enabled, no ongoing remediation".to_owned()),
            count => ("Remediating", format!("NHC is remediating {count} nodes")),
        }
    }

    /// Notes when the remediations that are there began, and forgets what does not count any more.
    ///
    /// A further step of an escalation is not another attempt.
    fn remember_attempts(&mut self) {
        let mut began: BTreeMap<String, Vec<Time>> = BTreeMap::new();
        for attempts in self.before.attempts.iter().flatten() {
            began.insert(attempts.name.clone(), attempts.started.clone());
        }
        for entry in self.status.unhealthy_nodes.iter().flatten() {
            let first = entry
                .remediations
                .iter()
                .flatten()
                .filter_map(|record| record.started.clone())
                .min();
            let Some(first) = first else { continue };
            let list = began.entry(entry.name.clone()).or_default();
            if !list.contains(&first) {
                list.push(first);
            }
        }
        let list: Vec<_> = began
            .into_iter()
            .filter_map(|(name, mut started)| {
                started.retain(|began| attempts::counts(began.0, self.settings, self.now));
                started.sort();
                keep_last(&mut started, self.settings);
                (!started.is_empty()).then_some(Attempts { name, started })
            })
            .collect();
        self.status.attempts = (!list.is_empty()).then_some(list);
    }

    /// The nodes that wait, in the status, and events for those that began to.
    fn tell_waiting(&mut self) {
        let before = self.before.waiting_nodes.take().unwrap_or_default();
        let before: BTreeMap<_, _> =
            before.iter().map(|node| (node.name.as_str(), node.reason.as_str())).collect();
        let mut waiting = std::mem::take(&mut self.waiting);
        for (reason, node) in &waiting {
            if before.get(node.name.as_str()) == Some(&node.reason.as_str()) {
                continue;
            }
            if let Some(note) = reason.note(self.name, &node.name, &node.message)
                && !self.notes.contains(&note)
            {
                self.notes.push(note);
            }
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (reason, _) in &waiting {
            *counts.entry(reason.name()).or_default() += 1;
        }
        self.status.waiting = match waiting.as_slice() {
            [] => None,
            [(reason, node)] => Some(format!("{} {}", node.name, reason.name())),
            _ => {
                let parts: Vec<_> =
                    counts.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
                Some(parts.join(", "))
            }
        };
        waiting.sort_by(|(_, a), (_, b)| (&a.since, &a.name).cmp(&(&b.since, &b.name)));
        waiting.truncate(settings::WAITING_MAX);
        let list: Vec<_> = waiting.into_iter().map(|(_, node)| node).collect();
        self.status.waiting_nodes = (!list.is_empty()).then_some(list);
    }
}

/// As many as the limit needs; 20 where there is none, for a person to see.
fn keep_last(started: &mut Vec<Time>, settings: &Settings) {
    const SHOWN: usize = 20;
    let keep = (settings.attempts as usize).max(SHOWN);
    if started.len() > keep {
        started.drain(..started.len() - keep);
    }
}
