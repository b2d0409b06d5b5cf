//! WASI 0.2: a fresh instance for each request.
//!
//! The guest runs within the future that answers, with no task and no channel to another one between: most guests are
//! done before the head of their response is sent, and then the body is known whole. What a longer body needs goes on in
//! a task of its own, so that a client that reads slowly does not stop the guest's clock.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::bindings::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;

use super::instances::{Instance, Instances, Reserved};
use super::{Body, BodyError, HandlerSettings, Held};
use crate::fabric::Invocation;
use crate::fault::Fault;
use crate::host::{Host, within};
use crate::turns;

/// How much of a response is collected before its head is sent, whatever others hold.
const COLLECTED_BYTES_MAX: usize = 64 << 10;
/// How much may be, as long as there is room: what is collected whole costs no task, and frees its instance at once.
const AHEAD_BYTES_MAX: usize = 2 << 20;
/// The room for what all responses have collected beyond [`COLLECTED_BYTES_MAX`] and not sent yet.
const AHEAD_BYTES_MAX_TOGETHER: usize = 64 << 20;
/// Parts up to this are sent as one: copying so little is cheaper than sending many.
const JOINED_BYTES_MAX: usize = 16 << 10;

/// Answers each request with an instance of its own.
pub(super) struct Fresh(Instances<ProxyPre<Host>>);

/// A guest that runs; dropping it ends it.
type Running = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>;
type Answer = oneshot::Receiver<Result<Response<HyperOutgoingBody>, ErrorCode>>;

impl Fresh {
    pub(super) fn new(instances: Instances<ProxyPre<Host>>) -> Self {
        Self(instances)
    }

    pub(super) async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Fault> {
        let reserved = self.0.reserve();
        let HandlerSettings { limits, usage, .. } = self.0.settings();
        let due = Invocation::due(&request, limits.timeout);
        let begins = turns::first(reserved.meter.function(), usage.expect(), due).await;
        begins.map_err(|turns::Late| Fault::Timeout { limit: limits.timeout })?;
        reserved.meter.begin_poll();
        let failed = Failed::default();
        let (guest, answer) = self.start(request, reserved, due, &failed)?;
        let answering =
            Answering { guest: Some(guest), answer, response: None, collected: Collected::default(), failed };
        let answered = answering.await?;
        self.0.another();
        Ok(answered)
    }

    /// Prepares the guest; it runs when it is polled.
    fn start(
        &self,
        mut request: Request<Body>,
        reserved: Reserved<Proxy>,
        due: Instant,
        failed: &Failed,
    ) -> Result<(Running, Answer), Fault> {
        let invocation = Invocation::of(&mut request);
        let held = request.extensions_mut().remove::<Held>();
        let mut instance = self.0.begin(reserved, invocation)?;
        let (sender, answer) = oneshot::channel();
        let scheme = match request.uri().scheme_str() {
            Some("https") => Scheme::Https,
            _ => Scheme::Http,
        };
        let mut http = instance.store.data_mut().http();
        let resources = http.new_incoming_request(scheme, request).and_then(|incoming| {
            let outparam = http.new_response_outparam(sender)?;
            Ok((incoming, outparam))
        });
        let (incoming, outparam) = resources.map_err(|error| Fault::Input { reason: error.to_string() })?;
        let (instances, ticking, failed) = (self.0.clone(), self.0.wasm().tick(), failed.clone());
        let run = async move {
            let _kept = (ticking, held);
            let meter = instance.meter.clone();
            meter.over(run(instance, &instances, (incoming, outparam), due, failed)).await
        };
        Ok((Box::pin(run), answer))
    }
}

type Incoming = wasmtime::component::Resource<wasmtime_wasi_http::p2::types::HostIncomingRequest>;
type Outparam = wasmtime::component::Resource<wasmtime_wasi_http::p2::types::HostResponseOutparam>;

