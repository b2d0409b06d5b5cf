//! Which variants of its functions a stage runs: the usual ones, or on a level below those, cheaper ones.
//!
//! The owner of a stage keeps on which level it is, for as long as it owns it under that epoch: it alone runs it, so that neither what is
//! deployed nor the keeper has to know. Who watches an objective asks it for the next level ([`Vary`]), by the artefacts that run and
//! those that are to: a request that comes late, or is of another deployment, changes nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Instant;

use littoral_control::fidelity::Fidelity;
use littoral_model::id::{Epoch, FunctionName};
use littoral_model::manifest::Query;
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

/// The levels of the stages that this node owns and that were varied.
#[derive(Default)]
pub(crate) struct Levels(Mutex<HashMap<WorkId, Level>>);

/// The level of a stage.
struct Level {
    epoch: Epoch,
    /// The artefacts of each level: the level is of these alone.
    ladder: Vec<Vec<String>>,
    since: Instant,
    fidelity: Fidelity,
}

impl Levels {
    /// On which level a stage is.
    pub(crate) fn of(&self, app: &App, work: &WorkId, role: &Role) -> usize {
        match lock(&self.0).get(work) {
            Some(level) if level.ladder == ladder(app, role) => level.fidelity.level(),
            _ => 0,
        }
    }

    /// Takes the step that is asked for.
    pub(crate) fn vary(&self, app: &App, role: &Role, asked: &Vary) -> Result<(), String> {
        let ladder = ladder(app, role);
        let mut all = lock(&self.0);
        let new = || Level { epoch: asked.epoch, ladder: ladder.clone(), since: Instant::now(), fidelity: Fidelity::default() };
        let level = all.entry(asked.work.clone()).or_insert_with(new);
        if level.epoch != asked.epoch || level.ladder != ladder {
            *level = new();
        }
        let now_ms = u64::try_from(level.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut next = level.fidelity.clone();
        match asked.calm_ms {
            None => next.lower(now_ms),
            Some(calm_ms) if next.raise(now_ms, calm_ms) => {}
            Some(_) => return Err(format!("it must be calm for {} s", next.wait_ms() / 1_000)),
        }
        if level.ladder.get(level.fidelity.level()) != Some(&asked.from) || level.ladder.get(next.level()) != Some(&asked.to) {
            return Err("it runs other variants by now".to_owned());
        }
        level.fidelity = next;
        Ok(())
    }

    /// What is said of a stage that stops, or whose variants fail, is forgotten: it begins with the usual ones.
    pub(crate) fn forget(&self, work: &WorkId) {
        lock(&self.0).remove(work);
    }

    /// The same where it is owned anew.
    pub(crate) fn forget_before(&self, work: &WorkId, epoch: Epoch) {
        let mut all = lock(&self.0);
        if all.get(work).is_some_and(|level| level.epoch != epoch) {
            all.remove(work);
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }
}

/// The artefacts of a stage's functions on each level, the usual ones first. There is one level where none has variants.
pub(crate) fn ladder(app: &App, role: &Role) -> Vec<Vec<String>> {
    let Role::Stage { functions, .. } = role else { return Vec::new() };
    (0..levels(app, functions)).map(|level| functions.iter().map(|stage| on_level(app, stage, level).artifact).collect()).collect()
}

/// How many levels there are for a stage's functions.
pub(crate) fn levels(app: &App, functions: &[StageFunction]) -> usize {
    let named = functions.iter().flat_map(|stage| names(app, stage));
    let count = |name: &FunctionName| Some(app.manifest.functions.get(name)?.fidelities_from_usual(name).count());
    named.filter_map(count).max().unwrap_or(1).max(1)
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
            let Some(function) = app.manifest.functions.get(name).filter(|of| !of.variants.is_empty()) else { continue };
            let is_it = |digest: &String| Query::is_made_of(artifact, digest);
            let mut found = function.fidelities(name).filter(|of| app.bundle.artifacts.get(&of.artifact).is_some_and(is_it));
            running.extend(found.next().map(|of| (name, of.name)));
        }
    }
    running
}
