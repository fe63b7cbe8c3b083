//! A response before it is rendered for HTTP/1 or HTTP/2, and its header fields.

use std::borrow::Cow;

use hyper::{StatusCode, body::Bytes};

use tocsin_runtime::http::JSON;

/// Methods that `/health`, the paths below it and `/livez` accept.
pub const ALLOW: &str = "GET, HEAD, OPTIONS";

/// A response to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The media type of the body.
    pub content_type: &'static str,
    /// The methods that are allowed, with 405.
    pub allow: Option<&'static str>,
    /// Why the verdict is what it is, for `X-Tocsin-Reason`: one line of printable ASCII.
    pub reason: Option<String>,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// A response with a body and nothing else.
    #[must_use]
    pub fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, allow: None, reason: None, body: body.into() }
    }

    /// `{"error":"…"}`
    #[must_use]
    pub fn error(status: StatusCode, message: &str) -> Self {
        Self::new(status, JSON, serde_json::json!({ "error": message }).to_string())
    }

    /// 405 with the methods that are allowed.
    #[must_use]
    pub fn not_allowed() -> Self {
        let response = Self::error(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
        Self { allow: Some(ALLOW), ..response }
    }

    /// The header fields, whichever protocol carries them. `Date` and `Connection` are not among them: the first belongs
    /// to the moment, the second to the connection.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, Cow<'_, str>)> {
        let always = [
            ("Content-Type", Cow::from(self.content_type)),
            ("Content-Length", Cow::from(self.body.len().to_string())),
            ("Cache-Control", Cow::from("no-store")),
        ];
        let reason = self.reason.as_deref().map(|reason| ("X-Tocsin-Reason", Cow::from(reason)));
        let allow = self.allow.map(|allow| ("Allow", Cow::from(allow)));
        always.into_iter().chain(reason).chain(allow)
    }
}
