//! Keeps the objectives of flows: where a flow ends, and where its last stage is, since few records may go on from there, a
//! node watches how long records took from their publication. When the objective does not hold, it finds the stage that adds
//! most against what was predicted, and has it moved to another node that holds all of its state; each step is an event with
//! the measurement that caused it, and with what it achieved.
//!
//! Where no such node is left and the time is in the stage's functions, its owner is asked to go on with cheaper variants of them, and with
//! better ones again once the objective has held for a while with room to spare.
//!
//! What a node asks for is decided by the keeper of the stage's site and fenced by the epoch, so that two that act on the
//! same stage do not both move it. Before it asks it looks at what others say that they did: while that has yet to show an
//! effect it waits, and it moves nothing to where it was since the objective was violated.

mod cause;
pub(crate) mod standing;
mod varying;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use littoral_control::fidelity::{CALM_MS, Calm};
use littoral_control::slo::{Change, Seen, Watch};
use littoral_flow::stats::now_us;
use littoral_mesh::Mesh;
use littoral_model::id::{AppName, FlowName, NodeId};
use littoral_model::manifest;
use littoral_model::work::{Assignment, KeeperAnswer, KeeperCommand, WorkId};
use littoral_plan::reason::Milliseconds;
use littoral_plan::{NodeFacts, PlacedWork, Role};
use littoral_runtime::latency::Quantiles;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::cause::{Cause, find};
use self::standing::told;
use self::varying::{step_below, was_raised};
use crate::admin::events::{EventKind, EventRow, Moved};
use crate::events::Events;
use crate::intent::{App, IntentStore};
use crate::moving::propose;
use crate::report::{Reporter, assignments};
use crate::runner::Runner;
use crate::sync::{micros, millis};

/// How often what was committed is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long an action has to show an effect before another one is tried: the windows of an objective, and a hand-over.
const COOL_DOWN: Duration = Duration::from_secs(30);
/// After how long one that cannot be helped is looked at again.
const HELPLESS_REST: Duration = Duration::from_secs(5);
/// How long the owner of a stage may take to say whether it goes on with other variants.
const OWNER_DEADLINE: Duration = Duration::from_secs(3);
/// How long ago an action may be that a watcher on another node goes on from.
const LATELY: Duration = Duration::from_secs(300);

/// Which flow of an app, and which unit of work is its end.
type Key = (WorkId, FlowName);

/// Keeps the objectives of the flows that end here.
pub(crate) struct Keeping {
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) intent: Arc<IntentStore>,
    pub(crate) runner: Arc<Runner>,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) events: Arc<Events>,
}

/// One flow that ends here.
struct Kept {
    watch: Watch,
    /// Since when it ends here: it may have to catch up first with what waited elsewhere.
    begun: Instant,
    /// What was done since the objective was violated, here or elsewhere: the 95th percentile before, in microseconds.
    acted: Option<u64>,
    /// Until when what was done, or attempted, has to show an effect.
    rests_until: Instant,
    /// Which nodes had a work since the objective was violated: none is tried twice. One whose keeper refused it is not among them.
    tried: BTreeSet<(String, String)>,
    /// Whether it was said that nothing more can be done.
    is_helpless: bool,
    /// For how long it has held with room to spare.
    calm: Calm,
    /// Whether all stages were seen to run their usual variants, since the objective last held again.
    are_usual: bool,
    /// When it is looked again whether one may go on with better variants.
    raises_at: Instant,
}

