//! What holds a remediation back.

use serde_json::json;

use super::{
    super::super::{
        crd::NodeHealthCheckStatus,
        settings::Amount,
        world::{Kind, TemplateKey, TemplateState},
    },
    kit::{CHECK, Cluster, duration},
};

#[test]
fn below_the_threshold_nothing_is_begun_or_moved_along() {
    let mut cluster = Cluster::new(4);
    cluster.check(CHECK, &json!({ "minHealthy": "51%" }));
    cluster.fail("n0");
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n0"]);
    cluster.events();
    cluster.fail("n1");
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n0"]);
    assert_eq!(cluster.waiting(), ["n0 BelowMinHealthy", "n1 BelowMinHealthy"]);
    let names: Vec<_> =
        cluster.status().unhealthy_nodes.unwrap().into_iter().map(|n| n.name).collect();
    assert_eq!(names, ["n0", "n1"], "they are listed");
    let skipped = "Warning RemediationSkipped: Skipped remediation because the number of healthy nodes selected by the selector is 2 and should equal or exceed 3";
    assert_eq!(cluster.events()[1], skipped);
    cluster.run("31m");
    assert!(
        cluster.remediation("Reboot", "n0").timed_out.is_none(),
        "no timeout below the threshold"
    );
    assert!(cluster.world.leases["node-n0"].valid(cluster.now), "what is being done stays ours");
    assert!(cluster.events().is_empty(), "no event is repeated");
}

#[test]
fn exactly_the_threshold_is_enough() {
    let mut cluster = Cluster::new(4);
    cluster.check(CHECK, &json!({ "minHealthy": 2 }));
    cluster.fail("n0");
    cluster.fail("n1");
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n0", "Reboot/n1"]);
}

#[test]
fn a_node_with_an_object_left_is_not_healthy() {
    let mut cluster = Cluster::new(3);
    cluster.with_finalizers = true;
    cluster.check(CHECK, &json!({ "minHealthy": 2 }));
    cluster.fail("n0");
    cluster.settle();
    cluster.heal("n0");
    cluster.fail("n1");
    cluster.settle();
    assert_eq!(cluster.status().healthy_nodes, Some(1));
    assert_eq!(cluster.waiting(), ["n1 BelowMinHealthy"]);
    cluster.finalize();
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n1"]);
}

#[test]
fn a_threshold_that_cannot_be_used_stops_everything_and_says_so() {
    let mut cluster = Cluster::new(3);
    cluster.check(CHECK, &json!({ "minHealthy": null, "maxUnhealthy": 12 }));
    cluster.settle();
    assert_eq!(cluster.status().healthy_nodes, Some(3));
    cluster.fail("n0");
    cluster.settle();
    assert_eq!(cluster.waiting(), ["n0 InvalidThreshold"]);
    assert_eq!(cluster.status().unhealthy_nodes, None);
    assert_eq!(
        (cluster.status().observed_nodes, cluster.status().healthy_nodes),
        (Some(3), Some(2))
    );
}

fn storm_conditions(status: &NodeHealthCheckStatus) -> String {
    let conditions = status.conditions.iter().flatten();
    let storm: Vec<_> = conditions
        .filter(|condition| condition.type_.starts_with("Storm"))
        .map(|condition| {
            assert_eq!(condition.reason, "HealthyNodeThresholdChange");
            format!("{}={}", condition.type_.trim_start_matches("Storm"), condition.status)
        })
        .collect();
    storm.join(" ")
}

