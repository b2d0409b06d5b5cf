//! Asynchronous invocations: finds the queue of a call, has its owner accept it, and asks for what became of it.
//!
//! `owner` runs a queue that this node owns, `running` are its tries that run, `waiters` who waits there for an end; `http` has
//! what clients say and are told in HTTP, `triggers` what calls functions by itself. What a queue does is decided in
//! `control::queue`.

pub(crate) mod http;
mod owner;
mod running;
mod triggers;
mod waiters;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use littoral_flow::Ended;
use littoral_flow::reader::Source;
use littoral_mesh::{Mesh, Method, Priority};
use littoral_model::id::{AppId, FunctionName, SiteId};
use littoral_model::invocation::{InvocationName, QueueAsk, QueueReply, QueueRequest, Record, Request, StateKind};
use littoral_model::manifest::KeyScope;
use littoral_model::work::{WorkId, WorkKind};
use littoral_plan::Role;
use littoral_store::replica::Owned;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::admin::queue::QueueStatus;
use crate::admin::types::AdminError;
use crate::directory::Directory;
use crate::events::Events;
use crate::functions::Functions;
use crate::intent::{App, IntentStore};
use crate::sync::lock;
use crate::wiring::ask;
use owner::{Asked, Owner};

/// How long a queue is tried: longer than it takes to notice that an owner died and to have another one.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long it is tried where another one would do as well.
const DEADLINE_SHORT: Duration = Duration::from_secs(4);
/// How long one owner may take, besides the time that it is asked to wait.
const TRY: Duration = Duration::from_secs(5);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest that one question waits for an end, in milliseconds: below what proxies wait for an answer.
pub(crate) const WAIT_MS_MAX: u32 = 30_000;
/// How many questions may wait for the owner of a queue; more are answered as if the queue were full.
const ASKED_MAX: usize = 1_024;
/// How many invocations of each queue are listed.
const LISTED_MAX: u32 = 1_000;

/// The queues of the fabric, as a node reaches them.
pub(crate) struct Queues {
    pub(crate) site: SiteId,
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) intent: Arc<IntentStore>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) functions: Arc<Functions>,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) events: Arc<Events>,
    /// Where the owners of this node's queues are asked.
    owned: Mutex<HashMap<WorkId, mpsc::Sender<Asked>>>,
}

/// What is listed of a queue.
struct Listed {
    records: Vec<Record>,
    /// Whether there is more.
    is_cut: bool,
}

/// A call that was accepted.
pub(crate) struct Accepted {
    pub(crate) name: InvocationName,
    pub(crate) repeated: bool,
}

impl Queues {
    pub(crate) fn new(
        site: SiteId,
        mesh: Arc<dyn Mesh>,
        intent: Arc<IntentStore>,
        directory: Arc<Directory>,
        functions: Arc<Functions>,
        source: Arc<dyn Source>,
        events: Arc<Events>,
    ) -> Self {
        Self { site, mesh, intent, directory, functions, source, events, owned: Mutex::default() }
    }

    /// Whether a function is called asynchronously at all.
    pub(crate) fn has(&self, app: &AppId, function: &FunctionName) -> bool {
        let apps = self.intent.now();
        let known = apps.apps.get(app).and_then(|app| app.manifest.functions.get(function));
        known.is_some_and(|function| function.later.is_some())
    }

