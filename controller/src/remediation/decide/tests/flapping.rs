//! A day on which nodes fail and recover all the time, in virtual time: limits hold, deadlines are exact, and nothing
//! grows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use serde_json::json;

use super::{
    super::{
        super::{
            crd::NodeHealthCheckStatus,
            settings::Amount,
            world::{Remediation, RemediationKey},
        },
        Action,
    },
    kit::{CHECK, Cluster, duration},
    properties,
};

const NODES: usize = 12;
const ZONES: usize = 3;
const BUDGET: usize = 4;
const ZONE_BUDGET: usize = 2;
const ATTEMPTS: usize = 5;
/// Shorter than a day, so that attempts are forgotten while nodes flap on.
const WINDOW: &str = "6h";
const COOL_OFF: &str = "5m";
const ZONE: &str = "topology.kubernetes.io/zone";
/// The second check: it escalates, for another condition of the same nodes.
const DISK: &str = "disk";

/// Numbers that look random and are the same in each run (xorshift64, Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

fn guard(cluster: &Cluster, check: &str, action: &Action) {
    properties::guard(cluster, check, action);
    let Action::Create(creation) = action else { return };
    // A remediator that was told to stop holds no place.
    let records = cluster.world.checks.values().flat_map(|check| check.status.iter());
    let records = records.flat_map(|status| status.unhealthy_nodes.iter().flatten());
    let records = records.flat_map(|node| node.remediations.iter().flatten());
    let stopped: BTreeSet<&str> = records
        .filter(|record| record.timed_out.is_some())
        .filter_map(|record| record.resource.uid.as_deref())
        .collect();
    let acts = |remediation: &&Arc<Remediation>| {
        remediation.timed_out.is_none() && !stopped.contains(remediation.uid.as_str())
    };
    let mut under: BTreeSet<&str> =
        cluster.world.remediations.values().filter(acts).map(|it| it.node()).collect();
    under.insert(&creation.node);
    under.retain(|node| cluster.world.nodes.contains_key(*node));
    assert!(under.len() <= BUDGET, "{under:?} at {}", cluster.now);
    let mut zones: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    for node in under {
        *zones.entry(cluster.world.nodes[node].zone()).or_default() += 1;
    }
    assert!(zones.values().all(|count| *count <= ZONE_BUDGET), "{zones:?} at {}", cluster.now);
}

/// What a status says of what happens when; words aside, which may be of an attempt that has just been forgotten.
fn told(status: &NodeHealthCheckStatus) -> String {
    let waiting = status.waiting_nodes.iter().flatten();
    let waiting: Vec<_> = waiting.map(|node| (&node.name, &node.next_deadline)).collect();
    let NodeHealthCheckStatus { phase, healthy_nodes, next_deadline, unhealthy_nodes, .. } = status;
    format!("{phase:?} {healthy_nodes:?} {next_deadline:?} {unhealthy_nodes:?} {waiting:?}")
}

/// The cluster, and what is remembered of its day.
struct Day {
    cluster: Cluster,
    random: Random,
    /// When each node changes next.
    next: BTreeMap<String, Timestamp>,
    joined: usize,
    seen: BTreeSet<(RemediationKey, String)>,
    /// When remediations of each node began.
    began: BTreeMap<String, Vec<Timestamp>>,
    decisions: usize,
    changes: usize,
}

impl Day {
    fn new(seed: u64) -> Self {
        let mut cluster = Cluster::new(0);
        cluster.guard = Some(guard);
        cluster.with_finalizers = true;
        cluster.settings.budget = Some(Amount::Number(4));
        cluster.settings.zone_budget = Some(Amount::Number(2));
        cluster.settings.attempts_window = duration(WINDOW);
        cluster.template("FenceTemplate", "soft", true);
        cluster.template("FenceTemplate", "hard", true);
        let ready = |status: &str, duration: &str| json!({ "type": "Ready", "status": status, "duration": duration });
        cluster.check(
            CHECK,
            &json!({
                "minHealthy": "25%", "healthyDelay": "1m", "stormCooldownDuration": "2m",
                "unhealthyConditions": [ready("False", "90s"), ready("Unknown", "5m")],
            }),
        );
        let step = |name: &str, order: i32| json!({ "remediationTemplate": Cluster::reference("FenceTemplate", name), "order": order, "timeout": "4m" });
        cluster.check(DISK, &json!({
            "maxUnhealthy": "60%", "escalatingRemediations": [step("hard", 2), step("soft", 1)],
            "unhealthyConditions": [{ "type": "DiskIOError", "status": "True", "duration": "0s" }],
        }));
        let mut day = Self {
            cluster,
            random: Random(seed),
            next: BTreeMap::new(),
            joined: 0,
            seen: BTreeSet::new(),
            began: BTreeMap::new(),
            decisions: 0,
            changes: 0,
        };
        for _ in 0..NODES {
            day.join();
        }
        day
    }