#[test]
fn a_storm_ends_after_its_cooldown() {
    let mut cluster = Cluster::new(5);
    cluster.check(CHECK, &json!({ "minHealthy": 3, "stormCooldownDuration": "5m" }));
    cluster.settle();
    assert_eq!(storm_conditions(&cluster.status()), "");
    for node in ["n0", "n1", "n2"] {
        cluster.fail(node);
    }
    cluster.settle();
    assert_eq!(storm_conditions(&cluster.status()), "CooldownActive=False Active=True");
    assert!(cluster.events().contains(
        &"Warning StormRecoveryStarted: Storm recovery mode activated - delaying remediation until threshold is reached".to_owned()
    ));

    cluster.heal("n0");
    let decision = cluster.settle();
    assert_eq!(storm_conditions(&cluster.status()), "CooldownActive=True Active=True");
    assert_eq!(cluster.waiting(), ["n1 StormRecovery", "n2 StormRecovery"]);
    assert_eq!(decision.wake, Some(cluster.now.checked_add(duration("5m1ms")).unwrap()));
    assert_eq!(
        cluster.events(),
        [
            "Warning StormRecoveryCooldownStarted: Storm recovery mode will exit after cooldown delay",
            "Warning RemediationSkipped: Storm recovery active: skipping creation of new remediations",
        ]
    );

    // A new storm during the cooldown begins it anew.
    cluster.advance("4m");
    cluster.fail("n0");
    cluster.settle();
    assert_eq!(storm_conditions(&cluster.status()), "CooldownActive=False Active=True");
    cluster.advance("1m");
    cluster.heal("n0");
    cluster.settle();
    cluster.advance("4m59s");
    cluster.settle();
    assert!(cluster.remediations().is_empty());
    cluster.events();
    cluster.advance("1s");
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n1", "Reboot/n2"], "at the same moment");
    assert_eq!(storm_conditions(&cluster.status()), "CooldownActive=False Active=False");
    assert_eq!(
        cluster.events(),
        ["Normal StormRecoveryEnded: Storm recovery mode deactivated - normal remediation resumed"]
    );
}

#[test]
fn a_storm_ends_also_when_all_nodes_recover_at_once_or_it_is_switched_off() {
    let mut cluster = Cluster::new(3);
    cluster.check(CHECK, &json!({ "minHealthy": 3, "stormCooldownDuration": "5m" }));
    cluster.fail("n0");
    cluster.settle();
    cluster.heal("n0");
    cluster.run("6m");
    assert_eq!(storm_conditions(&cluster.status()), "CooldownActive=False Active=False");

    cluster.fail("n0");
    cluster.settle();
    assert_eq!(storm_conditions(&cluster.status()), "CooldownActive=False Active=True");
    cluster.check(CHECK, &json!({ "minHealthy": 0 }));
    cluster.settle();
    assert_eq!(storm_conditions(&cluster.status()), "CooldownActive=False Active=False");
}

#[test]
fn objects_of_healthy_nodes_go_during_a_storm() {
    let mut cluster = Cluster::new(4);
    cluster.check(CHECK, &json!({ "minHealthy": 3, "stormCooldownDuration": "5m" }));
    cluster.fail("n0");
    cluster.settle();
    cluster.fail("n1");
    cluster.settle();
    cluster.heal("n0");
    cluster.settle();
    assert!(cluster.remediations().is_empty());
    assert_eq!(cluster.waiting(), ["n1 StormRecovery"]);
}

