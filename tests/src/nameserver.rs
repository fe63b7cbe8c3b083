//! A fake nameserver, which answers or misbehaves.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::netns::NetNs;
use crate::sync::lock;

/// How often its threads check whether they are to end.
const PAUSE: Duration = Duration::from_millis(20);

/// What it does with a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers with one record.
    Answers,
    /// Answers without a record.
    AnswersNothing,
    /// Answers NXDOMAIN.
    NxDomain,
    /// Sends nothing; over TCP the connection stays open.
    Drops,
    /// Drops the first query, and answers the second one.
    DropsOne,
    /// Over UDP a truncated answer, over TCP all of it.
    Truncates,
    /// Over UDP a truncated answer, over TCP nothing.
    TruncatesAndHangs,
    /// Over UDP a truncated answer; a TCP connection is closed halfway through the answer.
    TruncatesAndCloses,
    /// Answers SERVFAIL.
    ServFail,
    /// Answers REFUSED.
    Refused,
    /// Sends bytes that are no DNS message.
    Garbage,
    /// Answers with the id of another query.
    WrongId,
    /// Answers with the right id to another query.
    WrongQuestion,
    /// Sends three wrong answers and then the right one, as when an attacker is faster.
    ForgedFirst,
}

#[derive(Debug)]
struct Shared {
    behaviour: Mutex<Behaviour>,
    /// The names of the queries, and whether each came over TCP.
    queries: Mutex<Vec<(String, bool)>>,
    done: AtomicBool,
}

/// A nameserver on port 53 over UDP and TCP; it ends on drop.
#[derive(Debug)]
pub struct Nameserver {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Nameserver {
    /// Starts one at an address of a namespace.
    pub fn new(namespace: &NetNs, address: &str, behaviour: Behaviour) -> Self {
        let address: IpAddr = address.parse().expect("an address");
        let bind = || {
            Ok::<_, io::Error>((UdpSocket::bind((address, 53))?, TcpListener::bind((address, 53))?))
        };
        let (udp, tcp) = namespace.run(bind).expect("listen on port 53");
        udp.set_read_timeout(Some(PAUSE)).expect("a time-out");
        tcp.set_nonblocking(true).expect("a listener that behaviour not block");
        let shared = Arc::new(Shared {
            behaviour: Mutex::new(behaviour),
            queries: Mutex::default(),
            done: AtomicBool::default(),
        });
        let (over_udp, over_tcp) = (shared.clone(), shared.clone());
        let threads = vec![
            thread::spawn(move || over_udp.udp(&udp)),
            thread::spawn(move || over_tcp.tcp(&tcp)),
        ];
        Self { shared, threads }
    }

    /// Changes what it does from now on.
    pub fn set(&self, behaviour: Behaviour) {
        *lock(&self.shared.behaviour) = behaviour;
    }

    /// The names of the queries since the last call, and whether each came over TCP.
    pub fn take_queries(&self) -> Vec<(String, bool)> {
        std::mem::take(&mut *lock(&self.shared.queries))
    }
}

impl Drop for Nameserver {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _panicked = thread.join();
        }
    }
}

impl Shared {
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    fn note(&self, query: &[u8], over_tcp: bool) -> Behaviour {
        let name = name_of(query);
        lock(&self.queries).push((name, over_tcp));
        *lock(&self.behaviour)
    }

    fn udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 512];
        let mut dropped = false;
        while !self.is_done() {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            let query = &buffer[..length];
            let behaviour = self.note(query, false);
            let drops =
                behaviour == Behaviour::Drops || (behaviour == Behaviour::DropsOne && !dropped);
            dropped = drops && behaviour == Behaviour::DropsOne;
            if drops {
                continue;
            }
            for message in messages(query, behaviour, false) {
                let _gone = socket.send_to(&message, from);
            }
        }
    }

    fn tcp(&self, listener: &TcpListener) {
        while !self.is_done() {
            match listener.accept() {
                Ok((stream, _)) => {
                    let _client_gone = self.serve_connection(stream);
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    fn serve_connection(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut query)?;
        match self.note(&query, true) {
            Behaviour::Drops | Behaviour::TruncatesAndHangs => {
                stream.set_read_timeout(Some(PAUSE))?;
                // Until the client closes.
                while !self.is_done() {
                    match stream.read(&mut length) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        _ => break,
                    }
                }
            }
            Behaviour::TruncatesAndCloses => {
                stream.write_all(&[0, 50, query[0], query[1], 0x81])?;
            }
            behaviour => {
                for message in messages(&query, behaviour, true) {
                    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
                    stream.write_all(&length.to_be_bytes())?;
                    stream.write_all(&message)?;
                }
            }
        }
        Ok(())
    }
}

/// The name in a query: `a.b.`.
fn name_of(query: &[u8]) -> String {
    let mut name = String::new();
    let mut rest = query.get(12..).unwrap_or_default();
    while let Some((&length, after)) = rest.split_first().filter(|(length, _)| **length != 0) {
        let (label, after) = after.split_at(usize::from(length).min(after.len()));
        name.push_str(&String::from_utf8_lossy(label));
        name.push('.');
        rest = after;
    }
    if name.is_empty() { ".".to_owned() } else { name }
}

fn messages(query: &[u8], behaviour: Behaviour, over_tcp: bool) -> Vec<Vec<u8>> {
    // A response, with recursion desired and available.
    let answer = |code: u8, truncated: bool, records: u8| {
        let mut message = query.to_vec();
        message[2] = 0x81 | if truncated { 2 } else { 0 };
        message[3] = 0x80 | code;
        message[7] = records;
        if records > 0 {
            // An A record of the query's name: 60 s, 10.0.0.1.
            message.extend(*b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01");
        }
        message
    };
    let wrong_id = || {
        let mut message = answer(0, false, 1);
        message[0] ^= 0xff;
        message
    };
    match behaviour {
        Behaviour::Answers | Behaviour::DropsOne => vec![answer(0, false, 1)],
        Behaviour::AnswersNothing => vec![answer(0, false, 0)],
        Behaviour::NxDomain => vec![answer(3, false, 0)],
        Behaviour::ServFail => vec![answer(2, false, 0)],
        Behaviour::Refused => vec![answer(5, false, 0)],
        Behaviour::Truncates if over_tcp => vec![answer(0, false, 1)],
        Behaviour::Truncates | Behaviour::TruncatesAndHangs | Behaviour::TruncatesAndCloses => {
            vec![answer(0, true, 0)]
        }
        Behaviour::Garbage => vec![b"\x01\x02\x03".to_vec()],
        Behaviour::WrongId => vec![wrong_id()],
        Behaviour::WrongQuestion => {
            let mut message = answer(0, false, 0);
            // The last two bytes are the class, the two before them the type, which becomes TXT.
            if let Some(kind) = message.iter_mut().rev().nth(2) {
                *kind = 16;
            }
            vec![message]
        }
        Behaviour::ForgedFirst => {
            vec![wrong_id(), b"?".to_vec(), wrong_id(), answer(0, false, 1)]
        }
        Behaviour::Drops => Vec::new(),
    }
}