    fn join(&mut self) {
        let (name, zone) = (format!("n{}", self.joined), format!("z{}", self.joined % ZONES));
        self.joined += 1;
        self.cluster.node(&name, &[("role", "worker"), (ZONE, &zone)]);
        self.cluster.condition(&name, "DiskIOError", "False");
        self.later(name);
    }

    /// The node changes in half a minute to half an hour, never within a millisecond of a deadline: those are whole
    /// seconds after a change that was noticed, or after a write.
    fn later(&mut self, node: String) {
        let by = format!("{}.137s", 30 + self.random.next(1770));
        self.next.insert(node, self.cluster.now.checked_add(duration(&by)).unwrap());
    }

    /// Lets the controller act until `end`, at its own deadlines alone.
    fn run(&mut self, end: Timestamp) {
        loop {
            let wake = self.settle();
            let Some(wake) = wake.filter(|wake| *wake <= end) else { break };
            assert!(wake > self.cluster.now, "wakes up in the past: {wake}");
            self.cluster.now = wake;
        }
        self.cluster.now = end;
        // Exact deadlines: whoever looks in between finds nothing that is due. A lease may be renewed sooner than it has
        // to be, and attempts are forgotten when somebody looks.
        for check in [CHECK, DISK] {
            let mut decision = self.cluster.decide(check);
            decision.actions.retain(|action| !matches!(action, Action::RenewLease { .. }));
            assert!(
                decision.actions.is_empty(),
                "{check} at {end}: {:?}; before: {:#?}",
                decision.actions,
                self.cluster.status_of(check).waiting_nodes
            );
            let status = self.cluster.status_of(check);
            assert_eq!(told(&decision.status), told(&status), "{check} at {end}");
        }
        self.remember();
    }

    /// Decides until neither check has anything left to do: what one writes may free a place for the other. Gives the
    /// next deadline.
    fn settle(&mut self) -> Option<Timestamp> {
        loop {
            let before = (self.cluster.writes.len(), self.cluster.status_of(DISK));
            self.decisions += 2;
            let wakes = [CHECK, DISK].map(|check| self.cluster.settle_check(check).wake);
            if before == (self.cluster.writes.len(), self.cluster.status_of(DISK)) {
                return wakes.into_iter().flatten().min();
            }
        }
    }

    /// Holds every beginning against the limit of attempts and the pause between them.
    fn remember(&mut self) {
        let remediations: Vec<_> = self.cluster.world.remediations.values().cloned().collect();
        for remediation in remediations {
            let is_new = self.seen.insert((remediation.key.clone(), remediation.uid.clone()));
            let node = remediation.node();
            let others = self.cluster.world.remediations.values();
            let is_further_step = others
                .filter(|other| other.node() == node && other.uid != remediation.uid)
                .any(|other| other.created <= remediation.created);
            if !is_new || is_further_step {
                continue;
            }
            let began = self.began.entry(node.to_owned()).or_default();
            let window = began
                .iter()
                .filter(|at| remediation.created.duration_since(**at) < duration(WINDOW));
            let window: Vec<_> = window.copied().collect();
            assert!(window.len() < ATTEMPTS, "{node}: {window:?} and {}", remediation.created);
            if let Some(last) = window.last() {
                let pause = duration(COOL_OFF) * (1 << (window.len() - 1));
                let passed = remediation.created.duration_since(*last);
                assert!(passed >= pause, "{node}: {passed:#} after {window:?}");
            }
            began.push(remediation.created);
        }
    }

