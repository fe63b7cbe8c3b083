//! The cluster in memory: what the watches and our own writes tell, put together. No I/O.
//!
//! Our own writes are seen at once, not when the watch tells of them; what the watch tells later of an older version
//! changes nothing.

mod answers;
mod kinds;
mod list;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease as ApiLease;
use kube::{ResourceExt, api::DynamicObject, runtime::watcher::Event};
use tracing::warn;

use self::list::{List, Teller};
use super::{
    crd::NodeHealthCheck,
    objects::{self, NodeObject, Texts},
    world::{Kind, RemediationKey, Template, TemplateKey, World},
};

/// What a watch, or the answer to a write, tells.
#[derive(Debug)]
pub enum Change {
    /// Of nodes.
    Node(Event<NodeObject>),
    /// Of `NodeHealthChecks`.
    Check(Event<DynamicObject>),
    /// Of leases of nodes.
    Lease(Event<ApiLease>),
    /// Of objects of a kind: templates or what they make.
    Object(Kind, Event<DynamicObject>),
    /// How things stand with a kind.
    Kind(Kind, KindState),
    /// Of `OpenShift`.
    OpenShift(OpenShiftChange),
}

/// How things stand with a kind of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KindState {
    /// The API does not serve it; with the API's words.
    Missing(String),
    /// It is served.
    Served {
        /// Its name in paths, with its group: `reboots.test.dev`.
        resource: String,
        /// Whether its objects are in namespaces.
        namespaced: bool,
    },
    /// Its objects cannot be listed; with the API's words.
    Refused(String),
}

/// What changed of `OpenShift`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenShiftChange {
    /// Whether its API groups are served.
    Present {
        /// `config.openshift.io`.
        config: bool,
        /// `machine.openshift.io`.
        machine: bool,
    },
    /// Condition types of each `MachineHealthCheck`.
    MachineHealthChecks(Vec<BTreeSet<String>>),
    /// Whether a `ClusterVersion` is progressing.
    Progressing(bool),
    /// `disruptionsAllowed` of each `PodDisruptionBudget` of etcd.
    EtcdBudgets(Vec<i32>),
    /// Nodes with a guard pod of etcd that is ready, or may be.
    EtcdGuarded(BTreeSet<String>),
}

/// The cluster in memory.
#[derive(Debug, Default)]
pub struct Store {
    /// What decisions are made from.
    pub world: World,
    texts: Texts,
    kinds: BTreeMap<Kind, KindEntry>,
    templates: BTreeMap<TemplateKey, Arc<Template>>,
    lists: Lists,
}

#[derive(Debug, Default)]
struct KindEntry {
    state: Option<KindState>,
    list: List<(String, String)>,
}

#[derive(Debug, Default)]
struct Lists {
    nodes: List<Arc<str>>,
    checks: List<String>,
    leases: List<String>,
    /// Whether `OpenShift` was asked for.
    openshift: bool,
}

