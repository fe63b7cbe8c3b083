//! A fake API server: it answers every request in one way, or passes requests on to the real one and changes some of
//! them. It speaks plain HTTP/1.1, and a client needs no credentials for it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::scratch::Scratch;
use super::server::loopback;
use super::{control_plane::ControlPlane, runtime};
use crate::sync::lock;

/// A server in front of the API server, or in its place; closed on drop.
pub struct FakeApiServer {
    address: SocketAddr,
    kubeconfig: PathBuf,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
    // The server behind it lives as long as this does.
    _cluster: Option<ControlPlane>,
    _scratch: Scratch,
}

/// What it does with a request.
enum Rule {
    /// Answers with this status and body.
    Answer(StatusCode, String),
    /// Passes it on; `left` more watches begin at resource version 1.
    Rewrite { client: Client, left: AtomicUsize },
}

impl FakeApiServer {
    /// Answers every request with this status and JSON body.
    pub fn answering(status: u16, body: &str) -> Self {
        let status = StatusCode::from_u16(status).expect("a status");
        Self::start(Rule::Answer(status, body.to_owned()), None)
    }

    /// Passes every request on as `admin`, but lets the first `watches` begin at resource version 1. The API server has
    /// forgotten that version, so it answers `410 Gone`.
    pub fn rewriting(cluster: &ControlPlane, watches: usize) -> Self {
        let left = AtomicUsize::new(watches);
        let rule = Rule::Rewrite { client: cluster.client(), left };
        Self::start(rule, Some(cluster.clone()))
    }

    fn start(rule: Rule, cluster: Option<ControlPlane>) -> Self {
        let listener = runtime::handle().block_on(TcpListener::bind(loopback(0)));
        let listener = listener.expect("listen");
        let address = listener.local_addr().expect("an address");
        let scratch = Scratch::new();
        let kubeconfig = scratch.kubeconfig("anonymous", &format!("http://{address}"), None, None);
        let requests = Arc::default();
        let task = runtime::handle().spawn(serve(listener, rule.into(), Arc::clone(&requests)));
        Self { address, kubeconfig, requests, task, _cluster: cluster, _scratch: scratch }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig file for the environment's `KUBECONFIG`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// The requests so far, as `GET /path?query`, before they were changed.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.requests).clone()
    }
}

impl Drop for FakeApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, rule: Arc<Rule>, requests: Arc<Mutex<Vec<String>>>) {
    // Dropped with this task, which ends all of them.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let (rule, requests) = (Arc::clone(&rule), Arc::clone(&requests));
        let service = service_fn(move |request: Request<Incoming>| {
            lock(&requests).push(format!("{} {}", request.method(), request.uri()));
            let rule = Arc::clone(&rule);
            async move { Ok::<_, Infallible>(rule.apply(request).await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connections.spawn(async { drop(connection.await) });
    }
}

impl Rule {
    async fn apply(&self, request: Request<Incoming>) -> Response<Body> {
        match self {
            Self::Answer(status, body) => answer(*status, body),
            Self::Rewrite { client, left } => pass_on(client, left, request)
                .await
                .unwrap_or_else(|why| answer(StatusCode::BAD_GATEWAY, &why)),
        }
    }
}

fn answer(status: StatusCode, body: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(body.as_bytes().to_vec()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a type"));
    response
}

async fn pass_on(
    client: &Client,
    left: &AtomicUsize,
    request: Request<Incoming>,
) -> Result<Response<Body>, String> {
    let (mut parts, body) = request.into_parts();
    let body: Bytes = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    let uri = parts.uri.to_string();
    if is_watch(&uri) && take_one(left) {
        parts.uri = with_version(&uri, "1").parse().expect("a URI");
    }
    // The client sets its own.
    parts.headers.remove(HOST);
    parts.headers.remove(AUTHORIZATION);
    let request = Request::from_parts(parts, Body::from(body));
    client.send(request).await.map_err(|error| error.to_string())
}

fn take_one(left: &AtomicUsize) -> bool {
    let less = |left: usize| left.checked_sub(1);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
}

fn is_watch(uri: &str) -> bool {
    let query = uri.split_once('?').map_or("", |(_, query)| query);
    query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1"))
}

/// The URI of a watch that begins at another resource version.
fn with_version(uri: &str, version: &str) -> String {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let others = query.split('&').filter(|pair| !pair.starts_with("resourceVersion="));
    let others: Vec<&str> = others.collect();
    format!("{path}?{}&resourceVersion={version}", others.join("&"))
}
