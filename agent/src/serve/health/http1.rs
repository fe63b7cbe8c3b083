//! One connection that speaks HTTP/1: requests in, answers out, nothing kept in between.
//!
//! hyper is not used here: its answers to what it cannot read have no body, and it has one time-out for an idle
//! connection and for a slow header.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Instant,
};

use hyper::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};

use super::{
    accept::Door,
    answers::Shape,
    connections::Seat,
    page::Page,
    request::{self, Format, Parsed, Request},
    route::Route,
};
use crate::serve::health::settings;

/// How a conversation ends.
#[derive(Debug)]
pub enum End<S> {
    /// For good.
    Closed,
    /// It is one in HTTP/2; what was read of it is given back.
    Http2(S, Vec<u8>),
    /// It is one in TLS.
    Tls(S, Vec<u8>),
}

/// What the stream below is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// TCP alone, where TLS may begin.
    TcpOrTls,
    /// TCP alone.
    Tcp,
    /// TLS, which wants a farewell.
    Tls,
}

/// What comes after what has been read so far.
enum Next {
    Read,
    /// Answer the rest, once what there is has been written.
    More,
    Close,
    /// Close, but read on for a moment: what is closed unread takes the answer with it.
    Linger,
    Wait(Waiting),
    Http2,
}

/// A request that waits for a probe.
struct Waiting {
    route: Route,
    format: Format,
    shape: Shape,
    len: usize,
    body: bool,
}

/// The answer to what came with the connection, where that is one whole request after which it ends: then there is no
/// conversation.
#[must_use]
pub fn at_once(bytes: &[u8], door: &Door) -> Option<Vec<u8>> {
    let Parsed::Whole(request) = request::parse(bytes) else { return None };
    if request.keep || request.body || request.len != bytes.len() {
        return None;
    }
    let mut out = Vec::with_capacity(ANSWER_BYTES);
    let status = door.answers.answer(&request, false, Instant::now(), &mut out).ok()?;
    door.answered.count(status);
    Some(out)
}

/// Most answers fit into this.
const ANSWER_BYTES: usize = 512;

/// Sends what is left of the only answer there will be on a connection.
pub async fn finish(mut stream: TcpStream, unsent: &[u8], seat: &Seat, door: &Door) {
    let sleep = pin!(tokio::time::sleep(settings::WRITE_TIMEOUT));
    let _gone_or_too_slow = write(&mut stream, unsent, &mut Deadline::new(sleep)).await;
    seat.served(door);
}

/// Answers until either side ends it. `pending` is what was read of it already.
pub async fn converse<S>(
    mut stream: S,
    mut pending: Vec<u8>,
    below: Below,
    seat: &Seat,
    door: &Door,
) -> End<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let sleep = pin!(tokio::time::sleep(settings::IDLE_TIMEOUT));
    let mut deadline = Deadline::new(sleep);
    let mut is_fresh = !pending.is_empty();
    let linger = loop {
        let found = if std::mem::take(&mut is_fresh) {
            Ok(pending.len())
        } else {
            read(&mut stream, &mut pending, &mut deadline).await
        };
        match found {
            Ok(0) => break false,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::TimedOut && !pending.is_empty() => {
                let page = Page::error(
                    StatusCode::REQUEST_TIMEOUT,
                    "the request was not complete in time",
                );
                seat.timed_out();
                let mut out = Vec::new();
                refuse(door, page, &mut out);
                let _too_late_anyway = write(&mut stream, &out, &mut deadline).await;
                break true;
            }
            Err(_) => return End::Closed,
        }
        if below == Below::TcpOrTls && pending.first() == Some(&TLS_HANDSHAKE) {
            return End::Tls(stream, pending);
        }
        let mut used = 0;
        let end = loop {
            let mut out = Vec::new();
            let next = answer_all(&pending, &mut used, seat, door, &mut out);
            if let Next::Wait(..) = next {
                seat.waits(true);
            }
            if !out.is_empty() && write(&mut stream, &out, &mut deadline).await.is_err() {
                return End::Closed;
            }
            if let Next::More = next {
                // Others have their turn: a probe does not wait until all that some ask ahead is answered.
                tokio::task::yield_now().await;
                continue;
            }
            let Next::Wait(Waiting { route, format, shape, len, body }) = next else { break next };
            let page = door.answers.router().wait(&route, format).await;
            let shape = Shape { keep: shape.keep && !door.is_draining(), ..shape };
            let mut out = Vec::new();
            door.answered.count(door.answers.write(page, shape, &mut out));
            seat.waits(false);
            seat.served(door);
            used += len;
            if write(&mut stream, &out, &mut deadline).await.is_err() {
                return End::Closed;
            }
            if !shape.keep {
                break if body || used < pending.len() { Next::Linger } else { Next::Close };
            }
        };
        match end {
            Next::Http2 => {
                pending.drain(..used);
                return End::Http2(stream, pending);
            }
            Next::Close => break false,
            Next::Linger => break true,
            Next::Read | Next::More | Next::Wait(..) => {}
        }
        if used == pending.len() {
            deadline.at(settings::IDLE_TIMEOUT);
            pending.clear();
            pending.shrink_to(IDLE_BYTES);
        } else if used > 0 || !deadline.is_of_header {
            // The first bytes of a request: the rest has to follow soon, however it drips.
            pending.drain(..used);
            deadline.at(settings::HEADER_TIMEOUT);
            deadline.is_of_header = true;
        }
    };
    if linger || below == Below::Tls {
        say_farewell(&mut stream, &mut deadline, linger).await;
    }
    End::Closed
}

