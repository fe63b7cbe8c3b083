//! `PUBLISH_CONDITIONS`: faults become conditions of the Node and Events about it.

use std::process::Command;
use std::time::{Duration, Instant};

use e2e::agent::{IO_ERROR_WINDOW, TIMEOUT};
use e2e::cluster::{AuditEntry, TestNode};
use e2e::faulty_disk::Operation;
use e2e::sandbox::say;
use e2e::{Agent, ControlPlane, Filesystem, Sandbox, Volume, inject};
use k8s_openapi::api::core::v1::NodeCondition;

use crate::names;
use crate::node_checks::{follows, on};

fn publishing(sandbox: &Sandbox, cluster: &ControlPlane, node: &TestNode) -> Agent {
    Agent::start_with(sandbox, |command: &mut Command| {
        on(cluster, node)(command);
        command.env("PUBLISH_CONDITIONS", "true").env("FAIL_ON_VOLUMES", "true");
    })
}

fn condition(node: &TestNode, kind: &str) -> Option<NodeCondition> {
    let conditions = node.get().status?.conditions?;
    conditions.into_iter().find(|condition| condition.type_ == kind)
}

/// Waits until a condition of the Node has this status, and gives the condition. The agent writes unchanged conditions
/// every few minutes only, so within the time-out a change is there because the agent has written it at once.
fn becomes(
    agent: &Agent,
    node: &TestNode,
    since: Instant,
    kind: &str,
    status: &str,
) -> NodeCondition {
    let found = agent.wait_for(&format!("{kind} {status}"), TIMEOUT, |_| {
        condition(node, kind).filter(|found| found.status == status)
    });
    let took = since.elapsed();
    let message = found.message.clone().unwrap_or_default();
    say(&format!("MEASURED {kind} {status} on the Node after {took:?}: {message}"));
    found
}

/// Reason, type, note and count of every Event about the Node, in any order.
fn events(node: &TestNode) -> Vec<(String, String, String, i32)> {
    let of = |event: k8s_openapi::api::core::v1::Event| {
        let series = event.series.and_then(|series| series.count).unwrap_or(1);
        let text = |text: Option<String>| text.unwrap_or_default();
        (text(event.reason), text(event.type_), text(event.message), series)
    };
    node.events().into_iter().map(of).collect()
}

/// Waits for an Event about the Node with this reason.
fn event(
    agent: &Agent,
    node: &TestNode,
    since: Instant,
    reason: &str,
) -> (String, String, String, i32) {
    let found = agent.wait_for(&format!("an event {reason}"), TIMEOUT, |_| {
        events(node).into_iter().find(|(found, ..)| found == reason)
    });
    let took = since.elapsed();
    say(&format!("MEASURED event {reason} after {took:?}: {}", found.2));
    found
}

