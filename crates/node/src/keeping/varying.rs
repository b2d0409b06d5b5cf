//! Cheaper variants of a stage's functions, where no move helps; and better ones again after a calm. The stage's owner is asked, a
//! level at a time.

use std::collections::BTreeSet;
use std::time::Instant;

use littoral_control::fidelity::{Calm, RELAPSE_MS};
use littoral_mesh::{Method, Priority};
use littoral_model::id::{FlowName, NodeId};
use littoral_model::work::{Assignment, WorkId};
use littoral_plan::reason::Milliseconds;
use littoral_plan::{PlacedWork, Role};

use super::cause::{Cause, way};
use super::{COOL_DOWN, Keeping, Kept, Key, OWNER_DEADLINE, subject};
use crate::admin::events::{EventKind, EventRow, Moved};
use crate::fidelity::{Vary, ladder, running, shed_after};
use crate::intent::App;
use crate::report::{Report, assignments};
use crate::wiring::ask;

impl Keeping {
    /// Has a stage that is late because of its functions go on with cheaper variants of them, for a reason; why not, if it does not.
    pub(super) async fn lower(
        &self,
        app: &App,
        subject: &str,
        kept: &mut Kept,
        (held, step): (&Assignment, &Step),
        reason: &str,
    ) -> Result<(), String> {
        self.vary(held, step, None).await.map_err(|why| format!("it does not go on with {}: {why}", step.told))?;
        kept.rests_until = Instant::now() + COOL_DOWN;
        let p95_us = kept.watch.p95_us();
        kept.acted = Some(p95_us);
        let text = format!("{reason}; it goes on with {}", step.told);
        self.events
            .note_moved(&app.id.app, subject.to_owned(), EventKind::Action, text, Some(stays(held, p95_us)))
            .await;
        Ok(())
    }

    /// Has one of the stages that lead to an end, and that run cheaper variants of their functions, go on with the next better ones.
    pub(super) async fn raise(&self, app: &App, (end, flow): &Key, kept: &mut Kept, calm_ms: u64) {
        kept.raises_at = Instant::now() + COOL_DOWN;
        let of_others =
            |name: &FlowName| name != flow && app.manifest.flows.get(name).is_some_and(|of| of.slo.is_some());
        let may_vary = |placed: &&PlacedWork| {
            matches!(&placed.role, Role::Stage { flow, .. } if !of_others(flow)) && ladder(app, &placed.role).len() > 1
        };
        let stages: Vec<&PlacedWork> = way(app, end).into_iter().filter(may_vary).collect();
        // Somebody else may see the same stages be late.
        if !stages.is_empty() && any_violated(&self.lately(Some(app.id.app.clone())).await) {
            return;
        }
        let reports = if stages.is_empty() { Vec::new() } else { self.reporter.gather().await };
        let assignments = assignments(&reports);
        let mut are_usual = true;
        for placed in stages {
            let held = assignments.get(&placed.work);
            let Some((held, standing)) = held.and_then(|held| Some((held, standing(app, held, &reports)?))) else {
                are_usual = false;
                continue;
            };
            let Some(step) = standing.above(app) else { continue };
            are_usual = false;
            match self.vary(held, &step, Some(calm_ms)).await {
                Ok(()) => {
                    kept.calm = Calm::default();
                    let (stage, owner, p95) = (placed.title(), &held.owner, Milliseconds(kept.watch.p95_us()));
                    let (calm_s, told) = (calm_ms / 1_000, &step.told);
                    let text = format!(
                        "less than half of the objective for {calm_s} s, p95 is {p95}; {stage} on {owner} goes on with {told}"
                    );
                    let stays = Some(stays(held, kept.watch.p95_us()));
                    self.events.note_moved(&app.id.app, subject(flow), EventKind::Restored, text, stays).await;
                    break;
                }
                Err(reason) => tracing::debug!(work = %placed.work, reason, "no better variants yet"),
            }
        }
        kept.are_usual = are_usual;
    }

    /// Asks the owner of a stage.
    async fn vary(&self, held: &Assignment, step: &Step, calm_ms: Option<u64>) -> Result<(), String> {
        let (from, to) = (step.from.clone(), step.to.clone());
        let asked = Vary { work: held.work.clone(), epoch: held.epoch, from, to, calm_ms };
        if held.owner == *self.mesh.node() {
            return self.runner.vary(&asked).await;
        }
        // An older program does not know what it is asked for, and says that.
        ask(&self.mesh, &held.owner, Method::Vary, Priority::Control, OWNER_DEADLINE, &asked)
            .await
            .map_err(|error| error.to_string())?
    }
}

