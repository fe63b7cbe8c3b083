//! The health listener, for load balancers and probes. Read-only, nothing secret.
//!
//! * `GET|HEAD|OPTIONS /health[?check=a,b][&exclude=c][&verbose]` — 200 ready, 503 not ready, 500 the node's
//!   name is needed and not set, 400 too many names
//! * `GET|HEAD|OPTIONS /health/<check>` — that check alone; 404 where there is no such check
//! * `GET|HEAD|OPTIONS /livez` — 200 while the process runs
//! * any method `/nodename` — `Node: "<name>"`, and `/nodecheck` — `OK`, or `Down` while `schedulable` fails: byte for
//!   byte those of the page that this replaces
//! * anything else — 404, or 405 with `Allow`

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use hyper::{Method, Request, StatusCode};

use super::{JSON, Reply, TEXT, error, not_allowed, reply};
use crate::health::{Board, Question, Refused};

const ALLOW: &str = "GET, HEAD, OPTIONS";

/// Answers to `/health`, by status.
#[derive(Debug, Default)]
pub struct Answered {
    /// 200
    pub ready: AtomicU64,
    /// 503
    pub not_ready: AtomicU64,
    /// 400, 404, 405 and 500
    pub refused: AtomicU64,
}

/// The handler.
#[derive(Clone, Debug)]
pub struct Health {
    board: Board,
    answered: Arc<Answered>,
    down: StatusCode,
}

impl Health {
    /// A handler that answers from `board` and counts into `answered`; `/nodecheck` says `Down` with that status.
    #[must_use]
    pub fn new(board: Board, answered: Arc<Answered>, nodecheck_down_status: u16) -> Self {
        let down = StatusCode::from_u16(nodecheck_down_status).unwrap_or(StatusCode::OK);
        Self { board, answered, down }
    }

    /// Answers one request; its body is not read.
    pub async fn handle<B>(&self, request: Request<B>) -> Reply {
        let (request, body) = request.into_parts();
        drop(body);
        let reply = self.route(&request.method, request.uri.path(), request.uri.query()).await;
        let counter = match reply.status() {
            StatusCode::OK => &self.answered.ready,
            StatusCode::SERVICE_UNAVAILABLE => &self.answered.not_ready,
            _ => &self.answered.refused,
        };
        counter.fetch_add(1, Relaxed);
        reply
    }

    async fn route(&self, method: &Method, path: &str, query: Option<&str>) -> Reply {
        let allowed = || matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        match path {
            "/health" | "/livez" if !allowed() => not_allowed(ALLOW),
            "/health" => self.health(Question::parse(query.unwrap_or_default())).await,
            "/livez" => reply(StatusCode::OK, TEXT, "ok"),
            "/nodename" => reply(
                StatusCode::OK,
                TEXT,
                format!("Node: {}", quoted(self.board.node_name().unwrap_or_default())),
            ),
            "/nodecheck" => self.nodecheck(),
            _ => match path.strip_prefix("/health/") {
                Some(name) if self.board.check(name).is_some() => {
                    if !allowed() {
                        return not_allowed(ALLOW);
                    }
                    let question = Question::parse(query.unwrap_or_default());
                    self.health(question.map(|question| Question {
                        checks: vec![name.to_owned()],
                        exclude: Vec::new(),
                        ..question
                    }))
                    .await
                }
                Some(_) => error(StatusCode::NOT_FOUND, "no such check"),
                None => error(StatusCode::NOT_FOUND, "not found"),
            },
        }
    }

    fn nodecheck(&self) -> Reply {
        let checks = vec!["schedulable".to_owned()];
        match self.board.answer(&Question { checks, ..Question::default() }) {
            Ok(answer) if answer.is_ready() => reply(StatusCode::OK, TEXT, "OK"),
            Ok(_) => reply(self.down, TEXT, "Down"),
            Err(refused) => no_verdict(&refused),
        }
    }

    async fn health(&self, question: Result<Question, Refused>) -> Reply {
        let question = match question {
            Ok(question) => question,
            Err(refused) => return no_verdict(&refused),
        };
        let answer = match self.board.ask(&question).await {
            Ok(answer) => answer,
            Err(refused) => return no_verdict(&refused),
        };
        let status =
            if answer.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        if question.verbose {
            return reply(status, TEXT, answer.verbose());
        }
        match serde_json::to_vec(&answer) {
            Ok(body) => reply(status, JSON, body),
            Err(failed) => error(StatusCode::INTERNAL_SERVER_ERROR, &failed.to_string()),
        }
    }
}

