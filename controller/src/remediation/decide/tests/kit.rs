//! A cluster in memory: it takes the writes as an API server would, conditions included.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::super::{
    super::{
        crd::{NodeHealthCheck, NodeHealthCheckStatus, parse_duration},
        names,
        settings::Settings,
        world::{
            Condition, Kind, Lease, Node, Owner, Remediation, RemediationKey, Taint, Template,
            TemplateKey, TemplateState, World,
        },
    },
    Action, Creation, Decision, Note, decide,
};

pub(crate) const START: i64 = 1_800_000_000;
pub(crate) const CHECK: &str = "nhc";

pub(crate) fn kind(kind: &str) -> Kind {
    Kind { api_version: "test.dev/v1".to_owned(), kind: kind.to_owned() }
}

pub(crate) fn duration(text: &str) -> SignedDuration {
    parse_duration(text).unwrap()
}

#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) world: World,
    pub(crate) settings: Settings,
    pub(crate) now: Timestamp,
    /// Objects that a remediator keeps by its finalizer when they are deleted.
    pub(crate) finalizers: BTreeSet<RemediationKey>,
    /// Whether remediators put a finalizer on every object.
    pub(crate) with_finalizers: bool,
    pub(crate) notes: Vec<Note>,
    /// Every write that was taken, in words.
    pub(crate) writes: Vec<String>,
    /// Asked before every write; whatever must never happen panics here.
    pub(crate) guard: Option<fn(&Cluster, &str, &Action)>,
    /// Writes that the process makes before it dies; `None`: it lives.
    pub(crate) life: Option<usize>,
    version: u64,
}

