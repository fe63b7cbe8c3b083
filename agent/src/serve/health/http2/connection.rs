//! The serve loop of an HTTP/2 connection.

use std::{convert::Infallible, pin::pin, sync::Arc};

use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tocsin_runtime::tasks::Stop;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::debug;

use super::{
    context::ConnectionContext,
    stream,
    stream_tracker::{EndReason, StreamTracker},
};
use crate::serve::health::{
    connection_slot::ConnectionSlot, listener_state::ListenerState, settings,
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
    let number = state.http2.number_connection();
    let streams = Arc::<StreamTracker>::default();
    let context = ConnectionContext { number, slot, state, streams, stop: stop.clone() };
    let of_streams = context.clone();
    let service = service_fn(move |request| {
        let context = of_streams.clone();
        async move { Ok::<_, Infallible>(stream::answer(request, &context).await) }
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
