//! An app on disk: its manifest, its functions' components, and the bundle made of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use littoral_model::manifest::{Findings, Function, MANIFEST_BYTES_MAX, Manifest};
use littoral_model::oci::OciReference;
use littoral_node::admin::exchange::artifact_digest;
use littoral_node::admin::types::AppBundle;
use littoral_node::registry::Registry;
use littoral_node::{Layout, check_program, pack};
use littoral_sql::Program;

use crate::args::Format;
use crate::client::Client;
use crate::failure::{InvalidManifest, Usage, hinted};
use crate::library::{Found, Libraries, Library};
use crate::sql;
use crate::transfer::Transfer;

/// The manifest's name in an app's folder.
const MANIFEST: &str = "littoral.toml";
/// The largest component that a node takes.
const COMPONENT_BYTES_MAX: u64 = 64 << 20;

/// An app on disk.
#[derive(Clone, Debug)]
pub(crate) struct App {
    /// The folder of the manifest.
    pub(crate) folder: PathBuf,
    /// The manifest as it is written, with the statements of the files beside it.
    pub(crate) text: String,
    /// The manifest, with what its flows in SQL came to.
    pub(crate) manifest: Manifest,
    /// What the stages of its flows in SQL do.
    pub(crate) program: Program,
    /// Its functions, in order of their names.
    pub(crate) functions: Vec<AppFunction>,
}

/// A function as far as building and uploading it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppFunction {
    /// Its name; of one that is a component and a container, or has variants, each under the name that its artefact has in a bundle.
    pub(crate) name: String,
    /// Where its component is.
    pub(crate) component: Component,
    /// The command that builds it, and the folder that it is run in.
    pub(crate) build: Option<Build>,
}

/// How a component is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Build {
    /// The command.
    pub(crate) command: String,
    /// The app's folder, or that of the library that it is of.
    pub(crate) folder: PathBuf,
}

/// Where a component is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Component {
    /// In this file, once it is built.
    File(PathBuf),
    /// In a registry.
    Registry(OciReference),
    /// The layout of a container's image, in this folder or archive.
    Image(PathBuf),
    /// A container's image in a registry.
    ImageRegistry(OciReference),
    /// A program, in this file, once it is built.
    Program(PathBuf),
}

impl Component {
    /// The file or folder that it is read from; none if it is in a registry.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::Image(path) | Self::Program(path) => Some(path),
            Self::Registry(_) | Self::ImageRegistry(_) => None,
        }
    }
}

impl App {
    /// Reads and checks the manifest of an app, given its folder or the manifest itself. Findings are rendered for
    /// people, or as JSON when `format` says so.
    ///
    /// # Errors
    /// When there is no manifest, or it is invalid.
    pub(crate) fn load(path: &Path, format: Format) -> anyhow::Result<Self> {
        let file = if path.is_dir() { path.join(MANIFEST) } else { path.to_owned() };
        let size = match std::fs::metadata(&file) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Usage::new(format!("there is no {}", file.display()))
                    .hint("give an app's folder, or make an app with `littoral new`")
                    .into());
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        if size > MANIFEST_BYTES_MAX as u64 {
            return Err(Usage::new(format!("{} has more than 1 MiB: it is no manifest", file.display())).into());
        }
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let folder = match file.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        let text = sql::with_files(&text, &folder)?;
        let mut manifest = parse(&file, &text, format)?;
        let program = sql::expanded(&mut manifest, format)?;
        let functions = functions(&manifest, &folder, &file, &text, format)?;
        Ok(Self { folder, text, manifest, program, functions })
    }

    /// The bundle without uploading anything: components that are not built yet, or are in a registry, are left out. For
    /// planning.
    ///
    /// # Errors
    /// When a component is there and cannot be read.
    pub(crate) fn bundle_of_what_is_there(&self) -> anyhow::Result<AppBundle> {
        let mut artifacts = BTreeMap::new();
        for function in &self.functions {
            if let Some(path) = function.component.path().filter(|path| path.exists()) {
                artifacts.insert(function.name.clone(), artifact_digest(&function.read(path)?));
            }
        }
        Ok(AppBundle { manifest: self.text.clone(), artifacts, edit: None, signature: None })
    }

    /// The bundle, not signed yet, after uploading the components that the node does not hold. What comes from a registry is pulled here,
    /// with the user's credentials: the node needs none.
    ///
    /// # Errors
    /// When a component is missing or cannot be uploaded.
    pub(crate) async fn upload(&self, client: &Client, registry: &Registry) -> anyhow::Result<AppBundle> {
        let mut artifacts = BTreeMap::new();
        for function in &self.functions {
            let digest = match &function.component {
                Component::Registry(reference) => relay(client, registry, reference).await?,
                Component::ImageRegistry(reference) => relay_image(client, registry, reference).await?,
                Component::File(path) | Component::Image(path) | Component::Program(path) => {
                    upload(client, function.read(path)?).await?
                }
            };
            artifacts.insert(function.name.clone(), digest);
        }
        Ok(AppBundle { manifest: self.text.clone(), artifacts, edit: None, signature: None })
    }
}

