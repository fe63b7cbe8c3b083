//! A process that dies between any two writes loses nothing.

use serde_json::json;

use super::{
    super::super::names,
    kit::{CHECK, Cluster},
    properties::guard,
};

/// What can be told from outside when a story is over.
#[derive(Debug, PartialEq)]
struct End {
    objects: Vec<String>,
    stopped: Vec<String>,
    leases: Vec<String>,
    waiting: Vec<String>,
    phase: Option<String>,
    attempts: Vec<(String, usize)>,
}

fn end(cluster: &Cluster) -> End {
    let status = cluster.status();
    let stopped = cluster.world.remediations.values().filter(|it| it.timed_out.is_some());
    End {
        objects: cluster.remediations(),
        stopped: stopped.map(|it| it.key.kind.kind.clone()).collect(),
        leases: cluster
            .world
            .leases
            .values()
            .map(|lease| format!("{} {}", lease.name, lease.holder))
            .collect(),
        waiting: cluster.waiting(),
        phase: status.phase,
        attempts: status
            .attempts
            .iter()
            .flatten()
            .map(|node| (node.name.clone(), node.started.len()))
            .collect(),
    }
}

type Scene = fn(&mut Cluster);
/// How a story begins, what happens in it, and how many writes it takes at least.
type Story = (fn() -> Cluster, &'static [(&'static str, Scene)], usize);

/// Each scene is followed by decisions until nothing is left to do.
const STORY: [(&str, Scene); 13] = [
    ("two nodes fail", |c| {
        c.fail("n0");
        c.fail("n1");
    }),
    ("half of the timeout", |c| c.advance("2m30s")),
    ("the first step times out", |c| c.advance("2m31s")),
    ("the second one fails on one node", |c| c.succeeded("Fence", "n0", "False")),
    ("a node recovers", |c| c.heal("n1")),
    ("its remediator is done", Cluster::finalize),
    ("the last step times out", |c| c.advance("3m")),
    ("another node fails", |c| c.fail("n2")),
    ("and is deleted", |c| drop(c.world.nodes.remove("n2"))),
    ("its remediator is done", Cluster::finalize),
    ("the first node recovers", |c| c.heal("n0")),
    ("its remediator is done", Cluster::finalize),
    ("it fails again, long after", |c| {
        c.advance("2h");
        c.fail("n0");
    }),
];

fn cluster() -> Cluster {
    let mut cluster = Cluster::new(6);
    cluster.guard = Some(guard);
    cluster.with_finalizers = true;
    cluster.world.lease_namespace = false;
    for name in ["fence", "replace"] {
        let kind = format!("{}{}Template", name[..1].to_uppercase(), &name[1..]);
        cluster.template(&kind, name, false);
    }
    let step = |kind: &str, name: &str, order: i32, timeout: &str| json!({ "remediationTemplate": Cluster::reference(kind, name), "order": order, "timeout": timeout });
    let steps = json!([
        step("RebootTemplate", "reboot", 1, "5m"),
        step("FenceTemplate", "fence", 2, "5m"),
        step("ReplaceTemplate", "replace", 3, "2m"),
    ]);
    cluster.check(CHECK, &json!({ "minHealthy": 2, "escalatingRemediations": steps }));
    cluster
}

/// Delays, confirmations, the control plane and a storm.
const CAREFUL: [(&str, Scene); 12] = [
    ("a control-plane node fails", |c| c.fail("c0")),
    ("so does another one", |c| c.fail("c1")),
    ("the first one is healthy again", |c| c.heal("c0")),
    ("its delay is over", |c| c.advance("2m1s")),
    ("its remediator is done", Cluster::finalize),
    ("the second one is confirmed to be healthy", |c| {
        c.heal("c1");
        c.annotate("c1", names::CONFIRMED_HEALTHY, "");
    }),
    ("its remediator is done", Cluster::finalize),
    ("too many fail", |c| {
        for name in ["n0", "n1", "n2"] {
            c.fail(name);
        }
    }),
    ("one recovers", |c| c.heal("n2")),
    ("the cooldown is over", |c| c.advance("1m1s")),
    ("one flaps", |c| c.heal("n0")),
    ("and is unhealthy again", |c| c.fail("n0")),
];

fn careful() -> Cluster {
    let mut cluster = Cluster::new(6);
    cluster.guard = Some(guard);
    cluster.with_finalizers = true;
    for name in ["c0", "c1"] {
        cluster.node(name, &[("role", "worker"), (names::CONTROL_PLANE_ROLES[0], "")]);
    }
    cluster.check(
        CHECK,
        &json!({ "minHealthy": 6, "healthyDelay": "2m", "stormCooldownDuration": "1m" }),
    );
    cluster
}

/// Plays the story; the process dies after so many writes, and another one takes over a lease's time later.
fn play(
    cluster: fn() -> Cluster,
    story: &[(&str, Scene)],
    dies_after: Option<usize>,
) -> (Vec<End>, usize) {
    let mut cluster = cluster();
    cluster.life = Some(dies_after.unwrap_or(10_000));
    let mut ends = Vec::new();
    for (_, scene) in story {
        scene(&mut cluster);
        cluster.settle();
        if cluster.life == Some(0) {
            cluster.life = None;
            cluster.advance("15s");
            cluster.settle();
        }
        ends.push(end(&cluster));
    }
    let writes = 10_000 - cluster.life.unwrap_or(10_000);
    (ends, writes)
}

#[test]
fn a_crash_between_any_two_writes_loses_nothing() {
    let stories: [Story; 2] = [(cluster, &STORY, 40), (careful, &CAREFUL, 20)];
    for (cluster, story, at_least) in stories {
        let (expected, writes) = play(cluster, story, None);
        assert!(writes >= at_least, "{writes}");
        for dies_after in 0..=writes {
            let (ends, _) = play(cluster, story, Some(dies_after));
            for ((end, expected), (scene, _)) in ends.iter().zip(&expected).zip(story) {
                assert_eq!(end, expected, "after {dies_after} writes, when {scene}");
            }
        }
    }
}

#[test]
fn the_memory_of_a_step_that_succeeded_in_vain_survives() {
    // Nothing but the status says that such a step is over: it is not told to stop.
    for dies_after in 0..8 {
        let mut cluster = Cluster::new(1);
        cluster.fail("n0");
        cluster.settle();
        cluster.succeeded("Reboot", "n0", "True");
        for _ in 0..4 {
            cluster.advance("9m");
            cluster.life = Some(dies_after);
            cluster.settle();
            cluster.life = None;
        }
        cluster.settle();
        assert_eq!(cluster.waiting(), ["n0 NoTemplateLeft"], "after {dies_after} writes");
        assert!(cluster.world.leases.is_empty());
    }
}
