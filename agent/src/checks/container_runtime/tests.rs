//! The probe against servers of every kind: runtimes, broken ones and others.

use std::{
    convert::Infallible,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use super::*;

/// `Status` with both conditions true.
const READY: &[u8] =
    b"\0\0\0\0\x26\x0a\x24\x0a\x10\x0a\x0cRuntimeReady\x10\x01\x0a\x10\x0a\x0cNetworkReady\x10\x01";

/// A server's answer to every call: HTTP status, type, `grpc-status` in the headers, body, `grpc-status` after it.
type Answer = (u16, &'static str, Option<&'static str>, &'static [u8], Option<&'static str>);

const WELL: Answer = (200, "application/grpc", None, READY, Some("0"));
/// tonic's text for an answer that was cut off.
const NO_STATUS: &str = "UNKNOWN: protocol error: missing grpc-status trailer, stream was terminated without a final \
                         status (possible truncation by a proxy or load balancer)";
const NO_CRI: Answer = (200, "application/grpc", Some("12"), b"", None);

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn bind(&self, name: &str) -> UnixListener {
        UnixListener::bind(self.0.path().join(name)).unwrap()
    }

    fn probe(&self, socket: &str) -> Arc<ContainerRuntime> {
        let paths = Paths {
            root: self.0.path().to_owned(),
            proc: "/proc".into(),
            sys: "/sys".into(),
            mount_table: "/proc/self/mountinfo".into(),
        };
        Arc::new(ContainerRuntime::new(socket.parse().unwrap(), &paths, Bounded::default()))
    }
}

