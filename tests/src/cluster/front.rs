//! Something in front of the API server that answers by itself, or changes what is asked. Plain
//! HTTP/1.1: a client needs no credentials for it.

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
use super::{ControlPlane, keeper, lock};

/// A server in front of the API server, or in its place; closed on drop.
pub struct Front {
    address: SocketAddr,
    kubeconfig: PathBuf,
    requests: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
    // The server behind it, as long as this is there.
    _cluster: Option<ControlPlane>,
    _scratch: Scratch,
}

/// What becomes of a request.
enum Rule {
    Answer(StatusCode, String),
    Rewrite { client: Client, left: AtomicUsize },
}

impl Front {
    /// Answers every request with this.
    pub fn answering(status: u16, body: &str) -> Self {
        let status = StatusCode::from_u16(status).expect("a status");
        Self::start(Rule::Answer(status, body.to_owned()), None)
    }

    /// Passes everything on, as `admin`, but has the first watches begin at resource version 1. No
    /// server has that any more, so it answers that it is gone.
    pub fn rewriting(cluster: &ControlPlane, watches: usize) -> Self {
        let left = AtomicUsize::new(watches);
        let rule = Rule::Rewrite { client: cluster.client(), left };
        Self::start(rule, Some(cluster.clone()))
    }

    fn start(rule: Rule, cluster: Option<ControlPlane>) -> Self {
        let listener = keeper::handle().block_on(TcpListener::bind(loopback(0)));
        let listener = listener.expect("listen");
        let address = listener.local_addr().expect("an address");
        let scratch = Scratch::new();
        let kubeconfig = scratch.kubeconfig("anybody", &format!("http://{address}"), None, None);
        let requests = Arc::default();
        let task = keeper::handle().spawn(serve(listener, rule.into(), Arc::clone(&requests)));
        Self { address, kubeconfig, requests, task, _cluster: cluster, _scratch: scratch }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A file for the environment's `KUBECONFIG`.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// What was asked, as `GET /path?query`, before it was changed.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.requests).clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, rule: Arc<Rule>, requests: Arc<Mutex<Vec<String>>>) {
    // Dropped with this task, which ends them all.
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
        parts.uri = with_version(&uri, "1").parse().expect("as good as it was");
    }
    // The client puts its own there.
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

/// The same question, beginning at another resource version.
fn with_version(uri: &str, version: &str) -> String {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let others = query.split('&').filter(|pair| !pair.starts_with("resourceVersion="));
    let others: Vec<&str> = others.collect();
    format!("{path}?{}&resourceVersion={version}", others.join("&"))
}
