//! The templates of a `NodeHealthCheck`, as the steps of an escalation.

use std::sync::Arc;

use jiff::SignedDuration;

use super::super::{
    crd::NodeHealthCheckSpec,
    settings,
    world::{Kind, Template, TemplateKey, TemplateState, World},
};

/// One template to try.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    /// Which template.
    pub(super) key: TemplateKey,
    /// What it makes.
    pub(super) makes: Kind,
    /// The namespace of what it makes; empty where its kind has none.
    pub(super) namespace: String,
    /// The template.
    pub(super) template: Arc<Template>,
    /// How long it may take; `None` without escalation.
    pub(super) timeout: Option<SignedDuration>,
}

impl Step {
    /// How long the step is reckoned to take.
    #[must_use]
    pub(super) fn length(&self) -> SignedDuration {
        self.timeout.unwrap_or(settings::DEFAULT_REMEDIATION)
    }
}

/// Why a `NodeHealthCheck` cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// A template has not been looked for yet.
    Unknown,
    /// There is none; `RemediationTemplateNotFound`.
    NotFound(String),
    /// It makes no object; `RemediationTemplateInvalid`.
    Invalid(String),
}

/// The only namespace in which metal3 acts on its template.
const METAL3_NAMESPACE: &str = "openshift-machine-api";

/// The steps, in their order, or what is wrong with the first template in the list's order that cannot be used.
pub(super) fn steps(spec: &NodeHealthCheckSpec, world: &World) -> Result<Vec<Step>, Unusable> {
    if let Some(reference) = &spec.remediation_template {
        return Ok(vec![step(TemplateKey::of(reference), None, world)?]);
    }
    let mut steps = Vec::new();
    for escalation in spec.escalating_remediations.iter().flatten() {
        let key = TemplateKey::of(&escalation.remediation_template);
        steps.push((escalation.order, step(key, Some(escalation.timeout.get()), world)?));
    }
    steps.sort_by_key(|(order, _)| *order);
    Ok(steps.into_iter().map(|(_, step)| step).collect())
}

fn step(
    key: TemplateKey,
    timeout: Option<SignedDuration>,
    world: &World,
) -> Result<Step, Unusable> {
    let not_found =
        |why: String| Unusable::NotFound(format!("Remediation template not found: \"{why}\""));
    let invalid =
        |why: String| Unusable::Invalid(format!("Remediation template is invalid: \"{why}\""));
    let Some(makes) = key.makes() else {
        return Err(invalid(format!(
            "kind {:?} of template {} does not end in Template",
            key.kind.kind, key.name
        )));
    };
    let place =
        if key.namespace.is_empty() { String::new() } else { format!("{}/", key.namespace) };
    let (template, namespace) = match world.templates.get(&key) {
        None => return Err(Unusable::Unknown),
        Some(TemplateState::NotFound(why)) => {
            return Err(not_found(format!(
                "failed to get external remediation template {place}{}: {why}",
                key.name
            )));
        }
        Some(TemplateState::NeedsNamespace) => {
            return Err(not_found(format!(
                "remediation template \"{}\" not found, it is namespaced, but no namespace is provided",
                key.name
            )));
        }
        Some(TemplateState::NoPlace) => {
            return Err(invalid(format!(
                "{} objects are in namespaces, and template {} is in none",
                makes.kind, key.name
            )));
        }
        Some(TemplateState::Found(template, namespace)) => (template.clone(), namespace.clone()),
    };
    if template.spec.is_none() {
        return Err(invalid(format!(
            "invalid template {place}{}, didn't find spec.template.spec",
            key.name
        )));
    }
    if key.kind.kind == "Metal3RemediationTemplate" && key.namespace != METAL3_NAMESPACE {
        return Err(invalid(format!(
            "Metal3RemediationTemplate must be in the {METAL3_NAMESPACE} namespace. It is configured to be in namespace: {}",
            key.namespace
        )));
    }
    Ok(Step { key, makes, namespace, template, timeout })
}
