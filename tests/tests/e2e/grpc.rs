//! gRPC health v1 through tonic's client, as Envoy, grpcurl and gRPC's own load balancing use it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::sandbox::say;
use e2e::{Agent, Filesystem, Sandbox, Volume, http2, inject};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

type Client = HealthClient<Channel>;

async fn connect(agent: &Agent) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{}", agent.health_address())).unwrap();
    HealthClient::new(endpoint.timeout(TIMEOUT).connect().await.unwrap())
}

fn request(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

async fn check(client: &mut Client, service: &str) -> Result<ServingStatus, Code> {
    let answer = client.check(request(service)).await;
    answer.map(|answer| answer.get_ref().status()).map_err(|status| status.code())
}

async fn watch(agent: &Agent, service: &str) -> Streaming<HealthCheckResponse> {
    // Without the time-out of `connect`, which would end the watch.
    let endpoint = Endpoint::from_shared(format!("http://{}", agent.health_address())).unwrap();
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    client.watch(request(service)).await.unwrap().into_inner()
}

async fn next(watch: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    let message = tokio::time::timeout(TIMEOUT, watch.message()).await;
    // It arrives in time, and is neither an error nor the end.
    message.unwrap().unwrap().unwrap().status()
}

#[test]
fn a_service_is_a_set_of_checks() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "data", Filesystem::Ext4, "errors=remount-ro");
    let agent = Agent::start(&sandbox);
    Runtime::new().unwrap().block_on(async {
        let client = &mut connect(&agent).await;
        for service in ["", "io_stall", "filesystem_ro,io_errors", " io_stall , io_errors "] {
            assert_eq!(check(client, service).await, Ok(ServingStatus::Serving), "{service:?}");
        }
        for service in ["bogus", "io_stall,bogus", ",", "grpc.health.v1.Health"] {
            assert_eq!(check(client, service).await, Err(Code::NotFound), "{service:?}");
        }
        let long = "io_stall,".repeat(1000);
        assert_eq!(check(client, &long).await, Err(Code::OutOfRange));
        let at = inject::ext4_error(volume.device());
        agent.wait_failure(at, "filesystem_ro", &[]);
        assert_eq!(check(client, "").await, Ok(ServingStatus::NotServing));
        assert_eq!(check(client, "filesystem_ro,io_stall").await, Ok(ServingStatus::NotServing));
        assert_eq!(check(client, "io_stall").await, Ok(ServingStatus::Serving));
    });
    drop(agent);
    let agent = Agent::start_with(&sandbox, |command| {
        command.env_remove("NODE_NAME");
    });
    Runtime::new().unwrap().block_on(async {
        let client = &mut connect(&agent).await;
        assert_eq!(check(client, "node_ready").await, Ok(ServingStatus::Unknown));
    });
}

#[test]
fn a_watch_gets_the_status_at_once_and_at_every_change() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "data", Filesystem::Ext4, "errors=remount-ro");
    let mut agent = Agent::start(&sandbox);
    Runtime::new().unwrap().block_on(async {
        let mut all = watch(&agent, "").await;
        let mut other = watch(&agent, "io_stall").await;
        let mut unknown = watch(&agent, "bogus").await;
        assert_eq!(next(&mut all).await, ServingStatus::Serving);
        assert_eq!(next(&mut other).await, ServingStatus::Serving);
        assert_eq!(next(&mut unknown).await, ServingStatus::ServiceUnknown);
        for _ in 0..3 {
            let at = inject::ext4_error(volume.device());
            assert_eq!(next(&mut all).await, ServingStatus::NotServing);
            say(&format!("MEASURED {}: pushed after {:?}", sandbox.name(), at.elapsed()));
            volume.unmount();
            volume.repair();
            volume.mount("errors=remount-ro");
            assert_eq!(next(&mut all).await, ServingStatus::Serving);
        }
        // A watch of another check gets nothing.
        let quiet = tokio::time::timeout(Duration::from_millis(300), other.message()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        let began = Instant::now();
        agent.signal(rustix::process::Signal::TERM);
        for watch in [&mut all, &mut other, &mut unknown] {
            let end = tokio::time::timeout(TIMEOUT, watch.message()).await.unwrap();
            assert_eq!(end.unwrap_err().code(), Code::Unavailable);
        }
        assert!(began.elapsed() < TIMEOUT);
    });
    assert_eq!(agent.wait_exit().code(), Some(0));
}

/// How many watches the agent has at most: `WATCHES`.
const WATCHES: usize = 1024;
/// The streams of one HTTP/2 connection: `HTTP2_STREAMS`.
const STREAMS: usize = 32;

/// Opens watches on one connection, each of which gets its first message.
async fn watches(agent: &Agent, count: usize) -> Vec<Streaming<HealthCheckResponse>> {
    let endpoint = Endpoint::from_shared(format!("http://{}", agent.health_address())).unwrap();
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    let mut open = Vec::new();
    for _ in 0..count {
        let mut watch = client.watch(request("")).await.unwrap().into_inner();
        assert_eq!(next(&mut watch).await, ServingStatus::Serving);
        open.push(watch);
    }
    open
}

