//! The health listener's HTTP/1, byte by byte, as load balancers speak it.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::http::{connect, exchange, read_to_close};
use e2e::netns::NetNs;
use e2e::sandbox::say;
use e2e::{Agent, Filesystem, Sandbox, Volume, inject};

#[test]
fn requests_of_load_balancers_are_responseed_and_their_connections_closed() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let to = agent.health_address();
    // Request, first line of the response, whether the response has a body.
    for (request, first, has_body) in [
        // HAProxy's default, HAProxy with a URI, F5's default, nginx's, ldirectord's.
        ("OPTIONS / HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK", true),
        ("OPTIONS /health HTTP/1.0\r\nConnection: close\r\n\r\n", "HTTP/1.0 200 OK", true),
        ("HEAD /health HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK", false),
        ("GET /health\r\n", "HTTP/1.0 200 OK", true),
        ("GET /health HTTP/1.0\n\n", "HTTP/1.0 200 OK", true),
        ("GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK", true),
        ("HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK", false),
        ("GET http://x/health HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK", true),
    ] {
        let response = exchange(to, request.as_bytes());
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert_eq!(head.lines().next(), Some(first), "{request:?}");
        assert_eq!(body.starts_with(r#"{"status":"ready","#), has_body, "{request:?}: {body}");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        assert!(!has_body || length.parse() == Ok(body.len()), "{request:?}: {head}");
    }
}

#[test]
fn a_malformed_request_gets_an_error_as_json_and_is_closed() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let to = agent.health_address();
    let line = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(9000));
    let header = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(9000));
    let headers = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(101));
    for (request, status) in [
        ("SSH-2.0-OpenSSH_9\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        ("GET\r\n\r\n", 400),
        ("\0\0\0\0\r\n\r\n", 400),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{7c}\x03\x03", 400),
        ("GET / HTTP/3.0\r\n\r\n", 505),
        (&line, 414),
        (&header, 431),
        (&headers, 431),
        ("GET /nowhere HTTP/1.0\r\n\r\n", 404),
        ("DELETE /health HTTP/1.0\r\n\r\n", 405),
    ] {
        let response = exchange(to, request.as_bytes());
        let what = &request[..request.len().min(40)];
        assert!(
            response.starts_with(&format!(
                "HTTP/1.{} {status} ",
                u8::from(status != 404 && status != 405)
            )),
            "{what:?}: {response}"
        );
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nContent-Type: application/json\r\n"), "{what:?}: {head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(body["error"].is_string(), "{what:?}: {body}");
        assert_eq!(head.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n"), status == 405);
    }
    assert_eq!(agent.health("").status, 200);
}

/// The listener closes while most of the request is unread, so the response may be lost, but the connection ends.
#[test]
fn a_request_of_a_mebibyte_ends_the_connection() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let long = format!("GET /health?check={} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1 << 20));
    for _ in 0..20 {
        let mut stream = connect(agent.health_address());
        let is_reset = |kind| [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe].contains(&kind);
        if let Err(error) = stream.write_all(long.as_bytes()) {
            assert!(is_reset(error.kind()), "{error}");
        }
        let mut response = Vec::new();
        match stream.read_to_end(&mut response) {
            Ok(_) => assert!(response.starts_with(b"HTTP/1.1 414 "), "{response:?}"),
            Err(error) => assert!(is_reset(error.kind()), "{error}"),
        }
    }
    assert_eq!(agent.health("").status, 200);
}

#[test]
fn pipelined_requests_and_requests_in_pieces_are_responseed() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let one = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n";
    let response =
        exchange(agent.health_address(), format!("{}{last}", one.repeat(500)).as_bytes());
    assert_eq!(response.matches("HTTP/1.1 200 OK\r\n").count(), 501);
    assert!(response.ends_with("\r\n\r\nok"));

    let mut stream = connect(agent.health_address());
    for byte in format!("{one}{last}").bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(read_to_close(&stream).matches("HTTP/1.1 200 OK\r\n").count(), 2);

    // An HTTP/1.0 client asks for a connection that stays open, and the response says that it does.
    let old = "GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let response = exchange(agent.health_address(), format!("{old}{last}").as_bytes());
    assert!(response.starts_with("HTTP/1.0 200 OK\r\n"), "{response}");
    assert!(response.contains("\r\nConnection: keep-alive\r\n"), "{response}");
    assert_eq!(response.matches(" 200 OK\r\n").count(), 2);

    // The body of a request is skipped.
    let mut stream = connect(agent.health_address());
    let body = "x".repeat(100_000);
    let head = "POST /nodename HTTP/1.1\r\nContent-Length: 100000\r\n\r\n";
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    assert!(read_to_close(&stream).starts_with("HTTP/1.1 200 OK\r\n"));
    // Also where the response waits for the first sample of a probe.
    let mut stream = connect(agent.health_address());
    let head = "GET /health?check=disk_pressure HTTP/1.1\r\nContent-Length: 100000\r\n\r\n";
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let response = read_to_close(&stream);
    assert!(response.ends_with('}') && response.contains("disk_pressure"), "{response}");

    // A client may close its half of the connection behind the request.
    let mut stream = connect(agent.health_address());
    stream.write_all(one.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(read_to_close(&stream).starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn a_request_has_two_seconds_from_its_first_byte_on_and_an_idle_connection_has_more() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let silent = connect(agent.health_address());
    let mut slow = connect(agent.health_address());
    let began = Instant::now();
    // A byte now and then gives it no more time.
    let response = loop {
        if slow.write_all(b"G").is_err() {
            break String::new();
        }
        slow.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut some = [0; 1024];
        match slow.read(&mut some) {
            Ok(read) => break String::from_utf8_lossy(&some[..read]).into_owned(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
        assert!(began.elapsed() < TIMEOUT);
    };
    let took = began.elapsed();
    assert!(response.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{response}");
    assert!(took > Duration::from_millis(1500), "{took:?}");
    say(&format!("MEASURED {}: 408 after {took:?}", sandbox.name()));
    // The connection without a request is still open.
    let mut silent = silent;
    silent.write_all(b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    assert!(read_to_close(&silent).starts_with("HTTP/1.1 200 OK\r\n"));
    agent.wait_for("the time-out is counted", TIMEOUT, |agent| {
        (agent.counter("tocsin_health_connections_timed_out_total") == 1).then_some(())
    });
}

#[test]
fn an_empty_line_behind_a_request_begins_no_other_request() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let mut stream = connect(agent.health_address());
    for _ in 0..2 {
        stream.write_all(b"GET /livez HTTP/1.1\r\n\r\n\r\n").unwrap();
        let mut some = [0; 1024];
        let read = stream.read(&mut some).unwrap();
        let response = String::from_utf8_lossy(&some[..read]);
        assert!(response.ends_with("\r\n\r\nok"), "{response}");
        // For longer than a request may take: no 408 follows.
        stream.set_read_timeout(Some(Duration::from_millis(2500))).unwrap();
        let quiet = stream.read(&mut some);
        assert!(matches!(&quiet, Err(e) if e.kind() == ErrorKind::WouldBlock), "{quiet:?}");
    }
}

#[test]
fn a_response_that_does_not_fit_into_the_socket_buffer_arrives_whole() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(host) = NetNs::new() else { return };
    // The kernel takes a few small segments at a time.
    host.ip("link set lo mtu 1500 gso_max_segs 1");
    host.set("ipv4/tcp_wmem", "4096 4096 4096");
    host.run(|| {
        let agent = Agent::start(&sandbox);
        let names: Vec<_> = (0..32).map(|n| format!("{n:02}{}", "x".repeat(61))).collect();
        let request = format!("GET /health?check={} HTTP/1.0\r\n\r\n", names.join(","));
        for _ in 0..20 {
            let response = exchange(agent.health_address(), request.as_bytes());
            let (head, body) = response.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.0 503 "), "{head}");
            assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
            assert!(body.len() > 6000, "{}", body.len());
        }
    });
}

#[test]
fn each_format_has_the_verdict() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "data", Filesystem::Ext4, "errors=remount-ro");
    let agent = Agent::start(&sandbox);
    let healthy = agent.get("/health");
    assert_eq!(healthy.header("x-tocsin-reason"), None);
    assert!(healthy.body.starts_with(r#"{"status":"ready""#), "{}", healthy.body);
    let json = |status: &str| {
        let request = "GET /health HTTP/1.0\r\nAccept: application/health+json\r\n\r\n";
        let response = exchange(agent.health_address(), request.as_bytes());
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nContent-Type: application/health+json\r\n"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["status"], status, "{body}");
        assert_eq!(body["serviceId"], "node-1");
        body
    };
    let body = json("pass");
    assert_eq!(body["checks"]["filesystem_ro:responseTime"][0]["status"], "pass");

    let at = inject::ext4_error(volume.device());
    agent.wait_failure(at, "filesystem_ro", &[&volume.device().name()]);
    let body = json("fail");
    let component = &body["checks"]["filesystem_ro:errors"][0];
    assert_eq!(component["componentId"], volume.device().number());
    assert_eq!(
        (&component["status"], &component["componentType"]),
        (&"fail".into(), &"datastore".into())
    );
    let response = agent.get("/health");
    assert!(response.body.starts_with(r#"{"status":"not-ready""#), "{}", response.body);
    let reason = response.header("x-tocsin-reason").unwrap();
    assert!(
        reason.starts_with("filesystem_ro: ") && reason.contains(&volume.device().name()),
        "{reason}"
    );
    let page = agent.get("/health?verbose");
    assert!(page.body.contains("[-]filesystem_ro failed: "), "{}", page.body);
    assert!(page.body.ends_with("health check failed\n"), "{}", page.body);
    assert_eq!(agent.get("/health?verbose&exclude=filesystem_ro,io_errors").status, 200);
    assert_eq!(agent.get("/health/filesystem_ro").status, 503);
    assert_eq!(agent.get("/health/io_stall").status, 200);
}
