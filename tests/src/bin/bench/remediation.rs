//! Node remediation: how soon a kernel's fault becomes a remediation object, and what it costs in a cluster of five
//! thousand nodes of which two hundred fail at once.

use std::thread;
use std::time::{Duration, Instant};

use e2e::closed_loop::ClosedLoop;
use e2e::cluster::{AuditEntry, FLEET, Fleet};
use e2e::remediation::{define_node_health_check, new_node_health_check, node_health_check};
use e2e::{ControlPlane, Remediation, Remediator, Sandbox};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::idle::cpu_time_of;
use crate::report::Report;
use crate::scale::Scale;

/// The agent writes conditions once a second at most; faults that are further apart than that are the usual ones.
const APART: Duration = Duration::from_millis(1200);
/// The nodes of a large cluster, and those that fail.
const NODES: usize = 5000;
const FAIL: usize = 200;
/// How long a node has to be not ready. In that time all of them become so.
const UNHEALTHY_FOR: Duration = Duration::from_secs(20);
const NAME: &str = "bench-remediation";
/// How long anything may take before the bench gives up.
const LONG: Duration = Duration::from_mins(5);

/// Faults on a loop device, one after another, and their repairs.
pub(crate) fn closed_loop(sandbox: &Sandbox, scale: Scale, report: &mut Report) {
    let Some(cluster) = ControlPlane::private() else { return };
    let mut closed = ClosedLoop::start(&cluster, sandbox, "bench-loop", |command| {
        command.env("REMEDIATION_ATTEMPTS", "0").env("REMEDIATION_COOL_OFF", "0s");
    });
    let [mut condition, mut object, mut gone] = [const { Vec::new() }; 3];
    for _ in 0..scale.loop_rounds {
        thread::sleep(APART);
        let broken = closed.break_it();
        closed.wait_any_condition();
        condition.push(broken.elapsed());
        closed.wait_object();
        object.push(broken.elapsed());
        closed.wait_condition("True");
        thread::sleep(APART);
        let repaired = closed.repair();
        closed.wait_no_object();
        gone.push(repaired.elapsed());
        closed.wait_conditions("False");
    }
    report.times("kernel fault to condition", &mut condition, None);
    report.times("kernel fault to remediation object", &mut object, Some([1000.0, 3000.0]));
    report.times("repair to no remediation object", &mut gone, None);
}

/// A large cluster: nothing happens, then many nodes fail at once, and recover.
pub(crate) fn fleet(_: &Sandbox, scale: Scale, report: &mut Report) {
    let Some(cluster) = ControlPlane::private() else { return };
    define_node_health_check(&cluster);
    let remediator = Remediator::new(&cluster, NAME, "FleetReboot");
    let began = Instant::now();
    let fleet = Fleet::new(&cluster, NAME, NODES);
    report.note("nodes made", &format!("{NODES} in {:.0?}", began.elapsed()));
    let user = cluster.admin_account(NAME, "remediation").user;
    create_check(&cluster, &remediator);
    let began = Instant::now();
    let controller = Remediation::start(&cluster.kubeconfig(&user), NAME, |command| {
        command.env("REMEDIATION_ATTEMPTS", "0").env("REMEDIATION_COOL_OFF", "0s");
    });
    let healthy = |count: usize| {
        controller.wait(&format!("{count} healthy nodes"), LONG, || {
            (node_health_check(&cluster, NAME)["status"]["healthyNodes"] == count).then_some(())
        });
    };
    healthy(NODES);
    report.note("start to first status", &format!("{:.1} s", began.elapsed().as_secs_f64()));
    resident(report, &controller, "at the start");
    let synced = cluster.requests_of(&user).len();

    let idle = Duration::from_secs(scale.idle_seconds.max(20));
    let (asked, share) = quiet(&cluster, &controller, &user, || fleet.beat(idle));
    report.below("requests when idle", per_second(&asked, idle), 1.0, "/s");
    report.note("CPU when idle", &format!("{share:.3} % of a core"));

    let since = Timestamp::from_second(Timestamp::now().as_second()).expect("now");
    let before = cluster.requests_of(&user).len();
    fleet.set_ready(0..FAIL, "False", Some(since));
    let deadline = since + UNHEALTHY_FOR;
    assert!(Timestamp::now() < deadline, "the nodes did not fail in time");
    controller.wait("every object", LONG, || (remediator.names().len() == FAIL).then_some(()));
    report.below("all objects, after their deadline", seconds_since(deadline), 5.0, "s");
    let asked = cluster.requests_of(&user).split_off(before);
    let mut times: Vec<_> = asked
        .iter()
        .filter(|entry| entry.is("create", "fleetreboots"))
        .map(|entry| after(deadline, entry))
        .collect();
    report.times("creation of an object, after its deadline", &mut times, None);
    healthy(NODES - FAIL);
    let asked = cluster.requests_of(&user).split_off(before).len();
    report.note("requests for each of them", &format!("{:.1}", per(asked, FAIL)));
    resident(report, &controller, "with 200 objects");

    let (asked, share) = quiet(&cluster, &controller, &user, || fleet.beat(idle));
    report.below("requests when idle, with 200 objects", per_second(&asked, idle), 1.0, "/s");
    report.note("CPU when idle, with 200 objects", &format!("{share:.3} % of a core"));

    let began = Instant::now();
    fleet.set_ready(0..FAIL, "True", None);
    controller.wait("no object", LONG, || remediator.names().is_empty().then_some(()));
    report.note("recovery to no object", &format!("{:.1} s", began.elapsed().as_secs_f64()));
    healthy(NODES);
    resident(report, &controller, "in the end");
    let asked = cluster.requests_of(&user).split_off(synced);
    let lists = asked.iter().filter(|entry| entry.verb == "list").count();
    report.below("LISTs after the start", per(lists, 1), 1.0, "");
}

