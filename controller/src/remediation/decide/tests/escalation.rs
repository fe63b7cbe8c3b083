//! Steps, their timeouts, and the lease that says who acts on a node.

use serde_json::{Value, json};

use super::{
    super::super::names,
    kit::{CHECK, Cluster, duration},
};

fn step(kind: &str, name: &str, order: i64, timeout: &str) -> Value {
    json!({ "remediationTemplate": Cluster::reference(kind, name), "order": order, "timeout": timeout })
}

/// Reboot for 5 minutes, then fence for 10, then replace for 2, given in another order.
fn three_steps() -> Cluster {
    let mut cluster = Cluster::new(2);
    cluster.template("FenceTemplate", "fence", false);
    cluster.template("ReplaceTemplate", "replace", false);
    let steps = json!([
        step("FenceTemplate", "fence", 10, "10m"),
        step("ReplaceTemplate", "replace", 20, "2m"),
        step("RebootTemplate", "reboot", 5, "5m"),
    ]);
    cluster.check(CHECK, &json!({ "escalatingRemediations": steps }));
    cluster.fail("n0");
    cluster
}

#[test]
fn steps_follow_one_another_at_their_exact_timeouts() {
    let mut cluster = three_steps();
    let start = cluster.now;
    let decision = cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n0"]);
    assert_eq!(cluster.world.leases["node-n0"].duration, duration("6m"));
    assert_eq!(
        cluster.status().next_deadline.unwrap().0,
        start.checked_add(duration("5m")).unwrap()
    );
    assert!(decision.wake.unwrap() <= start.checked_add(duration("5m1ms")).unwrap());

    cluster.run("5m");
    assert_eq!(cluster.remediations(), ["Reboot/n0"]);
    cluster.run("1ms");
    assert_eq!(cluster.remediations(), ["Fence/n0", "Reboot/n0"]);
    let stopped = cluster.remediation("Reboot", "n0").timed_out.clone().unwrap();
    assert_eq!(stopped, start.checked_add(duration("5m")).unwrap().to_string());
    assert!(
        cluster.world.leases["node-n0"].expiry().unwrap()
            >= cluster.now.checked_add(duration("10m")).unwrap()
    );

    cluster.run("10m");
    cluster.run("1s");
    assert_eq!(cluster.remediations(), ["Fence/n0", "Reboot/n0", "Replace/n0"]);
    cluster.events();
    cluster.run("2m1s");
    let event = "Warning NoTemplateLeft: Remediation timed out, and no template left to try. didn't find a template to use for NHC nhc and node n0";
    assert_eq!(cluster.events(), [event]);
    assert_eq!(cluster.waiting(), ["n0 NoTemplateLeft"]);
    assert_eq!(cluster.status().phase.as_deref(), Some("Remediating"));
    assert!(cluster.world.leases.is_empty(), "nobody acts on the node any more");
    let entry = cluster.status().unhealthy_nodes.unwrap().remove(0);
    assert!(entry.remediations.unwrap().iter().all(|record| record.timed_out.is_some()));
    assert_eq!(cluster.status().attempts.unwrap()[0].started.len(), 1, "one attempt in all");

    cluster.run("3h");
    assert_eq!(cluster.remediations().len(), 3, "nothing else happens");
    cluster.heal("n0");
    cluster.settle();
    assert!(cluster.remediations().is_empty());
    assert_eq!(cluster.status().unhealthy_nodes, None);
}

#[test]
fn a_failed_step_gives_way_at_once() {
    let mut cluster = three_steps();
    cluster.settle();
    cluster.advance("10s");
    cluster.succeeded("Reboot", "n0", "Unknown");
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n0"]);
    cluster.succeeded("Reboot", "n0", "False");
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Fence/n0", "Reboot/n0"]);
    assert!(cluster.remediation("Reboot", "n0").timed_out.is_some());
}

#[test]
fn a_step_that_succeeded_has_its_time_and_is_not_told_to_stop() {
    let mut cluster = three_steps();
    cluster.settle();
    cluster.succeeded("Reboot", "n0", "True");
    cluster.run("4m");
    assert_eq!(cluster.remediations(), ["Reboot/n0"]);
    cluster.run("2m");
    assert_eq!(cluster.remediations(), ["Fence/n0", "Reboot/n0"]);
    assert!(cluster.remediation("Reboot", "n0").timed_out.is_none());
    let entry = cluster.status().unhealthy_nodes.unwrap().remove(0);
    assert!(entry.remediations.unwrap()[0].timed_out.is_some());
}

