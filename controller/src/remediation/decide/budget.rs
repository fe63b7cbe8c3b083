//! How many nodes are remediated at once, in the cluster and in each zone, over every `NodeHealthCheck`.
//!
//! A place goes to the node that has been unhealthy for longest, also when another `NodeHealthCheck` has that one: so
//! nobody starves, and as many begin as places are free, not all at once. Nothing has to be reset by hand.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{
    super::{
        settings::{Amount, Settings},
        world::{Remediation, World},
    },
    reason::Reason,
};

/// Places for nodes under remediation.
#[derive(Debug, Default)]
pub(super) struct Budget<'a> {
    cluster: Option<Pool>,
    zones: BTreeMap<&'a str, Pool>,
    active: BTreeSet<&'a str>,
}

/// The places of the cluster or of a zone.
#[derive(Debug, Default)]
struct Pool {
    limit: usize,
    used: usize,
    /// Nodes of other `NodeHealthChecks` that wait for a place, by the moment they became unhealthy.
    others: Vec<(Timestamp, String)>,
}

impl Pool {
    /// Whether there is a place for the node that became unhealthy then.
    fn free(&self, since: Timestamp, node: &str) -> bool {
        let before =
            self.others.iter().filter(|(at, other)| (*at, other.as_str()) < (since, node)).count();
        self.used + before < self.limit
    }
}

impl<'a> Budget<'a> {
    /// What is taken, and who else waits, seen from the `NodeHealthCheck` of this name.
    #[must_use]
    pub(super) fn new(world: &'a World, settings: &Settings, check: &str) -> Self {
        if settings.budget.is_none() && settings.zone_budget.is_none() {
            return Self::default();
        }
        let spent = spent(world);
        let mut budget = Self {
            cluster: settings.budget.map(|limit| Pool::of(limit, world.nodes.len())),
            zones: BTreeMap::new(),
            active: BTreeSet::new(),
        };
        if let Some(limit) = settings.zone_budget {
            let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
            for zone in world.nodes.values().filter_map(|node| node.zone()) {
                *sizes.entry(zone).or_default() += 1;
            }
            budget.zones =
                sizes.into_iter().map(|(zone, size)| (zone, Pool::of(limit, size))).collect();
        }
        for remediation in world.remediations.values() {
            if is_active(remediation, &spent) && budget.active.insert(remediation.node()) {
                budget.take(world, remediation.node());
            }
        }
        budget.queue_others(world, check);
        budget
    }

    /// Puts nodes of other `NodeHealthChecks` that wait for a place before those of this one, by age.
    ///
    /// One whose zone is full waits for its zone alone: it must not keep a place of the cluster from others.
    fn queue_others(&mut self, world: &World, check: &str) {
        let mut free: BTreeMap<String, usize> = BTreeMap::new();
        for (since, name) in self.waiting_elsewhere(world, check) {
            let zone = world.nodes.get(name.as_str()).and_then(|node| node.zone());
            let mut has_place = true;
            if let Some((zone, pool)) =
                zone.and_then(|zone| Some((zone, self.zones.get_mut(zone)?)))
            {
                let free = free
                    .entry(zone.to_owned())
                    .or_insert_with(|| pool.limit.saturating_sub(pool.used));
                has_place = *free > 0;
                *free = free.saturating_sub(1);
                pool.others.push((since, name.clone()));
            }
            if let Some(pool) = self.cluster.as_mut().filter(|_| has_place) {
                pool.others.push((since, name));
            }
        }
    }

    /// Nodes that wait for a place by the status of another check, the longest unhealthy first.
    fn waiting_elsewhere(&self, world: &World, check: &str) -> BTreeSet<(Timestamp, String)> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for (name, other) in &world.checks {
            let paused =
                other.spec.pause_requests.as_ref().is_some_and(|requests| !requests.is_empty());
            if name == check || paused || other.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let waiting = other.status.iter().flat_map(|status| &status.waiting_nodes).flatten();
            for node in waiting {
                let for_budget = [Reason::BudgetExhausted, Reason::ZoneBudgetExhausted]
                    .iter()
                    .any(|reason| reason.name() == node.reason);
                let Some(since) = &node.since else { continue };
                if for_budget
                    && world.nodes.contains_key(node.name.as_str())
                    && !self.active.contains(node.name.as_str())
                    && seen.insert(&node.name)
                {
                    found.insert((since.0, node.name.clone()));
                }
            }
        }
        found
    }

    fn take(&mut self, world: &World, node: &str) {
        let zone = world.nodes.get(node).and_then(|node| node.zone());
        let zone = zone.and_then(|zone| self.zones.get_mut(zone));
        for pool in self.cluster.iter_mut().chain(zone) {
            pool.used += 1;
        }
    }

    /// Takes a place for `node`, which became unhealthy then; if there is none, says of what.
    pub(super) fn try_take(
        &mut self,
        world: &World,
        node: &'a str,
        since: Timestamp,
    ) -> Result<(), (Reason, String)> {
        if self.active.contains(node) {
            return Ok(());
        }
        if let Some(pool) = self.cluster.as_ref().filter(|pool| !pool.free(since, node)) {
            return Err((Reason::BudgetExhausted, pool.message("in the cluster")));
        }
        let zone = world.nodes.get(node).and_then(|node| node.zone()).unwrap_or_default();
        if let Some(pool) = self.zones.get(zone).filter(|pool| !pool.free(since, node)) {
            return Err((Reason::ZoneBudgetExhausted, pool.message(&format!("in zone {zone}"))));
        }
        self.active.insert(node);
        self.take(world, node);
        Ok(())
    }
}

impl Pool {
    fn of(limit: Amount, size: usize) -> Self {
        Self { limit: limit.of(size), used: 0, others: Vec::new() }
    }

    fn message(&self, place: &str) -> String {
        let Self { limit, used, .. } = self;
        if used < limit {
            return format!(
                "{used} of {limit} nodes allowed are being remediated {place}, and others have waited longer"
            );
        }
        format!("{used} nodes are being remediated {place}, {limit} are allowed")
    }
}

/// Identities of remediation objects that were given up, by any status.
fn spent(world: &World) -> BTreeSet<&str> {
    world
        .checks
        .values()
        .flat_map(|check| check.status.iter().flat_map(|status| &status.unhealthy_nodes))
        .flatten()
        .flat_map(|node| node.remediations.iter().flatten())
        .filter(|record| record.timed_out.is_some())
        .filter_map(|record| record.resource.uid.as_deref())
        .collect()
}

/// Whether a remediator works on it: one that was told to stop holds no place, or nothing would ever be free again.
fn is_active(remediation: &Remediation, spent: &BTreeSet<&str>) -> bool {
    remediation.timed_out.is_none() && !spent.contains(remediation.uid.as_str())
}