/// (template's kind, name, namespace, what the API has, phase, reason of the condition, message)
#[test]
fn a_template_that_cannot_be_used_disables() {
    type Case = (&'static str, &'static str, Option<TemplateState>, &'static str, &'static str);
    let found = |spec| {
        let template = super::super::super::world::Template { spec, multiple: false };
        Some(TemplateState::Found(std::sync::Arc::new(template), "rem".to_owned()))
    };
    let cases: [Case; 5] = [
        (
            "XTemplate",
            "rem",
            Some(TemplateState::NotFound("xtemplates.test.dev \"x\" not found".to_owned())),
            "RemediationTemplateNotFound",
            "Remediation template not found: \"failed to get external remediation template rem/x: xtemplates.test.dev \"x\" not found\"",
        ),
        (
            "XTemplate",
            "",
            Some(TemplateState::NeedsNamespace),
            "RemediationTemplateNotFound",
            "Remediation template not found: \"remediation template \"x\" not found, it is namespaced, but no namespace is provided\"",
        ),
        (
            "XTemplate",
            "rem",
            found(None),
            "RemediationTemplateInvalid",
            "Remediation template is invalid: \"invalid template rem/x, didn't find spec.template.spec\"",
        ),
        (
            "Metal3RemediationTemplate",
            "rem",
            found(Some(json!({}))),
            "RemediationTemplateInvalid",
            "Remediation template is invalid: \"Metal3RemediationTemplate must be in the openshift-machine-api namespace. It is configured to be in namespace: rem\"",
        ),
        (
            "Odd",
            "rem",
            None,
            "RemediationTemplateInvalid",
            "Remediation template is invalid: \"kind \"Odd\" of template x does not end in Template\"",
        ),
    ];
    for (kind_name, namespace, state, reason, message) in cases {
        let mut cluster = Cluster::new(1);
        let mut reference = Cluster::reference(kind_name, "x");
        reference["namespace"] = json!(namespace);
        cluster.check(CHECK, &json!({ "remediationTemplate": reference }));
        if let Some(state) = state {
            let kind = Kind { api_version: "test.dev/v1".to_owned(), kind: kind_name.to_owned() };
            let key = TemplateKey { kind, namespace: namespace.to_owned(), name: "x".to_owned() };
            cluster.world.templates.insert(key, state);
        }
        cluster.fail("n0");
        let decision = cluster.settle();
        let status = cluster.status();
        assert_eq!(status.phase.as_deref(), Some("Disabled"), "{kind_name}");
        let condition = &status.conditions.as_ref().unwrap()[0];
        assert_eq!((&*condition.type_, &*condition.status), ("Disabled", "True"));
        assert_eq!((&*condition.reason, &*condition.message), (reason, message));
        assert_eq!(
            status.reason.as_deref(),
            Some(&*format!("NHC is disabled: {reason}: {message}"))
        );
        assert_eq!((status.observed_nodes, status.healthy_nodes), (Some(0), Some(0)));
        assert_eq!(cluster.waiting(), ["n0 Disabled"]);
        assert_eq!(
            cluster.events(),
            [format!("Warning Disabled: Disabling NHC. Reason: {reason}, Message: {message}")]
        );
        let retry = (reason == "RemediationTemplateNotFound")
            .then(|| cluster.now.checked_add(duration("15s")).unwrap());
        assert_eq!(decision.wake, retry);

        // It is put right.
        cluster.check(CHECK, &json!({}));
        cluster.settle();
        assert_eq!(cluster.remediations(), ["Reboot/n0"]);
        assert_eq!(cluster.status().phase.as_deref(), Some("Remediating"));
    }
}

#[test]
fn a_template_of_which_nothing_is_known_yet_changes_nothing() {
    let mut cluster = Cluster::new(1);
    cluster.fail("n0");
    cluster.settle();
    let status = cluster.status();
    cluster.world.templates.clear();
    cluster.heal("n0");
    cluster.settle();
    assert_eq!(cluster.status(), status);
}

#[test]
fn disabled_stops_everything() {
    let mut cluster = Cluster::new(2);
    cluster.fail("n0");
    cluster.settle();
    let key = Cluster::template_key("RebootTemplate", "reboot");
    cluster.world.templates.insert(key, TemplateState::NotFound("gone".to_owned()));
    cluster.heal("n0");
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n0"], "also the end of a remediation");
    assert_eq!(cluster.status().unhealthy_nodes.unwrap().len(), 1, "left as it is");
}

#[test]
fn a_pause_request_stops_everything() {
    let mut cluster = Cluster::new(3);
    cluster.fail("n0");
    cluster.settle();
    cluster.events();
    cluster.check(CHECK, &json!({ "pauseRequests": ["upgrade", "me"] }));
    cluster.heal("n0");
    cluster.fail("n1");
    cluster.settle();
    let status = cluster.status();
    assert_eq!(status.phase.as_deref(), Some("Paused"));
    assert_eq!(status.reason.as_deref(), Some("NHC is paused: upgrade,me"));
    assert_eq!((status.observed_nodes, status.healthy_nodes), (Some(0), Some(0)));
    assert_eq!(cluster.remediations(), ["Reboot/n0"]);
    assert_eq!(cluster.waiting(), ["n1 Paused"]);
    assert_eq!(
        cluster.events(),
        ["Normal RemediationSkipped: Postponing potential remediations because of pause requests"]
    );
    cluster.check(CHECK, &json!({}));
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n1"]);
}

