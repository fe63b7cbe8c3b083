//! Request -> response: the paths of the health listener.
//!
//! * `GET|HEAD|OPTIONS /health[?check=a,b][&exclude=c][&verbose][&drain=404]` — 200 ready, 503 not ready, 404 where the
//!   node is only cordoned and `drain=404` asks for that, 500 where a check needs the node's name and it is not set, 400
//!   for too many names or one that is too long
//! * `GET|HEAD|OPTIONS /health/<check>` — that check alone; 404 where there is no such check
//! * `OPTIONS /` — as `/health`: `HAProxy` asks for it where nothing else is configured
//! * `GET|HEAD|OPTIONS /livez` — 200 while the process runs, 503 where its kernel task does not come back
//! * any method `/nodename` — `Node: "<name>"`, and `/nodecheck` — `OK`, or `Down` while `schedulable` fails: byte for
//!   byte as the page that this replaces
//! * everything else — 404, or 405 with `Allow`

use hyper::StatusCode;
use percent_encoding::percent_decode_str;
use tocsin_api::health::HealthResponse;

use super::{format::Format, health_json, response::Response};
use tocsin_runtime::http::{JSON, TEXT};

use crate::{
    checks::settings::LOOK_IS_TOO_OLD,
    health::{self, Board, HealthQuery, Refused},
    serve::reason::printable_reason,
};

/// The routes of the health listener, and the board that they are answered from.
#[derive(Clone, Debug)]
pub struct Router {
    board: Board,
    nodecheck_down: StatusCode,
}

/// The route of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// The response is known.
    Fixed(Response),
    /// The response depends on the verdict of these checks.
    Health(HealthQuery),
}

impl Router {
    /// Routes that are answered from `board`. `/nodecheck` says `Down` with the given status.
    #[must_use]
    pub fn new(board: Board, nodecheck_down_status: u16) -> Self {
        let nodecheck_down = StatusCode::from_u16(nodecheck_down_status).unwrap_or(StatusCode::OK);
        Self { board, nodecheck_down }
    }

    /// The board that the routes are answered from.
    #[must_use]
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// The route of a method and a target (path and query).
    #[must_use]
    pub fn route(&self, method: &str, target: &str) -> Route {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let path = &*percent_decode_str(path).decode_utf8_lossy();
        let is_allowed = matches!(method, "GET" | "HEAD" | "OPTIONS");
        match path {
            "/health" | "/livez" if !is_allowed => Route::Fixed(Response::not_allowed()),
            "/health" => self.health(query),
            "/" | "*" | "" if method == "OPTIONS" => self.health(query),
            "/livez" => Route::Fixed(self.livez()),
            "/nodename" => {
                let name = quoted(self.board.node_name().unwrap_or_default());
                Route::Fixed(Response::new(StatusCode::OK, TEXT, format!("Node: {name}")))
            }
            "/nodecheck" => Route::Fixed(self.nodecheck()),
            _ => match path.strip_prefix("/health/") {
                Some(name) if self.board.check(name).is_none() => not_found("no such check"),
                Some(_) if !is_allowed => Route::Fixed(Response::not_allowed()),
                Some(name) => one_check(name, query),
                None => not_found("not found"),
            },
        }
    }

    fn health(&self, query: &str) -> Route {
        match HealthQuery::parse(query) {
            // A load balancer that asks for a drain means a cordon too, whatever the default set is.
            Ok(question) if question.drain_is_404 && question.checks.is_empty() => {
                let checks = self.board.with_drain().checks;
                Route::Health(HealthQuery { checks, ..question })
            }
            Ok(question) => Route::Health(question),
            Err(refused) => Route::Fixed(no_verdict(&refused)),
        }
    }

    /// The response from what is known; `None` where a probe has no result yet.
    #[must_use]
    pub fn now(&self, route: &Route, format: Format) -> Option<Response> {
        match route {
            Route::Fixed(response) => Some(response.clone()),
            Route::Health(question) => {
                self.board.ask_now(question).map(|answer| self.respond(question, format, answer))
            }
        }
    }