impl Keeping {
    /// Watches and acts until the node stops.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let started = Instant::now();
        let mut kept: BTreeMap<Key, Kept> = BTreeMap::new();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut apps = self.intent.watch();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            // A node is not woken each second for what nobody asks for.
            tokio::select! {
                () = stop.cancelled() => return,
                _ = apps.wait_for(|apps| !kept.is_empty() || apps.apps.values().any(|app| has_objective(app))) => {}
            }
            let now_ms = millis(started.elapsed());
            let ends = self.ends();
            kept.retain(|key, flow| ends.get(key).is_some_and(|(_, limit)| micros(*limit) == flow.watch.limit_us()));
            let moved =
                if ends.keys().all(|key| kept.contains_key(key)) { BTreeMap::new() } else { self.moved().await };
            let unseen = each_once(ends.keys().map(|(work, _)| work), |work| self.runner.take_unseen(work));
            for (key, (app, limit)) in ends {
                let flow = kept.entry(key.clone()).or_insert_with_key(|(_, flow)| {
                    let before_us = moved.get(&(app.id.app.to_string(), subject(flow)));
                    Kept::new(micros(limit), before_us.map(|before_us| (now_ms, *before_us)))
                });
                let Some(unseen) = unseen.get(&key.0) else { continue };
                let Quantiles { count, p95_us, .. } = unseen.quantiles();
                let seen = Seen { records: count, late: unseen.count_above(limit), p95_us };
                let change = flow.watch.observe(now_ms, seen);
                self.tell(&app, &key, flow, change).await;
                let calm_ms = flow.calm.observe(micros(limit), flow.watch.is_violated(), seen);
                if calm_ms >= CALM_MS && flow.may_be_raised() {
                    self.raise(&app, &key, flow, calm_ms).await;
                }
                if flow.watch.is_violated() && Instant::now() >= flow.rests_until {
                    self.act(&app, &key, flow).await;
                }
            }
        }
    }

    /// The flows, as app and subject, about which something was done lately that has not had its effect yet: what was
    /// begun elsewhere goes on here, where a stage was moved to. With the 95th percentile before, in microseconds.
    async fn moved(&self) -> BTreeMap<(String, String), u64> {
        let mut moved = BTreeMap::new();
        for event in self.lately(None).await {
            let about = (event.app, event.subject);
            if event.kind == EventKind::Action {
                moved.insert(about, event.moved.map_or(0, |moved| moved.p95_us))
            } else {
                moved.remove(&about)
            };
        }
        moved
    }

    /// What all nodes say that happened lately.
    async fn lately(&self, app: Option<AppName>) -> Vec<EventRow> {
        let since_us = now_us().saturating_sub(i64::try_from(LATELY.as_micros()).unwrap_or(i64::MAX));
        self.events.gather(&self.mesh, since_us, app).await.events
    }

    /// The flows with an objective that end here: the app and the limit.
    fn ends(&self) -> BTreeMap<Key, (Arc<App>, Duration)> {
        let apps = self.intent.now();
        let mut ends = BTreeMap::new();
        for work in self.runner.running() {
            let Some(app) = apps.apps.get(&work.app) else { continue };
            let Some(placed) = app.placement.work(&work) else { continue };
            for (name, flow) in &app.manifest.flows {
                let Some(slo) = flow.slo.map(Duration::from) else { continue };
                let limit = if is_sink(placed, name, flow) {
                    slo
                } else if is_last_stage(placed, name, flow) {
                    slo.saturating_sub(after_last_stage(app, name, placed))
                } else {
                    continue;
                };
                ends.insert((work.clone(), name.clone()), (Arc::clone(app), limit));
            }
        }
        ends
    }

    async fn tell(&self, app: &App, (_, flow): &Key, kept: &mut Kept, change: Option<Change>) {
        let Some(change) = change else { return };
        let after = Milliseconds(kept.watch.p95_us());
        let (kind, text) = told(&kept.watch, change, "records", || match kept.acted {
            None => "by itself".to_owned(),
            // An older program did not say.
            Some(0) => format!("what was done helped, p95 is {after}"),
            Some(before_us) => format!("what was done helped, p95 {} -> {after}", Milliseconds(before_us)),
        });
        if kind == EventKind::Restored {
            *kept = Kept { watch: kept.watch.clone(), begun: kept.begun, ..Kept::new(kept.watch.limit_us(), None) };
        }
        self.events.note(&app.id.app, subject(flow), kind, text).await;
    }

    /// Does the cheapest thing that may help: moves the stage that is late to the node that carries least; has it go on with cheaper
    /// variants where no move is left, or where better ones are why it is late.
    async fn act(&self, app: &App, (end, flow): &Key, kept: &mut Kept) {
        let reports = self.reporter.gather().await;
        let Some(cause) = find(app, flow, end, &reports) else { return };
        let subject = subject(flow);
        // Asked after the reports: whoever acted before those has said so by now, whoever does later is fenced by the epoch.
        let events = self.lately(Some(app.id.app.clone())).await;
        if let Some(rest) = kept.heed(&done(&events, &subject), &cause.work.to_string(), now_us()) {
            kept.rests_until = Instant::now() + rest;
            return;
        }
        let assignments = assignments(&reports);
        let held = assignments.get(&cause.work);
        let step = step_below(app, &cause, kept.watch.limit_us(), held, &reports);
        let raised = step.as_ref().filter(|_| was_raised(&events, &cause.work.to_string(), now_us()));
        if let Some((held, step)) = raised {
            let reason = format!("{cause}; it went on with better variants lately");
            if self.lower(app, &subject, kept, (held, step), &reason).await.is_ok() {
                return;
            }
        }
        if let Some((held, target)) = held.and_then(|held| Some((held, self.better(app, held, kept)?))) {
            return self.relocate(app, subject, kept, &cause, (held, target)).await;
        }
        let mut reason = format!("{cause}; no other node that holds its state and may run it is left to be tried");
        if let Some((held, step)) = step {
            match self.lower(app, &subject, kept, (held, &step), &reason).await {
                Ok(()) => return,
                Err(why) => reason += &format!("; {why}"),
            }
        }
        kept.rests_until = Instant::now() + HELPLESS_REST;
        if !std::mem::replace(&mut kept.is_helpless, true) {
            self.events.note(&app.id.app, subject, EventKind::Helpless, reason).await;
        }
    }

    /// Has a stage moved to another node.
    async fn relocate(
        &self,
        app: &App,
        subject: String,
        kept: &mut Kept,
        cause: &Cause,
        (held, target): (&Assignment, NodeId),
    ) {
        let moved = Moved {
            work: cause.work.to_string(),
            from: held.owner.to_string(),
            to: target.to_string(),
            p95_us: kept.watch.p95_us(),
        };
        kept.rests_until = Instant::now() + COOL_DOWN;
        let command = KeeperCommand::Move {
            work: cause.work.clone(),
            epoch: held.epoch,
            owner: target.clone(),
            exclude_old: false,
        };
        let (kind, outcome) = match propose(&self.mesh, &target, &command).await {
            Ok(KeeperAnswer::Applied(_)) => {
                kept.try_no_more(&moved);
                kept.acted = Some(moved.p95_us);
                (EventKind::Action, "it is moved to".to_owned())
            }
            Ok(KeeperAnswer::Refused(_)) => (EventKind::Helpless, "it changed owner meanwhile, before".to_owned()),
            Err(reason) => (EventKind::Helpless, format!("the keeper did not decide to move it ({reason}) to")),
        };
        let text = format!("{cause}; {outcome} {target}, which holds its state");
        let moved = (kind == EventKind::Action).then_some(moved);
        self.events.note_moved(&app.id.app, subject, kind, text, moved).await;
    }

    /// Who may take a stage over at once: holds all of its state, satisfies its constraints, was not tried yet; of these the
    /// one with the least work.
    fn better(&self, app: &App, held: &Assignment, kept: &Kept) -> Option<NodeId> {
        let placed = app.placement.work(&held.work)?;
        let members = self.mesh.members().borrow().clone();
        let candidates = held
            .in_sync
            .iter()
            .filter(|node| **node != held.owner && !kept.tried.contains(&(held.work.to_string(), node.to_string())));
        let admitted = candidates.filter_map(|node| {
            let digest = members.get(node)?;
            placed.requires.admits(NodeFacts::from(&**digest)).then(|| (digest.works, node.clone()))
        });
        admitted.min().map(|(_, node)| node)
    }
}

