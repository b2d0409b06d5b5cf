//! Incoming calls: run within bounds per priority, stopped at their deadline, and never twice where that would matter.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use littoral_model::id::{InvocationId, NodeId};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::call::{Incoming, PAYLOAD_BYTES_MAX, Priority};
use crate::frame::ReplyError;
use crate::mesh::Service;
use crate::sync::{Lock, lock};

/// Finished calls whose replies are remembered: a caller repeats within seconds, and a node serves some thousands a second.
const FINISHED_MAX: usize = 8192;
/// Bytes of remembered replies; a reply larger than a hundredth of it is rare among calls that must not run twice.
const FINISHED_BYTES_MAX: usize = 32 << 20;

/// How many calls of a priority run and wait at the same time, and how much memory their payloads may take.
struct Lane {
    slots: Semaphore,
    inside: AtomicUsize,
    inside_max: usize,
    bytes: AtomicUsize,
    bytes_max: usize,
}

impl Lane {
    /// Waiting fetches hold slots of the data lane for as long as they wait, hence its size.
    fn new(priority: Priority) -> Self {
        let (running, waiting, bytes_max) = match priority {
            Priority::Control => (256, 1024, 64 << 20),
            Priority::Data => (2048, 2048, 256 << 20),
            Priority::Bulk => (32, 256, 128 << 20),
        };
        Self {
            slots: Semaphore::new(running),
            inside: AtomicUsize::new(0),
            inside_max: running + waiting,
            bytes: AtomicUsize::new(0),
            bytes_max,
        }
    }

    /// Counts a call in, or says why not.
    fn enter(&self, bytes: usize) -> Result<Entered<'_>, ReplyError> {
        let inside = self.inside.fetch_add(1, Ordering::Relaxed);
        let held = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let entered = Entered { lane: self, bytes };
        if inside >= self.inside_max || held.saturating_add(bytes) > self.bytes_max {
            return Err(ReplyError::Refused("it is busy: its queue of calls is full; try again later".to_owned()));
        }
        Ok(entered)
    }
}

struct Entered<'a> {
    lane: &'a Lane,
    bytes: usize,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.lane.inside.fetch_sub(1, Ordering::Relaxed);
        self.lane.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

type Outcome = Result<Bytes, ReplyError>;

/// A call that must not run twice.
enum Known {
    Running(watch::Receiver<Option<Outcome>>),
    Finished(Outcome),
}

/// Calls that must not run twice, by caller and invocation.
#[derive(Default)]
struct Ledger {
    known: HashMap<(NodeId, InvocationId), Known>,
    /// Finished ones, the oldest first, with the bytes of their replies.
    order: VecDeque<((NodeId, InvocationId), usize)>,
    bytes: usize,
}

impl Ledger {
    fn finish(&mut self, key: (NodeId, InvocationId), outcome: Outcome) {
        let bytes = outcome.as_ref().map_or(64, Bytes::len);
        self.bytes += bytes;
        self.order.push_back((key.clone(), bytes));
        self.known.insert(key, Known::Finished(outcome));
        while self.order.len() > FINISHED_MAX || self.bytes > FINISHED_BYTES_MAX {
            let Some((oldest, bytes)) = self.order.pop_front() else { break };
            self.bytes -= bytes;
            self.known.remove(&oldest);
        }
    }
}

/// The calls that this node handles.
pub(crate) struct Inbox {
    service: Arc<dyn Service>,
    lanes: [Lane; 3],
    ledger: Lock<Ledger>,
}

impl Inbox {
    pub(crate) fn new(service: Arc<dyn Service>) -> Self {
        Self { service, lanes: Priority::ALL.map(Lane::new), ledger: Lock::default() }
    }

    pub(crate) fn service(&self) -> &Arc<dyn Service> {
        &self.service
    }

    /// Has the service handle a call.
    pub(crate) async fn serve(self: &Arc<Self>, from: NodeId, call: Incoming) -> Outcome {
        if call.method.is_idempotent() {
            return self.run(from, call).await;
        }
        let key = (from.clone(), call.invocation);
        let inbox = Arc::clone(self);
        self.once(key, async move { inbox.run(from, call).await }).await
    }

    /// Runs `work` unless it has been run, or is running, under the same key; then its outcome is shared.
    pub(crate) async fn once(
        self: &Arc<Self>,
        key: (NodeId, InvocationId),
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> Outcome {
        let known = {
            let mut ledger = lock(&self.ledger);
            match ledger.known.get(&key) {
                Some(Known::Finished(outcome)) => return outcome.clone(),
                Some(Known::Running(running)) => Ok(running.clone()),
                None => {
                    let (done, running) = watch::channel(None);
                    ledger.known.insert(key.clone(), Known::Running(running));
                    Err(Finish { inbox: Arc::clone(self), key, done, outcome: None })
                }
            }
        };
        match known {
            Ok(mut running) => {
                let outcome = running.wait_for(Option::is_some).await.map_or(None, |outcome| outcome.clone());
                outcome.unwrap_or_else(|| Err(ReplyError::Failed("the node is stopping".to_owned())))
            }
            Err(finish) => {
                let work = async move {
                    let mut finish = finish;
                    let outcome = work.await;
                    finish.outcome = Some(outcome.clone());
                    outcome
                };
                Lasting(Some(Box::pin(work))).await
            }
        }
    }

    async fn run(&self, from: NodeId, call: Incoming) -> Outcome {
        let [control, data, bulk] = &self.lanes;
        let lane = match call.priority {
            Priority::Control => control,
            Priority::Data => data,
            Priority::Bulk => bulk,
        };
        let _entered = lane.enter(call.payload.len())?;
        let deadline = call.deadline;
        let work = async {
            let _slot = lane.slots.acquire().await;
            self.service.handle(from, call).await
        };
        match timeout(deadline, work).await {
            Ok(Ok(reply)) if reply.len() > PAYLOAD_BYTES_MAX => Err(ReplyError::TooLarge(reply.len() as u64)),
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(reason)) => Err(ReplyError::Failed(reason)),
            // A repeat is told the same: it must not run twice only because the first was stopped halfway.
            Err(_) => Err(ReplyError::Late),
        }
    }
}

