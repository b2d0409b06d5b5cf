//! Loads what functions need before they run: their settings, and their artefact, from here, or from a near node that has
//! it, or else from the registry that the manifest names.

use std::collections::HashMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use littoral_mesh::Mesh;
use littoral_model::id::{AppId, FunctionName, NodeId, SiteId, Tier};
use littoral_model::manifest::{self, Fidelity, Function, Grants};
use littoral_model::oci::OciReference;
use littoral_runtime::composition::Linking;
use littoral_runtime::container::{CPU_SHARES_DEFAULT, ContainerSpec, Containers, Contents, HeldContents, Program};
use littoral_runtime::fabric::{Attached, Device, Fabric, Place, Surroundings};
use littoral_runtime::{Access, Artifact, Background, Directory, Limits, Runtime, Shards, Usage};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::admin::exchange::artifact_digest;
use crate::artifacts::{ArtifactError, Artifacts};
use crate::condition::hint;
use crate::data_dir::DataDir;
use crate::exports::Exports;
use crate::intent::App;
use crate::logs::Logs;
use crate::metering::Metering;
use crate::operators::FunctionLog;
use crate::registry::{Credentials, Registry};
use crate::signing::Verifier;
use crate::sync::lock;
use crate::wiring::AppExporters;

/// What a configuration value begins with that names a secret.
const SECRET_PREFIX: &str = "secret:";
/// The largest secret: a key or a certificate has a few kilobytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// What of the manifest a running function was started with; it is started anew when that changes.
pub(crate) fn settings_of(app: &App, name: &FunctionName) -> String {
    if let Some(query) = app.manifest.queries.get(name) {
        let called = query.functions.iter().map(|function| format!("; {function} {}", settings_of(app, function)));
        return format!("{}{}", query.fingerprint, called.collect::<String>());
    }
    let imports = app.composition.get(name);
    let function = app.manifest.functions.get(name);
    function
        .map(|function| {
            let manifest::Function { memory, timeout, priority, limits, config, grants, health, .. } = function;
            let (process, arguments) = (&function.process, &function.arguments);
            let (target, stays) = (function.target(), function.is_contained() || function.instances_min() > 0);
            let variant = function.is_hybrid().then(|| app.bundle.artifacts.get(&function.container_artifact(name)?));
            format!(
                "{variant:?} {memory} {timeout} {priority} {limits:?} {config:?} {grants:?} {imports:?} {health:?} {process:?} {arguments:?} {target} {stays}"
            )
        })
        .unwrap_or_default()
}

/// What a registry has of a function.
enum Pulled {
    Component(OciReference),
    Image(OciReference),
}

/// Loads functions on this node.
pub(crate) struct Loader {
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) tier: Tier,
    pub(crate) site: SiteId,
    /// What functions are given of the fabric.
    pub(crate) fabric: Arc<dyn Fabric>,
    pub(crate) runtime: Runtime,
    /// Where components of low priority compute.
    pub(crate) background: Background,
    /// What runs images and programs, if this machine does.
    pub(crate) containers: Option<Arc<Containers>>,
    pub(crate) artifacts: Artifacts,
    pub(crate) data: DataDir,
    pub(crate) logs: Arc<Logs>,
    pub(crate) metering: Arc<Metering>,
    /// The folders of this machine that functions may be granted.
    pub(crate) offered: Vec<PathBuf>,
    pub(crate) verifier: Verifier,
    /// What functions import from others.
    pub(crate) exports: Arc<Exports>,
    pub(crate) fetching: Fetching,
}

/// A lock for each artefact that is being fetched.
#[derive(Default)]
pub(crate) struct Fetching(std::sync::Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Fetching {
    fn of(&self, digest: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = lock(&self.0);
        locks.retain(|_, lock| lock.strong_count() > 0);
        let known = locks.get(digest).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let new = Arc::default();
            locks.insert(digest.to_owned(), Arc::downgrade(&new));
            new
        })
    }
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
    /// On which threads it computes, if its priority keeps it from those that the data passes through.
    pub(crate) aside: Option<Shards>,
}

/// A function's image or program, ready to be run as containers.
pub(crate) struct Unpacked {
    pub(crate) containers: Arc<Containers>,
    /// What its first container is to be; further ones differ in their ordinal.
    pub(crate) spec: ContainerSpec,
    /// What it is made of is kept for as long as this is.
    pub(crate) _held: Arc<HeldContents>,
    pub(crate) limits: Limits,
    /// How many requests may run at once.
    pub(crate) concurrency: usize,
    /// Where what it uses is counted.
    pub(crate) usage: Arc<Usage>,
    pub(crate) logs: Arc<FunctionLog>,
}

