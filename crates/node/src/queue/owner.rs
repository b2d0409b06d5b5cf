//! A queue that this node owns: feeds `control::queue` what happens, commits what has changed, then tells those who asked
//! and has the function run what is due, wherever it runs.
//!
//! One task does it all, a turn at a time: gather what is there, decide, commit as one entry, act. Calls that arrive
//! together thus share a write to the disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use littoral_control::queue::{Added, Queue, Run, Settings};
use littoral_flow::Ended;
use littoral_flow::stats::now_us;
use littoral_mesh::Mesh;
use littoral_model::entry::{Commit, InputPosition};
use littoral_model::id::{AppId, FunctionName, InvocationId};
use littoral_model::invocation::{
    Answer, BODY_BYTES_MAX, HEADERS_BYTES_MAX, InvocationName, QueueAsk, QueueReply, Record, State, StateKind,
    headers_bytes,
};
use littoral_model::manifest::{self, Later};
use littoral_model::work::WorkId;
use littoral_store::replica::Owned;
use tokio::sync::{mpsc, oneshot};

use super::running::{Outcome, Running};
use super::triggers::{Fired, Triggers};
use super::waiters::Waiters;
use super::{Queues, WAIT_MS_MAX, http};
use crate::admin::events::EventKind;
use crate::events::Events;
use crate::functions::Functions;
use crate::intent::{App, IntentStore};

/// How many questions one turn takes, and about how many bytes it commits: with one call or answer more it still fits
/// an entry.
const TURN: (usize, usize) = (256, 3 << 20);
/// How long a function may take on top of its own time before it is taken for lost: links, and other nodes to ask.
const CALL_ALLOWANCE: Duration = Duration::from_secs(10);
/// While so many calls wait, triggers wait with theirs, and leave the room to calls.
const TRIGGERED_MAX: usize = 1_000;
/// How long an owner sleeps at most: settings and schedules may have changed.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// How often the size of a queue is reported at most: it is counted.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// A question, and where its answer goes.
pub(super) struct Asked {
    pub(super) ask: QueueAsk,
    pub(super) reply: Reply,
}

type Reply = oneshot::Sender<QueueReply>;

/// The owner of a queue.
pub(super) struct Owner {
    owned: Owned,
    app: AppId,
    function: FunctionName,
    intent: Arc<IntentStore>,
    functions: Arc<Functions>,
    mesh: Arc<dyn Mesh>,
    events: Arc<Events>,
    asks: mpsc::Receiver<Asked>,
    waiters: Waiters<Reply>,
    queue: Queue,
    triggers: Triggers,
    /// Triggers wait until the queue has more room.
    held: bool,
    /// When the queue's size was reported last.
    reported: Option<Instant>,
    running: Running,
}

/// What one turn commits and says.
#[derive(Default)]
struct Turn {
    /// How many questions were taken.
    asked: usize,
    replies: Vec<(Reply, QueueReply)>,
    inputs: Vec<InputPosition>,
    bytes: usize,
}

impl Turn {
    fn has_room(&self) -> bool {
        self.asked < TURN.0 && self.bytes < TURN.1
    }
}

impl Owner {
    /// Takes over what is committed.
    pub(super) async fn open(
        owned: Owned,
        app: &Arc<App>,
        queues: &Queues,
        asks: mpsc::Receiver<Asked>,
    ) -> Result<Self, Ended> {
        let work = owned.work().clone();
        let function = FunctionName::new(&work.name).map_err(|error| Ended::Failed(error.to_string()))?;
        let settings = settings(app, &function).ok_or_else(|| no_queue(&work))?;
        let restored = owned.restore().await?;
        let seed = owned.epoch().0 ^ u64::from(crc32c::crc32c(work.to_string().as_bytes()));
        let committed = restored.state.iter().map(|(slot, bytes)| (*slot, bytes.as_ref()));
        let queue =
            Queue::restore(settings, seed, committed).map_err(|error| Ended::Failed(format!("{work}: {error}")))?;
        let triggers = Triggers::new(app, &function, &work, Arc::clone(&queues.source), &restored.inputs);
        Ok(Self {
            owned,
            app: app.id.clone(),
            function,
            intent: Arc::clone(&queues.intent),
            functions: Arc::clone(&queues.functions),
            mesh: Arc::clone(&queues.mesh),
            events: Arc::clone(&queues.events),
            asks,
            waiters: Waiters::default(),
            queue,
            triggers,
            held: false,
            reported: None,
            running: Running::default(),
        })
    }

