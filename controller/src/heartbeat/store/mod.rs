//! The cluster as it is kept in memory: who belongs to whom. Synchronous, without I/O.
//!
//! One writer (the reflectors' task) calls [`Store::apply_workload`] and its likes; answers read. A first list is
//! collected aside and takes the place of what was there as a whole, so that no answer ever sees half a list.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use super::model::{Kind, Pod, Uid, Workload};

/// The objects of one kind, while they are listed.
#[derive(Debug)]
pub enum Listed {
    /// Workloads of one kind.
    Workloads(Kind, Vec<Workload>),
    /// Pairs of a `ReplicaSet` and its Deployment.
    ReplicaSets(Vec<(Uid, Uid)>),
    /// Pods.
    Pods(Vec<(Uid, Pod)>),
}

/// All workloads and their pods.
#[derive(Debug, Default)]
pub struct Store {
    /// By namespace, then by kind and name.
    workloads: HashMap<Box<str>, Names>,
    /// Each `ReplicaSet`'s Deployment.
    deployment_of: HashMap<Uid, Uid>,
    /// Each Deployment's `ReplicaSet`s.
    replica_sets: HashMap<Uid, HashSet<Uid>>,
    pods: HashMap<Uid, Pod>,
    /// The pods of each `ReplicaSet`, `StatefulSet` and `DaemonSet`.
    pods_of: HashMap<Uid, HashSet<Uid>>,
}

/// The workloads of a namespace.
type Names = BTreeMap<(Kind, Box<str>), Kept>;

/// A workload, and what this process has seen of it.
#[derive(Debug)]
struct Kept {
    workload: Workload,
    /// Since when its status has been about an older spec.
    behind_since: Option<Instant>,
}

/// A workload with its pods.
#[derive(Debug)]
pub struct Found<'a> {
    /// The workload.
    pub workload: &'a Workload,
    /// Its own pods, with their uids.
    pub pods: Vec<(Uid, &'a Pod)>,
    /// How long its status has been about an older spec.
    pub behind_for: Duration,
}

impl Store {
    /// The workload of that name, with its pods.
    #[must_use]
    pub fn find(&self, namespace: &str, kind: Kind, name: &str, now: Instant) -> Option<Found<'_>> {
        let kept = self.workloads.get(namespace)?.get(&(kind, name.into()))?;
        Some(self.found(kept, now))
    }

    /// The workloads of a namespace by kind and name.
    pub fn of_namespace(&self, namespace: &str, now: Instant) -> impl Iterator<Item = Found<'_>> {
        self.workloads
            .get(namespace)
            .into_iter()
            .flat_map(BTreeMap::values)
            .map(move |kept| self.found(kept, now))
    }

    /// The namespaces that have workloads, sorted.
    #[must_use]
    pub fn namespaces(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.workloads.keys().map(|name| &**name).collect();
        names.sort_unstable();
        names
    }

    /// Numbers of workloads and pods that are kept.
    #[must_use]
    pub fn len(&self) -> (usize, usize) {
        (self.workloads.values().map(BTreeMap::len).sum(), self.pods.len())
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == (0, 0)
    }

    fn found<'a>(&'a self, kept: &'a Kept, now: Instant) -> Found<'a> {
        let uid = kept.workload.uid;
        let of = |owner: &Uid| self.pods_of.get(owner).into_iter().flatten();
        let direct = of(&uid);
        let through = self.replica_sets.get(&uid).into_iter().flatten().flat_map(of);
        let mut pods: Vec<(Uid, &Pod)> =
            direct.chain(through).filter_map(|uid| Some((*uid, self.pods.get(uid)?))).collect();
        // The order of a set is another one in each process.
        pods.sort_unstable_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        let behind_for =
            kept.behind_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        Found { workload: &kept.workload, pods, behind_for }
    }

    /// A workload is there, or is another one now.
    pub fn apply_workload(&mut self, workload: Workload, now: Instant) {
        let names = self.workloads.entry(workload.namespace.clone()).or_default();
        let key = (workload.kind(), workload.name.clone());
        let before = names.get(&key).filter(|kept| kept.workload.uid == workload.uid);
        let before = before.and_then(|kept| kept.behind_since);
        let behind_since = workload.is_status_behind().then(|| before.unwrap_or(now));
        names.insert(key, Kept { workload, behind_since });
    }

    /// A workload is gone.
    pub fn delete_workload(&mut self, workload: &Workload) {
        let Some(names) = self.workloads.get_mut(&workload.namespace) else { return };
        names.remove(&(workload.kind(), workload.name.clone()));
        if names.is_empty() {
            self.workloads.remove(&workload.namespace);
        }
    }

    /// A `ReplicaSet` is there; one without a Deployment is as good as none.
    pub fn apply_replica_set(&mut self, uid: Uid, deployment: Uid) {
        self.delete_replica_set(uid);
        self.deployment_of.insert(uid, deployment);
        self.replica_sets.entry(deployment).or_default().insert(uid);
    }

    /// A `ReplicaSet` is gone.
    pub fn delete_replica_set(&mut self, uid: Uid) {
        if let Some(deployment) = self.deployment_of.remove(&uid) {
            remove(&mut self.replica_sets, deployment, uid);
        }
    }

    /// A pod is there, or is another one now; `None` for one without a controller.
    pub fn apply_pod(&mut self, uid: Uid, pod: Option<Pod>) {
        let owner = pod.as_ref().map(|pod| pod.owner);
        let before = match pod {
            Some(pod) => self.pods.insert(uid, pod),
            None => self.pods.remove(&uid),
        };
        let before = before.map(|pod| pod.owner);
        if before == owner {
            return;
        }
        if let Some(before) = before {
            remove(&mut self.pods_of, before, uid);
        }
        if let Some(owner) = owner {
            self.pods_of.entry(owner).or_default().insert(uid);
        }
    }

    /// A pod is gone.
    pub fn delete_pod(&mut self, uid: Uid) {
        self.apply_pod(uid, None);
    }

    /// Puts a whole list in the place of what was there of its kind.
    pub fn replace(&mut self, listed: Listed, now: Instant) {
        match listed {
            Listed::Workloads(kind, workloads) => {
                let listed: HashSet<(Box<str>, Box<str>)> =
                    workloads.iter().map(|w| (w.namespace.clone(), w.name.clone())).collect();
                for (namespace, names) in &mut self.workloads {
                    names.retain(|(of, name), _| {
                        *of != kind || listed.contains(&(namespace.clone(), name.clone()))
                    });
                }
                self.workloads.retain(|_, names| !names.is_empty());
                for workload in workloads {
                    self.apply_workload(workload, now);
                }
            }
            Listed::ReplicaSets(pairs) => {
                self.deployment_of.clear();
                self.replica_sets.clear();
                for (uid, deployment) in pairs {
                    self.apply_replica_set(uid, deployment);
                }
            }
            Listed::Pods(pods) => {
                self.pods.clear();
                self.pods_of.clear();
                for (uid, pod) in pods {
                    self.apply_pod(uid, Some(pod));
                }
                self.pods.shrink_to_fit();
            }
        }
    }
}

/// Takes one member out of a set, and the set out of the map when it is empty.
fn remove(sets: &mut HashMap<Uid, HashSet<Uid>>, key: Uid, member: Uid) {
    if let Some(set) = sets.get_mut(&key) {
        set.remove(&member);
        if set.is_empty() {
            sets.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests;