impl Loader {
    /// Loads a function of an app.
    pub(crate) async fn load(&self, app: &App, name: &FunctionName, digest: &str) -> anyhow::Result<Loaded> {
        let function = app.manifest.functions.get(name).ok_or_else(|| anyhow!("the app has no function {name}"))?;
        let is_it = |of: &Fidelity<'_>| app.bundle.artifacts.get(&of.artifact).is_some_and(|signed| signed == digest);
        let fidelity = function.fidelities(name).find(is_it);
        let registry = fidelity.as_ref().and_then(Fidelity::registry).or_else(|| function.registry());
        let function = self.signed(app, name, fidelity.as_ref().map_or(name.as_str(), |of| &of.artifact), digest)?;
        let does_not_load = || format!("function {name} does not load");
        let artifact = match self.runtime.held(digest) {
            Some(artifact) => artifact,
            None => {
                let bytes = self.artifact(registry.map(Pulled::Component), digest).await?;
                self.runtime.load(bytes).await.with_context(does_not_load)?
            }
        };
        let artifact = artifact.linked(&self.runtime, &self.linking(app, name)).with_context(does_not_load)?;
        let (limits, concurrency) = (Limits::of(function), function.limits.concurrency as usize);
        let usage = self.metering.of(&app.id, name);
        usage.set_priority(function.priority);
        let aside = (function.priority == manifest::Priority::Low).then(|| self.background.shards());
        let aside = aside.transpose().context("there are no threads for functions of low priority")?;
        let logs = self.log(app, name);
        let access = self.access(&function.grants).with_context(|| format!("function {name}"))?;
        let config = self.config(&app.id, name, function).await?;
        let attached = Some(Attached { place: self.place(app, name), fabric: Arc::clone(&self.fabric) });
        let surroundings = Arc::new(Surroundings { config: config.clone(), attached });
        let (access, logs) = (Arc::new(access), Arc::new(logs));
        Ok(Loaded { artifact, limits, concurrency, usage, config, access, surroundings, logs, aside })
    }

    /// What a function uses here, in all.
    pub(crate) fn usage(&self, app: &AppId, name: &FunctionName) -> Arc<Usage> {
        self.metering.of(app, name)
    }

    /// Has a function's image or program ready. What its containers use counts as `usage`.
    pub(crate) async fn unpack(
        &self,
        app: &App,
        name: &FunctionName,
        digest: &str,
        usage: Arc<Usage>,
    ) -> anyhow::Result<Unpacked> {
        let described = app.manifest.functions.get(name).and_then(|function| function.container_artifact(name));
        let function = self.signed(app, name, described.as_deref().unwrap_or(name.as_str()), digest)?;
        let containers = self
            .containers
            .as_ref()
            .context("this node runs no containers or processes; it said why when it started")?;
        self.artifact(function.image_registry().map(Pulled::Image), digest).await?;
        let contents = self.contents(containers, function, digest).await;
        let (contents, _held) = contents.with_context(|| format!("function {name}"))?;
        let limits = Limits::of(function);
        let spec = ContainerSpec {
            environment: self.config(&app.id, name, function).await?,
            memory_bytes: limits.memory_bytes,
            cpu_millis: function.limits.cpus.map(|cpus| u32::try_from(cpus.as_millis()).unwrap_or(u32::MAX)),
            cpu_shares: shares(function.priority),
            http: function.grants.http.clone(),
            health_path: function.health.clone().unwrap_or_else(|| "/".to_owned()),
            ..ContainerSpec::new(format!("{}/{name}", app.id), contents)
        };
        let logs = Arc::new(self.log(app, name));
        let concurrency = function.limits.concurrency as usize;
        let containers = Arc::clone(containers);
        Ok(Unpacked { containers, spec, _held, limits, concurrency, usage, logs })
    }

    /// What a function's container is made of, where it can be made of it.
    async fn contents(
        &self,
        containers: &Containers,
        function: &Function,
        digest: &str,
    ) -> anyhow::Result<(Contents, Arc<HeldContents>)> {
        let artifact = self.artifacts.file(digest)?;
        let Some(program) = &function.process else {
            let (image, held) = containers.unpack(artifact).await?;
            return Ok((image.into(), held));
        };
        let name = Path::new(program).file_name().and_then(std::ffi::OsStr::to_str);
        let name = name.with_context(|| format!("`{program}` is no path of a file"))?.to_owned();
        let (file, held) = containers.place(artifact, digest).await?;
        Ok((Program { file, name, arguments: function.arguments.clone() }.into(), held))
    }