#[test]
fn without_escalation_a_failure_changes_nothing_until_the_lease_is_overdue() {
    let mut cluster = Cluster::new(1);
    cluster.fail("n0");
    cluster.settle();
    cluster.succeeded("Reboot", "n0", "False");
    let start = cluster.now;
    cluster.run("30m");
    assert!(cluster.remediation("Reboot", "n0").timed_out.is_none());
    assert!(cluster.world.leases["node-n0"].valid(cluster.now), "it was renewed");
    assert_eq!(cluster.world.leases["node-n0"].acquired, Some(start));
    cluster.run("1s");
    assert!(cluster.remediation("Reboot", "n0").timed_out.is_some());
    assert!(cluster.world.leases.is_empty());
    assert_eq!(cluster.waiting(), ["n0 NoTemplateLeft"]);
}

#[test]
fn several_templates_of_one_kind() {
    let mut cluster = Cluster::new(1);
    cluster.template("RebootTemplate", "soft", true);
    cluster.template("RebootTemplate", "hard", true);
    let steps =
        json!([step("RebootTemplate", "soft", 1, "1m"), step("RebootTemplate", "hard", 2, "2m")]);
    cluster.check(CHECK, &json!({ "escalatingRemediations": steps }));
    cluster.fail("n0");
    cluster.settle();
    let first = cluster.remediations();
    assert!(
        first[0].starts_with("Reboot/n0-") && first[0].len() == "Reboot/n0-12345".len(),
        "{first:?}"
    );
    cluster.run("61s");
    let both = cluster.remediations();
    assert_eq!(both.len(), 2, "{both:?}");
    let entry = cluster.status().unhealthy_nodes.unwrap().remove(0);
    let records = entry.remediations.unwrap();
    let names: Vec<_> =
        records.iter().map(|record| record.template_name.as_deref().unwrap()).collect();
    assert_eq!(names, ["soft", "hard"], "each has its own record");
    assert!(records[0].timed_out.is_some() && records[1].timed_out.is_none());
    cluster.run("2m1s");
    assert_eq!(cluster.waiting(), ["n0 NoTemplateLeft"]);
    assert_eq!(cluster.remediations().len(), 2);
}

#[test]
fn one_kind_without_support_for_several_does_not_stop_other_nodes() {
    let mut cluster = Cluster::new(2);
    cluster.template("RebootTemplate", "hard", false);
    let steps =
        json!([step("RebootTemplate", "reboot", 1, "1m"), step("RebootTemplate", "hard", 2, "2m")]);
    cluster.check(CHECK, &json!({ "escalatingRemediations": steps }));
    cluster.fail("n0");
    cluster.settle();
    cluster.advance("61s");
    cluster.fail("n1");
    cluster.settle();
    assert_eq!(cluster.waiting(), ["n0 NameTaken"]);
    assert_eq!(cluster.remediations(), ["Reboot/n0", "Reboot/n1"]);
}

#[test]
fn objects_of_the_operator_that_is_replaced_go_on() {
    // Before 0.9 it wrote no annotations, and used the node's name.
    let mut cluster = Cluster::new(1);
    cluster.fail("n0");
    cluster.foreign("Reboot", "n0", Some(CHECK));
    cluster.lease("n0", &names::holder(CHECK), cluster.now, 660);
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n0"]);
    assert_eq!(cluster.writes, [""; 0]);
    assert_eq!(cluster.status().phase.as_deref(), Some("Remediating"));
    cluster.heal("n0");
    cluster.settle();
    assert!(cluster.remediations().is_empty() && cluster.world.leases.is_empty());
}

/// (holder, renewed how long ago, valid for how long, whether it is taken)
#[test]
fn a_lease_of_somebody_else_is_respected_until_it_ends() {
    let cases = [
        ("somebody", "10s", 60, false),
        ("somebody", "60s", 60, false),
        ("somebody", "61s", 60, true),
        ("somebody", "-10s", 60, true),
        ("NodeHealthCheck-other", "10s", 60, false),
        ("", "10s", 60, true),
    ];
    for (holder, age, seconds, taken) in cases {
        let mut cluster = Cluster::new(1);
        cluster.fail("n0");
        let renewed = cluster.now.checked_sub(duration(age)).unwrap();
        cluster.lease("n0", holder, renewed, seconds);
        let decision = cluster.settle();
        assert_eq!(!cluster.remediations().is_empty(), taken, "{holder} {age}");
        let lease = &cluster.world.leases["node-n0"];
        if taken {
            assert_eq!(lease.holder, names::holder(CHECK));
            assert_eq!((lease.acquired, lease.transitions), (Some(cluster.now), 4));
            continue;
        }
        assert_eq!(cluster.waiting(), ["n0 LeaseHeld"]);
        let ends = lease.expiry().unwrap();
        assert_eq!(
            decision.wake,
            Some(ends.checked_add(duration("1ms")).unwrap()),
            "the moment it ends"
        );
        assert!(cluster.events().contains(
            &"Warning RemediationSkipped: Skipped remediation of node: n0, because node lease is already taken".to_owned()
        ));
        cluster.now = decision.wake.unwrap();
        cluster.settle();
        assert_eq!(cluster.remediations(), ["Reboot/n0"]);
    }
}