impl Store {
    /// Whether the lists without which nothing can be decided are complete.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        let Lists { nodes, checks, leases, openshift } = &self.lists;
        nodes.synced && checks.synced && leases.synced && *openshift
    }

    /// Takes a change. True: decisions may come out differently.
    pub fn take(&mut self, change: Change, now: Timestamp) -> bool {
        match change {
            Change::Node(event) => self.node(event, now),
            Change::Check(event) => {
                let changed = self.check(event, now);
                self.find_templates();
                changed
            }
            Change::Lease(event) => self.lease(event, now),
            Change::Object(kind, event) => {
                let changed = self.object(&kind, event, now);
                self.find_templates();
                changed
            }
            Change::Kind(kind, state) => {
                if let KindState::Missing(_) = state {
                    // Its objects went with it, and no watch tells of that.
                    self.templates.retain(|key, _| key.kind != kind);
                    self.world.remediations.retain(|key, _| key.kind != kind);
                }
                let entry = self.kinds.entry(kind).or_default();
                entry.list.synced &= matches!(state, KindState::Served { .. });
                let changed = entry.state.as_ref() != Some(&state);
                entry.state = Some(state);
                self.find_templates();
                changed
            }
            Change::OpenShift(change) => self.openshift(change),
        }
    }

    fn openshift(&mut self, change: OpenShiftChange) -> bool {
        let openshift = &mut self.world.openshift;
        let before = openshift.clone();
        match change {
            OpenShiftChange::Present { config, machine } => {
                self.lists.openshift = true;
                (openshift.present, openshift.machine_api) = (config, machine);
            }
            OpenShiftChange::MachineHealthChecks(list) => openshift.machine_health_checks = list,
            OpenShiftChange::Progressing(progressing) => openshift.progressing = progressing,
            OpenShiftChange::EtcdBudgets(budgets) => openshift.etcd_budgets = budgets,
            OpenShiftChange::EtcdGuarded(nodes) => openshift.etcd_guarded = nodes,
        }
        *openshift != before
    }

    fn node(&mut self, event: Event<NodeObject>, now: Timestamp) -> bool {
        match event {
            Event::Init => {
                self.lists.nodes.begin();
                false
            }
            Event::InitApply(object) => self.put_node(object, Teller::List, now),
            Event::Apply(object) => self.put_node(object, Teller::Watch, now),
            Event::Delete(object) => self.world.nodes.remove(object.name_any().as_str()).is_some(),
            Event::InitDone => {
                let is_there = self.lists.nodes.end(now);
                self.world.nodes.retain(|name, _| is_there(name));
                true
            }
        }
    }

    fn put_node(&mut self, object: NodeObject, teller: Teller, now: Timestamp) -> bool {
        let name: Arc<str> = object.name_any().into();
        // Before a list nothing was heard: what is old in it is not for that reason silent.
        let before = self.world.nodes.get(&name);
        let heard = before.filter(|_| teller != Teller::List).map(Arc::as_ref);
        let node = objects::node(object, heard, &mut self.texts, now);
        let versions =
            (&*node.resource_version, before.map(|before| before.resource_version.as_str()));
        if !self.lists.nodes.hears(&name, teller, versions, now) {
            return false;
        }
        let changed = before.is_none_or(|before| objects::differs(before, &node));
        self.world.nodes.insert(name, Arc::new(node));
        changed
    }

    fn check(&mut self, event: Event<DynamicObject>, now: Timestamp) -> bool {
        match event {
            Event::Init => {
                self.lists.checks.begin();
                false
            }
            Event::InitApply(object) => self.read_check(object, Teller::List, now),
            Event::Apply(object) => self.read_check(object, Teller::Watch, now),
            Event::Delete(object) => self.world.checks.remove(&object.name_any()).is_some(),
            Event::InitDone => {
                let is_there = self.lists.checks.end(now);
                self.world.checks.retain(|name, _| is_there(name));
                true
            }
        }
    }

    fn read_check(&mut self, object: DynamicObject, teller: Teller, now: Timestamp) -> bool {
        let (name, version) = (object.name_any(), object.resource_version().unwrap_or_default());
        match objects::check(object) {
            Ok(check) => self.put_check(check, teller, now),
            Err(error) => {
                // What it said before still holds, and nobody is served by forgetting it.
                self.lists.checks.hears(&name, teller, (&version, None), now);
                let error = error.to_string();
                warn!(check = name, error, "a NodeHealthCheck cannot be read");
                false
            }
        }
    }

    fn put_check(&mut self, check: NodeHealthCheck, teller: Teller, now: Timestamp) -> bool {
        let version =
            |check: &NodeHealthCheck| check.metadata.resource_version.clone().unwrap_or_default();
        let name = check.name_any();
        let before = self.world.checks.get(&name);
        let before = before.filter(|before| before.metadata.uid == check.metadata.uid);
        let (new, known) = (version(&check), before.map(|before| version(before)));
        if !self.lists.checks.hears(&name, teller, (&new, known.as_deref()), now)
            || known.as_ref() == Some(&new)
        {
            return false;
        }
        self.world.checks.insert(name, Arc::new(check));
        true
    }

    fn lease(&mut self, event: Event<ApiLease>, now: Timestamp) -> bool {
        match event {
            Event::Init => {
                self.lists.leases.begin();
                false
            }
            Event::InitApply(object) => self.put_lease(object, Teller::List, now),
            Event::Apply(object) => self.put_lease(object, Teller::Watch, now),
            Event::Delete(object) => self.remove_lease(&object.name_any(), object.uid().as_deref()),
            Event::InitDone => {
                let is_there = self.lists.leases.end(now);
                self.world.leases.retain(|name, _| is_there(name));
                true
            }
        }
    }

    fn put_lease(&mut self, object: ApiLease, teller: Teller, now: Timestamp) -> bool {
        let lease = objects::lease(object);
        let before = self.world.leases.get(&lease.name);
        let versions = (
            &*lease.resource_version,
            before.filter(|before| before.uid == lease.uid).map(|it| it.resource_version.as_str()),
        );
        if !self.lists.leases.hears(&lease.name, teller, versions, now) {
            return false;
        }
        let changed = before != Some(&lease);
        self.world.leases.insert(lease.name.clone(), lease);
        changed
    }

    /// Removes a lease, unless it is another one of the same name.
    pub fn remove_lease(&mut self, name: &str, uid: Option<&str>) -> bool {
        let same =
            self.world.leases.get(name).is_some_and(|lease| uid.is_none_or(|uid| uid == lease.uid));
        same && self.world.leases.remove(name).is_some()
    }

    fn object(&mut self, kind: &Kind, event: Event<DynamicObject>, now: Timestamp) -> bool {
        let is_template = kind.kind.ends_with("Template");
        let Some(entry) = self.kinds.get_mut(kind) else { return false };
        let of =
            |object: &DynamicObject| (object.namespace().unwrap_or_default(), object.name_any());
        match event {
            Event::Init => {
                entry.list.begin();
                false
            }
            Event::InitApply(object) => self.put_object(kind, &object, Teller::List, now),
            Event::Apply(object) => self.put_object(kind, &object, Teller::Watch, now),
            Event::Delete(object) => {
                let (namespace, name) = of(&object);
                if is_template {
                    self.templates
                        .remove(&TemplateKey { kind: kind.clone(), namespace, name })
                        .is_some()
                } else {
                    let key = RemediationKey { kind: kind.clone(), namespace, name };
                    self.remove_remediation(&key, object.uid().as_deref())
                }
            }
            Event::InitDone => {
                let is_there = entry.list.end(now);
                let keep = |namespace: &String, name: &String| {
                    is_there(&(namespace.clone(), name.clone()))
                };
                self.templates
                    .retain(|key, _| key.kind != *kind || keep(&key.namespace, &key.name));
                self.world.remediations.retain(|key, remediation| {
                    // A write that is on its way may not be in the list yet.
                    key.kind != *kind
                        || keep(&key.namespace, &key.name)
                        || remediation.uid.is_empty()
                });
                true
            }
        }
    }

    fn put_object(
        &mut self,
        kind: &Kind,
        object: &DynamicObject,
        teller: Teller,
        now: Timestamp,
    ) -> bool {
        let Some(entry) = self.kinds.get_mut(kind) else { return false };
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let of = (namespace.clone(), name.clone());
        if kind.kind.ends_with("Template") {
            entry.list.hears(&of, teller, ("", None), now);
            let key = TemplateKey { kind: kind.clone(), namespace, name };
            let template = objects::template(object);
            if self.templates.get(&key).is_some_and(|before| **before == template) {
                return false;
            }
            self.templates.insert(key, Arc::new(template));
            return true;
        }
        let remediation = objects::remediation(object, kind);
        let before = self.world.remediations.get(&remediation.key);
        // One without a version is a write of ours that is on its way.
        let versions =
            (&*remediation.resource_version, before.map(|before| before.resource_version.as_str()));
        if !entry.list.hears(&of, teller, versions, now)
            || before.is_some_and(|before| **before == remediation)
        {
            return false;
        }
        self.world.remediations.insert(remediation.key.clone(), Arc::new(remediation));
        true
    }

    /// Removes a remediation object, unless it is another one of the same name.
    pub fn remove_remediation(&mut self, key: &RemediationKey, uid: Option<&str>) -> bool {
        let there = self.world.remediations.get(key);
        let same = there.is_some_and(|there| uid.is_none_or(|uid| uid == there.uid));
        same && self.world.remediations.remove(key).is_some()
    }
}
