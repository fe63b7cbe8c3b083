//! The engine: one task that owns the store, decides whenever something changed or is due, and starts the writes.
//!
//! It waits for nothing but its inputs: changes from the watches, ends of writes, the next deadline, and whether this
//! replica leads. Writes run beside it, so that a remediator's webhook that hangs delays its own node only.

mod clock;
mod jobs;
mod noted;
mod parts;
mod subject;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use kube::Client;
use tocsin_runtime::tasks::Stop;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tracing::{error, info};

use super::{
    decide::{Decision, decide, silence},
    openshift,
    store::{Change, Store},
    watch as watches,
    world::Kind,
};
pub use clock::Steady;
use jobs::Jobs;
pub use parts::Parts;

/// 1 minute at most between looks at the wall clock: it may be set, and a deadline must not be missed for it.
const LOOK: Duration = Duration::from_mins(1);
/// 20 milliseconds between decisions at least, during which changes gather: a node's status comes in several pieces.
const GATHER: Duration = Duration::from_millis(20);
/// 3 seconds for writes that are on their way when the process stops.
const DRAIN: Duration = Duration::from_secs(3);

/// The engine.
#[derive(Debug)]
pub struct Engine {
    parts: Parts,
    store: Store,
    jobs: Jobs,
    watches: JoinSet<&'static str>,
    kinds: BTreeMap<Kind, AbortHandle>,
    /// Something changed since the last decision.
    dirty: bool,
    /// When something is due.
    wake: Option<Timestamp>,
    /// Since when this replica leads and sees the cluster, by the steady clock.
    acts_since: Option<Timestamp>,
}