#[test]
fn a_lease_that_is_taken_away_is_neither_renewed_nor_made_again() {
    let mut cluster = Cluster::new(1);
    cluster.fail("n0");
    cluster.settle();
    cluster.world.leases.clear();
    cluster.run("1h");
    assert!(cluster.world.leases.is_empty());
    cluster.lease("n0", "somebody", cluster.now, 60);
    cluster.heal("n0");
    cluster.settle();
    assert_eq!(cluster.world.leases["node-n0"].holder, "somebody");
}

#[test]
fn a_lease_that_was_left_over_is_begun_anew() {
    let mut cluster = Cluster::new(1);
    cluster.fail("n0");
    let long_ago = cluster.now.checked_sub(duration("2h")).unwrap();
    cluster.lease("n0", &names::holder(CHECK), long_ago, 36_000);
    cluster.settle();
    assert_eq!(cluster.world.leases["node-n0"].acquired, Some(cluster.now));
    cluster.run("29m");
    assert!(cluster.remediation("Reboot", "n0").timed_out.is_none());
}

#[test]
fn an_object_of_two_days_is_marked_once() {
    let mut cluster = Cluster::new(1);
    cluster.fail("n0");
    cluster.settle();
    cluster.run("48h");
    assert!(!cluster.remediation("Reboot", "n0").old_flag);
    cluster.run("1s");
    assert!(cluster.remediation("Reboot", "n0").old_flag);
    let writes = cluster.writes.len();
    cluster.run("1h");
    assert_eq!(cluster.writes.len(), writes);
}

#[test]
fn two_checks_of_one_node_do_not_both_act() {
    let mut cluster = Cluster::new(1);
    cluster.template("OtherTemplate", "other", false);
    cluster.check(
        "second",
        &json!({ "remediationTemplate": Cluster::reference("OtherTemplate", "other") }),
    );
    cluster.fail("n0");
    cluster.settle();
    cluster.settle_check("second");
    assert_eq!(cluster.remediations(), ["Reboot/n0"]);
    let status = cluster.status_of("second");
    let entry = status.unhealthy_nodes.unwrap().remove(0);
    assert_eq!((entry.name.as_str(), entry.remediations), ("n0", None));
    assert_eq!(status.waiting.as_deref(), Some("n0 LeaseHeld"));
}

#[test]
fn a_node_that_fails_again_while_its_object_is_deleted_gets_a_new_one() {
    let mut cluster = Cluster::new(1);
    cluster.with_finalizers = true;
    cluster.fail("n0");
    cluster.settle();
    cluster.advance("10m");
    cluster.heal("n0");
    cluster.settle();
    cluster.fail("n0");
    cluster.settle();
    assert!(cluster.remediation("Reboot", "n0").deleting);
    let old = cluster.remediation("Reboot", "n0").uid.clone();
    cluster.finalize();
    cluster.settle();
    assert_ne!(cluster.remediation("Reboot", "n0").uid, old);
}

#[test]
fn a_refused_write_waits_and_is_said() {
    let mut cluster = Cluster::new(2);
    cluster.fail("n0");
    cluster.fail("n1");
    let refusal = super::super::super::world::Refusal {
        message: "reboots.test.dev \"n0\" is forbidden".to_owned(),
        retry: cluster.now.checked_add(duration("5s")).unwrap(),
        times: 1,
    };
    cluster.world.refused.insert((CHECK.to_owned(), "n0".to_owned()), refusal);
    let decision = cluster.settle();
    assert_eq!(cluster.waiting(), ["n0 WriteRefused"]);
    assert_eq!(cluster.remediations(), ["Reboot/n1"], "other nodes go on");
    assert_eq!(decision.wake, Some(cluster.now.checked_add(duration("5s1ms")).unwrap()));
    cluster.run("6s");
    assert_eq!(cluster.remediations(), ["Reboot/n0", "Reboot/n1"]);
}

#[test]
fn a_template_that_is_named_no_more_leaves_its_object_alone_on_the_node() {
    let mut cluster = Cluster::new(1);
    cluster.template("FenceTemplate", "fence", false);
    cluster.fail("n0");
    cluster.settle();
    cluster.check(
        CHECK,
        &json!({ "remediationTemplate": Cluster::reference("FenceTemplate", "fence") }),
    );
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n0"], "two remediators never act at once");
    assert_eq!(cluster.waiting(), ["n0 RemediatedByAnother"]);
    cluster.run("20m");
    assert!(!cluster.world.leases.is_empty(), "the lease is kept as long as it works");
    cluster.heal("n0");
    cluster.settle();
    assert!(cluster.remediations().is_empty() && cluster.world.leases.is_empty());
}
