//! The API server dies, hangs, refuses, forgets and comes back; the answers go by `ON_API_LOSS`, and never wait.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::PATIENCE;
use e2e::cluster::Front;
use e2e::sandbox::say;
use e2e::{Agent, ControlPlane, Sandbox};

use crate::cluster::{follows, on};

/// A loss changes nothing before.
const GRACE: Duration = Duration::from_secs(1);
/// A loss has changed everything after 1.5 s; and as much again for this machine.
const LOST: Duration = Duration::from_secs(3);
/// What is back is heard after 2 s; and as much for this machine.
const BACK: Duration = Duration::from_secs(4);
/// Half of the answers take this long at most, whatever the API server does: they take half a millisecond, on a
/// machine that does nothing else.
const ANSWER: Duration = Duration::from_millis(25);
/// No answer takes as long as anything that the agent waits for in the API server; ten of them run here at once.
const WAITED: Duration = Duration::from_millis(500);

/// How `node_ready` stands, and how long the answer took.
fn look(agent: &Agent) -> (u16, String, Duration) {
    let began = Instant::now();
    let health = agent.health("?check=node_ready");
    let took = began.elapsed();
    let check = health.check("node_ready").unwrap();
    let words = check.reason.clone().or_else(|| check.degraded.clone()).unwrap_or_default();
    let kind = if check.degraded.is_some() { "degraded: " } else { "" };
    (health.status, format!("{kind}{words}"), took)
}

/// Looks all the time until `is_there`, which takes from `least` to `most`; no answer waits.
fn changes(
    agent: &Agent,
    what: &str,
    [least, most]: [Duration; 2],
    is_there: impl Fn(u16, &str) -> bool,
) -> String {
    let (began, mut answers) = (Instant::now(), Vec::new());
    loop {
        let (status, words, took) = look(agent);
        answers.push(took);
        let passed = began.elapsed();
        if is_there(status, &words) {
            answers.sort_unstable();
            let (median, slowest) = (answers[answers.len() / 2], answers[answers.len() - 1]);
            say(&format!(
                "MEASURED {what} after {passed:?}, answers {median:?} to {slowest:?}: {words}"
            ));
            assert!(passed >= least, "{what}: too soon, after {passed:?}: {words}");
            assert!(median < ANSWER && slowest < WAITED, "an answer took {slowest:?}");
            return words;
        }
        if passed > most {
            agent.fail(&format!("{what}: not within {most:?}, but {status} {words}"));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The verdict of `ON_API_LOSS=open`.
fn is_open(status: u16, words: &str) -> bool {
    status == 200 && words.starts_with("degraded: Kubernetes API lost since 20")
}

fn is_well(status: u16, words: &str) -> bool {
    status == 200 && words.is_empty()
}

/// The log tells of so many losses, and of no more.
fn warned(agent: &Agent, times: usize) {
    const WORDS: &str = "Kubernetes API appears to be down";
    let what = format!("{times} times {WORDS:?} in the log");
    agent.wait_for(&what, PATIENCE, |agent| (agent.wait_told(&[WORDS]) >= times).then_some(()));
    assert_eq!(agent.wait_told(&[WORDS]), times);
}

fn agent_with(sandbox: &Sandbox, kubeconfig: &Path, node: &str, on_api_loss: &str) -> Agent {
    Agent::start_with(sandbox, |command| {
        command
            .env("KUBECONFIG", kubeconfig)
            .env("NODE_NAME", node)
            .env("ON_API_LOSS", on_api_loss);
    })
}

#[test]
fn killed_stopped_and_wiped() {
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
    agent.wait_told(&["Assuming node is ready."]);
    cluster.start_api();
    changes(&agent, "started again", [Duration::ZERO, BACK], is_well);
    warned(&agent, 1);

    // It accepts connections and never answers: only PINGs tell.
    cluster.stop_api();
    // A PING may have been without an answer for half a second by then.
    let words = changes(&agent, "stopped", [GRACE / 2, LOST], is_open);
    assert!(words.contains("PING") || words.contains("no answer"), "{words}");
    // An agent that starts now answers all the same.
    let began = Instant::now();
    let other = Agent::start_with(&sandbox, on(&cluster, &node));
    let (status, words, _) = look(&other);
    say(&format!("MEASURED first answer with a hanging API after {:?}: {words}", began.elapsed()));
    assert!(is_open(status, &words), "{status} {words}");
    assert_eq!(other.terminate().code(), Some(0));
    warned(&agent, 2);
    cluster.resume_api();
    changes(&agent, "resumed", [Duration::ZERO, BACK], is_well);

    // A pause that no PING notices is nobody's business.
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

    // Another cluster in its place, whose resource versions begin anew, and which has no such Node.
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
fn the_last_known_state_is_kept_where_that_is_wished() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let (good, bad) = (cluster.node("loss-good"), cluster.node("loss-bad"));
    bad.set_ready("False", "KubeletNotReady");
    bad.cordon();
    let tunnel = cluster.tunnel();
    let kubeconfig = tunnel.kubeconfig("admin");
    let start = |node: &str, policy| agent_with(&sandbox, &kubeconfig, node, policy);
    let keeps = [start(good.name(), "last-known"), start(bad.name(), "last-known")];
    let (opens, closes) = (start(bad.name(), "open"), start(good.name(), "closed"));
    follows(&keeps[0], "node_ready", None);
    follows(&keeps[1], "node_ready", Some("KubeletNotReady"));
    follows(&opens, "node_ready", Some("KubeletNotReady"));
    follows(&closes, "node_ready", None);

    tunnel.blackhole();
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
    changes(&keeps[0], "blackholed, last known good", within, is_kept);
    changes(&keeps[1], "blackholed, last known bad", within, is_kept_out);
    changes(&closes, "blackholed, closed", within, is_closed);
    assert_eq!(keeps[1].get("/nodecheck").body, "Down");
    assert_eq!(opens.get("/nodecheck").body, "OK");
    // While it is away, nothing changes any more.
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(300));
        assert_eq!(look(&keeps[1]).0, 503);
        assert_eq!(look(&keeps[0]).0, 200);
    }
    // What changed meanwhile is known at once.
    bad.set_ready("True", "KubeletReady");
    tunnel.pass();
    changes(&keeps[1], "back", [Duration::ZERO, BACK], is_well);
    changes(&closes, "back", [Duration::ZERO, BACK], is_well);

    // Connections that are closed, and refused.
    tunnel.refuse();
    changes(&opens, "refused, open", [Duration::ZERO, LOST], is_open);
    changes(&closes, "refused, closed", within, is_closed);
    tunnel.pass();
    changes(&opens, "back", [Duration::ZERO, BACK], is_well);
}

#[test]
fn an_api_that_cannot_be_reached_at_the_start() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss-start");
    let tunnel = cluster.tunnel();
    let kubeconfig = tunnel.kubeconfig("admin");
    tunnel.refuse();
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
    tunnel.pass();
    changes(&agent, "there at last", [Duration::ZERO, BACK], is_well);
}

