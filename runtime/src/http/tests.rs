//! The server as its clients see it.

use std::{
    future::pending,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures_util::stream;
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{Notify, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    ConnectionCounts, EVENT_STREAM, Listener, Peer, Reply, Server, Settings, TEXT, bind, error,
    read_body, reply,
};
use crate::{tasks::Stop, tls::Certificate};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Fixture {
    addr: SocketAddr,
    counts: Arc<ConnectionCounts>,
    stop: watch::Sender<bool>,
    /// Lets `/slow` answer.
    release: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Fixture {
    async fn start(settings: Settings) -> Self {
        let release = Arc::<Notify>::default();
        let released = release.clone();
        let server =
            Server::new(settings, move |request, peer| answer(request, peer, released.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (counts, (stop, stopped)) = (server.counts(), Stop::channel());
        let task = tokio::spawn(server.run(Listener::Tcp(listener), stopped));
        Self { addr, counts, stop, release, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// A connection that has had an answer.
    async fn asked(&self) -> TcpStream {
        let mut stream = self.connect().await;
        send(&mut stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        read_until(&mut stream, "hello").await;
        stream
    }

    /// Ends the server, which it does by itself.
    async fn end(self) -> Duration {
        let began = Instant::now();
        self.stop.send_replace(true);
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
        assert_eq!(self.counts.open.load(Relaxed), 0);
        began.elapsed()
    }
}

async fn answer(request: Request<Incoming>, peer: Peer, release: Arc<Notify>) -> Reply {
    match request.uri().path() {
        "/peer" => reply(StatusCode::OK, TEXT, format!("{peer:?}")),
        "/slow" => {
            release.notified().await;
            reply(StatusCode::OK, TEXT, "slow")
        }
        "/never" => pending().await,
        "/events" => {
            let ticks = stream::unfold(0_u64, |count| async move {
                sleep(Duration::from_millis(5)).await;
                Some((Bytes::from(format!("data: {count}\n\n")), count + 1))
            });
            super::stream(EVENT_STREAM, ticks)
        }
        "/flood" => super::stream(EVENT_STREAM, stream::repeat(Bytes::from(vec![b'x'; 64 * 1024]))),
        "/body" => match read_body(request, 10, Duration::from_millis(200)).await {
            Ok(body) => reply(StatusCode::OK, TEXT, body),
            Err(refused) => refused,
        },
        "/" => reply(StatusCode::OK, TEXT, "hello"),
        _ => error(StatusCode::NOT_FOUND, "not found"),
    }
}

async fn send(stream: &mut (impl AsyncWriteExt + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Everything up to and including `end`.
async fn read_until(stream: &mut (impl AsyncReadExt + Unpin), end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let byte = timeout(PATIENCE, stream.read_u8()).await.unwrap();
        text.push(char::from(byte.unwrap_or_else(|error| panic!("{error} after {text:?}"))));
    }
    text
}

/// Everything up to the connection's end.
async fn read_to_end(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut bytes = Vec::new();
    let _reset = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Waits until `is_so`.
async fn until(is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE);
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn answers_have_their_headers_and_the_peer_is_known() {
    let fixture = Fixture::start(Settings::new("test")).await;
    let mut stream = fixture.connect().await;
    for (request, expected) in [
        (
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            &["HTTP/1.1 200 OK", "content-length: 5", "no-store", "text/plain", "hello"][..],
        ),
        ("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", &["HTTP/1.1 200 OK", "content-length: 5"]),
        (
            "GET /x HTTP/1.1\r\nHost: x\r\n\r\n",
            &["HTTP/1.1 404", "application/json", r#"{"error":"not found"}"#],
        ),
        ("GET /peer HTTP/1.1\r\nHost: x\r\n\r\n", &["Tcp(127.0.0.1:"]),
        (
            "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
            &["HTTP/1.1 200", "abc"],
        ),
        (
            "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nabcdefghijk",
            &["HTTP/1.1 413", "too long"],
        ),
    ] {
        send(&mut stream, request).await;
        let end = if request.starts_with("HEAD") { "\r\n\r\n" } else { expected.last().unwrap() };
        let text = read_until(&mut stream, end).await;
        assert!(expected.iter().all(|part| text.contains(part)), "{text}");
        if text.contains(" 413 ") {
            break;
        }
        let rest = if end.contains("Tcp") { ")" } else { continue };
        read_until(&mut stream, rest).await;
    }
    let mut stream = fixture.connect().await;
    send(&mut stream, "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na").await;
    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 408"));
    let mut stream = fixture.connect().await;
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9000));
    send(&mut stream, &long).await;
    assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 431"));
    fixture.end().await;
}

#[tokio::test]
async fn a_slow_header_ends_and_an_idle_connection_may_wait() {
    let settings = Settings { header_timeout: Duration::from_millis(200), ..Settings::new("test") };
    let fixture = Fixture::start(settings).await;
    let (mut asked, fresh) = (fixture.asked().await, fixture.connect().await);
    let mut slow = [fixture.connect().await, fixture.asked().await];
    let began = Instant::now();
    let drip = async {
        for stream in &mut slow {
            send(stream, "GET / HTTP/1.1\r\nHost:").await;
        }
        loop {
            for stream in &mut slow {
                // A byte now and then does not help.
                if stream.write_all(b"x").await.is_err() {
                    return;
                }
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, drip).await.unwrap();
    until(|| fixture.counts.timed_out.load(Relaxed) == 2).await;
    assert!(began.elapsed() >= Duration::from_millis(200));
    send(&mut asked, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_until(&mut asked, "hello").await;
    assert_eq!(fixture.counts.open.load(Relaxed), 2);
    drop(fresh);
    fixture.end().await;
}

#[tokio::test]
async fn an_idle_connection_ends_in_time() {
    let settings = Settings { idle_timeout: Duration::from_millis(100), ..Settings::new("test") };
    let fixture = Fixture::start(settings).await;
    let (mut asked, mut fresh) = (fixture.asked().await, fixture.connect().await);
    assert_eq!(read_to_end(&mut asked).await, "");
    assert_eq!(read_to_end(&mut fresh).await, "");
    // The end of an idle connection is no time-out of a request.
    assert_eq!(fixture.counts.timed_out.load(Relaxed), 0);
    fixture.end().await;
}

#[tokio::test]
async fn an_answer_that_nobody_takes_ends() {
    let settings = Settings { write_timeout: Duration::from_millis(200), ..Settings::new("test") };
    let fixture = Fixture::start(settings).await;
    let mut stream = fixture.connect().await;
    send(&mut stream, "GET /flood HTTP/1.1\r\nHost: x\r\n\r\n").await;
    until(|| fixture.counts.timed_out.load(Relaxed) == 1).await;
    until(|| fixture.counts.open.load(Relaxed) == 0).await;
    fixture.end().await;
}

#[tokio::test]
async fn a_flood_ends_idle_connections_and_no_stream_that_is_read() {
    let fixture = Fixture::start(Settings { connections: 8, ..Settings::new("test") }).await;
    let mut events = fixture.connect().await;
    send(&mut events, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_until(&mut events, "data: 0\n\n").await;
    let mut asked = fixture.asked().await;
    let mut silent = Vec::new();
    for count in 1..=100 {
        silent.push(fixture.connect().await);
        // A request in the middle of the flood is answered.
        if count % 10 == 0 {
            fixture.asked().await;
            send(&mut asked, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
            read_until(&mut asked, "hello").await;
        }
    }
    until(|| fixture.counts.evicted.load(Relaxed) >= 100 - 8).await;
    assert!(fixture.counts.open.load(Relaxed) <= 8);
    // Now also those that asked are too many: the stream is still there.
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(fixture.asked().await);
    }
    let ended = timeout(PATIENCE, read_to_end(&mut asked)).await.unwrap();
    assert_eq!(ended, "");
    read_until(&mut events, "data: 50\n\n").await;
    read_until(&mut events, "\n\n\r\n").await;
    fixture.end().await;
}

#[tokio::test]
async fn a_stop_answers_what_has_begun_and_ends_streams() {
    let settings = Settings { drain: PATIENCE, ..Settings::new("test") };
    let fixture = Fixture::start(settings).await;
    let mut idle = [fixture.connect().await, fixture.asked().await];
    let mut half = [fixture.connect().await, fixture.asked().await];
    for stream in &mut half {
        send(stream, "GET / HTTP/1.1\r\nHo").await;
    }
    let (mut slow, mut events) = (fixture.connect().await, fixture.connect().await);
    send(&mut slow, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
    send(&mut events, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_until(&mut events, "data: 0\n\n").await;
    until(|| fixture.counts.open.load(Relaxed) == 6).await;
    fixture.stop.send_replace(true);

    // The stream has an end, not a break.
    let rest = read_to_end(&mut events).await;
    assert!(rest.ends_with("\r\n0\r\n\r\n"), "{rest:?}");
    for stream in &mut idle {
        assert_eq!(read_to_end(stream).await, "");
    }
    assert!(TcpStream::connect(fixture.addr).await.is_err(), "it still listens");
    for stream in &mut half {
        send(stream, "st: x\r\n\r\n").await;
        let text = read_to_end(stream).await;
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("hello"), "{text}");
    }
    assert!(!fixture.task.is_finished());
    fixture.release.notify_one();
    let text = read_to_end(&mut slow).await;
    assert!(text.contains("connection: close") && text.ends_with("slow"), "{text}");
    assert!(fixture.end().await < PATIENCE);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let settings = Settings { drain: Duration::from_millis(100), ..Settings::new("test") };
    let fixture = Fixture::start(settings).await;
    let mut never = fixture.connect().await;
    send(&mut never, "GET /never HTTP/1.1\r\nHost: x\r\n\r\n").await;
    until(|| fixture.counts.open.load(Relaxed) == 1).await;
    assert!(fixture.end().await < PATIENCE);
    assert_eq!(read_to_end(&mut never).await, "");
}

#[tokio::test]
async fn a_unix_socket_is_served_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let server = Server::new(Settings::new("test"), |_, peer| async move {
        reply(StatusCode::OK, TEXT, format!("{peer:?}"))
    });
    let (stop, stopped) = Stop::channel();
    let task =
        tokio::spawn(server.run(Listener::Unix(UnixListener::bind(&path).unwrap()), stopped));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    send(&mut stream, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    read_until(&mut stream, "Unix").await;
    drop(stop);
    timeout(PATIENCE, task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_port_is_taken_before_it_is_open() {
    let any = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let socket = bind(SocketAddr::new(any, 0)).unwrap();
    let addr = socket.local_addr().unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
    let listener = socket.listen(super::BACKLOG).unwrap();
    TcpStream::connect(addr).await.unwrap();
    assert!(bind(addr).is_err());
    drop(listener);
}

#[tokio::test]
async fn tls_is_spoken_where_there_is_a_certificate() {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem = (cert.pem(), signing_key.serialize_pem());
    let certificate = Certificate::from_pem(pem.0.as_bytes(), pem.1.as_bytes()).unwrap();
    let settings = Settings { header_timeout: Duration::from_millis(500), ..Settings::new("test") };
    let server =
        Server::new(
            settings,
            |_, peer| async move { reply(StatusCode::OK, TEXT, format!("{peer:?}")) },
        );
    let server = server.with_tls(certificate.acceptor(&[b"http/1.1"]).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, counts) = (listener.local_addr().unwrap(), server.counts());
    let (_stop, stopped) = Stop::channel();
    tokio::spawn(server.run(Listener::Tcp(listener), stopped));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let stream = TcpStream::connect(addr).await.unwrap();
    let mut stream = connector.connect(name, stream).await.unwrap();
    send(&mut stream, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    read_until(&mut stream, "Tcp(127.0.0.1:").await;

    // Plain HTTP is not answered, and a client that says nothing ends in time.
    let (mut plain, mut silent) =
        (TcpStream::connect(addr).await.unwrap(), TcpStream::connect(addr).await.unwrap());
    send(&mut plain, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    let mut answer = Vec::new();
    let _reset = timeout(PATIENCE, plain.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"));
    assert_eq!(read_to_end(&mut silent).await, "");
    assert_eq!(counts.timed_out.load(Relaxed), 1);
}
