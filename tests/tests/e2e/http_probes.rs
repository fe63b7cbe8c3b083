//! Checks that ask a local HTTP server, and servers that do what servers do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::PATIENCE;
use e2e::sandbox::say;
use e2e::{Agent, Sandbox};

/// What the server does with a request.
#[derive(Clone, Debug)]
enum Does {
    /// Says this, and closes.
    Says(&'static str),
    /// Accepts, reads, and says nothing.
    Hangs,
    /// Ends the connection with a reset.
    Resets,
    /// Closes it without a word.
    Closes,
    /// A head without end, a line every millisecond.
    HeadsForEver,
    /// Says the first, and then the second without end, as fast as it is taken.
    Floods(&'static str, &'static str),
    /// A right head and a byte of the body now and then.
    DripsBody,
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
/// What follows belongs to the length of the first chunk, up to the end of the line.
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;";
/// What follows is a body.
const ENDLESS: &str = "HTTP/1.1 200 OK\r\n\r\n";

/// A server on loopback that can change its mind, and counts who asks.
struct Server {
    address: SocketAddr,
    does: Arc<Mutex<Does>>,
    asked: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
}

impl Server {
    fn new(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            does: Arc::new(Mutex::new(does)),
            asked: Arc::default(),
            done: Arc::default(),
        };
        let (does, asked, done) = (server.does.clone(), server.asked.clone(), server.done.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), does) = (stream, does.lock().unwrap().clone()) else { continue };
                asked.fetch_add(1, Ordering::Relaxed);
                let done = done.clone();
                thread::spawn(move || serve(stream, &does, &done));
            }
        });
        server
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn does(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        let _wakes_it = TcpStream::connect(self.address);
    }
}

fn serve(mut stream: TcpStream, does: &Does, done: &AtomicBool) {
    let mut request = [0; 4096];
    if matches!(does, Does::Resets) {
        // A socket that is closed with a request in it that nobody read.
        let _arrived = stream.peek(&mut request);
        return;
    }
    let _read = stream.read(&mut request);
    // The other side closes when it gives up.
    let waits = |stream: &mut TcpStream, each: &[u8], pause: u64| {
        while !done.load(Ordering::Relaxed) && stream.write_all(each).is_ok() {
            thread::sleep(Duration::from_millis(pause));
        }
    };
    match does {
        Does::Says(text) => drop(stream.write_all(text.as_bytes())),
        Does::Hangs => {
            let _until_it_is_closed = stream.read(&mut request);
        }
        Does::Resets | Does::Closes => {}
        Does::HeadsForEver => {
            let _head = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            waits(&mut stream, b"X-Header: more\r\n", 1);
        }
        Does::Floods(head, each) => {
            let _head = stream.write_all(head.as_bytes());
            waits(&mut stream, each.repeat(1000).as_bytes(), 0);
        }
        Does::DripsBody => {
            let _head = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
            waits(&mut stream, b"o", 100);
        }
    }
}

