//! Single questions by gRPC on a unix socket: as much of the protocol over HTTP/2 as that takes.
//!
//! No streams, no compression, no load balancing and no TLS; an answer has a bounded size. A channel is one connection,
//! and what hyper runs for it ends with it. It has no clock: who asks says for how long.

use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    HeaderMap, Request,
    body::Bytes,
    client::conn::http2::{Builder, SendRequest},
    header::{CONTENT_TYPE, TE, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode;
use tokio::{net::UnixStream, task::JoinSet};

use super::text::one_line;
use crate::checks::container_runtime::settings;

/// A question without a usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrpcError {
    /// The connection ended, or carries something else than HTTP/2.
    #[error("no HTTP/2 answer: {0}")]
    Connection(String),
    /// HTTP, but not gRPC.
    #[error("{0} instead of a gRPC answer")]
    NotGrpc(String),
    /// Bytes that are not what the protocol says.
    #[error("a malformed gRPC answer: {0}")]
    Malformed(&'static str),
    /// The server's own word.
    #[error("{0}")]
    Status(#[from] Status),
}

/// A status that is not OK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its number.
    pub code: u32,
    /// The server's words.
    pub message: String,
}

/// The status of a method, or a whole service, that the server does not have.
pub(super) const UNIMPLEMENTED: u32 = 12;

/// The names of the numbers, from <https://grpc.io/docs/guides/status-codes/>.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = usize::try_from(self.code).ok().and_then(|code| CODES.get(code).copied());
        write!(f, "{}", name.unwrap_or("gRPC status of no name"))?;
        if self.message.is_empty() { Ok(()) } else { write!(f, ": {}", self.message) }
    }
}

impl Error for Status {}

/// One connection.
pub(super) struct Channel {
    sender: SendRequest<Full<Bytes>>,
    /// What reads and writes for it; aborted when it is dropped, whatever the other side does.
    _tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Channel {
    /// Begins to talk.
    pub(super) async fn open(stream: UnixStream) -> Result<Self, GrpcError> {
        let tasks = Arc::new(Mutex::new(JoinSet::new()));
        let executor = Executor(Arc::downgrade(&tasks));
        let window = u32::try_from(settings::CRI_MESSAGE).unwrap_or(u32::MAX);
        let (sender, connection) = Builder::new(executor.clone())
            .initial_stream_window_size(window)
            .initial_connection_window_size(window)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(&error))?;
        hyper::rt::Executor::execute(&executor, async move {
            // Who asks on it hears why.
            let _ended = connection.await;
        });
        Ok(Self { sender, _tasks: tasks })
    }

    /// Whether the other side has not ended it yet.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Asks for `path` (`/package.Service/Method`), and gives the answer's message.
    pub(super) async fn ask(
        &mut self,
        path: &str,
        message: &[u8],
        deadline: Duration,
    ) -> Result<Bytes, GrpcError> {
        let request = Request::post(format!("http://localhost{path}"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header("grpc-timeout", format!("{}m", deadline.as_millis()))
            .header(USER_AGENT, concat!("tocsin/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(framed(message)))
            .map_err(|error| broken(&error))?;
        let response = self.sender.send_request(request).await.map_err(|error| broken(&error))?;
        let (head, body) = response.into_parts();
        // An error needs no body, and then comes with the first headers.
        if let Some(refused) = status(&head.headers)? {
            return Err(refused.into());
        }
        let content_type = head.headers.get(CONTENT_TYPE).map_or("", |v| v.to_str().unwrap_or("?"));
        if head.status != hyper::StatusCode::OK || !content_type.starts_with("application/grpc") {
            let what = format!("HTTP {} of type {content_type:?}", head.status.as_u16());
            return Err(GrpcError::NotGrpc(what));
        }
        let body = Limited::new(body, settings::CRI_MESSAGE + PREFIX).collect().await;
        let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => GrpcError::Malformed("longer than any such answer"),
            None => broken(&*error),
        })?;
        match body.trailers().map(status) {
            None => return Err(GrpcError::Malformed("it ended without a status")),
            Some(found) => {
                if let Some(refused) = found? {
                    return Err(refused.into());
                }
            }
        }
        unframed(&body.to_bytes())
    }
}

/// Where hyper puts what runs beside: into the channel's own set.
#[derive(Clone)]
struct Executor(Weak<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        // Without a channel there is nothing left to run for.
        let Some(tasks) = self.0.upgrade() else { return };
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // A finished one keeps its seat until somebody takes its result.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(future);
    }
}

/// One byte says whether it is compressed, four how long it is.
const PREFIX: usize = 5;

fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0], &length.to_be_bytes()[..], message].concat().into()
}