/// Gives the node a component, unless it holds it; the component's digest.
pub(crate) async fn upload(client: &Client, component: Bytes) -> anyhow::Result<String> {
    let digest = artifact_digest(&component);
    if !client.has_artifact(&digest).await? {
        let stored = client.put_artifact(component).await?;
        anyhow::ensure!(stored == digest, "the component {digest} was damaged on its way; deploy again");
    }
    Ok(digest)
}

/// Gives the node a registry's component, unless it holds it; the component's digest.
async fn relay(client: &Client, registry: &Registry, reference: &OciReference) -> anyhow::Result<String> {
    let resolved = registry.resolve(reference).await?;
    if !client.has_artifact(&resolved.artifact).await? {
        let transfer = Transfer::new(format!("pulling {reference}"));
        let component = registry.pull(reference, &resolved.artifact, &|done, total| transfer.at(done, total)).await?;
        upload(client, component).await?;
    }
    Ok(resolved.artifact)
}

/// The same of a registry's image. What it comes to is not known before all of it is here.
async fn relay_image(client: &Client, registry: &Registry, reference: &OciReference) -> anyhow::Result<String> {
    let transfer = Transfer::new(format!("pulling {reference}"));
    let image = registry.pull_image(reference, &|done, total| transfer.at(done, total)).await?;
    drop(transfer);
    upload(client, image.archive).await
}

impl AppFunction {
    /// Reads its component from this file.
    ///
    /// # Errors
    /// When it is not there, or no component that a node takes.
    pub(crate) fn read(&self, path: &Path) -> anyhow::Result<Bytes> {
        let missing = || {
            hinted(
                format!("the component of function {} is not there: {}", self.name, path.display()),
                "build it with `littoral build`, or deploy without --no-build",
            )
        };
        if !path.exists() {
            return Err(missing());
        }
        match self.component {
            Component::Image(_) => read_image(path).with_context(|| format!("the image of function {}", self.name)),
            Component::Program(_) => {
                read_program(path).with_context(|| format!("the program of function {}", self.name))
            }
            Component::File(_) | Component::Registry(_) | Component::ImageRegistry(_) => read_component(path),
        }
    }
}

/// Reads a component, if it is not larger than nodes take.
///
/// # Errors
/// When it cannot be read, or is too large.
pub(crate) fn read_component(path: &Path) -> anyhow::Result<Bytes> {
    let unreadable = || format!("cannot read {}", path.display());
    let metadata = std::fs::metadata(path).with_context(unreadable)?;
    anyhow::ensure!(metadata.len() <= COMPONENT_BYTES_MAX, "{} has more than 64 MiB: strip it", path.display());
    Ok(std::fs::read(path).with_context(unreadable)?.into())
}

/// Reads the layout of an image, a folder as an archive of it; which image it has is looked at.
fn read_image(path: &Path) -> anyhow::Result<Bytes> {
    let unreadable = || format!("cannot read {}", path.display());
    Layout::open(path).with_context(unreadable)?;
    let archive = if path.is_dir() { pack(path) } else { std::fs::read(path) };
    let archive = archive.with_context(unreadable)?;
    let bytes = archive.len() as u64;
    anyhow::ensure!(bytes <= COMPONENT_BYTES_MAX, "{} has more than 64 MiB: leave out what is not run", path.display());
    Ok(archive.into())
}

