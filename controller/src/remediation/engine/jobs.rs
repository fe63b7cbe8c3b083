//! Writes that are on their way: one an object at a time, never without the leadership, tried again with a pause.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};
use tracing::{debug, error, info, warn};

use super::{
    super::{
        apply::{Answer, Failure, api_resource},
        crd::{NodeHealthCheck, NodeHealthCheckStatus},
        decide::{Action, Creation, Note, Recovery, silence::Silent, whole_seconds},
        events::About,
        names,
        store::{KindState, Store},
        world::RemediationKey,
    },
    noted::{REFUSED_MAX, earlier, keep, place, refuse},
    parts::Parts,
    subject::{NAMESPACE_OBJECT, about, kind_of, object},
};

/// 32 writes at once: 200 nodes that fail together have their leases and objects within a second, and the API server
/// still has room for others.
const AT_ONCE: usize = 32;
/// 1 second before a write is tried again that met a change: the watch tells of it sooner.
const CONFLICT: Duration = Duration::from_secs(1);
/// A tenth of a second before a lease is made again whose namespace was missing: it is made in the meantime.
const NAMESPACE: Duration = Duration::from_millis(100);
/// 5 seconds before a write other than a creation is tried again that was refused or not answered.
const FAILED: Duration = Duration::from_secs(5);
/// 60 seconds, the API server's longest request: a creation without an answer counts as made until then.
const UNSURE: Duration = Duration::from_mins(1);
/// 2 seconds for which a status waits for the writes that it will tell of.
const STATUS_WAITS: Duration = Duration::from_secs(2);

/// A fifth of a second between statuses of one `NodeHealthCheck`: when many nodes fail, one tells of many.
const STATUS_EVERY: Duration = Duration::from_millis(200);

/// The next status, and what goes with it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) status: NodeHealthCheckStatus,
    pub(super) notes: Vec<Note>,
    pub(super) recovered: Vec<Recovery>,
}

/// What a write is for.
#[derive(Debug)]
enum Purpose {
    Action(Action),
    Status(Vec<Recovery>),
    Silence(usize),
}

/// A write that has ended.
#[derive(Debug)]
pub(super) struct Done {
    object: String,
    about: About,
    purpose: Purpose,
    result: Result<Answer, Failure>,
}

/// Writes that are on their way.
#[derive(Debug)]
pub(super) struct Jobs {
    running: JoinSet<Done>,
    /// Objects that are being written, since when, for which `NodeHealthCheck`.
    busy: BTreeMap<String, (String, Instant)>,
    /// Objects that are not written before.
    paused: BTreeMap<String, Instant>,
    /// Creations without an answer.
    unsure: BTreeMap<RemediationKey, Instant>,
    /// Events that were told, and whose status is not written yet.
    told: BTreeMap<String, Vec<Note>>,
    slots: Arc<Semaphore>,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            running: JoinSet::new(),
            busy: BTreeMap::new(),
            paused: BTreeMap::new(),
            unsure: BTreeMap::new(),
            told: BTreeMap::new(),
            slots: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

impl Jobs {
    /// The next write that ends; never, where there is none.
    pub(super) async fn next(&mut self) -> Option<Done> {
        match self.running.join_next().await? {
            Ok(done) => Some(done),
            Err(panic) => {
                // Its object stays busy, which is the safe side of a bug.
                error!(error = panic.to_string(), "a write panicked");
                None
            }
        }
    }

    /// Waits until all have ended.
    pub(super) async fn drain(&mut self) {
        while self.running.join_next().await.is_some() {}
    }

    /// Another replica leads: what was tried here is of no interest any more.
    pub(super) fn forget(&mut self) {
        self.paused.clear();
        self.told.clear();
    }