/// (what is done to the node, reason it waits for)
#[test]
fn what_others_do_with_a_node_is_respected() {
    type Case = (&'static str, fn(&mut Cluster), Option<&'static str>);
    let cases: [Case; 21] = [
        (
            "excluded",
            |c| c.label("n0", "remediation.medik8s.io/exclude-from-remediation", "true"),
            Some("Excluded"),
        ),
        (
            "not excluded",
            |c| c.label("n0", "remediation.medik8s.io/exclude-from-remediation", "false"),
            None,
        ),
        (
            "an odd value",
            |c| c.label("n0", "remediation.medik8s.io/exclude-from-remediation", "yes"),
            None,
        ),
        (
            "no value",
            |c| c.label("n0", "remediation.medik8s.io/exclude-from-remediation", ""),
            None,
        ),
        (
            "a veto",
            |c| c.label("n0", "veto.remediation.tocsin.dev/backup", "running"),
            Some("Vetoed"),
        ),
        (
            "a veto by annotation",
            |c| c.annotate("n0", "veto.remediation.tocsin.dev/backup", ""),
            Some("Vetoed"),
        ),
        (
            "a veto taken back",
            |c| c.annotate("n0", "veto.remediation.tocsin.dev/backup", "false"),
            None,
        ),
        ("deleted", |c| c.change("n0", |n| n.deleting = true), Some("BeingDeleted")),
        ("Karpenter", |c| c.taint("n0", "karpenter.sh/disrupted"), Some("BeingDisrupted")),
        (
            "an older Karpenter",
            |c| c.taint("n0", "karpenter.sh/disruption"),
            Some("BeingDisrupted"),
        ),
        (
            "the autoscaler",
            |c| c.taint("n0", "ToBeDeletedByClusterAutoscaler"),
            Some("BeingScaledDown"),
        ),
        (
            "a candidate of the autoscaler",
            |c| c.taint("n0", "DeletionCandidateOfClusterAutoscaler"),
            None,
        ),
        ("out of service", |c| c.taint("n0", "node.kubernetes.io/out-of-service"), None),
        (
            "maintenance",
            |c| c.condition("n0", "MaintenanceInProgress", "True"),
            Some("Maintenance"),
        ),
        ("a drain", |c| c.condition("n0", "DrainInProgress", "True"), Some("Maintenance")),
        (
            "a shutdown",
            |c| c.condition("n0", "GracefulNodeShutdownInProgress", "True"),
            Some("Maintenance"),
        ),
        ("maintenance is over", |c| c.condition("n0", "MaintenanceInProgress", "False"), None),
        ("maintenance is planned", |c| c.condition("n0", "MaintenancePlanned", "True"), None),
        (
            "kubelet's graceful shutdown",
            |c| c.change("n0", |n| n.conditions[0].message = "node is shutting down".into()),
            Some("Maintenance"),
        ),
        ("a cordon alone", |c| c.change("n0", |n| n.unschedulable = true), None),
        (
            "a cordon and a lease",
            |c| {
                c.change("n0", |n| n.unschedulable = true);
                c.lease("n0", "node-maintenance", c.now, 3600);
            },
            Some("LeaseHeld"),
        ),
    ];
    for (name, change, reason) in cases {
        let mut cluster = Cluster::new(2);
        cluster.fail("n0");
        change(&mut cluster);
        cluster.settle();
        let waiting: Vec<_> = reason.map(|reason| format!("n0 {reason}")).into_iter().collect();
        assert_eq!(cluster.waiting(), waiting, "{name}");
        assert_eq!(cluster.remediations().is_empty(), reason.is_some(), "{name}");
        let status = cluster.status();
        assert_eq!(status.unhealthy_nodes.unwrap()[0].name, "n0", "{name}: it counts as unhealthy");
        assert_eq!(status.healthy_nodes, Some(1), "{name}");
    }
}

#[test]
fn events_about_the_exclude_label() {
    let mut cluster = Cluster::new(2);
    let label = "remediation.medik8s.io/exclude-from-remediation";
    cluster.label("n0", label, "true");
    cluster.label("n1", label, "");
    cluster.fail("n0");
    cluster.fail("n1");
    cluster.settle();
    let events = cluster.events();
    for expected in [
        "Warning RemediationSkipped: Remediation skipped on node n0: node has Exclude from Remediation label",
        "Warning InvalidNodeLabel: Node n1 has exclude-from-remediation label with empty value, label will be ignored. Set value to 'true' to exclude node from remediation",
    ] {
        assert!(events.contains(&expected.to_owned()), "{events:#?}");
    }
    // The label comes later: the object stays, and is not moved along.
    cluster.label("n1", label, "true");
    cluster.run("40m");
    assert_eq!(cluster.remediations(), ["Reboot/n1"]);
    assert!(cluster.remediation("Reboot", "n1").timed_out.is_none());
}

