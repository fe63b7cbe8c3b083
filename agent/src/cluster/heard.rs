//! When the API server was heard last: a connector that notes every read of its connections.
//!
//! hyper's client tells neither that a PING was answered nor that one was not: a connection it gave up for that ends
//! like one that the server closed. Whether the server had been silent tells them apart.

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

/// A moment that is moved on by every read.
#[derive(Clone, Debug)]
pub struct Heard {
    start: Instant,
    nanos: Arc<AtomicU64>,
}

impl Heard {
    /// Now.
    #[must_use]
    pub fn new() -> Self {
        Self { start: Instant::now(), nanos: Arc::default() }
    }

    fn note(&self) {
        let nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanos.store(nanos, Relaxed);
    }

    /// For how long nothing has been read, not even an end.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_nanos(self.nanos.load(Relaxed)))
    }
}

impl Default for Heard {
    fn default() -> Self {
        Self::new()
    }
}

/// The connector.
#[derive(Clone, Debug)]
pub struct Listening<C> {
    inner: C,
    heard: Heard,
}

impl<C> Listening<C> {
    /// Notes in `heard` what is read from the connections that `inner` makes.
    pub fn new(inner: C, heard: Heard) -> Self {
        Self { inner, heard }
    }
}

impl<C, U> Service<U> for Listening<C>
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
        let (connecting, heard) = (self.inner.call(to), self.heard.clone());
        Box::pin(async move {
            let inner = connecting.await?;
            heard.note();
            Ok(Stream { inner, heard })
        })
    }
}

/// A connection.
#[derive(Debug)]
pub struct Stream<T> {
    inner: T,
    heard: Heard,
}

impl<T: Read + Unpin> Read for Stream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        // Also an end or an error: that is when it was lost.
        self.heard.note();
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
