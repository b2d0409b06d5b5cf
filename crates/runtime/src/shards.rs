//! The data-plane threads: one per core, each with a runtime of its own, so that what runs on one needs no lock and no
//! hop to another.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use futures::future::{AbortHandle, Abortable, poll_fn};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, oneshot};

use crate::{background, linger};

/// How many tasks may wait to be started on one thread; it takes them up within microseconds.
const STARTING_MAX: usize = 4_096;
/// Tokio looks for I/O after so many polls. A guest that computes gives way each millisecond, so that with the default
/// of 61 a few of them would keep a connection waiting for a twentieth of a second.
/// What other threads have done is looked at as often.
const POLLS_BETWEEN_IO: u32 = 7;

/// How many tasks more than another one a shard may have and still keep what it starts itself: whoever starts it, and one
/// more, for a hop to another thread costs as much as a short call.
const NEAR_TASKS: usize = 2;

thread_local! {
    /// Which shard this thread is.
    static HERE: Cell<Option<usize>> = const { Cell::new(None) };
}

type Job = Box<dyn FnOnce() + Send>;

/// The data-plane threads of a process. Cheap to clone; they end, with everything that runs on them, when the last
/// clone is dropped.
#[derive(Clone)]
pub struct Shards(Arc<[Shard]>);

struct Shard {
    jobs: mpsc::Sender<Job>,
    tasks: Arc<AtomicUsize>,
    lingering: Arc<linger::Shared>,
}

/// What a thread is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Background,
}

/// Why a task has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// Too many tasks wait to be started there, or there is no such thread.
    #[error("the shard takes no more tasks now; try again")]
    Refused,
    /// It was aborted, it panicked, or its thread ended.
    #[error("the task ended without a result")]
    Ended,
}

/// A task on a shard. It goes on when this is dropped.
#[derive(Debug)]
pub struct Task<T> {
    result: Option<oneshot::Receiver<T>>,
    abort: AbortHandle,
}

impl Shards {
    /// Starts so many threads, at least one.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn new(count: usize) -> std::io::Result<Self> {
        Self::start(count.max(1), Kind::Data)
    }

    /// The same threads, but behind all others of the machine; see [`crate::Background`].
    pub(crate) fn behind(count: usize) -> std::io::Result<Self> {
        Self::start(count, Kind::Background)
    }

    fn start(count: usize, kind: Kind) -> std::io::Result<Self> {
        (0..count).map(|number| Shard::start(number, kind)).collect::<std::io::Result<Arc<[_]>>>().map(Self)
    }

    /// One thread for each core that this process may use.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub fn for_this_machine() -> std::io::Result<Self> {
        Self::new(thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get))
    }

    /// How many threads there are; shards are numbered from 0.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The shard with the fewest tasks.
    #[must_use]
    pub fn pick(&self) -> usize {
        let tasks = self.0.iter().map(|shard| shard.tasks.load(Ordering::Relaxed));
        tasks.enumerate().min_by_key(|(_, tasks)| *tasks).map_or(0, |(shard, _)| shard)
    }

    /// This thread's shard, which needs no hop, unless another one has clearly less to do.
    #[must_use]
    pub fn pick_near(&self) -> usize {
        let least = self.pick();
        let tasks = |shard: usize| self.0.get(shard).map_or(usize::MAX, |shard| shard.tasks.load(Ordering::Relaxed));
        // Whoever asks runs on this shard itself.
        match HERE.get() {
            Some(here) if tasks(here) <= tasks(least).saturating_add(NEAR_TASKS) => here,
            _ => least,
        }
    }

    /// Which shard this thread is.
    #[must_use]
    pub fn here() -> Option<usize> {
        HERE.get()
    }

    /// Whether the threads look for work a while before they sleep, where it has come that soon; not from the beginning. It takes power for
    /// latency: not for a machine on its battery. On a single processor, or under a quota of a control group, they never do.
    pub fn linger(&self, may: bool) {
        let may = may && linger::is_affordable();
        self.0.iter().for_each(|shard| shard.lingering.may.store(may, Ordering::Relaxed));
    }

    /// For how long the threads have looked for work so far, all together, instead of sleeping.
    #[must_use]
    pub fn lingered(&self) -> Duration {
        let nanoseconds = self.0.iter().map(|shard| shard.lingering.nanoseconds.load(Ordering::Relaxed));
        Duration::from_nanos(nanoseconds.sum())
    }

    /// Says that what this thread had waited for has come: a request, an answer. Of no effect on threads that are no shards.
    pub fn work_came() {
        linger::came();
    }

    /// Has a shard look after something besides its tasks, until that ends or the shard does. It is no task: where it waits says nothing of
    /// how much a shard has to do. It should wait for work alone, and not for timers: who waits for what comes soon is kept awake. It is
    /// dropped if there is no such shard, or too many tasks wait there.
    pub fn attend(&self, shard: usize, mut waiting: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let Some(shard) = self.0.get(shard) else { return };
        let waiting = poll_fn(move |context| {
            linger::came();
            waiting.as_mut().poll(context)
        });
        let job = move || drop(tokio::task::spawn_local(waiting));
        // Who waits for it learns that it was dropped.
        let _ = shard.jobs.try_send(Box::new(job));
    }

    /// Starts a task on a shard. It is made there, so that it need not be `Send`; only its result must be.
    pub fn spawn<F, M>(&self, shard: usize, make: M) -> Task<F::Output>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let (abort, registration) = AbortHandle::new_pair();
        let Some(shard) = self.0.get(shard) else { return Task { result: None, abort } };
        let counted = Counted::new(&shard.tasks);
        let job = move || {
            let task = Abortable::new(make(), registration);
            tokio::task::spawn_local(async move {
                let _counted = counted;
                if let Ok(result) = task.await {
                    // Whoever started it may not care for the result.
                    let _ = sender.send(result);
                }
            });
        };
        let accepted = shard.jobs.try_send(Box::new(job)).is_ok();
        Task { result: accepted.then_some(receiver), abort }
    }
}

