//! The reflectors: the API's objects, trimmed, into the store. They are the one writer of it.

use std::{
    fmt::Debug,
    sync::{Arc, PoisonError, RwLock},
    time::Instant,
};

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
    core::v1::Pod as ApiPod,
};
use kube::{
    Api, Resource,
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;
use tocsin_runtime::tasks::Tasks;

use super::{
    model::{Kind, Workload},
    settings::PAGE,
    store::{Listed, Store},
    trim,
};
use crate::{
    api_server::{ApiServer, Streams},
    reflect::follow,
};

/// Starts a reflector for each kind of object.
pub fn start(
    tasks: &mut Tasks,
    server: &Arc<ApiServer>,
    streams: &Arc<Streams>,
    store: &Arc<RwLock<Store>>,
) {
    // The order in which they are named where several are lost.
    workloads::<Deployment>(
        tasks,
        server,
        streams,
        store,
        "deployments",
        Kind::Deployment,
        trim::deployment,
    );
    workloads::<StatefulSet>(
        tasks,
        server,
        streams,
        store,
        "statefulsets",
        Kind::StatefulSet,
        trim::stateful_set,
    );
    workloads::<DaemonSet>(
        tasks,
        server,
        streams,
        store,
        "daemonsets",
        Kind::DaemonSet,
        trim::daemon_set,
    );
    let sink = replica_sets(store.clone());
    tasks.spawn_background(
        "replicasets",
        follow(server.clone(), streams.add("replicasets"), config(), Api::all, sink),
    );
    let sink = pods(store.clone());
    tasks.spawn_background(
        "pods",
        follow(server.clone(), streams.add("pods"), config(), Api::all, sink),
    );
}

fn config() -> watcher::Config {
    watcher::Config::default().page_size(PAGE)
}

fn workloads<K>(
    tasks: &mut Tasks,
    server: &Arc<ApiServer>,
    streams: &Arc<Streams>,
    store: &Arc<RwLock<Store>>,
    name: &'static str,
    kind: Kind,
    trim: fn(K) -> Option<Workload>,
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let (store, mut listed) = (store.clone(), Vec::new());
    let sink = move |event: Event<K>| {
        let now = Instant::now();
        match event {
            Event::Init => listed = Vec::new(),
            Event::InitApply(object) => listed.extend(trim(object)),
            Event::InitDone => {
                let listed = std::mem::take(&mut listed);
                change(&store, |store| store.replace(Listed::Workloads(kind, listed), now));
            }
            Event::Apply(object) => {
                if let Some(workload) = trim(object) {
                    change(&store, |store| store.apply_workload(workload, now));
                }
            }
            Event::Delete(object) => {
                if let Some(workload) = trim(object) {
                    change(&store, |store| store.delete_workload(&workload));
                }
            }
        }
    };
    tasks.spawn_background(
        name,
        follow(server.clone(), streams.add(name), config(), Api::all, sink),
    );
}

fn replica_sets(store: Arc<RwLock<Store>>) -> impl FnMut(Event<ReplicaSet>) + Send {
    let mut listed = Vec::new();
    move |event| match event {
        Event::Init => listed = Vec::new(),
        Event::InitApply(object) => listed.extend(trim::replica_set(&object.metadata)),
        Event::InitDone => {
            let listed = std::mem::take(&mut listed);
            change(&store, |store| store.replace(Listed::ReplicaSets(listed), Instant::now()));
        }
        Event::Apply(object) => {
            if let Some((uid, deployment)) = trim::replica_set(&object.metadata) {
                change(&store, |store| store.apply_replica_set(uid, deployment));
            }
        }
        Event::Delete(object) => {
            if let Some((uid, _)) = trim::replica_set(&object.metadata) {
                change(&store, |store| store.delete_replica_set(uid));
            }
        }
    }
}

fn pods(store: Arc<RwLock<Store>>) -> impl FnMut(Event<ApiPod>) + Send {
    let mut listed = Vec::new();
    move |event| match event {
        Event::Init => listed = Vec::new(),
        Event::InitApply(object) => {
            listed.extend(trim::pod(object).and_then(|(uid, pod)| Some((uid, pod?))));
        }
        Event::InitDone => {
            let listed = std::mem::take(&mut listed);
            change(&store, |store| store.replace(Listed::Pods(listed), Instant::now()));
        }
        Event::Apply(object) => {
            if let Some((uid, pod)) = trim::pod(object) {
                change(&store, |store| store.apply_pod(uid, pod));
            }
        }
        Event::Delete(object) => {
            if let Some((uid, _)) = trim::pod(object) {
                change(&store, |store| store.delete_pod(uid));
            }
        }
    }
}

fn change(store: &RwLock<Store>, change: impl FnOnce(&mut Store)) {
    change(&mut store.write().unwrap_or_else(PoisonError::into_inner));
}
