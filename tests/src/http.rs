//! A raw HTTP/1.1 client: a test sees every byte that it sends, and what it takes for a response.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sys::monotonic_ns;

/// No response of the agent takes nearly as long: a test that waits longer fails instead of hanging.
const TIMEOUT: Duration = Duration::from_secs(10);

/// One response.
#[derive(Clone, Debug)]
pub struct Response {
    /// 200, 503, ...
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// As text; a body that is not UTF-8 is an error.
    pub body: String,
    /// When its first byte arrived, on `CLOCK_MONOTONIC`.
    pub first_byte_ns: u64,
}

impl Response {
    /// A header's value, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as one of the agent's types. Insists on the exact text: every field, in its place, and no other.
    pub fn read<T: DeserializeOwned + Serialize>(&self) -> T {
        let body = &self.body;
        let value: T = serde_json::from_str(body)
            .unwrap_or_else(|error| panic!("not what its type says ({error}): {body}"));
        let again = serde_json::to_string(&value).expect("write JSON");
        assert_eq!(*body, again, "the body has other fields than its type, or in another order");
        value
    }

    /// The body as JSON; fails where it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {:?}", self.body))
    }
}

/// A connection that is kept open.
pub struct Connection {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { address, stream: BufReader::new(stream) })
    }

    /// `GET` of a path.
    pub fn get(&mut self, path: &str) -> io::Result<Response> {
        self.request("GET", path)
    }

    /// A request without a body.
    pub fn request(&mut self, method: &str, path: &str) -> io::Result<Response> {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        self.stream.get_mut().write_all(head.as_bytes())?;
        self.response(method == "HEAD")
    }

    /// A request with these headers besides `Host`.
    pub fn request_with(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<Response> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        }
        head.push_str("\r\n");
        self.stream.get_mut().write_all(head.as_bytes())?;
        self.response(method == "HEAD")
    }

    /// Sends bytes as they are, good HTTP or not.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<Response> {
        self.stream.get_mut().write_all(bytes)?;
        self.response(false)
    }

    fn response(&mut self, without_body: bool) -> io::Result<Response> {
        if self.stream.fill_buf()?.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let first_byte_ns = monotonic_ns();
        let bad = |what: &str| io::Error::new(ErrorKind::InvalidData, what.to_owned());
        let status_line = self.line()?;
        let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| bad(&status_line))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(&line))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut response = Response { status, headers, body: String::new(), first_byte_ns };
        let length = response.header("content-length").and_then(|length| length.parse().ok());
        if !without_body && status != 204 {
            // Every response of the agent has a length.
            let length: usize = length.ok_or_else(|| bad("a response without content-length"))?;
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body)?;
            response.body = String::from_utf8(body).map_err(|_| bad("a body that is not UTF-8"))?;
        }
        Ok(response)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// Connects, for bytes that are no request of a [`Connection`].
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT).expect("connect");
    stream.set_read_timeout(Some(TIMEOUT)).expect("set a time-out");
    stream
}

/// Reads until the other side closes the connection; fails on any other end, also when it stays open.
pub fn read_to_close(mut stream: &TcpStream) -> String {
    let mut text = Vec::new();
    let end = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(end.is_ok(), "{end:?} after {text:?}");
    text
}

/// Sends bytes, and reads until the other side closes the connection.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(address);
    stream.write_all(bytes).expect("send");
    read_to_close(&stream)
}

/// Starts a server on loopback that accepts connections and never answers, until the program ends.
pub fn silent_server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("listen");
    let address = listener.local_addr().expect("an address");
    // Collecting the connections keeps them open.
    thread::spawn(move || listener.incoming().map_while(Result::ok).collect::<Vec<_>>());
    address
}