/// Checks that a watch is still open.
async fn is_open(watch: &mut Streaming<HealthCheckResponse>) {
    let quiet = tokio::time::timeout(Duration::from_millis(20), watch.message()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[test]
fn watches_are_bounded_and_their_slots_are_freed_with_the_connection() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    Runtime::new().unwrap().block_on(async {
        // A connection with one watch, which connections with many must not push out.
        let mut modest = watches(&agent, 1).await;
        let mut greedy = Vec::new();
        let mut left = WATCHES - 1;
        while left > 0 {
            let count = left.min(STREAMS / 2);
            greedy.push(watches(&agent, count).await);
            left -= count;
        }
        for watch in [&mut modest[0], &mut greedy[0][0]] {
            is_open(watch).await;
        }
        // One more ends the oldest watch of a connection with the most, and no other.
        let mut new = watches(&agent, 1).await;
        let end = tokio::time::timeout(TIMEOUT, greedy[0][0].message()).await.unwrap();
        assert_eq!(end.unwrap_err().code(), Code::ResourceExhausted);
        for watch in [&mut modest[0], &mut new[0], &mut greedy[0][1]] {
            is_open(watch).await;
        }
        assert_eq!(agent.health("").status, 200);

        drop((greedy, modest, new));
        agent.wait_for("the connections are closed", TIMEOUT, |agent| {
            // The connection of `agent` itself stays.
            agent.metric("tocsin_health_connections").filter(|open| *open <= 1.0)
        });
        // This connection has more watches than any before. If theirs still counted, it would lose one.
        for watch in &mut watches(&agent, STREAMS).await {
            is_open(watch).await;
        }
    });
}

/// The messages of the method `List`, which tonic-health's client does not have yet.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ListRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct ListResponse {
    #[prost(map = "string, message", tag = "1")]
    statuses: std::collections::HashMap<String, HealthCheckResponse>,
}

#[test]
fn list_names_every_check_that_runs() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let list = Runtime::new().unwrap().block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://{}", agent.health_address())).unwrap();
        let mut grpc = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<ListRequest, ListResponse>::default();
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/List");
        let answer = grpc.unary(tonic::Request::new(ListRequest {}), path, codec).await.unwrap();
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Nothing");
        let codec = tonic_prost::ProstCodec::<ListRequest, ListResponse>::default();
        grpc.ready().await.unwrap();
        let refused = grpc.unary(tonic::Request::new(ListRequest {}), path, codec).await;
        assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
        answer.into_inner().statuses
    });
    let serving = |name: &str| list.get(name).map(HealthCheckResponse::status);
    for name in ["", "filesystem_ro", "io_errors", "io_stall"] {
        assert_eq!(serving(name), Some(ServingStatus::Serving), "{list:?}");
    }
    // This check is not in the default set, so it does not run.
    assert_eq!(serving("kubelet"), None);
}

#[test]
fn a_watch_keeps_its_connection_when_there_are_too_many() {
    let Some(sandbox) = Sandbox::new() else { return };
    let volume = Volume::new(&sandbox, "data", Filesystem::Ext4, "errors=remount-ro");
    let agent = Agent::start_with(&sandbox, |command| {
        command.env("MAX_CONNECTIONS", "64");
    });
    Runtime::new().unwrap().block_on(async {
        let mut watch = watch(&agent, "").await;
        assert_eq!(next(&mut watch).await, ServingStatus::Serving);
        let crowd: Vec<_> = (0..300)
            .map(|_| {
                let mut other = e2e::http::Connection::open(agent.health_address()).unwrap();
                assert_eq!(other.get("/health").unwrap().status, 200);
                other
            })
            .collect();
        assert!(agent.counter("tocsin_health_connections_evicted_total") > 0);
        inject::ext4_error(volume.device());
        assert_eq!(next(&mut watch).await, ServingStatus::NotServing);
        drop(crowd);
    });
}

#[test]
fn a_call_that_is_not_complete_after_two_seconds_ends() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let mut stream = TcpStream::connect(agent.health_address()).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let mut bytes = http2::preface(1000);
    let grpc = [("content-type", "application/grpc")];
    bytes.extend(http2::request(1, "POST", "/grpc.health.v1.Health/Check", &grpc, false));
    let began = Instant::now();
    stream.write_all(&bytes).unwrap();
    let mut found = Vec::new();
    loop {
        let mut some = [0; 4096];
        let read = stream.read(&mut some).unwrap();
        assert!(read > 0, "closed without an answer");
        found.extend_from_slice(&some[..read]);
        let (mut rest, mut kinds) = (&*found, Vec::new());
        while let Some((kind, stream, _, more)) = http2::next(rest) {
            kinds.push((kind, stream));
            rest = more;
        }
        if kinds.contains(&(http2::HEADERS, 1)) {
            break;
        }
    }
    assert!(began.elapsed() > Duration::from_millis(1500), "{:?}", began.elapsed());
}
