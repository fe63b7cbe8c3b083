//! One accepted connection: which protocol is spoken on it.

use std::{io, sync::Arc};

use tocsin_runtime::tasks::Stop;
use tokio::net::TcpStream;
use tracing::debug;

use super::{
    connection_slot::ConnectionSlot,
    http1::{self, Ended, Transport},
    http2,
    listener_state::ListenerState,
    prefixed_stream::PrefixedStream,
};
use crate::serve::health::settings;

/// A connection that was read once when it was accepted.
pub struct Accepted {
    /// The connection.
    pub stream: TcpStream,
    /// What was read.
    pub received: Vec<u8>,
    /// The rest of the only response that there will be on it; empty where there was none.
    pub unsent: Vec<u8>,
}

/// Serves the connection until it ends. HTTP/2 and TLS are rare, and boxed, so that the task of a plain connection
/// stays small.
pub async fn serve(
    accepted: Accepted,
    slot: Arc<ConnectionSlot>,
    state: Arc<ListenerState>,
    stop: Stop,
) {
    let Accepted { stream, received, unsent } = accepted;
    if !unsent.is_empty() {
        return http1::send_rest(stream, &unsent, &slot).await;
    }
    let transport = if state.tls.is_some() { Transport::TcpOrTls } else { Transport::Tcp };
    match http1::serve_connection(stream, received, transport, &slot, &state).await {
        Ended::Closed => {}
        Ended::IsHttp2(stream, received) => {
            let stream = PrefixedStream::new(received, stream);
            Box::pin(http2::serve_connection(stream, slot, state, stop)).await;
        }
        Ended::IsTls(stream, received) => {
            let stream = PrefixedStream::new(received, stream);
            Box::pin(serve_tls(stream, slot, state, stop)).await;
        }
    }
}

async fn serve_tls(
    stream: PrefixedStream<TcpStream>,
    slot: Arc<ConnectionSlot>,
    state: Arc<ListenerState>,
    stop: Stop,
) {
    let Some(acceptor) = state.tls.clone() else { return };
    let stream = match acceptor.accept(stream, settings::HEADER_TIMEOUT).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return slot.timed_out(),
        Err(error) => return debug!(%error, "no TLS"),
    };
    let ended = http1::serve_connection(stream, Vec::new(), Transport::Tls, &slot, &state).await;
    if let Ended::IsHttp2(stream, received) = ended {
        let stream = PrefixedStream::new(received, stream);
        http2::serve_connection(stream, slot, state, stop).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::TcpListener;

    use super::*;
    use crate::serve::health::{listener_state, route::tests::router};

    #[tokio::test]
    async fn the_task_of_a_plain_connection_is_small() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (router, _faults) = router(Some("n"), false, 200);
        let state = Arc::new(listener_state::tests::state(router));
        let slot = ConnectionSlot::new(Instant::now(), Arc::default(), Arc::default());
        let (_stop, stopping) = Stop::channel();
        let accepted = Accepted { stream, received: Vec::new(), unsent: Vec::new() };
        let task = serve(accepted, Arc::new(slot), state, stopping);
        // 784 bytes, of which the timer is the largest part: there are thousands of such tasks in a flood.
        assert!(size_of_val(&task) < 1024, "{}", size_of_val(&task));
    }
}
