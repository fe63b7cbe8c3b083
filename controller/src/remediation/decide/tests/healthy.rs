//! Nodes that are healthy again, or gone.

use serde_json::json;

use super::{
    super::super::names,
    kit::{CHECK, Cluster, duration},
};

#[test]
fn an_object_is_deleted_at_once_and_the_node_counts_when_it_is_gone() {
    let mut cluster = Cluster::new(2);
    cluster.with_finalizers = true;
    cluster.fail("n0");
    cluster.settle();
    cluster.heal("n0");
    cluster.settle();
    assert!(cluster.remediation("Reboot", "n0").deleting);
    let status = cluster.status();
    assert_eq!(status.healthy_nodes, Some(1));
    let node = &status.unhealthy_nodes.unwrap()[0];
    assert_eq!(node.conditions_healthy_timestamp.as_ref().unwrap().0, cluster.now);
    assert_eq!(node.healthy_delayed, None);
    assert!(cluster.world.leases.contains_key("node-n0"), "it is still worked on");
    cluster.advance("1m");
    cluster.finalize();
    let decision = cluster.decide(CHECK);
    assert_eq!(decision.recovered.len(), 1);
    assert_eq!(decision.recovered[0].after, duration("1m"));
    assert_eq!(decision.recovered[0].kind, "Reboot");
    cluster.settle();
    assert_eq!(cluster.status().healthy_nodes, Some(2));
    assert_eq!(cluster.status().unhealthy_nodes, None);
    assert!(cluster.world.leases.is_empty());
}

/// (healthyDelay, after how long the object goes)
#[test]
fn a_healthy_delay_keeps_the_object() {
    let cases = [
        (json!(null), Some("0s")),
        (json!("0s"), Some("0s")),
        (json!("5m"), Some("5m")),
        (json!("-1s"), None),
    ];
    for (delay, expected) in cases {
        let mut cluster = Cluster::new(2);
        cluster.check(CHECK, &json!({ "healthyDelay": delay }));
        cluster.fail("n0");
        cluster.settle();
        cluster.heal("n0");
        let healed = cluster.now;
        cluster.settle();
        let delayed = expected == Some("5m");
        if expected != Some("0s") {
            let entry = cluster.status().unhealthy_nodes.unwrap().remove(0);
            assert_eq!(entry.healthy_delayed, delayed.then_some(true), "{delay}");
            assert!(entry.conditions_healthy_timestamp.is_some());
            let annotation = cluster.remediation("Reboot", "n0").healthy_delay.clone();
            assert_eq!(annotation, delayed.then(|| healed.to_string()), "{delay}");
        }
        for _ in 0..100 {
            if cluster.remediations().is_empty() {
                break;
            }
            cluster.run("10s");
        }
        let gone = cluster.remediations().is_empty().then(|| cluster.now.duration_since(healed));
        assert_eq!(gone, expected.map(duration), "{delay}");
    }
}

#[test]
fn a_person_ends_the_delay() {
    for delay in ["1h", "-1s"] {
        let mut cluster = Cluster::new(1);
        cluster.with_finalizers = true;
        cluster.check(CHECK, &json!({ "healthyDelay": delay }));
        cluster.fail("n0");
        cluster.settle();
        cluster.heal("n0");
        cluster.settle();
        cluster.annotate("n0", names::CONFIRMED_HEALTHY, "");
        cluster.settle();
        assert!(cluster.remediation("Reboot", "n0").deleting);
        assert!(cluster.world.nodes["n0"].annotation(names::CONFIRMED_HEALTHY).is_some());
        cluster.finalize();
        cluster.settle();
        assert_eq!(cluster.world.nodes["n0"].annotation(names::CONFIRMED_HEALTHY), None);
    }
}