/// The first byte of a TLS record with a handshake in it, and of no request (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// What an idle connection keeps of its buffer.
const IDLE_BYTES: usize = 512;

/// What is written before more is rendered, and before others have their turn: whoever sends many small requests and
/// takes no answer has this much held, and hundreds of such connections make a turn of milliseconds.
const BATCH_BYTES: usize = 4 * 1024;

/// Answers whole requests, as many of them as came at once or as make a batch.
fn answer_all(
    pending: &[u8],
    used: &mut usize,
    seat: &Seat,
    door: &Door,
    out: &mut Vec<u8>,
) -> Next {
    let now = Instant::now();
    loop {
        // An empty line is no beginning of a request (RFC 9112, 2.2): who ends one with it is not waited for.
        let is_blank = |byte: &&u8| matches!(byte, b'\r' | b'\n');
        *used += pending[*used..].iter().take_while(is_blank).count();
        let rest = &pending[*used..];
        if rest.is_empty() {
            return Next::Read;
        }
        if out.len() >= BATCH_BYTES {
            return Next::More;
        }
        let request = match request::parse(rest) {
            Parsed::Whole(request) => request,
            Parsed::Partial => return Next::Read,
            Parsed::Http2 => return Next::Http2,
            Parsed::Refused(status) => {
                refuse(door, Page::error(status, words(status)), out);
                return Next::Linger;
            }
        };
        let Request { minor, format, len, body, .. } = request;
        let keep = request.keep && !door.is_draining();
        match door.answers.answer(&request, keep, now, out) {
            Ok(status) => door.answered.count(status),
            Err(route) => {
                let shape = Shape { minor, keep, head_only: request.method == "HEAD" };
                return Next::Wait(Waiting { route, format, shape, len, body });
            }
        }
        *used += len;
        seat.served(door);
        if !keep {
            return if body || *used < pending.len() { Next::Linger } else { Next::Close };
        }
    }
}

fn words(status: StatusCode) -> &'static str {
    match status {
        StatusCode::URI_TOO_LONG => "the request line is longer than 8 KiB",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            "the headers are longer than 8 KiB, or more than 100"
        }
        StatusCode::HTTP_VERSION_NOT_SUPPORTED => "not HTTP/1.0, HTTP/1.1 or HTTP/2",
        _ => "not an HTTP request",
    }
}

fn refuse(door: &Door, page: Page, out: &mut Vec<u8>) {
    let shape = Shape { minor: 1, keep: false, head_only: false };
    door.answered.count(door.answers.write(page, shape, out));
}

