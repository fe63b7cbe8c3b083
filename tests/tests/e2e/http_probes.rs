//! `okd_router_1936`, `kubelet` and the operator's own `HTTP_PROBES`, with servers that misbehave.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::health::Health;
use e2e::sandbox::say;
use e2e::sync::lock;
use e2e::{Agent, Sandbox};

use crate::answers_do_not_wait;

/// What the server does with a request.
#[derive(Clone, Debug)]
enum Behaviour {
    /// Sends this, and closes.
    Sends(&'static str),
    /// Reads the request, and sends nothing.
    Hangs,
    /// Resets the connection.
    Resets,
    /// Closes the connection without a response.
    Closes,
    /// Sends a head without end, a line every millisecond.
    EndlessHead,
    /// Sends the first, and then the second without end, as fast as it is read.
    Floods(&'static str, &'static str),
    /// Sends a correct head, and a byte of the body every 100 ms.
    DripsBody,
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
/// A response whose first chunk's length has an extension that does not end.
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;";
/// A response whose body has no length.
const ENDLESS: &str = "HTTP/1.1 200 OK\r\n\r\n";

/// A server on loopback, whose behaviour can be changed, and which counts requests.
struct Server {
    address: SocketAddr,
    behaviour: Arc<Mutex<Behaviour>>,
    requests: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
}

impl Server {
    fn new(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            behaviour: Arc::new(Mutex::new(behaviour)),
            requests: Arc::default(),
            done: Arc::default(),
        };
        let (behaviour, requests) = (server.behaviour.clone(), server.requests.clone());
        let done = server.done.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let behaviour = lock(&behaviour).clone();
                requests.fetch_add(1, Ordering::Relaxed);
                let done = done.clone();
                thread::spawn(move || serve(stream, &behaviour, &done));
            }
        });
        server
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Changes what the server does; returns when a sample of the agent has met it.
    fn set(&self, agent: &Agent, behaviour: Behaviour) {
        say(&format!("the server does {behaviour:?}"));
        *lock(&self.behaviour) = behaviour;
        let before = self.requests();
        // A sample begins when the one before has ended.
        agent.wait_for("two more requests", TIMEOUT, |_| {
            (self.requests() >= before + 2).then_some(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        // Wakes the thread, which is in accept(2).
        let _connected = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, behaviour: &Behaviour, done: &AtomicBool) {
    let mut request = [0; 4096];
    if matches!(behaviour, Behaviour::Resets) {
        // The kernel resets a connection that is closed with unread bytes.
        let _arrived = stream.peek(&mut request);
        return;
    }
    let _read = stream.read(&mut request);
    // Until the agent closes the connection.
    let sends = |stream: &mut TcpStream, each: &[u8], pause: u64| {
        while !done.load(Ordering::Relaxed) && stream.write_all(each).is_ok() {
            thread::sleep(Duration::from_millis(pause));
        }
    };
    match behaviour {
        Behaviour::Sends(text) => drop(stream.write_all(text.as_bytes())),
        Behaviour::Hangs => {
            let _until_it_is_closed = stream.read(&mut request);
        }
        Behaviour::Resets | Behaviour::Closes => {}
        Behaviour::EndlessHead => {
            let _head = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            sends(&mut stream, b"X-Header: more\r\n", 1);
        }
        Behaviour::Floods(head, each) => {
            let _head = stream.write_all(head.as_bytes());
            sends(&mut stream, each.repeat(1000).as_bytes(), 0);
        }
        Behaviour::DripsBody => {
            let _head = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
            sends(&mut stream, b"o", 100);
        }
    }
}

/// Waits until the check passes, or fails for a reason with these words.
fn waits_for(agent: &Agent, check: &str, failure: Option<&str>) {
    let began = Instant::now();
    let what = format!("{check}: {failure:?}");
    agent.wait_for(&what, TIMEOUT, |agent| {
        let health = agent.health(&format!("?check={check}"));
        match (failure, health.failure(check)) {
            (None, None) if health.status == 200 => Some(()),
            (Some(words), Some(found)) if health.status == 503 => {
                found.contains(words).then_some(())
            }
            _ => None,
        }
    });
    say(&format!("MEASURED {what} after {:?}", began.elapsed()));
}

#[test]
fn any_2xx_of_the_router_passes() {
    let Some(sandbox) = Sandbox::new() else { return };
    let server = Server::new(Behaviour::Sends(OK));
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("ROUTER_URL", server.url("/healthz/ready")).env("PROBE_INTERVAL", "100ms");
    });
    // The check is not in the default set, so it is not sampled.
    thread::sleep(Duration::from_millis(500));
    assert_eq!(server.requests(), 0);
    assert_eq!(agent.health("").status, 200);
    assert!(!agent.admin("/metrics").body.contains("check=\"okd_router_1936\""));
    // The first answer has the first sample.
    let first = agent.health("?check=okd_router_1936");
    assert_eq!((first.status, first.passed("okd_router_1936")), (200, true));

    let get = format!("GET {}", server.url("/healthz/ready"));
    for (behaviour, failure) in [
        (Behaviour::Sends("HTTP/1.1 204 No Content\r\n\r\n"), None),
        (Behaviour::Sends("HTTP/1.1 500 Oh\r\n\r\n"), Some(": 500 Internal Server Error")),
        (Behaviour::Sends("HTTP/1.1 299 Fine\r\n\r\n"), None),
        (
            Behaviour::Sends("HTTP/1.1 301 Away\r\nLocation: /\r\n\r\n"),
            Some(": 301 Moved Permanently"),
        ),
        (Behaviour::Sends("HTTP/1.1 404 No\r\n\r\n"), Some(": 404 Not Found")),
        (Behaviour::Resets, Some(": Connection reset by peer")),
        (Behaviour::Closes, Some(": connection closed before message completed")),
        (Behaviour::Sends("SSH-2.0-OpenSSH_9.2p1\r\n"), Some(": invalid HTTP version")),
        (Behaviour::EndlessHead, Some(": message head is too large")),
        (Behaviour::Floods("", CONTINUE), Some(": message is too large")),
        (Behaviour::DripsBody, None),
        (Behaviour::Hangs, Some(": no answer within 5 s")),
        (Behaviour::Sends(OK), None),
    ] {
        server.set(&agent, behaviour);
        let words = failure.map(|why| format!("{get}{why}"));
        waits_for(&agent, "okd_router_1936", words.as_deref());
    }
    let metrics = agent.admin("/metrics").body;
    let pass = "tocsin_probe_outcome{check=\"okd_router_1936\",outcome=\"pass\"} 1";
    assert!(metrics.contains(pass), "{metrics}");
    drop(server);
    waits_for(&agent, "okd_router_1936", Some(": Connection refused"));
}

#[test]
fn ok_of_the_kubelet_passes_and_nothing_else_does() {
    let Some(sandbox) = Sandbox::new() else { return };
    let server = Server::new(Behaviour::Sends(OK));
    let agent = Agent::start_with(&sandbox, |command| {
        command
            .env("KUBELET_URL", server.url("/healthz"))
            .env("PROBE_INTERVAL", "100ms")
            .env("DEFAULT_CHECKS", "kubelet,io_stall");
    });
    assert_eq!(agent.health("").status, 200);
    // A check of the default set is sampled at its interval, without a request for it.
    let (before, began) = (server.requests(), Instant::now());
    agent.wait_for("samples", TIMEOUT, |_| (server.requests() >= before + 10).then_some(()));
    assert!(began.elapsed() >= Duration::from_millis(800), "{:?}", began.elapsed());
    let resident = agent.resident_kib();
    for (behaviour, failure) in [
        (
            Behaviour::Sends("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfail"),
            Some(": 200, but \"fail\" instead of \"ok\""),
        ),
        (Behaviour::Sends("HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nok"), Some(": 500")),
        (Behaviour::Floods("", CONTINUE), Some(": message is too large")),
        (Behaviour::Sends(OK), None),
        (Behaviour::Floods(CHUNKED, "x"), Some(": message is too large")),
        (Behaviour::Floods(ENDLESS, "ok"), Some(": message body is too large")),
        (Behaviour::DripsBody, Some(": no answer within 1 s")),
        (Behaviour::Hangs, Some(": no answer within 1 s")),
        (Behaviour::Sends(OK), None),
    ] {
        server.set(&agent, behaviour);
        waits_for(&agent, "kubelet", failure);
    }
    let after = agent.resident_kib();
    say(&format!("MEASURED resident KiB {resident} before and {after} after all responses"));
    assert!(after < resident + 4096, "{resident} KiB before and {after} after");
}

#[test]
fn http_probes_adds_checks_of_the_operators_own() {
    let Some(sandbox) = Sandbox::new() else { return };
    let (good, bad) = (
        Server::new(Behaviour::Sends(OK)),
        Server::new(Behaviour::Sends("HTTP/1.1 503 No\r\n\r\n")),
    );
    let agent = Agent::start_with(&sandbox, |command| {
        command
            .env("HTTP_PROBES", format!("traefik={}, my-app={}", good.url("/ping"), bad.url("/")))
            .env("DEFAULT_CHECKS", "traefik");
    });
    assert_eq!(agent.health("").status, 200);
    assert!(agent.health("").passed("traefik"));
    let both = agent.health("?check=traefik,my-app");
    assert_eq!(both.status, 503);
    assert!(both.failure("my-app").unwrap().ends_with(": 503 Service Unavailable"), "{both:?}");
    assert_eq!(agent.get("/health/my-app").status, 503);
    assert_eq!(agent.get("/health/nobody").status, 404);
    let unknown = agent.health("?check=bogus");
    assert_eq!(unknown.failure("bogus"), Some("Unknown check: bogus"));

    for (value, words) in [
        ("a=https://h/", "HTTP_PROBES: \"https://h/\" is not an http:// URL"),
        ("kubelet=http://h/", "HTTP_PROBES: \"kubelet\" is the name of a check already"),
        ("x", "HTTP_PROBES: \"x\" is not name=url"),
    ] {
        let ended = Agent::refuses_to_start(&sandbox, |command| {
            command.env("HTTP_PROBES", value);
        });
        assert_eq!(ended.status.code(), Some(2));
        assert!(ended.log.join("\n").contains(words), "{:?}", ended.log);
    }
}

#[test]
fn only_the_first_request_for_a_probe_waits_for_its_first_sample() {
    let Some(sandbox) = Sandbox::new() else { return };
    let server = Server::new(Behaviour::Hangs);
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("KUBELET_URL", server.url("/healthz"));
    });
    // A request for the check waits, for no longer than the check's time-out; other requests do not.
    let address = agent.health_address();
    let first = thread::spawn(move || {
        let began = Instant::now();
        let mut connection = e2e::http::Connection::open(address).unwrap();
        let response = connection.get("/health?check=kubelet").unwrap();
        (response, began.elapsed())
    });
    thread::sleep(Duration::from_millis(200));
    answers_do_not_wait("/health beside a request that waits", 100, || {
        assert_eq!(agent.health("").status, 200);
        assert_eq!(agent.get("/livez").status, 200);
    });
    let (response, took) = first.join().unwrap();
    say(&format!("MEASURED first response after {took:?}"));
    assert_eq!(response.status, 503);
    // Its time-out is 1 s.
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(5), "{took:?}");
    assert!(Health::read(&response).total_duration_ms >= 1000, "{}", response.body);
    // The next request for the check does not wait.
    answers_do_not_wait("a second request for the check", 20, || {
        assert_eq!(agent.health("?check=kubelet").status, 503);
    });
}
