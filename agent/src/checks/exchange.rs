//! One GET over HTTP/1.1, on a connection of its own.
//!
//! hyper is not used here: a sample is taken every second and sends a hundred bytes, and to set up hyper's client for
//! that costs more than the rest of it. What an answer means for a check is in `http`.

use std::{io, net::SocketAddr};

use httparse::{EMPTY_HEADER, Status, parse_chunk_size};
use hyper::{StatusCode, Uri};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpStream, lookup_host};

/// A body that is compared is short.
const BODY: usize = 4 * 1024;
/// A head of headers without end is an error.
const HEAD: usize = 16 * 1024;
/// 48 KiB for all of it: answers before the answer, and what is between and behind chunks, have no end of their own.
const ALL: usize = HEAD + 8 * BODY;
/// More than any server sends.
const HEADERS: usize = 100;

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Empty where nobody wants it.
    pub(super) body: Vec<u8>,
}

/// Why nothing did.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
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

/// Asks, and waits for as long as it takes.
pub(super) async fn get(url: &Uri, wants_body: bool) -> Result<Answer, Failure> {
    let host = url.host().unwrap_or_default();
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let authority = url.authority().map_or(host, |authority| authority.as_str());
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: tocsin/{}\r\naccept: */*\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in
        lookup_host((host.trim_matches(['[', ']']), url.port_u16().unwrap_or(80))).await?
    {
        match send(address, request.as_bytes()).await {
            Ok(stream) => return receive(&stream, wants_body).await,
            Err(error) => failure = error,
        }
    }
    Err(failure.into())
}

/// A connection on which that was said. To a server on this host it is, before anything has to be waited for.
async fn send(address: SocketAddr, mut request: &[u8]) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        Err(_) | Ok(()) => {}
    }
    match socket.send(request) {
        Ok(sent) => request = request.get(sent..).unwrap_or_default(),
        // Not connected yet.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(error) => return Err(error),
    }
    let stream = TcpStream::from_std(socket.into())?;
    while !request.is_empty() {
        stream.writable().await?;
        match stream.try_write(request) {
            Ok(sent) => request = request.get(sent..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(stream)
}

async fn receive(stream: &TcpStream, wants_body: bool) -> Result<Answer, Failure> {
    let mut bytes = Vec::new();
    loop {
        stream.readable().await?;
        // A server that sends without end holds up no other probe, nor the end of its own time.
        tokio::task::consume_budget().await;
        bytes.reserve(2048);
        let is_end = match stream.try_read_buf(&mut bytes) {
            Ok(count) => count == 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.into()),
        };
        if let Some(answer) = read(&bytes, is_end, wants_body)? {
            return Ok(answer);
        }
        if is_end {
            return Err(Failure::Closed);
        }
    }
}

/// How the end of a body is found (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunks,
    End,
}

/// The answer, if `bytes` are all of it that anybody wants. Pure.
fn read(bytes: &[u8], is_end: bool, wants_body: bool) -> Result<Option<Answer>, Failure> {
    match whole(bytes, is_end, wants_body)? {
        None if bytes.len() > ALL => Err(Failure::Long),
        answer => Ok(answer),
    }
}

fn whole(bytes: &[u8], is_end: bool, wants_body: bool) -> Result<Option<Answer>, Failure> {
    let mut rest = bytes;
    loop {
        let mut headers = [EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(rest) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) if rest.len() <= HEAD => return Ok(None),
            Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
                return Err(Failure::LongHead);
            }
            Err(error) => return Err(error.into()),
        };
        rest = rest.get(length..).unwrap_or_default();
        let status = StatusCode::from_u16(response.code.unwrap_or_default())
            .map_err(|_| httparse::Error::Status)?;
        // What comes before the answer (RFC 9110, 15.2); nobody asked for another protocol.
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            continue;
        }
        if !wants_body || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED {
            return Ok(Some(Answer { status, body: Vec::new() }));
        }
        let body = match framing(response.headers)? {
            Framing::Length(length) if length > BODY => return Err(Failure::LongBody),
            Framing::Length(length) => rest.get(..length).map(<[u8]>::to_vec),
            Framing::Chunks => chunks(rest)?,
            Framing::End if rest.len() > BODY => return Err(Failure::LongBody),
            Framing::End => is_end.then(|| rest.to_vec()),
        };
        return Ok(body.map(|body| Answer { status, body }));
    }
}

fn framing(headers: &[httparse::Header<'_>]) -> Result<Framing, Failure> {
    let mut framing = Framing::End;
    for header in headers {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            let last = header.value.rsplit(|byte| *byte == b',').next().unwrap_or_default();
            if last.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Ok(Framing::Chunks);
            }
        } else if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).unwrap_or_default().trim();
            let length = text.parse().map_err(|_| Failure::BadLength)?;
            if !matches!(framing, Framing::End) && framing != Framing::Length(length) {
                return Err(Failure::BadLength);
            }
            framing = Framing::Length(length);
        }
    }
    Ok(framing)
}

/// A body in chunks (RFC 9112, 7.1), once the last one is there. What follows it says nothing here.
fn chunks(mut rest: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
    let mut body = Vec::new();
    loop {
        let (head, size) = match parse_chunk_size(rest) {
            Ok(Status::Complete(found)) => found,
            Ok(Status::Partial) => return Ok(None),
            Err(_) => return Err(Failure::BadLength),
        };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if size == 0 {
            return Ok(Some(body));
        }
        if size > BODY - body.len() {
            return Err(Failure::LongBody);
        }
        let Some(chunk) = rest.get(head..head + size) else { return Ok(None) };
        body.extend_from_slice(chunk);
        // The line's end behind it.
        let Some(next) = rest.get(head + size + 2..) else { return Ok(None) };
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(bytes: &[u8], is_end: bool) -> Result<Option<(u16, String)>, String> {
        let answer = read(bytes, is_end, true).map_err(|failure| failure.to_string())?;
        Ok(answer.map(|answer| {
            (answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned())
        }))
    }

    #[test]
    fn answers_of_servers() {
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
                &"HTTP/1.1 100 Continue\r\n\r\n".repeat(ALL / 25 + 1),
                false,
                Err("message is too large"),
            ),
            (&format!("{chunked}1;{}", "x".repeat(ALL)), false, Err("message is too large")),
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
        let answer = read(head, false, false).unwrap().unwrap();
        assert_eq!((answer.status.as_u16(), answer.body.len()), (503, 0));
    }

    proptest! {
        /// However it is cut, and whatever it is: no panic, and a whole answer is not another one with more behind it.
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), start in 0usize..3) {
            let starts: [&[u8]; 3] = [
                b"",
                b"HTTP/1.1 200 OK\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            ];
            let bytes = [starts[start], &bytes].concat();
            for cut in 0..bytes.len() {
                if let Ok(Some(answer)) = read(&bytes[..cut], false, true) {
                    prop_assert_eq!(read(&bytes, false, true).unwrap(), Some(answer));
                }
            }
        }
    }
}
