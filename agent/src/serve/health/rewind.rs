//! A stream of which some bytes have been read already.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gives `read` before what follows it.
#[derive(Debug)]
pub struct Rewind<S> {
    read: Vec<u8>,
    used: usize,
    stream: S,
}

impl<S> Rewind<S> {
    /// `read` is what was read of `stream`.
    pub fn new(read: Vec<u8>, stream: S) -> Self {
        Self { read, used: 0, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewind<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.used == self.read.len() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let rest = &self.read[self.used..];
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.used += count;
        if self.used == self.read.len() {
            (self.read, self.used) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewind<S> {
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
