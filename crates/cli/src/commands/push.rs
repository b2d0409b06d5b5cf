//! `littoral push`: components to a registry.

use std::path::Path;
use std::process::ExitCode;

use bytes::Bytes;
use littoral_model::oci::OciReference;
use littoral_node::registry::{Registry, RegistryError};
use serde::Serialize;

use crate::app::{App, Component, read_component};
use crate::args::PushArgs;
use crate::commands::build_app;
use crate::failure::{Usage, hinted};
use crate::output::{self, Tabular};
use crate::transfer::{Transfer, registry};

/// A component that is in the registry now.
#[derive(Serialize)]
struct Pushed {
    /// The function, if an app was pushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    function: Option<String>,
    /// The reference with the digest, as a manifest names it.
    reference: String,
    /// The SHA-256 of the component itself.
    artifact: String,
    /// The component's size.
    bytes: u64,
}

impl Tabular for Vec<Pushed> {
    /// What is to be pasted: the reference, or the lines of the functions.
    fn table(&self, _wide: bool) -> String {
        let line = |pushed: &Pushed| {
            let reference = &pushed.reference;
            let Some(function) = &pushed.function else { return format!("{reference}\n") };
            match function.split_once('@') {
                Some((function, variant)) => {
                    format!("[[functions.{function}.variants]]\nname = \"{variant}\"\ncomponent = \"{reference}\"\n")
                }
                None => format!("[functions.{function}]\ncomponent = \"{reference}\"\n"),
            }
        };
        self.iter().map(line).collect()
    }
}

/// Pushes a component, or those of an app.
pub(super) async fn run(args: &PushArgs) -> anyhow::Result<ExitCode> {
    let to = destination(&args.reference)?;
    let registry = registry(args.plain_http)?;
    let mut pushed = Vec::new();
    if is_app(&args.what) {
        let app = App::load(&args.what, args.output)?;
        if !args.no_build {
            build_app(&app).await?;
        }
        for function in &app.functions {
            // What comes from a registry is in one.
            let Component::File(path) = &function.component else { continue };
            let component = function.read(path)?;
            let to = function_reference(&to, &function.name, &app.manifest.version)?;
            pushed.push(push(&registry, &to, component, Some(&function.name)).await?);
        }
        if pushed.is_empty() {
            return Err(hinted("the app has no component of its own to push", "name a component's file"));
        }
    } else {
        let component = read_component(&args.what)?;
        let tag = to.tag.clone().or_else(|| Some("latest".to_owned()));
        pushed.push(push(&registry, &OciReference { tag, ..to }, component, None).await?);
    }
    output::print(&output::render(&pushed, args.output)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Whether this names an app and not a component.
fn is_app(what: &Path) -> bool {
    what.is_dir() || what.extension().is_some_and(|extension| extension == "toml")
}

/// Where to push; the digest comes of what is pushed.
fn destination(text: &str) -> anyhow::Result<OciReference> {
    let reference: OciReference = text.parse().map_err(|error: littoral_model::oci::InvalidReference| {
        Usage::new(error.to_string()).hint("for instance ghcr.io/acme/score:1.2")
    })?;
    if reference.digest.is_some() {
        return Err(Usage::new(format!("`{text}` has a digest, which is of what is pushed already"))
            .hint("give a tag, or nothing, behind the repository")
            .into());
    }
    Ok(reference)
}

/// Where a function of an app goes.
fn function_reference(app: &OciReference, function: &str, version: &str) -> anyhow::Result<OciReference> {
    let tag = app.tag.as_deref().unwrap_or(version);
    // A variant goes below its function.
    let text = format!("{}/{}/{}:{tag}", app.registry, app.repository, function.replace('@', "/"));
    text.parse().map_err(|error| {
        Usage::new(format!("function {function} cannot go there: {error}"))
            .hint("give another reference, with a tag")
            .into()
    })
}

async fn push(
    registry: &Registry,
    to: &OciReference,
    component: Bytes,
    function: Option<&str>,
) -> Result<Pushed, RegistryError> {
    let transfer = Transfer::new(format!("pushing {to}"));
    let pushed = registry.push(to, &component, &|done, total| transfer.at(done, total)).await?;
    Ok(Pushed {
        function: function.map(str::to_owned),
        reference: pushed.reference.to_string(),
        artifact: pushed.artifact,
        bytes: pushed.bytes,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn functions_go_below_the_app_with_its_version_or_the_tag() {
        let to =
            |text, version| function_reference(&destination(text).unwrap(), "score", version).map(|to| to.to_string());
        assert_eq!(to("r:5000/acme/app", "1.0.0").unwrap(), "oci://r:5000/acme/app/score:1.0.0");
        assert_eq!(to("r:5000/acme/app:beta", "1.0.0").unwrap(), "oci://r:5000/acme/app/score:beta");
        assert!(to("r:5000/acme/app", "1.0.0+build").is_err());
        assert!(destination(&format!("r/a@sha256:{}", "0".repeat(64))).is_err());
    }
}
