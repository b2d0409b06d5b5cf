//! Cheaper variants of a stage's functions, where no move helps; and better ones again after a calm. The stage's owner is asked, a
//! level at a time.

use std::time::Instant;

use littoral_control::fidelity::Calm;
use littoral_mesh::{Method, Priority};
use littoral_model::id::NodeId;
use littoral_model::work::{Assignment, WorkId};
use littoral_plan::PlacedWork;
use littoral_plan::reason::Milliseconds;

use super::cause::{Cause, way};
use super::{COOL_DOWN, Keeping, Kept, Key, OWNER_DEADLINE, subject};
use crate::admin::events::{EventKind, Moved};
use crate::fidelity::{Vary, ladder, running};
use crate::intent::App;
use crate::report::{Report, assignments};
use crate::wiring::ask;

impl Keeping {
    /// What is left where no move helps: a stage that is late because of its functions goes on with cheaper variants of them, if there
    /// are some that were not tried. Otherwise it is said once that nothing more can be done.
    pub(super) async fn lower(
        &self,
        app: &App,
        subject: String,
        kept: &mut Kept,
        (cause, held): (&Cause, Option<&Assignment>),
        reports: &[(NodeId, Report)],
    ) {
        let mut text = format!("{cause}; no other node that holds its state and may run it is left to be tried");
        let step = held.filter(|held| held.owner == cause.owner && cause.is_of_functions(kept.watch.limit_us()));
        let step = step.and_then(|held| Some((held, standing(app, held, reports)?.below(app)?)));
        let untried = step.filter(|(held, step)| !kept.varied.contains(&(held.work.clone(), step.to.clone())));
        if let Some((held, step)) = untried {
            kept.rests_until = Instant::now() + COOL_DOWN;
            match self.vary(held, &step, None).await {
                Ok(()) => {
                    let p95_us = kept.watch.p95_us();
                    kept.acted = Some(p95_us);
                    kept.varied.insert((held.work.clone(), step.to));
                    let (work, owner) = (held.work.to_string(), held.owner.to_string());
                    let moved = Moved { work, from: owner.clone(), to: owner, p95_us };
                    text += &format!("; it goes on with {}", step.told);
                    self.events.note_moved(&app.id.app, subject, EventKind::Action, text, Some(moved)).await;
                    return;
                }
                Err(reason) => text += &format!("; it does not go on with {}: {reason}", step.told),
            }
        }
        if !std::mem::replace(&mut kept.is_helpless, true) {
            self.events.note(&app.id.app, subject, EventKind::Helpless, text).await;
        }
    }

    /// Has one of the stages that lead to an end, and that run cheaper variants of their functions, go on with the next better ones.
    pub(super) async fn raise(&self, app: &App, (end, flow): &Key, kept: &mut Kept, calm_ms: u64) {
        kept.raises_at = Instant::now() + COOL_DOWN;
        let has_levels = |placed: &&PlacedWork| ladder(app, &placed.role).len() > 1;
        let stages: Vec<&PlacedWork> = way(app, end).into_iter().filter(has_levels).collect();
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
                    self.events.note(&app.id.app, subject(flow), EventKind::Restored, text).await;
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
            return self.runner.vary(&asked);
        }
        // An older program does not know what it is asked for, and says that.
        ask(&self.mesh, &held.owner, Method::Vary, Priority::Control, OWNER_DEADLINE, &asked)
            .await
            .map_err(|error| error.to_string())?
    }
}

/// A step from one level to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
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
        let told = told.collect::<Vec<String>>().join(", ");
        Some(Step { from: from.clone(), to: to.clone(), told })
    }
}