#[test]
fn a_flap_restarts_the_delay() {
    let mut cluster = Cluster::new(1);
    cluster.check(CHECK, &json!({ "healthyDelay": "5m" }));
    cluster.fail("n0");
    cluster.settle();
    cluster.heal("n0");
    cluster.settle();
    cluster.advance("4m");
    // Not for long enough to be unhealthy, but not healthy either.
    cluster.condition("n0", "Ready", "Unknown");
    cluster.settle();
    assert_eq!(cluster.remediation("Reboot", "n0").healthy_delay, None);
    let entry = cluster.status().unhealthy_nodes.unwrap().remove(0);
    assert_eq!((entry.conditions_healthy_timestamp, entry.healthy_delayed), (None, None));
    cluster.heal("n0");
    cluster.settle();
    cluster.run("4m");
    assert_eq!(cluster.remediations(), ["Reboot/n0"]);
    cluster.run("1m");
    assert!(cluster.remediations().is_empty());
}

#[test]
fn a_condition_that_begins_again_neither_ends_nor_moves_a_remediation() {
    let mut cluster = Cluster::new(1);
    let steps = json!([
        { "remediationTemplate": Cluster::reference("RebootTemplate", "reboot"), "order": 1, "timeout": "5m" },
    ]);
    cluster.check(CHECK, &json!({ "escalatingRemediations": steps }));
    cluster.fail("n0");
    cluster.settle();
    cluster.advance("4m");
    cluster.condition("n0", "Ready", "Unknown");
    cluster.settle();
    assert_eq!(cluster.waiting(), ["n0 DurationNotElapsed"]);
    assert_eq!(cluster.status().phase.as_deref(), Some("Remediating"));
    cluster.advance("2m");
    cluster.settle();
    assert!(cluster.remediation("Reboot", "n0").timed_out.is_none());
    assert_eq!(cluster.status().healthy_nodes, Some(0));
    cluster.advance("3m1s");
    cluster.settle();
    assert!(
        cluster.remediation("Reboot", "n0").timed_out.is_some(),
        "unhealthy again, the time counts from the start"
    );
}

#[test]
fn the_object_of_a_node_that_is_gone_goes_too() {
    for unselected in [false, true] {
        let mut cluster = Cluster::new(2);
        cluster.fail("n0");
        cluster.settle();
        if unselected {
            cluster.unlabel("n0", "role");
        } else {
            cluster.world.nodes.remove("n0");
        }
        cluster.settle();
        assert!(cluster.remediations().is_empty() && cluster.world.leases.is_empty());
        assert_eq!(cluster.status().unhealthy_nodes, None);
        assert_eq!(cluster.status().observed_nodes, Some(1));
    }
}

#[test]
fn the_entry_of_a_node_that_is_gone_goes_without_an_object_too() {
    let mut cluster = Cluster::new(2);
    cluster.check(CHECK, &json!({ "minHealthy": 2 }));
    cluster.fail("n0");
    cluster.settle();
    assert_eq!(cluster.waiting(), ["n0 BelowMinHealthy"]);
    cluster.world.nodes.remove("n0");
    cluster.settle();
    assert_eq!(cluster.status().unhealthy_nodes, None);
    assert_eq!(cluster.waiting(), [""; 0]);
}

#[test]
fn a_node_that_is_deleted_for_good_is_left_to_its_remediator() {
    // (Succeeded, whether the object is kept)
    for (succeeded, kept) in
        [(None, true), (Some("Unknown"), true), (Some("False"), true), (Some("True"), false)]
    {
        let mut cluster = Cluster::new(2);
        cluster.fail("n0");
        cluster.settle();
        cluster.change_remediation("Reboot", "n0", |it| {
            it.permanent_deletion = true;
            it.succeeded = succeeded.map(str::to_owned);
        });
        cluster.world.nodes.remove("n0");
        cluster.settle();
        assert_eq!(cluster.remediations().len(), usize::from(kept), "{succeeded:?}");
        assert_eq!(cluster.status().unhealthy_nodes.is_some(), kept);
        assert_eq!(cluster.world.leases.len(), usize::from(kept));
        assert_eq!(cluster.status().observed_nodes, Some(1));
    }
}

