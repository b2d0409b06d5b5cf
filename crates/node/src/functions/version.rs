//! A version of a function as it was deployed: what answers its requests, and what answers other functions' calls.

use std::sync::Arc;

use littoral_control::rollout::Outcomes;
use littoral_control::scaling::Settings;
use littoral_control::variants::Variant;
use littoral_model::manifest::Function;
use littoral_runtime::composition::ExporterSettings;
use littoral_runtime::http::{HttpFunction, HttpSettings};
use littoral_runtime::interfaces::InterfaceFunction;
use littoral_runtime::pool::Pool;
use littoral_runtime::{Artifact, LogSink};
use tokio::time::Instant;

use super::instances::{Component, Duty, Instances, Standing, Starter};
use super::variants::{Choice, Chooser, Chosen};
use super::{DRAIN_MAX, DRAIN_POLL, Functions, Key};
use crate::guests::Unpacked;
use crate::intent::App;

/// A version of a function on this node.
#[derive(Default)]
pub(super) struct Version {
    pub(super) http: Option<Arc<HttpFunction>>,
    pub(super) interfaces: Option<Arc<InterfaceFunction>>,
    /// Those of a function whose instances come and go.
    instances: Option<Arc<Instances>>,
    /// What chooses between its component and its container, if it is both.
    choice: Option<Choice>,
    /// Its artefacts, which are kept on this node's disk for as long as it may be loaded again.
    pub(super) artifacts: Vec<String>,
    /// The app's version, for people.
    pub(super) release: String,
}

impl Version {
    /// What became of its requests so far.
    pub(super) fn outcomes(&self) -> Outcomes {
        let outcomes = self.http.as_ref().map(|http| http.outcomes()).unwrap_or_default();
        Outcomes { calls: outcomes.calls, failed: outcomes.failed }
    }

    /// How its instances stand; nothing for one that simply stays loaded.
    pub(super) fn standing(&self) -> Option<Standing> {
        self.instances.as_ref().map(|instances| instances.standing())
    }

    /// Which variant answers, and why, if there are two.
    pub(super) fn chosen(&self) -> Option<Chosen> {
        self.choice.as_ref().map(Choice::chosen)
    }

    /// Whether it counts its starts itself, instance by instance.
    pub(super) fn counts_starts(&self) -> bool {
        self.instances.is_some()
    }

    /// Waits until an instance was ready, or starting one has failed so often.
    pub(super) async fn until_ready(&self, failed_starts: u32) -> Standing {
        // Where there is a component, too, it is there from the beginning.
        let Some(instances) = self.instances.as_ref().filter(|_| self.choice.is_none()) else {
            return Standing { was_ready: true, ..Standing::default() };
        };
        instances.until(|standing| standing.was_ready || standing.failed_starts >= failed_starts).await;
        instances.standing()
    }

    /// Another version answers now, or not any more.
    pub(super) fn rest(&self, rests: bool) {
        match (&self.choice, &self.instances) {
            (Some(choice), _) => choice.rest(rests),
            (None, Some(instances)) => instances.charge(if rests { Duty::Replaced } else { Duty::Answer }),
            (None, None) => {}
        }
    }

    /// Takes the bounds of a manifest that has changed in nothing else.
    pub(super) fn scale(&self, function: &Function) {
        if let Some(instances) = &self.instances {
            instances.scale(scale_of(function));
        }
    }

    /// Whether the instances of both are the same ones, which stay when one of the two goes.
    pub(super) fn shares_instances(&self, other: &Self) -> bool {
        self.instances.as_ref().zip(other.instances.as_ref()).is_some_and(|(one, other)| one.are_like(other))
    }

    /// Has a version with the same instances answer those who wait for this one.
    pub(super) fn pass_on(&self, successor: &Self) {
        if let (Some(instances), Some(successor)) = (&self.instances, &successor.instances) {
            instances.pass_on(successor);
        }
    }

    /// Ends it. Who has it in hand is answered before.
    pub(super) async fn retire(self: Arc<Self>) {
        let Some(instances) = &self.instances else { return };
        let within = self.http.as_ref().map_or(DRAIN_MAX, |http| DRAIN_MAX.max(http.timeout()));
        let until = Instant::now() + within;
        while self.http.as_ref().is_some_and(|http| Arc::strong_count(http) > 1) && Instant::now() < until {
            tokio::time::sleep(DRAIN_POLL).await;
        }
        instances.leave().await;
    }
}

/// What a manifest says of a function's instances.
fn scale_of(function: &Function) -> Settings {
    let scale = function.scale;
    Settings {
        min: function.instances_min(),
        max: if function.is_contained() { scale.max } else { 1 },
        target: function.target(),
        idle_ms: scale.idle.as_micros() / 1_000,
        expects: true,
    }
}

impl Functions {
    /// Loads a version. Its instances may not be ready when this returns.
    pub(super) async fn load(&self, key: &Key, digest: &str) -> Result<Version, String> {
        let apps = self.intent.now();
        let app = apps.apps.get(&key.0).ok_or("the app is gone")?;
        let function = app.manifest.functions.get(&key.1).ok_or("the app has no such function any more")?;
        let beside = function.container_artifact(&key.1).and_then(|name| app.bundle.artifacts.get(&name));
        let version = if function.is_contained() && !function.is_hybrid() {
            self.unpack(key, app, function, digest).await?
        } else {
            self.compile(key, app, function, digest).await?
        };
        let artifacts = [digest].into_iter().map(str::to_owned).chain(beside.cloned()).collect();
        Ok(Version { artifacts, release: app.manifest.version.clone(), ..version })
    }

