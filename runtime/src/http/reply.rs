//! Answers. Every header that an answer has is written here, but for those that hyper adds (`Date`, lengths).

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::Stream;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint},
    header::{self, HeaderValue},
};
use serde::Serialize;
use tokio::time::timeout;

/// What a handler returns.
pub type Reply = Response<Body>;

/// `application/json`
pub const JSON: &str = "application/json";
/// `text/plain`
pub const TEXT: &str = "text/plain; charset=utf-8";
/// Server-sent events (WHATWG HTML, section 9.2).
pub const EVENT_STREAM: &str = "text/event-stream";

/// The body of an answer: bytes, or a stream.
pub struct Body(Kind);

enum Kind {
    Full(Option<Bytes>),
    Stream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl Body {
    /// Whether it is a stream.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.0, Kind::Stream(_))
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self(Kind::Full(Some(bytes.into())))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Full(bytes) => f.debug_tuple("Full").field(bytes).finish(),
            Kind::Stream(_) => f.write_str("Stream"),
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.0 {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Stream(stream) => {
                stream.as_mut().poll_next(cx).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Kind::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => {
                let length = bytes.as_ref().map_or(0, Bytes::len);
                SizeHint::with_exact(u64::try_from(length).unwrap_or(u64::MAX))
            }
            Kind::Stream(_) => SizeHint::default(),
        }
    }
}

/// An answer that must not be cached.
#[must_use]
pub fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Reply {
    let mut reply = Response::new(body.into());
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

/// 200 with a body that is written as it comes, for events ([`EVENT_STREAM`]) and the like.
///
/// The stream is polled only after its last item was written. It ends when it returns `None`, when the client closes
/// the connection or reads nothing for [`write_timeout`](super::Settings::write_timeout), and when the process stops.
#[must_use]
pub fn stream(
    content_type: &'static str,
    stream: impl Stream<Item = Bytes> + Send + 'static,
) -> Reply {
    reply(StatusCode::OK, content_type, Body(Kind::Stream(Box::pin(stream))))
}

/// A value as JSON; 500 where it cannot be written as such.
#[must_use]
pub fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => reply(status, JSON, body),
        Err(failed) => error(StatusCode::INTERNAL_SERVER_ERROR, &failed.to_string()),
    }
}

/// An error as JSON: `{"error":"…"}`.
#[must_use]
pub fn error(status: StatusCode, message: &str) -> Reply {
    reply(status, JSON, serde_json::json!({ "error": message }).to_string())
}

/// 405 with the methods that are allowed: `GET, HEAD`.
#[must_use]
pub fn not_allowed(allow: &'static str) -> Reply {
    let mut reply = error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    reply
}

/// The whole body of a request, or the answer to one that is longer than `limit` bytes (413), not complete within
/// `within` (408) or broken (400).
pub async fn read_body(
    request: Request<Incoming>,
    limit: usize,
    within: Duration,
) -> Result<Bytes, Reply> {
    let body = Limited::new(request.into_body(), limit).collect();
    match timeout(within, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(failed)) if failed.is::<LengthLimitError>() => {
            Err(error(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"))
        }
        Ok(Err(failed)) => Err(error(StatusCode::BAD_REQUEST, &failed.to_string())),
        Err(_) => Err(error(StatusCode::REQUEST_TIMEOUT, "the body was not complete in time")),
    }
}