fn unframed(body: &Bytes) -> Result<Bytes, GrpcError> {
    let Some((&[compressed, a, b, c, d], message)) = body.split_first_chunk::<PREFIX>() else {
        return Err(GrpcError::Malformed("it has no message"));
    };
    if compressed != 0 {
        return Err(GrpcError::Malformed("it is compressed, which nobody asked for"));
    }
    if usize::try_from(u32::from_be_bytes([a, b, c, d])) != Ok(message.len()) {
        return Err(GrpcError::Malformed("its length is not what it says"));
    }
    Ok(body.slice(PREFIX..))
}

/// The status in headers or trailers; `None` for OK. Headers without one say nothing yet.
fn status(headers: &HeaderMap) -> Result<Option<Status>, GrpcError> {
    let Some(code) = headers.get("grpc-status") else { return Ok(None) };
    let code = code.to_str().ok().and_then(|code| code.parse().ok());
    let code = code.ok_or(GrpcError::Malformed("its status is not a number"))?;
    if code == 0 {
        return Ok(None);
    }
    let message = headers.get("grpc-message").map_or(&[][..], |message| message.as_bytes());
    let message = one_line(&percent_decode(message).decode_utf8_lossy());
    Ok(Some(Status { code, message }))
}

/// The last cause says most.
fn broken(error: &(dyn Error + 'static)) -> GrpcError {
    let last = std::iter::successors(Some(error), |&error| error.source()).last();
    GrpcError::Connection(one_line(&last.unwrap_or(error).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed() {
        assert_eq!(framed(b"ab"), &b"\0\0\0\0\x02ab"[..]);
        assert_eq!(framed(b""), &b"\0\0\0\0\0"[..]);
        // (bytes, message or what is wrong)
        for (body, expected) in [
            (&b"\0\0\0\0\x02ab"[..], Ok(&b"ab"[..])),
            (b"\0\0\0\0\0", Ok(b"")),
            (b"", Err("it has no message")),
            (b"\0\0\0\0", Err("it has no message")),
            (b"\x01\0\0\0\x02ab", Err("it is compressed, which nobody asked for")),
            (b"\0\0\0\0\x03ab", Err("its length is not what it says")),
            (b"\0\0\0\0\x01ab", Err("its length is not what it says")),
            (b"\0\xff\xff\xff\xffab", Err("its length is not what it says")),
        ] {
            let expected = expected.map(Bytes::from_static).map_err(GrpcError::Malformed);
            assert_eq!(unframed(&Bytes::from_static(body)), expected, "{body:?}");
        }
    }

    #[test]
    fn a_status_has_a_name_and_words() {
        // (grpc-status, grpc-message, text)
        for (code, message, expected) in [
            ("0", "", Ok(None)),
            ("0", "ignored", Ok(None)),
            ("12", "unknown service", Ok(Some("UNIMPLEMENTED: unknown service"))),
            ("14", "a%20%22b%22%0Ac", Ok(Some("UNAVAILABLE: a \"b\" c"))),
            ("14", "100% %zz %ff", Ok(Some("UNAVAILABLE: 100% %zz \u{fffd}"))),
            ("2", "", Ok(Some("UNKNOWN"))),
            ("99", "", Ok(Some("gRPC status of no name"))),
            ("", "", Err(())),
            ("-1", "", Err(())),
            ("ok", "", Err(())),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", code.parse().unwrap());
            headers.insert("grpc-message", message.parse().unwrap());
            let found = status(&headers).map(|found| found.map(|status| status.to_string()));
            let expected = expected.map(|text| text.map(str::to_owned));
            assert_eq!(found.map_err(drop), expected, "{code} {message}");
        }
        assert_eq!(status(&HeaderMap::new()), Ok(None));
    }
}
