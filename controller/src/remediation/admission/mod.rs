//! What a `NodeHealthCheck` may say, and what of it may change while nodes are remediated: pure.
//!
//! The rules and their messages are those of the webhook of the operator that this replaces; people and tests know them.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{
    crd::{NodeHealthCheck, NodeHealthCheckSpec},
    decide::Selector,
};

/// A timeout of a step is at least a minute: two remediations that act at once on one node would harm it.
const MIN_TIMEOUT: SignedDuration = SignedDuration::from_mins(1);
/// The template that has a node's machine deleted.
const DELETION_TEMPLATE: &str = "MachineDeletionRemediationTemplate";
/// Topologies of the control plane of `OpenShift` in which a node can be remediated.
const TOPOLOGIES: [&str; 4] =
    ["HighlyAvailable", "SingleReplica", "HighlyAvailableArbiter", "External"];

/// What the rules ask about the cluster.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Kinds of templates of which several may be used for one node.
    pub multiple: BTreeSet<String>,
    /// `controlPlaneTopology` of `OpenShift`'s Infrastructure.
    pub topology: Option<String>,
}

/// The kinds of templates that a spec uses more than once; the cluster has to say whether that is allowed.
#[must_use]
pub fn repeated_kinds(spec: &NodeHealthCheckSpec) -> Vec<(String, String)> {
    let mut seen = BTreeSet::new();
    let mut repeated = Vec::new();
    for step in spec.escalating_remediations.iter().flatten() {
        let reference = &step.remediation_template;
        let of = (
            reference.api_version.clone().unwrap_or_default(),
            reference.kind.clone().unwrap_or_default(),
        );
        if !seen.insert(of.1.clone()) && !repeated.contains(&of) {
            repeated.push(of);
        }
    }
    repeated
}

/// Whether `new` may be written, in place of `old` where there is one. The error is the message for the user.
pub fn allow(
    new: &NodeHealthCheck,
    old: Option<&NodeHealthCheck>,
    cluster: &Cluster,
) -> Result<(), String> {
    let spec = &new.spec;
    let found: Vec<String> = [thresholds(spec), selector(spec), templates(spec)]
        .into_iter()
        .flatten()
        .chain(steps(spec, cluster))
        .chain(topology(cluster))
        .collect();
    if !found.is_empty() {
        return Err(aggregate(found));
    }
    let Some(old) = old.filter(|old| is_remediating(old)) else { return Ok(()) };
    let changed = |what: &str| Err(format!("{what} update prohibited due to running remediation"));
    if old.spec.selector != spec.selector {
        return changed("selector");
    }
    if old.spec.remediation_template != spec.remediation_template {
        return changed("remediation template");
    }
    if old.spec.escalating_remediations != spec.escalating_remediations {
        return changed("escalating remediations");
    }
    Ok(())
}

/// Whether `old` may be deleted.
pub fn allow_deletion(old: &NodeHealthCheck) -> Result<(), String> {
    if is_remediating(old) {
        return Err("deletion prohibited due to running remediation".to_owned());
    }
    Ok(())
}

/// Several messages as one; a message that is there twice is told once.
fn aggregate(found: Vec<String>) -> String {
    let mut messages: Vec<String> = Vec::new();
    for message in found {
        if !messages.contains(&message) {
            messages.push(message);
        }
    }
    match messages.as_slice() {
        [one] => one.clone(),
        _ => format!("[{}]", messages.join(", ")),
    }
}

fn is_remediating(check: &NodeHealthCheck) -> bool {
    let nodes = check.status.iter().flat_map(|status| status.unhealthy_nodes.iter().flatten());
    nodes.into_iter().any(|node| node.remediations.as_ref().is_some_and(|list| !list.is_empty()))
}

fn thresholds(spec: &NodeHealthCheckSpec) -> Option<String> {
    let text = match (&spec.min_healthy, &spec.max_unhealthy) {
        (Some(_), Some(_)) => "minHealthy and maxUnhealthy cannot be specified at the same time",
        (None, None) => "one of minHealthy and maxUnhealthy should be specified",
        (Some(IntOrString::Int(negative @ ..0)), None) => {
            return Some(format!("minHealthy must not be negative: {negative}"));
        }
        (None, Some(IntOrString::Int(negative @ ..0))) => {
            return Some(format!("maxUnhealthy must not be negative: {negative}"));
        }
        (Some(_), None) => return None,
        (None, Some(_)) => return deletions(spec).map(str::to_owned),
    };
    Some(text.to_owned())
}

