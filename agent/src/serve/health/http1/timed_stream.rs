//! A stream that is read and written under a deadline.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use crate::serve::health::settings;

/// A stream that is read and written under a deadline. An operation that is still waiting at the deadline fails with
/// [`io::ErrorKind::TimedOut`].
#[derive(Debug)]
pub struct TimedStream<'s, S> {
    stream: S,
    deadline: Instant,
    /// The one timer of the connection. It is set only while an operation waits, and moved only to an earlier time: most
    /// requests touch no timer.
    sleep: Pin<&'s mut Sleep>,
}

impl<'s, S> TimedStream<'s, S> {
    /// A stream whose first deadline is that of `sleep`.
    pub fn new(stream: S, sleep: Pin<&'s mut Sleep>) -> Self {
        Self { stream, deadline: sleep.deadline(), sleep }
    }

    /// The stream below.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// Moves the deadline.
    pub fn set_deadline(&mut self, after: Duration) {
        self.deadline = Instant::now() + after;
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.sleep.deadline() > self.deadline {
            self.sleep.as_mut().reset(self.deadline);
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if self.sleep.deadline() >= self.deadline {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.deadline);
        }
    }
}

impl<S: AsyncRead + Unpin> TimedStream<'_, S> {
    /// Appends what there is to read, 8 KiB at most, and gives its length.
    pub async fn read(&mut self, received: &mut Vec<u8>) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut space = [MaybeUninit::<u8>::uninit(); settings::HEADER_BYTES];
            let mut space = ReadBuf::uninit(&mut space);
            if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(cx, &mut space) {
                result?;
                received.extend_from_slice(space.filled());
                return Poll::Ready(Ok(space.filled().len()));
            }
            ready!(self.poll_deadline(cx));
            Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
        })
        .await
    }
}

impl<S: AsyncWrite + Unpin> TimedStream<'_, S> {
    /// Writes and flushes all of `bytes`. Once it has to wait, the deadline is [`settings::WRITE_TIMEOUT`] away.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let mut has_waited = false;
        poll_fn(|cx| {
            loop {
                let progress = if bytes.is_empty() {
                    Pin::new(&mut self.stream).poll_flush(cx).map_ok(|()| 0)
                } else {
                    Pin::new(&mut self.stream).poll_write(cx, bytes)
                };
                match progress {
                    Poll::Ready(Ok(_)) if bytes.is_empty() => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(written)) => bytes = &bytes[written..],
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        if !has_waited {
                            self.set_deadline(settings::WRITE_TIMEOUT);
                            has_waited = true;
                        }
                        ready!(self.poll_deadline(cx));
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                }
            }
        })
        .await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TimedStream<'_, S> {
    /// Ends our half of the connection. With `lingers`, what the other side still sends is then read and discarded, for
    /// [`settings::LINGER`] at most: closing a socket with unread bytes would reset the connection, and the reset would
    /// discard the response.
    pub async fn shut_down(&mut self, lingers: bool) {
        self.set_deadline(settings::LINGER);
        let ended = poll_fn(|cx| {
            if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_shutdown(cx) {
                return Poll::Ready(result.is_ok());
            }
            ready!(self.poll_deadline(cx));
            Poll::Ready(false)
        });
        if !ended.await || !lingers {
            return;
        }
        let (mut discarded, mut total) = (Vec::new(), 0);
        while let Ok(read @ 1..) = self.read(&mut discarded).await {
            total += read;
            discarded.clear();
            if total > settings::LINGER_BYTES {
                return;
            }
        }
    }
}