#[test]
fn one_control_plane_node_at_a_time() {
    let mut cluster = Cluster::new(0);
    cluster.template("OtherTemplate", "other", false);
    for (name, role) in [("c0", "control-plane"), ("c1", "master"), ("c2", "control-plane")] {
        cluster.node(name, &[("role", "worker"), (&format!("node-role.kubernetes.io/{role}"), "")]);
    }
    cluster.fail("c1");
    cluster.settle();
    assert!(cluster.remediation("Reboot", "c1").control_plane);
    cluster.fail("c0");
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/c1"]);
    assert_eq!(cluster.waiting(), ["c0 ControlPlane"]);
    assert!(cluster.events().contains(
        &"Warning RemediationSkipped: Skipping remediation of c0 for preventing control plane / etcd quorum loss, going to retry in a minute".to_owned()
    ));
    // Nor through another check with another template.
    cluster.check(
        "second",
        &json!({ "remediationTemplate": Cluster::reference("OtherTemplate", "other") }),
    );
    cluster.settle_check("second");
    assert_eq!(cluster.remediations(), ["Reboot/c1"]);
    // It counts until it is gone.
    let key = cluster.key("Reboot", "c1");
    cluster.finalizers.insert(key);
    cluster.heal("c1");
    cluster.settle();
    assert!(cluster.remediation("Reboot", "c1").deleting);
    assert_eq!(cluster.waiting(), ["c0 ControlPlane"]);
    cluster.finalize();
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/c0"]);
}

#[test]
fn two_control_plane_nodes_that_fail_at_once() {
    let mut cluster = Cluster::new(0);
    for name in ["c0", "c1"] {
        cluster.node(name, &[("role", "worker"), ("node-role.kubernetes.io/control-plane", "")]);
        cluster.fail(name);
    }
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/c0"]);
    assert_eq!(cluster.writes, ["acquire c0", "create Reboot/c0"]);
}

#[test]
fn the_etcd_guard_of_openshift() {
    // (disruptions allowed by each budget, whether the node's guard pod is ready, whether remediation may begin)
    let cases: [(&[i32], bool, bool); 6] = [
        (&[], false, false),
        (&[1, 1], false, false),
        (&[1], true, true),
        (&[2], true, true),
        (&[0], true, false),
        (&[0], false, true),
    ];
    for (budgets, ready, allowed) in cases {
        let mut cluster = Cluster::new(0);
        cluster.node("c0", &[("role", "worker"), ("node-role.kubernetes.io/master", "")]);
        cluster.world.openshift.present = true;
        cluster.world.openshift.etcd_budgets = budgets.to_vec();
        if ready {
            cluster.world.openshift.etcd_guarded.insert("c0".to_owned());
        }
        cluster.fail("c0");
        let decision = cluster.settle();
        assert_eq!(!cluster.remediations().is_empty(), allowed, "{budgets:?} {ready}");
        if !allowed {
            assert_eq!(cluster.waiting(), ["c0 ControlPlane"]);
            assert_eq!(decision.wake, Some(cluster.now.checked_add(duration("1m1ms")).unwrap()));
        }
        // Elsewhere nobody is asked.
        cluster.world.openshift.present = false;
        cluster.settle();
        assert_eq!(cluster.remediations(), ["Reboot/c0"]);
    }
}

#[test]
fn an_upgrade_of_openshift_stops_everything() {
    for by_node in [false, true] {
        let mut cluster = Cluster::new(2);
        cluster.world.openshift.present = true;
        if by_node {
            cluster.annotate("n0", "machineconfiguration.openshift.io/desiredConfig", "b");
            cluster.annotate("n0", "machineconfiguration.openshift.io/currentConfig", "a");
        } else {
            cluster.world.openshift.progressing = true;
        }
        cluster.fail("n0");
        let decision = cluster.settle();
        assert_eq!(cluster.waiting(), ["n0 ClusterUpgrade"]);
        assert_eq!(decision.wake, Some(cluster.now.checked_add(duration("1m")).unwrap()));
        assert!(cluster.events().contains(
            &"Normal RemediationSkipped: Postponing potential remediations because of ongoing cluster upgrade".to_owned()
        ));
        cluster.world.openshift.present = false;
        cluster.settle();
        assert_eq!(cluster.remediations(), ["Reboot/n0"]);
    }
}