    /// The response, once every probe that the route needs has a result.
    pub async fn wait(&self, route: &Route, format: Format) -> Response {
        match route {
            Route::Fixed(response) => response.clone(),
            Route::Health(question) => {
                self.respond(question, format, self.board.ask(question).await)
            }
        }
    }

    /// The response from what is known: a probe without a result is unknown, as if it had not answered in time.
    #[must_use]
    pub fn known(&self, route: &Route, format: Format) -> Response {
        match route {
            Route::Fixed(response) => response.clone(),
            Route::Health(question) => self.respond(question, format, self.board.answer(question)),
        }
    }

    fn respond(
        &self,
        question: &HealthQuery,
        format: Format,
        answer: Result<HealthResponse, Refused>,
    ) -> Response {
        let answer = match answer {
            Ok(answer) => answer,
            Err(refused) => return no_verdict(&refused),
        };
        let status =
            match (answer.is_ready(), question.drain_is_404 && health::is_only_cordoned(&answer)) {
                (true, _) => StatusCode::OK,
                (false, true) => StatusCode::NOT_FOUND,
                (false, false) => StatusCode::SERVICE_UNAVAILABLE,
            };
        let json = |body: Result<Vec<u8>, serde_json::Error>, content_type| match body {
            Ok(body) => Response::new(status, content_type, body),
            Err(failed) => Response::error(StatusCode::INTERNAL_SERVER_ERROR, &failed.to_string()),
        };
        let response = if question.verbose {
            Response::new(status, TEXT, health::zpage(&answer))
        } else if format == Format::HealthJson {
            let faults = self.board.faults();
            let body = health_json::document(&answer, &faults, self.board.policy());
            json(serde_json::to_vec(&body), health_json::MEDIA_TYPE)
        } else {
            json(serde_json::to_vec(&answer), JSON)
        };
        Response { reason: answer.summary().map(|summary| printable_reason(&summary)), ..response }
    }

    /// 503 only where a restart is the remedy: the kernel task stands still and does not come back.
    fn livez(&self) -> Response {
        let standstill = self.board.standstill();
        if standstill < LOOK_IS_TOO_OLD {
            return Response::new(StatusCode::OK, TEXT, "ok");
        }
        let body = format!("the kernel task has stood still for {} s", standstill.as_secs());
        Response::new(StatusCode::SERVICE_UNAVAILABLE, TEXT, body)
    }

    fn nodecheck(&self) -> Response {
        let checks = vec!["schedulable".to_owned()];
        match self.board.answer(&HealthQuery { checks, ..HealthQuery::default() }) {
            Ok(answer) if answer.is_ready() => Response::new(StatusCode::OK, TEXT, "OK"),
            Ok(_) => Response::new(self.nodecheck_down, TEXT, "Down"),
            Err(refused) => no_verdict(&refused),
        }
    }
}

fn not_found(message: &str) -> Route {
    Route::Fixed(Response::error(StatusCode::NOT_FOUND, message))
}

fn one_check(name: &str, query: &str) -> Route {
    match HealthQuery::parse(query) {
        Ok(question) => Route::Health(HealthQuery {
            checks: vec![name.to_owned()],
            exclude: Vec::new(),
            ..question
        }),
        Err(refused) => Route::Fixed(no_verdict(&refused)),
    }
}

/// The response to a request that gets no verdict.
fn no_verdict(refused: &Refused) -> Response {
    match refused {
        Refused::NoNodeName(_) => {
            let body = serde_json::json!({ "status": "error", "error": refused.to_string() });
            Response::new(StatusCode::INTERNAL_SERVER_ERROR, JSON, body.to_string())
        }
        Refused::TooMany | Refused::NoName => {
            Response::error(StatusCode::BAD_REQUEST, &refused.to_string())
        }
    }
}

/// `text` as Go's `%q` writes it, which the page that this replaces used.
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
pub(super) mod tests {
    use std::{sync::Arc, time::SystemTime};

    use tokio::sync::watch;

    use super::*;
    use crate::{
        checks::{self, Policy, samples::Probes},
        model::{ApiState, FaultView, Node, NodeObservation, NodeView},
    };

