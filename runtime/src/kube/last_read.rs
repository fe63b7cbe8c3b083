//! When the API server was last read from: a connector that notes every read of its connections.
//!
//! hyper's client reports neither that a PING was answered nor that one was not: a connection that it gives up for a
//! missing answer ends like one that the server closed. The time of the last read tells the two apart.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect;
use tower::Service;

/// The moment of the last read. Clones share it: connections write it, everything else reads it.
#[derive(Clone, Debug)]
pub struct LastRead {
    start: Instant,
    nanos: Arc<AtomicU64>,
}

impl LastRead {
    /// The moment of the call, as if something had been read then.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now(), nanos: Arc::default() }
    }

    fn note(&self) {
        let nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanos.store(nanos, Relaxed);
    }

    /// For how long nothing has been read, not even the end of a connection.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_nanos(self.nanos.load(Relaxed)))
    }
}

impl Default for LastRead {
    fn default() -> Self {
        Self::new()
    }
}

/// A connector that notes what is read from its connections.
#[derive(Clone, Debug)]
pub struct ReadNoting<C> {
    inner: C,
    last_read: LastRead,
}

impl<C> ReadNoting<C> {
    /// Notes in `last_read` what is read from the connections that `inner` makes.
    pub fn new(inner: C, last_read: LastRead) -> Self {
        Self { inner, last_read }
    }
}

impl<C, U> Service<U> for ReadNoting<C>
where
    C: Service<U>,
    C::Future: Send + 'static,
{
    type Response = Stream<C::Response>;
    type Error = C::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, to: U) -> Self::Future {
        let (connecting, last_read) = (self.inner.call(to), self.last_read.clone());
        Box::pin(async move {
            let inner = connecting.await?;
            last_read.note();
            Ok(Stream { inner, last_read })
        })
    }
}

/// A connection whose reads are noted.
#[derive(Debug)]
pub struct Stream<T> {
    inner: T,
    last_read: LastRead,
}

impl<T: Read + Unpin> Read for Stream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        // Also an end or an error: that is when it was lost.
        self.last_read.note();
        Poll::Ready(read)
    }
}

impl<T: Write + Unpin> Write for Stream<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }
}

impl<T: connect::Connection> connect::Connection for Stream<T> {
    fn connected(&self) -> connect::Connected {
        self.inner.connected()
    }
}