#[test]
fn a_machine_health_check_is_a_conflict() {
    let checks = |list: &[&[&str]]| {
        list.iter().map(|types| types.iter().map(|kind| (*kind).to_owned()).collect()).collect()
    };
    // (condition types of each MachineHealthCheck, whether it conflicts)
    let cases: [(&[&[&str]], bool); 5] = [
        (&[], false),
        (&[&["Terminating"]], false),
        (&[&["Terminating", "Ready"]], true),
        (&[&["Ready"]], true),
        (&[&["Terminating"], &["Terminating"]], true),
    ];
    for (list, conflicts) in cases {
        let mut cluster = Cluster::new(1);
        cluster.world.openshift.machine_api = true;
        cluster.world.openshift.machine_health_checks = checks(list);
        cluster.fail("n0");
        cluster.settle();
        assert_eq!(cluster.status().phase.as_deref() == Some("Disabled"), conflicts, "{list:?}");
        let event = "Warning Disabled: Custom MachineHealthCheck(s) detected, disabling NodeHealthCheck to avoid conflicts";
        assert_eq!(cluster.events().contains(&event.to_owned()), conflicts);
    }
    // A node whose machine is being deleted is left alone where there is such a check.
    for (list, healthy) in [(&[][..], 0), (&[&["Terminating"][..]][..], 1)] {
        let mut cluster = Cluster::new(1);
        cluster.world.openshift.machine_api = true;
        cluster.world.openshift.machine_health_checks = checks(list);
        cluster.condition("n0", "Terminating", "False");
        cluster.fail("n0");
        cluster.settle();
        assert_eq!(cluster.status().healthy_nodes, Some(healthy));
    }
}

#[test]
fn a_budget_over_several_checks_is_handed_out_by_age() {
    let mut cluster = Cluster::new(0);
    cluster.template("OtherTemplate", "other", false);
    cluster.settings.budget = Some(Amount::Number(2));
    for name in ["a0", "a1", "a2"] {
        cluster.node(name, &[("role", "worker")]);
    }
    for name in ["b0", "b1"] {
        cluster.node(name, &[("role", "storage")]);
    }
    let storage = json!({
        "selector": { "matchLabels": { "role": "storage" } },
        "remediationTemplate": Cluster::reference("OtherTemplate", "other"),
    });
    cluster.check("storage", &storage);
    for name in ["a0", "a1", "b0", "a2", "b1"] {
        cluster.fail(name);
        cluster.advance("1s");
    }
    cluster.settle();
    cluster.settle_check("storage");
    assert_eq!(cluster.remediations(), ["Reboot/a0", "Reboot/a1"]);
    assert_eq!(cluster.waiting(), ["a2 BudgetExhausted"]);
    // One is free: it goes to the longest unhealthy, though the other check is asked first.
    cluster.heal("a0");
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/a1"]);
    cluster.settle_check("storage");
    assert_eq!(cluster.remediations(), ["Other/b0", "Reboot/a1"]);
    cluster.heal("a1");
    cluster.settle_check("storage");
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Other/b0", "Reboot/a2"]);
    // What was given up holds no place.
    cluster.change_remediation("Other", "b0", |it| {
        it.timed_out = Some("2027-01-15T08:00:00Z".to_owned());
    });
    cluster.settle_check("storage");
    assert_eq!(cluster.remediations(), ["Other/b0", "Other/b1", "Reboot/a2"]);
}

#[test]
fn a_budget_per_zone() {
    let mut cluster = Cluster::new(0);
    cluster.settings.zone_budget = Some(Amount::Percent(20));
    for index in 0..6 {
        let zone = if index < 3 { "a" } else { "b" };
        cluster.node(
            &format!("n{index}"),
            &[("role", "worker"), ("topology.kubernetes.io/zone", zone)],
        );
    }
    for name in ["n0", "n1", "n3", "n4"] {
        cluster.fail(name);
    }
    cluster.settle();
    assert_eq!(
        cluster.remediations(),
        ["Reboot/n0", "Reboot/n3"],
        "20% of three is one, rounded up"
    );
    assert_eq!(cluster.waiting(), ["n1 ZoneBudgetExhausted", "n4 ZoneBudgetExhausted"]);
    cluster.heal("n3");
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n0", "Reboot/n4"]);
}