/// Reads an executable file.
fn read_program(path: &Path) -> anyhow::Result<Bytes> {
    let program = read_component(path)?;
    check_program(&program).map_err(|reason| anyhow::anyhow!("{}: {reason}", path.display()))?;
    Ok(program)
}

/// Parses a manifest; its findings become an [`InvalidManifest`].
fn parse(file: &Path, text: &str, format: Format) -> anyhow::Result<Manifest> {
    littoral_model::manifest::parse(&file.display().to_string(), text)
        .map_err(|findings| invalid(&findings, text, format))
}

/// What is wrong with a manifest, as it is told.
fn invalid(findings: &Findings, text: &str, format: Format) -> anyhow::Error {
    let rendered = match format {
        Format::Json => serde_json::to_string_pretty(&findings).unwrap_or_else(|error| error.to_string()),
        _ => findings.render(text),
    };
    InvalidManifest { rendered }.into()
}

fn functions(
    manifest: &Manifest,
    folder: &Path,
    file: &Path,
    text: &str,
    format: Format,
) -> anyhow::Result<Vec<AppFunction>> {
    // Who names no operator does not depend on what libraries there are.
    let uses_library = manifest.functions.values().any(|function| function.operator().is_some());
    let libraries = if uses_library { Libraries::of(folder)? } else { Libraries::default() };
    let operators = libraries.resolve(&file.display().to_string(), text, manifest);
    let operators = operators.map_err(|findings| invalid(&findings, text, format))?;
    let mut functions: Vec<AppFunction> = Vec::new();
    for (name, function) in &manifest.functions {
        let build = function.build.clone().map(|command| Build { command, folder: folder.to_owned() });
        let mut made_of = |name: String, component, build: Option<Build>| {
            functions.push(AppFunction { name, component, build });
        };
        if let Some(found) = operators.get(name) {
            let (component, build) = of_library(*found);
            made_of(name.to_string(), component, build);
        } else if let Some(component) = component(function, folder) {
            made_of(name.to_string(), component, build.clone());
        }
        for variant in function.fidelities(name).skip(1) {
            let file = || Component::File(folder.join(variant.component));
            let component = variant.registry().map_or_else(file, Component::Registry);
            made_of(variant.artifact, component, build.clone());
        }
        if let Some((name, container)) = function.container_artifact(name).zip(container(function, folder)) {
            made_of(name, container, build);
        }
    }
    functions.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(functions)
}

/// Where an operator is, and how it is built if the library has its source.
fn of_library(found: Found<'_>) -> (Component, Option<Build>) {
    let Library { folder, index } = found.library;
    match found.operator.registry() {
        Some(reference) => (Component::Registry(reference), None),
        None => {
            let build = index.build.clone().map(|command| Build { command, folder: folder.clone() });
            (Component::File(folder.join(&found.operator.component)), build)
        }
    }
}

fn component(function: &Function, folder: &Path) -> Option<Component> {
    let component = function.registry().map(Component::Registry);
    let file = || Component::File(folder.join(&function.component));
    (!function.component.is_empty()).then(|| component.unwrap_or_else(file))
}

fn container(function: &Function, folder: &Path) -> Option<Component> {
    if let Some(reference) = function.image_registry() {
        return Some(Component::ImageRegistry(reference));
    }
    let image = function.image.as_ref().map(|image| Component::Image(folder.join(image)));
    image.or_else(|| function.process.as_ref().map(|program| Component::Program(folder.join(program))))
}

/// A time with its unit, as in manifests.
///
/// # Errors
/// When it is none.
pub(crate) fn parse_time(flag: &str, text: &str) -> anyhow::Result<Duration> {
    let parsed = text.parse::<littoral_model::unit::Time>();
    parsed.map(Into::into).map_err(|error| Usage::new(format!("{flag}: {error}")).into())
}

/// A size with its unit, as in manifests.
///
/// # Errors
/// When it is none.
pub(crate) fn parse_size(flag: &str, text: &str) -> anyhow::Result<u64> {
    let parsed = text.parse::<littoral_model::unit::Size>();
    parsed.map(Into::into).map_err(|error| Usage::new(format!("{flag}: {error}")).into())
}

#[cfg(test)]
#[path = "app_tests.rs"]
mod tests;
