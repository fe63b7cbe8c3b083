//! Requests of the session: each has a deadline, and its error becomes one line that may be shown to everybody.

use std::{error::Error, time::Duration};

use tocsin_runtime::{
    kube::{ClusterClient, describe, error::LENGTH},
    text::one_line,
};
use tokio::time::timeout;

use super::session_event::SessionError;

/// The reason why a session on one connection ended.
#[derive(Debug)]
pub(super) enum SessionEnd {
    /// The API server or the connection failed: another attempt follows.
    Failed(SessionError),
    /// The receiver of the session's events is gone: the agent stops.
    ReceiverClosed,
}

impl SessionEnd {
    /// A failure that was noticed at once.
    pub(super) fn failed(message: String) -> Self {
        Self::Failed(SessionError { message, silent_for: Duration::ZERO })
    }
}

/// The hint that is added to a 403.
const RIGHTS: &str = " (list and watch of nodes are needed: deploy/base/rbac.yaml)";

/// The answer to `request`, or why there was none within `limit`.
pub(super) async fn request<T>(
    connection: &ClusterClient,
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, SessionEnd> {
    match timeout(limit, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(SessionEnd::failed(message(connection, &error))),
        Err(_) => Err(SessionEnd::failed(format!("no answer within {} s", limit.as_secs()))),
    }
}

/// The error in one line, without secrets.
pub(super) fn message(connection: &ClusterClient, error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        // Only a Kubernetes `Status` has a code. Where a proxy answers with something else, the HTTP status is the code.
        let code = if status.code == 0 { connection.status() } else { status.code };
        let texts = [&status.reason, &status.message].map(|text| one_line(text, LENGTH));
        let texts = texts.iter().filter(|text| !text.is_empty()).map(|text| format!(": {text}"));
        let hint = if code == 403 { RIGHTS } else { "" };
        return format!("it answers {code}{}{hint}", texts.collect::<String>());
    }
    if let kube::Error::SerdeError(error) = error {
        let code = connection.status();
        return format!("it answers {code} with what is no JSON of Kubernetes: {error}");
    }
    // kube's own error adds nothing to its cause, where it has one.
    let first: &(dyn Error + 'static) = error;
    describe(first.source().unwrap_or(first))
}