impl Kept {
    /// `moved` where something was done about it, and it ends here since: now, on the watcher's clock, and the 95th percentile
    /// before, in microseconds.
    fn new(limit_us: u64, moved: Option<(u64, u64)>) -> Self {
        let watch = moved.map_or_else(|| Watch::new(limit_us), |(now_ms, _)| Watch::violated(limit_us, now_ms));
        let begun = Instant::now();
        let (acted, rests_until) = (moved.map(|(_, before_us)| before_us), begun + COOL_DOWN);
        let (tried, calm) = (BTreeSet::new(), Calm::default());
        let (is_helpless, are_usual, raises_at) = (false, false, begun);
        Self { watch, begun, acted, rests_until, tried, is_helpless, calm, are_usual, raises_at }
    }

    /// Whether a stage may run cheaper variants than it has to, and nobody has looked of late.
    fn may_be_raised(&self) -> bool {
        !self.are_usual && Instant::now() >= self.raises_at
    }

    /// Takes in what was done about the flow, here and elsewhere; for how long that still has to show an effect, if it has.
    /// `cause` is the work that is late here: that another one was moved is not what helps.
    fn heed(&mut self, done: &[&EventRow], cause: &str, now_us: i64) -> Option<Duration> {
        let mut rest = None;
        for event in done {
            if let Some(moved) = &event.moved {
                self.try_no_more(moved);
                self.acted = if moved.work == cause { Some(moved.p95_us) } else { self.acted };
            }
            // The clock of a node that is an hour off says nothing of when.
            let age = Duration::from_micros(now_us.abs_diff(event.time_us));
            rest = rest.max(COOL_DOWN.checked_sub(age).filter(|rest| !rest.is_zero()));
        }
        rest
    }

