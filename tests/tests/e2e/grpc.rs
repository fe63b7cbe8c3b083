//! gRPC health v1 through tonic's client: what Envoy, grpcurl and gRPC's own load balancing ask.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use e2e::agent::PATIENCE;
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
    HealthClient::new(endpoint.timeout(PATIENCE).connect().await.unwrap())
}

fn request(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

async fn check(client: &mut Client, service: &str) -> Result<ServingStatus, Code> {
    let answer = client.check(request(service)).await;
    answer.map(|answer| answer.get_ref().status()).map_err(|status| status.code())
}

async fn watch(agent: &Agent, service: &str) -> Streaming<HealthCheckResponse> {
    // Without the time-out of the other: a watch goes on.
    let endpoint = Endpoint::from_shared(format!("http://{}", agent.health_address())).unwrap();
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    client.watch(request(service)).await.unwrap().into_inner()
}

async fn next(watch: &mut Streaming<HealthCheckResponse>) -> ServingStatus {
    let message = tokio::time::timeout(PATIENCE, watch.message()).await;
    // In time, without an error, and not the end.
    message.unwrap().unwrap().unwrap().status()
}

#[test]
fn a_check_is_one_of_a_check_set() {
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
fn a_watch_is_told_at_once_and_at_every_change() {
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
        // Who watches something else hears nothing.
        let quiet = tokio::time::timeout(Duration::from_millis(300), other.message()).await;
        assert!(quiet.is_err(), "{quiet:?}");
        let began = Instant::now();
        agent.signal(rustix::process::Signal::TERM);
        for watch in [&mut all, &mut other, &mut unknown] {
            let end = tokio::time::timeout(PATIENCE, watch.message()).await.unwrap();
            assert_eq!(end.unwrap_err().code(), Code::Unavailable);
        }
        assert!(began.elapsed() < PATIENCE);
    });
    assert_eq!(agent.wait_exit().code(), Some(0));
}

#[test]
fn watches_are_bounded_and_go_with_their_connection() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    Runtime::new().unwrap().block_on(async {
        // One that was there before, which the greedy do not push out.
        let mut modest = watch(&agent, "").await;
        assert_eq!(next(&mut modest).await, ServingStatus::Serving);
        let mut open = Vec::new();
        while open.len() < 1023 {
            let mut client = connect(&agent).await;
            for _ in 0..31.min(1023 - open.len()) {
                let mut watch = client.watch(request("")).await.unwrap().into_inner();
                assert_eq!(next(&mut watch).await, ServingStatus::Serving);
                open.push((watch, client.clone()));
            }
        }
        let mut new = watch(&agent, "").await;
        assert_eq!(next(&mut new).await, ServingStatus::Serving);
        let end = tokio::time::timeout(PATIENCE, open[0].0.message()).await.unwrap();
        assert_eq!(end.unwrap_err().code(), Code::ResourceExhausted);
        for quiet in [&mut modest, &mut new, &mut open[1].0] {
            let quiet = tokio::time::timeout(Duration::from_millis(100), quiet.message()).await;
            assert!(quiet.is_err(), "{quiet:?}");
        }
        assert_eq!(agent.health("").status, 200);
        drop((open, modest, new));
        let began = Instant::now();
        loop {
            let mut client = connect(&agent).await;
            if client.watch(request("")).await.is_ok() {
                break;
            }
            assert!(began.elapsed() < PATIENCE, "the seats of watches that are gone stay taken");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

/// The message and the method that tonic-health's client does not have yet.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ListRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct ListResponse {
    #[prost(map = "string, message", tag = "1")]
    statuses: std::collections::HashMap<String, HealthCheckResponse>,
}

#[test]
fn a_list_names_every_check() {
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
    // Nobody asks for it, so it does not run.
    assert_eq!(serving("kubelet"), None);
}

#[test]
fn a_watch_outlives_a_crowd() {
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
        let metrics = agent.admin("/metrics").body;
        assert!(!metrics.contains("tocsin_health_connections_evicted_total 0\n"), "{metrics}");
        inject::ext4_error(volume.device());
        assert_eq!(next(&mut watch).await, ServingStatus::NotServing);
        drop(crowd);
    });
}

#[test]
fn a_call_has_to_be_whole_in_two_seconds() {
    let Some(sandbox) = Sandbox::new() else { return };
    let agent = Agent::start(&sandbox);
    let mut stream = TcpStream::connect(agent.health_address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
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
