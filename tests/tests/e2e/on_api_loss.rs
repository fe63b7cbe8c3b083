//! `ON_API_LOSS`: the API server dies, hangs, refuses, forgets and comes back, and no answer of the agent waits for it.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::cluster::FakeApiServer;
use e2e::sandbox::say;
use e2e::{Agent, ControlPlane, Sandbox};

use crate::do_not_wait;
use crate::node_checks::{follows, on};

/// A loss of the API server changes nothing for so long.
const GRACE: Duration = Duration::from_secs(1);
/// A loss has its effect after 1.5 s at most; and as much again for a busy machine.
const LOST: Duration = Duration::from_secs(3);
/// An API server that is back has its effect after 2 s at most; and as much again for a busy machine.
pub(crate) const BACK: Duration = Duration::from_secs(4);
/// The status and the words (reason, or `degraded: ` and why) of `node_ready`, and how long the answer took.
pub(crate) fn look(agent: &Agent) -> (u16, String, Duration) {
    let began = Instant::now();
    let health = agent.health("?check=node_ready");
    let took = began.elapsed();
    let check = health.check("node_ready").unwrap();
    let words = check.reason.clone().or_else(|| check.degraded.clone()).unwrap_or_default();
    let kind = if check.degraded.is_some() { "degraded: " } else { "" };
    (health.status, format!("{kind}{words}"), took)
}

