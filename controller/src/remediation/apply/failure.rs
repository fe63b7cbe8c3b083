//! Why a write was not made.

use kube::core::Status;
use tocsin_runtime::kube::describe;

/// Why a write was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The object is not as it was when it was decided on: the watch tells how it is.
    Conflict,
    /// The object, or its namespace, is not there.
    Missing,
    /// The API server said no.
    Refused(String),
    /// No answer: it may have been made.
    NoAnswer(String),
    /// This process does not lead any more.
    NotLeading,
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if matches!(status.code, 409 | 412) => Self::Conflict,
            kube::Error::Api(status) if status.code == 404 => Self::Missing,
            kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 408 => {
                Self::Refused(words(status))
            }
            kube::Error::Api(status) if status.code == 500 => Self::Refused(words(status)),
            _ => Self::NoAnswer(describe(&error)),
        }
    }
}

pub(super) fn words(status: &Status) -> String {
    if status.message.is_empty() {
        format!("{} {}", status.code, status.reason)
    } else {
        status.message.clone()
    }
}
