//! The serve loop of an HTTP/1 connection.

use std::{io, pin::pin, time::Instant};

use hyper::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::yield_now,
    time::sleep,
};

use super::{
    batch::{self, Next, WaitingRequest},
    timed_stream::TimedStream,
};
use crate::serve::health::{
    connection_slot::ConnectionSlot, listener_state::ListenerState, render::Framing, settings,
};

/// What carries the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, on which TLS may begin.
    TcpOrTls,
    /// TCP without TLS.
    Tcp,
    /// TLS, whose end has to be told to the other side.
    Tls,
}

/// How HTTP/1 ended on a connection.
#[derive(Debug)]
pub enum Ended<S> {
    /// The connection is closed.
    Closed,
    /// It speaks HTTP/2. The bytes were received already.
    IsHttp2(S, Vec<u8>),
    /// It speaks TLS. The bytes were received already.
    IsTls(S, Vec<u8>),
}

/// The first byte of a TLS record with a handshake in it, which begins no request (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// 512 bytes of its buffer are kept by an idle connection.
const IDLE_BYTES: usize = 512;

/// Sends what is left of the only response on a connection.
pub async fn send_rest(stream: TcpStream, unsent: &[u8], slot: &ConnectionSlot) {
    let sleep = pin!(sleep(settings::WRITE_TIMEOUT));
    let _closed_either_way = TimedStream::new(stream, sleep).write_all(unsent).await;
    slot.answered(Instant::now());
}

/// Serves requests until the connection ends or another protocol begins. `received` was read from it already.
pub async fn serve_connection<S>(
    stream: S,
    received: Vec<u8>,
    transport: Transport,
    slot: &ConnectionSlot,
    state: &ListenerState,
) -> Ended<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let sleep = pin!(sleep(settings::IDLE_TIMEOUT));
    let mut has_received = !received.is_empty();
    let stream = TimedStream::new(stream, sleep);
    let mut connection =
        Connection { stream, received, used: 0, is_in_request: false, slot, state };
    let close = loop {
        if !std::mem::take(&mut has_received)
            && let Err(close) = connection.receive().await
        {
            break close;
        }
        if transport == Transport::TcpOrTls && connection.received.first() == Some(&TLS_HANDSHAKE) {
            return Ended::IsTls(connection.stream.into_inner(), connection.received);
        }
        match connection.respond().await {
            Step::Receive => connection.await_request(),
            Step::Http2 => {
                connection.received.drain(..connection.used);
                return Ended::IsHttp2(connection.stream.into_inner(), connection.received);
            }
            Step::Close(close) => break close,
        }
    };
    match close {
        Close::Lingering => connection.stream.shut_down(true).await,
        Close::Complete if transport == Transport::Tls => connection.stream.shut_down(false).await,
        Close::Complete | Close::Broken => {}
    }
    Ended::Closed
}

struct Connection<'c, S> {
    stream: TimedStream<'c, S>,
    received: Vec<u8>,
    /// Bytes of `received` whose requests are answered.
    used: usize,
    /// Whether the first bytes of a request are there, and the deadline is that of its rest.
    is_in_request: bool,
    slot: &'c ConnectionSlot,
    state: &'c ListenerState,
}

/// What follows a turn of responses.
enum Step {
    /// Receive more.
    Receive,
    /// Hand over to HTTP/2.
    Http2,
    /// Close the connection.
    Close(Close),
}

/// How a connection is closed.
enum Close {
    /// It failed, or was idle for too long: the socket is closed.
    Broken,
    /// Nothing is left to be said on either side.
    Complete,
    /// The other side may still be sending.
    Lingering,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    /// Waits for more bytes.
    async fn receive(&mut self) -> Result<(), Close> {
        match self.stream.read(&mut self.received).await {
            Ok(0) => Err(Close::Complete),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut && !self.received.is_empty() => {
                self.slot.timed_out();
                let mut out = Vec::new();
                let message = "the request was not complete in time";
                batch::write_error(StatusCode::REQUEST_TIMEOUT, message, self.state, &mut out);
                let _closed_either_way = self.stream.write_all(&out).await;
                Err(Close::Lingering)
            }
            Err(_) => Err(Close::Broken),
        }
    }

    /// Responds to every whole request that was received.
    async fn respond(&mut self) -> Step {
        loop {
            let mut out = Vec::new();
            let next =
                batch::respond(&self.received, &mut self.used, self.slot, self.state, &mut out);
            if let Next::Wait(_) = next {
                self.slot.set_waiting(true);
            }
            if !out.is_empty() && self.stream.write_all(&out).await.is_err() {
                return Step::Close(Close::Broken);
            }
            match next {
                Next::Receive => return Step::Receive,
                Next::Http2 => return Step::Http2,
                Next::Close { lingers: true } => return Step::Close(Close::Lingering),
                Next::Close { lingers: false } => return Step::Close(Close::Complete),
                // Other connections have a turn: their probes do not wait until all that one client sent ahead is
                // answered.
                Next::Continue => yield_now().await,
                Next::Wait(request) => {
                    // Rare, and boxed, so that the task of every other connection stays small.
                    let waiting = Box::pin(self.respond_when_sampled(request));
                    if let Some(close) = waiting.await {
                        return Step::Close(close);
                    }
                }
            }
        }
    }

    /// Responds to one request, once the probes that it asks for have a result.
    async fn respond_when_sampled(&mut self, request: WaitingRequest) -> Option<Close> {
        let WaitingRequest { route, format, framing, len, body } = request;
        let response = self.state.cache.router().wait(&route, format).await;
        // The agent may have begun to stop meanwhile.
        let keep = framing.keep && !self.state.draining.has_begun();
        let mut out = Vec::new();
        let framing = Framing { keep, ..framing };
        let status = self.state.cache.write_http1_uncached(response, framing, &mut out);
        self.state.responses.count(status);
        self.slot.set_waiting(false);
        self.slot.answered(Instant::now());
        self.used += len;
        if self.stream.write_all(&out).await.is_err() {
            return Some(Close::Broken);
        }
        match (keep, body || self.used < self.received.len()) {
            (true, _) => None,
            (false, true) => Some(Close::Lingering),
            (false, false) => Some(Close::Complete),
        }
    }

    /// Sets the deadline for what is to be received next.
    fn await_request(&mut self) {
        if self.used == self.received.len() {
            self.stream.set_deadline(settings::IDLE_TIMEOUT);
            self.is_in_request = false;
            self.received.clear();
            self.received.shrink_to(IDLE_BYTES);
        } else if self.used > 0 || !self.is_in_request {
            // The rest of a request has to follow soon, however slowly it drips.
            self.stream.set_deadline(settings::HEADER_TIMEOUT);
            self.is_in_request = true;
            self.received.drain(..self.used);
        }
        self.used = 0;
    }
}
