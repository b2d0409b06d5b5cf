//! The instances of a function that answer its requests: none to many, of which the least busy is given the next one.
//!
//! Whoever has a request takes a [`Lease`] of an instance; where none has room, it waits in turn. A [`Pool`] starts nothing itself:
//! it counts what comes ([`Pool::traffic`]) and says when somebody waits ([`Pool::called`]), and is told of instances that are ready or
//! are to go.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use littoral_runtime_wasm::Fault;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout_at;

/// How many times without a request are remembered until they are asked for; those after them are not.
const IDLE_TIMES_MAX: usize = 256;
/// What those are told who ask a pool that is closed.
const STOPPED: &str = "the function is stopped here";

/// The instances of a function. `I` is what one is.
#[derive(Debug)]
pub struct Pool<I> {
    state: Mutex<State<I>>,
    called: Notify,
    left: Notify,
    /// How many requests an instance is given at once.
    target: usize,
}

#[derive(Debug)]
struct State<I> {
    members: Vec<Member<I>>,
    waiting: VecDeque<oneshot::Sender<Result<Grant<I>, Fault>>>,
    numbers: u64,
    /// Those that have an instance, and those that wait.
    requests: usize,
    /// The most since they were asked for.
    most: usize,
    /// When that was changed last, and how long requests had lasted by then since they were asked for.
    counted: Instant,
    busy: Duration,
    idle_since: Option<Instant>,
    idle_times: Vec<Duration>,
    cold: u64,
    was_called: bool,
    is_closed: bool,
    /// Which pool takes the requests instead.
    successor: Option<Arc<Pool<I>>>,
}

#[derive(Debug)]
struct Member<I> {
    number: u64,
    instance: Arc<I>,
    in_flight: usize,
    is_leaving: bool,
}

/// What came to a pool since it was last asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many requests it has, those that wait among them.
    pub requests: usize,
    /// The most that it had at once.
    pub most: usize,
    /// How long its requests lasted together.
    pub busy: Duration,
    /// The times without a request that ended since; at most 256.
    pub idle_times: Vec<Duration>,
    /// Since when it has no request; nothing if it has some.
    pub idle_since: Option<Instant>,
    /// How many requests found no instance at all, since it was made.
    pub cold: u64,
}

/// An instance that answers a request. It is given back when this is dropped.
#[derive(Debug)]
pub struct Lease<I> {
    grant: Grant<I>,
    _request: Arrived<I>,
}

impl<I> Lease<I> {
    /// The instance.
    #[must_use]
    pub fn instance(&self) -> &I {
        &self.grant.instance
    }
}

/// Room for one request in an instance, until this is dropped.
#[derive(Debug)]
struct Grant<I> {
    /// Nothing if the room was taken back.
    pool: Option<Arc<Pool<I>>>,
    number: u64,
    instance: Arc<I>,
}

impl<I> Drop for Grant<I> {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.give_back(self.number);
        }
    }
}

/// A request that is in the pool, from its arrival until this is dropped.
#[derive(Debug)]
struct Arrived<I>(Arc<Pool<I>>);

impl<I> Drop for Arrived<I> {
    fn drop(&mut self) {
        self.0.state().leave();
    }
}

type Granted<I> = oneshot::Receiver<Result<Grant<I>, Fault>>;

/// A place in the queue, until this is dropped.
struct Waiting<'a, I> {
    pool: &'a Pool<I>,
    granted: Granted<I>,
}

impl<I> Drop for Waiting<'_, I> {
    fn drop(&mut self) {
        self.granted.close();
        self.pool.state().waiting.retain(|waits| !waits.is_closed());
    }
}

impl<I> Pool<I> {
    /// Without instances, each of which is to be given at most `target` requests at once.
    #[must_use]
    pub fn new(target: usize) -> Self {
        let now = Instant::now();
        let state = State {
            members: Vec::new(),
            waiting: VecDeque::new(),
            numbers: 0,
            requests: 0,
            most: 0,
            counted: now,
            busy: Duration::ZERO,
            idle_since: Some(now),
            idle_times: Vec::new(),
            cold: 0,
            was_called: false,
            is_closed: false,
            successor: None,
        };
        Self { state: Mutex::new(state), called: Notify::new(), left: Notify::new(), target: target.max(1) }
    }

