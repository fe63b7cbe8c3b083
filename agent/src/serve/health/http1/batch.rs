//! Requests that were received together, and their responses. No I/O.

use std::time::Instant;

use hyper::StatusCode;

use crate::serve::health::{
    connection_slot::ConnectionSlot,
    format::Format,
    listener_state::ListenerState,
    render::Framing,
    request::{self, Parsed, Request},
    response::Response,
    route::Route,
};

/// What follows the responses that were written.
pub enum Next {
    /// Receive more: what is left is not a whole request.
    Receive,
    /// Respond to the rest, once these responses are sent.
    Continue,
    /// End the connection. It lingers where the other side may still be sending.
    Close {
        /// Whether it lingers.
        lingers: bool,
    },
    /// Wait for a probe's first result.
    Wait(WaitingRequest),
    /// The connection speaks HTTP/2.
    Http2,
}

/// A request that waits for a probe's first result.
pub struct WaitingRequest {
    /// Its route.
    pub route: Route,
    /// The form of the body.
    pub format: Format,
    /// The framing of the response.
    pub framing: Framing,
    /// Bytes of the request.
    pub len: usize,
    /// Whether a body follows the request.
    pub body: bool,
}

/// 512 bytes: most responses fit into them.
const RESPONSE_BYTES: usize = 512;

/// 4 KiB of responses are sent before more are rendered, and before other connections have a turn. A client that sends
/// many small requests and reads no response costs this much memory, and hundreds of such clients delay others by
/// milliseconds only.
const BATCH_BYTES: usize = 4 * 1024;

/// The response to the first bytes of a connection, if they are one whole request after which the connection ends.
#[must_use]
pub fn only_response(received: &[u8], state: &ListenerState) -> Option<Vec<u8>> {
    let Parsed::Whole(request) = request::parse(received) else { return None };
    if request.keep || request.body || request.len != received.len() {
        return None;
    }
    let mut out = Vec::with_capacity(RESPONSE_BYTES);
    let status = state.cache.write_http1(&request, false, Instant::now(), &mut out).ok()?;
    state.responses.count(status);
    Some(out)
}

/// Appends responses to the whole requests in `received` from `used` on, up to a batch, and moves `used` behind them.
pub fn respond(
    received: &[u8],
    used: &mut usize,
    slot: &ConnectionSlot,
    state: &ListenerState,
    out: &mut Vec<u8>,
) -> Next {
    let now = Instant::now();
    loop {
        // Empty lines before a request are skipped (RFC 9112, 2.2): they do not begin one whose rest has to follow.
        let is_blank = |byte: &&u8| matches!(byte, b'\r' | b'\n');
        *used += received[*used..].iter().take_while(is_blank).count();
        let rest = &received[*used..];
        if rest.is_empty() {
            return Next::Receive;
        }
        if out.len() >= BATCH_BYTES {
            return Next::Continue;
        }
        let request = match request::parse(rest) {
            Parsed::Whole(request) => request,
            Parsed::Partial => return Next::Receive,
            Parsed::Http2 => return Next::Http2,
            Parsed::Refused(status) => {
                write_error(status, refusal(status), state, out);
                return Next::Close { lingers: true };
            }
        };
        let Request { minor, format, len, body, .. } = request;
        let keep = request.keep && !state.draining.has_begun();
        match state.cache.write_http1(&request, keep, now, out) {
            Ok(status) => state.responses.count(status),
            Err(route) => {
                let framing = Framing { minor, keep, head_only: request.is_head() };
                return Next::Wait(WaitingRequest { route, format, framing, len, body });
            }
        }
        *used += len;
        slot.answered(now);
        if !keep {
            return Next::Close { lingers: body || *used < received.len() };
        }
    }
}

/// Appends an error response after which the connection ends.
pub fn write_error(status: StatusCode, message: &str, state: &ListenerState, out: &mut Vec<u8>) {
    let framing = Framing { minor: 1, keep: false, head_only: false };
    let status = state.cache.write_http1_uncached(Response::error(status, message), framing, out);
    state.responses.count(status);
}

fn refusal(status: StatusCode) -> &'static str {
    match status {
        StatusCode::URI_TOO_LONG => "the request line is longer than 8 KiB",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            "the headers are longer than 8 KiB, or more than 100"
        }
        StatusCode::HTTP_VERSION_NOT_SUPPORTED => "not HTTP/1.0, HTTP/1.1 or HTTP/2",
        _ => "not an HTTP request",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering::Relaxed};

    use super::*;
    use crate::serve::health::{listener_state, route::tests::router};

    fn slot() -> ConnectionSlot {
        ConnectionSlot::new(Instant::now(), Arc::default(), Arc::default())
    }

    #[test]
    fn requests_that_are_sent_ahead_are_answered_in_batches() {
        let (router, _faults) = router(Some("n"), false, 200);
        let (state, slot) = (listener_state::tests::state(router), slot());
        let request = "\r\nGET /health HTTP/1.1\r\n\r\n\r\n";
        let received = request.repeat(1000);
        let (mut used, mut batches, mut bytes) = (0, 0, 0);
        loop {
            let mut out = Vec::new();
            let next = respond(received.as_bytes(), &mut used, &slot, &state, &mut out);
            assert!(out.len() < BATCH_BYTES + RESPONSE_BYTES, "{}", out.len());
            batches += 1;
            bytes += out.len();
            match next {
                Next::Continue => {}
                Next::Receive => break,
                _ => panic!("after {used} bytes"),
            }
        }
        assert_eq!((used, state.responses.ready.load(Relaxed)), (received.len(), 1000));
        assert!(batches > bytes / (BATCH_BYTES + RESPONSE_BYTES));
    }

    #[test]
    fn what_follows_depends_on_the_last_request() {
        let (router, _faults) = router(Some("n"), false, 200);
        let (state, slot) = (listener_state::tests::state(router), slot());
        let keep = "GET /livez HTTP/1.1\r\n\r\n";
        let close = "GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n";
        for (received, expected, responses) in [
            (keep.to_owned(), "receive", 1),
            (format!("{keep}GET /li"), "receive", 1),
            (close.to_owned(), "close", 1),
            (format!("{close}{keep}"), "linger", 1),
            ("POST /nodename HTTP/1.1\r\nContent-Length: 9\r\n\r\n".to_owned(), "linger", 1),
            (format!("{keep}nonsense\r\n\r\n"), "linger", 2),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "http2", 0),
        ] {
            let (mut used, mut out) = (0, Vec::new());
            let next = match respond(received.as_bytes(), &mut used, &slot, &state, &mut out) {
                Next::Receive => "receive",
                Next::Continue => "continue",
                Next::Close { lingers: true } => "linger",
                Next::Close { lingers: false } => "close",
                Next::Wait(_) => "wait",
                Next::Http2 => "http2",
            };
            let text = String::from_utf8(out).unwrap();
            assert_eq!((next, text.matches("HTTP/1.1 ").count()), (expected, responses));
            // The connection is to end with its only response, or it is no case for this function.
            let only = only_response(received.as_bytes(), &state);
            assert_eq!(only.is_some(), received == close, "{received:?}");
        }
        state.draining.begin();
        let (mut used, mut out) = (0, Vec::new());
        let next = respond(keep.as_bytes(), &mut used, &slot, &state, &mut out);
        assert!(matches!(next, Next::Close { lingers: false }));
    }
}
