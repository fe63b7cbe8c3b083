//! Node remediation in a cluster of many nodes: what it asks of the API server, counted by the API server itself.

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::cluster::{AuditEntry, FLEET, Fleet};
use e2e::remediation::{define_node_health_check, new_node_health_check, node_health_check};
use e2e::sandbox::say;
use e2e::{ControlPlane, Remediation, Remediator};
use serde_json::json;

const NAME: &str = "rem-fleet";
const NODES: usize = 500;
const FAIL: usize = 50;
/// For what takes seconds at most on a machine that does nothing else.
const LONG: Duration = Duration::from_mins(2);

/// How often each verb was used on each resource.
fn tally(entries: &[AuditEntry]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for entry in entries {
        *tally.entry(format!("{} {}", entry.verb, entry.resource)).or_default() += 1;
    }
    tally
}

#[test]
fn many_nodes_that_fail_cost_a_few_writes_each_and_no_list() {
    let Some(cluster) = ControlPlane::private() else { return };
    define_node_health_check(&cluster);
    let remediator = Remediator::new(&cluster, NAME, "FleetReboot");
    let fleet = Fleet::new(&cluster, NAME, NODES);
    let user = cluster.admin_account(NAME, "remediation").user;
    let controller = Remediation::start(&cluster.kubeconfig(&user), NAME, |_| {});
    let fields = json!({
        "minHealthy": "51%",
        "unhealthyConditions": [{ "type": "Ready", "status": "False", "duration": "0s" }],
        "remediationTemplate": remediator.reference("a"),
    });
    cluster.create(&new_node_health_check(NAME, FLEET, &fields));
    let healthy = |count: usize| {
        controller.wait(&format!("{count} healthy nodes"), LONG, || {
            (node_health_check(&cluster, NAME)["status"]["healthyNodes"] == count).then_some(())
        });
    };
    healthy(NODES);
    let before = cluster.requests_of(&user).len();
    say(&format!("500 nodes: resident {} KiB", controller.process().resident_kib()));

    fleet.set_ready(0..FAIL, "False", None);
    controller.wait("every object", LONG, || (remediator.names().len() == FAIL).then_some(()));
    healthy(NODES - FAIL);
    fleet.set_ready(0..FAIL, "True", None);
    controller.wait("no object", LONG, || remediator.names().is_empty().then_some(()));
    healthy(NODES);

    let asked = cluster.requests_of(&user).split_off(before);
    let lists = asked.iter().filter(|entry| entry.verb == "list").count();
    assert_eq!(lists, 0, "{:#?}", tally(&asked));
    // One that got no answer in time is sent again, and refused.
    let done = |verb: &str, resource: &str| {
        let of = asked.iter().filter(|entry| entry.is(verb, resource));
        of.filter(|entry| entry.code.is_some_and(|code| code < 300)).count()
    };
    assert_eq!(done("create", "fleetreboots"), FAIL, "{:#?}", tally(&asked));
    assert_eq!(done("delete", "fleetreboots"), FAIL, "{:#?}", tally(&asked));
    // The lease, the object and events of each node, there and back; statuses and the leader's lease beside.
    assert!(asked.len() < FAIL * 8 + 200, "{:#?}", tally(&asked));

    // Events are written at a bounded rate, and some still wait.
    controller.wait("the last event", LONG, || {
        let events =
            || cluster.requests_of(&user).iter().filter(|it| it.resource == "events").count();
        let before = events();
        // Longer than an API server that is short of processors takes for one.
        std::thread::sleep(Duration::from_secs(6));
        (events() == before).then_some(())
    });
    let before = cluster.requests_of(&user).len();
    fleet.beat(Duration::from_secs(10));
    let asked = cluster.requests_of(&user).split_off(before);
    assert!(asked.len() < 10, "less than one a second while nothing happens: {:#?}", tally(&asked));
    assert!(asked.iter().all(|entry| entry.verb != "list"), "{:#?}", tally(&asked));
}
