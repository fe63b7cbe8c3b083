//! What has to hold whatever happens, in whatever order.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::{
    super::{
        Action, Selector,
        health::{self, Health},
        threshold,
    },
    kit::{CHECK, Cluster},
};

/// Panics if a write would do what must never be done.
pub(super) fn guard(cluster: &Cluster, check: &str, action: &Action) {
    match action {
        Action::Create(creation) => never_a_wrong_object(cluster, check, &creation.node),
        Action::Delete { key, node, .. } => {
            let remediation = &cluster.world.remediations[key];
            assert!(remediation.owned_by(check), "a foreign object is deleted: {key:?}");
            assert!(
                !selected(cluster, check).contains(node.as_str())
                    || is_healthy(cluster, check, node),
                "the object of an unhealthy node is deleted: {node}"
            );
        }
        Action::ReleaseLease { node, .. } | Action::RenewLease { node, .. } => {
            let lease = &cluster.world.leases[&super::super::super::names::lease(node)];
            assert_eq!(lease.holder, super::super::super::names::holder(check), "a foreign lease");
        }
        _ => {}
    }
}

fn never_a_wrong_object(cluster: &Cluster, check: &str, node: &str) {
    let world = &cluster.world;
    assert!(selected(cluster, check).contains(node), "{node} is not selected");
    assert!(!is_healthy(cluster, check, node), "{node} is healthy");
    let lease = &world.leases[&super::super::super::names::lease(node)];
    assert_eq!(
        lease.holder,
        super::super::super::names::holder(check),
        "without the lease of {node}"
    );
    assert!(lease.valid(cluster.now));

    let selected = selected(cluster, check);
    let mut under: BTreeSet<&str> = BTreeSet::from([node]);
    let of_check = world.remediations.values().filter(|it| it.owned_by(check));
    under.extend(of_check.map(|it| it.node()).filter(|node| selected.contains(node)));
    let spec = &world.checks[check].spec;
    let observed = i64::try_from(selected.len()).unwrap();
    let needed =
        threshold::min_healthy(spec.min_healthy.as_ref(), spec.max_unhealthy.as_ref(), observed)
            .unwrap();
    assert!(
        i64::try_from(under.len()).unwrap() <= observed - needed,
        "{under:?} of {observed} with {needed} needed"
    );

    if world.nodes[node].control_plane() {
        let others = world.remediations.values().filter(|it| it.node() != node);
        let busy: Vec<_> = others
            .map(|it| it.node())
            .filter(|other| world.nodes.get(*other).is_some_and(|other| other.control_plane()))
            .collect();
        assert!(busy.is_empty(), "two control-plane nodes: {node} and {busy:?}");
    }
}

fn selected<'a>(cluster: &'a Cluster, check: &str) -> BTreeSet<&'a str> {
    let selector = Selector::new(cluster.world.checks[check].spec.selector.as_ref()).unwrap();
    let nodes = cluster.world.nodes.values().filter(|node| selector.matches(node));
    nodes.map(|node| &*node.name).collect()
}

fn is_healthy(cluster: &Cluster, check: &str, node: &str) -> bool {
    let conditions = cluster.world.checks[check].spec.unhealthy_conditions.clone();
    let conditions = conditions.unwrap_or_else(health::default_conditions);
    matches!(health::judge(&cluster.world.nodes[node], &conditions, cluster.now), Health::Healthy)
}