/// Gets answers until a condition holds for one, which takes from `least` to `most`; no answer waits.
pub(crate) fn changes(
    agent: &Agent,
    what: &str,
    [least, most]: [Duration; 2],
    holds: impl Fn(u16, &str) -> bool,
) -> String {
    let (began, mut answers) = (Instant::now(), Vec::new());
    loop {
        let (status, words, took) = look(agent);
        answers.push(took);
        let passed = began.elapsed();
        if holds(status, &words) {
            say(&format!("MEASURED {what} after {passed:?}: {words}"));
            assert!(passed >= least, "{what}: too soon, after {passed:?}: {words}");
            do_not_wait(what, &mut answers);
            return words;
        }
        if passed > most {
            agent.fail(&format!("{what}: not within {most:?}, but {status} {words}"));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether an answer is that of `ON_API_LOSS=open` during a loss.
pub(crate) fn is_open(status: u16, words: &str) -> bool {
    status == 200 && words.starts_with("degraded: Kubernetes API lost since 20")
}

/// Whether an answer is the Node's own condition, which is `True`.
pub(crate) fn is_well(status: u16, words: &str) -> bool {
    status == 200 && words.is_empty()
}

/// The log has exactly so many losses.
fn warned(agent: &Agent, times: usize) {
    const WORDS: &str = "Kubernetes API appears to be down";
    let what = format!("{times} times {WORDS:?} in the log");
    agent.wait_for(&what, TIMEOUT, |agent| (agent.wait_for_log(&[WORDS]) >= times).then_some(()));
    assert_eq!(agent.wait_for_log(&[WORDS]), times);
}

pub(crate) fn agent_with(
    sandbox: &Sandbox,
    kubeconfig: &Path,
    node: &str,
    on_api_loss: &str,
) -> Agent {
    Agent::start_with(sandbox, |command| {
        command
            .env("KUBECONFIG", kubeconfig)
            .env("NODE_NAME", node)
            .env("ON_API_LOSS", on_api_loss);
    })
}

#[test]
fn an_api_server_that_is_killed_stopped_or_wiped() {
    let Some(cluster) = ControlPlane::private() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss");
    let agent = Agent::start_with(&sandbox, on(&cluster, &node));
    follows(&agent, "node_ready", None);

    cluster.kill_api();
    let words = changes(&agent, "killed", [GRACE / 2, LOST], is_open);
    assert!(words.contains("refused"), "{words}");
    assert_eq!(agent.health("").status, 200);
    warned(&agent, 1);
    agent.wait_for_log(&["Assuming node is ready."]);
    cluster.start_api();
    changes(&agent, "started again", [Duration::ZERO, BACK], is_well);
    warned(&agent, 1);

    // A stopped server accepts connections and never answers: only a PING finds that.
    cluster.stop_api();
    // A PING may have been without an answer for half a second by then.
    let words = changes(&agent, "stopped", [GRACE / 2, LOST], is_open);
    assert!(words.contains("PING") || words.contains("no answer"), "{words}");
    // An agent that starts now answers, too.
    let began = Instant::now();
    let other = Agent::start_with(&sandbox, on(&cluster, &node));
    let (status, words, _) = look(&other);
    say(&format!("MEASURED first answer with a hanging API after {:?}: {words}", began.elapsed()));
    assert!(is_open(status, &words), "{status} {words}");
    assert_eq!(other.terminate().code(), Some(0));
    warned(&agent, 2);
    cluster.resume_api();
    changes(&agent, "resumed", [Duration::ZERO, BACK], is_well);

    // A pause shorter than the time-out of a PING has no effect.
    cluster.stop_api();
    let until = Instant::now() + Duration::from_millis(400);
    while Instant::now() < until {
        let (status, words, _) = look(&agent);
        assert!(is_well(status, &words), "{status} {words}");
        thread::sleep(Duration::from_millis(5));
    }
    cluster.resume_api();
    let until = Instant::now() + GRACE;
    while Instant::now() < until {
        let (status, words, _) = look(&agent);
        assert!(is_well(status, &words), "{status} {words}");
        thread::sleep(Duration::from_millis(5));
    }
    warned(&agent, 2);

    // Another cluster in its place, whose resource versions begin anew and which has no such Node.
    cluster.start_api_wiped();
    let absent = |status: u16, words: &str| status == 503 && words.contains("has no Node");
    changes(&agent, "wiped", [Duration::ZERO, BACK], absent);
    let node = cluster.node("loss");
    follows(&agent, "node_ready", None);
    node.set_ready("False", "KubeletNotReady");
    follows(&agent, "node_ready", Some("KubeletNotReady"));
    drop(node);
}

#[test]
fn each_policy_has_its_verdict_during_a_loss() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let (good, bad) = (cluster.node("loss-good"), cluster.node("loss-bad"));
    bad.set_ready("False", "KubeletNotReady");
    bad.cordon();
    let proxy = cluster.proxy();
    let kubeconfig = proxy.kubeconfig("admin");
    let start = |node: &str, policy| agent_with(&sandbox, &kubeconfig, node, policy);
    let last_known = [start(good.name(), "last-known"), start(bad.name(), "last-known")];
    let (opens, closes) = (start(bad.name(), "open"), start(good.name(), "closed"));
    follows(&last_known[0], "node_ready", None);
    follows(&last_known[1], "node_ready", Some("KubeletNotReady"));
    follows(&opens, "node_ready", Some("KubeletNotReady"));
    follows(&closes, "node_ready", None);

    proxy.blackhole();
    let is_kept = |status: u16, words: &str| {
        status == 200 && words.starts_with("degraded: last known, of 20")
    };
    let is_kept_out = |status: u16, words: &str| {
        status == 503 && words.starts_with("KubeletNotReady (last known, of 20")
    };
    let is_closed =
        |status: u16, words: &str| status == 503 && words.starts_with("Kubernetes API lost since");
    let within = [Duration::ZERO, LOST];
    changes(&opens, "blackholed, open", within, is_open);
    changes(&last_known[0], "blackholed, last known good", within, is_kept);
    changes(&last_known[1], "blackholed, last known bad", within, is_kept_out);
    changes(&closes, "blackholed, closed", within, is_closed);
    assert_eq!(last_known[1].get("/nodecheck").body, "Down");
    assert_eq!(opens.get("/nodecheck").body, "OK");
    // The verdicts stay the same while the loss lasts.
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(300));
        assert_eq!(look(&last_known[1]).0, 503);
        assert_eq!(look(&last_known[0]).0, 200);
    }
    // A change of the Node during the loss has its effect at once.
    bad.set_ready("True", "KubeletReady");
    proxy.pass();
    changes(&last_known[1], "back", [Duration::ZERO, BACK], is_well);
    changes(&closes, "back", [Duration::ZERO, BACK], is_well);

    // Connections that are closed, and new ones that are refused.
    proxy.refuse();
    changes(&opens, "refused, open", [Duration::ZERO, LOST], is_open);
    changes(&closes, "refused, closed", within, is_closed);
    proxy.pass();
    changes(&opens, "back", [Duration::ZERO, BACK], is_well);
}

#[test]
fn an_api_server_that_cannot_be_reached_at_the_start() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss-start");
    let proxy = cluster.proxy();
    let kubeconfig = proxy.kubeconfig("admin");
    proxy.refuse();
    for (policy, status) in [("open", 200), ("last-known", 200), ("closed", 503)] {
        let began = Instant::now();
        let agent = agent_with(&sandbox, &kubeconfig, node.name(), policy);
        let (found, words, _) = look(&agent);
        let took = began.elapsed();
        say(&format!("MEASURED first answer, API refused, {policy}, after {took:?}: {words}"));
        assert_eq!(found, status, "{words}");
        assert!(words.contains("refused"), "{words}");
        warned(&agent, 1);
        assert_eq!(agent.terminate().code(), Some(0));
    }
    let agent = agent_with(&sandbox, &kubeconfig, node.name(), "open");
    assert!(is_open(look(&agent).0, &look(&agent).1));
    proxy.pass();
    changes(&agent, "reachable", [Duration::ZERO, BACK], is_well);
}

