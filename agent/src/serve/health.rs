//! The health listener, for load balancers and probes. Read-only, nothing secret.
//!
//! * `GET|HEAD|OPTIONS /health[?check=a,b][&exclude=c][&verbose]` — 200 ready, 503 not ready, 500 the node's
//!   name is needed and not set, 400 too many names
//! * `GET|HEAD|OPTIONS /health/<check>` — that check alone; 404 where there is no such check
//! * `GET|HEAD|OPTIONS /livez` — 200 while the process runs
//! * `GET|HEAD|OPTIONS /nodename` — `Node: "<name>"`
//! * anything else — 404, or 405 with `Allow`

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use hyper::{Method, Request, StatusCode};

use super::{JSON, Reply, TEXT, error, not_allowed, reply};
use crate::{
    checks,
    health::{Board, Question, Refused},
};

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
}

impl Health {
    /// A handler that answers from `board` and counts into `answered`.
    #[must_use]
    pub fn new(board: Board, answered: Arc<Answered>) -> Self {
        Self { board, answered }
    }

    /// Answers one request; its body is not read.
    pub fn handle<B>(&self, request: &Request<B>) -> Reply {
        let reply = self.route(request.method(), request.uri().path(), request.uri().query());
        let counter = match reply.status() {
            StatusCode::OK => &self.answered.ready,
            StatusCode::SERVICE_UNAVAILABLE => &self.answered.not_ready,
            _ => &self.answered.refused,
        };
        counter.fetch_add(1, Relaxed);
        reply
    }

    fn route(&self, method: &Method, path: &str, query: Option<&str>) -> Reply {
        let allowed = || matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        match path {
            "/health" | "/livez" | "/nodename" if !allowed() => not_allowed(ALLOW),
            "/health" => self.health(Question::parse(query.unwrap_or_default())),
            "/livez" => reply(StatusCode::OK, TEXT, "ok"),
            "/nodename" => reply(
                StatusCode::OK,
                TEXT,
                format!("Node: {:?}", self.board.node_name().unwrap_or_default()),
            ),
            _ => match path.strip_prefix("/health/") {
                Some(name) if checks::find(name).is_some() => {
                    if !allowed() {
                        return not_allowed(ALLOW);
                    }
                    let question = Question::parse(query.unwrap_or_default());
                    self.health(question.map(|question| Question {
                        checks: vec![name.to_owned()],
                        exclude: Vec::new(),
                        ..question
                    }))
                }
                Some(_) => error(StatusCode::NOT_FOUND, "no such check"),
                None => error(StatusCode::NOT_FOUND, "not found"),
            },
        }
    }

    fn health(&self, question: Result<Question, Refused>) -> Reply {
        let answer = question.and_then(|q| self.board.answer(&q).map(|answer| (answer, q.verbose)));
        let (answer, verbose) = match answer {
            Ok(found) => found,
            Err(refused @ Refused::NoNodeName(_)) => {
                let body = serde_json::json!({ "status": "error", "error": refused.to_string() });
                return reply(StatusCode::INTERNAL_SERVER_ERROR, JSON, body.to_string());
            }
            Err(refused @ Refused::TooMany) => {
                return error(StatusCode::BAD_REQUEST, &refused.to_string());
            }
        };
        let status =
            if answer.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        if verbose {
            return reply(status, TEXT, answer.verbose());
        }
        match serde_json::to_vec(&answer) {
            Ok(body) => reply(status, JSON, body),
            Err(failed) => error(StatusCode::INTERNAL_SERVER_ERROR, &failed.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::{body::Body, header};
    use tokio::sync::watch;

    use super::*;

    fn ask(method: &str, uri: &str) -> Reply {
        let (_sender, receiver) = watch::channel(Arc::default());
        let default: Vec<_> = checks::all().iter().filter(|c| !c.needs_node_name).collect();
        let board = Board::new(receiver, Some("n\"1"), &default, false);
        let request = Request::builder().method(method).uri(uri).body(()).unwrap();
        Health::new(board, Arc::default()).handle(&request)
    }

    #[test]
    fn paths_and_methods() {
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
            let reply = ask(method, uri);
            assert_eq!(reply.status(), status, "{method} {uri}");
            assert_eq!(reply.headers()[header::CACHE_CONTROL], "no-store");
            assert_eq!(reply.headers().contains_key(header::ALLOW), status == 405);
        }
        let many = (0..33).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",");
        assert_eq!(ask("GET", &format!("/health?check={many}")).status(), 400);
        assert!(ask("GET", "/nodename").body().size_hint().exact().unwrap() > 10);
    }
}
