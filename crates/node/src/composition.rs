//! Whether the functions of an app fit together by the interfaces that they import and export, and what expressions call is what
//! components export: asked before an app is sent, and again by the node that takes it.

use std::collections::BTreeMap;

use littoral_model::composition::Composition;
use littoral_model::id::FunctionName;
use littoral_model::manifest::{Fidelity, Function, Manifest, Sink};
use littoral_runtime::composition::Part;
use littoral_runtime::user_function::Shape;
use littoral_sql::{Program, UserFunction};

pub use littoral_runtime::composition::{Interfaces, interfaces};

use crate::admin::types::{AdminError, AppBundle};
use crate::artifacts::Artifacts;
use crate::spec::query_placement;

/// What is to be done about functions that do not fit together.
pub const HINT: &str = "docs/how-to/compose-functions.md tells how interfaces are shared between functions, docs/reference/sql.md how expressions call them";

/// Finds whose export each import of an app's functions is, and checks what its expressions call, and that each variant of a function may
/// stand in its place. `known` has the interfaces of the components that are at hand, by the names of their artefacts.
///
/// # Errors
/// Everything that stands in the way, one to a line.
pub fn compose(
    manifest: &Manifest,
    program: &Program,
    known: &BTreeMap<String, Interfaces>,
) -> Result<Composition, String> {
    let own = |name: &FunctionName| Some((name.clone(), known.get(name.as_str())?.clone()));
    let own: BTreeMap<FunctionName, Interfaces> = manifest.functions.keys().filter_map(own).collect();
    let composition = compose_with(manifest, program, &own)?;
    let varied = manifest.functions.iter().filter(|(_, function)| !function.variants.is_empty());
    let problems: Vec<String> =
        varied.flat_map(|it| unfit_variants((manifest, program), it, (known, &own), &composition)).collect();
    if problems.is_empty() { Ok(composition) } else { Err(problems.join("\n")) }
}

/// Which variants of a function cannot stand in its place, and why.
fn unfit_variants(
    (manifest, program): (&Manifest, &Program),
    (name, function): (&FunctionName, &Function),
    (known, own): (&BTreeMap<String, Interfaces>, &BTreeMap<FunctionName, Interfaces>),
    composition: &Composition,
) -> Vec<String> {
    if flow_of(manifest, name).is_none() {
        return vec![format!(
            "function {name} has variants, and no flow has it as a stage or calls it: drop `variants`"
        )];
    }
    let of_own = composition.get(name).map(Vec::as_slice).unwrap_or_default();
    let unfit = |variant: Fidelity<'_>| {
        let mut with = own.clone();
        with.get_mut(name)?.clone_from(known.get(&variant.artifact)?);
        let reason = match compose_with(manifest, program, &with) {
            Err(problems) => problems,
            Ok(composed) => {
                let foreign = composed.get(name)?.iter().find(|import| !of_own.contains(import))?;
                format!("it imports {} of another function, and the function itself does not", foreign.import)
            }
        };
        Some(format!("variant {} of function {name} cannot stand in its place: {reason}", variant.name))
    };
    function.fidelities(name).skip(1).filter_map(unfit).collect()
}

/// The same for one component of each function.
fn compose_with(
    manifest: &Manifest,
    program: &Program,
    known: &BTreeMap<FunctionName, Interfaces>,
) -> Result<Composition, String> {
    let parts = manifest.functions.iter().map(|(name, function)| {
        let part = Part {
            interfaces: known.get(name).cloned(),
            declared: function.imports.clone(),
            stage_of: flow_of(manifest, name),
        };
        (name.clone(), part)
    });
    let composed = littoral_runtime::composition::compose(&parts.collect());
    let called = program.functions.iter().filter_map(|of| unfit(of, known.get(&of.function)?));
    let placed = manifest.queries.iter().filter_map(|(stage, query)| {
        let apart = query_placement(manifest, query).err()?;
        Some(format!("the stage {stage} calls function {apart}, which may not run where the stage and all others that it calls may"))
    });
    let problems: Vec<String> = called.chain(placed).collect();
    match composed {
        Ok(composition) if problems.is_empty() => Ok(composition),
        Ok(_) => Err(problems.join("\n")),
        Err(others) => Err([others, problems].concat().join("\n")),
    }
}

/// Why what a statement declares is not what the component exports, with both sides, if it is not.
fn unfit(declared: &UserFunction, interfaces: &Interfaces) -> Option<String> {
    let UserFunction { name, function, export, parameters, result } = declared;
    let (exported, reason) = match interfaces.user_function(export) {
        Err(reason) => (None, reason),
        Ok((interface, exported, signature)) => {
            let types: Vec<_> = parameters.iter().map(|(_, ty)| ty.arrow()).collect();
            let reason = Shape::of(signature).map_or_else(Some, |shape| shape.refuses(&types, &result.arrow()))?;
            let place = interface.map_or_else(String::new, |interface| format!(" in {interface}"));
            (Some(format!("\n  function {function} exports{place}:\n    {}", signature.shown(exported))), reason)
        }
    };
    let declared = format!("{} RETURNS {result}", declared.signature());
    Some(format!(
        "`{name}` of the statements and function {function} do not fit: {reason}\n  the statement declares:\n    {declared}{}",
        exported.unwrap_or_default()
    ))
}

/// The flow that a function is a stage of, its sink included, or in whose stage it is called.
fn flow_of(manifest: &Manifest, name: &FunctionName) -> Option<String> {
    let calls = |stage: &FunctionName| manifest.queries.get(stage).is_some_and(|query| query.functions.contains(name));
    let mut flows = manifest.flows.iter().filter(|(_, flow)| {
        let is_sink = matches!(&flow.sink, Some(Sink::Function(sink)) if sink == name);
        is_sink || flow.stages.iter().any(|stage| stage == name || calls(stage))
    });
    let flow = flows.next().map(|(flow, _)| flow.to_string());
    flow.or_else(|| {
        manifest.called.contains(name).then(|| "(none yet, but a statement declares it for expressions)".to_owned())
    })
}

/// The same for a bundle whose components this node holds.
pub(crate) async fn compose_bundle(
    artifacts: &Artifacts,
    (manifest, program): (&Manifest, &Program),
    bundle: &AppBundle,
) -> Result<Composition, AdminError> {
    // Many functions may be of one component.
    let mut read: BTreeMap<&String, Option<Interfaces>> = BTreeMap::new();
    let mut known = BTreeMap::new();
    let components = manifest.functions.iter().flat_map(|(name, function)| function.fidelities(name));
    let components: Vec<String> = components.map(|component| component.artifact).collect();
    for name in components {
        let Some(digest) = bundle.artifacts.get(&name) else { continue };
        if !read.contains_key(digest) {
            let component = artifacts.get(digest).await.map_err(|error| AdminError::unavailable(error.to_string()))?;
            let interfaces = match component {
                Some(component) => tokio::task::spawn_blocking(move || interfaces(&component)).await,
                None => continue,
            };
            // What is no component says so when it is loaded.
            read.insert(digest, interfaces.ok().and_then(Result::ok));
        }
        if let Some(Some(interfaces)) = read.get(digest) {
            known.insert(name, interfaces.clone());
        }
    }
    compose(manifest, program, &known).map_err(|problems| AdminError::refused(problems).hint(HINT))
}
