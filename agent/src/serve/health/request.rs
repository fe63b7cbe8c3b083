//! Bytes -> request. Pure.
//!
//! Strict where it matters, lenient where devices are: `Host` is not asked for, a line may end without `\r`, a target
//! may be absolute, and a request line without a version is one of HTTP/0.9, which some devices send by default.

use httparse::{EMPTY_HEADER, Error, Status};
use hyper::StatusCode;

use crate::serve::settings;

/// How an answer to `/health` is to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// The reference's JSON.
    #[default]
    Json,
    /// `application/health+json`
    HealthJson,
}

impl Format {
    /// What all `Accept` headers of a request ask for (RFC 9110, 12.5.1): `application/health+json` where it is named,
    /// unless JSON alone is named and liked better. Who names neither takes what there is.
    #[must_use]
    pub fn accepted<'v>(headers: impl IntoIterator<Item = &'v [u8]>) -> Self {
        let (mut health, mut json) = (0, 0);
        for range in headers.into_iter().flat_map(|value| value.split(|byte| *byte == b',')) {
            let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let liked = if name.eq_ignore_ascii_case(b"application/health+json") {
                &mut health
            } else if name.eq_ignore_ascii_case(b"application/json") {
                &mut json
            } else {
                continue;
            };
            *liked = parts.find_map(weight).unwrap_or(1000).max(*liked);
        }
        if health > 0 && health >= json { Self::HealthJson } else { Self::Json }
    }
}

/// `q=0.5` in thousandths (RFC 9110, 12.4.2); what is none of that has no say.
fn weight(parameter: &[u8]) -> Option<u16> {
    let (b'q' | b'Q', value) = parameter.split_first()? else { return None };
    let value = std::str::from_utf8(value.trim_ascii().strip_prefix(b"=")?.trim_ascii()).ok()?;
    let (whole, rest) = value.split_once('.').unwrap_or((value, ""));
    if rest.len() > 3 || !rest.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{rest:0<3}").parse::<u16>().ok()?;
    Some((whole.parse::<u16>().ok()?.checked_mul(1000)? + thousandths).min(1000))
}

/// What a request says, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'b> {
    /// `GET`
    pub method: &'b str,
    /// Path and query.
    pub target: &'b str,
    /// 1 of HTTP/1.1. HTTP/0.9 counts as HTTP/1.0.
    pub minor: u8,
    /// Whether the connection goes on after it.
    pub keep: bool,
    /// Whether a body follows, which nobody reads.
    pub body: bool,
    /// Of the answer.
    pub format: Format,
    /// Bytes that it took.
    pub len: usize,
}

/// What bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'b> {
    /// A whole request.
    Whole(Request<'b>),
    /// The beginning of something.
    Partial,
    /// The first bytes of HTTP/2 with prior knowledge.
    Http2,
    /// Nothing that can be answered but with this, and the connection's end.
    Refused(StatusCode),
}

/// How HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// More headers than any load balancer or browser sends.
const HEADERS: usize = 100;