    fn try_no_more(&mut self, moved: &Moved) {
        for node in [&moved.from, &moved.to] {
            self.tried.insert((moved.work.clone(), node.clone()));
        }
    }
}

/// What was done about a flow, the latest last; nothing from before it last held again.
fn done<'e>(events: &'e [EventRow], subject: &str) -> Vec<&'e EventRow> {
    let mut done = Vec::new();
    for event in events.iter().filter(|event| event.subject == subject) {
        match event.kind {
            EventKind::Action => done.push(event),
            // One with a work is of better variants: that is no end.
            EventKind::Restored if event.moved.is_none() => done.clear(),
            _ => {}
        }
    }
    done
}

/// What is taken of each work, also of one in which several flows end.
fn each_once<'w, T>(
    works: impl Iterator<Item = &'w WorkId>,
    take: impl Fn(&WorkId) -> Option<T>,
) -> BTreeMap<WorkId, T> {
    let works: BTreeSet<&WorkId> = works.collect();
    works.into_iter().filter_map(|work| Some((work.clone(), take(work)?))).collect()
}

fn has_objective(app: &App) -> bool {
    app.manifest.flows.values().any(|flow| flow.slo.is_some())
}

fn subject(flow: &FlowName) -> String {
    format!("flow {flow}")
}

/// Whether a work is a partition of the stream in which a flow ends.
fn is_sink(placed: &PlacedWork, name: &FlowName, flow: &manifest::Flow) -> bool {
    let Role::StreamPartition { stream, sources } = &placed.role else { return false };
    let of_flow = |work: &WorkId| work.name.rsplit_once('.').is_some_and(|(flow, _)| flow == name.as_str());
    matches!(&flow.sink, Some(manifest::Sink::Stream(sink)) if sink == stream)
        && sources.iter().any(|source| of_flow(&source.work))
}

/// Whether a work runs the last function of a flow.
fn is_last_stage(placed: &PlacedWork, name: &FlowName, flow: &manifest::Flow) -> bool {
    let Role::Stage { flow: of, functions, .. } = &placed.role else { return false };
    let last = match &flow.sink {
        Some(manifest::Sink::Function(sink)) => Some(sink),
        _ => flow.stages.last(),
    };
    of == name && functions.last().map(|stage| &stage.function) == last
}

