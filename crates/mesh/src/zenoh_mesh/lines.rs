//! The sessions of a node, whom they see, and how a request travels.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use littoral_model::id::NodeId;
use littoral_model::wire::{VersionRange, WireError};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify, oneshot, watch};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use zenoh::bytes::ZBytes;
use zenoh::liveliness::LivelinessToken;
use zenoh::qos::CongestionControl;
use zenoh::query::{ConsolidationMode, Query, Queryable};
use zenoh::sample::{Sample, SampleKind};
use zenoh::{Config, Session, Wait as _};

use super::direct::{Asked, Direct};
use super::keys::NodeKeys;
use super::wire::{Outlets, Unanswered, answer, take_bytes, urgency};
use crate::call::Priority;
use crate::carrier::{Presence, Receiver, RouteId};
use crate::frame::{Envelope, ReplyError};
use crate::identity::Identity;
use crate::probe::{LinkError, probe};
use crate::sync::{Lock, lock};

/// Zenoh's own timeout is this much later than ours: its answer would be taken for a peer's.
const TIMEOUT_MARGIN: Duration = Duration::from_secs(1);
/// Pauses between attempts to open a client's session.
const OPEN_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// When the list of direct links is read again after a link came or went, which Zenoh may tell before the list shows it, and
/// how often it is read at least.
const NEIGHBOURS_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));
/// How long a node without any link waits before it finds out why, and before it does so again.
const EXPLAIN_PERIOD: Duration = Duration::from_secs(2);
/// The most keys that tell of one way: each stands for one time that it was declared anew and not withdrawn yet.
const ALIVE_MAX: usize = 8;
/// The most ways that are kept; each node has one or two.
const ROUTES_MAX: usize = 16_384;

/// A way to another node.
struct Route {
    /// Which of our sessions.
    line: usize,
    /// The liveliness keys that tell of it: one, or two while it is declared anew.
    alive: Vec<String>,
    node: NodeId,
    incarnation: u64,
    /// The key that answers calls: that of the newest.
    call: String,
    /// The session at its end.
    zid: String,
    /// How many bytes of requests are under way.
    unanswered: Arc<AtomicUsize>,
}

/// One session and what it has declared.
struct Open {
    session: Session,
    declared: Declared,
    /// What answered calls before it declared itself anew: some may be on their way.
    before: Option<Queryable<()>>,
    /// How many times it has declared itself anew.
    times: usize,
}

/// What tells of a session and answers calls, as long as it is held.
struct Declared {
    queryable: Queryable<()>,
    token: LivelinessToken,
}

#[derive(Default)]
struct State {
    lines: HashMap<usize, Open>,
    routes: BTreeMap<RouteId, Route>,
    next: RouteId,
    /// The session ids that each line is linked to directly.
    neighbours: HashMap<usize, HashSet<String>>,
    closed: bool,
}

impl State {
    fn is_direct(&self, route: &Route) -> bool {
        self.neighbours.get(&route.line).is_some_and(|zids| zids.contains(&route.zid))
    }
}

pub(super) struct Lines {
    keys: NodeKeys,
    state: Lock<State>,
    /// Notified when a link came or went.
    linked: Arc<Notify>,
    /// Whether there is any link.
    is_linked: watch::Sender<bool>,
    receiver: OnceLock<Weak<dyn Receiver>>,
    direct: Arc<Direct>,
    outlets: Outlets,
    /// Held while this node declares itself anew.
    declaring: Arc<Mutex<()>>,
    runtime: Handle,
    cancel: CancellationToken,
}

impl Lines {
    pub(super) fn new(keys: NodeKeys, direct: Arc<Direct>, cancel: CancellationToken) -> Self {
        Self {
            keys,
            state: Lock::default(),
            linked: Arc::default(),
            is_linked: watch::Sender::new(false),
            receiver: OnceLock::new(),
            direct,
            outlets: Outlets::new(Handle::current()),
            declaring: Arc::default(),
            runtime: Handle::current(),
            cancel,
        }
    }

