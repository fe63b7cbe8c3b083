//! `/health`, `/nodename` and `/livez`: which checks run, what the response says, methods and paths.

use e2e::agent::TIMEOUT;
use e2e::health::Health;
use e2e::{Agent, Filesystem, Sandbox, Volume, inject};

/// The names of the checks in an answer, in its order.
fn names(agent: &Agent, query: &str) -> Vec<String> {
    names_at(agent, &format!("/health{query}"))
}

fn names_at(agent: &Agent, path: &str) -> Vec<String> {
    let health = Health::read(&agent.get(path));
    health.checks.iter().map(|check| check.name.clone()).collect()
}

const DEFAULT: [&str; 3] = ["filesystem_ro", "io_errors", "io_stall"];

#[test]
fn which_checks_run() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    assert_eq!(names(&agent, ""), DEFAULT);
    assert_eq!(names(&agent, "?check="), DEFAULT);
    assert_eq!(names(&agent, "?check=io_stall"), ["io_stall"]);
    assert_eq!(names(&agent, "?check=io_stall,io_errors"), ["io_stall", "io_errors"]);
    assert_eq!(
        names(&agent, "?check=%20io_stall%20,io_stall,io_errors"),
        ["io_stall", "io_errors"]
    );
    assert_eq!(names(&agent, "?exclude=io_errors"), ["filesystem_ro", "io_stall"]);
    assert_eq!(names(&agent, "?check=io_stall,io_errors&exclude=io_stall"), ["io_errors"]);
    assert_eq!(names_at(&agent, "/health/io_stall"), ["io_stall"]);
    let many: Vec<_> = (0..33).map(|number| format!("check{number}")).collect();
    assert_eq!(agent.get(&format!("/health?check={}", many.join(","))).status, 400);
}

#[test]
fn an_unknown_check_fails() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let health = agent.health("?check=bogus");
    assert_eq!(health.status, 503);
    assert_eq!(health.failure("bogus"), Some("Unknown check: bogus"));
    // The other checks still pass, and the verdict is that of all together.
    let health = agent.health("?check=io_errors,bogus,io_stall");
    assert_eq!(health.status, 503);
    assert!(health.passed("io_errors") && health.passed("io_stall"));
    // A name is data, whatever characters it has.
    let health = agent.health("?check=%22%0a%3Cb%3E");
    assert_eq!(health.failure("\"\n<b>"), Some("Unknown check: \"\n<b>"));
    // The response repeats a name, so its length has a limit.
    assert_eq!(agent.get(&format!("/health?check={}", "x".repeat(63))).status, 503);
    assert_eq!(agent.get(&format!("/health?check={}", "x".repeat(64))).status, 400);
}

#[test]
fn every_check_that_was_asked_for_has_to_pass() {
    const REFUSALS: &str = "tocsin_health_requests_total{code=\"503\"}";
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let agent = Agent::start(&sandbox);
    let before = agent.counter(REFUSALS);
    let at = inject::ext4_error(volume.device());
    agent.wait_failure(at, "filesystem_ro", &[]);
    assert_eq!(agent.health("?check=io_stall").status, 200);
    assert_eq!(agent.health("?check=io_stall,filesystem_ro").status, 503);
    assert_eq!(agent.health("?exclude=filesystem_ro,io_errors").status, 200);
    let text = agent.get("/health?verbose");
    assert_eq!(text.status, 503);
    assert!(text.body.contains("filesystem_ro") && text.body.contains(&volume.point_text()));
    // The process lives, whatever the verdict.
    assert_eq!(agent.get("/livez").status, 200);
    assert_eq!(agent.metric("tocsin_check_passed{check=\"filesystem_ro\"}"), Some(0.0));
    assert_eq!(agent.metric("tocsin_check_passed{check=\"io_stall\"}"), Some(1.0));
    assert_eq!(agent.counter("tocsin_faults_opened_total{kind=\"filesystem_ro\"}"), 1);
    assert!(agent.counter(REFUSALS) >= before + 3);
    let number = volume.device().number();
    let open =
        format!("tocsin_faults_open{{kind=\"filesystem_ro\",device=\"{number}\",scope=\"host\"}}");
    assert_eq!(agent.metric(&open), Some(1.0));
    // The counters are read once a second.
    let counted =
        format!("tocsin_kernel_events_total{{kind=\"ext4_error\",device=\"{number}\",errno=\"\"}}");
    agent.wait_for("the event in the metrics", TIMEOUT, |agent| {
        agent.metric(&counted).filter(|count| *count >= 1.0)
    });
}

#[test]
fn node_ready_without_a_cluster() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let health = agent.health("?check=node_ready");
    assert_eq!(health.status, 200);
    assert!(health.check("node_ready").unwrap().degraded.is_some(), "{health:?}");
    assert_eq!(agent.get("/nodename").body, "Node: \"node-1\"");
    drop(agent);

    let agent = Agent::start_with(&sandbox, |command| {
        command.env_remove("NODE_NAME");
    });
    assert_eq!(agent.get("/health?check=node_ready").status, 500);
    assert_eq!(agent.get("/health?check=io_stall,node_ready").status, 500);
    assert_eq!(agent.health("?check=io_stall").status, 200);
    assert_eq!(agent.health("").status, 200);
    assert_eq!(agent.get("/nodename").body, "Node: \"\"");
    drop(agent);

    let agent = Agent::start_with(&sandbox, |command| {
        command.env_remove("NODE_NAME").env("MY_NODE_NAME", "other");
    });
    assert_eq!(agent.get("/nodename").body, "Node: \"other\"");
    assert_eq!(agent.health("?check=node_ready").status, 200);
}

#[test]
fn methods_and_paths() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let get = agent.get("/health");
    assert_eq!(get.header("cache-control"), Some("no-store"));
    let head = agent.request("HEAD", "/health");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(head.header("content-type"), get.header("content-type"));
    // HAProxy's `option httpchk` asks with OPTIONS unless it is told otherwise.
    assert_eq!(agent.request("OPTIONS", "/health").status, 200);
    assert_eq!(agent.request("HEAD", "/health?check=bogus").status, 503);
    assert_eq!(agent.request("OPTIONS", "/health?check=bogus").status, 503);
    for method in ["POST", "PUT", "DELETE", "PATCH", "BREW"] {
        let answer = agent.request(method, "/health");
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET")), "{answer:?}");
    }
    for path in ["/", "/healthz/", "/health/", "//health", "/../etc/passwd", "/var/run/secrets"] {
        assert_eq!(agent.get(path).status, 404, "{path}");
    }
    // The two listeners do not show each other's pages.
    assert_eq!(agent.get("/metrics").status, 404);
    assert_eq!(agent.get("/faults").status, 404);
    assert_eq!(agent.admin("/health").status, 404);
}