/// What is predicted for the way from a flow's last stage to its sink.
fn after_last_stage(app: &App, name: &FlowName, placed: &PlacedWork) -> Duration {
    let Some(prediction) = app.placement.predictions.iter().find(|prediction| prediction.flow == *name) else {
        return Duration::ZERO;
    };
    let after = prediction.hops.iter().rev().take_while(|hop| hop.node != placed.owner);
    Duration::from_micros(after.map(|hop| hop.p95_us).sum())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::cell::Cell;

    use super::*;

    const S: i64 = 1_000_000;

    fn event(at_s: i64, subject: &str, kind: EventKind, moved: Option<(&str, &str)>) -> EventRow {
        let (node, app, work) = ("edge-1".to_owned(), "press".to_owned(), "w".to_owned());
        let moved =
            moved.map(|(from, to)| Moved { work, from: from.to_owned(), to: to.to_owned(), p95_us: 11_010_000 });
        EventRow { time_us: at_s * S, node, app, subject: subject.to_owned(), kind, text: String::new(), moved }
    }

    fn tried(nodes: &[&str]) -> BTreeSet<(String, String)> {
        nodes.iter().map(|node| ("w".to_owned(), (*node).to_owned())).collect()
    }

    #[test]
    fn what_another_watcher_did_is_given_time_and_not_undone() {
        let events = [
            event(10, "flow wear", EventKind::Action, Some(("edge-3", "edge-4"))),
            event(20, "flow wear", EventKind::Restored, None),
            event(100, "flow wear", EventKind::Violated, None),
            event(110, "flow wear", EventKind::Action, Some(("edge-1", "edge-2"))),
            event(111, "flow other", EventKind::Action, Some(("edge-5", "edge-6"))),
        ];
        let done = done(&events, "flow wear");
        let mut kept = Kept::new(600_000, None);
        assert_eq!(kept.heed(&done, "w", 115 * S), Some(Duration::from_secs(25)));
        assert_eq!((&kept.tried, kept.acted), (&tried(&["edge-1", "edge-2"]), Some(11_010_000)));
        // Its time is over: what it tried is still not tried again.
        let mut kept = Kept::new(600_000, None);
        assert_eq!(kept.heed(&done, "another", 140 * S), None);
        assert_eq!((&kept.tried, kept.acted), (&tried(&["edge-1", "edge-2"]), None));
        // A clock that is an hour ahead makes nobody wait.
        assert_eq!(kept.heed(&[&event(3_700, "flow wear", EventKind::Action, None)], "w", 100 * S), None);
    }

    #[test]
    fn a_stage_that_went_up_of_late_is_the_reason_until_it_went_down_again() {
        let up = event(100, "flow wear", EventKind::Restored, Some(("edge-1", "edge-1")));
        let events = [event(50, "flow wear", EventKind::Action, Some(("edge-1", "edge-1"))), up];
        assert!(was_raised(&events, "w", 200 * S) && !was_raised(&events, "w", 401 * S));
        assert!(!was_raised(&events, "another", 200 * S) && !was_raised(&events[..1], "w", 60 * S));
        // It ends nothing: what was done before is still given its time.
        assert_eq!(done(&events, "flow wear").len(), 1);
    }

    #[test]
    fn each_flow_that_ends_in_a_work_sees_all_of_its_records() {
        let works = ["default/press/stream/s/0@hall", "default/press/stream/t/0@hall"]
            .map(|work| work.parse::<WorkId>().unwrap());
        let asked = Cell::new(0);
        let take = |_: &WorkId| {
            asked.set(asked.get() + 1);
            Some(asked.get())
        };
        let ends = [&works[0], &works[0], &works[1]];
        let taken = each_once(ends.into_iter(), take);
        assert_eq!((taken.get(&works[0]), taken.get(&works[1])), (Some(&1), Some(&2)));
    }
}
