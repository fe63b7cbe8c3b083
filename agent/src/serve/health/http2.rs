//! One connection that speaks HTTP/2: the same pages, and gRPC.

use std::{convert::Infallible, pin::pin, sync::Arc};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::{self, HeaderMap, HeaderValue},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tocsin_runtime::tasks::Stop;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body as ReplyBody;
use tracing::debug;

use super::{
    accept::Door,
    connections::Seat,
    grpc,
    page::Page,
    request::Format,
    streams::{Over, Streams},
};
use crate::serve::health::settings;

/// What every stream of a connection knows of it.
#[derive(Clone)]
pub struct Connection {
    /// Among those of its gRPC watches.
    pub number: u64,
    /// What is known of it among others.
    pub seat: Arc<Seat>,
    /// What it shares with others.
    pub door: Arc<Door>,
    /// What it has in hand.
    pub streams: Arc<Streams>,
    /// Whether the agent stops.
    pub stop: Stop,
}

/// Answers until either side ends it, or until it is of no use any more.
pub async fn converse<S>(stream: S, seat: Arc<Seat>, door: Arc<Door>, stop: Stop)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    seat.ends_itself();
    let streams = Arc::<Streams>::default();
    let number = door.watches.connection();
    let (streams, seat) = (streams.clone(), seat.clone());
    let here = Connection { number, seat, door, streams, stop: stop.clone() };
    let there = here.clone();
    let service = service_fn(move |request| {
        let connection = there.clone();
        async move { Ok::<_, Infallible>(answer(request, &connection).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(settings::HTTP2_STREAMS)
        .max_header_list_size(settings::HTTP2_HEADER_BYTES)
        .max_send_buf_size(settings::HEADER_BYTES)
        .keep_alive_interval(settings::HTTP2_PING_INTERVAL)
        .keep_alive_timeout(settings::HTTP2_PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        result = connection.as_mut() => {
            if let Err(error) = result {
                debug!(%error, "connection ended");
            }
            return;
        }
        over = here.streams.over(&here.seat) => if over == Over::NotTaken {
            here.seat.timed_out();
            // It may have been one of many that did the same.
            here.door.clean_up();
            return;
        },
        () = stop.requested() => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _whatever_the_end = connection => {}
        () = here.streams.farewell() => {}
    }
}

/// A body that goes on, and the count of what it belongs to.
struct Held<T> {
    body: ReplyBody,
    _held: T,
}

impl<T: Unpin> Body for Held<T> {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn answer(request: Request<Incoming>, connection: &Connection) -> Response<ReplyBody> {
    let Connection { seat, door, streams, .. } = connection;
    let open = streams.open();
    if streams.is_too_much() {
        // The connection's end is on its way.
        return Response::new(ReplyBody::empty());
    }
    seat.waits(true);
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let reply =
        if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
            let goes_on = grpc::goes_on(&request);
            let reply = grpc::answer(request, connection).await;
            // A stream belongs to the connection for as long as its body does.
            if goes_on {
                reply.map(|body| ReplyBody::new(Held { body, _held: open }))
            } else {
                let unsent = streams.unsent(0);
                reply.map(|body| ReplyBody::new(Held { body, _held: unsent }))
            }
        } else {
            let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
            let route = door.answers.router().route(request.method().as_str(), target);
            let page = {
                let _until_it_is_answered = streams.answering();
                door.answers.router().wait(&route, accepted(request.headers())).await
            };
            door.answered.count(page.status);
            let head_only = request.method() == hyper::Method::HEAD;
            let bytes = if head_only { 0 } else { page.body.len() };
            reply(page, head_only, |body| streams.unsent(bytes).hold(body))
        };
    seat.served(door);
    reply
}

fn accepted(headers: &HeaderMap) -> Format {
    Format::accepted(headers.get_all(header::ACCEPT).iter().map(HeaderValue::as_bytes))
}

fn reply(page: Page, head_only: bool, hold: impl FnOnce(Bytes) -> Bytes) -> Response<ReplyBody> {
    let length = page.body.len();
    let body =
        if head_only { ReplyBody::empty() } else { ReplyBody::new(Full::new(hold(page.body))) };
    let mut reply = Response::new(body);
    *reply.status_mut() = page.status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(allow) = page.allow {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if let Some(reason) = page.reason.and_then(|reason| HeaderValue::try_from(reason).ok()) {
        headers.insert("x-tocsin-reason", reason);
    }
    reply
}
