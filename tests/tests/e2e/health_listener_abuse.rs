//! Clients that abuse the health listener: a load balancer's probe is answered all the same, and no file and no memory
//! stays in use afterwards.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::TIMEOUT;
use e2e::http::{connect, exchange};
use e2e::http2;

use crate::abuse::{survives, survives_within};

/// Writes `chunk` until `total` bytes are written, or the agent closes; gives how many were.
fn pour(mut stream: &TcpStream, chunk: &[u8], total: usize) -> usize {
    let mut written = 0;
    while written < total {
        match stream.write(chunk) {
            Ok(0) | Err(_) => break,
            Ok(more) => written += more,
        }
    }
    written
}

#[test]
fn connections_that_drip_headers() {
    survives("1,000 connections that drip headers", |_, to| {
        let another = |_| {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n").unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        };
        let mut streams: Vec<_> = (0..1000).map(another).collect();
        let began = Instant::now();
        let mut replaced = 0;
        while began.elapsed() < Duration::from_secs(5) {
            for stream in &mut streams {
                let is_over = match stream.write_all(b"X-a: b\r\n") {
                    Ok(()) => stream.read(&mut [0; 4096]).is_ok(),
                    Err(_) => true,
                };
                if is_over {
                    replaced += 1;
                    *stream = another(0);
                }
            }
            thread::sleep(Duration::from_millis(100));
        }
        // Each has two seconds, also with a byte now and then.
        assert!(replaced >= 1000, "{replaced}");
    });
}

#[test]
fn a_head_without_end() {
    survives("100 MB of headers", |_, to| {
        let mut chunk = Vec::new();
        for number in 0..1000 {
            chunk
                .extend_from_slice(format!("X-Header-{number}: {}\r\n", "x".repeat(80)).as_bytes());
        }
        let mut poured = 0;
        for number in 0.. {
            // A client that sends little more than a head may have gets the response.
            if number % 50 == 0 {
                let response =
                    exchange(to, &[b"GET /health HTTP/1.1\r\n", &chunk[..9000]].concat());
                assert!(response.starts_with("HTTP/1.1 431 "), "{response:?}");
            }
            let mut stream = connect(to);
            stream.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
            poured += pour(&stream, &chunk, 100_000_000).max(8192);
            let mut response = [0; 64];
            match stream.read(&mut response) {
                Ok(read) => {
                    assert!(response[..read].starts_with(b"HTTP/1.1 431 "), "{response:?}");
                }
                // The kernel drops the response of a connection that is closed with unread bytes.
                Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
            }
            if poured >= 100_000_000 {
                break;
            }
        }
    });
}

#[test]
fn random_bytes() {
    survives("random bytes", |_, to| {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for round in 0..2000_u32 {
            let length = usize::try_from(random() % 3000).unwrap();
            let mut bytes: Vec<u8> = (0..length).map(|_| random().to_be_bytes()[0]).collect();
            match round % 4 {
                0 => bytes.splice(0..0, *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").for_each(drop),
                1 => bytes.splice(0..0, *b"GET /health?").for_each(drop),
                2 => bytes.splice(0..0, *b"\x16\x03\x01").for_each(drop),
                _ => {}
            }
            let mut stream = TcpStream::connect(to).unwrap();
            // The agent may have closed already.
            let _result = stream.write_all(&bytes);
            if round % 3 == 0 {
                let _result = stream.shutdown(Shutdown::Write);
                stream.set_read_timeout(Some(TIMEOUT)).unwrap();
                let mut answer = Vec::new();
                match stream.read_to_end(&mut answer) {
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
                }
            }
        }
    });
}

#[test]
fn sockets_that_are_half_closed() {
    survives("2,000 half-closed sockets", |agent, to| {
        let mut streams = Vec::new();
        for number in 0..2000 {
            let mut stream = TcpStream::connect(to).unwrap();
            if number % 2 == 0 {
                stream.write_all(b"GET /health HTTP/1.1\r\n\r\nGET /hea").unwrap();
            }
            stream.shutdown(Shutdown::Write).unwrap();
            streams.push(stream);
        }
        agent.wait_for("the agent closes its half too", TIMEOUT, |agent| {
            agent.metric("tocsin_health_connections").filter(|open| *open < 10.0)
        });
    });
}

#[test]
fn a_flood_of_connections() {
    survives("20,000 connections", |agent, to| {
        let flood = move || {
            // So many are open at once that there are more than the limit.
            let mut open = std::collections::VecDeque::new();
            for number in 0..5000 {
                if let Ok(mut stream) = TcpStream::connect_timeout(&to, TIMEOUT) {
                    // The kernel accepts a connection without data; one with data is passed to the agent.
                    if number % 8 != 0 {
                        let _result = stream.write_all(b"GET /hea");
                    }
                    open.push_back(stream);
                }
                // Some 10,000 a second: without a limit, this would measure how two processors share their time.
                if number % 10 == 0 {
                    thread::sleep(Duration::from_millis(3));
                }
                if open.len() > 400 {
                    open.pop_front();
                }
            }
        };
        let threads: Vec<_> = (0..4).map(|_| thread::spawn(flood)).collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert!(agent.counter("tocsin_health_connections_evicted_total") > 0);
    });
}

#[test]
fn a_connection_in_use_is_kept_when_there_are_too_many() {
    survives("a load balancer's connection among 5,000 others", |_, to| {
        let mut kept = e2e::http::Connection::open(to).unwrap();
        let mut others = std::collections::VecDeque::new();
        for number in 0..5000 {
            let mut other = TcpStream::connect(to).unwrap();
            let _result = other.write_all(b"GET /hea");
            others.push_back(other);
            if others.len() > 2000 {
                others.pop_front();
            }
            if number % 50 == 0 {
                assert_eq!(kept.get("/health").unwrap().status, 200);
            }
        }
    });
}

/// Waits until the agent ends a connection whose client reads nothing.
fn wait_for_the_end(stream: &TcpStream) {
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let end = (&mut &*stream).read_to_end(&mut Vec::new());
    assert!(!matches!(&end, Err(error) if error.kind() == ErrorKind::WouldBlock), "{end:?}");
}

/// A connection with a small receive buffer.
fn with_small_buffer(to: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    })
}

