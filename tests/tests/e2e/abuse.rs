//! Whatever is done to the health listener, a load balancer's probe is answered, and nothing of it stays.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use e2e::agent::PATIENCE;
use e2e::sandbox::say;
use e2e::{Agent, Sandbox, http2};

/// What a load balancer gives its probes at the very least.
const LIMIT: Duration = Duration::from_millis(100);

/// Asks as a load balancer does, each time on a connection of its own, until told to stop; gives how long each took.
struct Probing {
    stop: Arc<AtomicBool>,
    asking: thread::JoinHandle<Vec<Duration>>,
    /// How late a thread of this process was that only wanted to sleep.
    late: thread::JoinHandle<Duration>,
}

fn probe(to: SocketAddr) -> Result<Duration, std::io::Error> {
    let began = Instant::now();
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"OPTIONS /health HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let took = began.elapsed();
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer:?}");
    assert!(answer.contains(r#"{"status":"ready""#), "{answer:?}");
    Ok(took)
}

impl Probing {
    fn start(to: SocketAddr) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (here, there) = (stop.clone(), stop.clone());
        let asking = thread::spawn(move || {
            let mut took = Vec::new();
            while !here.load(Ordering::Relaxed) {
                took.push(probe(to).unwrap());
                thread::sleep(Duration::from_millis(10));
            }
            took
        });
        let late = thread::spawn(move || {
            const NAP: Duration = Duration::from_millis(1);
            let mut worst = Duration::ZERO;
            while !there.load(Ordering::Relaxed) {
                let began = Instant::now();
                thread::sleep(NAP);
                worst = worst.max(began.elapsed().saturating_sub(NAP));
            }
            worst
        });
        Self { stop, asking, late }
    }

    fn stop(self, what: &str, sandbox: &Sandbox) {
        self.stop.store(true, Ordering::Relaxed);
        let mut took = self.asking.join().unwrap();
        let late = self.late.join().unwrap();
        took.sort();
        let worst = *took.last().unwrap();
        say(&format!(
            "MEASURED {}: {what}: {} probes, median {:?}, slowest {worst:?} (a sleeping thread: {late:?} late)",
            sandbox.name(),
            took.len(),
            took[took.len() / 2],
        ));
        // What this machine withholds from a thread that wants nothing is not the agent's.
        assert!(worst < LIMIT + late, "{what}: {worst:?}");
    }
}

fn files(agent: &Agent) -> usize {
    fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count()
}

/// Runs `abuse` while a load balancer asks, and sees that nothing of it stays.
fn survives(what: &str, abuse: impl FnOnce(&Agent, SocketAddr)) {
    survives_again(what, |_| {}, abuse);
}

/// The same, where more than probes has to be set up once: by `first`.
fn survives_again(
    what: &str,
    first: impl FnOnce(SocketAddr),
    abuse: impl FnOnce(&Agent, SocketAddr),
) {
    let Some(sandbox) = Sandbox::alone() else { return };
    let agent = Agent::start(&sandbox);
    let to = agent.health_address();
    // Once through everything that is only set up at its first use.
    for _ in 0..200 {
        probe(to).unwrap();
    }
    assert_eq!(agent.admin("/metrics").status, 200);
    let open = files(&agent);
    first(to);
    agent.wait_for("the first connections are gone", PATIENCE, |agent| {
        (files(agent) <= open).then_some(())
    });
    let (memory, open) = (agent.resident_kib(), files(&agent));
    let probing = Probing::start(to);
    let began = Instant::now();
    abuse(&agent, to);
    say(&format!("MEASURED {}: {what} took {:?}", sandbox.name(), began.elapsed()));
    let peak = agent.resident_kib();
    probing.stop(what, &sandbox);
    agent.wait_for("the connections are gone", PATIENCE, |agent| {
        (files(agent) <= open).then_some(())
    });
    let began = Instant::now();
    let after = loop {
        let after = agent.resident_kib();
        if after * 5 <= memory * 6 || began.elapsed() > PATIENCE {
            break after;
        }
        thread::sleep(Duration::from_millis(20));
    };
    say(&format!("MEASURED {}: resident KiB {memory}, {peak} and {after}", sandbox.name()));
    assert!(after * 5 <= memory * 6, "{memory} KiB before and {after} after");
    assert!(agent.log().iter().all(|line| !line.contains("panic")), "{:?}", agent.log());
    assert_eq!(agent.health("").status, 200);
}

/// Writes until the agent has had enough.
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
fn slow_clients() {
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
        // Two seconds each, however it drips.
        assert!(replaced >= 1000, "{replaced}");
    });
}

#[test]
fn headers_without_end() {
    survives("100 MB of headers", |_, to| {
        let mut chunk = Vec::new();
        for number in 0..1000 {
            chunk
                .extend_from_slice(format!("X-Header-{number}: {}\r\n", "x".repeat(80)).as_bytes());
        }
        let mut poured = 0;
        while poured < 100_000_000 {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
            poured += pour(&stream, &chunk, 100_000_000).max(8192);
            let mut answer = [0; 64];
            // The answer is there unless the kernel threw it away with what nobody read.
            if let Ok(read @ 1..) = stream.read(&mut answer) {
                assert!(answer[..read].starts_with(b"HTTP/1.1 431 "), "{answer:?}");
            }
        }
    });
}