    /// Creations that have never been answered count as not made any more.
    pub(super) fn expire(&mut self, store: &mut Store) {
        let now = Instant::now();
        self.paused.retain(|_, until| *until > now);
        let over: Vec<_> = self
            .unsure
            .iter()
            .filter(|(_, until)| **until <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in over {
            self.unsure.remove(&key);
            store.remove_remediation(&key, Some(""));
        }
        let wall = Timestamp::now();
        let forgotten = SignedDuration::try_from(REFUSED_MAX * 2).unwrap_or_default();
        store.world.refused.retain(|_, refusal| wall.duration_since(refusal.retry) < forgotten);
    }

    /// Starts the writes whose objects are free. The time is when one that has to wait may be tried again.
    pub(super) fn start(
        &mut self,
        check: &NodeHealthCheck,
        actions: Vec<Action>,
        store: &mut Store,
        parts: &Parts,
    ) -> Option<Timestamp> {
        let mut retry = None;
        for action in actions {
            let object = object(&action);
            if let Some(wait) = self.waits(&object) {
                retry = earlier(retry, wait);
                continue;
            }
            let resource = match kind_of(&action) {
                None => None,
                Some(kind) => match store.kind(kind) {
                    Some(KindState::Served { resource, .. }) => api_resource(kind, resource),
                    _ => continue,
                },
            };
            if let Action::Create(creation) = &action {
                place(store, check, creation);
            }
            let (writer, name) = (parts.writer.clone(), about(check).name);
            let write = {
                let action = action.clone();
                async move { writer.write(&name, action, resource).await }
            };
            self.spawn(object, about(check), Purpose::Action(action), write, parts);
        }
        retry
    }

    /// Starts the write of a status that differs, unless writes are on their way that it will tell of.
    ///
    /// The time is when it may be tried again.
    pub(super) fn start_status(
        &mut self,
        check: &NodeHealthCheck,
        outcome: Outcome,
        parts: &Parts,
    ) -> Option<Timestamp> {
        let About { name, .. } = about(check);
        let before = check.status.clone().unwrap_or_default();
        let Outcome { mut status, notes, recovered } = outcome;
        // What goes through the API has whole seconds.
        let through = |status: &NodeHealthCheckStatus| {
            serde_json::to_value(status).and_then(serde_json::from_value::<NodeHealthCheckStatus>)
        };
        if through(&status).is_ok_and(|status| status == before) {
            return None;
        }
        let awaited = self.busy.values().filter(|(of, _)| *of == name);
        let awaited = awaited.map(|(_, since)| STATUS_WAITS.saturating_sub(since.elapsed())).max();
        let object = format!("status/{name}");
        if let Some(wait) = awaited.filter(|left| !left.is_zero()).or(self.waits(&object)) {
            return earlier(None, wait);
        }
        status.last_update_time = Some(whole_seconds(Timestamp::now()));
        let told = self.told.entry(name).or_default();
        for note in notes {
            if !told.contains(&note) {
                told.push(note.clone());
                parts.events.tell(&about(check), note);
            }
        }
        let (writer, check_now) = (parts.writer.clone(), check.clone());
        let write = async move { writer.status(&check_now, &status).await };
        self.spawn(object, about(check), Purpose::Status(recovered), write, parts);
        None
    }

    /// Starts to set conditions of a node to Unknown.
    pub(super) fn start_silence(&mut self, silent: Silent, parts: &Parts) -> Option<Timestamp> {
        let object = format!("node/{}", silent.node);
        if let Some(wait) = self.waits(&object) {
            return earlier(None, wait);
        }
        warn!(
            node = silent.node,
            "nothing is heard of the agent: its conditions are set to Unknown"
        );
        let (writer, count) = (parts.writer.clone(), silent.conditions.len());
        let write = async move { writer.silence(&silent).await };
        let nobody = About { name: String::new(), uid: String::new() };
        self.spawn(object, nobody, Purpose::Silence(count), write, parts);
        None
    }

    /// For how long an object must not be written; zero: until the write on its way has ended.
    fn waits(&self, object: &str) -> Option<Duration> {
        if self.busy.contains_key(object) {
            return Some(Duration::ZERO);
        }
        let until = self.paused.get(object)?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    fn spawn(
        &mut self,
        object: String,
        about: About,
        purpose: Purpose,
        write: impl Future<Output = Result<Answer, Failure>> + Send + 'static,
        parts: &Parts,
    ) {
        self.busy.insert(object.clone(), (about.name.clone(), Instant::now()));
        let (slots, leadership) = (self.slots.clone(), parts.leadership.clone());
        self.running.spawn(async move {
            let _slot = slots.acquire().await;
            // Asked at the last moment: the process may have slept since it was decided.
            let result =
                if leadership.may_write() { write.await } else { Err(Failure::NotLeading) };
            Done { object, about, purpose, result }
        });
    }

    /// Takes the end of a write into the store.
    pub(super) fn take(&mut self, done: Done, store: &mut Store, parts: &Parts) {
        let Done { object, about, purpose, result } = done;
        self.busy.remove(&object);
        parts.metrics.wrote(match &result {
            Ok(_) => "ok",
            Err(Failure::Conflict | Failure::Missing) => "conflict",
            Err(Failure::Refused(_)) => "refused",
            Err(Failure::NoAnswer(_)) => "no_answer",
            Err(Failure::NotLeading) => "not_leading",
        });
        match result {
            Ok(answer) => {
                keep(store, answer, parts.clock.now());
                if let Purpose::Status(_) = &purpose {
                    self.paused.insert(object, Instant::now() + STATUS_EVERY);
                }
                self.succeeded(&about, &purpose, store, parts);
            }
            Err(failure) => self.failed(object, &about, &purpose, &failure, store),
        }
    }

    fn succeeded(&mut self, about: &About, purpose: &Purpose, store: &mut Store, parts: &Parts) {
        match purpose {
            Purpose::Status(recovered) => {
                self.told.remove(&about.name);
                for recovery in recovered {
                    info!(node = recovery.node, kind = recovery.kind, "the node is healthy again");
                    parts.metrics.recovered(recovery);
                }
            }
            Purpose::Silence(count) => parts.metrics.silenced(*count),
            Purpose::Action(Action::Create(creation)) => {
                store.world.refused.remove(&(about.name.clone(), creation.node.clone()));
                let Creation { key, node, .. } = &**creation;
                info!(
                    check = about.name,
                    node,
                    kind = key.kind.kind,
                    name = key.name,
                    "remediation object made"
                );
                let message = format!("Created remediation object for node {node}");
                parts.events.tell(about, Note::normal("RemediationCreated", message));
            }
            Purpose::Action(Action::Delete { key, node, .. }) => {
                info!(
                    check = about.name,
                    node,
                    kind = key.kind.kind,
                    name = key.name,
                    "remediation object deleted"
                );
                let message = format!(
                    "Deleted remediation CR of kind {} with name {}",
                    key.kind.kind, key.name
                );
                parts.events.tell(about, Note::normal("RemediationRemoved", message));
            }
            Purpose::Action(Action::Annotate { key, node, annotation, value, .. }) => {
                info!(
                    check = about.name,
                    node,
                    kind = key.kind.kind,
                    name = key.name,
                    annotation,
                    value,
                    "remediation object annotated"
                );
                if *annotation == names::OLD_FLAG {
                    parts.metrics.old(node);
                }
            }
            Purpose::Action(action) => debug!(check = about.name, ?action, "written"),
        }
    }

    fn failed(
        &mut self,
        object: String,
        about: &About,
        purpose: &Purpose,
        failure: &Failure,
        store: &mut Store,
    ) {
        let pause = match failure {
            Failure::Conflict | Failure::Missing => CONFLICT,
            Failure::Refused(_) | Failure::NoAnswer(_) => FAILED,
            Failure::NotLeading => Duration::ZERO,
        };
        match failure {
            Failure::Refused(why) => warn!(object, check = about.name, why, "a write was refused"),
            Failure::NoAnswer(why) => {
                warn!(object, check = about.name, why, "a write was not answered");
            }
            Failure::Conflict | Failure::Missing | Failure::NotLeading => {
                debug!(object, ?failure, "not written");
            }
        }
        match purpose {
            Purpose::Action(Action::Create(creation)) => {
                if let Failure::NoAnswer(_) = failure {
                    self.unsure.insert(creation.key.clone(), Instant::now() + UNSURE);
                } else {
                    store.remove_remediation(&creation.key, Some(""));
                }
                if let Failure::Refused(why) = failure {
                    return refuse(store, about, &creation.node, why);
                }
            }
            // The namespace is not there yet, or was deleted.
            Purpose::Action(Action::AcquireLease { node, previous: None, .. })
                if *failure == Failure::Missing =>
            {
                store.world.lease_namespace = false;
                if self.waits(NAMESPACE_OBJECT).is_some_and(|left| !left.is_zero()) {
                    return refuse(
                        store,
                        about,
                        node,
                        "the namespace of the leases cannot be made",
                    );
                }
                self.paused.insert(object, Instant::now() + NAMESPACE);
                return;
            }
            Purpose::Action(Action::AcquireLease { node, .. }) => {
                if let Failure::Refused(why) = failure {
                    return refuse(store, about, node, why);
                }
            }
            Purpose::Action(_) | Purpose::Status(_) | Purpose::Silence(_) => {}
        }
        self.paused.insert(object, Instant::now() + pause);
    }
}