#[test]
fn pipelined_requests_whose_responses_are_not_read() {
    fn wave(to: SocketAddr) {
        // As many as the agent reads at once; the responses are ten times as long.
        let requests = "GET /health HTTP/1.1\r\n\r\n".repeat(8 * 1024 / 26);
        let streams: Vec<_> = (0..400)
            .map(|_| {
                let mut stream = with_small_buffer(to);
                for _ in 0..8 {
                    // The socket may be full.
                    let _result = stream.write(requests.as_bytes());
                }
                thread::sleep(Duration::from_millis(2));
                stream
            })
            .collect();
        thread::sleep(Duration::from_millis(500));
        drop(streams);
    }
    let warm_up = |to| {
        wave(to);
        // Until the agent has given back the memory.
        thread::sleep(Duration::from_secs(2));
    };
    let what = "400 connections with pipelined requests that read nothing";
    survives_within(what, 12 * 1024, warm_up, |_, to| wave(to));
}

/// The path of the longest response: with as many names as there may be, half of whose characters JSON escapes.
fn longest() -> String {
    let names: Vec<_> =
        (0..32).map(|n| format!("{n:02}{}{}", "x".repeat(33), "%22".repeat(28))).collect();
    format!("/health?check={}", names.join(","))
}

#[test]
fn http_2_responses_that_are_not_read() {
    fn wave(to: SocketAddr) {
        let mut bytes = http2::preface(0);
        for stream in 0..32 {
            bytes.extend(http2::request(2 * stream + 1, "GET", &longest(), &[], true));
        }
        let streams: Vec<_> = (0..200)
            .map(|_| {
                let mut stream = TcpStream::connect(to).unwrap();
                // The agent may have closed already.
                let _result = stream.write_all(&bytes);
                // All at once would measure how fast two processors render 6,400 long responses.
                thread::sleep(Duration::from_millis(5));
                stream
            })
            .collect();
        streams.iter().for_each(wait_for_the_end);
    }
    let warm_up = |to| {
        wave(to);
        // Until the agent has given back the memory.
        thread::sleep(Duration::from_secs(2));
    };
    survives_within("200 HTTP/2 connections without a window", 24 * 1024, warm_up, |_, to| {
        wave(to);
    });
    survives("HTTP/2 connections with one response each that is not read", |agent, to| {
        let began = Instant::now();
        for path in ["/health", &longest()] {
            let mut stream = TcpStream::connect(to).unwrap();
            let mut bytes = http2::preface(0);
            bytes.extend(http2::request(1, "GET", path, &[], true));
            stream.write_all(&bytes).unwrap();
            wait_for_the_end(&stream);
        }
        assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
        assert_eq!(agent.counter("tocsin_health_connections_timed_out_total"), 2);
    });
}