fn waits_for(agent: &Agent, check: &str, failure: Option<&str>) {
    let began = Instant::now();
    let what = format!("{check}: {failure:?}");
    agent.wait_for(&what, PATIENCE, |agent| {
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
fn the_router_is_any_2xx() {
    let Some(sandbox) = Sandbox::new() else { return };
    let server = Server::new(Does::Says(OK));
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("ROUTER_URL", server.url("/healthz/ready")).env("PROBE_INTERVAL", "100ms");
    });
    // Nobody asked for it, so it asks nobody.
    thread::sleep(Duration::from_millis(500));
    assert_eq!(server.asked(), 0);
    assert_eq!(agent.health("").status, 200);
    assert!(!agent.admin("/metrics").body.contains("check=\"okd_router_1936\""));
    // The very first answer is right.
    let first = agent.health("?check=okd_router_1936");
    assert_eq!((first.status, first.passed("okd_router_1936")), (200, true));

    let get = format!("GET {}", server.url("/healthz/ready"));
    for (does, failure) in [
        (Does::Says("HTTP/1.1 204 No Content\r\n\r\n"), None),
        (Does::Says("HTTP/1.1 500 Oh\r\n\r\n"), Some(": 500 Internal Server Error")),
        (Does::Says("HTTP/1.1 299 Fine\r\n\r\n"), None),
        (Does::Says("HTTP/1.1 301 Away\r\nLocation: /\r\n\r\n"), Some(": 301 Moved Permanently")),
        (Does::Says("HTTP/1.1 404 No\r\n\r\n"), Some(": 404 Not Found")),
        (Does::Resets, Some(": Connection reset by peer")),
        (Does::Closes, Some(": connection closed before message completed")),
        (Does::Says("SSH-2.0-OpenSSH_9.2p1\r\n"), Some(": invalid HTTP version")),
        (Does::HeadsForEver, Some(": message head is too large")),
        (Does::Floods("", CONTINUE), Some(": message is too large")),
        (Does::DripsBody, None),
        (Does::Hangs, Some(": no answer within 5 s")),
        (Does::Says(OK), None),
    ] {
        say(&format!("the router {does:?}"));
        server.does(does);
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
fn the_kubelet_has_to_say_ok() {
    let Some(sandbox) = Sandbox::new() else { return };
    let server = Server::new(Does::Says(OK));
    let agent = Agent::start_with(&sandbox, |command| {
        command
            .env("KUBELET_URL", server.url("/healthz"))
            .env("PROBE_INTERVAL", "100ms")
            .env("DEFAULT_CHECKS", "kubelet,io_stall");
    });
    assert_eq!(agent.health("").status, 200);
    // In the default set it runs by itself, as often as it should.
    let (before, began) = (server.asked(), Instant::now());
    agent.wait_for("samples", PATIENCE, |_| (server.asked() >= before + 10).then_some(()));
    assert!(began.elapsed() >= Duration::from_millis(800), "{:?}", began.elapsed());
    let resident = agent.resident_kib();
    for (does, failure) in [
        (
            Does::Says("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfail"),
            Some(": 200, but \"fail\" instead of \"ok\""),
        ),
        (Does::Says("HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nok"), Some(": 500")),
        (Does::Floods("", CONTINUE), Some(": message is too large")),
        (Does::Says(OK), None),
        (Does::Floods(CHUNKED, "x"), Some(": message is too large")),
        (Does::Floods(ENDLESS, "ok"), Some(": message body is too large")),
        (Does::DripsBody, Some(": no answer within 1 s")),
        (Does::Hangs, Some(": no answer within 1 s")),
        (Does::Says(OK), None),
    ] {
        say(&format!("the kubelet {does:?}"));
        server.does(does);
        waits_for(&agent, "kubelet", failure);
    }
    let after = agent.resident_kib();
    say(&format!("MEASURED resident KiB {resident}, and {after} after all that was sent"));
    assert!(after < resident + 4096, "{resident} KiB before and {after} after");
}

#[test]
fn checks_of_the_operators_own() {
    let Some(sandbox) = Sandbox::new() else { return };
    let (good, bad) =
        (Server::new(Does::Says(OK)), Server::new(Does::Says("HTTP/1.1 503 No\r\n\r\n")));
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
        let ended = Agent::try_start_with(&sandbox, |command| {
            command.env("HTTP_PROBES", value);
        });
        let Err(ended) = ended else { panic!("it started with {value:?}") };
        assert_eq!(ended.status.code(), Some(2));
        assert!(ended.log.join("\n").contains(words), "{:?}", ended.log);
    }
}

#[test]
fn a_probe_nobody_asks_for_ends_and_the_first_to_ask_waits_for_what_is() {
    let Some(sandbox) = Sandbox::new() else { return };
    let server = Server::new(Does::Hangs);
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("KUBELET_URL", server.url("/healthz"));
    });
    // Only whoever asks for it waits, and for no longer than its time-out.
    let address = agent.health_address();
    let first = thread::spawn(move || {
        let began = Instant::now();
        let mut connection = e2e::http::Connection::open(address).unwrap();
        let answer = connection.get("/health?check=kubelet").unwrap();
        (answer, began.elapsed())
    });
    thread::sleep(Duration::from_millis(200));
    let mut answers: Vec<_> = (0..200)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(agent.health("").status, 200);
            assert_eq!(agent.get("/livez").status, 200);
            began.elapsed()
        })
        .collect();
    answers.sort_unstable();
    let (answer, took) = first.join().unwrap();
    say(&format!("MEASURED first answer after {took:?}; others {:?}", answers[100]));
    assert_eq!(answer.status, 503);
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(3), "{took:?}");
    assert!(answer.json()["total_duration_ms"].as_u64().unwrap() >= 1000, "{}", answer.body);
    assert!(answers[100] < Duration::from_millis(5), "{:?}", answers[100]);
    // Whoever asks next is told at once.
    let began = Instant::now();
    assert_eq!(agent.health("?check=kubelet").status, 503);
    assert!(began.elapsed() < Duration::from_millis(500));
}
