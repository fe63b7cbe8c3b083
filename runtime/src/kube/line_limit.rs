//! Answers of bounded lines: kube reads a list, and each line of a watch, into memory as a whole.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tower::BoxError;

/// A body that fails where a line is longer than the limit.
#[derive(Debug)]
pub(super) struct LineLimit<B> {
    inner: B,
    limit: usize,
    line: usize,
}

impl<B> LineLimit<B> {
    /// Bounds the lines of `inner` to `limit` bytes.
    pub(super) fn new(inner: B, limit: usize) -> Self {
        Self { inner, limit, line: 0 }
    }
}

/// The length of the line that is not over after `data`, when it had `line` bytes before.
fn after(line: usize, data: &[u8]) -> usize {
    match data.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => data.len() - end - 1,
        None => line + data.len(),
    }
}

impl<B> Body for LineLimit<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.line = after(self.line, data);
                }
                if self.line > self.limit {
                    let mib = self.limit >> 20;
                    Some(Err(format!("it answers with more than {mib} MiB in one piece").into()))
                } else {
                    Some(Ok(frame))
                }
            }
            Some(Err(error)) => Some(Err(error.into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    const LINE: usize = 8 << 20;

    #[tokio::test]
    async fn a_line_has_an_end() {
        let of = |parts: Vec<Bytes>| {
            let frames = parts.into_iter().map(|part| Ok::<_, BoxError>(Frame::data(part)));
            LineLimit::new(StreamBody::new(futures_util::stream::iter(frames)), LINE).collect()
        };
        let (big, end) = (Bytes::from(vec![b'x'; LINE / 2]), Bytes::from_static(b"\n"));
        let fits = vec![big.clone(), big.clone(), end.clone(), big.clone(), big.clone()];
        assert_eq!(of(fits).await.unwrap().to_bytes().len(), 2 * LINE + 1);
        let error = of(vec![end, big.clone(), big.clone(), big]).await.unwrap_err();
        assert!(error.to_string().contains("8 MiB"), "{error}");
    }
}