/// What is told of a stage that goes on with other variants where it is.
fn stays(held: &Assignment, p95_us: u64) -> Moved {
    let owner = held.owner.to_string();
    Moved { work: held.work.to_string(), from: owner.clone(), to: owner, p95_us }
}

/// Whether any objective does not hold, by what happened lately.
fn any_violated(events: &[EventRow]) -> bool {
    let mut violated = BTreeSet::new();
    for event in events {
        let about = (&event.node, &event.subject);
        match event.kind {
            EventKind::Violated => violated.insert(about),
            EventKind::Restored => violated.remove(&about),
            _ => continue,
        };
    }
    !violated.is_empty()
}

/// Whether a work went on with better variants so short a time ago that to be late again is because of them.
pub(super) fn was_raised(events: &[EventRow], work: &str, now_us: i64) -> bool {
    let of_work = |event: &&EventRow| event.moved.as_ref().is_some_and(|moved| moved.work == work);
    let latest = events.iter().rfind(of_work);
    latest.is_some_and(|event| {
        event.kind == EventKind::Restored && now_us.abs_diff(event.time_us) < RELAPSE_MS.saturating_mul(1_000)
    })
}

/// The step of a late stage to the next cheaper variants of its functions, if there are some and the time is spent in functions.
pub(super) fn step_below<'a>(
    app: &App,
    cause: &Cause,
    limit_us: u64,
    held: Option<&'a Assignment>,
    reports: &[(NodeId, Report)],
) -> Option<(&'a Assignment, Step)> {
    let held = held.filter(|held| held.owner == cause.owner && cause.is_of_functions(limit_us))?;
    Some((held, standing(app, held, reports)?.below(app)?))
}

/// A step from one level to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The artefacts that run.
    from: Vec<String>,
    /// Those that are to.
    to: Vec<String>,
    /// The functions that change, each with its variant, for people.
    told: String,
}

/// On which level of the variants of its functions a stage runs.
struct Standing<'a> {
    work: &'a WorkId,
    ladder: Vec<Vec<String>>,
    at: usize,
}

/// The same by the report of the stage's owner, if that runs it as it is deployed.
fn standing<'a>(app: &App, held: &'a Assignment, reports: &[(NodeId, Report)]) -> Option<Standing<'a>> {
    let (_, report) = reports.iter().find(|(node, _)| *node == held.owner)?;
    let run = report.runs.iter().find(|run| run.work == held.work && run.epoch == held.epoch)?;
    let ladder = ladder(app, &app.placement.work(&held.work)?.role);
    let at = ladder.iter().position(|level| *level == run.artifacts)?;
    Some(Standing { work: &held.work, ladder, at })
}

impl Standing<'_> {
    /// The step to the next cheaper variants, if there are any.
    fn below(&self, app: &App) -> Option<Step> {
        self.step(app, self.at + 1)
    }

    /// The step to the next better ones.
    fn above(&self, app: &App) -> Option<Step> {
        self.step(app, self.at.checked_sub(1)?)
    }

    fn step(&self, app: &App, to: usize) -> Option<Step> {
        let (from, to) = (self.ladder.get(self.at)?, self.ladder.get(to)?);
        let role = &app.placement.work(self.work)?.role;
        let before = running(app, role, from);
        let changed = running(app, role, to).into_iter().filter(|(name, variant)| before.get(name) != Some(variant));
        let told = changed.map(|(name, variant)| {
            if name == variant { format!("{name} itself") } else { format!("variant {variant} of {name}") }
        });
        let sheds = |artifacts: &[String]| shed_after(app, role, artifacts);
        let shedding = match (sheds(from), sheds(to)) {
            (None, Some(after)) => Some(format!(
                "records that are not older than {} when it reads them",
                Milliseconds(u64::try_from(after.as_micros()).unwrap_or(u64::MAX))
            )),
            (Some(_), None) => Some("all records".to_owned()),
            _ => None,
        };
        let told = told.chain(shedding).collect::<Vec<String>>().join(", ");
        // Variants of the same content are no step.
        (!told.is_empty()).then(|| Step { from: from.clone(), to: to.clone(), told })
    }
}