impl std::fmt::Debug for Shards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shards").field("count", &self.count()).finish()
    }
}

impl Shard {
    fn start(number: usize, kind: Kind) -> std::io::Result<Self> {
        let (jobs, mut receiver) = mpsc::channel::<Job>(STARTING_MAX);
        let name = if kind == Kind::Data { "shard" } else { "background" };
        let (started, has_started) = std::sync::mpsc::sync_channel(1);
        let lingering = Arc::<linger::Shared>::default();
        let shared = Arc::clone(&lingering);
        thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                // Whoever starts it waits for this.
                Err(error) => return drop(started.send(Err(error))),
            };
            match kind {
                Kind::Data => HERE.set(Some(number)),
                Kind::Background => background::stand_behind(),
            }
            runtime.block_on(async {
                linger::begin(shared, poll_fn(|context| Poll::Ready(context.waker().clone())).await);
                let _ = started.send(Ok(()));
                while let Some(job) = receiver.recv().await {
                    linger::came();
                    job();
                }
            });
        })?;
        has_started.recv().map_err(std::io::Error::other)??;
        Ok(Self { jobs, tasks: Arc::default(), lingering })
    }
}

/// The runtime of one thread.
fn runtime() -> std::io::Result<LocalRuntime> {
    let mut builder = Builder::new_current_thread();
    builder
        .enable_all()
        .event_interval(POLLS_BETWEEN_IO)
        .global_queue_interval(POLLS_BETWEEN_IO)
        // Who is woken there looks for I/O without waiting, from Tokio 1.52.4 on (tokio-rs/tokio#8222).
        .on_thread_park(linger::rest)
        .build_local(LocalOptions::default())
}

impl<T> Task<T> {
    /// Ends the task at its next pause.
    pub fn abort(&self) {
        self.abort.abort();
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.result {
            None => Poll::Ready(Err(TaskError::Refused)),
            Some(result) => Pin::new(result).poll(context).map_err(|_| TaskError::Ended),
        }
    }
}

/// A task that ends with whoever waits for it.
#[derive(Debug)]
pub struct Attended<T>(Task<T>);

impl<T> Task<T> {
    /// Ends it when this is dropped.
    #[must_use]
    pub fn attended(self) -> Attended<T> {
        Attended(self)
    }
}