#[test]
fn a_client_that_cannot_be_made() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss-client");
    let kubeconfig = sandbox.path("kubeconfig");
    for (text, words) in [
        (None, "No such file"),
        (Some("{"), "kubeconfig"),
        (Some("apiVersion: v1\nkind: Config\n"), "context"),
    ] {
        if let Some(text) = text {
            std::fs::write(&kubeconfig, text).unwrap();
        }
        let agent = agent_with(&sandbox, &kubeconfig, node.name(), "open");
        let (status, found, _) = look(&agent);
        assert!(is_open(status, &found), "{status} {found}");
        assert!(found.contains("no client for it can be made"), "{found}");
        assert!(found.contains(words), "{words}: {found}");
        // The file that comes later is read.
        std::fs::copy(cluster.kubeconfig("admin"), &kubeconfig).unwrap();
        changes(&agent, "a kubeconfig", [Duration::ZERO, BACK], is_well);
    }
}

#[test]
fn an_api_that_refuses() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss-refused");
    // A real 403: a user without any right.
    let agent = agent_with(&sandbox, &cluster.kubeconfig("nobody"), node.name(), "open");
    let (status, words, _) = look(&agent);
    assert!(is_open(status, &words), "{status} {words}");
    assert!(
        words.contains("it answers 403: Forbidden") && words.contains("cannot list"),
        "{words}"
    );
    warned(&agent, 1);
    for (status, body) in [
        (404, "<html>not here</html>"),
        (429, "{}"),
        (500, "{\"kind\":\"Status\",\"message\":\"etcd is gone\"}"),
        (503, ""),
        (200, "<html>log in</html>"),
        (200, "{}"),
        (302, ""),
    ] {
        let front = Front::answering(status, body);
        let agent = agent_with(&sandbox, &front.kubeconfig(), node.name(), "open");
        let (found, words, _) = look(&agent);
        assert!(is_open(found, &words), "{status} {body}: {found} {words}");
        assert!(status == 200 || words.contains(&status.to_string()), "{status}: {words}");
        thread::sleep(GRACE);
        let asked = front.requests().len();
        assert!((1..=8).contains(&asked), "{status}: {asked} requests in a second");
    }
}

#[test]
fn a_watch_that_is_gone_is_begun_anew() {
    let Some(cluster) = ControlPlane::private() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss-410");
    for status in ["True", "False", "True"] {
        node.set_ready(status, "X");
    }
    // The server has what etcd forgot in its memory.
    cluster.compact();
    cluster.kill_api();
    cluster.start_api();
    let front = Front::rewriting(&cluster, 2);
    let agent = agent_with(&sandbox, &front.kubeconfig(), node.name(), "closed");
    // Two watches end with 410; the third one stays.
    changes(&agent, "410 twice", [Duration::ZERO, BACK], is_well);
    agent.wait_for("a third watch", BACK, |_| {
        let watches = front.requests().iter().filter(|uri| uri.contains("watch=true")).count();
        (watches == 3).then_some(())
    });
    node.set_ready("False", "KubeletNotReady");
    follows(&agent, "node_ready", Some("KubeletNotReady"));
}