impl Cluster {
    /// A cluster of healthy workers `n0`, `n1`..., a template of kind `RebootTemplate`, and a check of all workers.
    pub(crate) fn new(workers: usize) -> Self {
        let mut cluster = Self {
            world: World { lease_namespace: true, ..World::default() },
            settings: Settings::default(),
            now: Timestamp::from_second(START).unwrap(),
            finalizers: BTreeSet::new(),
            with_finalizers: false,
            notes: Vec::new(),
            writes: Vec::new(),
            guard: None,
            life: None,
            version: 1,
        };
        for index in 0..workers {
            cluster.node(&format!("n{index}"), &[("role", "worker")]);
        }
        cluster.template("RebootTemplate", "reboot", false);
        cluster.check(CHECK, &json!({}));
        cluster
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    pub(crate) fn advance(&mut self, by: &str) {
        self.now = self.now.checked_add(duration(by)).unwrap();
    }

    pub(crate) fn node(&mut self, name: &str, labels: &[(&str, &str)]) {
        let mut labels: Vec<(Arc<str>, Arc<str>)> =
            labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        labels.sort();
        let node = Node {
            name: name.into(),
            uid: format!("uid-{name}"),
            resource_version: self.next_version(),
            labels: labels.into(),
            ..Node::default()
        };
        self.world.nodes.insert(name.into(), Arc::new(node));
        self.condition(name, "Ready", "True");
    }

    pub(crate) fn change(&mut self, node: &str, change: impl FnOnce(&mut Node)) {
        let version = self.next_version();
        let node = Arc::make_mut(self.world.nodes.get_mut(node).unwrap());
        node.resource_version = version;
        change(node);
    }

    pub(crate) fn label(&mut self, node: &str, key: &str, value: &str) {
        self.change(node, |node| {
            let mut labels: Vec<_> =
                node.labels.iter().filter(|(k, _)| **k != *key).cloned().collect();
            labels.push((key.into(), value.into()));
            node.labels = labels.into();
        });
    }

    pub(crate) fn unlabel(&mut self, node: &str, key: &str) {
        self.change(node, |node| {
            node.labels = node.labels.iter().filter(|(k, _)| **k != *key).cloned().collect();
        });
    }

    pub(crate) fn annotate(&mut self, node: &str, key: &str, value: &str) {
        self.change(node, |node| {
            let mut all = node.annotations.to_vec();
            all.push((key.into(), value.into()));
            node.annotations = all.into();
        });
    }

    pub(crate) fn taint(&mut self, node: &str, key: &str) {
        self.change(node, |node| {
            node.taints = [Taint { key: key.into(), effect: "NoSchedule".into() }].into();
        });
    }

    pub(crate) fn condition(&mut self, node: &str, kind: &str, status: &str) {
        let now = self.now;
        self.change(node, |node| {
            let mut all: Vec<_> =
                node.conditions.iter().filter(|c| *c.kind != *kind).cloned().collect();
            let before = node.condition(kind).filter(|c| *c.status == *status);
            all.push(Condition {
                kind: kind.into(),
                status: status.into(),
                reason: "Reason".into(),
                message: "".into(),
                since: before.map_or(Some(now), |c| c.since),
                heartbeat: Some(now),
                heard: now,
            });
            node.conditions = all.into();
        });
    }

    /// The node fails, and has failed for long enough.
    pub(crate) fn fail(&mut self, node: &str) {
        self.condition(node, "Ready", "False");
        let long_ago = self.now.checked_sub(duration("301s")).unwrap();
        self.change(node, |node| {
            for condition in &mut node.conditions {
                if *condition.kind == *"Ready" {
                    condition.since = Some(long_ago);
                }
            }
        });
    }

    pub(crate) fn heal(&mut self, node: &str) {
        self.condition(node, "Ready", "True");
    }

    pub(crate) fn reference(kind: &str, name: &str) -> Value {
        json!({ "apiVersion": "test.dev/v1", "kind": kind, "namespace": "rem", "name": name })
    }

    pub(crate) fn template_key(kind_name: &str, name: &str) -> TemplateKey {
        TemplateKey { kind: kind(kind_name), namespace: "rem".to_owned(), name: name.to_owned() }
    }

    pub(crate) fn template(&mut self, kind: &str, name: &str, multiple: bool) {
        let template = Template { spec: Some(json!({ "how": name })), multiple };
        let key = Self::template_key(kind, name);
        self.world
            .templates
            .insert(key, TemplateState::Found(Arc::new(template), "rem".to_owned()));
    }

    /// A check of all workers with these fields of its spec; `null` removes a default.
    pub(crate) fn check(&mut self, name: &str, fields: &Value) {
        let mut spec = json!({
            "selector": { "matchLabels": { "role": "worker" } },
            "minHealthy": 0,
            "remediationTemplate": Self::reference("RebootTemplate", "reboot"),
        });
        if fields.get("escalatingRemediations").is_some() {
            spec["remediationTemplate"] = Value::Null;
        }
        for (key, value) in fields.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let before = self.world.checks.get(name).and_then(|check| check.status.clone());
        let mut check: NodeHealthCheck = serde_json::from_value(json!({
            "apiVersion": names::API_VERSION,
            "kind": names::KIND,
            "metadata": { "name": name, "uid": format!("uid-{name}") },
            "spec": spec,
        }))
        .unwrap();
        check.status = before;
        self.world.checks.insert(name.to_owned(), Arc::new(check));
    }

    pub(crate) fn annotate_check(&mut self, name: &str, key: &str, value: &str) {
        let check = Arc::make_mut(self.world.checks.get_mut(name).unwrap());
        check.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
    }

    pub(crate) fn status(&self) -> NodeHealthCheckStatus {
        self.status_of(CHECK)
    }

    pub(crate) fn status_of(&self, name: &str) -> NodeHealthCheckStatus {
        self.world.checks[name].status.clone().unwrap_or_default()
    }

    pub(crate) fn decide(&self, name: &str) -> Decision {
        decide(&self.world, &self.settings, &self.world.checks[name], self.now, None)
    }

    pub(crate) fn set_status(&mut self, name: &str, status: &NodeHealthCheckStatus) {
        // What went through the API: whole seconds.
        let status = serde_json::from_value(serde_json::to_value(status).unwrap()).unwrap();
        Arc::make_mut(self.world.checks.get_mut(name).unwrap()).status = Some(status);
    }

    /// Decides and writes until nothing is left to do.
    pub(crate) fn settle(&mut self) -> Decision {
        self.settle_check(CHECK)
    }

    pub(crate) fn settle_check(&mut self, name: &str) -> Decision {
        for _ in 0..50 {
            let decision = self.decide(name);
            for action in &decision.actions {
                if !self.lives() {
                    return decision;
                }
                self.take(name, action).unwrap();
            }
            if !decision.actions.is_empty() {
                continue;
            }
            if decision.status == self.status_of(name) || !self.lives() {
                return decision;
            }
            self.notes.extend(decision.notes.iter().cloned());
            self.set_status(name, &decision.status);
        }
        panic!("never settles: {:#?}", self.decide(name));
    }

    /// Whether the process has another write to make in its life.
    fn lives(&mut self) -> bool {
        match &mut self.life {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    /// Moves the time to the next deadline and settles, until `by` is over.
    pub(crate) fn run(&mut self, by: &str) {
        let end = self.now.checked_add(duration(by)).unwrap();
        loop {
            let wakes: Vec<_> = self.world.checks.keys().cloned().collect::<Vec<_>>();
            let wake = wakes.iter().filter_map(|name| self.settle_check(name).wake).min();
            match wake {
                Some(wake) if wake <= end => {
                    assert!(wake > self.now, "wakes up in the past: {wake} at {}", self.now);
                    self.now = wake;
                }
                _ => break,
            }
        }
        self.now = end;
        self.settle();
    }

    pub(crate) fn remediations(&self) -> Vec<String> {
        self.world
            .remediations
            .keys()
            .map(|key| format!("{}/{}", key.kind.kind, key.name))
            .collect()
    }

    pub(crate) fn remediation(&self, kind_name: &str, name: &str) -> &Remediation {
        &self.world.remediations[&self.key(kind_name, name)]
    }

    pub(crate) fn key(&self, kind_name: &str, name: &str) -> RemediationKey {
        let key = RemediationKey {
            kind: kind(kind_name),
            namespace: "rem".to_owned(),
            name: name.to_owned(),
        };
        assert!(self.world.remediations.contains_key(&key), "{:?}", self.remediations());
        key
    }

    pub(crate) fn change_remediation(
        &mut self,
        kind_name: &str,
        name: &str,
        change: impl FnOnce(&mut Remediation),
    ) {
        let (key, version) = (self.key(kind_name, name), self.next_version());
        let remediation = Arc::make_mut(self.world.remediations.get_mut(&key).unwrap());
        remediation.resource_version = version;
        change(remediation);
    }

    pub(crate) fn succeeded(&mut self, kind_name: &str, name: &str, status: &str) {
        self.change_remediation(kind_name, name, |it| it.succeeded = Some(status.to_owned()));
    }

    /// A remediation object that somebody else made.
    pub(crate) fn foreign(&mut self, kind_name: &str, name: &str, owner: Option<&str>) {
        let key = RemediationKey {
            kind: kind(kind_name),
            namespace: "rem".to_owned(),
            name: name.to_owned(),
        };
        let owners = owner.map(|name| Owner {
            api_version: names::API_VERSION.to_owned(),
            kind: names::KIND.to_owned(),
            name: name.to_owned(),
        });
        let remediation = Remediation {
            key: key.clone(),
            uid: format!("uid-foreign-{name}"),
            resource_version: self.next_version(),
            created: self.now,
            owners: owners.into_iter().collect(),
            ..Remediation::default()
        };
        self.world.remediations.insert(key, Arc::new(remediation));
    }

    pub(crate) fn lease(&mut self, node: &str, holder: &str, renewed: Timestamp, seconds: i64) {
        let lease = Lease {
            name: names::lease(node),
            uid: format!("uid-lease-{node}"),
            resource_version: self.next_version(),
            holder: holder.to_owned(),
            duration: SignedDuration::from_secs(seconds),
            acquired: Some(renewed),
            renewed: Some(renewed),
            transitions: 3,
        };
        self.world.leases.insert(lease.name.clone(), lease);
    }

    /// Takes a write as the API server would.
    pub(crate) fn take(&mut self, check: &str, action: &Action) -> Result<(), String> {
        if let Some(guard) = self.guard {
            guard(self, check, action);
        }
        let version = self.next_version();
        let now = self.now;
        let conflict = |seen: &str, is: &str| {
            if seen == is { Ok(()) } else { Err(format!("conflict: {seen} is {is}")) }
        };
        match action {
            Action::MakeLeaseNamespace => self.world.lease_namespace = true,
            Action::AcquireLease { node, duration, previous, .. } => {
                let name = names::lease(node);
                let there = self.world.leases.get(&name);
                let transitions = match (previous, there) {
                    (None, None) => 0,
                    (Some((seen, transitions)), Some(lease)) => {
                        conflict(seen, &lease.resource_version)?;
                        transitions + 1
                    }
                    _ => return Err("conflict: lease".to_owned()),
                };
                assert!(self.world.lease_namespace);
                let lease = Lease {
                    name: name.clone(),
                    uid: format!("uid-{version}"),
                    resource_version: version,
                    holder: names::holder(check),
                    duration: *duration,
                    acquired: Some(now),
                    renewed: Some(now),
                    transitions,
                };
                self.world.leases.insert(name, lease);
            }
            Action::RenewLease { node, resource_version, duration } => {
                let lease = self.world.leases.get_mut(&names::lease(node)).ok_or("no lease")?;
                conflict(resource_version, &lease.resource_version)?;
                (lease.renewed, lease.duration, lease.resource_version) =
                    (Some(now), *duration, version);
            }
            Action::ReleaseLease { node, resource_version, .. } => {
                let lease = self.world.leases.get(&names::lease(node)).ok_or("no lease")?;
                conflict(resource_version, &lease.resource_version)?;
                self.world.leases.remove(&names::lease(node));
            }
            Action::Create(creation) => self.make(creation, version)?,
            Action::Annotate { key, resource_version, annotation, value, .. } => {
                let there = self.world.remediations.get_mut(key).ok_or("no object")?;
                conflict(resource_version, &there.resource_version)?;
                let remediation = Arc::make_mut(there);
                remediation.resource_version = version;
                match *annotation {
                    names::TIMED_OUT => remediation.timed_out.clone_from(value),
                    names::HEALTHY_DELAY => remediation.healthy_delay.clone_from(value),
                    names::OLD_FLAG => remediation.old_flag = value.is_some(),
                    other => panic!("{other}"),
                }
            }
            Action::Delete { key, resource_version, .. } => {
                let there = self.world.remediations.get_mut(key).ok_or("no object")?;
                conflict(resource_version, &there.resource_version)?;
                if self.finalizers.contains(key) {
                    let remediation = Arc::make_mut(there);
                    (remediation.deleting, remediation.resource_version) = (true, version);
                } else {
                    self.world.remediations.remove(key);
                }
            }
            Action::RemoveConfirmation { node, resource_version } => {
                let node = self.world.nodes.get_mut(node.as_str()).ok_or("no node")?;
                conflict(resource_version, &node.resource_version)?;
                let node = Arc::make_mut(node);
                node.resource_version = version;
                let rest =
                    node.annotations.iter().filter(|(key, _)| **key != *names::CONFIRMED_HEALTHY);
                node.annotations = rest.cloned().collect();
            }
        }
        self.writes.push(word(action));
        Ok(())
    }

    fn make(&mut self, creation: &Creation, version: String) -> Result<(), String> {
        let object = &creation.object;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let owners = object["metadata"]["ownerReferences"].as_array().unwrap();
        if self.world.remediations.contains_key(&creation.key) {
            return Err("already exists".to_owned());
        }
        if self.with_finalizers {
            self.finalizers.insert(creation.key.clone());
        }
        let remediation = Remediation {
            key: creation.key.clone(),
            uid: format!("uid-{version}"),
            resource_version: version,
            // The API has whole seconds.
            created: Timestamp::from_second(self.now.as_second()).unwrap(),
            owners: owners
                .iter()
                .map(|owner| Owner {
                    api_version: text(&owner["apiVersion"]).unwrap(),
                    kind: text(&owner["kind"]).unwrap(),
                    name: text(&owner["name"]).unwrap(),
                })
                .collect(),
            control_plane: !object["metadata"]["labels"][names::CONTROL_PLANE_LABEL].is_null(),
            node_annotation: text(&object["metadata"]["annotations"][names::NODE_NAME]),
            template_annotation: text(&object["metadata"]["annotations"][names::TEMPLATE_NAME]),
            ..Remediation::default()
        };
        self.world.remediations.insert(creation.key.clone(), Arc::new(remediation));
        Ok(())
    }

    /// The remediator is done with an object that is being deleted.
    pub(crate) fn finalize(&mut self) {
        let gone: Vec<_> = self
            .world
            .remediations
            .iter()
            .filter(|(_, remediation)| remediation.deleting)
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.finalizers.remove(&key);
            self.world.remediations.remove(&key);
        }
    }

    /// Reason and message of every event so far; then forgets them.
    pub(crate) fn events(&mut self) -> Vec<String> {
        self.notes
            .drain(..)
            .map(|note| format!("{:?} {}: {}", note.severity, note.reason, note.message))
            .collect()
    }

    /// `node Reason` of every node that waits.
    pub(crate) fn waiting(&self) -> Vec<String> {
        let waiting = self.status().waiting_nodes.unwrap_or_default();
        waiting.iter().map(|node| format!("{} {}", node.name, node.reason)).collect()
    }
}

fn word(action: &Action) -> String {
    match action {
        Action::MakeLeaseNamespace => "namespace".to_owned(),
        Action::AcquireLease { node, .. } => format!("acquire {node}"),
        Action::RenewLease { node, .. } => format!("renew {node}"),
        Action::ReleaseLease { node, .. } => format!("release {node}"),
        Action::Create(creation) => {
            format!("create {}/{}", creation.key.kind.kind, creation.key.name)
        }
        Action::Annotate { key, annotation, value, .. } => {
            let sign = if value.is_some() { "" } else { "-" };
            format!("annotate {}/{} {sign}{annotation}", key.kind.kind, key.name)
        }
        Action::Delete { key, .. } => format!("delete {}/{}", key.kind.kind, key.name),
        Action::RemoveConfirmation { node, .. } => format!("unconfirm {node}"),
    }
}