    /// Owns the queue until another node does.
    pub(super) async fn run(mut self) -> Ended {
        loop {
            match self.turn().await {
                Ok(()) => {}
                Err(ended) => return ended,
            }
        }
    }

    async fn turn(&mut self) -> Result<(), Ended> {
        let mut turn = Turn::default();
        self.wait(&mut turn).await?;
        let now = now_us();
        if let Some(settings) = self.settings() {
            self.queue.configure(settings);
        }
        while turn.has_room() {
            match self.asks.try_recv() {
                Ok(asked) => self.take(asked, now, &mut turn),
                Err(_) => break,
            }
        }
        while turn.has_room()
            && let Some(ended) = self.running.try_next()
        {
            self.end(ended, now, &mut turn);
        }
        self.fire(now, &mut turn);
        self.queue.expire(now);
        self.commit(&mut turn).await?;
        for (reply, answer) in turn.replies {
            // Who does not wait any more asks again.
            reply.send(answer).ok();
        }
        self.answer_waiters();
        for run in self.queue.start(now_us()) {
            self.start(run);
        }
        self.tell().await;
        self.report();
        Ok(())
    }

    /// Tells people of records that were passed over.
    async fn tell(&mut self) {
        for text in self.triggers.passed_over() {
            let subject = format!("function {}", self.function);
            self.events.note(&self.app.app, subject, EventKind::Helpless, text).await;
        }
    }

    /// Waits until there is something to do, and takes the first of it.
    async fn wait(&mut self, turn: &mut Turn) -> Result<(), Ended> {
        let now = now_us();
        let fires = if self.held { None } else { self.triggers.next_us(&self.queue, now) };
        let next = [self.queue.next_us(), fires].into_iter().flatten().min();
        let sleep = next.map_or(SLEEP_MAX, |next| {
            Duration::from_micros(u64::try_from(next - now).unwrap_or_default()).min(SLEEP_MAX)
        });
        let patience = self.waiters.next().map(|until| until.saturating_duration_since(Instant::now()));
        let sleep = patience.map_or(sleep, |patience| patience.min(sleep));
        tokio::select! {
            () = self.owned.lost() => Err(Ended::Fenced),
            Some(asked) = self.asks.recv() => {
                self.take(asked, now_us(), turn);
                Ok(())
            }
            Some(ended) = self.running.next() => {
                self.end(ended, now_us(), turn);
                Ok(())
            }
            () = self.triggers.arrived() => Ok(()),
            () = tokio::time::sleep(sleep) => Ok(()),
        }
    }

    fn take(&mut self, Asked { ask, reply }: Asked, now: i64, turn: &mut Turn) {
        turn.asked += 1;
        let Some(reply) = self.have_wait(&ask, reply) else { return };
        let answer = match ask {
            QueueAsk::Add { id, key, request } => {
                turn.bytes += request.bytes();
                let added = self.queue.add(now, id, key, request);
                counted(
                    &self.app,
                    &self.function,
                    match &added {
                        Added::Accepted { repeated: false, .. } => "accepted",
                        Added::Accepted { repeated: true, .. } => "repeated",
                        Added::Full(_) | Added::KeyTaken => "refused",
                    },
                );
                match added {
                    Added::Accepted { id, repeated } => QueueReply::Accepted { id, repeated },
                    Added::Full(reason) => QueueReply::Full(reason),
                    Added::KeyTaken => QueueReply::KeyTaken,
                }
            }
            QueueAsk::Show { id, .. } => QueueReply::Shown(self.queue.get(id).cloned()),
            QueueAsk::List { limit } => self.list(None, limit),
            QueueAsk::ListOf { state, limit } => self.list(Some(state), limit),
            QueueAsk::Retry { id } => {
                turn.bytes += self.queue.get(id).and_then(|record| Some(record.request.as_ref()?.bytes())).unwrap_or(0);
                QueueReply::Changed(self.queue.retry(now, id))
            }
            QueueAsk::Drop { id } => QueueReply::Changed(self.queue.forget(id)),
        };
        turn.replies.push((reply, answer));
    }