    /// The next node fails, recovers, or leaves for another one; remediators do their part.
    fn change(&mut self) {
        self.changes += 1;
        self.cluster.finalize();
        let first = self.next.iter().min_by_key(|(_, at)| **at);
        let Some((node, _)) = first.map(|(node, at)| (node.clone(), *at)) else { return };
        if self.random.next(40) == 0 {
            self.next.remove(&node);
            self.cluster.world.nodes.remove(node.as_str());
            return self.join();
        }
        let (kind, good, bad) = match self.random.next(3) {
            0 => ("DiskIOError", "False", "True"),
            1 => ("Ready", "True", "False"),
            _ => ("Ready", "True", "Unknown"),
        };
        let is_good =
            *self.cluster.world.nodes[node.as_str()].condition(kind).unwrap().status == *good;
        self.cluster.condition(&node, kind, if is_good { bad } else { good });
        let objects = self.cluster.world.remediations.len() as u64;
        if objects > 0 && self.random.next(3) == 0 {
            let index = usize::try_from(self.random.next(objects)).unwrap();
            let key = self.cluster.world.remediations.keys().nth(index).unwrap().clone();
            let answer = ["True", "False"][usize::try_from(self.random.next(2)).unwrap()];
            self.cluster.succeeded(&key.kind.kind, &key.name, answer);
        }
        self.later(node);
    }

    /// Nothing is larger than the nodes explain.
    fn nothing_grows(&self) {
        for check in [CHECK, DISK] {
            let status = self.cluster.status_of(check);
            let attempts = status.attempts.unwrap_or_default();
            // Those that left within the window are still remembered.
            assert!(attempts.len() <= self.joined.min(2 * NODES), "{}", attempts.len());
            assert!(attempts.iter().all(|attempts| attempts.started.len() <= ATTEMPTS));
            assert!(status.unhealthy_nodes.unwrap_or_default().len() <= NODES);
            assert!(status.waiting_nodes.unwrap_or_default().len() <= NODES);
            assert!(status.conditions.unwrap_or_default().len() <= 3);
        }
        let world = &self.cluster.world;
        // An object of each step, and one of the other check.
        assert!(world.remediations.len() <= 3 * BUDGET, "{}", world.remediations.len());
        assert!(world.leases.len() <= world.remediations.len(), "{:?}", world.leases.keys());
    }

    fn begun(&self) -> usize {
        self.began.values().map(Vec::len).sum()
    }
}

fn a_day(seed: u64) {
    let mut day = Day::new(seed);
    let end = day.cluster.now.checked_add(duration("24h")).unwrap();
    let (mut quarters, mut quarter) = (vec![0], day.cluster.now);
    while let Some(next) = day.next.values().min().copied().filter(|next| *next <= end) {
        day.run(next);
        day.nothing_grows();
        day.change();
        day.cluster.writes.clear();
        day.cluster.notes.clear();
        if next.duration_since(quarter) >= duration("6h") {
            quarter = next;
            quarters.push(day.begun());
        }
    }
    // It goes on as it began: no node is forgotten, and nothing gets slower.
    quarters.push(day.begun());
    let each: Vec<_> = quarters.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(each.len() >= 4 && each.iter().take(4).all(|count| *count > NODES / 2), "{each:?}");
    assert!(day.decisions < day.changes * 24, "{} for {}", day.decisions, day.changes);

    // Peace: everything ends, and when the window has passed nothing is left of the day.
    let nodes: Vec<_> = day.next.keys().cloned().collect();
    for node in &nodes {
        day.cluster.heal(node);
        day.cluster.condition(node, "DiskIOError", "False");
    }
    for passed in ["0s", "2m", "5m", "7h"] {
        day.cluster.finalize();
        let until = day.cluster.now.checked_add(duration(passed)).unwrap();
        day.run(until);
    }
    for check in [CHECK, DISK] {
        let decision = day.cluster.settle_check(check);
        assert_eq!(decision.wake, None, "{check}");
        let status = decision.status;
        assert_eq!(status.phase.as_deref(), Some("Enabled"), "{check}");
        let nodes = i64::try_from(NODES).unwrap();
        assert_eq!((status.observed_nodes, status.healthy_nodes), (Some(nodes), Some(nodes)));
        assert_eq!(
            (status.unhealthy_nodes, status.waiting_nodes, status.waiting, status.attempts),
            (None, None, None, None),
            "{check}"
        );
        assert_eq!(status.next_deadline, None, "{check}");
    }
    assert!(day.cluster.world.remediations.is_empty());
    assert!(day.cluster.world.leases.is_empty(), "{:?}", day.cluster.world.leases.keys());
}

#[test]
fn a_day_of_flapping_leaves_nothing() {
    a_day(1);
}
