//! The bodies of a function's requests and responses: counted, and not longer than they may be.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use littoral_runtime_wasm::handler::{Body, BodyError};
use littoral_runtime_wasm::{Fault, Usage};

/// Whether a body turned out to be longer than it may be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exceeded(Arc<AtomicBool>);

impl Exceeded {
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The body of a request, which ends with an error once it is longer than `limit_bytes`.
///
/// # Errors
/// When it is known to be longer.
pub(crate) fn incoming(body: Body, limit_bytes: u64, usage: &Arc<Usage>) -> Result<(Body, Exceeded), Fault> {
    let exceeded = Exceeded::default();
    if body.size_hint().lower() > limit_bytes {
        return Err(Fault::RequestTooLarge { limit_bytes });
    }
    if body.is_end_stream() {
        return Ok((body, exceeded));
    }
    let count = Count { left: limit_bytes, limit_bytes };
    let usage = Arc::clone(usage);
    Ok((Incoming { body, count, usage, exceeded: exceeded.clone() }.boxed_unsync(), exceeded))
}

/// How much more may come.
struct Count {
    left: u64,
    limit_bytes: u64,
}

impl Count {
    /// Counts a part of a body; answers its length, or that it is too much.
    fn take(&mut self, frame: &Frame<Bytes>) -> Result<u64, BodyError> {
        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
        match self.left.checked_sub(length) {
            Some(left) => {
                self.left = left;
                Ok(length)
            }
            None => Err(BodyError::TooLarge { limit_bytes: self.limit_bytes }),
        }
    }
}

struct Incoming {
    body: Body,
    count: Count,
    usage: Arc<Usage>,
    exceeded: Exceeded,
}

impl http_body::Body for Incoming {
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
        let Some(frame) = frame.transpose()? else { return Poll::Ready(None) };
        match self.count.take(&frame) {
            Ok(length) => {
                self.usage.received(length);
                Poll::Ready(Some(Ok(frame)))
            }
            Err(error) => {
                self.exceeded.0.store(true, Ordering::Relaxed);
                Poll::Ready(Some(Err(error)))
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

/// The body of a response, which breaks off where it grows beyond `limit_bytes`, and lets go of `held` at its end.
/// `too_long` is called where it breaks off.
///
/// # Errors
/// When it is known to be longer.
pub(crate) fn outgoing<H: Send + Unpin + 'static>(
    body: Body,
    limit_bytes: u64,
    usage: &Arc<Usage>,
    too_long: impl FnOnce(Fault) + Send + 'static,
    held: H,
) -> Result<Body, Fault> {
    if body.size_hint().lower() > limit_bytes {
        return Err(Fault::ResponseTooLarge { limit_bytes });
    }
    let count = Count { left: limit_bytes, limit_bytes };
    let (usage, too_long) = (Arc::clone(usage), Some(Box::new(too_long) as _));
    Ok(Outgoing { body, count, usage, too_long, _held: held }.boxed_unsync())
}

struct Outgoing<H> {
    body: Body,
    count: Count,
    usage: Arc<Usage>,
    too_long: Option<Box<dyn FnOnce(Fault) + Send>>,
    _held: H,
}

impl<H: Unpin> http_body::Body for Outgoing<H> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else { return Poll::Pending };
        let Some(frame) = frame.transpose()? else { return Poll::Ready(None) };
        match self.count.take(&frame) {
            Ok(length) => {
                self.usage.sent(length);
                Poll::Ready(Some(Ok(frame)))
            }
            Err(error) => {
                if let Some(too_long) = self.too_long.take() {
                    too_long(Fault::ResponseTooLarge { limit_bytes: self.count.limit_bytes });
                }
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
