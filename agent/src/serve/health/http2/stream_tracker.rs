//! The streams of one HTTP/2 connection and their responses that are not sent yet: the difference between a connection
//! that does not read its responses and one that waits for news of a watch.

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

use crate::serve::health::{connection_slot::ConnectionSlot, settings};

/// The streams of one HTTP/2 connection.
#[derive(Debug, Default)]
pub struct StreamTracker {
    /// Streams and unsent responses, which keep the connection from being idle.
    open: AtomicUsize,
    /// Complete requests that have no response yet.
    answering: AtomicUsize,
    unsent: Mutex<UnsentResponses>,
    over_limit: Notify,
}

/// Responses that the other side has not taken yet.
#[derive(Debug, Default)]
struct UnsentResponses {
    next_id: u64,
    bytes: usize,
    /// When they were made, the oldest first.
    made: BTreeMap<u64, Instant>,
}

impl UnsentResponses {
    fn is_over_limit(&self) -> bool {
        self.bytes > settings::HTTP2_UNSENT
    }
}

/// Why the agent ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// It had no stream for [`settings::IDLE_TIMEOUT`].
    Idle,
    /// A response was not taken for [`settings::WRITE_TIMEOUT`], or more than [`settings::HTTP2_UNSENT`] bytes are not
    /// taken.
    NotRead,
}

impl StreamTracker {
    /// Counts a stream until the result is dropped.
    pub fn open(self: &Arc<Self>) -> OpenStream {
        self.open.fetch_add(1, Relaxed);
        OpenStream(self.clone())
    }

    /// Counts a complete request that has no response yet until the result is dropped.
    pub fn answering(self: &Arc<Self>) -> Answering {
        self.answering.fetch_add(1, Relaxed);
        Answering(self.clone())
    }

    /// Counts a response with a body of so many bytes until the result is dropped.
    pub fn unsent(self: &Arc<Self>, bytes: usize) -> UnsentResponse {
        let mut unsent = self.lock();
        let id = unsent.next_id;
        unsent.next_id += 1;
        unsent.bytes += bytes;
        unsent.made.insert(id, Instant::now());
        if unsent.is_over_limit() {
            self.over_limit.notify_one();
        }
        UnsentResponse { stream: self.open(), id, bytes }
    }

    fn lock(&self) -> MutexGuard<'_, UnsentResponses> {
        self.unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so many bytes are unsent that the connection is going to end.
    pub fn is_over_limit(&self) -> bool {
        self.lock().is_over_limit()
    }

    fn is_stalled(&self) -> bool {
        let oldest = self.lock().made.first_key_value().map(|(_, made)| *made);
        oldest.is_some_and(|made| made.elapsed() >= settings::WRITE_TIMEOUT)
    }

    /// Completes when the connection is to be ended.
    pub async fn end(&self, slot: &ConnectionSlot) -> EndReason {
        let (mut since, mut last) = (Instant::now(), slot.last_answer());
        loop {
            if timeout(settings::WRITE_TIMEOUT, self.over_limit.notified()).await.is_ok() {
                return EndReason::NotRead;
            }
            if self.is_stalled() {
                return EndReason::NotRead;
            }
            if self.open.load(Relaxed) > 0 || slot.last_answer() != last {
                (since, last) = (Instant::now(), slot.last_answer());
            } else if since.elapsed() >= settings::IDLE_TIMEOUT {
                return EndReason::Idle;
            }
        }
    }

    /// Completes when no request has been without a response for [`settings::HTTP2_DRAIN`], after [`settings::DRAIN`]
    /// at most.
    pub async fn drained(&self) {
        let deadline = Instant::now() + settings::DRAIN;
        let mut quiet_since = Instant::now();
        while Instant::now() < deadline && quiet_since.elapsed() < settings::HTTP2_DRAIN {
            sleep(settings::DRAIN_INTERVAL).await;
            if self.answering.load(Relaxed) > 0 {
                quiet_since = Instant::now();
            }
        }
    }
}

/// A stream, counted until it is dropped.
#[derive(Debug)]
pub struct OpenStream(Arc<StreamTracker>);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

/// A complete request without a response, counted until it is dropped.
#[derive(Debug)]
pub struct Answering(Arc<StreamTracker>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Relaxed);
    }
}

/// A response that the other side has not taken yet, counted until it is dropped.
#[derive(Debug)]
pub struct UnsentResponse {
    stream: OpenStream,
    id: u64,
    bytes: usize,
}

impl UnsentResponse {
    /// The response's bytes. The response counts as unsent until the last of them is dropped.
    pub fn track(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(TrackedBytes { bytes, _unsent: self })
    }
}

impl Drop for UnsentResponse {
    fn drop(&mut self) {
        let mut unsent = self.stream.0.lock();
        unsent.made.remove(&self.id);
        unsent.bytes -= self.bytes;
    }
}

/// hyper drops a body when it has passed its bytes to h2: only the owner of the bytes learns when they are sent.
struct TrackedBytes {
    bytes: Bytes,
    _unsent: UnsentResponse,
}

impl AsRef<[u8]> for TrackedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
