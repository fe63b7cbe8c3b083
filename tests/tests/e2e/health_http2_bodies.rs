//! Request bodies over HTTP/2: the health listener reads none of them and keeps none of them.

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

#[test]
fn bodies_of_requests_that_wait_for_a_probe_take_no_memory() {
    let Some(sandbox) = Sandbox::alone() else { return };
    // The first sample of this check takes until its time-out.
    let router = format!("http://{}/", silent_server());
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("ROUTER_URL", &router);
    });
    let to = agent.health_address();
    Runtime::new().unwrap().block_on(async {
        let mut channels = Vec::new();
        for _ in 0..CONNECTIONS {
            let channel = connect(to).await;
            assert_eq!(get(channel.clone(), "/health", Bytes::new()).await.0, 200);
            channels.push(channel);
        }
        let before = agent.resident_kib();
        let body = Bytes::from(vec![b'x'; 1024 * 1024]);
        let mut requests = JoinSet::new();
        for channel in channels {
            requests.spawn(get(channel, "/health?check=okd_router_1936", body.clone()));
        }
        let (mut most, mut responses) = (0, 0);
        while responses < CONNECTIONS {
            most = most.max(agent.resident_kib());
            let next = tokio::time::timeout(Duration::from_millis(5), requests.join_next()).await;
            let Ok(Some(response)) = next else { continue };
            let (status, body) = response.unwrap();
            assert_eq!(status, 503, "{body}");
            assert!(body.contains("okd_router_1936"), "{body}");
            responses += 1;
        }
        say(&format!("MEASURED {}: resident KiB {before}, at most {most}", sandbox.name()));
        // 300 MiB were sent, or would have been.
        assert!(most < before + 16 * 1024, "{before} KiB before and {most} meanwhile");
    });
}
