//! Decides what to do about a `NodeHealthCheck`: pure.
//!
//! [`decide`] takes the cluster as the watches show it, and the time, and gives writes, the next status and the next
//! deadline. Everything is derived from the cluster, so another process can go on where this one stopped, between any
//! two writes. Begin reading at [`decide`]; each other file is one concept.

pub mod action;
mod attempts;
mod budget;
mod control_plane;
mod draft;
mod finish;
mod health;
mod label;
mod lease;
mod neighbours;
mod progress;
mod reason;
mod recovery;
mod select;
pub mod silence;
mod storm;
mod templates;
#[cfg(test)]
mod tests;
mod threshold;

use jiff::Timestamp;

pub use action::{Action, Creation, Decision, Note, Recovery, Severity};
pub use health::hint;
pub use reason::Reason;
pub use select::Selector;

use super::{
    crd::NodeHealthCheck,
    settings::{self, Settings},
    world::{Node, World},
};
use action::Note as Event;
use draft::{Draft, Ill};
use health::Health;
use templates::Unusable;

/// What to do about `check` now, and when to ask again.
///
/// With `explain`, [`Decision::why`] has the chain of reasons for the node of that name.
#[must_use]
pub fn decide(
    world: &World,
    settings: &Settings,
    check: &NodeHealthCheck,
    now: Timestamp,
    explain: Option<&str>,
) -> Decision {
    let mut draft = Draft::new(world, settings, check, now, explain);
    let selection = match Selector::new(check.spec.selector.as_ref()) {
        Ok(selector) => Selection::new(&draft, &selector),
        // The webhook refuses such a selector; an old object may have one. It selects nothing.
        Err(why) => {
            draft.disable("InvalidSelector", &format!("Invalid selector: {why}"));
            return draft.finish();
        }
    };
    if draft.conflicts() {
        draft.disable(
            "ConflictingMachineHealthCheckDetected",
            "Custom MachineHealthCheck(s) detected, disabling NodeHealthCheck to avoid conflicts",
        );
        selection.all_wait(&mut draft, Reason::Disabled);
        return draft.finish();
    }
    match templates::steps(&check.spec, world) {
        Ok(steps) => draft.steps = steps,
        Err(Unusable::Unknown) => return draft.not_yet(),
        Err(Unusable::NotFound(why)) => {
            draft.disable("RemediationTemplateNotFound", &why);
            let retry = now.checked_add(settings::TEMPLATE_RETRY).unwrap_or(now);
            draft.wake_at(retry);
            selection.all_wait(&mut draft, Reason::Disabled);
            return draft.finish();
        }
        Err(Unusable::Invalid(why)) => {
            draft.disable("RemediationTemplateInvalid", &why);
            selection.all_wait(&mut draft, Reason::Disabled);
            return draft.finish();
        }
    }
    draft.enable();
    if draft.upgrading(&selection.unhealthy) {
        draft.wake_at(now.checked_add(settings::ASK_AGAIN).unwrap_or(now));
        selection.all_wait(&mut draft, Reason::ClusterUpgrade);
        return draft.finish();
    }
    if check.spec.pause_requests.as_ref().is_some_and(|requests| !requests.is_empty()) {
        if draft.before.phase.as_deref() != Some("Paused") {
            let message = "Postponing potential remediations because of pause requests";
            draft.notes.push(Event::normal("RemediationSkipped", message));
        }
        selection.all_wait(&mut draft, Reason::Paused);
        return draft.finish();
    }
    run(&mut draft, &selection);
    lease::sweep(&mut draft);
    draft.finish()
}

/// A moment in whole seconds, as the API has them.
#[must_use]
pub fn whole_seconds(at: Timestamp) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    draft::time(at)
}

/// The selected nodes, by how they are.
struct Selection<'a> {
    names: std::collections::BTreeSet<&'a str>,
    healthy: Vec<&'a Node>,
    soon: Vec<Ill<'a>>,
    /// The longest unhealthy first.
    unhealthy: Vec<Ill<'a>>,
}