#[test]
fn a_server_without_http2_is_asked_now_and_then() {
    let without = |command: &mut Command| {
        command.arg("--disable-http2-serving");
    };
    let Some(cluster) = ControlPlane::private_with(without) else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss-http1");
    let agent = Agent::start_with(&sandbox, on(&cluster, &node));
    follows(&agent, "node_ready", None);
    agent.wait_told(&["speaks HTTP/1.1 only"]);
    node.set_ready("False", "KubeletNotReady");
    follows(&agent, "node_ready", Some("KubeletNotReady"));
    node.set_ready("True", "KubeletReady");
    follows(&agent, "node_ready", None);
    agent.wait_for("a question", PATIENCE, |_| {
        cluster.audit_of("admin").iter().find(|entry| entry.uri.starts_with("/version")).map(drop)
    });
    cluster.stop_api();
    // Four seconds between questions, one for the answer, one of grace.
    changes(&agent, "stopped", [GRACE, Duration::from_secs(9)], is_open);
    cluster.resume_api();
    changes(&agent, "resumed", [Duration::ZERO, BACK], is_well);
}

#[test]
fn a_token_that_changes_is_read_again() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss-token");
    let tunnel = cluster.tunnel();
    let token = sandbox.path("token");
    std::fs::write(&token, cluster.token("nobody")).unwrap();
    let admin = cluster.token("admin");
    let text = std::fs::read_to_string(tunnel.kubeconfig("admin")).unwrap();
    let by_file =
        text.replace(&format!(r#""token":"{admin}""#), &format!(r#""tokenFile":{token:?}"#));
    assert_ne!(by_file, text);
    let kubeconfig = sandbox.path("kubeconfig");
    std::fs::write(&kubeconfig, by_file).unwrap();
    let agent = agent_with(&sandbox, &kubeconfig, node.name(), "open");
    assert!(look(&agent).1.contains("403"), "{:?}", look(&agent));
    std::fs::write(&token, admin).unwrap();
    changes(&agent, "another token", [Duration::ZERO, BACK], is_well);
}

#[test]
fn what_a_login_plugin_or_a_broken_file_says_is_nobodys_business() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss-secrets");
    let kubeconfig = sandbox.path("kubeconfig");
    let plugin = |command: &str| {
        let text = std::fs::read_to_string(cluster.kubeconfig("admin")).unwrap();
        let mut config: serde_json::Value = serde_json::from_str(&text).unwrap();
        config["users"][0]["user"] = serde_json::json!({ "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "/bin/sh",
            "args": ["-c", command, "sh", "SECRET-argument"],
            "env": [{ "name": "KEY", "value": "SECRET-variable" }],
            "interactiveMode": "Never",
        }});
        config.to_string()
    };
    let fails = plugin("echo SECRET-out; echo SECRET-err >&2; exit 3");
    let broken = "users: [{name: u, user: {token: SECRET-token, oops".to_owned();
    for (text, words) in [
        (fails, "login plugin failed: exit status: 3"),
        (plugin("echo SECRET-out"), "login plugin says cannot be read"),
        (broken, "it is no kubeconfig"),
    ] {
        std::fs::write(&kubeconfig, text).unwrap();
        let agent = agent_with(&sandbox, &kubeconfig, node.name(), "open");
        let (status, found, _) = look(&agent);
        assert!(is_open(status, &found) && found.contains(words), "{status} {found}");
        let all = format!("{found}{}{}", agent.log().join("\n"), agent.get("/health?verbose").body);
        assert!(!all.contains("SECRET"), "{all}");
    }
    // One that takes its time holds up nobody, and its token is good for the rest.
    let status = serde_json::json!({
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": { "token": cluster.token("admin") },
    });
    std::fs::write(&kubeconfig, plugin(&format!("sleep 2; echo '{status}'"))).unwrap();
    let began = Instant::now();
    let agent = agent_with(&sandbox, &kubeconfig, node.name(), "open");
    // It is run twice.
    assert!(began.elapsed() < Duration::from_millis(3500), "{:?}", began.elapsed());
    changes(&agent, "a slow login", [Duration::ZERO, 2 * BACK], is_well);
}

#[test]
fn an_agent_that_stood_still_catches_up() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let Some(sandbox) = Sandbox::new() else { return };
    let node = cluster.node("loss-frozen");
    let agent = agent_with(&sandbox, &cluster.kubeconfig("admin"), node.name(), "closed");
    follows(&agent, "node_ready", None);
    // A virtual machine that is moved, say: longer than two signs of life of the thread that talks.
    agent.signal(rustix::process::Signal::STOP);
    thread::sleep(Duration::from_secs(11));
    agent.signal(rustix::process::Signal::CONT);
    // The server may have given up the connection, which costs a reconnection.
    changes(&agent, "awake", [Duration::ZERO, BACK], is_well);
    node.set_ready("False", "KubeletNotReady");
    follows(&agent, "node_ready", Some("KubeletNotReady"));
    agent.wait_told(&["the Node fails a check", "KubeletNotReady"]);
}
