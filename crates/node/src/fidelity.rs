//! Which variants of its functions a stage runs.

use std::collections::BTreeMap;

use littoral_model::id::FunctionName;
use littoral_model::manifest::Query;
use littoral_plan::{Role, StageFunction};

use crate::intent::App;

/// What a function of a stage is made of: a component, or those that a query calls.
pub(crate) fn components(app: &App, stage: &StageFunction) -> Vec<StageFunction> {
    let Some(query) = app.manifest.queries.get(&stage.function) else { return vec![stage.clone()] };
    let called = |function: &FunctionName| {
        let chosen = app.manifest.functions.get(function).map(|of| of.chosen_artifact(function)).unwrap_or_default();
        let artifact = app.bundle.artifacts.get(&chosen).cloned().unwrap_or_default();
        StageFunction { function: function.clone(), artifact }
    };
    query.functions.iter().map(called).collect()
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
        let called = app.manifest.queries.get(&stage.function).map(|query| query.functions.as_slice());
        for name in called.unwrap_or(std::slice::from_ref(&stage.function)) {
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