#[test]
fn a_node_that_waits_for_its_zone_keeps_no_place_of_the_cluster() {
    let mut cluster = Cluster::new(0);
    cluster.settings.budget = Some(Amount::Number(2));
    cluster.settings.zone_budget = Some(Amount::Number(1));
    for (name, role, zone) in
        [("n0", "worker", "a"), ("n1", "worker", "a"), ("n2", "other", "b"), ("n3", "other", "c")]
    {
        cluster.node(name, &[("role", role), ("topology.kubernetes.io/zone", zone)]);
    }
    cluster.check("other", &json!({ "selector": { "matchLabels": { "role": "other" } } }));
    cluster.fail("n0");
    cluster.fail("n1");
    cluster.settle();
    assert_eq!(cluster.waiting(), ["n1 ZoneBudgetExhausted"]);
    cluster.advance("1s");
    cluster.fail("n2");
    cluster.settle_check("other");
    assert_eq!(cluster.remediations(), ["Reboot/n0", "Reboot/n2"]);
    // When its zone has a place, it comes first.
    cluster.fail("n3");
    cluster.settle_check("other");
    cluster.heal("n0");
    cluster.settle();
    cluster.settle_check("other");
    assert_eq!(cluster.remediations(), ["Reboot/n1", "Reboot/n2"]);
}

#[test]
fn a_node_that_flaps_cools_off_and_is_left_alone_in_the_end() {
    let mut cluster = Cluster::new(2);
    let mut began = Vec::new();
    let start = cluster.now;
    // Fails again whenever it is healthy, for a day and a half.
    while cluster.now.duration_since(start) < duration("36h") {
        cluster.fail("n0");
        cluster.settle();
        if !cluster.remediations().is_empty() {
            began.push(cluster.now.duration_since(start).as_secs() / 60);
            cluster.advance("2m");
        }
        cluster.heal("n0");
        cluster.settle();
        cluster.advance("1m");
    }
    assert_eq!(began[..6], [0, 5, 15, 35, 75, 1440], "minutes; {began:?}");
    assert_eq!(cluster.status().attempts.unwrap()[0].started.len(), 5);
    cluster.fail("n0");
    cluster.settle();
    assert_eq!(cluster.waiting(), ["n0 AttemptsExhausted"]);
    // A person has mended it and wants it to be tried again.
    let now = cluster.now.checked_add(duration("1s")).unwrap().to_string();
    cluster.annotate("n0", "remediation.tocsin.dev/forget-attempts-before", &now);
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n0"]);
}

#[test]
fn a_dry_run_says_what_it_would_do() {
    let mut cluster = Cluster::new(3);
    cluster.annotate_check(CHECK, "tocsin.dev/dry-run", "true");
    cluster.fail("n0");
    cluster.settle();
    assert!(cluster.writes.is_empty());
    assert_eq!(cluster.waiting(), ["n0 DryRun"]);
    let message = cluster.status().waiting_nodes.unwrap()[0].message.clone();
    assert_eq!(message, "would create Reboot n0");
    assert_eq!(cluster.status().phase.as_deref(), Some("Enabled"));
    assert!(
        cluster.events().contains(&"Normal DryRun: Node n0: would create Reboot n0".to_owned())
    );
    cluster.annotate_check(CHECK, "tocsin.dev/dry-run", "false");
    cluster.settle();
    assert_eq!(cluster.remediations(), ["Reboot/n0"]);
}

#[test]
fn a_dry_run_that_begins_later_gives_up_nothing() {
    let mut cluster = Cluster::new(1);
    cluster.fail("n0");
    cluster.settle();
    cluster.annotate_check(CHECK, "tocsin.dev/dry-run", "true");
    cluster.advance("2h");
    cluster.settle();
    let entry = cluster.status().unhealthy_nodes.unwrap().remove(0);
    let record = entry.remediations.unwrap().remove(0);
    assert_eq!(record.timed_out, None, "its remediator was not told to stop");
}
