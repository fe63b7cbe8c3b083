//! A small nameserver, which answers or does what bad ones do.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::netns::NetNs;

/// How often it looks whether it is to end.
const PAUSE: Duration = Duration::from_millis(20);

/// What it does with a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// One record.
    Answers,
    /// Right, and without any record.
    AnswersNothing,
    /// There is no such name.
    NxDomain,
    /// No word at all; over TCP the connection stays open.
    Drops,
    /// Drops what comes first, and answers the second time.
    DropsOne,
    /// Over UDP only its head, over TCP all of it.
    Truncates,
    /// Over UDP only its head, over TCP nothing.
    TruncatesAndHangs,
    /// Over UDP only its head, and a connection is closed halfway through the answer.
    TruncatesAndCloses,
    /// It cannot.
    ServFail,
    /// It will not.
    Refused,
    /// Bytes that are no message.
    Garbage,
    /// The answer to a question of somebody else's.
    WrongId,
    /// The right id, another name.
    WrongQuestion,
    /// Three wrong answers and then the right one, as when somebody else tries to be first.
    ForgedFirst,
}

#[derive(Debug)]
struct Shared {
    does: Mutex<Does>,
    /// Names and whether they came over TCP.
    asked: Mutex<Vec<(String, bool)>>,
    done: AtomicBool,
}

/// The server, on port 53 over UDP and TCP; it ends with this value.
#[derive(Debug)]
pub struct Nameserver {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Nameserver {
    /// Starts it at that address of that namespace.
    pub fn new(namespace: &NetNs, address: &str, does: Does) -> Self {
        let address: IpAddr = address.parse().expect("an address");
        let bind = || {
            Ok::<_, io::Error>((UdpSocket::bind((address, 53))?, TcpListener::bind((address, 53))?))
        };
        let (udp, tcp) = namespace.run(bind).expect("listen on port 53");
        udp.set_read_timeout(Some(PAUSE)).expect("a time-out");
        tcp.set_nonblocking(true).expect("a listener that does not block");
        let shared = Arc::new(Shared {
            does: Mutex::new(does),
            asked: Mutex::default(),
            done: AtomicBool::default(),
        });
        let (over_udp, over_tcp) = (shared.clone(), shared.clone());
        let threads = vec![
            thread::spawn(move || over_udp.udp(&udp)),
            thread::spawn(move || over_tcp.tcp(&tcp)),
        ];
        Self { shared, threads }
    }

    /// From now on.
    pub fn does(&self, does: Does) {
        *self.shared.does.lock().unwrap_or_else(PoisonError::into_inner) = does;
    }

    /// What was asked since the last time, and whether over TCP.
    pub fn asked(&self) -> Vec<(String, bool)> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner))
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

    fn note(&self, question: &[u8], over_tcp: bool) -> Does {
        let name = name_of(question);
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push((name, over_tcp));
        *self.does.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 512];
        let mut dropped = false;
        while !self.is_done() {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            let question = &buffer[..length];
            let does = self.note(question, false);
            let drops = does == Does::Drops || (does == Does::DropsOne && !dropped);
            dropped = drops && does == Does::DropsOne;
            if drops {
                continue;
            }
            for message in messages(question, does, false) {
                let _gone = socket.send_to(&message, from);
            }
        }
    }

    fn tcp(&self, listener: &TcpListener) {
        while !self.is_done() {
            match listener.accept() {
                Ok((stream, _)) => {
                    let _broken = self.conversation(stream);
                }
                Err(_) => thread::sleep(PAUSE),
            }
        }
    }

    fn conversation(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut question)?;
        match self.note(&question, true) {
            Does::Drops | Does::TruncatesAndHangs => {
                stream.set_read_timeout(Some(PAUSE))?;
                // Until the other side gives up.
                while !self.is_done() {
                    match stream.read(&mut length) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        _ => break,
                    }
                }
            }
            Does::TruncatesAndCloses => {
                stream.write_all(&[0, 50, question[0], question[1], 0x81])?;
            }
            does => {
                for message in messages(&question, does, true) {
                    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
                    stream.write_all(&length.to_be_bytes())?;
                    stream.write_all(&message)?;
                }
            }
        }
        Ok(())
    }
}

/// `a.b.`, from where a question has it.
fn name_of(question: &[u8]) -> String {
    let mut name = String::new();
    let mut rest = question.get(12..).unwrap_or_default();
    while let Some((&length, after)) = rest.split_first().filter(|(length, _)| **length != 0) {
        let (label, after) = after.split_at(usize::from(length).min(after.len()));
        name.push_str(&String::from_utf8_lossy(label));
        name.push('.');
        rest = after;
    }
    if name.is_empty() { ".".to_owned() } else { name }
}

fn messages(question: &[u8], does: Does, over_tcp: bool) -> Vec<Vec<u8>> {
    // Response, recursion desired and available.
    let answer = |code: u8, truncated: bool, records: u8| {
        let mut message = question.to_vec();
        message[2] = 0x81 | if truncated { 2 } else { 0 };
        message[3] = 0x80 | code;
        message[7] = records;
        if records > 0 {
            // A at the question's name, 60 s, 10.0.0.1.
            message.extend(*b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01");
        }
        message
    };
    let wrong_id = || {
        let mut message = answer(0, false, 1);
        message[0] ^= 0xff;
        message
    };
    match does {
        Does::Answers | Does::DropsOne => vec![answer(0, false, 1)],
        Does::AnswersNothing => vec![answer(0, false, 0)],
        Does::NxDomain => vec![answer(3, false, 0)],
        Does::ServFail => vec![answer(2, false, 0)],
        Does::Refused => vec![answer(5, false, 0)],
        Does::Truncates if over_tcp => vec![answer(0, false, 1)],
        Does::Truncates | Does::TruncatesAndHangs | Does::TruncatesAndCloses => {
            vec![answer(0, true, 0)]
        }
        Does::Garbage => vec![b"\x01\x02\x03".to_vec()],
        Does::WrongId => vec![wrong_id()],
        Does::WrongQuestion => {
            let mut message = answer(0, false, 0);
            // The last two bytes are the class, the two before them the type: now it is TXT.
            if let Some(kind) = message.iter_mut().rev().nth(2) {
                *kind = 16;
            }
            vec![message]
        }
        Does::ForgedFirst => {
            vec![wrong_id(), b"?".to_vec(), wrong_id(), answer(0, false, 1)]
        }
        Does::Drops => Vec::new(),
    }
}
