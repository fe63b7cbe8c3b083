//! Unary gRPC calls on a unix socket: tonic's client over one HTTP/2 connection of hyper.
//!
//! tonic's channel is not used. It connects again by itself, and a sample has to know what became of its own
//! connection. A connection has no clock: the caller limits the time.

use std::{
    error::Error,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use http_body_util::{BodyExt, combinators::MapErr};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
    header::CONTENT_TYPE,
    http::uri::PathAndQuery,
};
use hyper_util::rt::TokioIo;
use prost::Message;
use tocsin_runtime::text::one_line;
use tokio::{net::UnixStream, task::JoinSet};
use tonic::{Code, body::Body, client::Grpc, metadata::MetadataValue};
use tonic_prost::ProstCodec;

use super::settings;

/// Why a call has no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrpcError {
    /// The connection ended, or carries something else than HTTP/2.
    #[error("no HTTP/2 answer: {0}")]
    Connection(String),
    /// The server speaks HTTP/2, but not gRPC.
    #[error("{0} instead of a gRPC answer")]
    NotGrpc(String),
    /// A status other than OK: of the server, or of tonic for an answer that cannot be read.
    #[error("{0}")]
    Status(#[from] Status),
}

/// A gRPC status other than OK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The code.
    pub code: Code,
    /// The message, in one line.
    pub message: String,
}

impl fmt::Display for Status {
    /// `UNAVAILABLE: the message`, with the code as gRPC spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, letter) in format!("{:?}", self.code).chars().enumerate() {
            let gap = if index > 0 && letter.is_uppercase() { "_" } else { "" };
            write!(f, "{gap}{}", letter.to_ascii_uppercase())?;
        }
        if self.message.is_empty() { Ok(()) } else { write!(f, ": {}", self.message) }
    }
}

impl Error for Status {}

impl From<tonic::Status> for GrpcError {
    fn from(status: tonic::Status) -> Self {
        let cause = status.source().and_then(|source| source.downcast_ref::<Self>());
        cause.cloned().unwrap_or_else(|| {
            let message = one_line(status.message(), settings::CRI_TEXT);
            Status { code: status.code(), message }.into()
        })
    }
}

/// A connection to a gRPC server.
pub(super) struct Connection {
    sender: SendRequest<Body>,
    /// The tasks that read and write for it. They are aborted with it, whatever the server does.
    _tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Connection {
    /// Begins HTTP/2 on the socket.
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
            // The call on the connection returns the error.
            let _ended = connection.await;
        });
        Ok(Self { sender, _tasks: tasks })
    }

    /// Whether the server has not ended the connection yet.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Calls the method at `path` (`/package.Service/Method`). The `deadline` is sent to the server and not
    /// enforced here.
    pub(super) async fn call<Q, A>(
        &self,
        path: &'static str,
        message: Q,
        deadline: Duration,
    ) -> Result<A, GrpcError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let transport = tower::service_fn(|request| send(self.sender.clone(), request));
        let mut client = Grpc::with_origin(transport, Uri::from_static("http://localhost"))
            .max_decoding_message_size(settings::CRI_MESSAGE);
        let mut request = tonic::Request::new(message);
        request.set_timeout(deadline);
        let agent = MetadataValue::from_static(concat!("tocsin/", env!("CARGO_PKG_VERSION")));
        request.metadata_mut().insert("user-agent", agent);
        let path = PathAndQuery::from_static(path);
        Ok(client.unary(request, path, ProstCodec::default()).await?.into_inner())
    }
}

/// Sends a request, and checks that the answer is gRPC: tonic takes every HTTP answer for one, and a 404 for
/// `UNIMPLEMENTED`.
async fn send(
    mut sender: SendRequest<Body>,
    request: Request<Body>,
) -> Result<Response<MapErr<Incoming, fn(hyper::Error) -> GrpcError>>, GrpcError> {
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let content_type = response.headers().get(CONTENT_TYPE);
    let content_type = content_type.map_or("", |value| value.to_str().unwrap_or("?"));
    let is_grpc =
        response.status() == StatusCode::OK && content_type.starts_with("application/grpc");
    if !is_grpc && !response.headers().contains_key("grpc-status") {
        let status = response.status().as_u16();
        return Err(GrpcError::NotGrpc(format!("HTTP {status} of type {content_type:?}")));
    }
    Ok(response.map(|body| body.map_err((|error| broken(&error)) as _)))
}

/// Spawns hyper's tasks into the set of their connection.
#[derive(Clone)]
struct Executor(Weak<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        // Without the connection there is nothing left to run for.
        let Some(tasks) = self.0.upgrade() else { return };
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // A finished task stays in the set until its result is taken.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(future);
    }
}

/// The error of a connection. The last cause says most.
fn broken(error: &(dyn Error + 'static)) -> GrpcError {
    let last = std::iter::successors(Some(error), |&error| error.source()).last();
    let text = last.unwrap_or(error).to_string();
    GrpcError::Connection(one_line(&text, settings::CRI_TEXT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_shown_as_grpc_spells_it() {
        for (code, message, expected) in [
            (Code::Unimplemented, "unknown service", "UNIMPLEMENTED: unknown service"),
            (Code::DeadlineExceeded, "a \"b\"\nc", "DEADLINE_EXCEEDED: a \"b\" c"),
            (Code::Unknown, "", "UNKNOWN"),
        ] {
            let error = GrpcError::from(tonic::Status::new(code, message));
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn an_error_of_the_connection_is_no_status() {
        let cause = GrpcError::Connection("gone".into());
        let status = tonic::Status::from_error(cause.clone().into());
        assert_eq!(GrpcError::from(status), cause);
    }
}