/// Serves gRPC, and counts connections.
fn serve(
    listener: UnixListener,
    answer: Answer,
) -> (tokio::task::JoinHandle<()>, Arc<AtomicUsize>) {
    let count = Arc::<AtomicUsize>::default();
    let connections = count.clone();
    let serving = tokio::spawn(async move {
        // All of them end with this task.
        let mut open = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.fetch_add(1, Relaxed);
            open.spawn(async move {
                let service = service_fn(move |request| respond(request, answer));
                let builder = http2::Builder::new(TokioExecutor::new());
                let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (serving, count)
}

async fn respond(
    request: Request<Incoming>,
    (code, kind, early, body, late): Answer,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
    assert_eq!(request.uri().path(), "/runtime.v1.RuntimeService/Status");
    assert_eq!(request.headers()["te"], "trailers");
    assert_eq!(request.headers()["grpc-timeout"], "1000000u");
    let message = request.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(message, &b"\0\0\0\0\0"[..]);
    let trailers = late.map(|status| {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.parse().unwrap());
        Ok(trailers)
    });
    let body = Full::new(Bytes::from_static(body)).with_trailers(async { trailers });
    let mut response = Response::builder().status(code).header(CONTENT_TYPE, kind);
    if let Some(status) = early {
        response = response.header("grpc-status", status).header("grpc-message", "a%20b");
    }
    Ok(response.body(body).unwrap())
}

fn fail(why: &str) -> Outcome {
    Outcome::Fail(format!("/x.sock: {why}"))
}

#[tokio::test]
async fn answers_are_believed_only_where_they_are_grpc() {
    static LONG: [u8; settings::CRI_MESSAGE + 6] = {
        let mut bytes = [0; settings::CRI_MESSAGE + 6];
        // The length is one byte more than the limit.
        (bytes[2], bytes[4]) = (1, 1);
        bytes
    };
    for (answer, expected) in [
        (WELL, Outcome::Pass),
        ((200, "application/grpc+proto", None, READY, Some("0")), Outcome::Pass),
        (
            NO_CRI,
            fail(
                "no CRI runtime.v1 here (UNIMPLEMENTED: a b): its CRI plugin is off or failed, or it is older than \
                 Kubernetes 1.23",
            ),
        ),
        ((200, "application/grpc", Some("14"), b"", None), fail("UNAVAILABLE: a b")),
        ((200, "application/grpc", None, READY, Some("4")), fail("DEADLINE_EXCEEDED")),
        ((200, "application/grpc", None, READY, None), fail(NO_STATUS)),
        (
            (200, "application/grpc", None, b"", Some("0")),
            fail("INTERNAL: Missing response message."),
        ),
        (
            (200, "application/grpc", None, &LONG, Some("0")),
            fail(
                "OUT_OF_RANGE: Error, decoded message length too large: found 65537 bytes, the limit is: 65536 bytes",
            ),
        ),
        (
            (404, "text/plain", None, b"no", None),
            fail("HTTP 404 of type \"text/plain\" instead of a gRPC answer"),
        ),
        (
            (200, "text/html", None, b"hi", None),
            fail("HTTP 200 of type \"text/html\" instead of a gRPC answer"),
        ),
        (
            (200, "application/grpc", None, b"\0\0\0\0\0", Some("0")),
            fail("it says nothing about RuntimeReady; it says nothing about NetworkReady"),
        ),
    ] {
        let place = Place::new();
        let (_serving, _) = serve(place.bind("x.sock"), answer);
        let probe = place.probe("/x.sock");
        assert_eq!(probe.clone().sample().await, expected);
        // The same again, on the same or another connection.
        assert_eq!(probe.sample().await, expected);
    }
}

#[tokio::test]
async fn a_connection_is_kept_and_made_anew() {
    let place = Place::new();
    let probe = place.probe("/x.sock");
    let (serving, connections) = serve(place.bind("x.sock"), WELL);
    for _ in 0..10 {
        assert_eq!(probe.clone().sample().await, Outcome::Pass);
    }
    assert_eq!(connections.load(Relaxed), 1);
    // Its file is gone, the connection is not.
    let file = place.0.path().join("x.sock");
    std::fs::remove_file(&file).unwrap();
    let nowhere = "no container runtime's socket, looked at /x.sock";
    assert_eq!(probe.clone().sample().await, Outcome::Unknown(nowhere.into()));
    // Another socket at the same path, while the first server still serves its connections.
    let (other, other_connections) = serve(place.bind("x.sock"), NO_CRI);
    assert!(matches!(probe.clone().sample().await, Outcome::Fail(_)));
    assert!(matches!(probe.clone().sample().await, Outcome::Fail(_)));
    assert_eq!((connections.load(Relaxed), other_connections.load(Relaxed)), (1, 1));
    serving.abort();
    other.abort();
    let _aborted = other.await;
    assert_eq!(probe.clone().sample().await, fail("nobody listens on it"));
    std::fs::remove_file(&file).unwrap();
    let (_serving, _) = serve(place.bind("x.sock"), WELL);
    assert_eq!(probe.sample().await, Outcome::Pass);
}

#[tokio::test]
async fn a_silent_server_is_given_up_in_time() {
    let place = Place::new();
    let probe = place.probe("/x.sock");
    let listener = place.bind("x.sock");
    for _ in 0..2 {
        let began = Instant::now();
        let (outcome, mut stream) =
            tokio::join!(probe.clone().sample(), async { listener.accept().await.unwrap().0 });
        assert_eq!(outcome, fail("no answer within 1 s"));
        assert!(began.elapsed() < settings::CRI_TIMEOUT * 10);
        // The connection ends: the probe leaves nothing behind.
        let mut received = Vec::new();
        let end = stream.read_to_end(&mut received);
        let end = tokio::time::timeout(Duration::from_secs(5), end);
        end.await.unwrap().unwrap();
        assert!(received.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
    }
    assert!(lock(&probe.kept).is_empty());
}

#[tokio::test]
async fn a_queue_that_is_full_is_no_connection() {
    let place = Place::new();
    let probe = place.probe("/x.sock");
    let listener = place.bind("x.sock");
    // The queue has room for one connection that is never accepted.
    rustix::net::listen(&listener, 0).unwrap();
    assert_eq!(probe.clone().sample().await, fail("no answer within 1 s"));
    assert_eq!(probe.sample().await, fail("it takes no connections: its queue of them is full"));
}

#[tokio::test]
async fn servers_of_other_protocols_fail_and_leave_nothing_behind() {
    async fn reply(mut stream: UnixStream, bytes: &'static [u8]) {
        let mut preface = [0; 64];
        let _read = stream.read(&mut preface).await;
        let _gone = stream.write_all(bytes).await;
        let mut rest = Vec::new();
        let _end = stream.read_to_end(&mut rest).await;
    }
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    for bytes in [
        &b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &[0xff; 4096],
        &[0; 4096],
    ] {
        let place = Place::new();
        let (probe, listener) = (place.probe("/x.sock"), place.bind("x.sock"));
        let before = descriptors();
        for _ in 0..20 {
            let (outcome, ()) = tokio::join!(probe.clone().sample(), async {
                reply(listener.accept().await.unwrap().0, bytes).await;
            });
            let Outcome::Fail(why) = outcome else { panic!("{outcome:?}") };
            assert!(why.starts_with("/x.sock: no HTTP/2 answer: "), "{why}");
        }
        // Other tests of this process open files too, but not that many at once.
        assert!(descriptors() < before + 20, "{} before, {} now", before, descriptors());
    }
}

#[tokio::test]
async fn a_socket_without_the_interface_is_passed_over() {
    let place = Place::new();
    let [first, second] = [settings::CRI_SOCKETS[0], settings::CRI_SOCKETS[1]];
    for socket in [first, second] {
        let directory = Path::new(socket).parent().unwrap().strip_prefix("/").unwrap();
        std::fs::create_dir_all(place.0.path().join(directory)).unwrap();
    }
    let probe = place.probe("");
    let (_docker, connections) = serve(place.bind(&first[1..]), NO_CRI);
    let Outcome::Fail(why) = probe.clone().sample().await else { panic!() };
    assert!(why.starts_with(&format!("{first}: no CRI runtime.v1 here")), "{why}");
    let (runtime, _) = serve(place.bind(&second[1..]), WELL);
    for _ in 0..5 {
        assert_eq!(probe.clone().sample().await, Outcome::Pass);
    }
    assert_eq!(connections.load(Relaxed), 1, "it is not asked on a new connection each time");
    // The runtime is down: no other socket stands in for it.
    runtime.abort();
    let _aborted = runtime.await;
    let refused = format!("{second}: nobody listens on it");
    assert_eq!(probe.sample().await, Outcome::Fail(refused));
}
