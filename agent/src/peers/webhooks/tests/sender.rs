//! The webhooks' tasks against a real HTTP server that accepts, fails, hangs, refuses and redirects.

use std::{
    collections::VecDeque,
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{broadcast, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{change, retry, view};
use crate::{
    host::Bounded,
    model::{PeerChange, PeerView},
    peers::{
        self,
        http_client::HttpClient,
        webhooks::{
            ClusterWebhooks, PeerWebhooks, WebhookKind, WebhookStats,
            sender::{SendError, Sender},
        },
    },
};

const PATIENCE: Duration = Duration::from_mins(1);

/// What the server does with one connection.
#[derive(Clone, Debug)]
enum Answer {
    Status(&'static str),
    Redirect(&'static str, String),
    Hang,
    Close,
}

/// A receiver of webhooks, which keeps the requests that it has read.
struct Receiver {
    address: SocketAddr,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    /// Answers with these in turn, and then always with 200.
    async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers = Arc::new(Mutex::new(VecDeque::from_iter(answers)));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (next, kept) = (answers.clone(), requests.clone());
        let task = tokio::spawn(async move {
            let mut hanging = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let answer = next.lock().unwrap().pop_front().unwrap_or(Answer::Status("200 OK"));
                let request = read_request(&mut stream).await;
                kept.lock().unwrap().push(request);
                let head = match answer {
                    Answer::Status(status) => format!("HTTP/1.1 {status}\r\n"),
                    Answer::Redirect(status, to) => {
                        format!("HTTP/1.1 {status}\r\nlocation: {to}\r\n")
                    }
                    Answer::Close => continue,
                    Answer::Hang => {
                        hanging.push(stream);
                        continue;
                    }
                };
                let text = format!("{head}content-length: 0\r\n\r\n");
                let _gone = stream.write_all(text.as_bytes()).await.is_err();
            }
        });
        Self { address, answers, requests, task }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// Waits for that many requests.
    async fn wait_for(&self, count: usize) -> Vec<String> {
        let wait = async {
            while self.requests().len() < count {
                sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = timeout(PATIENCE, wait).await;
        assert!(waited.is_ok(), "{count} requests are expected: {:?}", self.requests());
        self.requests()
    }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).await.unwrap_or_default();
        text.extend(&bytes[..count]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        let length = whole.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        let body = whole.split_once("\r\n\r\n").map(|(_, body)| body.len());
        let is_tls = text.first() == Some(&0x16);
        if count == 0 || is_tls || body.is_some_and(|body| body >= length) {
            return whole;
        }
    }
}

fn sender(url: &str) -> Sender {
    let bounded = Bounded::default();
    let client = HttpClient::new(bounded.clone());
    Sender { client, url: url.parse().unwrap(), key_file: None, bounded }
}

fn body(request: &str) -> &str {
    request.split_once("\r\n\r\n").unwrap().1
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let mut lines =
        request.split_once("\r\n\r\n")?.0.lines().filter_map(|line| line.split_once(": "));
    lines.find_map(|(found, value)| (found == name).then_some(value))
}

/// A task for webhooks about peers, with what it reads.
struct Running {
    view: watch::Sender<Arc<PeerView>>,
    changes: broadcast::Sender<PeerChange>,
    stats: Arc<WebhookStats>,
    task: JoinHandle<()>,
    _channels: peers::Channels,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn run(sender: Sender) -> Running {
    let channels = peers::channels();
    let (view, seen) = watch::channel(Arc::new(view("c", &["a", "b"], Some("c"))));
    let (changes, told) = broadcast::channel(16);
    let stats = Arc::<WebhookStats>::default();
    let webhooks = PeerWebhooks {
        sender,
        retry: retry(3, Duration::from_millis(20)),
        recovery: true,
        view: seen,
        changes: told,
        gossip: channels.published.gossip.clone(),
        received: channels.published.gossip.received(),
        stats: stats.clone(),
    };
    let task = tokio::spawn(webhooks.run());
    Running { view, changes, stats, task, _channels: channels }
}

#[tokio::test]
async fn webhooks_arrive_in_order_with_one_key_whatever_the_receiver_does() {
    let receiver = Receiver::start([
        Answer::Status("500 Internal Server Error"),
        Answer::Close,
        Answer::Redirect("302 Found", "/elsewhere".into()),
        Answer::Redirect("307 Temporary Redirect", "/moved?x".into()),
        Answer::Status("204 No Content"),
    ])
    .await;
    let mut sender = sender(&receiver.url("/hook?token=t"));
    let key = tempfile::NamedTempFile::new().unwrap();
    fs::write(key.path(), "Jefe\n").unwrap();
    sender.key_file = Some(key.path().to_owned());
    let running = run(sender);
    for (name, alive) in [("a", false), ("b", false), ("a", true)] {
        running.changes.send(change(name, alive, 1)).unwrap();
    }
    let requests = receiver.wait_for(7).await;
    let expected = concat!(
        r#"{"peer":{"id":"a@10097","address":"10.0.0.97:25004","alive":false,"node_name":"a"},"#,
        r#""coordinator":"c@10099","coordinator_address":"10.0.0.99:25004"}"#
    );
    for (request, path) in
        requests[..5].iter().zip(["/hook?token=t"; 4].iter().chain(["/moved?x"].iter()))
    {
        assert!(request.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{request}");
        assert_eq!(body(request), expected);
        assert_eq!(header(request, "content-type"), Some("application/json"));
        assert_eq!(header(request, "host"), Some(&*receiver.address.to_string()));
        assert_eq!(header(request, "idempotency-key"), Some("a@10097/1/dead"));
        let signature = header(request, "x-hub-signature-256").unwrap();
        assert_eq!(signature, header(&requests[0], "x-hub-signature-256").unwrap());
        assert!(signature.starts_with("sha256=") && signature.len() == 7 + 64, "{signature}");
    }
    let keys: Vec<_> =
        requests.iter().filter_map(|r| header(r, "idempotency-key")).skip(4).collect();
    assert_eq!(keys, ["a@10097/1/dead", "b@10098/1/dead", "a@10097/1/alive"]);
    assert!(body(&requests[6]).contains(r#""alive":true"#));
    let counted = async {
        while running.stats.accepted(WebhookKind::Peer) < 3 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, counted).await.unwrap();
    assert_eq!(running.stats.failed(WebhookKind::Peer), 3);
    assert_eq!(running.stats.failing(), [""; 0]);
}

#[tokio::test]
async fn a_receiver_that_is_down_gets_what_happened_meanwhile() {
    let receiver = Receiver::start([]).await;
    let address = receiver.address;
    let refusing = run(sender(&receiver.url("/hook")));
    drop(receiver);
    refusing.changes.send(change("a", false, 1)).unwrap();
    let failed = async {
        while refusing.stats.failing().is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, failed).await.unwrap();
    let failing = refusing.stats.failing().concat();
    assert!(
        failing.starts_with(&format!("PEER_STATUS_URL http://{address}: no connection: ")),
        "{failing}"
    );
    // An isolated agent keeps quiet, and what it knew from before is not lost.
    refusing.view.send_replace(Arc::new(view("c", &[], None)));
    refusing.view.send_replace(Arc::new(view("c", &["b"], Some("c"))));
    refusing.changes.send(change("b", false, 1)).unwrap();
    let listener = TcpListener::bind(address).await.unwrap();
    let mut keys = Vec::new();
    while keys.len() < 2 {
        let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let request = read_request(&mut stream).await;
        keys.push(header(&request, "idempotency-key").unwrap().to_owned());
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    }
    assert_eq!(keys, ["a@10097/1/dead", "b@10098/1/dead"]);
}

#[tokio::test]
async fn a_request_ends_in_time_and_says_why() {
    let receiver = Receiver::start([
        Answer::Hang,
        Answer::Redirect("301 Moved Permanently", "/x".into()),
        Answer::Redirect("308 Permanent Redirect", "ftp://x/".into()),
        Answer::Status("404 Not Found"),
    ])
    .await;
    let post = |sender: Sender| async move { sender.post("{}".into(), None).await.unwrap_err() };
    let began = Instant::now();
    assert_eq!(post(sender(&receiver.url("/"))).await.to_string(), "no answer within 5 s");
    assert!(began.elapsed() >= Duration::from_secs(5));
    for expected in [
        "it answers 301 Moved Permanently with a redirect that cannot be followed",
        "it answers 308 Permanent Redirect with a redirect that cannot be followed",
        "it answers 404 Not Found",
    ] {
        assert_eq!(post(sender(&receiver.url("/"))).await.to_string(), expected);
    }
    let looping = (0..9).map(|_| Answer::Redirect("308 Permanent Redirect", "/".into()));
    receiver.answers.lock().unwrap().extend(looping);
    let error = post(sender(&receiver.url("/"))).await.to_string();
    assert_eq!(error, "it redirects more than 5 times");
    // TLS to a server without.
    let error = post(sender(&receiver.url("/").replace("http", "https"))).await.to_string();
    assert!(error.starts_with("TLS: "), "{error}");
    let mut unsigned = sender(&receiver.url("/"));
    unsigned.key_file = Some("/nonexistent/key".into());
    let before = receiver.requests().len();
    let error = post(unsigned).await;
    assert!(matches!(error, SendError::Key(_)), "{error}");
    assert_eq!(receiver.requests().len(), before);
}

/// Both webhooks and the sanity check may ask for the same host and the same key at once.
#[tokio::test]
async fn requests_to_one_host_do_not_fail_each_other() {
    let receiver = Receiver::start([]).await;
    let mut sender = sender(&receiver.url("/").replace("127.0.0.1", "localhost"));
    let key = tempfile::NamedTempFile::new().unwrap();
    fs::write(key.path(), "Jefe\n").unwrap();
    sender.key_file = Some(key.path().to_owned());
    let busy = |name: String| {
        let (bounded, (began, is_running)) =
            (sender.bounded.clone(), tokio::sync::oneshot::channel());
        tokio::spawn(async move {
            let call = move || {
                let _gone = began.send(());
                std::thread::sleep(Duration::from_millis(200));
            };
            bounded.run(name, PATIENCE, call).await.unwrap();
        });
        is_running
    };
    for name in ["resolve localhost".to_owned(), format!("webhook key {}", key.path().display())] {
        busy(name).await.unwrap();
        sender.post("{}".into(), None).await.unwrap();
    }
    assert_eq!(receiver.requests().len(), 2);
}

#[tokio::test]
async fn a_redirect_of_the_sanity_check_is_followed() {
    let receiver = Receiver::start([
        Answer::Redirect("302 Found", "/b".into()),
        Answer::Status("200 OK"),
        Answer::Status("503 Service Unavailable"),
    ])
    .await;
    let client = HttpClient::new(Bounded::default());
    let url = receiver.url("/a").parse().unwrap();
    client.get(&url).await.unwrap();
    assert!(receiver.requests()[1].starts_with("GET /b HTTP/1.1\r\n"));
    assert!(client.get(&url).await.is_err());
}

#[tokio::test]
async fn the_coordinator_posts_the_clusters_status_at_intervals() {
    let receiver = Receiver::start([Answer::Status("500 Internal Server Error")]).await;
    let (view_sender, seen) = watch::channel(Arc::new(view("c", &["a", "b"], Some("c"))));
    let stats = Arc::<WebhookStats>::default();
    let interval = Duration::from_millis(50);
    let webhooks = ClusterWebhooks {
        sender: sender(&receiver.url("/cluster")),
        interval,
        view: seen,
        stats: stats.clone(),
    };
    let task = tokio::spawn(webhooks.run());
    let requests = receiver.wait_for(3).await;
    let expected = concat!(
        r#"{"peer_map":[{"id":"a@10097","address":"10.0.0.97:25004","alive":true,"node_name":"a"},"#,
        r#"{"id":"b@10098","address":"10.0.0.98:25004","alive":true,"node_name":"b"}],"#,
        r#""coordinator":"c@10099","coordinator_address":"10.0.0.99:25004"}"#
    );
    for request in &requests {
        assert_eq!(body(request), expected);
        assert_eq!(header(request, "idempotency-key"), None);
    }
    // A follower posts nothing.
    view_sender.send_replace(Arc::new(view("c", &["a", "d"], Some("d"))));
    sleep(interval * 2).await;
    let count = receiver.requests().len();
    sleep(interval * 10).await;
    assert_eq!(receiver.requests().len(), count);
    assert_eq!(stats.failed(WebhookKind::Cluster), 1);
    task.abort();
}