    /// A function whose artefact is the one that was signed.
    fn signed<'a>(
        &self,
        app: &'a App,
        name: &FunctionName,
        artifact: &str,
        digest: &str,
    ) -> anyhow::Result<&'a Function> {
        let function = app.manifest.functions.get(name).ok_or_else(|| anyhow!("the app has no function {name}"))?;
        // Checked when the app came in; what is compiled or run now is what was signed then.
        self.verifier.check_held(&app.id, &app.bundle)?;
        let signed = app.bundle.artifacts.get(artifact);
        anyhow::ensure!(
            signed.is_some_and(|signed| signed == digest),
            "the artefact {digest} of function {name} is not the one that is deployed now"
        );
        Ok(function)
    }

    fn log(&self, app: &App, name: &FunctionName) -> FunctionLog {
        FunctionLog { logs: Arc::clone(&self.logs), app: app.id.app.to_string(), function: name.to_string() }
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
        let (mut directories, mut held) = (Vec::with_capacity(grants.directories.len()), Vec::new());
        for (seen_at, directory) in &grants.directories {
            let granted = Path::new(directory.path());
            let folder = self.folder(granted).with_context(|| format!("it is granted {}", granted.display()))?;
            let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
            held.push(Arc::new(folder));
            directories.push(Directory { path, seen_at: seen_at.clone(), writable: directory.is_writable() });
        }
        Ok(Access {
            held,
            devices: grants.devices.iter().map(|path| self.device(path)).collect::<anyhow::Result<_>>()?,
            http: grants.http.clone(),
            sockets: grants.sockets.clone(),
            directories,
            call: grants.call.clone(),
            publish: grants.publish.clone(),
            keyvalue: grants.keyvalue.clone(),
        })
    }

    /// Opens a folder of this machine that is offered, or lies in one that is.
    pub(crate) fn folder(&self, path: &Path) -> anyhow::Result<OwnedFd> {
        let (offered, below) = self.offering(path)?;
        open_below(offered, below)
    }

    /// What of this machine is offered that a granted path leads to or through, and the rest of the path.
    fn offering<'p>(&self, granted: &'p Path) -> anyhow::Result<(&Path, &'p Path)> {
        let mut offered = self.offered.iter().map(PathBuf::as_path);
        offered.find_map(|offered| Some((offered, granted.strip_prefix(offered).ok()?))).with_context(|| {
            format!(
                "this node does not offer {0}; start it with --offer {0}, or place what needs it elsewhere",
                granted.display()
            )
        })
    }

    /// A device that is offered by itself, or lies in a folder that is.
    fn device(&self, path: &str) -> anyhow::Result<Device> {
        let (offered, below) = self.offering(Path::new(path))?;
        let (offered, below) = (offered.to_owned(), below.to_owned());
        Ok(Device { path: path.to_owned(), open: Arc::new(move || open_device(&offered, &below)) })
    }

    /// An artefact from here, from a near node that holds it, or from the registry.
    async fn artifact(&self, registry: Option<Pulled>, digest: &str) -> anyhow::Result<Bytes> {
        // Functions and partitions of one component fetch it once, and who waited finds what it waited for.
        let _alone = self.fetching.of(digest).lock_owned().await;
        let found = self.artifacts.fetch(&self.mesh, digest, &self.holders(digest)).await;
        match (found, registry) {
            (Err(ArtifactError::Missing(_)), Some(pulled)) => self.pull(&pulled, digest).await,
            (found, _) => Ok(found?),
        }
    }

    async fn pull(&self, pulled: &Pulled, digest: &str) -> anyhow::Result<Bytes> {
        // Read each time, so that a node need not be started anew for new credentials.
        let registry = Registry::new(Credentials::of_node(&self.data.registries())?, false);
        let unreached =
            || format!("no reachable node holds the artefact {digest}, and the registry gives it not either");
        let (reference, bytes) = match pulled {
            Pulled::Image(reference) => {
                let image = registry.pull_image(reference, &|_, _| {}).await.with_context(unreached)?.archive;
                // Another version of this program may put it together in another way.
                let found = artifact_digest(&image);
                anyhow::ensure!(
                    found == digest,
                    "{reference} comes to the artefact {found} here, and {digest} was deployed; deploy the app again"
                );
                (reference, image)
            }
            Pulled::Component(reference) => {
                (reference, registry.pull(reference, digest, &|_, _| {}).await.with_context(unreached)?)
            }
        };
        self.artifacts.put(bytes.clone()).await?;
        tracing::info!(digest, %reference, "fetched an artefact from its registry, as no reachable node holds it");
        Ok(bytes)
    }

    /// The nodes that may hold an artefact: first those that say so, the nearest first.
    fn holders(&self, digest: &str) -> Vec<NodeId> {
        let links = self.mesh.links();
        let rtt_us = |node: &NodeId| links.iter().find(|link| link.peer == *node).map_or(u64::MAX, |link| link.rtt_us);
        let members = self.mesh.members().borrow().clone();
        let hint = hint(digest);
        let says_so = |node: &NodeId| {
            let artifacts = members.get(node).map(|digest| &digest.condition.artifacts);
            hint.zip(artifacts).is_some_and(|(hint, artifacts)| artifacts.contains(&hint))
        };
        let mut holders: Vec<NodeId> = members.keys().cloned().collect();
        holders.sort_by_cached_key(|node| (!says_so(node), rtt_us(node)));
        holders
    }

    /// What the manifest sets, with the secrets that it names read from this node's disk.
    async fn config(
        &self,
        app: &AppId,
        name: &FunctionName,
        function: &Function,
    ) -> anyhow::Result<Vec<(String, String)>> {
        let mut config = Vec::with_capacity(function.config.len());
        for (key, value) in &function.config {
            let value = match value.strip_prefix(SECRET_PREFIX) {
                None => value.clone(),
                Some(secret) => self.secret(app, secret).await.with_context(|| format!("function {name}, `{key}`"))?,
            };
            config.push((key.clone(), value));
        }
        Ok(config)
    }

    /// A secret of an app: another app's cannot be named.
    pub(crate) async fn secret(&self, app: &AppId, secret: &str) -> anyhow::Result<String> {
        littoral_model::id::check_name(secret)?;
        let path = self.data.secrets(app).join(secret);
        let missing = || format!("this node has no secret {secret} for {app}; put it into the file {}", path.display());
        let size = tokio::fs::metadata(&path).await.with_context(missing)?.len();
        anyhow::ensure!(size <= SECRET_BYTES_MAX, "the secret {secret} has more than 64 KiB");
        let text = tokio::fs::read_to_string(&path).await.with_context(missing)?;
        Ok(text.trim_end_matches('\n').to_owned())
    }
}

