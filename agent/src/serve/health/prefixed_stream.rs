//! A stream whose first bytes were read before it was known which protocol they belong to.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that yields the bytes that were read from it already, and then the rest.
#[derive(Debug)]
pub struct PrefixedStream<S> {
    prefix: Vec<u8>,
    used: usize,
    stream: S,
}

impl<S> PrefixedStream<S> {
    /// `prefix` is what was read from `stream` already.
    pub fn new(prefix: Vec<u8>, stream: S) -> Self {
        Self { prefix, used: 0, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PrefixedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.used == self.prefix.len() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let rest = &self.prefix[self.used..];
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.used += count;
        if self.used == self.prefix.len() {
            (self.prefix, self.used) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PrefixedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
