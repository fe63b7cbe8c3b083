//! What the session reports to the task that tracks the API server.

use std::time::Duration;

use crate::model::Node;

/// An event of the session with the API server.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// The Node as it is now, on an established watch; `None` where the cluster has no Node of that name.
    Observed(Option<Node>),
    /// The watch ended in the regular way and is being renewed.
    WatchEnded,
    /// An attempt failed; the next one follows.
    Failed(SessionError),
    /// The session's thread is running.
    Heartbeat,
}

/// The error that ended an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionError {
    /// The error in one line, without secrets: `/health` shows it.
    pub message: String,
    /// For how long the server had already been silent when the error was noticed.
    pub silent_for: Duration,
}