impl<T> Future for Attended<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for Attended<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Counts a task while it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(tasks: &Arc<AtomicUsize>) -> Self {
        tasks.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(tasks))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn tasks_run_where_they_are_told_and_need_not_be_send() {
        let shards = Shards::new(3).unwrap();
        for shard in 0..3 {
            let name = shards.spawn(shard, || async {
                let local = Rc::new(());
                tokio::task::yield_now().await;
                drop(local);
                std::thread::current().name().map(str::to_owned)
            });
            assert_eq!(name.await.unwrap().unwrap(), format!("shard-{shard}"));
        }
        assert_eq!(shards.spawn(3, || async {}).await, Err(TaskError::Refused));
    }

    #[tokio::test]
    async fn an_ended_task_is_told_apart_and_its_neighbour_lives() {
        let shards = Shards::new(1).unwrap();
        let aborted = shards.spawn(0, std::future::pending::<()>);
        let panicked = shards.spawn(0, || async { panic!("on purpose") });
        aborted.abort();
        assert_eq!(aborted.await, Err(TaskError::Ended));
        assert_eq!(panicked.await, Err::<(), _>(TaskError::Ended));
        assert_eq!(shards.spawn(0, || async { 7 }).await, Ok(7));
    }

    #[tokio::test]
    async fn a_task_that_nobody_waits_for_any_more_ends() {
        let shards = Shards::new(1).unwrap();
        let (running, ended) = oneshot::channel::<()>();
        let task = shards.spawn(0, move || async move {
            std::future::pending::<()>().await;
            drop(running);
        });
        drop(task.attended());
        let ended = tokio::time::timeout(std::time::Duration::from_secs(10), ended).await;
        assert!(ended.is_ok_and(|told| told.is_err()), "it still runs");
    }

    #[test]
    fn a_shard_that_is_asked_again_soon_finds_the_next_question_before_it_sleeps() {
        let shards = Shards::new(1).unwrap();
        shards.linger(true);
        let (mut asks, answers) = UnixStream::pair().unwrap();
        answers.set_nonblocking(true).unwrap();
        let answering = async move {
            let mut stream = tokio::net::UnixStream::from_std(answers).unwrap();
            let mut question = [0];
            while stream.read_exact(&mut question).await.is_ok() && stream.write_all(&question).await.is_ok() {}
        };
        shards.attend(0, Box::pin(answering));
        let mut ask = || {
            asks.write_all(&[7]).unwrap();
            asks.read_exact(&mut [0]).unwrap();
            shards.lingered()
        };
        // Soon enough some time, however busy the machine is: where it did not find one while it looked, it looked for as long as it may.
        let (begun, mut before) = (std::time::Instant::now(), ask());
        while linger::is_affordable() {
            let lingered = std::mem::replace(&mut before, ask());
            let lingered = before - lingered;
            if !lingered.is_zero() && lingered < Duration::from_micros(90) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it found none while it looked");
        }
        shards.linger(false);
        ask();
        let at_rest = ask();
        assert_eq!((ask(), ask()), (at_rest, at_rest));
    }

    #[tokio::test]
    async fn the_least_loaded_is_picked() {
        let shards = Shards::new(2).unwrap();
        let first = shards.pick();
        let _waiting = shards.spawn(first, std::future::pending::<()>);
        assert_ne!(shards.pick(), first);
    }

    #[tokio::test]
    async fn what_a_shard_starts_stays_there_unless_it_has_much_more_to_do() {
        let shards = Shards::new(2).unwrap();
        let near = shards.clone();
        let picked = |shards: Shards| shards.spawn(1, move || async move { near.pick_near() });
        assert_eq!(picked(shards.clone()).await, Ok(1));
        let _waiting: Vec<_> = (0..=NEAR_TASKS).map(|_| shards.spawn(1, std::future::pending::<()>)).collect();
        let near = shards.clone();
        assert_eq!(shards.spawn(1, move || async move { near.pick_near() }).await, Ok(0));
    }

    #[tokio::test]
    async fn what_a_shard_looks_after_is_no_task_of_it() {
        let shards = Shards::new(2).unwrap();
        let (told, here) = oneshot::channel();
        let waiting = async move {
            told.send(Shards::here()).unwrap();
            std::future::pending().await
        };
        shards.attend(0, Box::pin(waiting));
        assert_eq!(here.await, Ok(Some(0)));
        assert_eq!(shards.pick(), 0, "it has no more to do than the other one");
        let (ran, dropped) = oneshot::channel();
        shards.attend(2, Box::pin(async move { ran.send(()).unwrap() }));
        assert!(dropped.await.is_err(), "there is no such shard");
    }

    #[tokio::test]
    async fn everything_ends_with_the_shards() {
        let shards = Shards::new(1).unwrap();
        let task = shards.spawn(0, std::future::pending::<()>);
        drop(shards);
        assert_eq!(task.await, Err(TaskError::Ended));
    }
}
