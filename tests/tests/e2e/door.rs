//! The health listener as load balancers see it, byte by byte, and over HTTP/2 and TLS.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::agent::PATIENCE;
use e2e::netns::NetNs;
use e2e::sandbox::say;
use e2e::{Agent, Filesystem, Sandbox, Volume, http2, inject, require, tool};

fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// All that comes until the agent closes.
fn rest(mut stream: &TcpStream) -> String {
    let mut text = Vec::new();
    let end = stream.read_to_end(&mut text);
    assert!(end.is_ok(), "{end:?} after {:?}", String::from_utf8_lossy(&text));
    String::from_utf8(text).unwrap()
}

fn ask(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(to);
    stream.write_all(bytes).unwrap();
    rest(&stream)
}

#[test]
fn what_load_balancers_send_is_answered_and_closed_as_they_expect() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let to = agent.health_address();
    // (request, first line, whether there is a body)
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
        let answer = ask(to, request.as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(head.lines().next(), Some(first), "{request:?}");
        assert_eq!(body.starts_with(r#"{"status":"ready","#), has_body, "{request:?}: {body}");
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
        assert!(!has_body || length.parse() == Ok(body.len()), "{request:?}: {head}");
    }
}

#[test]
fn what_is_no_request_is_told_so_in_json_and_closed() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let to = agent.health_address();
    let line = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(9000));
    let header = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(9000));
    let headers = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(101));
    for (request, status) in [
        ("SSH-2.0-OpenSSH_9\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        ("\0\0\0\0\r\n\r\n", 400),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{7c}\x03\x03", 400),
        ("GET / HTTP/3.0\r\n\r\n", 505),
        (&line, 414),
        (&header, 431),
        (&headers, 431),
        ("GET /nowhere HTTP/1.0\r\n\r\n", 404),
        ("DELETE /health HTTP/1.0\r\n\r\n", 405),
    ] {
        let answer = ask(to, request.as_bytes());
        let what = &request[..request.len().min(40)];
        assert!(
            answer.starts_with(&format!(
                "HTTP/1.{} {status} ",
                u8::from(status != 404 && status != 405)
            )),
            "{what:?}: {answer}"
        );
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nContent-Type: application/json\r\n"), "{what:?}: {head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(body["error"].is_string(), "{what:?}: {body}");
        assert_eq!(head.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n"), status == 405);
    }
    assert_eq!(agent.health("").status, 200);
}

#[test]
fn requests_can_be_sent_ahead_and_in_pieces() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let one = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    let last = "GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n";
    let answer = ask(agent.health_address(), format!("{}{last}", one.repeat(500)).as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 200 OK\r\n").count(), 501);
    assert!(answer.ends_with("\r\n\r\nok"));

    let mut stream = connect(agent.health_address());
    for byte in format!("{one}{last}").bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(rest(&stream).matches("HTTP/1.1 200 OK\r\n").count(), 2);

    // Old clients that keep a connection say so, and are told so.
    let old = "GET /livez HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let answer = ask(agent.health_address(), format!("{old}{last}").as_bytes());
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.contains("\r\nConnection: keep-alive\r\n"), "{answer}");
    assert_eq!(answer.matches(" 200 OK\r\n").count(), 2);

    // A body is nobody's business here; whoever sends one gets an answer all the same.
    let mut stream = connect(agent.health_address());
    let body = "x".repeat(100_000);
    let head = "POST /nodename HTTP/1.1\r\nContent-Length: 100000\r\n\r\n";
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    assert!(rest(&stream).starts_with("HTTP/1.1 200 OK\r\n"));
    // Also where the answer has to wait for a probe, which runs for the first time.
    let mut stream = connect(agent.health_address());
    let head = "GET /health?check=disk_pressure HTTP/1.1\r\nContent-Length: 100000\r\n\r\n";
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    let answer = rest(&stream);
    assert!(answer.ends_with('}') && answer.contains("disk_pressure"), "{answer}");

    // A client that has nothing more to say can say that at once.
    let mut stream = connect(agent.health_address());
    stream.write_all(one.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert!(rest(&stream).starts_with("HTTP/1.1 200 OK\r\n"));
}

#[test]
fn who_begins_a_request_has_two_seconds_and_who_does_not_has_thirty() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let silent = connect(agent.health_address());
    let mut slow = connect(agent.health_address());
    let began = Instant::now();
    // However it drips.
    let answer = loop {
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
        assert!(began.elapsed() < PATIENCE);
    };
    let took = began.elapsed();
    assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
    assert!(took > Duration::from_millis(1500), "{took:?}");
    say(&format!("MEASURED {}: 408 after {took:?}", sandbox.name()));
    // Meanwhile nobody minds a connection on which nothing was asked yet.
    let mut silent = silent;
    silent.write_all(b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    assert!(rest(&silent).starts_with("HTTP/1.1 200 OK\r\n"));
    agent.wait_for("the time-out is counted", PATIENCE, |agent| {
        let metrics = agent.admin("/metrics").body;
        metrics.contains("tocsin_health_connections_timed_out_total 1\n").then_some(())
    });
}

#[test]
fn an_empty_line_behind_a_request_begins_no_other_one() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let mut stream = connect(agent.health_address());
    for _ in 0..2 {
        stream.write_all(b"GET /livez HTTP/1.1\r\n\r\n\r\n").unwrap();
        let mut some = [0; 1024];
        let read = stream.read(&mut some).unwrap();
        let answer = String::from_utf8_lossy(&some[..read]);
        assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
        // Longer than a request may take, and nothing is said to nobody's question.
        stream.set_read_timeout(Some(Duration::from_millis(2500))).unwrap();
        let quiet = stream.read(&mut some);
        assert!(matches!(&quiet, Err(e) if e.kind() == ErrorKind::WouldBlock), "{quiet:?}");
    }
}

