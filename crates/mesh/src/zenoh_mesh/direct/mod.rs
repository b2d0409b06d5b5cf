//! Direct lines: what a user waits for goes to a neighbour over connections of our own beside Zenoh's link.
//!
//! A request by way of Zenoh passes several of its threads on both sides, and each wakes the next one; that takes longer than the network.
//! So between two nodes that are linked, whoever dialled the link also dials direct lines: TLS with the same certificates, to the same port, told
//! apart by the protocol that the handshake asks for (ALPN). Each is read on one of the threads where functions run ([`crate::Threads`]) and
//! serves requests of both sides. Presence, hellos, pings and everything else stay on Zenoh, and whatever has no line goes by it as well:
//! a lost line leaves its requests without an answer, and the agent repeats them.
//!
//! `frame` is what goes over a line, `wire` puts it into TLS and out of it, `line` is one line, `dial` makes and takes them.

mod dial;
mod frame;
mod line;
mod wire;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use littoral_model::id::NodeId;
use metrics::{Counter, Gauge};
use tokio_util::sync::CancellationToken;

use self::dial::Connected;
pub(super) use self::dial::{accept, lines_of, listen, tls_config};
use self::frame::BODY_BYTES_MAX;
use self::line::{Answer, Line};
use crate::call::Method;
use crate::carrier::Receiver;
use crate::frame::{Envelope, ReplyError};
use crate::sync::{Lock, lock};
use crate::threads::Threads;

/// How many lines there may be to one node: those it dials, and those dialled to it.
const LINES_PER_NODE_MAX: usize = 16;
/// How many lines there may be in all.
const LINES_MAX: usize = 4096;
/// How long a line may be there before its other end is seen as a neighbour.
const UNCONFIRMED_MAX: Duration = Duration::from_secs(10);

/// What is carried over direct lines: what a user waits for, and small enough that none stops the others for long.
fn goes_direct(method: u8) -> bool {
    matches!(Method::from_wire(method), Some(Method::Invoke | Method::Call | Method::Compose))
}

/// How many direct lines a node has, and what went over them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectLines {
    /// The lines there are now.
    pub lines: usize,
    /// Requests of this node that were answered over one.
    pub answered: u64,
}

/// What a request comes to.
pub(super) enum Asked {
    /// The other side has answered.
    Answered(Result<Bytes, ReplyError>),
    /// The line was lost: it may have arrived or not.
    Lost,
    /// It goes by the other way, or its answer does.
    NotHere,
}

/// The direct lines of a node.
pub(super) struct Direct {
    me: NodeId,
    fabric: String,
    threads: Arc<dyn Threads>,
    state: Lock<State>,
    receiver: OnceLock<Weak<dyn Receiver>>,
    answered: AtomicU64,
    answers: Counter,
    open: Gauge,
    cancel: CancellationToken,
}

#[derive(Default)]
struct State {
    lines: HashMap<NodeId, Vec<Arc<Line>>>,
    refused: HashSet<NodeId>,
    closed: bool,
}

impl Direct {
    pub(super) fn new(me: NodeId, fabric: String, threads: Arc<dyn Threads>, cancel: CancellationToken) -> Self {
        Self {
            me,
            fabric,
            threads,
            state: Lock::default(),
            receiver: OnceLock::new(),
            answered: AtomicU64::new(0),
            answers: metrics::counter!("littoral_mesh_direct_answers_total"),
            open: metrics::gauge!("littoral_mesh_direct_lines"),
            cancel,
        }
    }

    /// Says who handles what arrives; once.
    pub(super) fn attach(&self, receiver: Weak<dyn Receiver>) {
        let _ = self.receiver.set(receiver);
    }

    pub(super) fn report(&self) -> DirectLines {
        let lines = lock(&self.state).lines.values().map(Vec::len).sum();
        DirectLines { lines, answered: self.answered.load(Ordering::Relaxed) }
    }

