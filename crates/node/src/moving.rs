//! Moves stages of flows and partitions of streams to another node of their site because somebody asks for it: to make room, to
//! take a machine out of service, or to see what it would change.
//!
//! The keeper of the site decides, and the epoch fences who had it. A node that has no copy gets one first, while the owner goes
//! on; what nobody works on it for is the pause alone, from before the keeper is asked until the new owner is ready.

use std::sync::Arc;
use std::time::{Duration, Instant};

use littoral_mesh::{Mesh, Method, Priority};
use littoral_model::id::{AppId, NodeId};
use littoral_model::work::{Assignment, KeeperAnswer, KeeperCommand, WorkId, WorkKind};
use littoral_plan::{Ack, NodeFacts, PlacedWork, REPLICAS_MAX, Role};

use crate::admin::events::EventKind;
use crate::admin::types::{AdminError, AdminErrorKind, MoveReport, MoveRequest, MovedWork};
use crate::events::Events;
use crate::intent::IntentStore;
use crate::report::{OwnedWork, Report, Reporter, assignments};
use crate::runner::Run;
use crate::wiring::ask;

/// How long the keeper of a site may take.
const KEEPER_DEADLINE: Duration = Duration::from_secs(3);
/// How long all of it may take: who asked waits for the answer.
const DEADLINE: Duration = Duration::from_secs(45);
/// How long the new owner may take to be ready.
const READY_DEADLINE: Duration = Duration::from_secs(15);
/// How often who has a copy is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often the new owner is asked: what is measured is a pause of milliseconds.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// Moves what it is asked to.
pub(crate) struct Mover {
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) intent: Arc<IntentStore>,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) events: Arc<Events>,
}

impl Mover {
    /// Moves all that is asked for, one after the other.
    pub(crate) async fn run(&self, app: AppId, request: MoveRequest) -> Result<MoveReport, AdminError> {
        let members = self.mesh.members().borrow().clone();
        let Some(target) = members.get(&request.to) else {
            let message = format!("there is no live node `{}`", request.to);
            return Err(AdminError::not_found(message).hint("see `littoral get nodes`"));
        };
        let apps = self.intent.now();
        let Some(deployed) = apps.apps.get(&app) else {
            return Err(AdminError::not_found(format!("there is no app `{}`", app.app)).hint("see `littoral get apps`"));
        };
        let named = deployed.placement.works.iter().filter(|placed| is_asked_for(placed, &request));
        let named: Vec<&PlacedWork> = named.collect();
        if named.is_empty() {
            return Err(nothing_named(&app, &request));
        }
        let near: Vec<&PlacedWork> = named.iter().copied().filter(|placed| placed.work.site == target.site).collect();
        if near.is_empty() {
            let sites: Vec<&str> = named.iter().map(|placed| placed.work.site.as_str()).collect();
            let message =
                format!("{} is at {}, and `{}` at {}", request.name, sites.join(", "), request.to, target.site);
            let hint = "work moves within its site; to have it at another one, say so in the manifest's `placement`, and deploy";
            return Err(AdminError::refused(message).hint(hint));
        }
        if let Some(placed) = near.iter().find(|placed| !placed.requires.admits(NodeFacts::from(&**target))) {
            let message = format!("`{}` does not satisfy what {} asks of a node", request.to, placed.work);
            return Err(AdminError::refused(message).hint("see `littoral plan`, and the manifest's `placement`"));
        }
        let (mut report, until) = (MoveReport::default(), Instant::now() + DEADLINE);
        for placed in near {
            report.works.push(self.one(placed, &request.to, until).await?);
        }
        Ok(report)
    }

    async fn one(&self, placed: &PlacedWork, to: &NodeId, until: Instant) -> Result<MovedWork, AdminError> {
        let work = &placed.work;
        let held = self.held(work).await?;
        let mut moved = MovedWork {
            work: work.name.clone(),
            partition: work.partition,
            from: held.owner.to_string(),
            to: to.to_string(),
            pause_ms: None,
        };
        if held.owner == *to {
            return Ok(moved);
        }
        let held = if held.in_sync.contains(to) { held } else { self.copy(placed, held, to, until).await? };
        let begun = Instant::now();
        let command =
            KeeperCommand::Move { work: work.clone(), epoch: held.epoch, owner: to.clone(), exclude_old: false };
        let decided = self.decide(to, &command).await?;
        self.ready(&decided, to).await?;
        let pause = begun.elapsed();
        moved.pause_ms = Some(pause.as_secs_f64() * 1e3);
        let text =
            format!("it was moved from {} to {to} on request, in {:.0} ms", moved.from, pause.as_secs_f64() * 1e3);
        self.events.note(&work.app.app, format!("work {work}"), EventKind::Action, text).await;
        Ok(moved)
    }

