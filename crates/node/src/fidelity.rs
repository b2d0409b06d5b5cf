//! Which variants of its functions a stage runs: the usual ones, or on a level below those, cheaper ones.
//!
//! The owner of a stage keeps on which level it is, for as long as it owns it under that epoch: it alone runs it, so that neither what is
//! deployed nor the keeper has to know. Who watches an objective asks it for the next level ([`Vary`]), by the artefacts that run and
//! those that are to: a request that comes late, or is of another deployment, changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use littoral_control::fidelity::Fidelity;
use littoral_model::id::{Epoch, FlowName, FunctionName};
use littoral_model::manifest::{Flow, Query, Sink};
use littoral_model::work::WorkId;
use littoral_plan::{Role, StageFunction};
use serde::{Deserialize, Serialize};

use crate::intent::App;
use crate::sync::lock;

/// Asks a stage's owner to go on with other variants of its functions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vary {
    /// The stage.
    pub(crate) work: WorkId,
    /// Under which epoch it is owned.
    pub(crate) epoch: Epoch,
    /// The artefacts that run.
    pub(crate) from: Vec<String>,
    /// Those that are to run: of the next level below, or above.
    pub(crate) to: Vec<String>,
    /// For how long it was calm where it is to be the level above, in milliseconds; none for the one below.
    pub(crate) calm_ms: Option<u64>,
}

/// The levels of the stages that this node owns and that were varied: no more than it owns, for what stops is forgotten.
#[derive(Default)]
pub(crate) struct Levels(Mutex<HashMap<WorkId, Level>>);

/// The level of a stage.
struct Level {
    epoch: Epoch,
    /// The artefacts of each level: the level is of these alone.
    ladder: Vec<Vec<String>>,
    fidelity: Fidelity,
}

impl Levels {
    /// On which level a stage is that has these.
    pub(crate) fn of(&self, work: &WorkId, ladder: &[Vec<String>]) -> usize {
        let all = lock(&self.0);
        all.get(work).filter(|level| level.ladder == ladder).map_or(0, |level| level.fidelity.level())
    }

    /// Takes the step that is asked for, of a stage that has these levels.
    pub(crate) fn vary(&self, ladder: Vec<Vec<String>>, asked: &Vary, now_ms: u64) -> Result<(), String> {
        let mut all = lock(&self.0);
        let known = all.get(&asked.work).filter(|level| level.epoch == asked.epoch && level.ladder == ladder);
        let mut fidelity = known.map(|level| level.fidelity.clone()).unwrap_or_default();
        let (from, to) = (fidelity.level(), if asked.calm_ms.is_some() { -1 } else { 1 });
        let runs = |level: Option<usize>, artifacts| level.and_then(|level| ladder.get(level)) == Some(artifacts);
        if !runs(Some(from), &asked.from) || !runs(from.checked_add_signed(to), &asked.to) {
            return Err("it runs other variants by now".to_owned());
        }
        match asked.calm_ms {
            None => fidelity.lower(now_ms).map_err(|barred_ms| {
                format!("what it ran then failed, and is not tried again for {} s", barred_ms.div_ceil(1_000))
            })?,
            Some(calm_ms) => {
                if !fidelity.raise(now_ms, calm_ms) {
                    return Err(format!("it must be calm for {} s", fidelity.wait_ms() / 1_000));
                }
            }
        }
        all.insert(asked.work.clone(), Level { epoch: asked.epoch, ladder, fidelity });
        Ok(())
    }

    /// What a stage runs failed: if those are cheaper variants, it goes on with the level above.
    pub(crate) fn fail(&self, work: &WorkId, now_ms: u64) {
        let mut all = lock(&self.0);
        if let Some(level) = all.get_mut(work).filter(|level| level.fidelity.level() > 0) {
            level.fidelity.fail(now_ms);
        }
    }

    /// A stage that stops begins with the usual ones.
    pub(crate) fn forget(&self, work: &WorkId) {
        lock(&self.0).remove(work);
    }

    /// So does one that is owned anew.
    pub(crate) fn forget_before(&self, work: &WorkId, epoch: Epoch) {
        let mut all = lock(&self.0);
        if all.get(work).is_some_and(|level| level.epoch != epoch) {
            all.remove(work);
        }
    }

