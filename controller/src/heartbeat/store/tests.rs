//! Whatever the order of events, the store says what a fresh list would say.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::heartbeat::model::{Amount, Details, PodState};

/// Few enough names that events meet.
const NAMES: u8 = 3;

#[derive(Clone, Debug)]
enum Change {
    Workload {
        name: u8,
        kind: u8,
        uid: u8,
        generation: i64,
    },
    NoWorkload {
        name: u8,
        kind: u8,
    },
    ReplicaSet {
        uid: u8,
        deployment: u8,
    },
    NoReplicaSet {
        uid: u8,
    },
    Pod {
        uid: u8,
        owner: u8,
        state: u8,
    },
    NoPod {
        uid: u8,
    },
    /// The watch is lost: everything is listed again.
    Relist,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        (0..NAMES, 0..3_u8, 0..4_u8, 1..3_i64).prop_map(|(name, kind, uid, generation)| {
            Change::Workload { name, kind, uid, generation }
        }),
        (0..NAMES, 0..3_u8).prop_map(|(name, kind)| Change::NoWorkload { name, kind }),
        (0..6_u8, 0..4_u8).prop_map(|(uid, deployment)| Change::ReplicaSet { uid, deployment }),
        (0..6_u8).prop_map(|uid| Change::NoReplicaSet { uid }),
        (0..8_u8, 0..10_u8, 0..5_u8).prop_map(|(uid, owner, state)| Change::Pod {
            uid,
            owner,
            state
        }),
        (0..8_u8).prop_map(|uid| Change::NoPod { uid }),
        Just(Change::Relist),
    ];
    proptest::collection::vec(change, 0..60)
}

fn uid(kind: &str, number: u8) -> Uid {
    Uid::from(&*format!("{kind}-{number}"))
}

fn workload(name: u8, kind: u8, number: u8, generation: i64) -> Workload {
    let details = match kind {
        0 => Details::Deployment { rolling: None, available: None, progressing: None },
        1 => Details::StatefulSet {
            max_unavailable: None,
            partition: 0,
            first_ordinal: 0,
            update_revision: "".into(),
        },
        _ => Details::DaemonSet { max_unavailable: Some(Amount::Count(1)) },
    };
    Workload {
        namespace: format!("ns{}", name % 2).into(),
        name: format!("w{name}").into(),
        uid: uid("workload", number * 3 + kind),
        labels: Box::default(),
        created: None,
        is_being_deleted: false,
        generation,
        observed_generation: 1,
        desired: 1,
        details,
    }
}

/// A pod of a `ReplicaSet` (0 to 5), of a workload (6 to 9, which the sets among them own directly) or of none.
fn pod(number: u8, owner: u8, state: u8) -> Option<Pod> {
    let state = match state {
        0 => PodState::Ready,
        1 => PodState::NotReady,
        2 => PodState::Terminating,
        3 => PodState::Finished,
        _ => return None,
    };
    let owner = if owner < 6 { uid("rs", owner) } else { uid("workload", (owner - 6) * 3 + 1) };
    Some(Pod {
        name: format!("p{number}").into(),
        owner,
        state,
        since: None,
        reason: None,
        revision: None,
    })
}

/// What the API server has.
#[derive(Default)]
struct Cluster {
    workloads: BTreeMap<(u8, u8), Workload>,
    replica_sets: BTreeMap<u8, (Uid, Uid)>,
    pods: BTreeMap<u8, (Uid, Option<Pod>)>,
}

impl Cluster {
    fn list(&self, store: &mut Store, now: Instant) {
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            let of = self.workloads.iter().filter(|((_, of), _)| usize::from(*of) == number);
            store.replace(Listed::Workloads(kind, of.map(|(_, w)| w.clone()).collect()), now);
        }
        store.replace(Listed::ReplicaSets(self.replica_sets.values().copied().collect()), now);
        let pods = self.pods.values().filter_map(|(uid, pod)| Some((*uid, pod.clone()?)));
        store.replace(Listed::Pods(pods.collect()), now);
    }
}

