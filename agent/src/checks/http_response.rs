//! Parses the response to a GET over HTTP/1.1: pure.

use std::io;

use httparse::{EMPTY_HEADER, Status, parse_chunk_size};
use hyper::StatusCode;

/// 4 KiB for a body: the bodies that a check compares are short.
const BODY: usize = 4 * 1024;
/// 16 KiB for a status line with its headers.
const HEAD: usize = 16 * 1024;
/// 48 KiB for the whole message: interim responses and the extensions of chunks have no limit of their own.
const MESSAGE: usize = HEAD + 8 * BODY;
/// 100 headers are more than any server sends.
const HEADERS: usize = 100;

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HttpResponse {
    pub(super) status: StatusCode,
    /// Empty where it was not wanted.
    pub(super) body: Vec<u8>,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum HttpError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    NotHttp(#[from] httparse::Error),
    #[error("message head is too large")]
    LongHead,
    #[error("message body is too large")]
    LongBody,
    #[error("message is too large")]
    Long,
    #[error("its length cannot be read")]
    BadLength,
    #[error("connection closed before message completed")]
    Closed,
}

/// How a body ends (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// After this many bytes.
    Length(usize),
    /// With the last chunk.
    Chunks,
    /// With the connection.
    Connection,
}

/// The response, if `bytes` hold all of it that is wanted. `is_end` says that no more bytes will come.
pub(super) fn parse(
    bytes: &[u8],
    is_end: bool,
    wants_body: bool,
) -> Result<Option<HttpResponse>, HttpError> {
    match parse_complete(bytes, is_end, wants_body)? {
        None if bytes.len() > MESSAGE => Err(HttpError::Long),
        answer => Ok(answer),
    }
}

fn parse_complete(
    bytes: &[u8],
    is_end: bool,
    wants_body: bool,
) -> Result<Option<HttpResponse>, HttpError> {
    let mut rest = bytes;
    loop {
        let mut headers = [EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(rest) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) if rest.len() <= HEAD => return Ok(None),
            Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(HttpError::LongHead);
            }
            Err(error) => return Err(error.into()),
        };
        rest = rest.get(length..).unwrap_or_default();
        let status = StatusCode::from_u16(response.code.unwrap_or_default())
            .map_err(|_| httparse::Error::Status)?;
        // An interim response (RFC 9110, 15.2). Another protocol was not asked for, so 101 is final.
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            continue;
        }
        if !wants_body || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
            return Ok(Some(HttpResponse { status, body: Vec::new() }));
        }
        let body = match framing(response.headers)? {
            Framing::Length(length) if length > BODY => return Err(HttpError::LongBody),
            Framing::Length(length) => rest.get(..length).map(<[u8]>::to_vec),
            Framing::Chunks => chunks(rest)?,
            Framing::Connection if rest.len() > BODY => return Err(HttpError::LongBody),
            Framing::Connection => is_end.then(|| rest.to_vec()),
        };
        return Ok(body.map(|body| HttpResponse { status, body }));
    }
}

fn framing(headers: &[httparse::Header<'_>]) -> Result<Framing, HttpError> {
    let mut framing = Framing::Connection;
    for header in headers {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            let last = header.value.rsplit(|byte| *byte == b',').next().unwrap_or_default();
            if last.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Ok(Framing::Chunks);
            }
        } else if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).unwrap_or_default().trim();
            let length = text.parse().map_err(|_| HttpError::BadLength)?;
            if !matches!(framing, Framing::Connection) && framing != Framing::Length(length) {
                return Err(HttpError::BadLength);
            }
            framing = Framing::Length(length);
        }
    }
    Ok(framing)
}

