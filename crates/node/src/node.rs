//! A running node: opens what is on its disk, joins the mesh, runs what it is to run, and stops in order.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use littoral_gateway::mqtt::{self, Server as MqttServer};
use littoral_gateway::{Gateway, Router, Settings as GatewaySettings};
use littoral_mesh::identity::{Root, unix_now};
use littoral_mesh::join::JoinService;
use littoral_model::condition::CLIENTS_MAX;
use littoral_runtime::CompilerProcess;
use littoral_runtime::container::{Containers, HostProcess};
use littoral_store::consensus::SiteGroup;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::router::router;
use crate::admin::serve::{AdminSocket, serve_tls, serve_unix};
use crate::admin::{operations::Operations, remote};
use crate::announce;
use crate::artifacts::{Artifacts, write_durably};
use crate::buckets::forget_deleted;
use crate::core::Core;
use crate::data_dir::{Addresses, DataDir, Facts};
use crate::driver::Drivers;
use crate::footprint;
use crate::functions::Functions;
use crate::ingress::Ingress;
use crate::init::{join_fabric, reachable, renew_tenant_key};
use crate::intent::{Apps, IntentStore};
use crate::keeping::Keeping;
use crate::metering::{PERIOD_DEFAULT, PERIOD_MIN};
use crate::mqtt::{Sessions, settings as settings_of};
use crate::operations::{Admitting, NodeOperations};
use crate::services::Services;
use crate::settings::NodeSettings;
use crate::surveyor::Surveyor;
use crate::telemetry;
use crate::token_book::Book;
use crate::wiring::AppTopics;

/// How long requests under way may go on after a stop was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long containers that an earlier process of this node has left wait for somebody to ask for them, and how often others are looked
/// for that nobody knows.
const CONTAINERS_KEPT: Duration = Duration::from_secs(60);
/// How often artefacts that no app names are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(3_600);

/// Runs a node until `shutdown`, or until it is asked to stop through its admin API. The first start joins the fabric.
///
/// # Errors
/// When the node cannot join, or cannot start from its disk. A lost network is no error.
pub async fn run(settings: NodeSettings, shutdown: CancellationToken) -> anyhow::Result<()> {
    telemetry::install();
    let data = DataDir::new(&settings.data);
    let facts = match data.read_facts()? {
        Some(facts) => facts,
        None => join_fabric(&data, &settings).await?,
    };
    let facts = updated(facts, &settings)?;
    // Two nodes on one directory would damage it; the socket tells, before the second has changed anything.
    let socket = AdminSocket::bind(&data.admin_socket())?;
    let facts = Facts { incarnation: (facts.incarnation + 1).max(unix_now() * 1_000), ..facts };
    data.write_facts(&facts)?;
    let usage_period = settings.usage_period.unwrap_or(PERIOD_DEFAULT).max(PERIOD_MIN);
    let NodeSettings { offer, compiler, containers, ends_containers, situation, .. } = settings;
    let surveyor = Surveyor::new(situation.unwrap_or_else(|| data.situation()))?;
    let node =
        Running::start(facts, data, socket, offer, compiler, containers, usage_period, surveyor, shutdown).await?;
    node.stopped(ends_containers).await;
    Ok(())
}

/// What was told at this start replaces what was told before.
fn updated(mut facts: Facts, settings: &NodeSettings) -> anyhow::Result<Facts> {
    let same = settings.name.as_ref().is_none_or(|name| *name == facts.node)
        && settings.tier.is_none_or(|tier| tier == facts.tier)
        && settings.site.as_ref().is_none_or(|site| *site == facts.site);
    anyhow::ensure!(
        same,
        "{} is of node {} (tier {}, site {}), which cannot become another one; start it without --name, --tier and --site, \
         or give another --data",
        settings.data.display(),
        facts.node,
        facts.tier,
        facts.site
    );
    let replace = |old: &mut Vec<String>, new: &Vec<String>| {
        if !new.is_empty() {
            old.clone_from(new);
        }
    };
    replace(&mut facts.connect, &settings.connect);
    replace(&mut facts.advertise, &settings.advertise);
    if !settings.listen.is_empty() {
        facts.listen.clone_from(&settings.listen);
    }
    anyhow::ensure!(
        settings.clients.len() <= CLIENTS_MAX,
        "a node declares at most {CLIENTS_MAX} networks of clients; give fewer and larger ones with --clients"
    );
    if !settings.clients.is_empty() {
        facts.clients.clone_from(&settings.clients);
    }
    if !settings.labels.is_empty() {
        facts.labels.clone_from(&settings.labels);
    }
    facts.http = settings.http.or(facts.http);
    facts.mqtt = settings.mqtt.or(facts.mqtt);
    facts.admin_listen = settings.admin_listen.or(facts.admin_listen);
    facts.join_listen = settings.join_listen.or(facts.join_listen);
    Ok(facts)
}

/// A node that runs.
struct Running {
    core: Core,
    services: Services,
    stop: CancellationToken,
    tasks: TaskTracker,
    gateway: Option<Gateway>,
    mqtt: Option<MqttServer>,
    /// Lets others in for as long as it lives.
    _join: Option<JoinService>,
}