/// Reads frames until one of type GOAWAY, or the end of the connection; gives the error code, if there was one.
fn goaway(mut stream: &TcpStream) -> Option<u32> {
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    let (mut bytes, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let mut rest = &bytes[..];
        while let Some((kind, _, payload, more)) = http2::next(rest) {
            if kind == http2::GOAWAY {
                return Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
            rest = more;
        }
        let read = bytes.len() - rest.len();
        bytes.drain(..read);
        match stream.read(&mut chunk) {
            Ok(0) => return None,
            Ok(more) => bytes.extend(&chunk[..more]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "not ended: {error}");
                return None;
            }
        }
    }
}

/// CVE-2023-44487: each stream is opened and reset at once, so a limit of open streams alone never holds.
#[test]
fn streams_that_are_reset_at_once() {
    survives("20 connections that reset 100,000 streams each", |_, to| {
        let floods: Vec<_> = (0..20)
            .map(|_| {
                thread::spawn(move || {
                    let mut stream = TcpStream::connect(to).unwrap();
                    let mut reset = 0;
                    let mut bytes = http2::preface(65_535);
                    while reset < 100_000 {
                        for _ in 0..1000 {
                            let number = 2 * reset + 1;
                            bytes.extend(http2::request(number, "GET", "/health", &[], true));
                            bytes.extend(http2::reset(number));
                            reset += 1;
                        }
                        if stream.write_all(&bytes).is_err() {
                            break;
                        }
                        bytes.clear();
                    }
                    (reset, goaway(&stream))
                })
            })
            .collect();
        for flood in floods {
            let (reset, code) = flood.join().unwrap();
            // ENHANCE_YOUR_CALM (RFC 9113, 7), or the end of a connection whose GOAWAY was lost.
            assert!(code.is_none_or(|code| code == 11), "{code:?}");
            assert!(reset < 100_000, "all were taken");
        }
    });
}

/// CVE-2024-27316: a header block that never ends, in CONTINUATION frames.
#[test]
fn a_header_block_without_end() {
    survives("20 connections with 64 MB of CONTINUATION frames", |_, to| {
        let floods: Vec<_> = (0..20)
            .map(|_| {
                thread::spawn(move || {
                    let mut stream = TcpStream::connect(to).unwrap();
                    stream.write_all(&http2::preface(65_535)).unwrap();
                    stream.write_all(&http2::unfinished_request(1, "/health")).unwrap();
                    let field = http2::field("x", &"y".repeat(1000));
                    let chunk = http2::continuation(1, &field).repeat(64);
                    pour(&stream, &chunk, 64_000_000)
                })
            })
            .collect();
        for flood in floods {
            let poured = flood.join().unwrap();
            assert!(poured < 8_000_000, "{poured} bytes were taken");
        }
    });
}
