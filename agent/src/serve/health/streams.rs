//! What one HTTP/2 connection has in hand, so that one that takes no answers can be told from one that waits for news.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use hyper::body::Bytes;
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::connections::Seat;
use crate::serve::health::settings;

/// The streams of one connection.
#[derive(Debug, Default)]
pub struct Streams {
    /// Whatever keeps the connection from being idle.
    open: AtomicUsize,
    /// Whole requests whose answer is being made.
    answering: AtomicUsize,
    unsent: Mutex<Answers>,
    too_much: Notify,
}

/// Answers that are not taken yet.
#[derive(Debug, Default)]
struct Answers {
    next: u64,
    bytes: usize,
    /// When they were made, the oldest first.
    made: BTreeMap<u64, Instant>,
}

impl Answers {
    fn is_too_much(&self) -> bool {
        self.bytes > settings::HTTP2_UNSENT
    }
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Nothing was asked for [`settings::IDLE_TIMEOUT`].
    Idle,
    /// Answers are not taken, for [`settings::WRITE_TIMEOUT`] or too many of them.
    NotTaken,
}

impl Streams {
    /// One more that is open for as long as what is given back lives.
    pub fn open(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Relaxed);
        Open(self.clone())
    }

    /// The same for a whole request whose answer is being made.
    pub fn answering(self: &Arc<Self>) -> Answering {
        self.answering.fetch_add(1, Relaxed);
        Answering(self.clone())
    }

    /// The same for an answer of so many bytes.
    pub fn unsent(self: &Arc<Self>, bytes: usize) -> Unsent {
        let mut unsent = self.lock();
        let id = unsent.next;
        unsent.next += 1;
        unsent.bytes += bytes;
        unsent.made.insert(id, Instant::now());
        if unsent.is_too_much() {
            self.too_much.notify_one();
        }
        Unsent { open: self.open(), id, bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so much is not taken that the connection is over.
    pub fn is_too_much(&self) -> bool {
        self.lock().is_too_much()
    }

    fn is_stuck(&self) -> bool {
        let oldest = self.lock().made.first_key_value().map(|(_, made)| *made);
        oldest.is_some_and(|made| made.elapsed() >= settings::WRITE_TIMEOUT)
    }

    /// Ends when the connection is of no use any more.
    pub async fn over(&self, seat: &Seat) -> Over {
        let (mut since, mut last) = (Instant::now(), seat.last());
        loop {
            if timeout(settings::WRITE_TIMEOUT, self.too_much.notified()).await.is_ok() {
                return Over::NotTaken;
            }
            if self.is_stuck() {
                return Over::NotTaken;
            }
            if self.open.load(Relaxed) > 0 || seat.last() != last {
                (since, last) = (Instant::now(), seat.last());
            } else if since.elapsed() >= settings::IDLE_TIMEOUT {
                return Over::Idle;
            }
        }
    }

    /// Ends when no answer has been in the making for [`settings::HTTP2_FAREWELL`], after [`settings::DRAIN`] at most.
    pub async fn farewell(&self) {
        let deadline = Instant::now() + settings::DRAIN;
        let mut quiet = Instant::now();
        while Instant::now() < deadline && quiet.elapsed() < settings::HTTP2_FAREWELL {
            sleep(settings::DRAIN_LULL).await;
            if self.answering.load(Relaxed) > 0 {
                quiet = Instant::now();
            }
        }
    }
}

/// A stream that keeps its connection from being idle.
#[derive(Debug)]
pub struct Open(Arc<Streams>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// A request whose answer is being made.
#[derive(Debug)]
pub struct Answering(Arc<Streams>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Relaxed);
    }
}

/// An answer that is not taken yet.
#[derive(Debug)]
pub struct Unsent {
    open: Open,
    id: u64,
    bytes: usize,
}

impl Unsent {
    /// The answer's bytes, which are counted until the last of them is gone.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Owned { bytes, _unsent: self })
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        let mut unsent = self.open.0.lock();
        unsent.made.remove(&self.id);
        unsent.bytes -= self.bytes;
    }
}

/// hyper passes bytes on to h2 and forgets them; only their owner hears of their end.
struct Owned {
    bytes: Bytes,
    _unsent: Unsent,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
