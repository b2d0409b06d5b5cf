//! Whether the functions of an app fit together by the interfaces that they share, as far as their components are here.

use std::collections::BTreeMap;
use std::path::Path;

use littoral_node::composition::{HINT, Interfaces, compose, interfaces};

use crate::app::{App, Component};
use crate::failure::hinted;

/// Checks an app before anything of it is sent. Components that are not built yet, or lie in a registry, are not looked at;
/// the node looks at them when it is deployed.
///
/// # Errors
/// When functions do not fit together, or a component cannot be read.
pub(crate) fn check(app: &App) -> anyhow::Result<()> {
    // Many functions may be of one component.
    let mut read: BTreeMap<&Path, Option<Interfaces>> = BTreeMap::new();
    let mut known: BTreeMap<String, Interfaces> = BTreeMap::new();
    for function in &app.functions {
        let Component::File(path) = &function.component else { continue };
        if !path.exists() {
            continue;
        }
        if !read.contains_key(path.as_path()) {
            // What is no component says so when it is loaded.
            read.insert(path, interfaces(&function.read(path)?).ok());
        }
        if let Some(Some(interfaces)) = read.get(path.as_path()) {
            known.insert(function.name.clone(), interfaces.clone());
        }
    }
    match compose(&app.manifest, &app.program, &known) {
        Ok(_) => Ok(()),
        Err(problems) => Err(hinted(problems, HINT)),
    }
}
