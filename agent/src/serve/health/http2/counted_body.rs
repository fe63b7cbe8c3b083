//! A response body that keeps a count for as long as it lives.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tonic::body::Body as BoxedBody;

/// A response body, and a count that is dropped with it.
struct CountedBody<T> {
    body: BoxedBody,
    _count: T,
}

impl<T: Unpin> Body for CountedBody<T> {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body, which drops `count` when it ends.
pub fn counted<T: Send + Unpin + 'static>(body: BoxedBody, count: T) -> BoxedBody {
    BoxedBody::new(CountedBody { body, _count: count })
}
