//! Parser for HTTP/1 requests: bytes in, request out. Pure.
//!
//! It is strict where that matters and lenient where devices need it: `Host` is optional, a line may end without `\r`, a
//! target may be absolute, and a request line without a version is HTTP/0.9, which some devices send by default.

use std::mem::MaybeUninit;

use httparse::{Error, Header, Status};
use hyper::StatusCode;

use super::format::Format;
use crate::serve::settings;

/// An HTTP/1 request, as far as the health listener needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'b> {
    /// The method, such as `GET`.
    pub method: &'b str,
    /// Path and query.
    pub target: &'b str,
    /// The minor version: 1 for HTTP/1.1, 0 for HTTP/1.0 and HTTP/0.9.
    pub minor: u8,
    /// Whether the client lets the connection stay open.
    pub keep: bool,
    /// Whether a body follows. It is never read.
    pub body: bool,
    /// The form of the response's body.
    pub format: Format,
    /// Bytes of the request line and the headers.
    pub len: usize,
}

impl Request<'_> {
    /// Whether the response has no body because the method is HEAD.
    #[must_use]
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }
}

/// What the bytes at the start of a buffer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'b> {
    /// A complete request.
    Whole(Request<'b>),
    /// The beginning of a request, or nothing yet.
    Partial,
    /// The preface of HTTP/2 with prior knowledge.
    Http2,
    /// No request that can be answered: the response has this status, and the connection ends.
    Refused(StatusCode),
}

/// The preface of an HTTP/2 connection (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// 100 headers: more than any load balancer or browser sends.
const HEADERS: usize = 100;

/// Parses the request at the start of `bytes`.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    if bytes.starts_with(b"PRI ") || (b"PRI ".starts_with(bytes) && !bytes.is_empty()) {
        return parse_preface(bytes);
    }
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let result = request.parse_with_uninit_headers(bytes, &mut headers);
    // A header beyond the limit is refused whether it is complete or not.
    let end = if let Ok(Status::Complete(len)) = result { len } else { bytes.len() };
    if end > settings::HEADER_BYTES {
        return Parsed::Refused(too_long(bytes));
    }
    let len = match result {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) => return Parsed::Partial,
        Err(Error::TooManyHeaders) => {
            return Parsed::Refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
        Err(error) => {
            return parse_simple(bytes).unwrap_or_else(|| Parsed::Refused(refusal(error, bytes)));
        }
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Parsed::Refused(StatusCode::BAD_REQUEST);
    };
    let Fields { close, keep_alive, body, format } = Fields::read(request.headers);
    let keep = !close && !body && (minor == 1 || keep_alive);
    let target = origin_form(target);
    Parsed::Whole(Request { method, target, minor, keep, body, format, len })
}

fn parse_preface(bytes: &[u8]) -> Parsed<'static> {
    if bytes.starts_with(PREFACE) {
        Parsed::Http2
    } else if PREFACE.starts_with(bytes) {
        Parsed::Partial
    } else {
        Parsed::Refused(StatusCode::BAD_REQUEST)
    }
}

/// The headers that matter.
struct Fields {
    /// `Connection: close`
    close: bool,
    /// `Connection: keep-alive`
    keep_alive: bool,
    /// Whether a body follows.
    body: bool,
    /// What `Accept` asks for.
    format: Format,
}

impl Fields {
    fn read(headers: &[Header<'_>]) -> Self {
        let mut fields =
            Self { close: false, keep_alive: false, body: false, format: Format::Json };
        let mut has_accept = false;
        for Header { name, value } in headers {
            if name.eq_ignore_ascii_case("connection") {
                for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    fields.close |= token.eq_ignore_ascii_case(b"close");
                    fields.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            } else if name.eq_ignore_ascii_case("content-length") {
                fields.body |= value.trim_ascii() != b"0";
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                fields.body = true;
            } else if name.eq_ignore_ascii_case("accept") {
                has_accept = true;
            }
        }
        if has_accept {
            let accepts =
                headers.iter().filter(|header| header.name.eq_ignore_ascii_case("accept"));
            fields.format = Format::accepted(accepts.map(|header| header.value));
        }
        fields
    }
}

/// 414 where the request line alone is too long, else 431.
fn too_long(bytes: &[u8]) -> StatusCode {
    if bytes[..settings::HEADER_BYTES].contains(&b'\n') {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    } else {
        StatusCode::URI_TOO_LONG
    }
}

/// 505 for a request line with another version of HTTP, else 400.
fn refusal(error: Error, bytes: &[u8]) -> StatusCode {
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if error == Error::Version && first.windows(6).any(|part| part == b" HTTP/") {
        StatusCode::HTTP_VERSION_NOT_SUPPORTED
    } else {
        StatusCode::BAD_REQUEST
    }
}

/// Parses an HTTP/0.9 request, `GET /health` alone on its line; `None` where the bytes are not the beginning of one.
fn parse_simple(bytes: &[u8]) -> Option<Parsed<'_>> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let line = std::str::from_utf8(&bytes[..end.unwrap_or(bytes.len())]).ok()?;
    let target = line.strip_suffix('\r').unwrap_or(line).strip_prefix("GET ")?;
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let Some(end) = end else { return Some(Parsed::Partial) };
    Some(Parsed::Whole(Request {
        method: "GET",
        target,
        minor: 0,
        keep: false,
        body: false,
        format: Format::Json,
        len: end + 1,
    }))
}

