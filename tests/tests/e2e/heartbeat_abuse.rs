//! The heartbeat and clients that mean no good: it goes on answering, and its memory is bounded.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use e2e::sandbox::say;
use e2e::{ControlPlane, Heartbeat};

/// A limit of memory that a client cannot lift: ten times what one of these tests adds.
const GROWTH_KIB: u64 = 24 * 1024;

/// Answers are there while something goes on: a thousand times what one takes on an idle machine.
fn answers(heartbeat: &Heartbeat) {
    let began = Instant::now();
    assert_eq!(heartbeat.request("GET", "/healthz", &[]).status, 200);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

fn open(heartbeat: &Heartbeat, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(heartbeat.api_address()).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

#[test]
fn slow_clients_and_a_flood_keep_nobody_out() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let heartbeat = Heartbeat::start(&cluster.kubeconfig("admin"), |_| {});
    let before = heartbeat.process().resident_kib();
    // Three times as many as it serves at once: requests that never end, and connections that say nothing.
    let held: Vec<TcpStream> = (0..3000)
        .map(|n| {
            let bytes = if n % 2 == 0 { &b"GET /healthz HTTP/1.1\r\nX: "[..] } else { b"" };
            if n % 500 == 0 {
                answers(&heartbeat);
            }
            open(&heartbeat, bytes)
        })
        .collect();
    answers(&heartbeat);
    let during = heartbeat.process().resident_kib();
    assert!(heartbeat.metric("tocsin_heartbeat_connections") <= 1024.0);
    assert!(heartbeat.metric("tocsin_heartbeat_connections_evicted_total") >= 1900.0);
    drop(held);
    answers(&heartbeat);
    say(&format!("resident {before} KiB, {during} KiB with 3,000 slow connections"));
    assert!(during < before + GROWTH_KIB, "{before} KiB, {during} KiB");
}

#[test]
fn ten_thousand_names_and_forged_addresses_are_bounded() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let heartbeat = Heartbeat::start(&cluster.kubeconfig("admin"), |command| {
        command.env("RATE_LIMIT", "5").env("TRUSTED_PROXIES", "127.0.0.1/32");
    });
    let before = heartbeat.process().resident_kib();
    let mut connection = heartbeat.connect();
    let ask = |connection: &mut e2e::http::Connection, name: u32, client: String| {
        let path =
            format!("/api/healthz/namespace-{name}/deployment/{}?token=x{name}", "n".repeat(200));
        connection.request_with("GET", &path, &[("X-Forwarded-For", &client)]).unwrap().status
    };
    // A trusted proxy with a hundred thousand clients: each is counted, and the table has an end.
    for n in 0..100_000_u32 {
        let client = std::net::Ipv4Addr::from(0x0b00_0000 + n).to_string();
        assert_eq!(ask(&mut connection, n % 10_000, client), 403);
    }
    assert!(heartbeat.metric("tocsin_heartbeat_clients") <= 65_536.0);
    assert!(heartbeat.metric("tocsin_heartbeat_event_namespaces") < 1.0, "nothing exists");
    // What the client writes in front of the proxy's own word gives it no new window.
    let forged: Vec<u16> =
        (0..10).map(|n| ask(&mut connection, n, format!("198.51.100.{n}, 203.0.113.7"))).collect();
    assert_eq!(forged.iter().filter(|status| **status == 429).count(), 5, "{forged:?}");
    let after = heartbeat.process().resident_kib();
    say(&format!("resident {before} KiB, {after} KiB after 100,000 clients with 10,000 names"));
    assert!(after < before + GROWTH_KIB, "{before} KiB, {after} KiB");
    answers(&heartbeat);
}

#[test]
fn requests_that_are_none_are_refused() {
    let Some(cluster) = ControlPlane::shared() else { return };
    let heartbeat = Heartbeat::start(&cluster.kubeconfig("admin"), |_| {});
    for (bytes, status) in [
        (&b"\0\x01\x02\r\n\r\n"[..], "400"),
        (b"GET /%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "404"),
        (b"GET /%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "400"),
        (b"GET / HTTP/9.9\r\n\r\n", "400"),
    ] {
        let text = e2e::http::exchange(heartbeat.api_address(), bytes);
        assert!(text.starts_with(&format!("HTTP/1.1 {status}")), "{bytes:?}: {text}");
    }
    let mut long = b"GET / HTTP/1.1\r\nX: ".to_vec();
    long.resize(64 * 1024, b'x');
    let text = e2e::http::exchange(heartbeat.api_address(), &long);
    assert!(text.starts_with("HTTP/1.1 431"), "{text}");
    answers(&heartbeat);
}