/// The body from its chunks (RFC 9112, 7.1), once the last one is there. Trailers are ignored.
fn chunks(mut rest: &[u8]) -> Result<Option<Vec<u8>>, HttpError> {
    let mut body = Vec::new();
    loop {
        let (head, size) = match parse_chunk_size(rest) {
            Ok(Status::Complete(found)) => found,
            Ok(Status::Partial) => return Ok(None),
            Err(_) => return Err(HttpError::BadLength),
        };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size == 0 {
            return Ok(Some(body));
        }
        if size > BODY - body.len() {
            return Err(HttpError::LongBody);
        }
        let Some(chunk) = rest.get(head..head + size) else { return Ok(None) };
        body.extend_from_slice(chunk);
        // Skips the end of the line after the chunk.
        let Some(next) = rest.get(head + size + 2..) else { return Ok(None) };
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(bytes: &[u8], is_end: bool) -> Result<Option<(u16, String)>, String> {
        let response = parse(bytes, is_end, true).map_err(|error| error.to_string())?;
        Ok(response.map(|response| {
            (response.status.as_u16(), String::from_utf8_lossy(&response.body).into_owned())
        }))
    }

    #[test]
    fn responses_end_where_their_framing_says() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n";
        let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(BODY + 1));
        // (bytes, closed, status and body)
        for (bytes, is_end, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false, Ok(Some((200, "ok")))),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokmore", false, Ok(Some((200, "ok")))),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no", false, Ok(None)),
            ("HTTP/1.0 500 \r\n\r\nno", true, Ok(Some((500, "no")))),
            ("HTTP/1.0 200 OK\r\n\r\nok", false, Ok(None)),
            ("HTTP/1.1 204 No Content\r\n\r\n", false, Ok(Some((204, "")))),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 X\r\n\r\n", false, Ok(Some((204, "")))),
            ("HTTP/1.1 100 Continue\r\n\r\n", false, Ok(None)),
            (&format!("{chunked}1;x=y\r\no\r\n1\r\nk\r\n0\r\n"), false, Ok(Some((200, "ok")))),
            (&format!("{chunked}1\r\no\r\n"), false, Ok(None)),
            (&format!("{chunked}2\r\nok"), false, Ok(None)),
            (&format!("{chunked}x\r\n"), false, Err("its length cannot be read")),
            (&format!("{chunked}ffffffff\r\n"), false, Err("message body is too large")),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n",
                false,
                Err("message body is too large"),
            ),
            (&long, false, Err("message body is too large")),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
                false,
                Err("its length cannot be read"),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                false,
                Err("its length cannot be read"),
            ),
            ("HTTP/2 200\r\n\r\n", false, Err("invalid HTTP version")),
            ("SSH-2.0-x\r\n", false, Err("invalid HTTP version")),
            ("", false, Ok(None)),
            (
                &format!("HTTP/1.1 200 OK\r\n{}", "a: b\r\n".repeat(101)),
                false,
                Err("message head is too large"),
            ),
            (
                &format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(HEAD)),
                false,
                Err("message head is too large"),
            ),
            (
                &"HTTP/1.1 100 Continue\r\n\r\n".repeat(MESSAGE / 25 + 1),
                false,
                Err("message is too large"),
            ),
            (&format!("{chunked}1;{}", "x".repeat(MESSAGE)), false, Err("message is too large")),
        ] {
            let expected =
                expected.map(|found| found.map(|(status, body)| (status, body.to_owned())));
            assert_eq!(
                body(bytes.as_bytes(), is_end),
                expected.map_err(str::to_owned),
                "{bytes:.60}"
            );
        }
        let head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5000000\r\n\r\n";
        let response = parse(head, false, false).unwrap().unwrap();
        assert_eq!((response.status.as_u16(), response.body.len()), (503, 0));
    }

    proptest! {
        /// No bytes make it panic, and a complete response stays the same when more bytes follow.
        #[test]
        fn any_bytes_are_parsed(bytes in proptest::collection::vec(any::<u8>(), 0..200), start in 0usize..3) {
            let starts: [&[u8]; 3] = [
                b"",
                b"HTTP/1.1 200 OK\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            ];
            let bytes = [starts[start], &bytes].concat();
            for cut in 0..bytes.len() {
                if let Ok(Some(response)) = parse(&bytes[..cut], false, true) {
                    prop_assert_eq!(parse(&bytes, false, true).unwrap(), Some(response));
                }
            }
        }
    }
}