/// Something that happens in the cluster.
#[derive(Clone, Debug)]
enum Event {
    Fail(usize),
    Wobble(usize),
    Heal(usize),
    Delete(usize),
    Join(usize),
    Unlabel(usize),
    Veto(usize, bool),
    Confirm(usize),
    Answer(usize, &'static str),
    Finalize,
    Vanish(usize),
    TakeLease(usize),
    Pause(bool),
    MinHealthy(i32),
    Delay(&'static str),
    Wait(i64),
    /// The process decides about one of the checks, and dies after so many writes.
    Crash(bool, usize),
    /// The process runs to the end.
    Settle,
}

fn event() -> impl Strategy<Value = Event> {
    let node = 0..7_usize;
    prop_oneof![
        6 => node.clone().prop_map(Event::Fail),
        2 => node.clone().prop_map(Event::Wobble),
        4 => node.clone().prop_map(Event::Heal),
        1 => node.clone().prop_map(Event::Delete),
        2 => node.clone().prop_map(Event::Join),
        1 => node.clone().prop_map(Event::Unlabel),
        1 => (node.clone(), any::<bool>()).prop_map(|(node, on)| Event::Veto(node, on)),
        1 => node.clone().prop_map(Event::Confirm),
        2 => (node.clone(), prop::sample::select(vec!["True", "False", "Unknown"])).prop_map(|(n, s)| Event::Answer(n, s)),
        3 => Just(Event::Finalize),
        1 => node.clone().prop_map(Event::Vanish),
        1 => node.prop_map(Event::TakeLease),
        1 => any::<bool>().prop_map(Event::Pause),
        2 => (0..5_i32).prop_map(Event::MinHealthy),
        1 => prop::sample::select(vec!["0s", "2m", "-1s"]).prop_map(Event::Delay),
        4 => prop::sample::select(vec![1_i64, 30, 61, 301, 660, 1900]).prop_map(Event::Wait),
        4 => (any::<bool>(), 0..4_usize).prop_map(|(second, writes)| Event::Crash(second, writes)),
        5 => Just(Event::Settle),
    ]
}

const SECOND: &str = "second";

/// Four workers, three control-plane nodes; both checks select all of them, one escalates.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new(0);
    cluster.guard = Some(guard);
    cluster.with_finalizers = true;
    cluster.template("FenceTemplate", "soft", true);
    cluster.template("FenceTemplate", "hard", true);
    for index in 0..7 {
        join(&mut cluster, index);
    }
    spec(&mut cluster, 3, "0s", false);
    cluster
}

fn join(cluster: &mut Cluster, index: usize) {
    let mut labels = vec![("role", "worker")];
    if index < 3 {
        labels.push(("node-role.kubernetes.io/control-plane", ""));
    }
    cluster.node(&format!("n{index}"), &labels);
}

fn spec(cluster: &mut Cluster, min: i32, delay: &str, paused: bool) {
    let pause: &[&str] = if paused { &["me"] } else { &[] };
    cluster.check(
        CHECK,
        &json!({ "minHealthy": min, "healthyDelay": delay, "pauseRequests": pause, "stormCooldownDuration": "1m" }),
    );
    let step = |name: &str, order: i32| json!({ "remediationTemplate": Cluster::reference("FenceTemplate", name), "order": order, "timeout": "1m" });
    cluster.check(
        SECOND,
        &json!({ "minHealthy": "51%", "escalatingRemediations": [step("hard", 2), step("soft", 1)] }),
    );
}

/// Every object of a node is of another template, also when several processes made them.
fn never_two_of_one_kind(cluster: &Cluster) {
    let mut seen = BTreeSet::new();
    for remediation in cluster.world.remediations.values() {
        let of = (&remediation.key.kind, &remediation.template_annotation, remediation.node());
        assert!(seen.insert(of), "two objects: {of:?}");
    }
}

fn happen(cluster: &mut Cluster, event: &Event, setup: &mut (i32, &'static str, bool)) {
    let name = |index: &usize| format!("n{index}");
    let known =
        |cluster: &Cluster, index: &usize| cluster.world.nodes.contains_key(name(index).as_str());
    match event {
        Event::Fail(node) if known(cluster, node) => cluster.fail(&name(node)),
        Event::Wobble(node) if known(cluster, node) => {
            cluster.condition(&name(node), "Ready", "Unknown");
        }
        Event::Heal(node) if known(cluster, node) => cluster.heal(&name(node)),
        Event::Delete(node) => drop(cluster.world.nodes.remove(name(node).as_str())),
        Event::Join(node) if !known(cluster, node) => join(cluster, *node),
        Event::Unlabel(node) if known(cluster, node) => cluster.unlabel(&name(node), "role"),
        Event::Veto(node, on) if known(cluster, node) => {
            cluster.label(
                &name(node),
                "veto.remediation.tocsin.dev/me",
                if *on { "yes" } else { "false" },
            );
        }
        Event::Confirm(node) if known(cluster, node) => {
            cluster.annotate(&name(node), super::super::super::names::CONFIRMED_HEALTHY, "");
        }
        Event::Answer(index, status) => {
            if let Some(key) = cluster.world.remediations.keys().nth(*index).cloned() {
                cluster.succeeded(&key.kind.kind, &key.name, status);
            }
        }
        Event::Finalize => cluster.finalize(),
        Event::Vanish(index) => {
            if let Some(key) = cluster.world.remediations.keys().nth(*index).cloned() {
                cluster.world.remediations.remove(&key);
            }
        }
        Event::TakeLease(node) => cluster.lease(&name(node), "somebody", cluster.now, 60),
        Event::Pause(on) => setup.2 = *on,
        Event::MinHealthy(min) => setup.0 = *min,
        Event::Delay(delay) => setup.1 = delay,
        Event::Wait(seconds) => cluster.advance(&format!("{seconds}s")),
        Event::Crash(second, writes) => {
            cluster.life = Some(*writes);
            cluster.settle_check(if *second { SECOND } else { CHECK });
            cluster.life = None;
        }
        Event::Settle => {
            cluster.settle_check(CHECK);
            cluster.settle_check(SECOND);
        }
        _ => {}
    }
    if matches!(event, Event::Pause(_) | Event::MinHealthy(_) | Event::Delay(_)) {
        spec(cluster, setup.0, setup.1, setup.2);
    }
}

/// In the end every unhealthy node has an object or a reason, and every entry of the status is about something.
fn everything_is_told(cluster: &mut Cluster) {
    for check in [CHECK, SECOND] {
        cluster.settle_check(check);
    }
    for check in [CHECK, SECOND] {
        let status = cluster.settle_check(check).status;
        if status.phase.as_deref() == Some("Paused") {
            continue;
        }
        let waiting: BTreeSet<_> =
            status.waiting_nodes.iter().flatten().map(|node| node.name.clone()).collect();
        for node in selected(cluster, check) {
            let healthy = is_healthy(cluster, check, node);
            let owned = cluster
                .world
                .remediations
                .values()
                .any(|it| it.node() == node && it.owned_by(check));
            assert!(
                healthy || owned || waiting.contains(node),
                "{check}: nothing is told of {node}"
            );
            assert!(!healthy || !waiting.contains(node), "{check}: {node} waits and is healthy");
        }
        for entry in status.unhealthy_nodes.iter().flatten() {
            let known = selected(cluster, check).contains(entry.name.as_str());
            let object = cluster
                .world
                .remediations
                .values()
                .any(|it| it.node() == entry.name && it.owned_by(check));
            assert!(known || object, "{check}: {} is gone", entry.name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens(events in prop::collection::vec(event(), 1..60)) {
        let mut cluster = cluster();
        let mut setup = (3, "0s", false);
        for event in &events {
            happen(&mut cluster, event, &mut setup);
            never_two_of_one_kind(&cluster);
        }
        everything_is_told(&mut cluster);
    }

    /// Two processes that both believe to lead: what one has decided is written after the other has finished.
    #[test]
    fn two_leaders_never_make_two_objects(events in prop::collection::vec(event(), 1..20)) {
        let mut cluster = cluster();
        let mut setup = (3, "0s", false);
        for event in &events {
            happen(&mut cluster, event, &mut setup);
        }
        cluster.guard = None;
        for _ in 0..4 {
            let late = cluster.decide(SECOND);
            cluster.settle_check(SECOND);
            // Nothing has changed in the cluster but what the other wrote: every late write is refused or harmless.
            for action in &late.actions {
                let fresh = matches!(action, Action::Create(_));
                if cluster.take(SECOND, action).is_ok() && fresh {
                    prop_assert!(false, "a second process made {action:?}");
                }
                never_two_of_one_kind(&cluster);
            }
            cluster.settle_check(SECOND);
            cluster.advance("61s");
        }
    }
}
