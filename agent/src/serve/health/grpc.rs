//! gRPC health v1 (`grpc/health/v1/health.proto` of <https://github.com/grpc/grpc-proto>): `Check`, `Watch`, `List`.
//!
//! The name of a service is a check set: names with commas, or nothing for the default set. tonic-health has no `List`,
//! and wants its services named beforehand; so these are the protocol's messages, and tonic carries them.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use futures_util::{Stream, stream};
use hyper::{Request, Response, body::Incoming};
use tokio::sync::watch;
use tonic::{Code, Status, body::Body, server::Grpc};
use tonic_prost::ProstCodec;

use super::accept::Door;
use crate::{
    config,
    health::{Board, Changes, Question, Refused},
    serve::stopped,
};

/// `HealthCheckRequest`
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `HealthCheckResponse`
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct CheckResponse {
    #[prost(enumeration = "Serving", tag = "1")]
    status: i32,
}

/// `HealthListRequest`
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ListRequest {}

/// `HealthListResponse`
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct ListResponse {
    #[prost(map = "string, message", tag = "1")]
    statuses: HashMap<String, CheckResponse>,
}

/// `ServingStatus`
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
#[expect(clippy::enum_variant_names, reason = "the protocol's own names")]
enum Serving {
    /// The operator has to act first: `NODE_NAME` is not set.
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    /// Only by `Watch`.
    ServiceUnknown = 3,
}

impl From<Serving> for CheckResponse {
    fn from(serving: Serving) -> Self {
        Self { status: serving.into() }
    }
}

/// Watches of all connections.
#[derive(Debug, Default)]
pub struct Watches(Arc<AtomicUsize>);

/// One of them.
#[derive(Debug)]
struct Seat(Arc<AtomicUsize>);

impl Watches {
    fn one_more(&self) -> Result<Seat, Status> {
        let seat = Seat(self.0.clone());
        // Counted first, and taken back by the drop.
        if self.0.fetch_add(1, Relaxed) >= config::WATCHES {
            return Err(Status::resource_exhausted("too many watches"));
        }
        Ok(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Answers one call.
pub async fn answer(
    request: Request<Incoming>,
    door: &Arc<Door>,
    stop: watch::Receiver<bool>,
) -> Response<Body> {
    let board = door.answers.router().board().clone();
    let mut response = match request.uri().path() {
        "/grpc.health.v1.Health/Check" => {
            let service = tower::service_fn(move |request: tonic::Request<CheckRequest>| {
                let board = board.clone();
                async move { check(&board, &request.get_ref().service).await.map(respond) }
            });
            codec::<CheckRequest, CheckResponse>().unary(service, request).await
        }
        "/grpc.health.v1.Health/Watch" => {
            let door = door.clone();
            let service = tower::service_fn(move |request: tonic::Request<CheckRequest>| {
                let (board, stop) = (board.clone(), stop.clone());
                let seat = door.watches.one_more();
                async move { Ok(respond(watch(board, request.get_ref(), seat?, stop))) }
            });
            codec::<CheckRequest, CheckResponse>().server_streaming(service, request).await
        }
        "/grpc.health.v1.Health/List" => {
            let service = tower::service_fn(move |_: tonic::Request<ListRequest>| {
                let board = board.clone();
                async move { Ok::<_, Status>(respond(list(&board))) }
            });
            codec::<ListRequest, ListResponse>().unary(service, request).await
        }
        _ => Status::unimplemented("there is only grpc.health.v1.Health").into_http(),
    };
    response
        .headers_mut()
        .insert(hyper::header::CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}

fn respond<T>(message: T) -> tonic::Response<T> {
    tonic::Response::new(message)
}

fn codec<T, U>() -> Grpc<ProstCodec<U, T>>
where
    T: prost::Message + Default + Send + 'static,
    U: prost::Message + Default + Send + 'static,
{
    Grpc::new(ProstCodec::default()).apply_max_message_size_config(Some(config::GRPC_MESSAGE), None)
}

/// The check set of that name, if every name in it is one.
fn question(board: &Board, service: &str) -> Option<Question> {
    let mut checks: Vec<String> = Vec::new();
    for name in service.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        board.check(name)?;
        if checks.iter().all(|other| other != name) {
            checks.push(name.to_owned());
        }
    }
    // "," names nothing, and is not the default set.
    (service.is_empty() || !checks.is_empty()).then(|| Question { checks, ..Question::default() })
}

async fn serving(board: &Board, question: &Question) -> Serving {
    match board.ask(question).await {
        Ok(answer) if answer.is_ready() => Serving::Serving,
        Ok(_) => Serving::NotServing,
        Err(Refused::NoNodeName(_) | Refused::TooMany | Refused::NoName) => Serving::Unknown,
    }
}

async fn check(board: &Board, service: &str) -> Result<CheckResponse, Status> {
    let question = question(board, service)
        .ok_or_else(|| Status::new(Code::NotFound, "a name in it is not that of a check"))?;
    Ok(serving(board, &question).await.into())
}

/// The default set, and every check that needs nobody to begin asking.
fn list(board: &Board) -> ListResponse {
    let one = |passed| if passed { Serving::Serving } else { Serving::NotServing };
    let everything = board.everything().into_iter();
    let mut statuses: HashMap<String, CheckResponse> =
        everything.map(|check| (check.name, one(check.passed).into())).collect();
    let whole = board.answer(&Question::default());
    let whole = whole.map_or(Serving::Unknown, |answer| one(answer.is_ready()));
    statuses.insert(String::new(), whole.into());
    ListResponse { statuses }
}

/// What a watch goes by.
struct Watching {
    board: Board,
    changes: Changes,
    question: Option<Question>,
    told: Option<Serving>,
    stop: watch::Receiver<bool>,
    /// Counted for as long as the stream is there.
    _seat: Seat,
}

/// The status now, and then every other one as it comes, until the agent stops.
fn watch(
    board: Board,
    request: &CheckRequest,
    seat: Seat,
    stop: watch::Receiver<bool>,
) -> impl Stream<Item = Result<CheckResponse, Status>> + Send + use<> {
    let question = question(&board, &request.service);
    let changes = board.changes();
    let watching = Watching { board, changes, question, told: None, stop, _seat: seat };
    stream::unfold(Some(watching), |watching| async move {
        let mut watching = watching?;
        let next = tokio::select! {
            biased;
            () = stopped(watching.stop.clone()) => None,
            next = watching.next() => Some(next),
        };
        Some(match next {
            Some(serving) => (Ok(serving.into()), Some(watching)),
            None => (Err(Status::unavailable("the agent is stopping")), None),
        })
    })
}

impl Watching {
    async fn next(&mut self) -> Serving {
        loop {
            // Marked before it is looked at, so that nothing falls between.
            let _whatever_it_was = self.changes.any();
            let now = match &self.question {
                Some(question) => serving(&self.board, question).await,
                None => Serving::ServiceUnknown,
            };
            if self.told.replace(now) != Some(now) {
                return now;
            }
            self.changes.wait().await;
        }
    }
}
