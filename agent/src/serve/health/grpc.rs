//! gRPC health v1 (`grpc/health/v1/health.proto` of <https://github.com/grpc/grpc-proto>): `Check`, `Watch`, `List`.
//!
//! The name of a service is a check set: names with commas, or nothing for the default set. tonic-health has no `List`,
//! and wants its services named beforehand; so these are the protocol's messages, and tonic carries them.

use std::collections::HashMap;

use futures_util::{Stream, stream};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
};
use tocsin_runtime::tasks::Stop;
use tokio::time::timeout;
use tonic::{Code, Status, body::Body, server::Grpc};
use tonic_prost::ProstCodec;

use super::{http2::Connection, watches::Watch};
use crate::{
    health::{Board, Changes, HealthQuery, Refused},
    serve::health::settings,
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

/// Whether a call goes on for as long as whoever made it wants it to.
pub fn goes_on<B>(request: &Request<B>) -> bool {
    request.uri().path() == WATCH
}

const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// Answers one call.
pub async fn answer(request: Request<Incoming>, connection: &Connection) -> Response<Body> {
    let mut response = match whole(request).await {
        Ok(request) => call(request, connection).await,
        Err(status) => status.into_http(),
    };
    response
        .headers_mut()
        .insert(hyper::header::CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}

/// The request with all of its message, which is as long as a header may be late.
async fn whole(request: Request<Incoming>) -> Result<Request<Full<Bytes>>, Status> {
    /// Whether it is compressed, and its length.
    const PREFIX: usize = 5;
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, settings::GRPC_MESSAGE + PREFIX).collect();
    match timeout(settings::HEADER_TIMEOUT, body).await {
        Ok(Ok(body)) => Ok(Request::from_parts(parts, Full::new(body.to_bytes()))),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Status::out_of_range(format!("longer than {} bytes", settings::GRPC_MESSAGE)))
        }
        Ok(Err(error)) => Err(Status::from_error(error)),
        Err(_) => Err(Status::deadline_exceeded("the request was not complete in time")),
    }
}

async fn call(request: Request<Full<Bytes>>, connection: &Connection) -> Response<Body> {
    let _until_it_is_answered = connection.streams.answering();
    let board = connection.door.answers.router().board().clone();
    match request.uri().path() {
        "/grpc.health.v1.Health/Check" => {
            let service = tower::service_fn(move |request: tonic::Request<CheckRequest>| {
                let board = board.clone();
                async move { check(&board, &request.get_ref().service).await.map(respond) }
            });
            codec::<CheckRequest, CheckResponse>().unary(service, request).await
        }
        WATCH => {
            let connection = connection.clone();
            let service = tower::service_fn(move |request: tonic::Request<CheckRequest>| {
                let Connection { number, seat, door, stop, .. } = connection.clone();
                let seat = door.watches.one_more(number, seat);
                let stream = watch(board.clone(), request.get_ref(), seat, stop);
                async move { Ok::<_, Status>(respond(stream)) }
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
    }
}

fn respond<T>(message: T) -> tonic::Response<T> {
    tonic::Response::new(message)
}

fn codec<T, U>() -> Grpc<ProstCodec<U, T>>
where
    T: prost::Message + Default + Send + 'static,
    U: prost::Message + Default + Send + 'static,
{
    Grpc::new(ProstCodec::default())
        .apply_max_message_size_config(Some(settings::GRPC_MESSAGE), None)
}

/// The check set of that name, if every name in it is one.
fn question(board: &Board, service: &str) -> Option<HealthQuery> {
    let mut checks: Vec<String> = Vec::new();
    for name in service.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        board.check(name)?;
        if checks.iter().all(|other| other != name) {
            checks.push(name.to_owned());
        }
    }
    // "," names nothing, and is not the default set.
    (service.is_empty() || !checks.is_empty())
        .then(|| HealthQuery { checks, ..HealthQuery::default() })
}

async fn serving(board: &Board, question: &HealthQuery) -> Serving {
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
    let whole = board.answer(&HealthQuery::default());
    let whole = whole.map_or(Serving::Unknown, |answer| one(answer.is_ready()));
    statuses.insert(String::new(), whole.into());
    ListResponse { statuses }
}

/// What a watch goes by.
struct Watching {
    board: Board,
    changes: Changes,
    question: Option<HealthQuery>,
    told: Option<Serving>,
    stop: Stop,
    /// Counted for as long as the stream is there.
    seat: Watch,
}

/// The status now, and then every other one as it comes, until the agent stops.
fn watch(
    board: Board,
    request: &CheckRequest,
    seat: Watch,
    stop: Stop,
) -> impl Stream<Item = Result<CheckResponse, Status>> + Send + use<> {
    let question = question(&board, &request.service);
    let changes = board.changes();
    let watching = Watching { board, changes, question, told: None, stop, seat };
    stream::unfold(Some(watching), |watching| async move {
        let mut watching = watching?;
        let Watching { board, changes, question, told, stop, seat } = &mut watching;
        let next = tokio::select! {
            biased;
            () = stop.requested() => Err(Status::unavailable("the agent is stopping")),
            () = seat.ended() => {
                Err(Status::resource_exhausted("too many watches, and most of them here"))
            }
            serving = next(board, changes, question.as_ref(), told) => Ok(serving.into()),
        };
        let goes_on = next.is_ok().then_some(watching);
        Some((next, goes_on))
    })
}

/// The next status that is another than the one that was told.
async fn next(
    board: &Board,
    changes: &mut Changes,
    question: Option<&HealthQuery>,
    told: &mut Option<Serving>,
) -> Serving {
    loop {
        // Marked before it is looked at, so that nothing falls between.
        let _whatever_it_was = changes.any();
        let now = match question {
            Some(question) => serving(board, question).await,
            None => Serving::ServiceUnknown,
        };
        if told.replace(now) != Some(now) {
            return now;
        }
        changes.wait().await;
    }
}
