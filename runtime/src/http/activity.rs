//! The activity of one connection: its last request, the answer in progress, and its deadline.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::settings::Settings;

/// The activity of a connection. Its own task writes it; the accept loop reads it when there are too many connections.
///
/// Moments are microseconds since the listener began, plus one; 0 is never.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    accepted: u64,
    /// When a request was last complete, or an answer was last at its end.
    asked: AtomicU64,
    /// Since when a request is on its way that is not complete.
    receiving: AtomicU64,
    /// Whether a request is being answered, until the end of the answer.
    answering: AtomicBool,
    /// Since when the client reads nothing of what is written.
    blocked: AtomicU64,
}

impl Activity {
    /// A connection that was accepted now, on a listener that began then.
    pub(super) fn new(began: Instant) -> Self {
        let mut activity = Self {
            began,
            accepted: 0,
            asked: AtomicU64::new(0),
            receiving: AtomicU64::new(0),
            answering: AtomicBool::new(false),
            blocked: AtomicU64::new(0),
        };
        activity.accepted = activity.now();
        activity
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX - 1) + 1
    }

    /// A request is complete but for its body, and is being answered from here on.
    pub(super) fn begin_answer(&self) {
        self.receiving.store(0, Relaxed);
        self.asked.store(self.now(), Relaxed);
        self.answering.store(true, Relaxed);
    }

    /// The answer was handed over whole, or given up.
    pub(super) fn end_answer(&self) {
        self.asked.store(self.now(), Relaxed);
        self.answering.store(false, Relaxed);
    }

    fn is_answering(&self) -> bool {
        self.answering.load(Relaxed)
    }

    fn is_receiving(&self) -> bool {
        self.receiving.load(Relaxed) > 0
    }

    /// Whether nothing is on its way, in either direction.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_answering() && !self.is_receiving() && self.blocked.load(Relaxed) == 0
    }

    /// Whether an answer is over and the next one has not begun. The beginning of a request that has arrived is lost
    /// when hyper is told to finish at such a moment.
    pub(super) fn is_between_requests(&self) -> bool {
        self.asked.load(Relaxed) > 0 && !self.is_answering()
    }

    /// The connection's rank when one has to end.
    pub(super) fn rank(&self) -> Rank {
        let (asked, blocked) = (self.asked.load(Relaxed), self.blocked.load(Relaxed));
        match asked {
            0 => Rank::NeverAsked(self.accepted),
            // A client that does not read its answer is worth no more than one that asks for none.
            asked if self.is_answering() && blocked == 0 => Rank::Answering(asked),
            asked => Rank::Asked(asked),
        }
    }

    /// When the connection has waited too long for its client; `None` while it does not wait for it.
    pub(super) fn deadline(&self, settings: &Settings) -> Option<Instant> {
        let (receiving, blocked) = (self.receiving.load(Relaxed), self.blocked.load(Relaxed));
        if blocked > 0 {
            self.after(blocked, settings.write_timeout)
        } else if self.is_answering() {
            None
        } else if receiving > 0 {
            self.after(receiving, settings.header_timeout)
        } else {
            self.after(self.asked.load(Relaxed).max(self.accepted), settings.idle_timeout)
        }
    }

    fn after(&self, moment: u64, time: Duration) -> Option<Instant> {
        self.began.checked_add(Duration::from_micros(moment) + time)
    }
}

/// The rank of a connection; the lowest ends first. Within one kind, the earliest moment is the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// No request was ever complete on it; when it was accepted.
    NeverAsked(u64),
    /// It is idle, or its client does not read its answer; when its last request was.
    Asked(u64),
    /// Its answer is being made or read; when its last request was.
    Answering(u64),
}

/// A transport that notes when bytes arrive, and whether its client reads what is written.
pub(super) struct Observed<T> {
    inner: T,
    activity: Arc<Activity>,
}

impl<T> Observed<T> {
    pub(super) fn new(inner: T, activity: Arc<Activity>) -> Self {
        Self { inner, activity }
    }

    fn note<R>(&self, written: Poll<R>) -> Poll<R> {
        let blocked = &self.activity.blocked;
        match written {
            Poll::Ready(_) => blocked.store(0, Relaxed),
            Poll::Pending if blocked.load(Relaxed) == 0 => {
                blocked.store(self.activity.now(), Relaxed);
            }
            Poll::Pending => {}
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Observed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let activity = &self.activity;
        if buf.filled().len() > before && !activity.is_answering() && !activity.is_receiving() {
            activity.receiving.store(activity.now(), Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Observed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.note(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.note(shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn what_a_connection_waits_for_and_what_it_is_worth() {
        let settings = Settings {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            ..Settings::new("test")
        };
        let began = Instant::now();
        // (asked, receiving, answering, blocked) in seconds -> deadline, rank
        for ((asked, receiving, answering, blocked), deadline, rank) in [
            ((0, 0, false, 0), Some(1 + 75), Rank::NeverAsked(SECOND)),
            ((0, 2, false, 0), Some(2 + 10), Rank::NeverAsked(SECOND)),
            ((5, 0, true, 0), None, Rank::Answering(5 * SECOND)),
            ((5, 0, true, 6), Some(6 + 30), Rank::Asked(5 * SECOND)),
            ((5, 0, false, 0), Some(5 + 75), Rank::Asked(5 * SECOND)),
            ((5, 6, false, 0), Some(6 + 10), Rank::Asked(5 * SECOND)),
        ] {
            let activity = Activity {
                began,
                accepted: SECOND,
                asked: AtomicU64::new(asked * SECOND),
                receiving: AtomicU64::new(receiving * SECOND),
                answering: AtomicBool::new(answering),
                blocked: AtomicU64::new(blocked * SECOND),
            };
            let deadline = deadline.map(|seconds| began + Duration::from_secs(seconds));
            assert_eq!((activity.deadline(&settings), activity.rank()), (deadline, rank));
        }
        assert!(Rank::NeverAsked(9) < Rank::Asked(1) && Rank::Asked(9) < Rank::Answering(1));
    }
}