async fn run(
    instance: Instance<Proxy>,
    instances: &Instances<ProxyPre<Host>>,
    (incoming, outparam): (Incoming, Outparam),
    due: Instant,
    failed: Failed,
) -> Result<(), Fault> {
    let (mut store, made) = instance.into_parts();
    let deadline = Host::begin(&mut store);
    store.data_mut().goes_by(due);
    let outcome = within(deadline, async {
        let proxy = instances.guest(&mut store, made).await?;
        proxy.wasi_http_incoming_handler().call_handle(&mut store, incoming, outparam).await
    });
    let outcome = outcome.await;
    outcome.map_err(|error| {
        let fault = Fault::new(&error, store.data());
        store.data().report(&fault.to_string());
        // Before the store goes, and the response's body with it: that looks like the body's end.
        failed.0.store(true, Ordering::Release);
        fault
    })
}

/// Whether the guest failed. Wasmtime ends a body that nobody finished as if it were whole.
#[derive(Clone, Default)]
struct Failed(Arc<AtomicBool>);

impl Failed {
    fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Polls the guest until it has begun its response, and on while it gets ahead and what it wrote is little.
struct Answering {
    guest: Option<Running>,
    answer: Answer,
    response: Option<Response<HyperOutgoingBody>>,
    collected: Collected,
    failed: Failed,
}

impl Future for Answering {
    type Output = Result<Response<Body>, Fault>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            let ended = match &mut this.guest {
                Some(guest) => match guest.as_mut().poll(context) {
                    Poll::Ready(outcome) => Some(outcome),
                    Poll::Pending => None,
                },
                None => Some(Ok(())),
            };
            let done = ended.is_some();
            if done {
                this.guest = None;
            }
            if this.response.is_none() {
                match Pin::new(&mut this.answer).poll(context) {
                    Poll::Ready(Ok(Ok(response))) => this.response = Some(response),
                    Poll::Ready(Ok(Err(code))) => {
                        let reason = format!("the handler answered with the error {}", error_name(&code));
                        return Poll::Ready(Err(Fault::Rejected { reason }));
                    }
                    // The sender went with the guest.
                    Poll::Ready(Err(_)) => {
                        let reason = "it returned without setting a response".to_owned();
                        return Poll::Ready(Err(ended.and_then(Result::err).unwrap_or(Fault::Protocol { reason })));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            // Nothing was sent yet: the client learns that it failed.
            if let Some(Err(fault)) = ended {
                return Poll::Ready(Err(fault));
            }
            let Some(response) = &mut this.response else { return Poll::Pending };
            let progress = this.collected.take_from(response.body_mut(), context);
            let guest_waits = this.guest.is_some() && !(progress && this.collected.has_room());
            if this.collected.complete || done || guest_waits {
                let Some(response) = this.response.take() else { return Poll::Pending };
                let (guest, collected) = (this.guest.take(), std::mem::take(&mut this.collected));
                let failed = this.failed.clone();
                return Poll::Ready(Ok(response.map(|body| collected.into_body(body, guest, failed))));
            }
        }
    }
}

fn error_name(code: &ErrorCode) -> String {
    match code {
        ErrorCode::InternalError(Some(reason)) => format!("internal-error: {reason}"),
        other => format!("{other:?}"),
    }
}

/// The beginning of a response's body.
#[derive(Default)]
struct Collected {
    frames: VecDeque<Result<Frame<Bytes>, BodyError>>,
    bytes: usize,
    /// Whether that is all of it.
    complete: bool,
    /// Whether there is more than data: trailers, or an error.
    special: bool,
    ahead: Ahead,
}

/// What a response holds of the room for all of them.
#[derive(Default)]
struct Ahead(usize);

static AHEAD_BYTES: AtomicUsize = AtomicUsize::new(0);

impl Ahead {
    /// Whether there is room. Those who ask at once may all be told yes: each adds one part to it at most.
    fn has_room(&self) -> bool {
        AHEAD_BYTES.load(Ordering::Relaxed) < AHEAD_BYTES_MAX_TOGETHER
    }

    fn hold(&mut self, bytes: usize) {
        self.0 += bytes;
        AHEAD_BYTES.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        AHEAD_BYTES.fetch_sub(self.0, Ordering::Relaxed);
    }
}

impl Collected {
    fn has_room(&self) -> bool {
        self.bytes < COLLECTED_BYTES_MAX || (self.bytes < AHEAD_BYTES_MAX && self.ahead.has_room())
    }

