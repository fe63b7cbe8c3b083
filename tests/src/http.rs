//! A raw HTTP/1.1 client: what it sends and what it counts as an answer is all in sight.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::sys::monotonic_ns;

/// No answer of the agent takes nearly as long; a test that waits longer shall fail, not hang.
const TIMEOUT: Duration = Duration::from_secs(10);

/// One answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// 200, 503, ...
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// As text; an answer that is not UTF-8 fails the test.
    pub body: String,
    /// When its first byte was there, on `CLOCK_MONOTONIC`.
    pub first_byte_ns: u64,
}

impl Answer {
    /// A header's value, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON, which it has to be.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {:?}", self.body))
    }
}

/// A connection that stays open.
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

    /// Asks for a path.
    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.request("GET", path)
    }

    /// Asks with another method.
    pub fn request(&mut self, method: &str, path: &str) -> io::Result<Answer> {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        self.stream.get_mut().write_all(head.as_bytes())?;
        self.answer(method == "HEAD")
    }

    /// Sends bytes as they are, good HTTP or not.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<Answer> {
        self.stream.get_mut().write_all(bytes)?;
        self.answer(false)
    }

    fn answer(&mut self, without_body: bool) -> io::Result<Answer> {
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
        let mut answer = Answer { status, headers, body: String::new(), first_byte_ns };
        let length = answer.header("content-length").and_then(|length| length.parse().ok());
        if !without_body && status != 204 {
            // Every answer of the agent is one piece of known length.
            let length: usize = length.ok_or_else(|| bad("an answer without content-length"))?;
            let mut body = vec![0; length];
            self.stream.read_exact(&mut body)?;
            answer.body = String::from_utf8(body).map_err(|_| bad("a body that is not UTF-8"))?;
        }
        Ok(answer)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}