    /// Adds an instance that is ready; its number, by which it is removed.
    pub fn add(self: &Arc<Self>, instance: I) -> u64 {
        let mut state = self.state();
        state.numbers += 1;
        let number = state.numbers;
        state.members.push(Member { number, instance: Arc::new(instance), in_flight: 0, is_leaving: false });
        self.hand_out(&mut state);
        number
    }

    /// Gives an instance no more requests. This returns when it has none.
    pub async fn remove(&self, number: u64) {
        loop {
            let left = self.left.notified();
            {
                let mut state = self.state();
                let Some(member) = state.members.iter_mut().find(|member| member.number == number) else { return };
                member.is_leaving = true;
                if member.in_flight == 0 {
                    state.members.retain(|member| member.number != number);
                    return;
                }
            }
            left.await;
        }
    }

    /// Takes an instance out at once: it has ended.
    pub fn lose(&self, number: u64) {
        self.state().members.retain(|member| member.number != number);
        self.left.notify_waiters();
    }

    /// Tells those that wait that no instance could be started.
    pub fn refuse(&self, reason: &str) {
        let waiting = std::mem::take(&mut self.state().waiting);
        for waits in waiting {
            // Who has stopped waiting need not be told.
            let _ = waits.send(Err(Fault::Unready { reason: reason.to_owned() }));
        }
    }

    /// There will be no instance any more: whoever waits or comes is told so.
    pub fn close(&self) {
        self.state().is_closed = true;
        self.refuse(STOPPED);
    }

    /// Waits until a request comes that finds no instance with room, or the first one after a time without.
    pub async fn called(&self) {
        self.called.notified().await;
    }