#[test]
fn an_api_server_that_answers_with_an_error() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss-refused");
    // A real 403, for a user without any right.
    let agent = agent_with(&sandbox, &cluster.kubeconfig("nobody"), node.name(), "open");
    let (status, words, _) = look(&agent);
    assert!(is_open(status, &words), "{status} {words}");
    assert!(
        words.contains("it answers 403: Forbidden") && words.contains("cannot list"),
        "{words}"
    );
    warned(&agent, 1);
    for (status, body, why) in [
        (404, "<html>not here</html>", "404"),
        (429, "{}", "429"),
        (500, "{\"kind\":\"Status\",\"message\":\"etcd is gone\"}", "500"),
        (503, "", "503"),
        (200, "<html>log in</html>", "it answers 200 with what is no JSON of Kubernetes"),
        (200, "{}", "missing field `items`"),
        (302, "", "302"),
    ] {
        let fake = FakeApiServer::answering(status, body);
        let agent = agent_with(&sandbox, &fake.kubeconfig(), node.name(), "open");
        let (found, words, _) = look(&agent);
        assert!(is_open(found, &words), "{status} {body}: {found} {words}");
        assert!(words.contains(why), "{status} {body}: {words}");
        thread::sleep(GRACE);
        let requests = fake.requests().len();
        assert!((1..=8).contains(&requests), "{status}: {requests} requests in a second");
    }
}

#[test]
fn a_watch_that_is_gone_starts_again() {
    let Some(cluster) = ControlPlane::private() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss-410");
    for status in ["True", "False", "True"] {
        node.set_ready(status, "X");
    }
    // Without a restart, the API server would still have in memory what etcd has forgotten.
    cluster.compact();
    cluster.kill_api();
    cluster.start_api();
    let fake = FakeApiServer::rewriting(&cluster, 2);
    let agent = agent_with(&sandbox, &fake.kubeconfig(), node.name(), "closed");
    // Two watches end with 410; the third one stays.
    changes(&agent, "410 twice", [Duration::ZERO, BACK], is_well);
    agent.wait_for("a third watch", BACK, |_| {
        let watches = fake.requests().iter().filter(|uri| uri.contains("watch=true")).count();
        (watches == 3).then_some(())
    });
    node.set_ready("False", "KubeletNotReady");
    follows(&agent, "node_ready", Some("KubeletNotReady"));
}

#[test]
fn an_api_server_without_http_2_is_polled() {
    let without = |command: &mut Command| {
        command.arg("--disable-http2-serving");
    };
    let Some(cluster) = ControlPlane::private_with(without) else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss-http1");
    let agent = Agent::start_with(&sandbox, on(&cluster, &node));
    follows(&agent, "node_ready", None);
    agent.wait_for_log(&["speaks HTTP/1.1 only"]);
    node.set_ready("False", "KubeletNotReady");
    follows(&agent, "node_ready", Some("KubeletNotReady"));
    node.set_ready("True", "KubeletReady");
    follows(&agent, "node_ready", None);
    agent.wait_for("a request for the version", TIMEOUT, |_| {
        cluster
            .requests_of("admin")
            .iter()
            .find(|entry| entry.uri.starts_with("/version"))
            .map(drop)
    });
    cluster.stop_api();
    // Four seconds between requests, one for an answer, and one of grace.
    changes(&agent, "stopped", [GRACE, Duration::from_secs(9)], is_open);
    cluster.resume_api();
    changes(&agent, "resumed", [Duration::ZERO, BACK], is_well);
}

#[test]
fn an_agent_that_was_stopped_catches_up() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss-frozen");
    let agent = agent_with(&sandbox, &cluster.kubeconfig("admin"), node.name(), "closed");
    follows(&agent, "node_ready", None);
    // As when a virtual machine is migrated: for longer than the agent's own watchdog of the cluster side waits.
    agent.signal(rustix::process::Signal::STOP);
    thread::sleep(Duration::from_secs(11));
    agent.signal(rustix::process::Signal::CONT);
    // The server may have closed the connection meanwhile, which costs a reconnection.
    changes(&agent, "awake", [Duration::ZERO, BACK], is_well);
    node.set_ready("False", "KubeletNotReady");
    follows(&agent, "node_ready", Some("KubeletNotReady"));
    agent.wait_for_log(&["the Node fails a check", "KubeletNotReady"]);
}
