//! Recent Warning events about pods, of the namespaces that were asked about lately.
//!
//! Events are most of what an API server writes. So there is one watch per namespace, on Warnings about pods alone
//! (field selector `type=Warning,involvedObject.kind=Pod`), and only while somebody asks about a workload in it. An
//! answer never waits for one: until the first list is there, nothing is known.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use k8s_openapi::api::core::v1::Event as ApiEvent;
use kube::{
    Api,
    runtime::watcher::{self, Event},
};
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
    time::sleep,
};

use super::{
    model::{Uid, Warning},
    settings::{EVENT_IDLE, EVENT_NAMESPACES, PAGE},
    trim,
};
use crate::{
    api_server::{ApiServer, ApiState, Streams},
    reflect,
};

/// 4,000 warnings that are kept per namespace, some megabyte; beyond it the oldest goes.
const WARNINGS: usize = 4000;

/// The warnings, and which namespaces want theirs. Shared by the watches, which write, and the answers.
#[derive(Debug, Default)]
pub struct Warnings {
    namespaces: Mutex<HashMap<Box<str>, Namespace>>,
    /// Namespaces that were ever added, which tells one that was forgotten and asked about again from the first one.
    added: AtomicU64,
    /// A namespace is asked about that has no watch.
    wanted: Notify,
}

#[derive(Debug)]
struct Namespace {
    /// Of all that were ever added.
    number: u64,
    asked: Instant,
    /// By pod and event.
    warnings: BTreeMap<(Uid, Uid), Warning>,
    /// Warnings that had no room.
    dropped: u64,
    /// The state of the watch; `None` until it begins.
    state: Option<tokio::sync::watch::Receiver<ApiState>>,
}

impl Warnings {
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Namespace>> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The warnings about these pods; somebody asks, so the namespace's watch begins or goes on.
    pub fn of(
        &self,
        namespace: &str,
        pods: impl Iterator<Item = Uid>,
        now: Instant,
    ) -> Vec<Warning> {
        let mut namespaces = self.lock();
        let Some(found) = namespaces.get_mut(namespace) else {
            if namespaces.len() >= EVENT_NAMESPACES
                && let Some(oldest) =
                    namespaces.iter().min_by_key(|(_, n)| n.asked).map(|(name, _)| name.clone())
            {
                namespaces.remove(&oldest);
            }
            let number = self.added.fetch_add(1, Relaxed);
            let new = Namespace {
                number,
                asked: now,
                warnings: BTreeMap::new(),
                dropped: 0,
                state: None,
            };
            namespaces.insert(namespace.into(), new);
            drop(namespaces);
            self.wanted.notify_one();
            return Vec::new();
        };
        found.asked = now;
        let of = |pod: Uid| {
            found
                .warnings
                .range((pod, Uid::MIN)..=(pod, Uid::MAX))
                .map(|(_, warning)| warning.clone())
        };
        pods.flat_map(of).collect()
    }

    /// Why the warnings of a namespace cannot be told, where something keeps them from being watched.
    #[must_use]
    pub fn trouble(&self, namespace: &str, now: Instant) -> Option<String> {
        let namespaces = self.lock();
        let state = namespaces.get(namespace)?.state.as_ref()?.borrow();
        match &*state {
            ApiState::Starting(None) => None,
            state => state.unavailable(now).map(|why| format!("its events cannot be read: {why}")),
        }
    }

    /// Namespaces that are watched, warnings that are kept, and warnings that had no room.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, u64) {
        let namespaces = self.lock();
        let kept = namespaces.values().map(|n| n.warnings.len()).sum();
        (namespaces.len(), kept, namespaces.values().map(|n| n.dropped).sum())
    }

    fn change(&self, (namespace, number): (&str, u64), change: impl FnOnce(&mut Namespace)) {
        if let Some(found) = self.lock().get_mut(namespace).filter(|found| found.number == number) {
            change(found);
        }
    }

    /// Forgets namespaces that nobody asks about any more; the names of those that want a watch, and whether any is left
    /// to be forgotten later.
    fn wanted(&self, now: Instant) -> HashMap<Box<str>, u64> {
        let mut namespaces = self.lock();
        namespaces.retain(|_, found| now.saturating_duration_since(found.asked) < EVENT_IDLE);
        namespaces.iter().map(|(name, found)| (name.clone(), found.number)).collect()
    }
}

impl Namespace {
    fn insert(&mut self, key: (Uid, Uid), warning: Warning) {
        if self.warnings.len() >= WARNINGS
            && !self.warnings.contains_key(&key)
            && let Some(oldest) =
                self.warnings.iter().min_by_key(|(_, warning)| warning.last).map(|(key, _)| *key)
        {
            self.warnings.remove(&oldest);
            self.dropped += 1;
        }
        self.warnings.insert(key, warning);
    }
}

/// Keeps a watch for each namespace that is asked about, for ever.
pub async fn run(warnings: Arc<Warnings>, server: Arc<ApiServer>) {
    let mut watches: HashMap<Box<str>, (u64, AbortHandle)> = HashMap::new();
    let mut tasks = JoinSet::new();
    loop {
        let wanted = warnings.wanted(Instant::now());
        watches.retain(|name, (number, watch)| {
            let stays = wanted.get(name) == Some(number) && !watch.is_finished();
            if !stays {
                watch.abort();
            }
            stays
        });
        for (name, number) in wanted {
            watches.entry(name).or_insert_with_key(|name| {
                let watch = watch_namespace(warnings.clone(), server.clone(), name.clone(), number);
                (number, tasks.spawn(watch))
            });
        }
        tokio::select! {
            () = warnings.wanted.notified() => {}
            () = sleep(EVENT_IDLE / 10) => {}
            Some(_ended) = tasks.join_next() => {}
        }
    }
}

async fn watch_namespace(
    warnings: Arc<Warnings>,
    server: Arc<ApiServer>,
    namespace: Box<str>,
    number: u64,
) {
    let streams = Streams::quiet();
    let handle = streams.add("events");
    let state = streams.state();
    warnings.change((&namespace, number), |found| found.state = Some(state));
    let config =
        watcher::Config::default().fields("type=Warning,involvedObject.kind=Pod").page_size(PAGE);
    let mut listed = Vec::new();
    let sink = |event: Event<ApiEvent>| match event {
        Event::Init => listed = Vec::new(),
        Event::InitApply(object) => listed.extend(trimmed(object)),
        Event::InitDone => {
            let listed = std::mem::take(&mut listed);
            warnings.change((&namespace, number), |found| {
                found.warnings.clear();
                for (key, warning) in listed {
                    found.insert(key, warning);
                }
            });
        }
        Event::Apply(object) => {
            if let Some((key, warning)) = trimmed(object) {
                warnings.change((&namespace, number), |found| found.insert(key, warning));
            }
        }
        Event::Delete(object) => {
            if let Some((key, _)) = trimmed(object) {
                warnings.change((&namespace, number), |found| {
                    found.warnings.remove(&key);
                });
            }
        }
    };
    reflect::follow(server, handle, config, |client| Api::namespaced(client, &namespace), sink)
        .await;
}

fn trimmed(object: ApiEvent) -> Option<((Uid, Uid), Warning)> {
    let event = Uid::from(object.metadata.uid.as_deref()?);
    let (pod, warning) = trim::warning(object)?;
    Some(((pod, event), warning))
}