impl<'a> Selection<'a> {
    fn new(draft: &Draft<'a>, selector: &Selector) -> Self {
        let conditions = match &draft.check.spec.unhealthy_conditions {
            Some(conditions) => conditions.clone(),
            None => health::default_conditions(),
        };
        // A machine that is being deleted has a condition of this type, of whatever status.
        let machines = draft.world.openshift.machine_api
            && !draft.world.openshift.machine_health_checks.is_empty();
        let mut selection =
            Self { names: [].into(), healthy: Vec::new(), soon: Vec::new(), unhealthy: Vec::new() };
        for node in draft.world.nodes.values().filter(|node| selector.matches(node)) {
            selection.names.insert(&node.name);
            let terminating = machines && node.condition("Terminating").is_some();
            match health::judge(node, &conditions, draft.now) {
                _ if terminating => selection.healthy.push(node),
                Health::Healthy => selection.healthy.push(node),
                Health::Soon(since, condition) => {
                    selection.soon.push(Ill { node, since, condition });
                }
                Health::Unhealthy(since, condition) => {
                    selection.unhealthy.push(Ill { node, since, condition });
                }
            }
        }
        selection.unhealthy.sort_by(|a, b| (a.since, &a.node.name).cmp(&(b.since, &b.node.name)));
        selection
    }

    /// Nothing is done, for a reason that is the same for all of them.
    fn all_wait(&self, draft: &mut Draft<'a>, reason: Reason) {
        self.not_yet_unhealthy_wait(draft);
        for ill in &self.unhealthy {
            let message = match reason {
                Reason::Disabled => {
                    draft.is_on("Disabled").map(|condition| condition.message.clone())
                }
                Reason::Paused => {
                    draft.check.spec.pause_requests.as_ref().map(|requests| requests.join(","))
                }
                _ => Some("the cluster is being upgraded".to_owned()),
            };
            draft.wait(ill, reason, message.unwrap_or_default(), None);
        }
    }

    fn not_yet_unhealthy_wait(&self, draft: &mut Draft<'a>) {
        for ill in &self.soon {
            let Ill { condition, .. } = ill;
            let message = format!(
                "condition {} is {}, not yet for long enough",
                condition.kind, condition.status
            );
            draft.wait(ill, Reason::DurationNotElapsed, message, Some(ill.since));
        }
    }
}

/// Everything, when nothing speaks against it as a whole.
fn run<'a>(draft: &mut Draft<'a>, selection: &Selection<'a>) {
    recovery::clean(draft, &|node| selection.names.contains(node));
    let mut healthy = 0;
    for node in &selection.healthy {
        healthy += i64::from(recovery::recover(draft, node));
    }
    let observed = i64::try_from(selection.names.len()).unwrap_or(i64::MAX);
    draft.status.observed_nodes = Some(observed);
    draft.status.healthy_nodes = Some(healthy);
    for ill in selection.soon.iter().chain(&selection.unhealthy) {
        recovery::restart_delay(draft, &ill.node.name);
    }
    for ill in &selection.soon {
        if draft.has_entry(&ill.node.name) || !draft.owned(&ill.node.name).is_empty() {
            draft.record(&ill.node.name);
            progress::keep_what_is_there(draft, &ill.node.name);
        }
    }
    selection.not_yet_unhealthy_wait(draft);

    let spec = &draft.check.spec;
    let needed =
        threshold::min_healthy(spec.min_healthy.as_ref(), spec.max_unhealthy.as_ref(), observed);
    let needed = match needed {
        Ok(needed) => needed,
        Err(why) => {
            for ill in &selection.unhealthy {
                progress::keep_what_is_there(draft, &ill.node.name);
                draft.wait(ill, Reason::InvalidThreshold, why.clone(), None);
            }
            return;
        }
    };
    for ill in &selection.unhealthy {
        draft.enter(ill);
    }
    let below = healthy < needed;
    let storm = storm::evaluate(draft, below, !selection.unhealthy.is_empty());
    for ill in &selection.unhealthy {
        draft.say(&ill.node.name, || {
            format!("{healthy} of {observed} selected nodes are healthy, {needed} have to be")
        });
        if below {
            progress::keep_what_is_there(draft, &ill.node.name);
            let message = format!(
                "Skipped remediation because the number of healthy nodes selected by the selector is {healthy} and should equal or exceed {needed}"
            );
            draft.wait(ill, Reason::BelowMinHealthy, message, None);
        } else if storm == storm::Storm::Active {
            progress::keep_what_is_there(draft, &ill.node.name);
            let message = "enough nodes are healthy again, and the cooldown after the storm runs";
            let until = draft.deadline_of_storm();
            draft.wait(ill, Reason::StormRecovery, message.to_owned(), until);
        } else {
            progress::progress(draft, ill);
        }
    }
}