    /// What came since this was last asked.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let mut state = self.state();
        state.count(Instant::now());
        let requests = state.requests;
        Traffic {
            requests,
            most: std::mem::replace(&mut state.most, requests),
            busy: std::mem::take(&mut state.busy),
            idle_times: std::mem::take(&mut state.idle_times),
            idle_since: state.idle_since,
            cold: state.cold,
        }
    }

    /// Has another pool answer those that wait and those that come: it has the same instances.
    pub fn pass_on(&self, successor: &Arc<Self>) {
        let waiting = {
            let mut state = self.state();
            state.successor = Some(Arc::clone(successor));
            std::mem::take(&mut state.waiting)
        };
        let mut state = successor.state();
        state.waiting.extend(waiting);
        successor.hand_out(&mut state);
        drop(state);
        successor.called.notify_one();
    }

    /// How many requests each instance has, by its number.
    #[must_use]
    pub fn in_flight(&self) -> HashMap<u64, usize> {
        self.state().members.iter().map(|member| (member.number, member.in_flight)).collect()
    }

    /// An instance for a request: the least busy one; where none has room, the first that has.
    ///
    /// # Errors
    /// [`Fault::Unready`] when there is none by then, or none can be started.
    pub async fn lease(self: &Arc<Self>, until: Instant) -> Result<Lease<I>, Fault> {
        let (granted, _request) = self.ask();
        let grant = match granted {
            Ok(grant) => grant,
            Err(granted) => {
                let mut waiting = Waiting { pool: self, granted };
                match timeout_at(until.into(), &mut waiting.granted).await {
                    Ok(Ok(granted)) => granted?,
                    Ok(Err(_)) => return Err(Fault::Unready { reason: STOPPED.to_owned() }),
                    Err(_) => return Err(Fault::Unready { reason: "none had room in the request's time".to_owned() }),
                }
            }
        };
        Ok(Lease { grant, _request })
    }

    /// Takes in a request: room for it, or its place in the queue.
    fn ask(self: &Arc<Self>) -> (Result<Grant<I>, Granted<I>>, Arrived<I>) {
        let mut state = self.state();
        if let Some(successor) = state.successor.clone() {
            drop(state);
            return successor.ask();
        }
        let begins = state.arrive();
        let request = Arrived(Arc::clone(self));
        let found = if state.waiting.is_empty() { self.pick(&mut state) } else { None };
        let granted = found.ok_or_else(|| {
            let (sender, granted) = oneshot::channel();
            // Without a sender it is refused at once.
            if !state.is_closed {
                state.cold += u64::from(state.members.iter().all(|member| member.is_leaving));
                state.waiting.push_back(sender);
            }
            granted
        });
        drop(state);
        if begins || granted.is_err() {
            self.called.notify_one();
        }
        (granted, request)
    }

    /// The least busy instance with room.
    fn pick(self: &Arc<Self>, state: &mut State<I>) -> Option<Grant<I>> {
        let able = state.members.iter_mut().filter(|member| !member.is_leaving && member.in_flight < self.target);
        let member = able.min_by_key(|member| member.in_flight)?;
        member.in_flight += 1;
        Some(Grant { pool: Some(Arc::clone(self)), number: member.number, instance: Arc::clone(&member.instance) })
    }

    /// Gives those that wait what has room.
    fn hand_out(self: &Arc<Self>, state: &mut State<I>) {
        while let Some(waits) = state.waiting.pop_front() {
            if waits.is_closed() {
                continue;
            }
            let Some(grant) = self.pick(state) else {
                state.waiting.push_front(waits);
                return;
            };
            if let Err(Ok(mut grant)) = waits.send(Ok(grant)) {
                // It stopped waiting just now. The state is held: the room is given back here.
                grant.pool = None;
                state.free(grant.number);
            }
        }
    }

    fn give_back(self: &Arc<Self>, number: u64) {
        let mut state = self.state();
        if state.free(number) {
            self.left.notify_waiters();
        }
        self.hand_out(&mut state);
    }

    fn state(&self) -> MutexGuard<'_, State<I>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I> State<I> {
    /// Counts how long requests have lasted until now.
    fn count(&mut self, now: Instant) {
        let requests = u32::try_from(self.requests).unwrap_or(u32::MAX);
        self.busy += now.saturating_duration_since(self.counted).saturating_mul(requests);
        self.counted = now;
    }

    /// A request arrives; whether it is the first after a time without.
    fn arrive(&mut self) -> bool {
        let now = Instant::now();
        self.count(now);
        self.requests += 1;
        self.most = self.most.max(self.requests);
        let Some(since) = self.idle_since.take() else { return false };
        // The time before the first one is none between two.
        if std::mem::replace(&mut self.was_called, true) && self.idle_times.len() < IDLE_TIMES_MAX {
            self.idle_times.push(now.saturating_duration_since(since));
        }
        true
    }

    /// A request has ended.
    fn leave(&mut self) {
        let now = Instant::now();
        self.count(now);
        self.requests = self.requests.saturating_sub(1);
        if self.requests == 0 {
            self.idle_since = Some(now);
        }
    }

    /// An instance has one request less; whether that was the last one before it leaves.
    fn free(&mut self, number: u64) -> bool {
        let Some(member) = self.members.iter_mut().find(|member| member.number == number) else { return false };
        member.in_flight = member.in_flight.saturating_sub(1);
        member.is_leaving && member.in_flight == 0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn waiting(pool: &Pool<&'static str>) -> usize {
        pool.state().waiting.len()
    }

    fn instance_of(lease: &Lease<&'static str>) -> &'static str {
        lease.instance()
    }

    #[tokio::test]
    async fn the_least_busy_instance_is_given_the_next_request() {
        let pool = Arc::new(Pool::new(2));
        pool.add("a");
        pool.add("b");
        let mut leases = Vec::new();
        for _ in 0..4 {
            leases.push(pool.lease(soon()).await.unwrap());
        }
        let of = |name| leases.iter().filter(|lease| instance_of(lease) == name).count();
        assert_eq!((of("a"), of("b")), (2, 2));
        // Both are full.
        assert!(matches!(pool.lease(Instant::now()).await, Err(Fault::Unready { .. })));
        leases.retain(|lease| instance_of(lease) == "a");
        assert_eq!(instance_of(&pool.lease(soon()).await.unwrap()), "b");
    }

    #[tokio::test]
    async fn who_finds_none_waits_in_turn_and_has_one_started() {
        let pool = Arc::new(Pool::new(1));
        let (first, second, third) = (pool.lease(soon()), pool.lease(soon()), pool.lease(soon()));
        let (mut first, mut second, mut third) = (Box::pin(first), Box::pin(second), Box::pin(third));
        for waits in [&mut first, &mut second, &mut third] {
            assert!(futures::poll!(waits).is_pending());
        }
        pool.called().await;
        let traffic = pool.traffic();
        assert_eq!((traffic.requests, traffic.cold, waiting(&pool)), (3, 3, 3));
        // One that gives up keeps nobody waiting.
        drop(first);
        assert_eq!(waiting(&pool), 2);
        pool.add("a");
        let lease = second.await.unwrap();
        assert!(futures::poll!(&mut third).is_pending());
        drop(lease);
        drop(third.await.unwrap());
        let traffic = pool.traffic();
        assert_eq!((traffic.requests, waiting(&pool)), (0, 0));
        assert!(traffic.idle_since.is_some());
    }

    #[tokio::test]
    async fn what_was_granted_and_not_taken_is_free_again() {
        let pool = Arc::new(Pool::new(1));
        let mut waits = Box::pin(pool.lease(soon()));
        assert!(futures::poll!(&mut waits).is_pending());
        pool.add("a");
        drop(waits);
        assert_eq!(pool.traffic().requests, 0);
        pool.lease(Instant::now()).await.unwrap();
    }

    #[tokio::test]
    async fn an_instance_that_leaves_ends_what_it_answers() {
        let pool = Arc::new(Pool::new(2));
        let number = pool.add("a");
        let lease = pool.lease(soon()).await.unwrap();
        let mut removed = Box::pin(pool.remove(number));
        assert!(futures::poll!(&mut removed).is_pending());
        assert!(pool.lease(Instant::now()).await.is_err(), "it is given no more");
        drop(lease);
        removed.await;
        let other = pool.add("b");
        let lease = pool.lease(soon()).await.unwrap();
        pool.lose(other);
        drop(lease);
        assert!(pool.in_flight().is_empty());
    }

    #[tokio::test]
    async fn a_successor_answers_who_waits_and_who_comes() {
        let (pool, successor) = (Arc::new(Pool::new(1)), Arc::new(Pool::new(1)));
        let (mut first, mut second) = (Box::pin(pool.lease(soon())), Box::pin(pool.lease(soon())));
        for waits in [&mut first, &mut second] {
            assert!(futures::poll!(waits).is_pending());
        }
        let number = successor.add("a");
        pool.pass_on(&successor);
        let lease = first.await.unwrap();
        assert_eq!((*lease.instance(), successor.in_flight()[&number]), ("a", 1));
        assert!(futures::poll!(&mut second).is_pending());
        drop(lease);
        drop(second.await.unwrap());
        pool.lease(Instant::now()).await.unwrap();
        assert_eq!(successor.in_flight()[&number], 0);
    }

    #[tokio::test]
    async fn who_waits_is_told_that_none_can_be_started() {
        let pool = Arc::new(Pool::<()>::new(1));
        let mut waits = Box::pin(pool.lease(soon()));
        assert!(futures::poll!(&mut waits).is_pending());
        pool.refuse("no such program");
        assert!(waits.await.unwrap_err().to_string().contains("no such program"));
        let mut waits = Box::pin(pool.lease(soon()));
        assert!(futures::poll!(&mut waits).is_pending());
        pool.close();
        assert!(waits.await.is_err() && pool.lease(soon()).await.is_err());
    }

    #[tokio::test]
    async fn times_without_a_request_are_told_once() {
        let pool = Arc::new(Pool::new(1));
        pool.add(());
        for _ in 0..3 {
            pool.lease(soon()).await.unwrap();
        }
        assert_eq!(pool.traffic().idle_times.len(), 2, "the time before the first one is none between two");
        assert_eq!(pool.traffic().idle_times.len(), 0);
        for _ in 0..2 * IDLE_TIMES_MAX {
            pool.lease(soon()).await.unwrap();
        }
        assert_eq!(pool.traffic().idle_times.len(), IDLE_TIMES_MAX);
    }
}
