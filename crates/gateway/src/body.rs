//! Request bodies that are not longer than they may be.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use littoral_runtime::http::{Body, BodyError, full};

/// Whether a body turned out to be longer than it may be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exceeded(Arc<AtomicBool>);

impl Exceeded {
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A client's body that ends with an error once it is longer than `bytes_max`.
pub(crate) fn limited(body: Incoming, bytes_max: u64) -> (Body, Exceeded) {
    let exceeded = Exceeded::default();
    if body.is_end_stream() {
        return (full(Bytes::new()), exceeded);
    }
    let limited = Limited { body, left: bytes_max, bytes_max, exceeded: exceeded.clone() };
    (limited.boxed_unsync(), exceeded)
}

struct Limited {
    body: Incoming,
    left: u64,
    bytes_max: u64,
    exceeded: Exceeded,
}

impl http_body::Body for Limited {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.exceeded.get() {
            return Poll::Ready(None);
        }
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else { return Poll::Pending };
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame.map_err(|error| BodyError::Broken(error.to_string()))?;
        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
        match self.left.checked_sub(length) {
            Some(left) => {
                self.left = left;
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.exceeded.0.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(BodyError::TooLarge { limit_bytes: self.bytes_max })))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.exceeded.get() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
