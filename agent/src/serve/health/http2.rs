//! One connection that speaks HTTP/2: the same pages, and gRPC.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    header::{self, HeaderMap, HeaderValue},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tonic::body::Body as ReplyBody;
use tracing::debug;

use super::{accept::Door, connections::Seat, grpc, page::Page, request::Format};
use crate::{config, serve::stopped};

/// Answers until either side ends it, or until it has been idle for too long.
pub async fn converse<S>(stream: S, seat: Arc<Seat>, door: Arc<Door>, stop: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let open = Arc::<AtomicUsize>::default();
    let (service_seat, service_door, service_stop) = (seat.clone(), door.clone(), stop.clone());
    let streams = open.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (seat, door, stop) = (service_seat.clone(), service_door.clone(), service_stop.clone());
        let stream = Stream::new(streams.clone());
        async move {
            let reply = answer(request, &door, stop).await;
            seat.served(&door);
            // A stream that goes on belongs to the connection as long as its body does.
            Ok::<_, Infallible>(reply.map(|body| ReplyBody::new(Held { body, _stream: stream })))
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(config::HTTP2_STREAMS)
        .max_header_list_size(u32::try_from(config::HEADER_BYTES).unwrap_or(u32::MAX))
        .max_send_buf_size(config::HEADER_BYTES)
        .keep_alive_interval(config::HTTP2_PING_INTERVAL)
        .keep_alive_timeout(config::HTTP2_PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        result = connection.as_mut() => {
            if let Err(error) = result {
                debug!(%error, "connection ended");
            }
            return;
        }
        () = idle(&open, &seat) => {}
        () = stopped(stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    if let Ok(Err(error)) = timeout(config::DRAIN, connection).await {
        debug!(%error, "connection ended");
    }
}

/// Ends after [`config::IDLE_TIMEOUT`] without a stream.
async fn idle(open: &AtomicUsize, seat: &Seat) {
    const LOOK: Duration = Duration::from_secs(5);
    let (mut since, mut last) = (Instant::now(), seat.last());
    loop {
        sleep_until(Instant::now() + LOOK).await;
        if open.load(Relaxed) > 0 || seat.last() != last {
            (since, last) = (Instant::now(), seat.last());
        } else if since.elapsed() >= config::IDLE_TIMEOUT {
            return;
        }
    }
}

/// Counts a stream for as long as it is open.
#[derive(Debug)]
struct Stream(Arc<AtomicUsize>);

impl Stream {
    fn new(open: Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Relaxed);
        Self(open)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A body, and the count of what it belongs to.
struct Held {
    body: ReplyBody,
    _stream: Stream,
}

impl Body for Held {
    type Data = hyper::body::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        std::pin::Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

async fn answer(
    request: Request<Incoming>,
    door: &Arc<Door>,
    stop: watch::Receiver<bool>,
) -> Response<ReplyBody> {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    if content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
        return grpc::answer(request, door, stop).await;
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let route = door.answers.router().route(request.method().as_str(), target);
    let page = door.answers.router().wait(&route, accepted(request.headers())).await;
    door.answered.count(page.status);
    reply(page, request.method() == hyper::Method::HEAD)
}

fn accepted(headers: &HeaderMap) -> Format {
    Format::accepted(headers.get_all(header::ACCEPT).iter().map(HeaderValue::as_bytes))
}

fn reply(page: Page, head_only: bool) -> Response<ReplyBody> {
    let length = page.body.len();
    let body = if head_only { ReplyBody::empty() } else { ReplyBody::new(Full::new(page.body)) };
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