    /// Takes what is ready; answers whether anything was.
    fn take_from(&mut self, body: &mut HyperOutgoingBody, context: &mut Context<'_>) -> bool {
        let mut progress = false;
        while self.has_room() && !self.complete {
            match Pin::new(&mut *body).poll_frame(context) {
                Poll::Ready(Some(frame)) => {
                    let frame = frame.map_err(|error| BodyError::Broken(error.to_string()));
                    match frame.as_ref().ok().and_then(Frame::data_ref) {
                        Some(data) => {
                            self.bytes += data.len();
                            self.ahead.hold(data.len().min(self.bytes.saturating_sub(COLLECTED_BYTES_MAX)));
                        }
                        None => self.special = true,
                    }
                    self.frames.push_back(frame);
                    progress = true;
                }
                Poll::Ready(None) => self.complete = true,
                Poll::Pending => break,
            }
        }
        progress
    }

    fn into_body(self, body: HyperOutgoingBody, guest: Option<Running>, failed: Failed) -> Body {
        let guest = guest.map(|guest| Guest { task: tokio::spawn(guest), released: self.complete });
        if !self.complete || self.special {
            return GuestBody { collected: self.frames, body, guest, ahead: self.ahead, failed }.boxed_unsync();
        }
        let mut parts: VecDeque<Bytes> =
            self.frames.into_iter().filter_map(|frame| frame.ok()?.into_data().ok()).collect();
        if parts.len() > 1 && self.bytes <= JOINED_BYTES_MAX {
            let mut whole = BytesMut::with_capacity(self.bytes);
            parts.iter().for_each(|part| whole.extend_from_slice(part));
            parts = VecDeque::from([whole.freeze()]);
        }
        if parts.len() > 1 {
            return Parts { parts, bytes: self.bytes as u64, _ahead: self.ahead }.boxed_unsync();
        }
        Full::new(parts.pop_front().unwrap_or_default()).map_err(|never| match never {}).boxed_unsync()
    }
}

/// A body that is known whole, in several parts.
struct Parts {
    parts: VecDeque<Bytes>,
    /// How many bytes they have together.
    bytes: u64,
    _ahead: Ahead,
}

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let part = self.parts.pop_front();
        self.bytes = self.bytes.saturating_sub(part.as_ref().map_or(0, Bytes::len) as u64);
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes)
    }
}

/// A guest's task, which ends with this unless it is released.
struct Guest {
    task: JoinHandle<Result<(), Fault>>,
    released: bool,
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !self.released {
            self.task.abort();
        }
    }
}

/// A response's body, which keeps its guest alive; once it is complete, the guest may go on to its end alone.
struct GuestBody {
    collected: VecDeque<Result<Frame<Bytes>, BodyError>>,
    body: HyperOutgoingBody,
    guest: Option<Guest>,
    ahead: Ahead,
    failed: Failed,
}

impl GuestBody {
    fn release(&mut self) {
        if let Some(guest) = &mut self.guest {
            guest.released = true;
        }
    }
}

impl http_body::Body for GuestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(frame) = self.collected.pop_front() {
            return Poll::Ready(Some(frame));
        }
        self.ahead = Ahead::default();
        match Pin::new(&mut self.body).poll_frame(context) {
            // One error, and the connection is closed: what was sent cannot be taken for the whole.
            Poll::Ready(None) if self.guest.is_some() && self.failed.get() => {
                self.guest = None;
                Poll::Ready(Some(Err(BodyError::Broken(
                    "the function failed before its response was whole".to_owned(),
                ))))
            }
            Poll::Ready(None) => {
                self.release();
                Poll::Ready(None)
            }
            Poll::Ready(Some(frame)) => {
                if self.body.is_end_stream() {
                    self.release();
                }
                Poll::Ready(Some(frame.map_err(|error| BodyError::Broken(error.to_string()))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.collected.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // What was collected is not part of what the inner body still expects.
        if self.collected.is_empty() {
            return self.body.size_hint();
        }
        let mut hint = SizeHint::default();
        let collected = self.collected.iter().filter_map(|frame| frame.as_ref().ok()?.data_ref());
        hint.set_lower(collected.map(|data| data.len() as u64).sum());
        hint
    }
}