    /// And one that was deployed with others: those that it had count no more, even if it has them again later.
    pub(crate) fn forget_other_than(&self, work: &WorkId, ladder: &[Vec<String>]) {
        let mut all = lock(&self.0);
        if all.get(work).is_some_and(|level| level.ladder != ladder) {
            all.remove(work);
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }
}

/// What stands behind the artefacts of the level on which a stage passes over records that are too old.
const SHEDS: &str = "sheds";

/// The artefacts of a stage's functions on each level, the usual ones first; on the last one, where the flow may shed, behind those of the
/// cheapest variants that it does. There is one level where none has variants, or no flow that the stage leads to has an objective, and
/// the flow may not shed.
pub(crate) fn ladder(app: &App, role: &Role) -> Vec<Vec<String>> {
    let Role::Stage { flow, functions, .. } = role else { return Vec::new() };
    let named = functions.iter().flat_map(|stage| names(app, stage));
    let count = |name: &FunctionName| Some(app.manifest.functions.get(name)?.fidelities_from_usual(name).count());
    let levels = if has_objective(app, flow) { named.filter_map(count).max().unwrap_or(1).max(1) } else { 1 };
    let on = |level| functions.iter().map(|stage| on_level(app, stage, level).artifact).collect::<Vec<_>>();
    let mut ladder: Vec<_> = (0..levels).map(on).collect();
    if may_shed(app, role) {
        ladder.push(on(levels).into_iter().chain([SHEDS.to_owned()]).collect());
    }
    ladder
}

/// Whether a stage may pass over records: of a flow that says so, where it reads them. Of rows that were brought together by key each says
/// how far others are.
fn may_shed(app: &App, role: &Role) -> bool {
    let Role::Stage { flow, functions, .. } = role else { return false };
    let says_so = app.manifest.flows.get(flow).is_some_and(|flow| flow.shed && flow.slo.is_some());
    let mut plans = functions.iter().filter_map(|stage| app.program.stage(&stage.function));
    says_so && !plans.any(|plan| plan.is_keyed())
}

/// How old records may be that a stage takes whose functions have these artefacts, if it passes over older ones: half of the objective, so
/// that there is as much for what the stage does and what is behind it.
pub(crate) fn shed_after(app: &App, role: &Role, artifacts: &[String]) -> Option<Duration> {
    let Role::Stage { flow, .. } = role else { return None };
    let slo = app.manifest.flows.get(flow)?.slo.filter(|_| artifacts.last().is_some_and(|last| last == SHEDS))?;
    Some(Duration::from(slo) / 2)
}

/// Whether a flow has an objective, or one that goes on from what it puts out.
fn has_objective(app: &App, flow: &FlowName) -> bool {
    let flows = &app.manifest.flows;
    let (mut known, mut next) = (BTreeSet::from([flow]), vec![flow]);
    while let Some(flow) = next.pop().and_then(|name| flows.get(name)) {
        if flow.slo.is_some() {
            return true;
        }
        let goes_on = |other: &Flow| {
            matches!(&flow.sink, Some(Sink::Stream(sink)) if *sink == other.source)
                || flow.outputs.values().any(|output| *output == other.source)
        };
        let follow = flows.iter().filter(|(_, other)| goes_on(other));
        next.extend(follow.map(|(name, _)| name).filter(|name| known.insert(name)));
    }
    false
}

/// A function of a stage on a level.
pub(crate) fn on_level(app: &App, stage: &StageFunction, level: usize) -> StageFunction {
    let artifact = match app.manifest.queries.get(&stage.function) {
        _ if level == 0 => stage.artifact.clone(),
        Some(query) => {
            let called = components(app, stage, level);
            query.artifact(called.iter().map(|called| called.artifact.as_str()))
        }
        None => component(app, &stage.function, level),
    };
    StageFunction { function: stage.function.clone(), artifact }
}

/// What a function of a stage is made of on a level: a component, or those that a query calls.
pub(crate) fn components(app: &App, stage: &StageFunction, level: usize) -> Vec<StageFunction> {
    if !app.manifest.queries.contains_key(&stage.function) {
        return vec![on_level(app, stage, level)];
    }
    let called = |name: &FunctionName| StageFunction { function: name.clone(), artifact: component(app, name, level) };
    names(app, stage).iter().map(called).collect()
}

/// The digest of a function's component on a level; of the last one it has where there are more.
fn component(app: &App, name: &FunctionName, level: usize) -> String {
    let function = app.manifest.functions.get(name);
    let variant = function.and_then(|function| function.fidelities_from_usual(name).take(level + 1).last());
    variant.and_then(|variant| app.bundle.artifacts.get(&variant.artifact)).cloned().unwrap_or_default()
}

/// The functions with components that are in a function of a stage: itself, or those that a query calls.
fn names<'a>(app: &'a App, stage: &'a StageFunction) -> &'a [FunctionName] {
    let called = app.manifest.queries.get(&stage.function).map(|query| query.functions.as_slice());
    called.unwrap_or(std::slice::from_ref(&stage.function))
}

/// Which variant of each function that has some a stage runs whose functions have these artefacts.
pub(crate) fn running<'a>(
    app: &'a App,
    role: &'a Role,
    artifacts: &[String],
) -> BTreeMap<&'a FunctionName, &'a FunctionName> {
    let Role::Stage { functions, .. } = role else { return BTreeMap::new() };
    let mut running = BTreeMap::new();
    for (stage, artifact) in functions.iter().zip(artifacts) {
        for name in names(app, stage) {
            let Some(function) = app.manifest.functions.get(name).filter(|of| !of.variants.is_empty()) else {
                continue;
            };
            let is_it = |digest: &String| Query::is_made_of(artifact, digest);
            let mut found =
                function.fidelities(name).filter(|of| app.bundle.artifacts.get(&of.artifact).is_some_and(is_it));
            running.extend(found.next().map(|of| (name, of.name)));
        }
    }
    running
}

#[cfg(test)]
#[path = "fidelity_tests.rs"]
mod tests;