#[test]
fn a_read_only_filesystem_is_a_condition_and_an_event_until_it_is_gone() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let node = cluster.node("publish-ro");
    let agent = publishing(&sandbox, &cluster, &node);
    let start = Instant::now();
    for (kind, reason) in [
        ("ReadonlyFilesystem", "FilesystemIsNotReadOnly"),
        ("DiskIOError", "DiskHasNoIOErrors"),
        ("DiskStalled", "DiskIsNotStalled"),
    ] {
        let found = becomes(&agent, &node, start, kind, "False");
        assert_eq!(found.reason.as_deref(), Some(reason));
    }
    let healthy = condition(&node, "ReadonlyFilesystem").unwrap();
    assert_eq!(events(&node), []);
    assert_eq!(
        node.condition("Ready").as_deref(),
        Some("True"),
        "the kubelet's condition is left alone"
    );

    let at = inject::ext4_error(volume.device());
    let found = becomes(&agent, &node, at, "ReadonlyFilesystem", "True");
    assert_eq!(found.reason.as_deref(), Some("FilesystemIsReadOnly"));
    let message = found.message.unwrap();
    let [device, point] = names(&volume);
    assert!(message.contains(&device) && message.contains(&point), "{message}");
    let opened = found.last_transition_time.unwrap();
    assert!(opened.0 >= healthy.last_transition_time.unwrap().0);
    let (_, kind, said, _) = event(&agent, &node, at, "ReadonlyFilesystem");
    assert_eq!(kind, "Warning");
    assert!(said.contains(&device) && said.contains(&point), "{said}");
    // custom_conditions leaves out the conditions that the agent itself has written.
    follows(&agent, "custom_conditions", None);

    // A restart of the agent changes nothing, not even lastTransitionTime.
    assert_eq!(agent.terminate().code(), Some(0));
    let agent = publishing(&sandbox, &cluster, &node);
    agent.wait_failure(Instant::now(), "filesystem_ro", &[&device]);
    std::thread::sleep(Duration::from_millis(1500));
    let after = condition(&node, "ReadonlyFilesystem").unwrap();
    assert_eq!((after.status.as_str(), after.last_transition_time.unwrap()), ("True", opened));

    volume.unmount();
    let at = Instant::now();
    let found = becomes(&agent, &node, at, "ReadonlyFilesystem", "False");
    assert_eq!(found.reason.as_deref(), Some("FilesystemIsNotReadOnly"));
    let (_, kind, said, _) = event(&agent, &node, at, "ReadonlyFilesystemOver");
    assert_eq!(kind, "Normal");
    assert!(said.contains(&device), "{said}");
}

#[test]
fn a_fault_that_opens_again_counts_up_its_event() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::breakable(&sandbox, "vol", Filesystem::Ext4WithoutJournal, "");
    inject::write_synced(&volume.path("file"), 1 << 20).unwrap();
    let range = inject::ext4_ranges(volume.device(), "/file").remove(0);
    let node = cluster.node("publish-io");
    let agent = publishing(&sandbox, &cluster, &node);
    for turn in 1..=2 {
        volume.control().fail(Operation::Write, e2e::faulty_disk::Errno::EIO, range.clone());
        let at = Instant::now();
        inject::write_block(&volume.path("file"), 0).unwrap_err();
        volume.control().heal();
        becomes(&agent, &node, at, "DiskIOError", "True");
        agent.wait_for("the event, counted", TIMEOUT, |_| {
            let found = events(&node);
            let count = |reason: &str| {
                found.iter().filter(|event| event.0 == reason).map(|event| event.3).sum::<i32>()
            };
            (count("DiskIOError") == turn).then_some(())
        });
        agent.wait_recovery(at, IO_ERROR_WINDOW + TIMEOUT);
        becomes(&agent, &node, Instant::now(), "DiskIOError", "False");
    }
    agent.wait_for("two events, each twice", TIMEOUT, |_| {
        let mut found: Vec<_> =
            events(&node).into_iter().map(|(reason, .., count)| (reason, count)).collect();
        found.sort();
        let expected = [("DiskIOError", 2), ("DiskIOErrorOver", 2)];
        found.iter().map(|(reason, count)| (reason.as_str(), *count)).eq(expected).then_some(())
    });
}

#[test]
fn conditions_that_others_change_or_remove_are_written_again() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("publish-heals");
    // A condition of this name by another writer, as node-problem-detector leaves it behind.
    node.set_condition("ReadonlyFilesystem", "True", "FilesystemIsReadOnly", "latched");
    let agent = publishing(&sandbox, &cluster, &node);
    becomes(&agent, &node, Instant::now(), "ReadonlyFilesystem", "False");
    let stays = condition(&node, "DiskIOError").unwrap().last_transition_time;
    std::thread::sleep(Duration::from_secs(1));
    node.set_condition("DiskStalled", "True", "Nonsense", "");
    becomes(&agent, &node, Instant::now(), "DiskStalled", "False");
    node.remove_condition("ReadonlyFilesystem");
    becomes(&agent, &node, Instant::now(), "ReadonlyFilesystem", "False");
    assert_eq!(condition(&node, "DiskIOError").unwrap().last_transition_time, stays);
}