impl Running {
    #[allow(clippy::too_many_arguments)]
    async fn start(
        facts: Facts,
        data: DataDir,
        socket: AdminSocket,
        offered: Vec<PathBuf>,
        compiler: Option<CompilerProcess>,
        host: Option<Arc<HostProcess>>,
        usage_period: Duration,
        surveyor: Surveyor,
        stop: CancellationToken,
    ) -> anyhow::Result<Self> {
        let tasks = TaskTracker::new();
        let (mut core, new_groups) = Core::open(facts, data, compiler, host, surveyor).await?;
        let http = core.http.take();
        let services = Services::start(&core, offered);
        let (mesh, drivers) = (&core.mesh, &services.drivers);
        tasks.spawn(drive_all(Arc::clone(drivers), new_groups, tasks.clone(), stop.clone()));
        let (digest, artifacts, surveyor) = (core.digest.clone(), core.artifacts.clone(), core.surveyor.clone());
        let shards = core.shards.clone();
        tasks.spawn(announce::announce(digest, Arc::clone(drivers), artifacts, surveyor, shards, stop.clone()));
        tasks.spawn(announce::compare(Arc::clone(mesh), Arc::clone(&core.intent), stop.clone()));
        tasks.spawn(announce::refuse_revoked(Arc::clone(mesh), Arc::clone(&core.intent), stop.clone()));
        tasks.spawn(forget_deleted(Arc::clone(&core.buckets), Arc::clone(&core.intent), stop.clone()));
        tasks.spawn(Arc::clone(&core.metering).keep(core.containers.clone(), usage_period, stop.clone()));
        tasks.spawn(footprint::keep_small(core.shards.clone(), stop.clone()));
        if let Some(containers) = &core.containers {
            tasks.spawn(sweep_containers(Arc::clone(containers), stop.clone()));
        }
        let (artifacts, functions) = (core.artifacts.clone(), Arc::clone(&services.functions));
        tasks.spawn(sweep_artifacts(artifacts, Arc::clone(&core.intent), functions, stop.clone()));

        tasks.spawn(Arc::clone(&services.functions).watch_demand(Arc::clone(&core.events), stop.clone()));
        tasks.spawn(Arc::clone(&services.functions).keep_objectives(Arc::clone(&core.events), stop.clone()));
        tasks.spawn(Arc::clone(&services.functions).give_way(Arc::clone(&core.events), stop.clone()));

        let keeping = Keeping {
            mesh: Arc::clone(mesh),
            intent: Arc::clone(&core.intent),
            runner: Arc::clone(&services.runner),
            reporter: Arc::clone(&services.reporter),
            events: Arc::clone(&core.events),
        };
        tasks.spawn(keeping.run(stop.clone()));

        let mut addresses = Addresses { mesh: core.listening.clone(), ..Addresses::default() };
        let (admitting, join) = admit(&core, &mut addresses).await?;
        let ingress = Arc::new(Ingress::new(&core, &services));
        let router: Arc<dyn Router> = Arc::<Ingress>::clone(&ingress);
        let serve = |listener| Gateway::serve_on(listener, &core.shards, router, GatewaySettings::default());
        let gateway = http.map(serve).transpose()?;
        addresses.http = gateway.as_ref().map(Gateway::address);
        let intent = Arc::clone(&core.intent);
        tasks.spawn(follow_apps(intent, stop.clone(), move |apps| ingress.take(apps)));
        let mqtt = serve_mqtt(&core, &services, (&tasks, &stop)).await?;
        addresses.mqtt = mqtt.as_ref().map(MqttServer::address);

        let operations = Arc::new(NodeOperations::new(&core, &services, admitting, stop.clone()));
        serve_admin(&core, socket, operations, (&tasks, &stop), &mut addresses).await?;
        let text = serde_json::to_vec_pretty(&addresses)?;
        write_durably(&core.data.addresses(), &text).context("cannot write addresses.json")?;
        let Facts { node, tier, site, .. } = &core.facts;
        tracing::info!(%node, %tier, %site, ?addresses, "the node runs");
        Ok(Self { core, services, stop, tasks, gateway, mqtt, _join: join })
    }

    /// Waits until the node is to stop, and stops it in order: nothing new is taken, what is under way is finished, the
    /// others are told, the log is closed.
    async fn stopped(self, ends_containers: bool) {
        self.stop.cancelled().await;
        self.services.health.stopping.store(true, Ordering::Release);
        if let Some(gateway) = self.gateway
            && !gateway.drain(DRAIN_TIMEOUT).await.complete
        {
            tracing::warn!("requests that did not finish within {DRAIN_TIMEOUT:?} were cut");
        }
        if let Some(mqtt) = self.mqtt
            && !mqtt.drain(DRAIN_TIMEOUT).await.complete
        {
            tracing::warn!("clients of MQTT that did not end within {DRAIN_TIMEOUT:?} were cut");
        }
        self.services.runner.stop_all();
        if ends_containers {
            self.services.functions.end_containers().await;
        }
        self.core.mesh.close().await;
        self.core.works.stop();
        self.core.groups.stop().await;
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = self.core.log.close() {
            tracing::error!(%error, "the log could not be closed in order; nothing acknowledged is lost");
        }
        tracing::info!("stopped");
    }
}