    /// Says who handles what arrives; once.
    pub(super) fn attach(&self, receiver: &Weak<dyn Receiver>) {
        let _ = self.receiver.set(Weak::clone(receiver));
        self.direct.attach(Weak::clone(receiver));
    }

    /// Whether there is any link.
    pub(super) fn is_linked(&self) -> watch::Receiver<bool> {
        self.is_linked.subscribe()
    }

    /// Has no lines with a node that was shut out.
    pub(super) fn refuse(&self, node: &NodeId) {
        self.direct.refuse(node);
    }

    fn receiver(&self) -> Option<Arc<dyn Receiver>> {
        self.receiver.get()?.upgrade()
    }

    pub(super) fn zid(&self, line: usize) -> String {
        self.keys.zid(&self.keys.node, self.keys.incarnation, line)
    }

    /// Opens a session again and again until it is open; Zenoh keeps it linked from then on.
    pub(super) async fn open_for_ever(self: Arc<Self>, line: usize, config: Config) {
        let mut pause = OPEN_PAUSE.0;
        while !self.cancel.is_cancelled() {
            match self.open(line, config.clone()).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(line, error, "the gateway cannot be reached; trying again"),
            }
            tokio::select! {
                () = sleep(pause) => pause = (pause * 2).min(OPEN_PAUSE.1),
                () = self.cancel.cancelled() => {}
            }
        }
    }

    /// Opens a session and declares this node on it.
    pub(super) async fn open(self: &Arc<Self>, line: usize, config: Config) -> Result<(), String> {
        let session = zenoh::open(config).await.map_err(|error| error.to_string())?;
        let declared = match self.watch_and_declare(line, &session).await {
            Ok(declared) => declared,
            Err(error) => {
                let _ = session.close().await;
                return Err(error.to_string());
            }
        };
        let late = {
            let mut state = lock(&self.state);
            if !state.closed {
                state.lines.insert(line, Open { session: session.clone(), declared, before: None, times: 0 });
            }
            state.closed
        };
        if late {
            let _ = session.close().await;
        }
        Ok(())
    }

    /// Has a session tell who is there, and declares this node on it.
    async fn watch_and_declare(self: &Arc<Self>, line: usize, session: &Session) -> zenoh::Result<Declared> {
        let lines = Arc::downgrade(self);
        session
            .liveliness()
            .declare_subscriber(self.keys.everybody())
            .history(true)
            .callback(move |sample| {
                if let Some(lines) = lines.upgrade() {
                    lines.presence(line, &sample);
                }
            })
            .background()
            .await?;
        let linked = Arc::clone(&self.linked);
        session.info().transport_events_listener().callback(move |_| linked.notify_one()).background().await?;
        self.declare(line, session)
    }

    /// Declares this node on a session, under a number of it; blocks while its links have no room.
    fn declare(self: &Arc<Self>, number: usize, session: &Session) -> zenoh::Result<Declared> {
        let lines = Arc::downgrade(self);
        let queryable = session
            .declare_queryable(self.keys.call(number))
            .complete(true)
            .callback(move |query| {
                if let Some(lines) = lines.upgrade() {
                    lines.arrived(query);
                }
            })
            .wait()?;
        // Last: whoever sees it may call at once.
        let token = session.liveliness().declare_token(self.keys.alive(number)).wait()?;
        Ok(Declared { queryable, token })
    }

    /// Declares this node once more on all sessions, under numbers that nobody knows yet: Zenoh's routers pass on only what is
    /// new to them. They may have lost what was declared before, where a link came back while they counted it among their own.
    /// Links without room hold that up, for seconds perhaps: a thread made for it, and it is not begun again meanwhile.
    pub(super) async fn declare_anew(self: &Arc<Self>) {
        let Ok(declaring) = Arc::clone(&self.declaring).try_lock_owned() else { return };
        let lines = Arc::clone(self);
        let declared = self.runtime.spawn_blocking(move || {
            let _declaring = declaring;
            lines.declare_all_anew();
        });
        if let Err(error) = declared.await {
            tracing::debug!(%error, "could not declare this node anew; it tries again when it is missed");
        }
    }

    fn declare_all_anew(self: &Arc<Self>) {
        let sessions: Vec<_> = lock(&self.state)
            .lines
            .iter_mut()
            .map(|(line, open)| {
                open.times += 1;
                (*line, open.times, open.session.clone())
            })
            .collect();
        for (line, times, session) in sessions {
            let declared = match self.declare(NodeKeys::number(line, times), &session) {
                Ok(declared) => declared,
                Err(error) => {
                    tracing::debug!(line, %error, "could not declare this node anew; it tries again when it is missed");
                    continue;
                }
            };
            let mut state = lock(&self.state);
            let replaced = match state.lines.get_mut(&line) {
                Some(open) => {
                    let Declared { queryable, token } = std::mem::replace(&mut open.declared, declared);
                    (open.before.replace(queryable), token)
                }
                // It was closed meanwhile.
                None => (Some(declared.queryable), declared.token),
            };
            // What is replaced is withdrawn outside the lock: that sends something.
            drop(state);
            drop(replaced);
        }
    }

    /// Notes that a node came or went, as one session sees it. Called by Zenoh: must not block.
    fn presence(&self, line: usize, sample: &Sample) {
        let key = sample.key_expr().as_str();
        let Some((node, incarnation, call, zid)) = self.keys.parse_alive(key) else { return };
        if node == self.keys.node {
            return;
        }
        tracing::debug!(line, key, kind = %sample.kind(), "presence");
        {
            let mut state = lock(&self.state);
            // Who is told of again, or declares itself anew, keeps its way, so that calls under way are not disturbed.
            let is_same = |route: &Route| (route.line, route.incarnation) == (line, incarnation) && route.zid == zid;
            let has_room = state.routes.len() < ROUTES_MAX;
            let known = state.routes.iter_mut().find(|(_, route)| is_same(route));
            match (sample.kind(), known) {
                (SampleKind::Delete, Some((id, route))) => {
                    let id = *id;
                    route.alive.retain(|known| known != key);
                    match route.alive.last().and_then(|newest| self.keys.parse_alive(newest)) {
                        Some((_, _, call, _)) => {
                            route.call = call;
                            return;
                        }
                        None => drop(state.routes.remove(&id)),
                    }
                }
                (SampleKind::Put, Some((_, route))) => {
                    if route.alive.len() < ALIVE_MAX && !route.alive.iter().any(|known| known == key) {
                        route.alive.push(key.to_owned());
                        route.call = call;
                    }
                    return;
                }
                (SampleKind::Put, None) if has_room => {
                    state.next += 1;
                    let id = state.next;
                    let alive = vec![key.to_owned()];
                    state
                        .routes
                        .insert(id, Route { line, alive, node, incarnation, call, zid, unanswered: Arc::default() });
                }
                _ => return,
            }
        }
        self.keep_neighbours();
        if let Some(receiver) = self.receiver() {
            receiver.presence_changed();
        }
    }

    /// Ends the lines to nodes that are no neighbours any more.
    fn keep_neighbours(&self) {
        let neighbours = {
            let state = lock(&self.state);
            state.routes.values().filter(|route| state.is_direct(route)).map(|route| route.node.clone()).collect()
        };
        self.direct.keep(&neighbours);
    }

    /// Direct ways first, then the oldest.
    pub(super) fn presences(&self) -> Vec<Presence> {
        let state = lock(&self.state);
        let mut routes: Vec<_> = state.routes.iter().map(|(id, route)| (!state.is_direct(route), *id, route)).collect();
        routes.sort_by_key(|(far, id, _)| (*far, *id));
        routes
            .into_iter()
            .map(|(_, id, route)| Presence { node: route.node.clone(), incarnation: route.incarnation, route: id })
            .collect()
    }

    pub(super) fn is_neighbour(&self, node: &NodeId) -> bool {
        let state = lock(&self.state);
        state.routes.values().any(|route| route.node == *node && state.is_direct(route))
    }

    /// Keeps the list of direct links.
    pub(super) async fn watch_neighbours(self: Arc<Self>) {
        let mut pause = NEIGHBOURS_PAUSE.0;
        loop {
            tokio::select! {
                () = sleep(pause) => pause = NEIGHBOURS_PAUSE.1,
                () = self.linked.notified() => pause = NEIGHBOURS_PAUSE.0,
                () = self.cancel.cancelled() => return,
            }
            let sessions: Vec<_> =
                lock(&self.state).lines.iter().map(|(line, open)| (*line, open.session.clone())).collect();
            let mut changed = false;
            for (line, session) in sessions {
                let zids: HashSet<String> =
                    session.info().transports().await.map(|transport| transport.zid().to_string()).collect();
                let mut state = lock(&self.state);
                if state.neighbours.get(&line) != Some(&zids) {
                    state.neighbours.insert(line, zids);
                    changed = true;
                }
            }
            self.keep_neighbours();
            self.is_linked.send_replace(lock(&self.state).neighbours.values().any(|zids| !zids.is_empty()));
            if let (true, Some(receiver)) = (changed, self.receiver()) {
                receiver.presence_changed();
            }
        }
    }

    /// Says in the log why there is no link, for as long as there is none at all.
    pub(super) async fn explain(self: Arc<Self>, identity: Identity, endpoints: Vec<String>) {
        let mut said: HashMap<&String, LinkError> = HashMap::new();
        let mut is_linked = self.is_linked.subscribe();
        loop {
            if *is_linked.borrow_and_update() {
                said.clear();
                tokio::select! {
                    _ = is_linked.changed() => {}
                    () = self.cancel.cancelled() => return,
                }
            }
            tokio::select! {
                () = sleep(EXPLAIN_PERIOD) => {}
                () = self.cancel.cancelled() => return,
            }
            if *is_linked.borrow() {
                continue;
            }
            for endpoint in &endpoints {
                let Err(reason) = probe(&identity, endpoint).await else { continue };
                if said.get(endpoint) != Some(&reason) {
                    tracing::warn!("not linked to the fabric: {reason}");
                    said.insert(endpoint, reason);
                }
            }
        }
    }

    /// Takes an arrived query. Called by Zenoh: must not block.
    fn arrived(self: &Arc<Self>, query: Query) {
        let Some(receiver) = self.receiver() else { return };
        let envelope = query.attachment().map(ZBytes::to_bytes);
        let envelope = Envelope::decode(envelope.as_deref().unwrap_or_default());
        let payload = query.payload().map(take_bytes).unwrap_or_default();
        let (lines, handler) = (Arc::clone(self), Arc::clone(&receiver));
        let method = envelope.as_ref().ok().map(|envelope| envelope.method);
        let handling = Box::pin(async move {
            let (priority, outcome) = match envelope {
                Ok(envelope) => (envelope.priority, handler.receive(envelope, payload).await),
                Err(WireError::Version { .. }) => (Priority::Control, Err(ReplyError::Version(VersionRange::OURS))),
                Err(error) => (Priority::Control, Err(ReplyError::Refused(error.to_string()))),
            };
            lines.reply(query, priority, outcome).await;
        });
        let left = match method {
            Some(method) => receiver.run(method, handling),
            None => Some(handling as _),
        };
        if let Some(handling) = left {
            self.runtime.spawn(handling);
        }
    }

    async fn reply(&self, query: Query, priority: Priority, outcome: Result<Bytes, ReplyError>) {
        let bytes = outcome.as_ref().map_or(0, Bytes::len);
        let sent = self.outlets.hand_over(priority, bytes, bytes, move || match outcome {
            Ok(reply) => query.reply(query.key_expr().clone(), ZBytes::from(reply)).wait(),
            Err(error) => query.reply_err(ZBytes::from(error.encode())).wait(),
        });
        if let Some(Err(error)) = sent.await {
            tracing::debug!(%error, "a reply could not be sent; the caller asks again");
        }
    }

    /// Moves a request by one way; `None` when there was nobody.
    pub(super) async fn request(
        &self,
        route: RouteId,
        envelope: &Envelope,
        payload: Bytes,
        priority: Priority,
        timeout: Duration,
    ) -> Option<Result<Bytes, ReplyError>> {
        let attachment = match envelope.encode() {
            Ok(attachment) => attachment,
            Err(error) => return Some(Err(ReplyError::Failed(error.to_string()))),
        };
        if let Some(neighbour) = self.neighbour(route) {
            match self.direct.ask(&neighbour, envelope, &attachment, &payload).await {
                Asked::Answered(reply) => return Some(reply),
                Asked::Lost => return None,
                Asked::NotHere => {}
            }
        }
        let (session, key, unanswered) = {
            let state = lock(&self.state);
            let route = state.routes.get(&route)?;
            (state.lines.get(&route.line)?.session.clone(), route.call.clone(), Arc::clone(&route.unanswered))
        };
        let (done, reply) = oneshot::channel();
        let done = Lock::new(Some(done));
        let bytes = payload.len();
        let (_unanswered, under_way) = Unanswered::count(unanswered, bytes);
        let sent = self.outlets.hand_over(priority, bytes, under_way, move || {
            session
                .get(key)
                .payload(ZBytes::from(payload))
                .attachment(ZBytes::from(attachment))
                .priority(urgency(priority))
                .congestion_control(CongestionControl::Block)
                .express(priority == Priority::Control)
                .consolidation(ConsolidationMode::None)
                .timeout(timeout + TIMEOUT_MARGIN)
                // Zenoh drops the callback when no more replies can come: then the channel closes.
                .callback(move |reply| {
                    if let Some(done) = lock(&done).take() {
                        let _ = done.send(reply);
                    }
                })
                .wait()
        });
        if let Err(error) = sent.await? {
            tracing::debug!(%error, "a request could not be sent");
            return None;
        }
        answer(reply.await.ok()?)
    }

    /// The key that answers the calls of a way.
    #[cfg(test)]
    pub(super) fn call_key(&self, route: RouteId) -> Option<String> {
        lock(&self.state).routes.get(&route).map(|route| route.call.clone())
    }

    /// Whoever declares something waits for `until`, as where a link has no room.
    #[cfg(test)]
    pub(super) fn hold_up(&self, until: impl FnOnce()) {
        let _state = lock(&self.state);
        until();
    }

    /// What answers a session's calls is no longer known, and what tells of it is.
    #[cfg(test)]
    pub(super) fn lose_calls(&self, line: usize) -> zenoh::Result<()> {
        let session = lock(&self.state).lines.get(&line).map(|open| open.session.clone()).ok_or("it is not open")?;
        let key = format!("{}/lost", self.keys.call(line));
        let elsewhere = session.declare_queryable(key).callback(drop).wait()?;
        let mut state = lock(&self.state);
        let lost = state.lines.get_mut(&line).map(|open| std::mem::replace(&mut open.declared.queryable, elsewhere));
        drop(state);
        drop(lost);
        Ok(())
    }

    /// How many times a session has declared itself anew.
    #[cfg(test)]
    pub(super) fn times(&self, line: usize) -> Option<usize> {
        lock(&self.state).lines.get(&line).map(|open| open.times)
    }

    /// Whom a way leads to, if they are linked.
    fn neighbour(&self, route: RouteId) -> Option<NodeId> {
        let state = lock(&self.state);
        state.routes.get(&route).filter(|route| state.is_direct(route)).map(|route| route.node.clone())
    }

    /// Takes this node off: the others see it at once.
    pub(super) async fn close(&self) {
        self.cancel.cancel();
        let lines = {
            let mut state = lock(&self.state);
            state.closed = true;
            state.routes.clear();
            std::mem::take(&mut state.lines)
        };
        self.direct.close();
        for line in lines.into_values() {
            if let Err(error) = line.session.close().await {
                tracing::debug!(%error, "a session did not close cleanly");
            }
        }
    }
}