    fn list(&self, of: Option<StateKind>, limit: u32) -> QueueReply {
        let latest = self.queue.latest(of).into_iter().take(usize::try_from(limit).unwrap_or(usize::MAX));
        QueueReply::Listed(latest.map(outline).collect())
    }

    /// Has somebody wait for the end of an invocation, who asks for that, while it has none; gives back who is answered now.
    fn have_wait(&mut self, ask: &QueueAsk, reply: Reply) -> Option<Reply> {
        let QueueAsk::Show { id, wait_ms } = *ask else { return Some(reply) };
        let is_pending = self.queue.get(id).is_some_and(|record| matches!(record.state, State::Pending { .. }));
        if wait_ms == 0 || !is_pending {
            return Some(reply);
        }
        let until = Instant::now() + Duration::from_millis(wait_ms.min(WAIT_MS_MAX).into());
        self.waiters.add(id, until, reply).err()
    }

    /// Answers those that wait for what has ended with the last commit, and those that have waited long enough.
    fn answer_waiters(&mut self) {
        let mut answered = self.waiters.late(Instant::now());
        for id in self.queue.ended() {
            answered.extend(self.waiters.of(id).into_iter().map(|reply| (id, reply)));
        }
        for (id, reply) in answered {
            // Who does not wait any more asks again.
            reply.send(QueueReply::Shown(self.queue.get(id).cloned())).ok();
        }
    }

    fn end(&mut self, (id, outcome): (InvocationId, Outcome), now: i64, turn: &mut Turn) {
        // A try that failed is written down with its request.
        turn.bytes += self.queue.get(id).and_then(|record| Some(record.request.as_ref()?.bytes())).unwrap_or(0);
        match outcome {
            Outcome::Answered(answer) => {
                turn.bytes += answer.bytes();
                self.queue.answered(now, id, answer);
            }
            Outcome::Unanswered(reason) => self.queue.unanswered(now, id, reason),
        }
        if let Some(record) = self.queue.get(id) {
            counted(
                &self.app,
                &self.function,
                match record.state {
                    State::Pending { .. } => "failed",
                    State::Done { .. } => "done",
                    State::Dead { .. } => "dead",
                },
            );
        }
    }

    /// Takes in what schedules and streams call, with how far they have come, as one entry.
    fn fire(&mut self, now: i64, turn: &mut Turn) {
        while turn.has_room() {
            self.held = self.queue.waiting() >= TRIGGERED_MAX;
            if self.held {
                return;
            }
            let Some(Fired { request, mark }) = self.triggers.next(&self.queue, now) else { return };
            if let Some(request) = request {
                turn.bytes += request.bytes();
                if let Added::Full(reason) = self.queue.add(now, self.mesh.invocation(), None, request) {
                    self.held = true;
                    return tracing::debug!(queue = %self.owned.work(), reason, "a trigger waits");
                }
                counted(&self.app, &self.function, "triggered");
            }
            if let Some(reached) = self.triggers.taken(&mut self.queue, mark) {
                turn.inputs.retain(|before| before.work != reached.work);
                turn.inputs.push(reached);
            }
        }
    }