impl Engine {
    /// An engine that knows nothing yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let mut store = Store::default();
        // The first lease tells if it is not.
        store.world.lease_namespace = true;
        Self {
            parts,
            store,
            jobs: Jobs::default(),
            watches: JoinSet::new(),
            kinds: BTreeMap::new(),
            dirty: false,
            wake: None,
            acts_since: None,
        }
    }

    fn client(&self) -> Client {
        self.parts.writer.client.clone()
    }

    /// Runs until `stop`; the writes that are on their way then are waited for.
    pub async fn run(mut self, stop: Stop) -> anyhow::Result<()> {
        let mut sight = self.parts.source.streams.state();
        self.start_watches();
        let mut earliest = Instant::now();
        loop {
            let at = self.next_decision(earliest);
            tokio::select! {
                biased;
                () = stop.requested() => break,
                Some(ended) = self.watches.join_next() => match ended {
                    Ok(name) => anyhow::bail!("the watch of {name} ended"),
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => return Err(anyhow::Error::from(error).context("a watch panicked")),
                },
                Some(done) = self.jobs.next() => {
                    self.jobs.take(done, &mut self.store, &self.parts);
                    self.dirty = true;
                }
                changed = self.parts.leads.changed() => {
                    changed?;
                    self.dirty = true;
                }
                changed = sight.changed() => {
                    changed?;
                    self.dirty = true;
                }
                Some(change) = self.parts.changes.recv() => self.take(change),
                () = sleep_until(at) => {
                    earliest = Instant::now() + GATHER;
                    self.decide();
                }
            }
        }
        if timeout(DRAIN, self.jobs.drain()).await.is_err() {
            error!("writes did not end in time");
        }
        Ok(())
    }

    fn start_watches(&mut self) {
        let source = self.parts.source.clone();
        let leases = self.parts.settings.lease_namespace.clone();
        let of = source.clone();
        self.watches.spawn(async {
            watches::nodes(of).await;
            "nodes"
        });
        let of = source.clone();
        self.watches.spawn(async {
            watches::checks(of).await;
            "nodehealthchecks"
        });
        let of = source.clone();
        self.watches.spawn(async {
            watches::leases(of, leases).await;
            "leases"
        });
        let (client, is_openshift) = (self.client(), self.parts.is_openshift.clone());
        self.watches.spawn(async move {
            openshift::follow(client, source, is_openshift).await;
            "openshift"
        });
    }

    /// Takes a change and all that wait behind it.
    fn take(&mut self, change: Change) {
        let now = self.parts.clock.now();
        let mut next = Some(change);
        while let Some(change) = next {
            let is_check = matches!(change, Change::Check(_));
            self.dirty |= self.store.take(change, now);
            if is_check {
                self.follow_kinds();
            }
            next = self.parts.changes.try_recv().ok();
        }
        if self.store.is_synced() && !self.parts.metrics.is_synced() {
            info!(
                nodes = self.store.world.nodes.len(),
                checks = self.store.world.checks.len(),
                "the first lists are complete"
            );
            self.parts.metrics.synced();
            self.dirty = true;
        }
    }

    /// Watches come and go with the templates that are named.
    fn follow_kinds(&mut self) {
        let wanted = self.store.wanted_kinds();
        let gone: Vec<_> =
            self.kinds.keys().filter(|kind| !wanted.contains(kind)).cloned().collect();
        for kind in gone {
            if let Some(task) = self.kinds.remove(&kind) {
                task.abort();
            }
            info!(kind = kind.kind, "no NodeHealthCheck names this kind any more");
            self.store.forget_kind(&kind);
        }
        for kind in wanted {
            if self.kinds.contains_key(&kind) {
                continue;
            }
            self.store.expect_kind(&kind);
            let (source, of) = (self.parts.source.clone(), kind.clone());
            let task = self.watches.spawn(async {
                watches::kind(source, of).await;
                "a remediator's objects"
            });
            self.kinds.insert(kind, task);
        }
    }

    /// When to decide next: soon after a change, at the next deadline, and now and then.
    fn next_decision(&self, earliest: Instant) -> Instant {
        if self.dirty {
            return earliest;
        }
        let due = self.wake.map_or(LOOK, |wake| {
            let left = wake.duration_since(Timestamp::now());
            Duration::try_from(left).unwrap_or_default().min(LOOK)
        });
        (Instant::now() + due).max(earliest)
    }

    fn decide(&mut self) {
        self.dirty = false;
        self.wake = None;
        if !self.store.is_synced() {
            return;
        }
        self.parts.metrics.look(&self.store.world);
        if !self.parts.leadership.may_write() {
            self.jobs.forget();
            self.acts_since = None;
            return;
        }
        if self.is_blind() {
            self.acts_since = None;
            return;
        }
        let since = *self.acts_since.get_or_insert_with(|| self.parts.clock.now());
        let now = Timestamp::now();
        self.jobs.expire(&mut self.store);
        self.store.forget_unconfirmed(self.parts.clock.now());
        let names: Vec<String> = self.store.world.checks.keys().cloned().collect();
        for name in names {
            // Each of them sees what was begun for the one before.
            let Some(check) = self.store.world.checks.get(&name).cloned() else { continue };
            if check.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let decision = decide(&self.store.world, &self.parts.settings, &check, now, None);
            self.parts.metrics.decided();
            self.wake_at(decision.wake);
            let Decision { actions, status, notes, recovered, .. } = decision;
            let retry = self.jobs.start(&check, actions, &mut self.store, &self.parts);
            self.wake_at(retry);
            let outcome = jobs::Outcome { status, notes, recovered };
            let retry = self.jobs.start_status(&check, outcome, &self.parts);
            self.wake_at(retry);
        }
        self.silence(since);
    }

    /// Whether a watch is lost, so that a node may long be healthy again: what is known is not good enough to act on.
    fn is_blind(&self) -> bool {
        let state = self.parts.source.streams.state();
        state.borrow().unavailable(std::time::Instant::now()).is_some()
    }

    fn silence(&mut self, since: Timestamp) {
        let Some(limit) = self.parts.settings.silence else { return };
        let now = self.parts.clock.now();
        let (silent, left) = silence::silent(&self.store.world, limit, since, now);
        self.wake_at(left.and_then(|left| Timestamp::now().checked_add(left).ok()));
        for silent in silent {
            let retry = self.jobs.start_silence(silent, &self.parts);
            self.wake_at(retry);
        }
    }

    fn wake_at(&mut self, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        }
    }
}
