//! One accepted connection: which protocol is spoken on it.

use std::sync::Arc;

use tocsin_runtime::tasks::Stop;
use tokio::net::TcpStream;

use super::{
    connection_slot::ConnectionSlot,
    http1::{self, Ended, Transport},
    http2,
    listener_state::ListenerState,
    prefixed_stream::PrefixedStream,
    tls_thread::TlsThread,
};

/// A connection that was read once when it was accepted.
pub struct Accepted {
    /// The connection.
    pub stream: TcpStream,
    /// What was read.
    pub received: Vec<u8>,
    /// The rest of the only response that there will be on it; empty where there was none.
    pub unsent: Vec<u8>,
}

/// What the connections of one thread are served with.
pub struct Server {
    /// What they share.
    pub state: Arc<ListenerState>,
    /// Serves those that speak TLS, where it is configured.
    pub tls: Option<TlsThread>,
    /// Whether the agent stops.
    pub stop: Stop,
}

impl Server {
    /// Serves a connection until it ends. HTTP/2 and TLS are rare, and boxed, so that the task of a plain connection
    /// stays small.
    pub async fn serve(self: Arc<Self>, accepted: Accepted, slot: Arc<ConnectionSlot>) {
        let Self { state, tls, stop } = &*self;
        let Accepted { stream, received, unsent } = accepted;
        if !unsent.is_empty() {
            return http1::send_rest(stream, &unsent, &slot).await;
        }
        let transport = if tls.is_some() { Transport::TcpOrTls } else { Transport::Tcp };
        match http1::serve_connection(stream, received, transport, &slot, state).await {
            Ended::Closed => {}
            Ended::IsHttp2(stream, received) => {
                let stream = PrefixedStream::new(received, stream);
                let (state, stop) = (state.clone(), stop.clone());
                Box::pin(http2::serve_connection(stream, slot, state, stop)).await;
            }
            Ended::IsTls(stream, received) => {
                if let Some(tls) = tls {
                    Box::pin(tls.serve(stream, received, slot)).await;
                }
            }
        }
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
        let (_stop, stop) = Stop::channel();
        let server = Arc::new(Server { state, tls: None, stop });
        let accepted = Accepted { stream, received: Vec::new(), unsent: Vec::new() };
        let task = server.serve(accepted, Arc::new(slot));
        // 752 bytes, of which the timer is the largest part: there are thousands of such tasks in a flood.
        assert!(size_of_val(&task) < 1024, "{}", size_of_val(&task));
    }
}