#[test]
fn an_answer_that_does_not_fit_into_the_socket_at_once_comes_whole() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(host) = NetNs::new() else { return };
    // One segment to a buffer, and few of those.
    host.ip("link set lo mtu 1500 gso_max_segs 1");
    host.set("ipv4/tcp_wmem", "4096 4096 4096");
    host.run(|| {
        let agent = Agent::start(&sandbox);
        let names: Vec<_> = (0..32).map(|n| format!("{n:02}{}", "x".repeat(61))).collect();
        let request = format!("GET /health?check={} HTTP/1.0\r\n\r\n", names.join(","));
        for _ in 0..20 {
            let answer = ask(agent.health_address(), request.as_bytes());
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.0 503 "), "{head}");
            assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
            assert!(body.len() > 6000, "{}", body.len());
        }
    });
}

#[test]
fn people_programs_and_devices_each_get_their_form() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "data", Filesystem::Ext4, "errors=remount-ro");
    let agent = Agent::start(&sandbox);
    let healthy = agent.get("/health");
    assert_eq!(healthy.header("x-tocsin-reason"), None);
    assert!(healthy.body.starts_with(r#"{"status":"ready""#), "{}", healthy.body);
    let json = |status: &str| {
        let request = "GET /health HTTP/1.0\r\nAccept: application/health+json\r\n\r\n";
        let answer = ask(agent.health_address(), request.as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
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
    let answer = agent.get("/health");
    assert!(answer.body.starts_with(r#"{"status":"not-ready""#), "{}", answer.body);
    let reason = answer.header("x-tocsin-reason").unwrap();
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

fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl").args(["-sS", "-m", "10"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn http_2_without_tls() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let to = agent.health_address();
    let curl = |arguments: &[&str], path: &str| {
        let url = format!("http://{to}{path}");
        curl(&[arguments, &["-i", "--http2-prior-knowledge", &url]].concat())
    };
    let answer = curl(&[], "/health?check=io_stall");
    assert!(answer.starts_with("HTTP/2 200 \r\n"), "{answer}");
    assert!(answer.contains("\r\ncache-control: no-store\r\n"), "{answer}");
    assert!(answer.ends_with(r#""total_duration_ms":0}"#), "{answer}");
    let answer = curl(&[], "/health?check=bogus");
    assert!(answer.starts_with("HTTP/2 503 \r\n"), "{answer}");
    assert!(answer.contains("\r\nx-tocsin-reason: bogus: Unknown check: bogus\r\n"), "{answer}");
    assert!(curl(&["-I"], "/health").starts_with("HTTP/2 200 \r\n"));
    assert!(curl(&["-X", "POST"], "/health").contains("\r\nallow: GET, HEAD, OPTIONS\r\n"));
    let long = format!("X-Long: {}", "x".repeat(9000));
    assert!(curl(&["-H", &long], "/health").starts_with("HTTP/2 431 \r\n"));
}

/// A certificate of its own authority, and its key.
struct Certificate {
    cert: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn make(sandbox: &Sandbox, name: &str) -> Self {
        let (cert, key) =
            (sandbox.path(format!("{name}.crt")), sandbox.path(format!("{name}.key")));
        let at = |path: &PathBuf| path.to_str().unwrap().to_owned();
        tool::run(
            "openssl",
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "2",
                "-subj",
                &format!("/CN={name}"),
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-keyout",
                &at(&key),
                "-out",
                &at(&cert),
            ],
        );
        Self { cert, key }
    }
}

#[test]
fn tls_beside_plain_text_and_a_certificate_that_changes() {
    let Some(sandbox) = Sandbox::new() else { return };
    if !require(tool::is_installed("openssl"), "openssl makes the certificates") {
        return;
    }
    let (first, second) =
        (Certificate::make(&sandbox, "first"), Certificate::make(&sandbox, "second"));
    let (cert, key) = (sandbox.path("tls.crt"), sandbox.path("tls.key"));
    fs::copy(&first.cert, &cert).unwrap();
    fs::copy(&first.key, &key).unwrap();
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("TLS_CERT", &cert).env("TLS_KEY", &key);
    });
    let to = agent.health_address();
    let secure = |authority: &Certificate, more: &[&str]| {
        let (ca, url) = (authority.cert.to_str().unwrap(), format!("https://{to}/health"));
        let output = Command::new("curl")
            .args(["-sS", "-m", "10", "-i", "--cacert", ca, &url])
            .args(more)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(secure(&first, &["--http1.1"]).starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(secure(&first, &["--http2"]).starts_with("HTTP/2 200 \r\n"));
    assert!(secure(&first, &["--http1.0"]).contains(" 200 OK\r\n"));
    assert!(secure(&first, &["--tlsv1.2", "--tls-max", "1.2"]).contains(" 200"));
    assert_eq!(secure(&second, &[]), "");
    assert_eq!(agent.health("").status, 200, "plain text goes on");

    // Half of a renewal is none.
    fs::copy(&second.cert, &cert).unwrap();
    agent.wait_for("the pair that does not fit is counted", Duration::from_secs(40), |agent| {
        let metrics = agent.admin("/metrics").body;
        (!metrics.contains("tocsin_tls_reload_failures_total 0\n")).then_some(())
    });
    assert!(secure(&first, &[]).contains(" 200"));
    fs::copy(&second.key, &key).unwrap();
    agent.wait_for("the new certificate", Duration::from_secs(40), |_| {
        secure(&second, &[]).contains(" 200").then_some(())
    });
    assert_eq!(secure(&first, &[]), "");
}

#[test]
fn tls_that_cannot_work_is_an_error_at_the_start() {
    let Some(sandbox) = Sandbox::new() else { return };
    if !require(tool::is_installed("openssl"), "openssl makes the certificates") {
        return;
    }
    let (one, other) = (Certificate::make(&sandbox, "one"), Certificate::make(&sandbox, "other"));
    let nonsense = sandbox.path("nonsense");
    fs::write(&nonsense, "nonsense").unwrap();
    let missing = sandbox.path("missing");
    for (cert, key, code, words) in [
        (Some(&one.cert), None, 2, "TLS_CERT needs TLS_KEY"),
        (None, Some(&one.key), 2, "TLS_KEY needs TLS_CERT"),
        (Some(&one.cert), Some(&missing), 1, "missing"),
        (Some(&one.cert), Some(&nonsense), 1, "not a private key"),
        (Some(&nonsense), Some(&one.key), 1, "no certificate in it"),
        (Some(&one.cert), Some(&other.key), 1, "other.key"),
    ] {
        let started = Agent::try_start_with(&sandbox, |command| {
            if let Some(cert) = cert {
                command.env("TLS_CERT", cert);
            }
            if let Some(key) = key {
                command.env("TLS_KEY", key);
            }
        });
        let Err(ended) = started else { panic!("it starts with {cert:?} and {key:?}") };
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        assert!(ended.log.iter().any(|line| line.contains(words)), "{words}: {ended:?}");
        let secret = fs::read_to_string(&one.key).unwrap();
        let secret = secret.lines().nth(1).unwrap();
        assert!(ended.log.iter().all(|line| !line.contains(secret)), "the key is in the log");
    }
}

#[test]
fn a_stop_answers_who_is_there_and_closes_what_is_idle() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut agent = Agent::start(&sandbox);
    let to = agent.health_address();
    let idle = connect(to);
    // HTTP/2 that asked nothing, and a gRPC call that is never whole.
    let mut greeting = connect(to);
    greeting.write_all(&http2::preface(1000)).unwrap();
    let mut half = connect(to);
    let mut bytes = http2::preface(1000);
    let grpc = [("content-type", "application/grpc")];
    bytes.extend(http2::request(1, "POST", "/grpc.health.v1.Health/Check", &grpc, false));
    half.write_all(&bytes).unwrap();
    let mut kept = connect(to);
    kept.write_all(b"GET /livez HTTP/1.1\r\n\r\n").unwrap();
    let mut some = [0; 1024];
    assert!(kept.read(&mut some).unwrap() > 0);
    let began = Instant::now();
    agent.signal(rustix::process::Signal::TERM);
    assert_eq!(agent.wait_exit().code(), Some(0));
    let took = began.elapsed();
    say(&format!("MEASURED {}: stopped after {took:?}", sandbox.name()));
    assert!(took < Duration::from_secs(4), "{took:?}");
    for mut stream in [idle, kept] {
        assert_eq!(stream.read(&mut some).unwrap_or(0), 0);
    }
    for stream in [greeting, half] {
        let mut bytes = Vec::new();
        let _or_a_reset = (&mut &stream).read_to_end(&mut bytes);
        let (mut kinds, mut rest) = (Vec::new(), &*bytes);
        while let Some((kind, _, _, more)) = http2::next(rest) {
            kinds.push(kind);
            rest = more;
        }
        assert!(kinds.contains(&http2::GOAWAY), "{kinds:?}");
    }
}
