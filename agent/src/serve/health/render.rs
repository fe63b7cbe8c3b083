//! A response rendered for HTTP/1 and HTTP/2.

use hyper::{
    HeaderMap, StatusCode,
    body::Bytes,
    header::{HeaderName, HeaderValue},
};

use super::response::Response;

/// How HTTP/1 frames a response: what the request and the connection decide about it.
#[derive(Clone, Copy, Debug)]
pub struct Framing {
    /// The minor version of the request: 0 or 1.
    pub minor: u8,
    /// Whether the connection is kept open after it.
    pub keep: bool,
    /// Whether the body is left out, as for HEAD.
    pub head_only: bool,
}

/// A response whose HTTP/1 head is rendered, all but `Date` and `Connection`. It is rendered once and sent many times.
#[derive(Debug)]
pub struct RenderedResponse {
    /// From behind the version to the last field that is the same for every request.
    head: Vec<u8>,
    response: Response,
}

/// Bytes for the version, `Date` and `Connection`.
const VARYING_BYTES: usize = 80;

impl RenderedResponse {
    /// Renders `response`.
    #[must_use]
    pub fn new(response: Response) -> Self {
        let status = response.status;
        let phrase = status.canonical_reason().unwrap_or("Unknown");
        let mut head = format!(" {} {phrase}\r\n", status.as_u16());
        for (name, value) in response.fields() {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(&value);
            head.push_str("\r\n");
        }
        Self { head: head.into_bytes(), response }
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.response.status
    }

    /// The response that was rendered.
    #[must_use]
    pub fn response(&self) -> &Response {
        &self.response
    }

    /// Appends the whole response for HTTP/1. `date` is the value of `Date`.
    pub fn write_http1(&self, out: &mut Vec<u8>, date: &[u8], framing: Framing) {
        let body: &[u8] = if framing.head_only { &[] } else { &self.response.body };
        out.reserve(VARYING_BYTES + self.head.len() + body.len());
        out.extend_from_slice(if framing.minor == 0 { b"HTTP/1.0" } else { b"HTTP/1.1" });
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"Date: ");
        out.extend_from_slice(date);
        out.extend_from_slice(match (framing.keep, framing.minor) {
            (true, 0) => b"\r\nConnection: keep-alive\r\n\r\n",
            (true, _) => b"\r\n\r\n",
            (false, _) => b"\r\nConnection: close\r\n\r\n",
        });
        out.extend_from_slice(body);
    }

    /// The response for HTTP/2, whose server adds `date`. `body` turns the body's bytes into a body.
    pub fn to_http2<B>(&self, body: impl FnOnce(Bytes) -> B) -> hyper::Response<B> {
        let mut response = hyper::Response::new(body(self.response.body.clone()));
        *response.status_mut() = self.response.status;
        *response.headers_mut() = self.http2_fields();
        response
    }

    fn http2_fields(&self) -> HeaderMap {
        let fields = self.response.fields().filter_map(|(name, value)| {
            // HTTP/2 writes names in lower case (RFC 9113, 8.2); the conversion does so.
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            Some((name, HeaderValue::try_from(&*value).ok()?))
        });
        fields.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::health::response::ALLOW;

    #[test]
    fn http1_and_http2_have_the_same_fields() {
        let error = Response::error(StatusCode::SERVICE_UNAVAILABLE, "no");
        for response in [
            Response::new(StatusCode::OK, "text/plain", "ok"),
            Response { reason: Some("io_stall: sda".to_owned()), ..error },
            Response::not_allowed(),
        ] {
            let rendered = RenderedResponse::new(response.clone());
            let mut out = Vec::new();
            let framing = Framing { minor: 1, keep: true, head_only: true };
            rendered.write_http1(&mut out, b"now", framing);
            let text = String::from_utf8(out).unwrap();
            let mut lines: Vec<_> = text.trim_end().split("\r\n").map(str::to_lowercase).collect();
            assert!(lines.remove(0).starts_with(&format!("http/1.1 {}", response.status.as_u16())));
            assert_eq!(lines.pop().as_deref(), Some("date: now"));

            let http2 = rendered.to_http2(|body| body);
            assert_eq!((http2.status(), http2.body()), (response.status, &response.body));
            let fields = http2.headers().iter();
            let fields = fields.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
            lines.sort();
            let mut fields: Vec<_> = fields.map(|field| field.to_lowercase()).collect();
            fields.sort();
            assert_eq!(lines, fields);
            assert_eq!(http2.headers().get("allow").is_some(), response.allow == Some(ALLOW));
        }
    }

    #[test]
    fn a_framing_decides_version_connection_and_body() {
        let rendered = RenderedResponse::new(Response::new(StatusCode::OK, "text/plain", "ok"));
        for (minor, keep, head_only, start, end) in [
            (1, true, false, "HTTP/1.1 200 OK\r\n", "\r\nDate: now\r\n\r\nok"),
            (1, false, false, "HTTP/1.1 200 OK\r\n", "\r\nConnection: close\r\n\r\nok"),
            (0, true, false, "HTTP/1.0 200 OK\r\n", "\r\nConnection: keep-alive\r\n\r\nok"),
            (0, false, true, "HTTP/1.0 200 OK\r\n", "\r\nConnection: close\r\n\r\n"),
        ] {
            let mut out = Vec::new();
            rendered.write_http1(&mut out, b"now", Framing { minor, keep, head_only });
            let text = String::from_utf8(out).unwrap();
            assert!(text.starts_with(start) && text.ends_with(end), "{text:?}");
            assert!(text.contains("\r\nContent-Length: 2\r\n"), "{text:?}");
        }
    }
}