#[test]
fn garbage() {
    survives("garbage", |_, to| {
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
            let _gone_already = stream.write_all(&bytes);
            if round % 3 == 0 {
                let _gone_already = stream.shutdown(Shutdown::Write);
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
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
        agent.wait_for("the agent closes its half too", PATIENCE, |agent| {
            let metrics = agent.admin("/metrics").body;
            let open =
                metrics.lines().find_map(|line| line.strip_prefix("tocsin_health_connections "));
            open.and_then(|open| open.parse::<u64>().ok()).filter(|open| *open < 10)
        });
    });
}

#[test]
fn a_flood_of_connections() {
    survives("20,000 connections", |agent, to| {
        let flood = move || {
            // So many stay open at once that the limit is passed.
            let mut open = std::collections::VecDeque::new();
            for number in 0..5000 {
                if let Ok(mut stream) = TcpStream::connect_timeout(&to, PATIENCE) {
                    // The kernel keeps those on which nothing is sent; these have to be dealt with.
                    if number % 8 != 0 {
                        let _gone_already = stream.write_all(b"GET /hea");
                    }
                    open.push_back(stream);
                }
                // Some 10,000 a second: as many as can be made would measure how two processors share their time.
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
        let metrics = agent.admin("/metrics").body;
        assert!(!metrics.contains("tocsin_health_connections_evicted_total 0\n"), "{metrics}");
    });
}

#[test]
fn who_keeps_asking_keeps_the_connection() {
    survives("a load balancer's connection among 5,000 others", |_, to| {
        let mut kept = e2e::http::Connection::open(to).unwrap();
        let mut others = std::collections::VecDeque::new();
        for number in 0..5000 {
            let mut other = TcpStream::connect(to).unwrap();
            let _gone_already = other.write_all(b"GET /hea");
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

/// The most that the agent had while something was done to it.
fn peak(agent: &Agent, abuse: impl FnOnce() + Send) -> u64 {
    thread::scope(|scope| {
        let abusing = scope.spawn(abuse);
        let mut most = 0;
        while !abusing.is_finished() {
            most = most.max(agent.resident_kib());
            thread::sleep(Duration::from_millis(2));
        }
        abusing.join().unwrap();
        most
    })
}

/// Waits for the end of a connection on which nothing is taken.
fn wait_for_the_end(stream: &TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let end = (&mut &*stream).read_to_end(&mut Vec::new());
    assert!(!matches!(&end, Err(error) if error.kind() == ErrorKind::WouldBlock), "{end:?}");
}

/// A connection that takes next to nothing.
fn narrow(to: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(2048).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    })
}

#[test]
fn requests_ahead_whose_answers_nobody_takes() {
    fn wave(to: SocketAddr) {
        // As many as are read at once: their answers have ten times their length.
        let requests = "GET /health HTTP/1.1\r\n\r\n".repeat(8 * 1024 / 26);
        let streams: Vec<_> = (0..400)
            .map(|_| {
                let mut stream = narrow(to);
                for _ in 0..8 {
                    // Until the other side has had enough.
                    let _full = stream.write(requests.as_bytes());
                }
                thread::sleep(Duration::from_millis(2));
                stream
            })
            .collect();
        thread::sleep(Duration::from_millis(500));
        drop(streams);
    }
    let first = |to| {
        wave(to);
        // Until what it took is given back.
        thread::sleep(Duration::from_secs(2));
    };
    survives_again("400 connections ask ahead and take no answer", first, |agent, to| {
        let before = agent.resident_kib();
        let most = peak(agent, || wave(to));
        say(&format!("MEASURED: resident KiB {before}, at most {most}"));
        assert!(most < before + 12 * 1024, "{before} KiB before and {most} meanwhile");
    });
}

/// The longest answer that can be had: as many names as there may be, half of characters that JSON writes as two.
fn longest() -> String {
    let names: Vec<_> =
        (0..32).map(|n| format!("{n:02}{}{}", "x".repeat(33), "%22".repeat(28))).collect();
    format!("/health?check={}", names.join(","))
}

#[test]
fn http_2_answers_that_nobody_takes() {
    fn wave(to: SocketAddr) {
        let mut bytes = http2::preface(0);
        for stream in 0..32 {
            bytes.extend(http2::request(2 * stream + 1, "GET", &longest(), &[], true));
        }
        let streams: Vec<_> = (0..200)
            .map(|_| {
                let mut stream = TcpStream::connect(to).unwrap();
                let _gone_already = stream.write_all(&bytes);
                // All at once would measure how fast two processors answer 6,400 long questions.
                thread::sleep(Duration::from_millis(5));
                stream
            })
            .collect();
        streams.iter().for_each(wait_for_the_end);
    }
    let first = |to| {
        wave(to);
        // Until what it took is given back.
        thread::sleep(Duration::from_secs(2));
    };
    survives_again("200 HTTP/2 connections without a window", first, |agent, to| {
        let before = agent.resident_kib();
        let most = peak(agent, || wave(to));
        say(&format!("MEASURED: resident KiB {before}, at most {most}"));
        assert!(most < before + 24 * 1024, "{before} KiB before and {most} meanwhile");
    });
    survives("HTTP/2 connections with one answer each that is not taken", |agent, to| {
        let began = Instant::now();
        for path in ["/health", &longest()] {
            let mut stream = TcpStream::connect(to).unwrap();
            let mut bytes = http2::preface(0);
            bytes.extend(http2::request(1, "GET", path, &[], true));
            stream.write_all(&bytes).unwrap();
            wait_for_the_end(&stream);
        }
        assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
        let metrics = agent.admin("/metrics").body;
        assert!(metrics.contains("tocsin_health_connections_timed_out_total 2\n"), "{metrics}");
    });
}