    /// A router, and the sender of its faults.
    pub(in crate::serve) fn router(
        node_name: Option<&str>,
        unschedulable: bool,
        down: u16,
    ) -> (Router, watch::Sender<Arc<FaultView>>) {
        router_with(Probes::default(), node_name, unschedulable, down)
    }

    /// The same with probes.
    pub(in crate::serve) fn router_with(
        probes: Probes,
        node_name: Option<&str>,
        unschedulable: bool,
        down: u16,
    ) -> (Router, watch::Sender<Arc<FaultView>>) {
        let (sender, kernel) = watch::channel(Arc::default());
        let node = Node { unschedulable, ..Node::default() };
        let last = Some(NodeObservation { at: SystemTime::UNIX_EPOCH, node: Some(node) });
        let (_sender, node) = watch::channel(Arc::new(NodeView { api: ApiState::Up, last }));
        let policy = Policy {
            node_name: node_name.map(str::to_owned),
            default_checks: vec![checks::find("io_stall").unwrap()],
            ..Policy::default()
        };
        let board = Board::new(
            health::Sources { kernel, node, probes, ..health::Sources::default() },
            Arc::new(policy),
        );
        (Router::new(board, down), sender)
    }

    fn get(router: &Router, method: &str, target: &str) -> Response {
        router.now(&router.route(method, target), Format::Json).unwrap()
    }

    #[test]
    fn the_old_page_byte_for_byte() {
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
                let response = get(&router(name, cordoned, down).0, method, path);
                assert_eq!(response.status, status, "{method} {path}");
                assert_eq!(response.content_type, "text/plain; charset=utf-8");
                assert_eq!(response.body, body, "{method} {path}");
            }
        }
        assert_eq!(get(&router(None, false, 200).0, "GET", "/nodecheck").status, 500);
    }

    #[test]
    fn paths_and_methods() {
        let (ready, _faults) = router(Some("n"), false, 200);
        for (method, target, status) in [
            ("GET", "/health", 200),
            ("HEAD", "/health", 200),
            ("OPTIONS", "/health", 200),
            ("OPTIONS", "/", 200),
            ("OPTIONS", "*", 200),
            ("OPTIONS", "", 200),
            ("OPTIONS", "?check=bogus", 503),
            ("GET", "", 404),
            ("GET", "/%68ealth/io%5Fstall", 200),
            ("GET", "/health%3Fcheck=bogus", 404),
            ("GET", "/%ff%00", 404),
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
            let response = get(&ready, method, target);
            assert_eq!(response.status, status, "{method} {target}");
            assert_eq!(response.allow.is_some(), status == 405, "{method} {target}");
        }
        let many = (0..33).map(|n| format!("c{n}")).collect::<Vec<_>>().join(",");
        assert_eq!(get(&ready, "GET", &format!("/health?check={many}")).status, 400);
    }

    #[test]
    fn a_cordoned_node_is_404_where_drain_asks_for_that() {
        let (cordoned, _faults) = router(Some("n"), true, 200);
        for (target, status) in [
            ("/health?check=schedulable", 503),
            ("/health?check=schedulable&drain=404", 404),
            ("/health?check=schedulable,io_stall&drain=404", 404),
            ("/health?check=schedulable,bogus&drain=404", 503),
            ("/health?drain=404", 404),
            ("/health?exclude=schedulable&drain=404", 200),
            ("/health?check=bogus&drain=404", 503),
            ("/health?check=io_stall&drain=404", 200),
            ("/health?check=schedulable&drain=yes", 503),
        ] {
            assert_eq!(get(&cordoned, "GET", target).status, status, "{target}");
        }
    }

    #[test]
    fn the_reason_is_in_a_header_too() {
        let (cordoned, _faults) = router(Some("n"), true, 200);
        assert_eq!(get(&cordoned, "GET", "/health").reason, None);
        let bad = get(&cordoned, "GET", "/health?check=bogus,io_stall,schedulable").reason;
        assert!(bad.unwrap().starts_with("bogus: Unknown check: bogus; schedulable: "));
    }
}
