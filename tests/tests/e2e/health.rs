//! The health listener: which checks run, what the answer looks like, and what is not an answer.

use e2e::agent::PATIENCE;
use e2e::http::Connection;
use e2e::{Agent, Filesystem, Sandbox, Volume, inject};

fn names(agent: &Agent, query: &str) -> Vec<String> {
    agent.health(query).checks.into_iter().map(|check| check.name).collect()
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
    let health = e2e::health::Health::read(&agent.get("/health/io_stall"));
    assert_eq!((health.status, health.checks.len()), (200, 1));
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
    // One bad makes all bad; the good ones still say that they are good.
    let health = agent.health("?check=io_errors,bogus,io_stall");
    assert_eq!(health.status, 503);
    assert!(health.passed("io_errors") && health.passed("io_stall"));
    // Whatever is asked for is only ever data.
    let health = agent.health("?check=%22%0a%3Cb%3E");
    assert_eq!(health.failure("\"\n<b>"), Some("Unknown check: \"\n<b>"));
    // None is as long as this, and it would be repeated in the answer.
    assert_eq!(agent.get(&format!("/health?check={}", "x".repeat(63))).status, 503);
    assert_eq!(agent.get(&format!("/health?check={}", "x".repeat(64))).status, 400);
}

#[test]
fn every_check_that_was_asked_for_has_to_pass() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    let agent = Agent::start(&sandbox);
    let at = inject::ext4_error(volume.device());
    agent.wait_failure(at, "filesystem_ro", &[]);
    assert_eq!(agent.health("?check=io_stall").status, 200);
    assert_eq!(agent.health("?check=io_stall,filesystem_ro").status, 503);
    assert_eq!(agent.health("?exclude=filesystem_ro,io_errors").status, 200);
    let text = agent.get("/health?verbose");
    assert_eq!(text.status, 503);
    assert!(text.body.contains("filesystem_ro") && text.body.contains(&volume.point_text()));
    // The process is fine.
    assert_eq!(agent.get("/livez").status, 200);
    let counted = "tocsin_kernel_events_total{kind=\"ext4_error\"";
    let metrics = agent.wait_for("the event in the metrics", PATIENCE, |agent| {
        Some(agent.admin("/metrics").body).filter(|metrics| metrics.contains(counted))
    });
    assert!(metrics.lines().any(|line| line == "tocsin_check_passed{check=\"filesystem_ro\"} 0"));
    assert!(metrics.lines().any(|line| line == "tocsin_check_passed{check=\"io_stall\"} 1"));
    assert!(metrics.contains("tocsin_faults_open{kind=\"filesystem_ro\""), "{metrics}");
    assert!(metrics.contains("tocsin_health_requests_total{code=\"503\"}"), "{metrics}");
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

#[test]
fn what_is_not_http() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let ask = |bytes: &[u8]| Connection::open(agent.health_address()).unwrap().send(bytes);
    for bytes in [&b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"[..], b"GET\r\n\r\n", b"\0\0\0\0\r\n\r\n"]
    {
        // A 4xx or a closed connection, in finite time.
        if let Ok(answer) = ask(bytes) {
            assert!((400..500).contains(&answer.status), "{answer:?}");
        }
    }
    let long = format!("GET /health?check={} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1 << 20));
    if let Ok(answer) = ask(long.as_bytes()) {
        assert!((400..500).contains(&answer.status), "{answer:?}");
    }
    // HTTP/1.0, as many load balancers' checks speak it.
    let answer = ask(b"GET /health HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(agent.health("").status, 200);
}
