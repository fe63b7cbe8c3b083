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
            // etcd may do later what it did not do in time.
            kube::Error::Api(status) if status.code == 500 && !is_of_etcd(&status.message) => {
                Self::Refused(words(status))
            }
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

/// Whether the API server has no answer of its store, as opposed to one of a webhook.
fn is_of_etcd(message: &str) -> bool {
    message.starts_with("etcdserver:")
        || message.starts_with("rpc error:")
        || message.starts_with("context deadline exceeded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_made_is_not_called_refused() {
        let of = |code: u16, message: &str| {
            let status = Status::failure(message, "").with_code(code).boxed();
            Failure::from(kube::Error::Api(status))
        };
        let refused = |text: &str| Failure::Refused(text.to_owned());
        assert_eq!(of(409, "x"), Failure::Conflict);
        assert_eq!(of(412, "x"), Failure::Conflict);
        assert_eq!(of(404, "x"), Failure::Missing);
        assert_eq!(of(403, "no"), refused("no"));
        assert_eq!(of(422, "no"), refused("no"));
        assert_eq!(
            of(500, "failed calling webhook \"w\": refused"),
            refused("failed calling webhook \"w\": refused")
        );
        for (code, message) in [
            (500, "etcdserver: request timed out"),
            (500, "rpc error: code = Unavailable"),
            (408, "x"),
            (503, "x"),
            (504, "x"),
        ] {
            assert!(matches!(of(code, message), Failure::NoAnswer(_)), "{code} {message}");
        }
    }
}
