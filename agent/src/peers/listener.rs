//! The TCP side of the peers' port: what `k8_networking_health` answers there. It is read-only, whatever is asked.
//!
//! * `/ping`: 200 and `pong`
//! * `/coordinator`: 200 without a body; its `id=` changes nothing
//!
//! Membership does not use it. It is there for probes of pods and for what else asked the old program.

use hyper::{Request, StatusCode};
use tocsin_runtime::http::{Reply, Server, Settings, TEXT, reply};

/// 256 connections at a time, which ask once in a while.
const CONNECTIONS: usize = 256;

/// The server for the port.
#[must_use]
pub(super) fn server() -> Server {
    let settings = Settings { connections: CONNECTIONS, ..Settings::new("peers") };
    Server::new(settings, |request, _| async move { answer(&request) })
}

/// Answers by the path alone: the old program takes every method.
fn answer<B>(request: &Request<B>) -> Reply {
    match request.uri().path() {
        "/ping" => reply(StatusCode::OK, TEXT, "pong"),
        "/coordinator" => reply(StatusCode::OK, TEXT, ""),
        _ => reply(StatusCode::NOT_FOUND, TEXT, "404 page not found\n"),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn answers_are_the_documented_ones() {
        for (method, target, status, body) in [
            ("GET", "/ping", 200, "pong"),
            ("POST", "/ping?x", 200, "pong"),
            ("GET", "/coordinator", 200, ""),
            ("GET", "/coordinator?id=zzz", 200, ""),
            ("GET", "/", 404, "404 page not found\n"),
            ("GET", "/ping/", 404, "404 page not found\n"),
        ] {
            let request = Request::builder().method(method).uri(target).body(()).unwrap();
            let reply = answer(&request);
            assert_eq!(reply.status(), status, "{target}");
            assert_eq!(reply.headers()["content-type"], "text/plain; charset=utf-8");
            let found = reply.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(found, body, "{target}");
        }
    }
}
