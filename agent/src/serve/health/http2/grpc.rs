//! gRPC health v1: `Check`, `Watch` and `List`. The name of a service is a check set: names of checks with commas
//! between them, or nothing for the default set.

use std::collections::HashMap;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use tokio::time::timeout;
use tonic::{Code, Status, body::Body, server::Grpc};
use tonic_prost::ProstCodec;

use super::{
    context::ConnectionContext,
    grpc_messages::{CheckRequest, CheckResponse, ListRequest, ListResponse, ServingStatus},
    grpc_watch,
};
use crate::{
    health::{Board, HealthQuery},
    serve::health::settings,
};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const LIST: &str = "/grpc.health.v1.Health/List";

/// Whether a request is a gRPC call.
pub fn is_call<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Whether a request is a gRPC call that goes on until the client ends it.
pub fn is_watch_call<B>(request: &Request<B>) -> bool {
    is_call(request) && request.uri().path() == WATCH
}

/// Answers one call.
pub async fn answer(request: Request<Incoming>, context: &ConnectionContext) -> Response<Body> {
    let mut waiting = context.state.http2.waiting.hold(context.number);
    let answer = async {
        match receive(request).await {
            Ok(request) => call(request, context).await,
            Err(status) => status.into_http(),
        }
    };
    let mut response = tokio::select! {
        biased;
        response = answer => response,
        () = waiting.evicted() => {
            Status::resource_exhausted("too many requests wait, and most of them here").into_http()
        }
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Receives the message of a call, which has the time and the size that [`settings`] gives it.
async fn receive(request: Request<Incoming>) -> Result<Request<Full<Bytes>>, Status> {
    /// The flag for compression and the length, before each message.
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

async fn call(request: Request<Full<Bytes>>, context: &ConnectionContext) -> Response<Body> {
    let _until_there_is_a_response = context.streams.answering();
    let board = context.state.cache.router().board().clone();
    match request.uri().path() {
        CHECK => {
            let service = tower::service_fn(move |request: tonic::Request<CheckRequest>| {
                let board = board.clone();
                async move { check(&board, &request.get_ref().service).await.map(respond) }
            });
            codec::<CheckRequest, CheckResponse>().unary(service, request).await
        }
        WATCH => {
            let context = context.clone();
            let service = tower::service_fn(move |request: tonic::Request<CheckRequest>| {
                let ConnectionContext { number, slot, state, stop, .. } = context.clone();
                let held = state.http2.watches.hold(number);
                let service = &request.get_ref().service;
                let stream = grpc_watch::watch(board.clone(), service, slot, held, stop);
                async move { Ok::<_, Status>(respond(stream)) }
            });
            codec::<CheckRequest, CheckResponse>().server_streaming(service, request).await
        }
        LIST => {
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

async fn check(board: &Board, service: &str) -> Result<CheckResponse, Status> {
    let question = grpc_watch::check_set(board, service)
        .ok_or_else(|| Status::new(Code::NotFound, "a name in it is not that of a check"))?;
    Ok(grpc_watch::status(board, &question).await.into())
}

/// The statuses of the default set and of every check that runs without being asked for.
fn list(board: &Board) -> ListResponse {
    let checks = board.everything().into_iter();
    let mut statuses: HashMap<String, CheckResponse> =
        checks.map(|check| (check.name, ServingStatus::of(check.passed).into())).collect();
    let default_set = match board.answer(&HealthQuery::default()) {
        Ok(answer) => ServingStatus::of(answer.is_ready()),
        Err(_) => ServingStatus::Unknown,
    };
    statuses.insert(String::new(), default_set.into());
    ListResponse { statuses }
}