/// Work that goes on in a task of its own when whoever waits for it goes away: the repeats of a first caller that gave up
/// are to learn the outcome, too.
struct Lasting(Option<Pin<Box<dyn Future<Output = Outcome> + Send>>>);

impl Future for Lasting {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let Some(work) = &mut self.0 else { return Poll::Pending };
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        let polled = polled.unwrap_or_else(|_| Poll::Ready(Err(broken())));
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

/// What a caller is told when the work panicked.
fn broken() -> ReplyError {
    ReplyError::Failed("the node failed while handling the call".to_owned())
}

/// Tells the outcome also when the work panics.
struct Finish {
    inbox: Arc<Inbox>,
    key: (NodeId, InvocationId),
    done: watch::Sender<Option<Outcome>>,
    outcome: Option<Outcome>,
}

impl Drop for Finish {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| Err(broken()));
        lock(&self.inbox.ledger).finish(self.key.clone(), outcome.clone());
        self.done.send_replace(Some(outcome));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
    use std::time::Duration;

    use async_trait::async_trait;

    use super::*;
    use crate::call::Method;

    /// Never ends a fetch, answers the rest.
    struct Stuck;

    #[async_trait]
    impl Service for Stuck {
        async fn handle(&self, _from: NodeId, call: Incoming) -> Result<Bytes, String> {
            match call.method {
                Method::Fetch => std::future::pending().await,
                Method::Publish => panic!("a bug in the service"),
                _ => Ok(call.payload),
            }
        }
    }

    fn incoming(method: Method, priority: Priority) -> Incoming {
        Incoming {
            method,
            payload: Bytes::from("x"),
            priority,
            deadline: Duration::from_secs(5),
            invocation: InvocationId::from_parts(1, 2),
            trace: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_lane_refuses_and_the_urgent_one_goes_on() {
        let inbox = Arc::new(Inbox::new(Arc::new(Stuck)));
        let from = NodeId::new("a").unwrap();
        let bulk = || incoming(Method::Fetch, Priority::Bulk);
        let stuck: Vec<_> = (0..32 + 256)
            .map(|_| {
                let (inbox, from) = (Arc::clone(&inbox), from.clone());
                tokio::spawn(async move { inbox.serve(from, bulk()).await })
            })
            .collect();
        while inbox.lanes[2].inside.load(Ordering::Relaxed) < stuck.len() {
            tokio::task::yield_now().await;
        }
        let refused = inbox.serve(from.clone(), bulk()).await;
        assert!(matches!(refused, Err(ReplyError::Refused(_))), "{refused:?}");
        let urgent = inbox.serve(from.clone(), incoming(Method::Keeper, Priority::Control)).await;
        assert_eq!(urgent, Ok(Bytes::from("x")));
        for call in stuck {
            assert_eq!(call.await.unwrap(), Err(ReplyError::Late), "stopped at its deadline, running or waiting");
        }
        // Its places are free again.
        assert_eq!(inbox.serve(from, incoming(Method::Install, Priority::Bulk)).await, Ok(Bytes::from("x")));
    }

    #[tokio::test]
    async fn a_service_that_panics_fails_its_call_and_its_repeats_only() {
        let inbox = Arc::new(Inbox::new(Arc::new(Stuck)));
        let from = NodeId::new("a").unwrap();
        for _ in 0..2 {
            let failed = inbox.serve(from.clone(), incoming(Method::Publish, Priority::Data)).await;
            assert!(matches!(failed, Err(ReplyError::Failed(_))), "{failed:?}");
        }
    }

    #[test]
    fn remembered_replies_are_bounded() {
        let mut ledger = Ledger::default();
        let from = NodeId::new("a").unwrap();
        for number in 0..=FINISHED_MAX as u128 {
            ledger.finish((from.clone(), InvocationId::from_parts(0, number)), Ok(Bytes::from_static(&[0; 16])));
        }
        assert_eq!(ledger.known.len(), FINISHED_MAX);
        assert!(!ledger.known.contains_key(&(from.clone(), InvocationId::from_parts(0, 0))), "the oldest went");
        ledger.finish((from, InvocationId::from_parts(1, 0)), Ok(Bytes::from(vec![0; FINISHED_BYTES_MAX])));
        assert!(ledger.bytes <= FINISHED_BYTES_MAX && ledger.known.len() == 1);
    }
}