    /// A version of a component.
    async fn compile(&self, key: &Key, app: &Arc<App>, function: &Function, digest: &str) -> Result<Version, String> {
        let loaded = self.loader.load(app, &key.1, digest).await.map_err(|error| format!("{error:#}"))?;
        let (runtime, name) = (&self.loader.runtime, format!("{}/{}", key.0, key.1));
        let logs: Arc<dyn LogSink> = loaded.logs;
        let exporter = ExporterSettings {
            limits: loaded.limits,
            environment: loaded.config.clone(),
            access: Arc::clone(&loaded.access),
            surroundings: Arc::clone(&loaded.surroundings),
            logs: Arc::clone(&logs),
            usage: Arc::clone(&loaded.usage),
            concurrency_max: loaded.concurrency,
            ..ExporterSettings::default()
        };
        let interfaces = InterfaceFunction::new(runtime, &loaded.artifact, &name, exporter).map(Arc::new);
        if interfaces.is_some() && !loaded.artifact.is_handler() {
            return Ok(Version { interfaces, ..Version::default() });
        }
        let settings = HttpSettings {
            name,
            limits: loaded.limits,
            concurrency_max: loaded.concurrency,
            environment: loaded.config,
            access: loaded.access,
            surroundings: loaded.surroundings,
            logs,
            usage: loaded.usage,
            observer: Some(self.learner(key)),
            aside: loaded.aside,
        };
        if let Some(container) = self.container(key, app, function).await? {
            let version = self.both(key, &loaded.artifact, settings, (container, function))?;
            return Ok(Version { interfaces, ..version });
        }
        // What others import stays loaded anyway.
        if function.instances_min() == 0 && interfaces.is_none() {
            let (loader, app) = (Arc::clone(&self.loader), Arc::clone(app));
            let component = Component {
                loader,
                app,
                function: key.1.clone(),
                digest: digest.to_owned(),
                settings: settings.clone(),
            };
            return Ok(pooled(Starter::Component(Box::new(component)), settings, function));
        }
        let http = HttpFunction::new(runtime, &loaded.artifact, settings).map_err(|error| error.to_string())?;
        Ok(Version { http: Some(Arc::new(http)), interfaces, ..Version::default() })
    }

    /// The container of a function that is a component, too, where this node runs such ones.
    async fn container(&self, key: &Key, app: &App, function: &Function) -> Result<Option<Unpacked>, String> {
        let (true, Some(containers)) = (function.is_hybrid(), &self.loader.containers) else { return Ok(None) };
        let abilities = containers.abilities();
        let is_able = if function.image.is_some() { abilities.images.is_ok() } else { abilities.programs.is_ok() };
        if !is_able {
            return Ok(None);
        }
        let name = function.container_artifact(&key.1).unwrap_or_default();
        let digest = app.bundle.artifacts.get(&name).ok_or_else(|| format!("the app has no artefact {name}"))?;
        let container = self.loader.unpack(app, &key.1, digest, self.contained(key)).await;
        let mut container = container.map_err(|error| format!("{error:#}"))?;
        // Beside another component it is another version, to which there is a way back.
        container.spec.beside = app.bundle.artifacts.get(key.1.as_str()).cloned();
        Ok(Some(container))
    }

    /// A version that is a component and a container.
    fn both(
        &self,
        key: &Key,
        artifact: &Arc<Artifact>,
        settings: HttpSettings,
        (container, function): (Unpacked, &Function),
    ) -> Result<Version, String> {
        let scale = scale_of(function);
        let (whole, contained) = (Arc::clone(&settings.usage), Arc::clone(&container.usage));
        let pool = Arc::new(Pool::new(scale.target as usize));
        let starter = Starter::Image(Box::new(container));
        // What answers when this version or this process begins goes on with what it has in hand.
        let (begins, duty) = match starter.runs(0) {
            true => (Variant::Container, Duty::Answer),
            false => (Variant::Component, Duty::Relieved),
        };
        let instances = Arc::new(Instances::run(&settings.name, starter, Arc::clone(&pool), scale, duty));
        let name = settings.name.clone();
        let http = HttpFunction::of_variants(&self.loader.runtime, artifact, pool, settings);
        let http = Arc::new(http.map_err(|error| error.to_string())?);
        let events = (Arc::clone(&self.events), key.0.app.clone());
        let chooser =
            Chooser { name, events, http: Arc::downgrade(&http), instances: Arc::clone(&instances), whole, contained };
        Ok(Version {
            http: Some(http),
            instances: Some(instances),
            choice: Some(Choice::run(chooser, begins)),
            ..Version::default()
        })
    }

    /// A version of an image or a program.
    async fn unpack(&self, key: &Key, app: &App, function: &Function, digest: &str) -> Result<Version, String> {
        let usage = self.loader.usage(&key.0, &key.1);
        let image = self.loader.unpack(app, &key.1, digest, usage).await.map_err(|error| format!("{error:#}"))?;
        let settings = HttpSettings {
            name: format!("{}/{}", key.0, key.1),
            limits: image.limits,
            concurrency_max: image.concurrency,
            logs: Arc::clone(&image.logs) as _,
            usage: Arc::clone(&image.usage),
            observer: Some(self.learner(key)),
            ..HttpSettings::default()
        };
        Ok(pooled(Starter::Image(Box::new(image)), settings, function))
    }
}

/// A version whose instances come and go.
fn pooled(starter: Starter, settings: HttpSettings, function: &Function) -> Version {
    let scale = scale_of(function);
    let pool = Arc::new(Pool::new(scale.target as usize));
    let instances = Instances::run(&settings.name, starter, Arc::clone(&pool), scale, Duty::Answer);
    let http = Some(Arc::new(HttpFunction::of_pool(pool, settings)));
    Version { http, instances: Some(Arc::new(instances)), ..Version::default() }
}