#[test]
fn a_fault_during_an_outage_of_the_api_is_published_afterwards() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let node = cluster.node("publish-outage");
    let proxy = cluster.proxy();
    let agent = Agent::start_with(&sandbox, |command| {
        command
            .env("KUBECONFIG", proxy.kubeconfig("admin"))
            .env("NODE_NAME", node.name())
            .env("PUBLISH_CONDITIONS", "true")
            .env("FAIL_ON_VOLUMES", "true");
    });
    becomes(&agent, &node, Instant::now(), "ReadonlyFilesystem", "False");
    proxy.blackhole();
    let at = inject::ext4_error(volume.device());
    agent.wait_failure(at, "filesystem_ro", &[]);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(node.condition("ReadonlyFilesystem").as_deref(), Some("False"));
    let back = Instant::now();
    proxy.pass();
    let found = agent.wait_for("the condition", TIMEOUT, |_| {
        condition(&node, "ReadonlyFilesystem").filter(|found| found.status == "True")
    });
    agent.wait_for("the event", TIMEOUT, |_| {
        events(&node).iter().any(|event| event.0 == "ReadonlyFilesystem").then_some(())
    });
    say(&format!("MEASURED condition and event {:?} after the API was back", back.elapsed()));
    // lastTransitionTime is the time of the fault, not that of the write.
    let began = found.last_transition_time.unwrap().0;
    let beat = found.last_heartbeat_time.unwrap().0;
    assert!(beat.duration_since(began).as_secs() >= 3, "{began} {beat}");
}

#[test]
fn writes_are_limited_to_one_a_second_and_there_are_none_without_the_setting() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=continue");
    let (node, silent) = (cluster.node("publish-rate"), cluster.node("publish-silent"));
    let account = |name: &str| cluster.admin_account("publish-rate", name).user;
    let (publishing, reading) = (account("publishing"), account("reading"));
    let start = |user: &str, node: &TestNode, publish: &str| {
        Agent::start_with(&sandbox, |command| {
            command
                .env("KUBECONFIG", cluster.kubeconfig(user))
                .env("NODE_NAME", node.name())
                .env("PUBLISH_CONDITIONS", publish)
                .env("FAIL_ON_VOLUMES", "true");
        })
    };
    let began = Instant::now();
    let (agent, other) = (start(&publishing, &node, "true"), start(&reading, &silent, "false"));
    let at = inject::ext4_error(volume.device());
    for agent in [&agent, &other] {
        agent.wait_failure(at, "io_errors", &[]);
    }
    for _ in 0..20 {
        inject::ext4_error(volume.device());
        std::thread::sleep(Duration::from_millis(100));
    }
    becomes(&agent, &node, Instant::now(), "DiskIOError", "True");
    let seconds = began.elapsed().as_secs();
    let writes = |user: &str| {
        let mut writes = cluster.requests_of(user);
        writes.retain(AuditEntry::is_write);
        writes
    };
    let published = writes(&publishing);
    let count = |verb: &str, resource: &str| {
        published.iter().filter(|request| request.is(verb, resource)).count() as u64
    };
    let (conditions, events) = (count("patch", "nodes/status"), count("create", "events"));
    say(&format!("MEASURED {conditions} writes of conditions, {events} of events, {seconds} s"));
    assert!((2..=seconds + 2).contains(&conditions), "{conditions} in {seconds} s");
    assert_eq!(events, 1);
    assert_eq!(conditions + events, published.len() as u64, "{published:#?}");
    assert_eq!(writes(&reading).len(), 0);
    assert!(!cluster.requests_of(&reading).is_empty());
    assert_eq!(silent.condition("DiskIOError"), None);
}