#[test]
fn objects_of_others_are_never_touched() {
    let mut cluster = Cluster::new(2);
    cluster.foreign("Reboot", "n0", Some("another"));
    cluster.foreign("Reboot", "n1", None);
    cluster.foreign("Reboot", "gone", Some("another"));
    cluster.settle();
    assert_eq!(cluster.remediations().len(), 3);
    cluster.fail("n0");
    cluster.settle();
    assert_eq!(cluster.waiting(), ["n0 RemediatedByAnother"]);
    let entry = cluster.status().unhealthy_nodes.unwrap().remove(0);
    assert_eq!(entry.remediations, None);
    assert!(cluster.writes.is_empty());
}

#[test]
fn a_foreign_lease_stays_when_a_node_recovers() {
    let mut cluster = Cluster::new(1);
    cluster.lease("n0", "somebody", cluster.now, 60);
    cluster.settle();
    assert_eq!(cluster.world.leases.len(), 1);
}

#[test]
fn an_object_that_somebody_deleted_leaves_no_stale_record() {
    let mut cluster = Cluster::new(1);
    cluster.fail("n0");
    cluster.settle();
    cluster.advance("10m");
    cluster.world.remediations.clear();
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n0"], "it is made again");
    let records = cluster.status().unhealthy_nodes.unwrap().remove(0).remediations.unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].started.as_ref().unwrap().0, cluster.now);
    assert_eq!(cluster.status().attempts.unwrap()[0].started.len(), 2, "and is another attempt");
}

#[test]
fn a_confirmation_is_meant_for_every_check() {
    let mut cluster = Cluster::new(1);
    cluster.check("a", &json!({}));
    cluster.check(CHECK, &json!({ "healthyDelay": "-1s" }));
    cluster.fail("n0");
    cluster.settle();
    cluster.heal("n0");
    cluster.settle();
    cluster.annotate("n0", names::CONFIRMED_HEALTHY, "");
    cluster.settle_check("a");
    assert!(cluster.world.nodes["n0"].annotation(names::CONFIRMED_HEALTHY).is_some());
    cluster.settle();
    assert!(cluster.remediations().is_empty());
    cluster.settle_check("a");
    assert_eq!(cluster.world.nodes["n0"].annotation(names::CONFIRMED_HEALTHY), None);
}

#[test]
fn a_node_of_the_same_name_goes_on_where_the_last_one_was() {
    let mut cluster = Cluster::new(1);
    cluster.fail("n0");
    cluster.settle();
    // Replaced, and not ready yet: its object goes on. Its lease was the old node's and went with it.
    cluster.world.nodes.remove("n0");
    cluster.world.leases.clear();
    cluster.node("n0", &[("role", "worker")]);
    cluster.change("n0", |node| "uid-other".clone_into(&mut node.uid));
    cluster.fail("n0");
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n0"]);
    assert!(cluster.world.leases.is_empty(), "one that is gone is not made again");
    cluster.heal("n0");
    cluster.settle();
    assert!(cluster.remediations().is_empty());
    assert_eq!(cluster.status().unhealthy_nodes, None);
}

#[test]
fn an_attempt_is_remembered_before_its_object_goes() {
    let mut cluster = Cluster::new(1);
    cluster.settings.attempts = 2;
    cluster.settings.cool_off = duration("0s");
    // The node is healthy again before any status could tell of the object.
    for _ in 0..2 {
        cluster.advance("1s");
        cluster.fail("n0");
        cluster.life = Some(2);
        cluster.settle();
        cluster.life = None;
        assert_eq!(cluster.remediations(), ["Reboot/n0"]);
        cluster.heal("n0");
        cluster.settle();
        assert!(cluster.remediations().is_empty());
    }
    cluster.fail("n0");
    cluster.settle();
    assert_eq!(cluster.waiting(), ["n0 AttemptsExhausted"]);

    // A status that cannot be written does not keep it for ever.
    let mut cluster = Cluster::new(1);
    cluster.fail("n0");
    cluster.life = Some(2);
    cluster.settle();
    cluster.heal("n0");
    assert!(cluster.decide(CHECK).actions.is_empty());
    cluster.advance("5s");
    assert_eq!(cluster.decide(CHECK).actions.len(), 1);
}