/// Path and query of a target in absolute form, as a proxy may write it (RFC 9112, 3.2.2): the path may be empty.
fn origin_form(target: &str) -> &str {
    let Some((scheme, rest)) = target.split_once("://") else { return target };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return target;
    }
    rest.find(['/', '?']).map_or("", |path| &rest[path..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &str) -> Request<'_> {
        match parse(bytes.as_bytes()) {
            Parsed::Whole(request) => request,
            other => panic!("{bytes:?}: {other:?}"),
        }
    }

    #[test]
    fn requests_of_load_balancers_are_parsed() {
        // (request, method, target, minor, keep, body)
        for (bytes, method, target, minor, keep, body) in [
            ("OPTIONS / HTTP/1.0\r\n\r\n", "OPTIONS", "/", 0, false, false),
            ("HEAD /health HTTP/1.0\r\n\r\n", "HEAD", "/health", 0, false, false),
            ("GET /health HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "/health", 1, true, false),
            ("GET /health HTTP/1.1\r\n\r\n", "GET", "/health", 1, true, false),
            ("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", "GET", "/", 1, false, false),
            ("GET / HTTP/1.1\r\nconnection: x, close\r\n\r\n", "GET", "/", 1, false, false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "GET", "/", 0, true, false),
            ("POST /x HTTP/1.1\r\nContent-Length: 3\r\n\r\n", "POST", "/x", 1, false, true),
            ("POST /x HTTP/1.1\r\nContent-Length: 0\r\n\r\n", "POST", "/x", 1, true, false),
            ("PUT /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "PUT", "/x", 1, false, true),
            ("GET http://lb:1/health?x HTTP/1.1\r\n\r\n", "GET", "/health?x", 1, true, false),
            ("GET http://lb HTTP/1.1\r\n\r\n", "GET", "", 1, true, false),
            ("GET HTTPS://lb?a=/ HTTP/1.1\r\n\r\n", "GET", "?a=/", 1, true, false),
            ("GET /a?b=http://c/d HTTP/1.1\r\n\r\n", "GET", "/a?b=http://c/d", 1, true, false),
            ("OPTIONS * HTTP/1.1\r\n\r\n", "OPTIONS", "*", 1, true, false),
            ("GET /health\r\n", "GET", "/health", 0, false, false),
            ("GET /health\n", "GET", "/health", 0, false, false),
            ("GET /health HTTP/1.0\n\n", "GET", "/health", 0, false, false),
            ("\r\nGET / HTTP/1.1\r\n\r\n", "GET", "/", 1, true, false),
        ] {
            let found = whole(bytes);
            let fields = (found.method, found.target, found.minor, found.keep, found.body);
            assert_eq!(fields, (method, target, minor, keep, body), "{bytes:?}");
            assert_eq!(found.len, bytes.len());
        }
        for (accept, format) in [
            ("Accept: */*\r\naccept: application/health+json", Format::HealthJson),
            ("Accept: application/json", Format::Json),
            ("X-Accept: application/health+json", Format::Json),
        ] {
            let request = format!("GET / HTTP/1.1\r\n{accept}\r\n\r\n");
            assert_eq!(whole(&request).format, format, "{accept}");
        }
        let two = "GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
        assert_eq!(whole(two).target, "/a");
        assert_eq!(whole(&two[whole(two).len..]).target, "/b");
    }

    #[test]
    fn anything_else_is_partial_or_refused() {
        let long_line = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(9000));
        let long_header = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(9000));
        let endless = format!("GET / HTTP/1.1\r\na: {}", "x".repeat(9000));
        let fits = format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(8000));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(200));
        // (bytes, status; 0 for partial, 1 for whole, 2 for HTTP/2)
        for (bytes, status) in [
            ("", 0),
            ("G", 0),
            ("GET /health HTTP/1.1\r\nHo", 0),
            ("GET /health\r", 0),
            ("P", 0),
            ("PRI * HTTP/2.0\r\n", 0),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", 2),
            ("PRI * HTTP/2.0\r\n\r\nXX", 400),
            ("POST / HTTP/1.1\r\n\r\n", 1),
            ("GET / HTTP/2.0\r\n\r\n", 505),
            ("GET / HTTP/9\r\n\r\n", 505),
            ("GET / FTP/1.1\r\n\r\n", 400),
            ("GET\r\n\r\n", 400),
            ("POST /x\r\n", 400),
            ("GET x\r\n", 400),
            ("\x16\x03\x01\x02", 400),
            ("SSH-2.0-x\r\n", 400),
            ("GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\na: b\0\r\n\r\n", 400),
            (&long_line, 414),
            (&long_header, 431),
            (&endless, 431),
            (&many, 431),
            (&fits, 1),
        ] {
            let found = match parse(bytes.as_bytes()) {
                Parsed::Partial => 0,
                Parsed::Whole(_) => 1,
                Parsed::Http2 => 2,
                Parsed::Refused(status) => status.as_u16(),
            };
            assert_eq!(found, status, "{:?}", &bytes[..bytes.len().min(60)]);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Parsed::Whole(request) = parse(&bytes) {
                prop_assert!(request.len > 0 && request.len <= bytes.len());
            }
        }

        /// Every prefix of a request is partial.
        #[test]
        fn a_beginning_is_partial(path in "/[a-z?=&,_]{0,40}", cut in 0usize..60) {
            let bytes = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let cut = cut.min(bytes.len() - 1);
            prop_assert_eq!(parse(&bytes.as_bytes()[..cut]), Parsed::Partial);
        }
    }
}