/// The share of the processors that a container has beside others.
fn shares(priority: manifest::Priority) -> u32 {
    match priority {
        manifest::Priority::Low => CPU_SHARES_DEFAULT / 128,
        manifest::Priority::Normal => CPU_SHARES_DEFAULT,
        manifest::Priority::High => CPU_SHARES_DEFAULT * 8,
    }
}

/// Opens a folder below one that is offered. A guest that may write there may make links there: none is followed, or the
/// next deployment would be given what the link names.
fn open_below(offered: &Path, below: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let unopened = || format!("the folder {}, which is offered, cannot be opened", offered.display());
    let offered = rustix::fs::open(offered, flags, Mode::empty()).with_context(unopened)?;
    if below.as_os_str().is_empty() {
        return Ok(offered);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(&offered, below, flags, Mode::empty(), resolve)
        .context("it cannot be opened; it must be a folder, with no symbolic link on the way to it")
}

/// Opens a device; a link to it is followed only where the operator has named it, not below an offered folder.
fn open_device(offered: &Path, below: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if below.as_os_str().is_empty() {
        return Ok(rustix::fs::open(offered, flags, Mode::empty())?);
    }
    let folder = rustix::fs::open(offered, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(&folder, below, flags, Mode::empty(), resolve)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_link_in_an_offered_folder_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let (offered, outside) = (folder.path().join("offered"), folder.path().join("outside"));
        std::fs::create_dir_all(offered.join("below/further")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        for (name, target) in [("away", "../outside"), ("up", ".."), ("inside", "below"), ("proc", "/proc")] {
            std::os::unix::fs::symlink(target, offered.join(name)).unwrap();
        }
        for fine in ["", "below", "below/further"] {
            open_below(&offered, Path::new(fine)).unwrap();
        }
        for refused in ["away", "up", "inside/further", "proc/self", "..", "below/../../outside", "missing"] {
            assert!(open_below(&offered, Path::new(refused)).is_err(), "{refused}");
        }
    }
}