/// A deleted machine takes its node along: the share of unhealthy nodes would never be reached.
fn deletions(spec: &NodeHealthCheckSpec) -> Option<&'static str> {
    let deletes = |kind: &Option<String>| {
        kind.as_ref().is_some_and(|kind| kind.eq_ignore_ascii_case(DELETION_TEMPLATE))
    };
    if spec.remediation_template.as_ref().is_some_and(|template| deletes(&template.kind)) {
        return Some("maxUnhealthy can't be used with MachineDeletionRemediationTemplate");
    }
    let mut steps = spec.escalating_remediations.iter().flatten();
    steps.any(|step| deletes(&step.remediation_template.kind)).then_some(
        "maxUnhealthy can't be used with MachineDeletionRemediationTemplate escalating remediation",
    )
}

fn selector(spec: &NodeHealthCheckSpec) -> Option<String> {
    let selects = spec.selector.as_ref().is_some_and(|selector| {
        selector.match_labels.as_ref().is_some_and(|labels| !labels.is_empty())
            || selector.match_expressions.as_ref().is_some_and(|list| !list.is_empty())
    });
    if !selects {
        return Some("Selector is mandatory".to_owned());
    }
    Selector::new(spec.selector.as_ref()).err().map(|why| format!("Invalid selector: {why}"))
}

fn templates(spec: &NodeHealthCheckSpec) -> Option<String> {
    let steps = spec.escalating_remediations.as_ref().is_some_and(|steps| !steps.is_empty());
    match (spec.remediation_template.is_some(), steps) {
        (false, false) => Some(
            "Either RemediationTemplate or at least one EscalatingRemediations must be set"
                .to_owned(),
        ),
        (true, true) => Some(
            "RemediationTemplate and EscalatingRemediations usage is mutual exclusive".to_owned(),
        ),
        _ => None,
    }
}

fn steps(spec: &NodeHealthCheckSpec, cluster: &Cluster) -> Vec<String> {
    let steps = || spec.escalating_remediations.iter().flatten();
    let mut orders = BTreeSet::new();
    let order = steps().find(|step| !orders.insert(step.order)).map(|step| {
        format!("EscalatingRemediation Order must be unique: found duplicate order {}", step.order)
    });
    let timeout = steps().map(|step| step.timeout.get()).find(|timeout| *timeout < MIN_TIMEOUT);
    let timeout = timeout.map(|timeout| {
        format!(
            "EscalatingRemediation Timeout must be at least one minute: found timeout {{{}}}",
            go_text(timeout)
        )
    });
    let kinds = repeated_kinds(spec).into_iter().find(|(_, kind)| !cluster.multiple.contains(kind));
    let kinds = kinds.map(|(_, kind)| {
        format!(
            "Using multiple templates of same kind is not supported for this template: duplicate template kind: {kind}"
        )
    });
    [order, timeout, kinds].into_iter().flatten().collect()
}

fn topology(cluster: &Cluster) -> Option<String> {
    let topology = cluster.topology.as_ref()?;
    (!TOPOLOGIES.contains(&topology.as_str()))
        .then(|| "Unsupported control plane topology".to_owned())
}

/// A duration below a minute as Go writes it.
fn go_text(duration: SignedDuration) -> String {
    let nanos = duration.as_nanos();
    let (unit, name) = match nanos {
        0 => return "0s".to_owned(),
        1..1_000 => (1, "ns"),
        1_000..1_000_000 => (1_000, "µs"),
        1_000_000..1_000_000_000 => (1_000_000, "ms"),
        _ => (1_000_000_000, "s"),
    };
    let (whole, rest) = (nanos / unit, nanos % unit);
    if rest == 0 {
        return format!("{whole}{name}");
    }
    let digits = unit.ilog10() as usize;
    let fraction = format!("{rest:0digits$}");
    format!("{whole}.{}{name}", fraction.trim_end_matches('0'))
}
