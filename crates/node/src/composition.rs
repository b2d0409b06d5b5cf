//! Whether the functions of an app fit together by the interfaces that they import and export: asked before an app is
//! sent, and again by the node that takes it.

use std::collections::BTreeMap;

use littoral_model::composition::Composition;
use littoral_model::id::FunctionName;
use littoral_model::manifest::{Manifest, Sink};
use littoral_runtime::composition::Part;

pub use littoral_runtime::composition::{Interfaces, interfaces};

use crate::admin::types::{AdminError, AppBundle};
use crate::artifacts::Artifacts;

/// What is to be done about functions that do not fit together.
pub const HINT: &str = "docs/how-to/compose-functions.md tells how interfaces are shared between functions";

/// Finds whose export each import of an app's functions is. `known` has the interfaces of the components that are at hand.
///
/// # Errors
/// Everything that stands in the way, one to a line.
pub fn compose(manifest: &Manifest, known: &BTreeMap<FunctionName, Interfaces>) -> Result<Composition, String> {
    let parts = manifest.functions.iter().map(|(name, function)| {
        let part = Part {
            interfaces: known.get(name).cloned(),
            declared: function.imports.clone(),
            stage_of: flow_of(manifest, name),
        };
        (name.clone(), part)
    });
    littoral_runtime::composition::compose(&parts.collect()).map_err(|problems| problems.join("\n"))
}

/// The flow that a function is a stage of, its sink included.
fn flow_of(manifest: &Manifest, name: &FunctionName) -> Option<String> {
    let mut flows = manifest.flows.iter().filter(|(_, flow)| {
        flow.stages.contains(name) || matches!(&flow.sink, Some(Sink::Function(sink)) if sink == name)
    });
    flows.next().map(|(flow, _)| flow.to_string())
}

/// The same for a bundle whose components this node holds.
pub(crate) async fn compose_bundle(
    artifacts: &Artifacts,
    manifest: &Manifest,
    bundle: &AppBundle,
) -> Result<Composition, AdminError> {
    // Many functions may be of one component.
    let mut read: BTreeMap<&String, Option<Interfaces>> = BTreeMap::new();
    let mut known = BTreeMap::new();
    for name in manifest.functions.keys() {
        let Some(digest) = bundle.artifacts.get(name.as_str()) else { continue };
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
            known.insert(name.clone(), interfaces.clone());
        }
    }
    compose(manifest, &known).map_err(|problems| AdminError::refused(problems).hint(HINT))
}