    /// Asks a neighbour over a line, if there is one and the request is of that kind.
    pub(super) async fn ask(&self, node: &NodeId, envelope: &Envelope, encoded: &[u8], payload: &Bytes) -> Asked {
        if !goes_direct(envelope.method) || payload.len() > BODY_BYTES_MAX {
            return Asked::NotHere;
        }
        let Some(line) = self.line(node) else { return Asked::NotHere };
        match line.ask(encoded, payload.clone()).await {
            Some(Answer::Reply(reply)) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                self.answers.increment(1);
                Asked::Answered(reply)
            }
            Some(Answer::Elsewhere) => Asked::NotHere,
            None => Asked::Lost,
        }
    }

    /// The line to a node that is read on this thread, or another one; the newest, in case that the end of older ones is not known yet.
    fn line(&self, node: &NodeId) -> Option<Arc<Line>> {
        let here = self.threads.here();
        let state = lock(&self.state);
        let lines = state.lines.get(node)?;
        let near = lines.iter().rfind(|line| Some(line.thread) == here);
        near.or_else(|| lines.get(here.unwrap_or(0) % lines.len().max(1))).map(Arc::clone)
    }

    /// Keeps lines to neighbours only: a link that is lost takes its lines with it.
    pub(super) fn keep(&self, neighbours: &HashSet<NodeId>) {
        self.close_where("it is no neighbour", |line| {
            if neighbours.contains(&line.peer.node) {
                line.confirmed.store(true, Ordering::Relaxed);
                return false;
            }
            line.confirmed.load(Ordering::Relaxed) || line.born.elapsed() > UNCONFIRMED_MAX
        });
    }

    /// Shuts a node out.
    pub(super) fn refuse(&self, node: &NodeId) {
        lock(&self.state).refused.insert(node.clone());
        self.close_where("it was revoked", |line| line.peer.node == *node);
    }

    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.close_where("this node is stopping", |_| true);
    }

    fn close_where(&self, why: &str, is_it: impl Fn(&Line) -> bool) {
        let lines: Vec<_> =
            lock(&self.state).lines.values().flatten().filter(|line| is_it(line)).map(Arc::clone).collect();
        for line in lines {
            line.close(&why);
        }
    }

    /// Reads a connection on a thread until it ends, unless there is a reason not to.
    async fn serve(self: &Arc<Self>, connected: Connected, thread: Option<usize>) -> Result<(), String> {
        self.admit(&connected.peer.node)?;
        let thread = thread.unwrap_or_else(|| self.least_read(&connected.peer.node));
        let (ended, end) = tokio::sync::oneshot::channel();
        let direct = Arc::clone(self);
        let reading = async move {
            let result = direct.read(connected, thread).await;
            // Who dialled may be gone.
            let _ = ended.send(result);
        };
        self.threads.run(thread, Box::pin(reading));
        end.await.unwrap_or_else(|_| Err("its thread has ended".to_owned()))
    }

    async fn read(&self, connected: Connected, thread: usize) -> Result<(), String> {
        let Connected { socket, tls, peer } = connected;
        let receiver = self.receiver.get().ok_or_else(|| "this node is starting".to_owned())?;
        let line = Line::new(socket, tls, peer, thread, self.cancel.child_token());
        let line = Arc::new(line.map_err(|error| error.to_string())?);
        self.add(&line)?;
        line.run(receiver).await;
        self.remove(&line);
        Ok(())
    }

    fn admit(&self, node: &NodeId) -> Result<(), String> {
        let state = lock(&self.state);
        if state.closed || state.refused.contains(node) || *node == self.me {
            return Err(format!("no line is kept with {node}"));
        }
        let held = state.lines.get(node).map_or(0, Vec::len);
        if held >= LINES_PER_NODE_MAX || state.lines.values().map(Vec::len).sum::<usize>() >= LINES_MAX {
            return Err(format!("there are too many lines, {held} of them to {node}"));
        }
        Ok(())
    }

    fn add(&self, line: &Arc<Line>) -> Result<(), String> {
        // Whoever was shut out meanwhile.
        self.admit(&line.peer.node)?;
        lock(&self.state).lines.entry(line.peer.node.clone()).or_default().push(Arc::clone(line));
        self.open.increment(1.0);
        tracing::debug!(node = %line.peer.node, thread = line.thread, "a direct line is up");
        Ok(())
    }

    fn remove(&self, line: &Arc<Line>) {
        let mut state = lock(&self.state);
        if let Some(lines) = state.lines.get_mut(&line.peer.node) {
            lines.retain(|other| !Arc::ptr_eq(other, line));
            if lines.is_empty() {
                state.lines.remove(&line.peer.node);
            }
        }
        self.open.decrement(1.0);
    }

    /// The thread that reads the fewest lines of a node, and of all among those.
    fn least_read(&self, node: &NodeId) -> usize {
        let state = lock(&self.state);
        let of = |lines: Option<&Vec<Arc<Line>>>, thread| {
            lines.map_or(0, |lines| lines.iter().filter(|line| line.thread == thread).count())
        };
        let all = |thread| state.lines.values().map(|lines| of(Some(lines), thread)).sum::<usize>();
        (0..self.threads.count()).min_by_key(|&thread| (of(state.lines.get(node), thread), all(thread))).unwrap_or(0)
    }
}