    async fn commit(&mut self, turn: &mut Turn) -> Result<(), Ended> {
        let state = self.queue.take_changes().map_err(|error| Ended::Failed(error.to_string()))?;
        let inputs = std::mem::take(&mut turn.inputs);
        if state.is_empty() && inputs.is_empty() {
            return Ok(());
        }
        self.owned.append(Commit { state, inputs, ..Commit::default() }).await?.await?;
        self.triggers.committed();
        Ok(())
    }

    /// Has the function run one.
    fn start(&mut self, run: Run) {
        let (functions, app, function) = (Arc::clone(&self.functions), self.app.clone(), self.function.clone());
        let name = InvocationName { queue: self.owned.work().clone(), id: run.id };
        let limit = self.known().map_or(CALL_ALLOWANCE, |known| Duration::from(known.timeout) + CALL_ALLOWANCE);
        self.running.spawn(run.id, async move {
            match http::to_function(&name, &run) {
                Err(reason) => Outcome::Unanswered(reason),
                Ok(request) => match tokio::time::timeout(limit, functions.call(&app, &function, request)).await {
                    Ok(Ok(response)) => Outcome::Answered(answer(response)),
                    Ok(Err(error)) => Outcome::Unanswered(error.to_string()),
                    Err(_) => Outcome::Unanswered(format!("no answer came within {limit:?}")),
                },
            }
        });
    }

    fn known(&self) -> Option<manifest::Function> {
        self.intent.now().apps.get(&self.app)?.manifest.functions.get(&self.function).cloned()
    }

    fn settings(&self) -> Option<Settings> {
        settings(self.intent.now().apps.get(&self.app)?, &self.function)
    }

    fn report(&mut self) {
        if self.reported.is_some_and(|last| last.elapsed() < REPORT_EVERY) {
            return;
        }
        self.reported = Some(Instant::now());
        let (waiting, dead, done) = self.queue.counts();
        for (state, count) in [("waiting", waiting), ("dead", dead), ("done", done)] {
            let queue = self.owned.work().to_string();
            metrics::gauge!("littoral_queue_invocations", "queue" => queue, "state" => state).set(count as f64);
        }
    }
}

fn counted(app: &AppId, function: &FunctionName, what: &'static str) {
    let function = format!("{app}/{function}");
    metrics::counter!("littoral_invocations_total", "function" => function, "what" => what).increment(1);
}

fn no_queue(work: &WorkId) -> Ended {
    Ended::Failed(format!("{work}: its function is not called asynchronously any more"))
}

/// What the manifest says of a queue.
fn settings(app: &App, function: &FunctionName) -> Option<Settings> {
    let Later { attempts, max_age, backoff, keep_results, concurrency, .. } =
        app.manifest.functions.get(function)?.later.as_ref()?;
    let us = |time: &littoral_model::unit::Time| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    Some(Settings {
        attempts: *attempts,
        max_age_us: us(max_age),
        backoff_us: us(backoff),
        keep_us: us(keep_results),
        concurrency: usize::try_from(*concurrency).unwrap_or(usize::MAX),
    })
}

/// An answer as it is kept: one that is too large without its body.
fn answer(response: ::http::Response<Bytes>) -> Answer {
    let (parts, body) = response.into_parts();
    let headers = parts.headers.iter();
    let mut headers: Vec<(String, Bytes)> =
        headers.map(|(name, value)| (name.to_string(), Bytes::copy_from_slice(value.as_bytes()))).collect();
    if headers_bytes(&headers) > HEADERS_BYTES_MAX {
        headers.clear();
    }
    Answer { status: parts.status.as_u16(), headers, body: Some(body).filter(|body| body.len() <= BODY_BYTES_MAX) }
}

/// A record without the bodies of its request and its answer.
fn outline(record: &Record) -> Record {
    let mut record = record.clone();
    if let Some(request) = &mut record.request {
        (request.body, request.headers) = (Bytes::new(), Vec::new());
    }
    if let State::Done { answer, .. } = &mut record.state {
        (answer.body, answer.headers) = (None, Vec::new());
    }
    record
}