/// Reads what is at the start of `bytes`.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    if bytes.starts_with(b"PRI ") || (b"PRI ".starts_with(bytes) && !bytes.is_empty()) {
        return if bytes.starts_with(PREFACE) {
            Parsed::Http2
        } else if PREFACE.starts_with(bytes) {
            Parsed::Partial
        } else {
            Parsed::Refused(StatusCode::BAD_REQUEST)
        };
    }
    let mut headers = [EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let result = request.parse(bytes);
    // Whole or not: a header beyond the limit is beyond the limit.
    let end = if let Ok(Status::Complete(len)) = result { len } else { bytes.len() };
    if end > settings::HEADER_BYTES {
        let in_first_line = !bytes[..settings::HEADER_BYTES].contains(&b'\n');
        let status = if in_first_line {
            StatusCode::URI_TOO_LONG
        } else {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        };
        return Parsed::Refused(status);
    }
    let len = match result {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) => return Parsed::Partial,
        Err(Error::TooManyHeaders) => {
            return Parsed::Refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
        Err(error) => {
            return simple(bytes).unwrap_or_else(|| Parsed::Refused(refusal(error, bytes)));
        }
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Parsed::Refused(StatusCode::BAD_REQUEST);
    };
    let (mut close, mut keep_alive, mut body) = (false, false, false);
    let mut accepts = false;
    for header in &*request.headers {
        if header.name.eq_ignore_ascii_case("connection") {
            for token in header.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                close |= token.eq_ignore_ascii_case(b"close");
                keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
            }
        } else if header.name.eq_ignore_ascii_case("content-length") {
            body |= header.value.trim_ascii() != b"0";
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            body = true;
        } else if header.name.eq_ignore_ascii_case("accept") {
            accepts = true;
        }
    }
    let keep = !close && !body && (minor == 1 || keep_alive);
    let format = if accepts {
        let headers = request.headers.iter();
        let accepts = headers.filter(|header| header.name.eq_ignore_ascii_case("accept"));
        Format::accepted(accepts.map(|header| header.value))
    } else {
        Format::Json
    };
    let target = origin_form(target);
    Parsed::Whole(Request { method, target, minor, keep, body, format, len })
}

fn refusal(error: Error, bytes: &[u8]) -> StatusCode {
    let first = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    if error == Error::Version && first.windows(6).any(|part| part == b" HTTP/") {
        StatusCode::HTTP_VERSION_NOT_SUPPORTED
    } else {
        StatusCode::BAD_REQUEST
    }
}

/// `GET /health` alone on its line, or as much of that as there is.
fn simple(bytes: &[u8]) -> Option<Parsed<'_>> {
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

/// Path and query of a target that names the server too, as a proxy may write it (RFC 9112, 3.2.2): the path may be
/// empty.
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
    fn what_load_balancers_send() {
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
            ("Accept: text/html, Application/Health+JSON;q=1", Format::HealthJson),
            ("Accept: application/health+json\r\naccept: */*", Format::HealthJson),
            ("accept: */*\r\nAccept: application/health+json", Format::HealthJson),
            ("Accept: application/health+json, application/json", Format::HealthJson),
            ("Accept: application/health+json;q=0.5, application/json;q=0.49", Format::HealthJson),
            ("Accept: application/health+json;q=0.5, application/json", Format::Json),
            ("Accept: application/health+json;v=1; q=0", Format::Json),
            ("Accept: application/health+json;q=0.000", Format::Json),
            ("Accept: application/health+jsonx", Format::Json),
            ("Accept: application/json", Format::Json),
            ("Accept: */*", Format::Json),
            ("X-Accept: application/health+json", Format::Json),
        ] {
            let request = format!("GET / HTTP/1.1\r\n{accept}\r\n\r\n");
            assert_eq!(whole(&request).format, format, "{accept}");
        }
        for (parameter, thousandths) in [
            ("q=1", Some(1000)),
            ("Q = 0.25", Some(250)),
            ("q=7", Some(1000)),
            ("q=0.", Some(0)),
            ("q=99999", None),
            ("q=0.1234", None),
            ("q=x", None),
            ("q", None),
            ("", None),
            ("qq=0", None),
        ] {
            assert_eq!(weight(parameter.as_bytes()), thousandths, "{parameter:?}");
        }
        let two = "GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
        assert_eq!(whole(two).target, "/a");
        assert_eq!(whole(&two[whole(two).len..]).target, "/b");
    }

    #[test]
    fn the_rest() {
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
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Parsed::Whole(request) = parse(&bytes) {
                prop_assert!(request.len > 0 && request.len <= bytes.len());
            }
        }

        /// However a request is cut into pieces, its beginning is nothing else than a beginning.
        #[test]
        fn a_beginning_is_partial(path in "/[a-z?=&,_]{0,40}", cut in 0usize..60) {
            let bytes = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let cut = cut.min(bytes.len() - 1);
            prop_assert_eq!(parse(&bytes.as_bytes()[..cut]), Parsed::Partial);
        }
    }
}
