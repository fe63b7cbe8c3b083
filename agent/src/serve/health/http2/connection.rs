//! The serve loop of an HTTP/2 connection.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    header::{self, HeaderValue},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tocsin_runtime::tasks::Stop;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body as BoxedBody;
use tracing::debug;

use super::{
    context::ConnectionContext,
    grpc,
    stream_tracker::{EndReason, StreamTracker},
};
use crate::serve::health::{
    connection_slot::ConnectionSlot, format::Format, listener_state::ListenerState,
    render::RenderedResponse, settings,
};

/// Serves requests until the connection ends, is idle for too long, or does not read its responses.
pub async fn serve_connection<S>(
    stream: S,
    slot: Arc<ConnectionSlot>,
    state: Arc<ListenerState>,
    stop: Stop,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    slot.set_ends_itself();
    let number = state.watches.connection_number();
    let streams = Arc::<StreamTracker>::default();
    let context = ConnectionContext { number, slot, state, streams, stop: stop.clone() };
    let of_streams = context.clone();
    let service = service_fn(move |request| {
        let context = of_streams.clone();
        async move { Ok::<_, Infallible>(answer(request, &context).await) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_connection_window_size(settings::HTTP2_WINDOW)
        .initial_stream_window_size(settings::HTTP2_WINDOW)
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
        reason = context.streams.end(&context.slot) => if reason == EndReason::NotRead {
            context.slot.timed_out();
            // It may have been one of many that did the same.
            context.state.trimmer.schedule();
            return;
        },
        () = stop.requested() => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ended = connection => {}
        () = context.streams.drained() => {}
    }
}

/// A body, and a count that ends with it.
struct CountedBody<T> {
    body: BoxedBody,
    _count: T,
}

impl<T: Unpin> Body for CountedBody<T> {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn counted<T: Send + Unpin + 'static>(body: BoxedBody, count: T) -> BoxedBody {
    BoxedBody::new(CountedBody { body, _count: count })
}

async fn answer(request: Request<Incoming>, context: &ConnectionContext) -> Response<BoxedBody> {
    let ConnectionContext { slot, streams, .. } = context;
    let stream = streams.open();
    if streams.is_over_limit() {
        // The connection is about to be ended.
        return Response::new(BoxedBody::empty());
    }
    // From its first request on, the connection is not a silent one.
    slot.set_waiting(true);
    let response = if grpc::is_watch_call(&request) {
        // The stream stays open for as long as its body.
        grpc::answer(request, context).await.map(|body| counted(body, stream))
    } else if grpc::is_call(&request) {
        grpc::answer(request, context).await.map(|body| counted(body, streams.unsent(0)))
    } else {
        // The body is dropped unread: h2 then keeps none of it, however long the response takes.
        answer_plain(request.map(drop), context).await
    };
    slot.answered(Instant::now());
    response
}

/// Answers a request that is not gRPC, as HTTP/1 would.
async fn answer_plain(request: Request<()>, context: &ConnectionContext) -> Response<BoxedBody> {
    let ConnectionContext { state, streams, .. } = context;
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let format = accepted_format(request.headers());
    let has_body = request.method() != Method::HEAD;
    let cached = state.cache.get(request.method().as_str(), target, format, Instant::now());
    let rendered = match cached {
        Ok(rendered) => rendered,
        Err(route) => {
            // While it waits, a request is no more than its route.
            drop(request);
            let _until_there_is_a_response = streams.answering();
            let response = state.cache.router().wait(&route, format).await;
            Arc::new(RenderedResponse::new(response))
        }
    };
    state.responses.count(rendered.status());
    rendered.to_http2(|body| {
        if !has_body {
            return BoxedBody::empty();
        }
        let unsent = streams.unsent(body.len());
        BoxedBody::new(Full::new(unsent.track(body)))
    })
}

fn accepted_format(headers: &HeaderMap) -> Format {
    Format::accepted(headers.get_all(header::ACCEPT).iter().map(HeaderValue::as_bytes))
}