    /// Who has a work now.
    async fn held(&self, work: &WorkId) -> Result<Assignment, AdminError> {
        let held = assignments(&self.reporter.gather().await).remove(work);
        held.ok_or_else(|| {
            AdminError::unavailable(format!("nobody says who has {work} now")).hint("see `littoral get sites`")
        })
    }

    /// Has a node get a copy of a work's state, and waits until it has all of it.
    async fn copy(
        &self,
        placed: &PlacedWork,
        held: Assignment,
        to: &NodeId,
        until: Instant,
    ) -> Result<Assignment, AdminError> {
        let work = &placed.work;
        if placed.ack == Ack::Local {
            let message = format!("{work} is kept on {} alone", held.owner);
            return Err(AdminError::refused(message).hint("it has copies with `ack = \"site\"`"));
        }
        let mut replicas = held.replicas.clone();
        if replicas.len() >= REPLICAS_MAX {
            // One that is behind is missed least.
            let is_behind = |node: &NodeId| !held.in_sync.contains(node);
            let is_other = |node: &NodeId| *node != held.owner;
            let leaving = replicas.iter().rposition(is_behind).or_else(|| replicas.iter().rposition(is_other));
            leaving.map(|place| replicas.remove(place));
        }
        replicas.push(to.clone());
        self.decide(to, &KeeperCommand::Replicas { work: work.clone(), epoch: held.epoch, replicas }).await?;
        while Instant::now() < until {
            let held = self.held(work).await?;
            if held.in_sync.contains(to) {
                return Ok(held);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let message = format!("`{to}` has not got all of the state of {work} within {} s", DEADLINE.as_secs());
        Err(AdminError::unavailable(message).hint("it goes on getting it; what was moved stays so; ask again later"))
    }

    /// Asks the keeper of a node's site.
    async fn decide(&self, at: &NodeId, command: &KeeperCommand) -> Result<Assignment, AdminError> {
        match propose(&self.mesh, at, command).await {
            Ok(KeeperAnswer::Applied(Some(assignment))) => Ok(assignment),
            Ok(KeeperAnswer::Applied(None)) => Err(AdminError::not_found("it was removed meanwhile")),
            Ok(KeeperAnswer::Refused(now)) => {
                let has = now.map_or_else(|| "nobody".to_owned(), |now| now.owner.to_string());
                let message = format!("it changed owner meanwhile; {has} has it now");
                Err(AdminError::new(AdminErrorKind::Conflict, message).hint("ask again"))
            }
            Err(reason) => Err(AdminError::unavailable(format!("the keeper of the site did not decide: {reason}"))
                .hint("see `littoral get sites`")),
        }
    }

    /// Waits until the new owner can be written to, and of a stage until it takes rows.
    async fn ready(&self, decided: &Assignment, to: &NodeId) -> Result<(), AdminError> {
        let begun = Instant::now();
        while begun.elapsed() < READY_DEADLINE {
            let report = self.reporter.of(to).await;
            let is_it = |own: &OwnedWork| own.work == decided.work && own.epoch >= decided.epoch && own.leads;
            let runs = |run: &Run| run.work == decided.work && run.epoch >= decided.epoch;
            let is_ready = |report: &Report| match decided.work.kind {
                WorkKind::Stage => report.runs.iter().any(runs),
                _ => report.works.iter().any(is_it),
            };
            if report.as_ref().is_some_and(is_ready) {
                return Ok(());
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
        let message = format!("`{to}` has it, and has not said that it is ready within {} s", READY_DEADLINE.as_secs());
        Err(AdminError::unavailable(message).hint("see `littoral get flows`"))
    }
}

/// Asks the keeper of a node's site to decide.
pub(crate) async fn propose(
    mesh: &Arc<dyn Mesh>,
    at: &NodeId,
    command: &KeeperCommand,
) -> Result<KeeperAnswer, String> {
    let answer: Result<Result<KeeperAnswer, String>, _> =
        ask(mesh, at, Method::Keeper, Priority::Control, KEEPER_DEADLINE, command).await;
    answer.map_err(|error| format!("it did not answer ({error})"))?
}

/// Whether a work is what is to be moved: a stage of the flow, or else a partition of the stream, of that name.
fn is_asked_for(placed: &PlacedWork, request: &MoveRequest) -> bool {
    let is_it = match &placed.role {
        Role::StreamPartition { stream, .. } => request.is_stream && stream.as_str() == request.name,
        Role::Stage { flow, .. } => !request.is_stream && flow.as_str() == request.name,
        _ => false,
    };
    is_it && request.partition.is_none_or(|partition| placed.work.partition == partition)
}

fn nothing_named(app: &AppId, request: &MoveRequest) -> AdminError {
    let what = if request.is_stream { "stream" } else { "flow" };
    let message = match request.partition {
        None => format!("the app `{}` has no {what} `{}` with state of its own", app.app, request.name),
        Some(partition) => format!("the {what} `{}` of `{}` has no partition {partition}", request.name, app.app),
    };
    AdminError::not_found(message).hint(format!("see `littoral get {what}s`"))
}