    /// Accepts a call; answers once that is durable. With a key, the call that has it already is answered with.
    pub(crate) async fn add(
        &self,
        app: &AppId,
        function: &FunctionName,
        key: Option<String>,
        request: Request,
    ) -> Result<Accepted, AdminError> {
        let scope = self.scope(app, function)?;
        let queues = candidates(self.queues(app, function), &self.site, scope, key.as_deref());
        // Drawn once: however often it is sent, it is one call.
        let id = self.mesh.invocation();
        let mut last = AdminError::unavailable(format!("{}/{function} has no queue yet", app.app)).hint("try again");
        for (place, queue) in queues.iter().enumerate() {
            let patience = if place + 1 < queues.len() { DEADLINE_SHORT } else { DEADLINE };
            let ask = QueueAsk::Add { id, key: key.clone(), request: request.clone() };
            match self.ask(queue, ask, patience).await {
                Ok(QueueReply::Accepted { id, repeated }) => {
                    return Ok(Accepted { name: InvocationName { queue: queue.clone(), id }, repeated });
                }
                Ok(QueueReply::Full(reason)) => last = AdminError::unavailable(reason).hint("try again later"),
                Ok(QueueReply::KeyTaken) => {
                    return Err(AdminError::refused("the idempotency key was used for a call with another request")
                        .hint("draw a key for each call, and send the same request with it"));
                }
                Ok(other) => last = unexpected(&other),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// What became of an invocation; waits for its end up to so long.
    pub(crate) async fn show(&self, name: &InvocationName, wait_ms: u32) -> Result<Record, AdminError> {
        let wait_ms = wait_ms.min(WAIT_MS_MAX);
        let ask = QueueAsk::Show { id: name.id, wait_ms };
        match self.ask_known(name, ask, DEADLINE).await? {
            QueueReply::Shown(Some(record)) => Ok(record),
            QueueReply::Shown(None) => Err(unknown(name)),
            other => Err(unexpected(&other)),
        }
    }

    /// The invocations of an app, or of one function of it, or of all, those only that stand so if that is said; and the
    /// queues that do not answer, or have more.
    pub(crate) async fn list(
        &self,
        app: Option<&AppId>,
        function: Option<&FunctionName>,
        state: Option<StateKind>,
    ) -> (Vec<(InvocationName, Record)>, Vec<QueueStatus>) {
        let apps = self.intent.now();
        let mut queues = Vec::new();
        for known in apps.apps.values().filter(|known| app.is_none_or(|app| known.id == *app)) {
            queues.extend(of_app(known, function));
        }
        let asked = queues.into_iter().map(|queue| async move {
            let listed = self.list_one(&queue, state).await;
            (self.status(&queue, listed.as_ref()).await, queue, listed)
        });
        let (mut found, mut statuses) = (Vec::new(), Vec::new());
        for (status, queue, listed) in futures::future::join_all(asked).await {
            statuses.push(status);
            let records = listed.into_iter().flat_map(|listed| listed.records);
            found.extend(records.map(|record| (InvocationName { queue: queue.clone(), id: record.id }, record)));
        }
        found.sort_by_key(|(_, record)| std::cmp::Reverse(record.accepted_us));
        (found, statuses)
    }

    /// What is listed of one queue; none if it does not answer.
    async fn list_one(&self, queue: &WorkId, state: Option<StateKind>) -> Option<Listed> {
        // One more than is listed tells whether there is more.
        let limit = LISTED_MAX + 1;
        let ask = state.map_or(QueueAsk::List { limit }, |state| QueueAsk::ListOf { state, limit });
        match self.ask(queue, ask, Duration::ZERO).await {
            Ok(QueueReply::Listed(mut records)) => {
                let is_cut = records.len() > LISTED_MAX as usize;
                records.truncate(LISTED_MAX as usize);
                Some(Listed { records, is_cut })
            }
            _ => None,
        }
    }

    async fn status(&self, queue: &WorkId, listed: Option<&Listed>) -> QueueStatus {
        let held = self.directory.locate(queue).await;
        QueueStatus {
            name: queue.to_string(),
            owner: held.as_ref().map(|held| held.owner.to_string()),
            epoch: held.as_ref().map_or(0, |held| held.epoch.0),
            in_sync: held.iter().flat_map(|held| &held.in_sync).map(ToString::to_string).collect(),
            answers: listed.is_some(),
            has_more: listed.is_some_and(|listed| listed.is_cut),
        }
    }

    /// Runs a dead letter once more.
    pub(crate) async fn retry(&self, name: &InvocationName) -> Result<(), AdminError> {
        match self.ask_known(name, QueueAsk::Retry { id: name.id }, DEADLINE).await? {
            QueueReply::Changed(true) => Ok(()),
            QueueReply::Changed(false) => Err(AdminError::not_found(format!("{name} is no dead letter"))
                .hint("`littoral queue ls --state dead` lists those there are")),
            other => Err(unexpected(&other)),
        }
    }

    /// Forgets an invocation, whatever its state.
    pub(crate) async fn forget(&self, name: &InvocationName) -> Result<(), AdminError> {
        match self.ask_known(name, QueueAsk::Drop { id: name.id }, DEADLINE).await? {
            QueueReply::Changed(true) => Ok(()),
            QueueReply::Changed(false) => Err(unknown(name)),
            other => Err(unexpected(&other)),
        }
    }

    /// Answers what is asked of a queue of this node.
    pub(crate) async fn answer(&self, request: QueueRequest) -> QueueReply {
        let QueueRequest { queue, ask } = request;
        let not_owner = || QueueReply::NotOwner(self.directory.here(&queue));
        let Some(door) = self.lock().get(&queue).cloned() else { return not_owner() };
        enter(&door, ask).await.unwrap_or_else(not_owner)
    }

    /// Owns a queue until another node does.
    pub(crate) async fn run(&self, owned: Owned, app: &Arc<App>) -> Ended {
        let queue = owned.work().clone();
        let (asked, asks) = mpsc::channel(ASKED_MAX);
        let owner = match Owner::open(owned, app, self, asks).await {
            Ok(owner) => owner,
            Err(ended) => return ended,
        };
        let opened = Opened { queues: self, queue, asked: asked.clone() };
        self.lock().insert(opened.queue.clone(), asked);
        owner.run().await
    }

    /// The queues of a function.
    fn queues(&self, app: &AppId, function: &FunctionName) -> Vec<WorkId> {
        let apps = self.intent.now();
        apps.apps.get(app).map(|app| of_app(app, Some(function))).unwrap_or_default()
    }

    fn scope(&self, app: &AppId, function: &FunctionName) -> Result<KeyScope, AdminError> {
        let apps = self.intent.now();
        let known = apps.apps.get(app).and_then(|app| app.manifest.functions.get(function));
        let known = known.ok_or_else(|| {
            AdminError::not_found(format!("there is no function {}/{function}", app.app))
                .hint("`littoral get functions` lists those there are")
        })?;
        let later = known.later.as_ref().ok_or_else(|| {
            AdminError::refused(format!("{}/{function} is not called asynchronously", app.app))
                .hint(format!("declare `[functions.{function}.async]` in its manifest"))
        })?;
        Ok(later.keys)
    }

    /// Asks the queue that an invocation's name says, if there is such a one: names come from outside.
    async fn ask_known(
        &self,
        name: &InvocationName,
        ask: QueueAsk,
        patience: Duration,
    ) -> Result<QueueReply, AdminError> {
        let apps = self.intent.now();
        let is_known = apps.apps.get(&name.queue.app).is_some_and(|app| app.placement.work(&name.queue).is_some());
        if !is_known {
            return Err(unknown(name));
        }
        self.ask(&name.queue, ask, patience).await
    }

    /// Asks whoever owns a queue until there is an answer.
    async fn ask(&self, queue: &WorkId, ask: QueueAsk, patience: Duration) -> Result<QueueReply, AdminError> {
        let request = QueueRequest { queue: queue.clone(), ask };
        let deadline = Instant::now() + patience;
        loop {
            let reason = match self.try_ask(&request).await {
                Ok(QueueReply::NotOwner(_)) => "the queue is moving to another owner".to_owned(),
                Ok(reply) => return Ok(reply),
                Err(reason) => reason,
            };
            if Instant::now() >= deadline {
                return Err(AdminError::unavailable(format!("{queue}: {reason}")).hint("try again"));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_ask(&self, request: &QueueRequest) -> Result<QueueReply, String> {
        let queue = &request.queue;
        let owner = self.directory.owner(queue).await;
        let owner = owner.ok_or_else(|| format!("nobody at {} can be reached", queue.site))?;
        let wait_ms = if let QueueAsk::Show { wait_ms, .. } = request.ask { wait_ms } else { 0 };
        let time = TRY + Duration::from_millis(wait_ms.into());
        if owner == *self.mesh.node() {
            // Its commit may wait for another node for long.
            let answer = tokio::time::timeout(time, self.answer(request.clone())).await;
            return answer.map_err(|_| format!("{owner}, which owns it, did not answer within {} s", time.as_secs()));
        }
        if !self.mesh.members().borrow().contains_key(&owner) {
            self.directory.forget(queue);
            return Err(format!("{owner}, which owns it, cannot be reached"));
        }
        let reply: Result<QueueReply, _> = ask(&self.mesh, &owner, Method::Queue, Priority::Data, time, request).await;
        match reply {
            Ok(QueueReply::NotOwner(hint)) => {
                self.directory.forget(queue);
                if let Some(assignment) = &hint {
                    self.directory.learn(assignment);
                }
                Ok(QueueReply::NotOwner(hint))
            }
            Ok(reply) => Ok(reply),
            Err(error) => {
                self.directory.forget(queue);
                Err(format!("{owner}: {error}"))
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<WorkId, mpsc::Sender<Asked>>> {
        lock(&self.owned)
    }
}

/// Closes a queue's door when its owner ends, unless it has been opened anew.
struct Opened<'a> {
    queues: &'a Queues,
    queue: WorkId,
    asked: mpsc::Sender<Asked>,
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        let mut owned = self.queues.lock();
        if owned.get(&self.queue).is_some_and(|door| door.same_channel(&self.asked)) {
            owned.remove(&self.queue);
        }
    }
}

/// Asks the owner behind a door; none if it has ended.
async fn enter(door: &mpsc::Sender<Asked>, ask: QueueAsk) -> Option<QueueReply> {
    let (reply, answer) = oneshot::channel();
    match door.try_send(Asked { ask, reply }) {
        Ok(()) => answer.await.ok(),
        Err(mpsc::error::TrySendError::Full(_)) => {
            Some(QueueReply::Full(format!("{ASKED_MAX} questions wait for the queue's owner")))
        }
        Err(mpsc::error::TrySendError::Closed(_)) => None,
    }
}

/// The queues of an app, or of one of its functions.
fn of_app(app: &App, function: Option<&FunctionName>) -> Vec<WorkId> {
    let queues = app.placement.works.iter().filter(|placed| match &placed.role {
        Role::Queue { function: of, .. } => function.is_none_or(|function| function == of),
        _ => false,
    });
    queues.map(|placed| placed.work.clone()).collect()
}

/// The queues to try in turn for a call. A key's calls all go to the same queue, so there is no other to try.
fn candidates(mut queues: Vec<WorkId>, site: &SiteId, scope: KeyScope, key: Option<&str>) -> Vec<WorkId> {
    debug_assert!(queues.iter().all(|queue| queue.kind == WorkKind::Queue));
    queues.sort_by_key(|queue| (queue.site != *site, queue.partition));
    let Some(key) = key else { return queues };
    let near = queues.iter().take_while(|queue| queue.site == *site).count();
    if scope == KeyScope::Site && near > 0 {
        queues.truncate(near);
    }
    queues.sort();
    let place = crc32c::crc32c(key.as_bytes()) as usize % queues.len().max(1);
    queues.into_iter().skip(place).take(1).collect()
}

fn unknown(name: &InvocationName) -> AdminError {
    AdminError::not_found(format!("there is no invocation {name}"))
        .hint("it may have been done so long ago that it was forgotten; see `keep-results` in the manifest")
}

fn unexpected(reply: &QueueReply) -> AdminError {
    match reply {
        QueueReply::Full(reason) => AdminError::unavailable(reason.clone()).hint("try again later"),
        other => AdminError::internal(format!("the queue's owner answered {other:?} to another question")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn queues() -> Vec<WorkId> {
        ["0@cloud", "1@hall-7", "2@hall-9"]
            .iter()
            .map(|at| format!("default/a/queue/f/{at}").parse().unwrap())
            .collect()
    }

    fn tried(site: &str, scope: KeyScope, key: Option<&str>) -> Vec<u32> {
        let site = SiteId::new(site).unwrap();
        candidates(queues(), &site, scope, key).iter().map(|queue| queue.partition).collect()
    }

    #[test]
    fn a_call_without_a_key_goes_to_the_own_site_and_then_anywhere() {
        assert_eq!(tried("hall-9", KeyScope::Site, None), [2, 0, 1]);
        assert_eq!(tried("elsewhere", KeyScope::App, None), [0, 1, 2]);
    }

    #[test]
    fn a_key_has_one_queue_in_its_site_or_in_the_app() {
        for key in ["a", "b", "c", "d"] {
            assert_eq!(tried("hall-9", KeyScope::Site, Some(key)), [2]);
            let one = tried("hall-9", KeyScope::App, Some(key));
            assert_eq!(one.len(), 1);
            for site in ["hall-7", "cloud", "elsewhere"] {
                assert_eq!(tried(site, KeyScope::App, Some(key)), one, "{key} at {site}");
            }
        }
    }
}