fn everything(store: &Store, now: Instant) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for namespace in store.namespaces() {
        for found in store.of_namespace(namespace, now) {
            all.push(format!("{:?} {:?}", found.workload, found.pods));
        }
    }
    all
}

proptest! {
    #[test]
    fn events_in_any_order_end_where_a_fresh_list_begins(changes in changes()) {
        let now = Instant::now();
        let (mut cluster, mut store) = (Cluster::default(), Store::default());
        for change in changes {
            match change {
                Change::Workload { name, kind, uid, generation } => {
                    let workload = workload(name, kind, uid, generation);
                    cluster.workloads.insert((name, kind), workload.clone());
                    store.apply_workload(workload, now);
                }
                Change::NoWorkload { name, kind } => {
                    if let Some(workload) = cluster.workloads.remove(&(name, kind)) {
                        store.delete_workload(&workload);
                    }
                }
                Change::ReplicaSet { uid: number, deployment } => {
                    let pair = (uid("rs", number), uid("workload", deployment * 3));
                    cluster.replica_sets.insert(number, pair);
                    store.apply_replica_set(pair.0, pair.1);
                }
                Change::NoReplicaSet { uid: number } => {
                    cluster.replica_sets.remove(&number);
                    store.delete_replica_set(uid("rs", number));
                }
                Change::Pod { uid: number, owner, state } => {
                    let pod = pod(number, owner, state);
                    cluster.pods.insert(number, (uid("pod", number), pod.clone()));
                    store.apply_pod(uid("pod", number), pod);
                }
                Change::NoPod { uid: number } => {
                    cluster.pods.remove(&number);
                    store.delete_pod(uid("pod", number));
                }
                Change::Relist => cluster.list(&mut store, now),
            }
        }
        let mut fresh = Store::default();
        cluster.list(&mut fresh, now);
        prop_assert_eq!(everything(&store, now), everything(&fresh, now));
        prop_assert_eq!(store.len(), fresh.len());
        // Nothing is left behind: a cluster that is emptied leaves an empty store.
        Cluster::default().list(&mut store, now);
        prop_assert!(store.is_empty() && store.pods_of.is_empty() && store.replica_sets.is_empty());
    }
}

#[test]
fn a_deployments_pods_are_those_of_its_replica_sets() {
    let (now, mut store) = (Instant::now(), Store::default());
    let of = |number, owner| (uid("pod", number), pod(number, owner, 0));
    for (pod, kept) in [of(0, 0), of(1, 1), of(2, 2)] {
        store.apply_pod(pod, kept);
    }
    store.apply_replica_set(uid("rs", 0), uid("workload", 0));
    store.apply_replica_set(uid("rs", 1), uid("workload", 0));
    // A twin with the same labels.
    store.apply_replica_set(uid("rs", 2), uid("workload", 3));
    store.apply_workload(workload(0, 0, 0, 1), now);
    let found = store.find("ns0", Kind::Deployment, "w0", now).unwrap();
    assert_eq!(found.pods.iter().map(|(_, pod)| &*pod.name).collect::<Vec<_>>(), ["p0", "p1"]);
    assert!(store.find("ns0", Kind::DaemonSet, "w0", now).is_none());
}

#[test]
fn a_status_is_behind_since_it_was_first_seen_so() {
    let (start, mut store) = (Instant::now(), Store::default());
    let at = |seconds| start + Duration::from_secs(seconds);
    let behind = |store: &Store, now| {
        store.find("ns0", Kind::Deployment, "w0", now).unwrap().behind_for.as_secs()
    };
    store.apply_workload(workload(0, 0, 0, 2), at(0));
    store.apply_workload(workload(0, 0, 0, 2), at(3));
    store.replace(Listed::Workloads(Kind::Deployment, vec![workload(0, 0, 0, 3)]), at(4));
    assert_eq!(behind(&store, at(5)), 5, "also through a new list");
    store.apply_workload(workload(0, 0, 0, 1), at(6));
    assert_eq!(behind(&store, at(7)), 0, "it has caught up");
    store.apply_workload(workload(0, 0, 0, 2), at(8));
    store.apply_workload(workload(0, 0, 1, 2), at(9));
    assert_eq!(behind(&store, at(9)), 0, "another workload of the same name");
}
