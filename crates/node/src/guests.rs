//! Loads what functions need before they run: their settings, and their artefact, from here, or from a near node that has
//! it, or else from the registry that the manifest names.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use littoral_mesh::Mesh;
use littoral_model::id::{FunctionName, NodeId, SiteId, Tier};
use littoral_model::manifest::{self, Function, Grants};
use littoral_model::oci::OciReference;
use littoral_runtime::composition::Linking;
use littoral_runtime::fabric::{Attached, Fabric, Place, Surroundings};
use littoral_runtime::{Access, Artifact, Directory, Limits, Runtime, Usage};

use crate::artifacts::{ArtifactError, Artifacts};
use crate::data_dir::DataDir;
use crate::exports::Exports;
use crate::intent::App;
use crate::logs::Logs;
use crate::metering::Metering;
use crate::operators::FunctionLog;
use crate::registry::{Credentials, Registry};
use crate::signing::Verifier;
use crate::wiring::AppExporters;

/// What a configuration value begins with that names a secret.
const SECRET_PREFIX: &str = "secret:";
/// The largest secret: a key or a certificate has a few kilobytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// What of the manifest a running function was started with; it is started anew when that changes.
pub(crate) fn settings_of(app: &App, name: &FunctionName) -> String {
    let imports = app.composition.get(name);
    let function = app.manifest.functions.get(name);
    function
        .map(|function| {
            let manifest::Function { memory, timeout, limits, config, grants, .. } = function;
            format!("{memory} {timeout} {limits:?} {config:?} {grants:?} {imports:?}")
        })
        .unwrap_or_default()
}

/// Loads functions on this node.
pub(crate) struct Loader {
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) tier: Tier,
    pub(crate) site: SiteId,
    /// What functions are given of the fabric.
    pub(crate) fabric: Arc<dyn Fabric>,
    pub(crate) runtime: Runtime,
    pub(crate) artifacts: Artifacts,
    pub(crate) data: DataDir,
    pub(crate) logs: Arc<Logs>,
    pub(crate) metering: Arc<Metering>,
    /// The folders of this machine that functions may be granted.
    pub(crate) offered: Vec<PathBuf>,
    pub(crate) verifier: Verifier,
    /// What functions import from others.
    pub(crate) exports: Arc<Exports>,
    /// Held while a registry is asked: functions and partitions of one component fetch it once.
    pub(crate) pulling: tokio::sync::Mutex<()>,
}

/// A function, ready to be instantiated.
pub(crate) struct Loaded {
    pub(crate) artifact: Arc<Artifact>,
    pub(crate) limits: Limits,
    /// How many requests may run at once.
    pub(crate) concurrency: usize,
    /// Where what it uses is counted.
    pub(crate) usage: Arc<Usage>,
    pub(crate) config: Vec<(String, String)>,
    pub(crate) access: Arc<Access>,
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) logs: Arc<FunctionLog>,
}

impl Loader {
    /// Loads a function of an app.
    pub(crate) async fn load(&self, app: &App, name: &FunctionName, digest: &str) -> anyhow::Result<Loaded> {
        let function = app.manifest.functions.get(name).ok_or_else(|| anyhow!("the app has no function {name}"))?;
        // Checked when the app came in; what is compiled now is what was signed then.
        self.verifier.check_held(&app.id, &app.bundle)?;
        let signed = app.bundle.artifacts.get(name.as_str());
        anyhow::ensure!(
            signed.is_some_and(|signed| signed == digest),
            "the component {digest} of function {name} is not the one that is deployed now"
        );
        let does_not_load = || format!("function {name} does not load");
        let artifact = match self.runtime.held(digest) {
            Some(artifact) => artifact,
            None => {
                let bytes = self.artifact(function, digest).await?;
                self.runtime.load(bytes).await.with_context(does_not_load)?
            }
        };
        let artifact = artifact.linked(&self.runtime, &self.linking(app, name)).with_context(does_not_load)?;
        let (limits, concurrency) = (Limits::of(function), function.limits.concurrency as usize);
        let usage = self.metering.of(&app.id, name);
        let logs =
            FunctionLog { logs: Arc::clone(&self.logs), app: app.id.app.to_string(), function: name.to_string() };
        let access = self.access(&function.grants).with_context(|| format!("function {name}"))?;
        let config = self.config(name, function).await?;
        let attached = Some(Attached { place: self.place(app, name), fabric: Arc::clone(&self.fabric) });
        let surroundings = Arc::new(Surroundings { config: config.clone(), attached });
        let (access, logs) = (Arc::new(access), Arc::new(logs));
        Ok(Loaded { artifact, limits, concurrency, usage, config, access, surroundings, logs })
    }