fn no_verdict(refused: &Refused) -> Reply {
    match refused {
        Refused::NoNodeName(_) => {
            let body = serde_json::json!({ "status": "error", "error": refused.to_string() });
            reply(StatusCode::INTERNAL_SERVER_ERROR, JSON, body.to_string())
        }
        Refused::TooMany => error(StatusCode::BAD_REQUEST, &refused.to_string()),
    }
}

/// As Go's `%q` writes it, which the page that this replaces used.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use http_body_util::BodyExt;
    use hyper::header;
    use tokio::sync::watch;

    use super::*;
    use crate::{
        checks::{self, Policy, runner::Probes},
        model::{Link, Node, NodeView, Word},
    };

    fn health(node_name: Option<&str>, unschedulable: bool, down: u16) -> Health {
        let (_sender, kernel) = watch::channel(Arc::default());
        let node = Node { unschedulable, ..Node::default() };
        let last = Some(Word { at: SystemTime::UNIX_EPOCH, node: Some(node) });
        let (_sender, node) = watch::channel(Arc::new(NodeView { link: Link::Up, last }));
        let policy = Policy {
            node_name: node_name.map(str::to_owned),
            default_checks: vec![checks::find("io_stall").unwrap()],
            ..Policy::default()
        };
        let board = Board::new(kernel, node, Probes::default(), Arc::new(policy));
        Health::new(board, Arc::default(), down)
    }

    async fn ask(method: &str, uri: &str) -> Reply {
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        health(Some("n"), false, 200).handle(request).await
    }

    async fn text(reply: Reply) -> String {
        let bytes = reply.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_old_page_byte_for_byte() {
        const TEXT: &str = "text/plain; charset=utf-8";
        // (name, cordoned, status of Down, path, status, body)
        for (name, cordoned, down, path, status, body) in [
            (Some("n-1.example"), false, 200, "/nodename", 200, r#"Node: "n-1.example""#),
            (Some("a\"\\\u{1}\té"), false, 200, "/nodename", 200, r#"Node: "a\"\\\x01\té""#),
            (None, false, 200, "/nodename", 200, r#"Node: """#),
            (Some("n"), false, 200, "/nodecheck", 200, "OK"),
            (Some("n"), true, 200, "/nodecheck", 200, "Down"),
            (Some("n"), true, 503, "/nodecheck", 503, "Down"),
        ] {
            for method in ["GET", "HEAD", "POST", "BREW"] {
                let request = Request::builder().method(method).uri(path).body(()).unwrap();
                let reply = health(name, cordoned, down).handle(request).await;
                assert_eq!(reply.status(), status, "{method} {path}");
                assert_eq!(reply.headers()[header::CONTENT_TYPE], TEXT);
                assert_eq!(text(reply).await, body, "{method} {path}");
            }
        }
        let request = Request::builder().uri("/nodecheck").body(()).unwrap();
        assert_eq!(health(None, false, 200).handle(request).await.status(), 500);
    }

    #[tokio::test]
    async fn paths_and_methods() {
        for (method, uri, status) in [
            ("GET", "/health", 200),
            ("HEAD", "/health", 200),
            ("OPTIONS", "/health", 200),
            ("POST", "/health", 405),
            ("GET", "/health?check=bogus", 503),
            ("GET", "/health/io_stall", 200),
            ("GET", "/health/io_stall?exclude=io_stall", 200),
            ("DELETE", "/health/io_stall", 405),
            ("GET", "/health/bogus", 404),
            ("GET", "/health/", 404),
            ("GET", "/healthz", 404),
            ("GET", "/livez", 200),
            ("PUT", "/livez", 405),
            ("GET", "/nodename", 200),
            ("GET", "/", 404),
            ("GET", "/etc/passwd", 404),
            ("GET", "/../etc/passwd", 404),
            ("GET", "/var/run/secrets/kubernetes.io/serviceaccount/token", 404),
        ] {
            let reply = ask(method, uri).await;
            assert_eq!(reply.status(), status, "{method} {uri}");
            assert_eq!(reply.headers()[header::CACHE_CONTROL], "no-store");
            assert_eq!(reply.headers().contains_key(header::ALLOW), status == 405);
        }
        let many = (0..33).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",");
        assert_eq!(ask("GET", &format!("/health?check={many}")).await.status(), 400);
    }
}