/// Drives the agent of each group, as groups are started.
async fn drive_all(
    drivers: Arc<Drivers>,
    mut groups: mpsc::Receiver<Arc<SiteGroup>>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(group) = groups.recv() => {
                tasks.spawn(Arc::clone(&drivers).drive(group, stop.clone()));
            }
        }
    }
}

/// Tells what is deployed, now and whenever that changes.
async fn follow_apps(intent: Arc<IntentStore>, stop: CancellationToken, take: impl Fn(&Apps)) {
    let mut apps = intent.watch();
    loop {
        let now = apps.borrow_and_update().clone();
        take(&now);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = apps.changed() => if changed.is_err() { return },
        }
    }
}

/// Removes containers, images and programs that nobody asks for, until the node stops. What runs then goes on for the node's next process.
async fn sweep_containers(containers: Arc<Containers>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(CONTAINERS_KEPT)).await.is_some() {
        for id in containers.remove_unknown().await {
            tracing::info!(container = %id, "removed a container that nobody asks for");
        }
        if let Err(error) = containers.sweep_contents().await {
            tracing::warn!(%error, "images or programs that no container runs from are still there");
        }
    }
}

/// Deletes artefacts that nobody needs any more, now and then.
async fn sweep_artifacts(
    artifacts: Artifacts,
    intent: Arc<IntentStore>,
    functions: Arc<Functions>,
    stop: CancellationToken,
) {
    let mut tick = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let mut named = intent.artifacts();
        named.extend(functions.artifacts());
        match artifacts.sweep(named).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "deleted artefacts that no app names any more"),
            Err(error) => tracing::warn!(%error, "artefacts that no app names could not be deleted"),
        }
    }
}

/// Listens for clients of MQTT, where that was asked for.
async fn serve_mqtt(
    core: &Core,
    services: &Services,
    (tasks, stop): (&TaskTracker, &CancellationToken),
) -> anyhow::Result<Option<MqttServer>> {
    let Some(address) = core.facts.mqtt else { return Ok(None) };
    let (settings, sessions) = (core.data.mqtt(), core.data.mqtt_sessions());
    let opened = tokio::task::spawn_blocking(move || {
        let (users, tls) = settings_of(&settings)?;
        Ok::<_, anyhow::Error>((users, tls, Sessions::open(sessions)?))
    });
    let (users, tls, sessions) = opened.await??;
    let topics = Arc::new(AppTopics::new(Arc::clone(&services.publisher), Arc::clone(&core.source)));
    topics.take(&core.intent.now());
    let taking = Arc::clone(&topics);
    tasks.spawn(follow_apps(Arc::clone(&core.intent), stop.clone(), move |apps| taking.take(apps)));
    let parts = mqtt::Parts { topics, access: Arc::new(users), keep: Arc::new(sessions), tls };
    Ok(Some(MqttServer::serve_on(MqttServer::listen(address)?, parts)?))
}

/// Lets others in, on the node where the fabric was made.
async fn admit(core: &Core, addresses: &mut Addresses) -> anyhow::Result<(Option<Admitting>, Option<JoinService>)> {
    let Core { facts, data, identity, .. } = core;
    if !data.root().exists() {
        anyhow::ensure!(
            facts.join_listen.is_none(),
            "this node cannot let others in: it does not hold the fabric's root; start it without --join-listen"
        );
        return Ok((None, None));
    }
    let root = Root::load(&data.root())?;
    renew_tenant_key(data, &root)?;
    let book = Arc::new(Book::open(data.tokens())?);
    book.set_endpoints(reachable(&addresses.mesh, &facts.advertise));
    let (mut service, mut join) = (None, Vec::new());
    if let Some(listen) = facts.join_listen {
        let started = JoinService::start(listen, root.clone(), identity, Arc::<Book>::clone(&book)).await?;
        addresses.join = Some(started.address());
        join = reachable(&[started.address()], &facts.advertise);
        service = Some(started);
    }
    Ok((Some(Admitting { root, book, join }), service))
}

/// Serves the admin API on the Unix socket, and with mutual TLS where it was asked for.
async fn serve_admin(
    core: &Core,
    socket: AdminSocket,
    operations: Arc<dyn Operations>,
    (tasks, stop): (&TaskTracker, &CancellationToken),
    addresses: &mut Addresses,
) -> anyhow::Result<()> {
    let router = router(operations);
    if let Some(listen) = core.facts.admin_listen {
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("the admin API cannot listen on {listen}"))?;
        addresses.admin = Some(listener.local_addr()?);
        let tls = remote::server_config(&core.identity)?;
        tasks.spawn(serve_tls(listener, tls, littoral_mesh::admin::is_admin, router.clone(), stop.clone()));
    }
    tasks.spawn(serve_unix(socket, router, stop.clone()));
    Ok(())
}