    /// Where a function runs on this node.
    fn place(&self, app: &App, function: &FunctionName) -> Place {
        let (app, function, node) = (app.id.clone(), function.clone(), self.mesh.node().clone());
        Place { app, function, node, tier: self.tier, site: self.site.clone() }
    }

    /// Where what it imports from other functions is to be found.
    fn linking(&self, app: &App, name: &FunctionName) -> Linking {
        let imports = app.composition.get(name).cloned().unwrap_or_default();
        let exporters = AppExporters { app: app.id.clone(), exports: Arc::clone(&self.exports) };
        Linking { imports, exporters: Arc::new(exporters) }
    }

    /// What the manifest grants, as far as this machine offers it.
    fn access(&self, grants: &Grants) -> anyhow::Result<Access> {
        let mut directories = Vec::with_capacity(grants.directories.len());
        for (seen_at, directory) in &grants.directories {
            let path = PathBuf::from(directory.path());
            anyhow::ensure!(
                self.offered.iter().any(|offered| path.starts_with(offered)),
                "it is granted {0}, which this node does not offer; start the node with --offer {0}, or place the function elsewhere",
                path.display()
            );
            directories.push(Directory { path, seen_at: seen_at.clone(), writable: directory.is_writable() });
        }
        Ok(Access {
            http: grants.http.clone(),
            sockets: grants.sockets.clone(),
            directories,
            call: grants.call.clone(),
            publish: grants.publish.clone(),
            keyvalue: grants.keyvalue.clone(),
        })
    }

    /// An artefact from here, from a near node that holds it, or from the registry.
    async fn artifact(&self, function: &Function, digest: &str) -> anyhow::Result<Bytes> {
        let found = self.artifacts.fetch(&self.mesh, digest, &self.holders()).await;
        match (found, function.registry()) {
            (Err(ArtifactError::Missing(_)), Some(reference)) => self.pull(&reference, digest).await,
            (found, _) => Ok(found?),
        }
    }

    async fn pull(&self, reference: &OciReference, digest: &str) -> anyhow::Result<Bytes> {
        let _alone = self.pulling.lock().await;
        // Who waited for the lock may find what it waited for.
        if let Some(bytes) = self.artifacts.get(digest).await? {
            return Ok(bytes);
        }
        // Read each time, so that a node need not be started anew for new credentials.
        let registry = Registry::new(Credentials::of_node(&self.data.registries())?, false);
        let unreached =
            || format!("no reachable node holds the artefact {digest}, and the registry gives it not either");
        let bytes = registry.pull(reference, digest, &|_, _| {}).await.with_context(unreached)?;
        self.artifacts.put(bytes.clone()).await?;
        tracing::info!(digest, %reference, "fetched an artefact from its registry, as no reachable node holds it");
        Ok(bytes)
    }

    /// The nodes that may hold an artefact, the nearest first.
    fn holders(&self) -> Vec<NodeId> {
        let links = self.mesh.links();
        let rtt_us = |node: &NodeId| links.iter().find(|link| link.peer == *node).map_or(u64::MAX, |link| link.rtt_us);
        let mut holders: Vec<NodeId> = self.mesh.members().borrow().keys().cloned().collect();
        holders.sort_by_key(rtt_us);
        holders
    }

    /// What the manifest sets, with the secrets that it names read from this node's disk.
    async fn config(&self, name: &FunctionName, function: &Function) -> anyhow::Result<Vec<(String, String)>> {
        let mut config = Vec::with_capacity(function.config.len());
        for (key, value) in &function.config {
            let value = match value.strip_prefix(SECRET_PREFIX) {
                None => value.clone(),
                Some(secret) => self.secret(secret).await.with_context(|| format!("function {name}, `{key}`"))?,
            };
            config.push((key.clone(), value));
        }
        Ok(config)
    }

    async fn secret(&self, secret: &str) -> anyhow::Result<String> {
        littoral_model::id::check_name(secret)?;
        let path = self.data.secrets().join(secret);
        let missing = || format!("this node has no secret {secret}; put it into the file {}", path.display());
        let size = tokio::fs::metadata(&path).await.with_context(missing)?.len();
        anyhow::ensure!(size <= SECRET_BYTES_MAX, "the secret {secret} has more than 64 KiB");
        let text = tokio::fs::read_to_string(&path).await.with_context(missing)?;
        Ok(text.trim_end_matches('\n').to_owned())
    }
}
