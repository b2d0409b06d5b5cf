//! What a node does for others, built on its [`Core`]: runs work, serves functions, publishes, reports.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use littoral_runtime::Background;

use crate::auction::Bidder;
use crate::core::Core;
use crate::dispatch::Parts;
use crate::driver::{Announced, Drivers};
use crate::exports::Exports;
use crate::fidelity::Levels;
use crate::functions::Functions;
use crate::gate::Gate;
use crate::gathered::Gathered;
use crate::guests::{Fetching, Loader};
use crate::health::Health;
use crate::publish::Publisher;
use crate::queue::Queues;
use crate::report::Reporter;
use crate::routing::Routing;
use crate::runner::Runner;
use crate::wiring::NodeFabric;

/// The services of a running node.
pub(crate) struct Services {
    pub(crate) runner: Arc<Runner>,
    pub(crate) functions: Arc<Functions>,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) health: Arc<Health>,
    pub(crate) drivers: Arc<Drivers>,
}

impl Services {
    /// Builds them, and lets other nodes ask them.
    pub(crate) fn start(core: &Core, offered: Vec<PathBuf>) -> Self {
        let fabric = Arc::new(NodeFabric::new(Arc::clone(&core.buckets)));
        let (mesh, intent) = (Arc::clone(&core.mesh), Arc::clone(&core.intent));
        let gate = Arc::new(Gate::default());
        let routing = Arc::new(Routing::new(Arc::clone(&mesh), intent, core.facts.site.clone(), core.facts.tier));
        let exports = Arc::new(Exports::new(mesh, Arc::clone(&routing), core.shards.clone(), Arc::clone(&gate)));
        let loader = Arc::new(Loader {
            mesh: Arc::clone(&core.mesh),
            tier: core.facts.tier,
            site: core.facts.site.clone(),
            fabric: Arc::<NodeFabric>::clone(&fabric),
            runtime: core.runtime.clone(),
            background: Background::default(),
            containers: core.containers.clone(),
            artifacts: core.artifacts.clone(),
            data: core.data.clone(),
            logs: Arc::clone(&core.logs),
            metering: Arc::clone(&core.metering),
            offered,
            verifier: core.verifier.clone(),
            exports: Arc::clone(&exports),
            fetching: Fetching::default(),
        });
        let (intent, shards) = (Arc::clone(&core.intent), core.shards.clone());
        let functions = Arc::new(Functions::new(
            Arc::clone(&loader),
            intent,
            shards,
            Arc::clone(&gate),
            routing,
            Arc::clone(&core.events),
        ));
        let queues = Arc::new(Queues::new(
            core.facts.site.clone(),
            Arc::clone(&core.mesh),
            Arc::clone(&core.intent),
            Arc::clone(&core.directory),
            Arc::clone(&functions),
            Arc::clone(&core.source),
            Arc::clone(&core.events),
        ));
        let runner = Arc::new(Runner {
            works: Arc::clone(&core.works),
            source: Arc::clone(&core.source),
            intent: Arc::clone(&core.intent),
            loader,
            queues: Arc::clone(&queues),
            shards: core.shards.clone(),
            running: Mutex::default(),
            prepared: Mutex::default(),
            levels: Levels::default(),
            begun: Instant::now(),
        });
        let reporter = Arc::new(Reporter {
            mesh: Arc::clone(&core.mesh),
            works: Arc::clone(&core.works),
            groups: Arc::clone(&core.groups),
            runner: Arc::clone(&runner),
            functions: Arc::clone(&functions),
        });
        core.dispatch.is_ready(Parts {
            works: Arc::clone(&core.works),
            groups: Arc::clone(&core.groups),
            intent: Arc::clone(&core.intent),
            artifacts: core.artifacts.clone(),
            functions: Arc::clone(&functions),
            queues: Arc::clone(&queues),
            exports,
            logs: Arc::clone(&core.logs),
            metering: Arc::clone(&core.metering),
            reporter: Arc::clone(&reporter),
            runner: Arc::clone(&runner),
            shards: core.shards.clone(),
            events: Arc::clone(&core.events),
            bidder: Bidder::new(Arc::clone(&core.mesh), Arc::clone(&core.intent)),
        });
        let publisher = Arc::new(Publisher {
            site: core.facts.site.clone(),
            mesh: Arc::clone(&core.mesh),
            works: Arc::clone(&core.works),
            intent: Arc::clone(&core.intent),
            directory: Arc::clone(&core.directory),
            gathered: Gathered::default(),
        });
        fabric.is_ready(&functions, &publisher);
        let groups = Arc::clone(&core.groups);
        let health = Arc::new(Health { log: core.log.clone(), groups, stopping: AtomicBool::new(false) });
        let drivers = Arc::new(Drivers {
            node: core.facts.node.clone(),
            home: core.facts.site.clone(),
            mesh: Arc::clone(&core.mesh),
            works: Arc::clone(&core.works),
            intent: Arc::clone(&core.intent),
            runner: Arc::clone(&runner),
            functions: Arc::clone(&functions),
            logs: Arc::clone(&core.logs),
            announced: Announced::default(),
            gate,
            events: Arc::clone(&core.events),
        });
        Self { runner, functions, reporter, publisher, queues, health, drivers }
    }
}
