//! Handing messages to Zenoh and taking them from it: without blocking a task, and without copying what is large.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use littoral_model::wire::PROTOCOL_VERSION;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use zenoh::bytes::ZBytes;
use zenoh::qos::Priority as Urgency;
use zenoh::query::Reply;

use crate::call::Priority;
use crate::frame::ReplyError;

/// Payloads up to this are handed to Zenoh by the calling task; larger ones may block until the link takes them, which is
/// left to a blocking thread.
const INLINE_BYTES_MAX: usize = 16 << 10;
/// How many bytes may be under way to a node without an answer before more of them may block: Zenoh queues twice as much for
/// each priority of a link before it does.
const UNANSWERED_BYTES_MAX: usize = 64 << 10;
/// How many threads may wait for links at once, per priority.
const BLOCKED_MAX: usize = 32;
/// What a message takes beside its payload, about.
const ENVELOPE_BYTES: usize = 256;
/// A payload below this is copied out of Zenoh's receive buffer instead of keeping the whole buffer alive.
const BORROW_BYTES_MIN: usize = 16 << 10;

/// Sends that wait for a link.
struct Blocked {
    places: Semaphore,
    waiting: AtomicUsize,
}

/// What waits for links, per priority.
pub(super) struct Outlets {
    blocked: [Arc<Blocked>; 3],
    runtime: Handle,
}

impl Outlets {
    pub(super) fn new(runtime: Handle) -> Self {
        let blocked = || Arc::new(Blocked { places: Semaphore::new(BLOCKED_MAX), waiting: AtomicUsize::new(0) });
        Self { blocked: [blocked(), blocked(), blocked()], runtime }
    }

    /// Hands a message to Zenoh, which may block until the link has room: on a thread made for that if the message is large,
    /// others are waiting already, or `unanswered` bytes, this message's included, are too many for the link to have taken
    /// them for certain. `None` when stopping.
    pub(super) async fn hand_over<T: Send + 'static>(
        &self,
        priority: Priority,
        bytes: usize,
        unanswered: usize,
        send: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let [control, data, bulk] = &self.blocked;
        let blocked = match priority {
            Priority::Control => control,
            Priority::Data => data,
            Priority::Bulk => bulk,
        };
        if bytes <= INLINE_BYTES_MAX
            && unanswered <= UNANSWERED_BYTES_MAX
            && blocked.waiting.load(Ordering::Relaxed) == 0
        {
            return Some(send());
        }
        let _place = blocked.places.acquire().await.ok()?;
        let waiting = Waiting::new(Arc::clone(blocked));
        let sent = self.runtime.spawn_blocking(move || {
            let _waiting = waiting;
            send()
        });
        sent.await.ok()
    }
}

/// Bytes under way to a node: counted from when they are handed over until they are answered.
pub(super) struct Unanswered {
    counter: Arc<AtomicUsize>,
    bytes: usize,
}

impl Unanswered {
    /// Counts a message; answers with how many bytes are under way now.
    pub(super) fn count(counter: Arc<AtomicUsize>, payload_bytes: usize) -> (Self, usize) {
        let bytes = payload_bytes.saturating_add(ENVELOPE_BYTES);
        let before = counter.fetch_add(bytes, Ordering::Relaxed);
        (Self { counter, bytes }, before.saturating_add(bytes))
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Counts a send that may block.
struct Waiting(Arc<Blocked>);

impl Waiting {
    fn new(blocked: Arc<Blocked>) -> Self {
        blocked.waiting.fetch_add(1, Ordering::Relaxed);
        Self(blocked)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(super) fn urgency(priority: Priority) -> Urgency {
    match priority {
        Priority::Control => Urgency::RealTime,
        Priority::Data => Urgency::Data,
        Priority::Bulk => Urgency::Background,
    }
}

/// What a reply says; `None` when it is Zenoh's own (a timeout on the way) and not the peer's.
pub(super) fn answer(reply: Reply) -> Option<Result<Bytes, ReplyError>> {
    match reply.into_result() {
        Ok(sample) => Some(Ok(take_bytes(sample.payload()))),
        Err(error) => {
            let bytes = error.payload().to_bytes();
            let ours = bytes.first().is_some_and(|first| *first <= PROTOCOL_VERSION || *first == 0xff);
            ours.then(|| Err(ReplyError::decode(&bytes)))
        }
    }
}

/// Keeps Zenoh's buffer alive as long as the bytes.
struct Contiguous(ZBytes);

impl AsRef<[u8]> for Contiguous {
    fn as_ref(&self) -> &[u8] {
        self.0.slices().next().unwrap_or_default()
    }
}

/// The bytes of a payload, without copying if it is large and in one piece.
pub(super) fn take_bytes(payload: &ZBytes) -> Bytes {
    let mut slices = payload.slices();
    match (slices.next(), slices.next()) {
        (None, _) => Bytes::new(),
        (Some(only), None) if only.len() < BORROW_BYTES_MIN => Bytes::copy_from_slice(only),
        (Some(_), None) => Bytes::from_owner(Contiguous(payload.clone())),
        (Some(_), Some(_)) => Bytes::from(payload.to_bytes().into_owned()),
    }
}
