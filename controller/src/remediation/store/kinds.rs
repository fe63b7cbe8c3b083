//! Kinds of templates and remediation objects: which ones are watched, and what the API has for each template.

use std::collections::BTreeSet;

use super::{KindEntry, KindState, Store};
use crate::remediation::{
    crd::NodeHealthCheck,
    world::{Kind, TemplateKey, TemplateState},
};

impl Store {
    /// How things stand with a kind.
    #[must_use]
    pub fn kind(&self, kind: &Kind) -> Option<&KindState> {
        self.kinds.get(kind)?.state.as_ref()
    }

    /// The kinds that have to be watched: those of the templates that are named, of what they make, and of what was made
    /// from templates that are not named any more.
    #[must_use]
    pub fn wanted_kinds(&self) -> BTreeSet<Kind> {
        let templates = self.references();
        let named = templates.into_iter().filter_map(|key| Some([key.makes()?, key.kind]));
        let recorded = self.world.checks.values().flat_map(|check| recorded(check));
        let left = self.world.remediations.values().filter(|remediation| {
            let mut owners = remediation.owners.iter();
            owners.any(|owner| {
                self.world.checks.contains_key(&owner.name) && remediation.owned_by(&owner.name)
            })
        });
        let left = left.map(|remediation| remediation.key.kind.clone());
        named.flatten().chain(recorded).chain(left).collect()
    }

    /// Forgets a kind that is not watched any more.
    pub fn forget_kind(&mut self, kind: &Kind) {
        self.kinds.remove(kind);
        self.templates.retain(|key, _| key.kind != *kind);
        self.world.remediations.retain(|key, _| key.kind != *kind);
        self.find_templates();
    }

    /// A kind that will be watched from now on.
    pub fn expect_kind(&mut self, kind: &Kind) {
        self.kinds.entry(kind.clone()).or_default();
    }

    fn references(&self) -> BTreeSet<TemplateKey> {
        let specs = self.world.checks.values().map(|check| &check.spec);
        let references = specs.flat_map(|spec| {
            let steps = spec
                .escalating_remediations
                .iter()
                .flatten()
                .map(|step| &step.remediation_template);
            spec.remediation_template.iter().chain(steps)
        });
        references.map(TemplateKey::of).collect()
    }

    /// What the API has for every template that is named.
    pub(super) fn find_templates(&mut self) {
        let found = self.references().into_iter().filter_map(|key| {
            let state = self.template_state(&key)?;
            Some((key, state))
        });
        self.world.templates = found.collect();
    }

    /// `None`: that is not known yet.
    fn template_state(&self, key: &TemplateKey) -> Option<TemplateState> {
        let made = self.kinds.get(&key.makes()?)?;
        let entry = self.kinds.get(&key.kind)?;
        for entry in [entry, made] {
            match entry.state.as_ref()? {
                KindState::Missing(why) => return Some(TemplateState::NotFound(why.clone())),
                KindState::Refused(why) if !entry.list.synced => {
                    return Some(TemplateState::NotFound(why.clone()));
                }
                KindState::Served { .. } | KindState::Refused(_) => {}
            }
        }
        let scope = |entry: &KindEntry| match entry.state.as_ref() {
            Some(KindState::Served { namespaced, .. }) => *namespaced,
            _ => true,
        };
        let namespaced = scope(entry);
        let resource = match entry.state.as_ref()? {
            KindState::Served { resource, .. } => resource.as_str(),
            KindState::Missing(_) | KindState::Refused(_) => "",
        };
        if namespaced && key.namespace.is_empty() {
            return Some(TemplateState::NeedsNamespace);
        }
        if !entry.list.synced || !made.list.synced {
            return None;
        }
        let namespace = if namespaced { key.namespace.clone() } else { String::new() };
        // A reference to a template without a namespace may name one all the same: it means nothing.
        let found =
            self.templates.get(&TemplateKey { namespace: namespace.clone(), ..key.clone() });
        Some(match found {
            Some(_) if scope(made) && !namespaced => TemplateState::NoPlace,
            Some(template) => {
                let place = if scope(made) { namespace } else { String::new() };
                TemplateState::Found(template.clone(), place)
            }
            None => TemplateState::NotFound(format!("{resource} \"{}\" not found", key.name)),
        })
    }
}

/// Kinds of the remediation objects that a status has.
fn recorded(check: &NodeHealthCheck) -> impl Iterator<Item = Kind> + '_ {
    let nodes = check.status.iter().flat_map(|status| status.unhealthy_nodes.iter().flatten());
    nodes.flat_map(|node| node.remediations.iter().flatten()).filter_map(|record| {
        let (api_version, kind) = (&record.resource.api_version, &record.resource.kind);
        Some(Kind { api_version: api_version.clone()?, kind: kind.clone()? })
    })
}