/// When to stop waiting. The timer is only set when it is waited for, and only moved when it has to be earlier.
struct Deadline<'s> {
    sleep: Pin<&'s mut Sleep>,
    at: tokio::time::Instant,
    /// Whether it is that of a request that has begun.
    is_of_header: bool,
}

impl<'s> Deadline<'s> {
    fn new(sleep: Pin<&'s mut Sleep>) -> Self {
        let at = sleep.deadline();
        Self { sleep, at, is_of_header: false }
    }

    fn at(&mut self, after: std::time::Duration) {
        self.at = tokio::time::Instant::now() + after;
        self.is_of_header = false;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.sleep.deadline() > self.at {
            self.sleep.as_mut().reset(self.at);
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if self.sleep.deadline() >= self.at {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(self.at);
        }
    }
}

/// Appends what there is to read, 8 KiB at most.
async fn read<S: AsyncRead + Unpin>(
    stream: &mut S,
    pending: &mut Vec<u8>,
    deadline: &mut Deadline<'_>,
) -> io::Result<usize> {
    poll_fn(|cx| {
        let mut space = [MaybeUninit::<u8>::uninit(); settings::HEADER_BYTES];
        let mut space = ReadBuf::uninit(&mut space);
        if let Poll::Ready(result) = Pin::new(&mut *stream).poll_read(cx, &mut space) {
            result?;
            pending.extend_from_slice(space.filled());
            return Poll::Ready(Ok(space.filled().len()));
        }
        ready!(deadline.poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    })
    .await
}

/// Writes it all, unless the other side takes too long to take it.
async fn write<S: AsyncWrite + Unpin>(
    stream: &mut S,
    mut bytes: &[u8],
    deadline: &mut Deadline<'_>,
) -> io::Result<()> {
    let mut is_set = false;
    poll_fn(|cx| {
        loop {
            let progress = if bytes.is_empty() {
                Pin::new(&mut *stream).poll_flush(cx).map_ok(|()| 0)
            } else {
                Pin::new(&mut *stream).poll_write(cx, bytes)
            };
            match progress {
                Poll::Ready(Ok(_)) if bytes.is_empty() => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => bytes = &bytes[written..],
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if !is_set {
                        deadline.at(settings::WRITE_TIMEOUT);
                        is_set = true;
                    }
                    ready!(deadline.poll(cx));
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
    })
    .await
}

/// Ends our half, and takes what the other side still sends, for a moment.
async fn say_farewell<S>(stream: &mut S, deadline: &mut Deadline<'_>, linger: bool)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    deadline.at(settings::LINGER);
    let ended = poll_fn(|cx| {
        if let Poll::Ready(result) = Pin::new(&mut *stream).poll_shutdown(cx) {
            return Poll::Ready(result.is_ok());
        }
        ready!(deadline.poll(cx));
        Poll::Ready(false)
    });
    if !ended.await || !linger {
        return;
    }
    let (mut sunk, mut total) = (Vec::new(), 0);
    while let Ok(read @ 1..) = read(stream, &mut sunk, deadline).await {
        total += read;
        sunk.clear();
        if total > settings::LINGER_BYTES {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::accept, super::route::tests::router, *};

    #[test]
    fn answers_are_made_as_they_are_taken() {
        let (router, _faults) = router(Some("n"), false, 200);
        let (door, seat) = accept::door(router);
        let request = "\r\nGET /health HTTP/1.1\r\n\r\n\r\n";
        let pending = request.repeat(1000);
        let (mut used, mut batches, mut bytes) = (0, 0, 0);
        loop {
            let mut out = Vec::new();
            let next = answer_all(pending.as_bytes(), &mut used, &seat, &door, &mut out);
            assert!(out.len() < BATCH_BYTES + ANSWER_BYTES, "{}", out.len());
            batches += 1;
            bytes += out.len();
            match next {
                Next::More => {}
                Next::Read => break,
                _ => panic!("after {used} bytes"),
            }
        }
        assert_eq!(
            (used, door.answered.ready.load(std::sync::atomic::Ordering::Relaxed)),
            (pending.len(), 1000)
        );
        assert!(batches > bytes / (BATCH_BYTES + ANSWER_BYTES));
    }
}
