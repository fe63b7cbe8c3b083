//! HTTP/2 clients that ask for more than one client should: what they send and what they wait for takes no memory.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::time::Duration;

use e2e::http::silent_server;
use e2e::sandbox::say;
use e2e::{Agent, Sandbox};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};

const CONNECTIONS: usize = 300;

async fn connect(to: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{to}")).unwrap().connect().await.unwrap()
}

/// Sends a request as the client's flow control lets it, and gives the status and the body of the response.
async fn get(mut channel: Channel, path: &str, body: Bytes) -> (u16, String) {
    let body = tonic::body::Body::new(Full::new(body).map_err(|never: Infallible| match never {}));
    let request = http::Request::builder().uri(path).body(body).unwrap();
    poll_fn(|cx| channel.poll_ready(cx)).await.unwrap();
    let response = channel.call(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// What many requests took.
struct Taken {
    /// How much the agent's memory grew while they waited.
    kib: u64,
    /// The bodies of the responses.
    bodies: Vec<String>,
}

/// Asks for a check whose first sample takes until its time-out, on many connections with so many requests each, and a
/// body of so many bytes with each request. Every request is answered.
fn many_wait(requests_each: usize, body_bytes: usize) -> Option<Taken> {
    let sandbox = Sandbox::alone()?;
    let router = format!("http://{}/", silent_server());
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("ROUTER_URL", &router);
    });
    let to = agent.health_address();
    Some(Runtime::new().unwrap().block_on(async {
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            let channel = connect(to).await;
            assert_eq!(get(channel.clone(), "/health", Bytes::new()).await.0, 200);
            channels.push(channel);
        }
        let before = agent.resident_kib();
        let body = Bytes::from(vec![b'x'; body_bytes]);
        let path = "/health?check=okd_router_1936";
        let mut requests = JoinSet::new();
        for channel in &channels {
            for _ in 0..requests_each {
                requests.spawn(get(channel.clone(), path, body.clone()));
            }
        }
        let (mut most, mut bodies) = (before, Vec::new());
        while !requests.is_empty() {
            most = most.max(agent.resident_kib());
            let next = tokio::time::timeout(Duration::from_millis(5), requests.join_next()).await;
            let Ok(Some(response)) = next else { continue };
            let (status, body) = response.unwrap();
            assert_eq!(status, 503, "{body}");
            assert!(body.contains("okd_router_1936"), "{body}");
            bodies.push(body);
        }
        say(&format!("MEASURED {}: resident KiB {before}, at most {most}", sandbox.name()));
        Taken { kib: most - before, bodies }
    }))
}

#[test]
fn bodies_of_requests_that_wait_take_no_memory() {
    let Some(taken) = many_wait(1, 1024 * 1024) else { return };
    assert_eq!(taken.bodies.len(), CONNECTIONS);
    // 300 MiB were sent, or would have been: where bodies are kept, most of them are resident.
    assert!(taken.kib < 16 * 1024, "{} KiB", taken.kib);
}

#[test]
fn requests_that_wait_are_bounded_in_all() {
    // 1,500 requests, of which 1,024 may wait.
    let Some(taken) = many_wait(5, 0) else { return };
    assert_eq!(taken.bodies.len(), CONNECTIONS * 5);
    // Those beyond the bound are answered from what is known: nothing yet.
    let at_once = taken.bodies.iter().filter(|body| body.contains("no result yet")).count();
    assert!((1..CONNECTIONS * 5).contains(&at_once), "{at_once}");
}