fn create_check(cluster: &ControlPlane, remediator: &Remediator) {
    let duration = format!("{}s", UNHEALTHY_FOR.as_secs());
    let fields = json!({
        "minHealthy": "51%",
        "unhealthyConditions": [{ "type": "Ready", "status": "False", "duration": duration }],
        "remediationTemplate": remediator.reference("a"),
    });
    cluster.create(&new_node_health_check(NAME, FLEET, &fields));
}

/// What the controller asks, and its share of a processor in percent, while nothing but that happens.
fn quiet(
    cluster: &ControlPlane,
    controller: &Remediation,
    user: &str,
    meanwhile: impl FnOnce(),
) -> (Vec<AuditEntry>, f64) {
    // Events are written at a bounded rate, and some may still wait.
    controller.wait("the last event", LONG, || {
        let events =
            || cluster.requests_of(user).iter().filter(|it| it.resource == "events").count();
        let before = events();
        thread::sleep(Duration::from_secs(3));
        (events() == before).then_some(())
    });
    let pid = controller.process().pid();
    let (before, cpu, began) = (cluster.requests_of(user).len(), cpu_time_of(pid), Instant::now());
    meanwhile();
    let spent = cpu_time_of(pid).saturating_sub(cpu).as_secs_f64();
    let share = spent / began.elapsed().as_secs_f64() * 100.0;
    (cluster.requests_of(user).split_off(before), share)
}

fn resident(report: &mut Report, controller: &Remediation, when: &str) {
    let mib = |kib: u64| per(usize::try_from(kib).expect("a size"), 1024);
    let pid = controller.process().pid();
    report.below(&format!("resident, {when}"), mib(e2e::sys::resident_kib(pid)), 64.0, "MiB");
    let peak = e2e::sys::peak_resident_kib(pid);
    report.below(&format!("highest resident until then, {when}"), mib(peak), 64.0, "MiB");
}

fn per_second(asked: &[AuditEntry], duration: Duration) -> f64 {
    per(asked.len(), 1) / duration.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn per(count: usize, each: usize) -> f64 {
    count as f64 / each as f64
}

fn seconds_since(deadline: Timestamp) -> f64 {
    Timestamp::now().duration_since(deadline).as_secs_f64()
}

/// When a request came in, after the deadline; zero is exactly at it, and sooner is a bug.
fn after(deadline: Timestamp, entry: &AuditEntry) -> Duration {
    let received: Timestamp = entry.received.parse().expect("a time");
    let late = received.duration_since(deadline);
    Duration::try_from(late).expect("no object is made before its deadline")
}
