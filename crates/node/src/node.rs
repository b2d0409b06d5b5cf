//! A running node: opens what is on its disk, joins the mesh, runs what it is to run, and stops in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use littoral_flow::reader::Source;
use littoral_gateway::{Gateway, Settings as GatewaySettings};
use littoral_mesh::identity::{Identity, Root, unix_now};
use littoral_mesh::join::JoinService;
use littoral_mesh::{Mesh, MeshOptions, Service, ZenohMesh};
use littoral_model::digest::NodeDigest;
use littoral_model::id::TenantId;
use littoral_model::wire::VersionRange;
use littoral_runtime::{Runtime, RuntimeOptions, Shards};
use littoral_store::consensus::SiteGroup;
use littoral_store::replica::Works;
use littoral_store::{Derived, Log, LogOptions};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::router::router;
use crate::admin::serve::{AdminSocket, serve_tls, serve_unix};
use crate::admin::{operations::Operations, remote};
use crate::announce;
use crate::artifacts::{Artifacts, write_durably};
use crate::data_dir::{Addresses, DataDir, Facts};
use crate::directory::Directory;
use crate::dispatch::{Dispatch, Parts};
use crate::driver::{Announced, Drivers};
use crate::functions::Functions;
use crate::groups::{BORROWED_MAX, Groups};
use crate::guests::Loader;
use crate::health::Health;
use crate::ingress::Ingress;
use crate::init::{join_fabric, reachable};
use crate::intent::IntentStore;
use crate::logs::Logs;
use crate::operations::{Admitting, NodeOperations};
use crate::publish::Publisher;
use crate::report::Reporter;
use crate::runner::Runner;
use crate::settings::NodeSettings;
use crate::telemetry;
use crate::token_book::Book;
use crate::wiring::{MeshKeeper, MeshPeers, MeshRaft, MeshSource};

/// How long requests under way may go on after a stop was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The share of the machine's memory that functions may use; the rest is for the node, its caches and the system.
const MEMORY_SHARE: (u64, u64) = (3, 4);
/// The memory that functions may use where the machine does not say how much it has.
const MEMORY_UNKNOWN: u64 = 1 << 30;

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
    let facts = Facts { incarnation: (facts.incarnation + 1).max(unix_now() * 1_000), ..facts };
    data.write_facts(&facts)?;
    // Two nodes on one directory would damage it; the socket tells.
    let socket = AdminSocket::bind(&data.admin_socket())?;
    let node = Running::start(facts, data, socket, shutdown).await?;
    node.stopped().await;
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
    if !settings.labels.is_empty() {
        facts.labels.clone_from(&settings.labels);
    }
    facts.http = settings.http.or(facts.http);
    facts.admin_listen = settings.admin_listen.or(facts.admin_listen);
    facts.join_listen = settings.join_listen.or(facts.join_listen);
    Ok(facts)
}

/// A node that runs.
struct Running {
    stop: CancellationToken,
    tasks: TaskTracker,
    mesh: Arc<dyn Mesh>,
    groups: Arc<Groups>,
    works: Arc<Works>,
    runner: Arc<Runner>,
    health: Arc<Health>,
    log: Log,
    gateway: Option<Gateway>,
    /// Lets others in for as long as it lives.
    _join: Option<JoinService>,
}

/// What is on the node's disk, opened.
struct Disk {
    log: Log,
    derived: Derived,
    intent: Arc<IntentStore>,
}

impl Disk {
    async fn open(data: &DataDir, facts: &Facts) -> anyhow::Result<Self> {
        let (data, node) = (data.clone(), facts.node.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let log = Log::open(&data.log(), LogOptions::default())?;
            let (derived, discarded) = Derived::open_or_discard(&data.derived())?;
            if discarded {
                tracing::warn!("the derived state was damaged and is built anew from the log and from replicas");
            }
            let intent = Arc::new(IntentStore::open(node, log.clone())?);
            Ok::<_, anyhow::Error>(Self { log, derived, intent })
        });
        opened.await?
    }
}

impl Running {
    async fn start(facts: Facts, data: DataDir, socket: AdminSocket, stop: CancellationToken) -> anyhow::Result<Self> {
        let tasks = TaskTracker::new();
        let disk = Disk::open(&data, &facts).await?;
        let identity = Identity::load(&data.identity())?;
        let shards = Shards::for_this_machine().context("cannot start the data-plane threads")?;
        let logs = Arc::new(Logs::new(facts.node.clone()));
        let artifacts = Artifacts::open(data.artifacts()).context("cannot open the folder of artefacts")?;
        let options = RuntimeOptions { cache_dir: Some(data.cache()), ..RuntimeOptions::default() };
        let runtime = Runtime::new(options)?;

        // The address of the ingress is part of the digest, so that it must be had before the mesh is opened; it answers
        // once there is something to answer with.
        let http = match facts.http {
            Some(address) => Some(bound(address).await?),
            None => None,
        };
        let dispatch = Arc::new(Dispatch::default());
        let digest = digest(&facts, http, &disk.intent);
        let opened = open_mesh(&facts, &identity, digest.clone(), Arc::clone(&dispatch)).await?;
        let mesh = opened.mesh();

        let (opened_groups, new_groups) = mpsc::channel(BORROWED_MAX + 1);
        let raft = Arc::new(MeshRaft(Arc::clone(&mesh)));
        let groups = Groups::start(&facts, disk.log.clone(), raft, opened_groups).await?;
        dispatch.consensus_is_ready(Arc::clone(&groups));
        let keeper = Arc::new(MeshKeeper(Arc::clone(&groups)));
        let peers = Arc::new(MeshPeers(Arc::clone(&mesh)));
        let works = Works::new(facts.node.clone(), disk.log.clone(), disk.derived, peers, keeper)?;

        let directory = Arc::new(Directory::new(Arc::clone(&mesh), Arc::clone(&groups)));
        let source: Arc<dyn Source> = Arc::new(MeshSource {
            mesh: Arc::clone(&mesh),
            works: Arc::clone(&works),
            directory: Arc::clone(&directory),
        });
        let loader = Arc::new(Loader {
            mesh: Arc::clone(&mesh),
            runtime,
            artifacts: artifacts.clone(),
            data: data.clone(),
            logs: Arc::clone(&logs),
        });
        let runner = Arc::new(Runner {
            works: Arc::clone(&works),
            source: Arc::clone(&source),
            intent: Arc::clone(&disk.intent),
            loader: Arc::clone(&loader),
            shards: shards.clone(),
            running: Mutex::default(),
        });
        let functions = Arc::new(Functions::new(loader, Arc::clone(&disk.intent), shards.clone()));
        let reporter = Arc::new(Reporter {
            mesh: Arc::clone(&mesh),
            works: Arc::clone(&works),
            groups: Arc::clone(&groups),
            runner: Arc::clone(&runner),
            functions: Arc::clone(&functions),
        });
        dispatch.is_ready(Parts {
            works: Arc::clone(&works),
            groups: Arc::clone(&groups),
            intent: Arc::clone(&disk.intent),
            artifacts: artifacts.clone(),
            functions: Arc::clone(&functions),
            logs: Arc::clone(&logs),
            reporter: Arc::clone(&reporter),
        });
        let publisher = Arc::new(Publisher {
            mesh: Arc::clone(&mesh),
            works: Arc::clone(&works),
            intent: Arc::clone(&disk.intent),
            directory,
        });
        let health =
            Arc::new(Health { log: disk.log.clone(), groups: Arc::clone(&groups), stopping: AtomicBool::new(false) });
        let drivers = Arc::new(Drivers {
            node: facts.node.clone(),
            home: facts.site.clone(),
            mesh: Arc::clone(&mesh),
            works: Arc::clone(&works),
            intent: Arc::clone(&disk.intent),
            runner: Arc::clone(&runner),
            functions: Arc::clone(&functions),
            logs: Arc::clone(&logs),
            announced: Announced::default(),
            started: Instant::now(),
        });
        tasks.spawn(drive_all(Arc::clone(&drivers), new_groups, tasks.clone(), stop.clone()));
        tasks.spawn(announce::announce(digest, Arc::clone(&mesh), drivers, stop.clone()));
        tasks.spawn(announce::compare(Arc::clone(&mesh), Arc::clone(&disk.intent), stop.clone()));

        let mut addresses = Addresses { mesh: opened.listening().to_vec(), ..Addresses::default() };
        let (admitting, join) = admit(&facts, &data, &identity, &mut addresses).await?;
        let ingress = Arc::new(Ingress::new(
            Arc::clone(&functions),
            Arc::clone(&publisher),
            Arc::clone(&source),
            Arc::clone(&health),
        ));
        let gateway = match http {
            Some(address) => Some(
                Gateway::serve(address, &shards, Arc::<Ingress>::clone(&ingress), GatewaySettings::default()).await?,
            ),
            None => None,
        };
        addresses.http = gateway.as_ref().map(Gateway::address);
        tasks.spawn(follow_routes(ingress, Arc::clone(&disk.intent), stop.clone()));

        let operations: Arc<dyn Operations> = Arc::new(NodeOperations {
            mesh: Arc::clone(&mesh),
            intent: disk.intent,
            artifacts,
            functions,
            publisher,
            source,
            reporter,
            logs,
            health: Arc::clone(&health),
            admitting,
            stop: stop.clone(),
            seen: Mutex::new(BTreeMap::new()),
        });
        serve_admin(&facts, &identity, socket, operations, &tasks, &stop, &mut addresses).await?;
        let text = serde_json::to_vec_pretty(&addresses)?;
        write_durably(&data.addresses(), &text).context("cannot write addresses.json")?;
        tracing::info!(node = %facts.node, tier = %facts.tier, site = %facts.site, ?addresses, "the node runs");
        Ok(Self { stop, tasks, mesh, groups, works, runner, health, log: disk.log, gateway, _join: join })
    }

    /// Waits until the node is to stop, and stops it in order: nothing new is taken, what is under way is finished, the
    /// others are told, the log is closed.
    async fn stopped(self) {
        self.stop.cancelled().await;
        self.health.stopping.store(true, Ordering::Release);
        if let Some(gateway) = self.gateway
            && !gateway.drain(DRAIN_TIMEOUT).await.complete
        {
            tracing::warn!("requests that did not finish within {DRAIN_TIMEOUT:?} were cut");
        }
        self.runner.stop_all();
        self.mesh.close().await;
        self.works.stop();
        self.groups.stop().await;
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = self.log.close() {
            tracing::error!(%error, "the log could not be closed in order; nothing acknowledged is lost");
        }
        tracing::info!("stopped");
    }
}

/// Finds a free port where the kernel is to choose one.
async fn bound(address: SocketAddr) -> anyhow::Result<SocketAddr> {
    if address.port() != 0 {
        return Ok(address);
    }
    let listener = TcpListener::bind(address).await.with_context(|| format!("HTTP cannot be served at {address}"))?;
    Ok(listener.local_addr()?)
}

async fn open_mesh(
    facts: &Facts,
    identity: &Identity,
    digest: NodeDigest,
    dispatch: Arc<Dispatch>,
) -> anyhow::Result<ZenohMesh> {
    let service: Arc<dyn Service> = dispatch;
    let options = MeshOptions {
        identity: identity.clone(),
        tenant: TenantId::default_tenant(),
        listen: facts.listen.clone(),
        connect: facts.connect.clone(),
        digest,
        service,
    };
    Ok(ZenohMesh::open(options).await?)
}

fn digest(facts: &Facts, http: Option<SocketAddr>, intent: &IntentStore) -> NodeDigest {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    NodeDigest {
        node: facts.node.clone(),
        tier: facts.tier,
        site: facts.site.clone(),
        labels: facts.labels.clone(),
        incarnation: facts.incarnation,
        sequence: 0,
        protocol: VersionRange::OURS,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        cores: u32::try_from(cores).unwrap_or(u32::MAX),
        memory_bytes: memory_bytes(),
        works: 0,
        http: http.map(|address| reachable(&[address], &facts.advertise)).and_then(|found| found.into_iter().next()),
        functions: Vec::new(),
        links: Vec::new(),
        intent: intent.now().hash,
    }
}

/// The memory that functions may use on this machine, in bytes.
fn memory_bytes() -> u64 {
    let total_kib = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()
    });
    total_kib.map_or(MEMORY_UNKNOWN, |kib| kib * 1_024 / MEMORY_SHARE.1 * MEMORY_SHARE.0)
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

/// Keeps the routes as what is deployed has them.
async fn follow_routes(ingress: Arc<Ingress>, intent: Arc<IntentStore>, stop: CancellationToken) {
    let mut apps = intent.watch();
    loop {
        let now = apps.borrow_and_update().clone();
        ingress.take(&now);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = apps.changed() => if changed.is_err() { return },
        }
    }
}

/// Lets others in, on the node where the fabric was made.
async fn admit(
    facts: &Facts,
    data: &DataDir,
    identity: &Identity,
    addresses: &mut Addresses,
) -> anyhow::Result<(Option<Admitting>, Option<JoinService>)> {
    if !data.root().exists() {
        anyhow::ensure!(
            facts.join_listen.is_none(),
            "this node cannot let others in: it does not hold the fabric's root; start it without --join-listen"
        );
        return Ok((None, None));
    }
    let root = Root::load(&data.root())?;
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
    facts: &Facts,
    identity: &Identity,
    socket: AdminSocket,
    operations: Arc<dyn Operations>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
    addresses: &mut Addresses,
) -> anyhow::Result<()> {
    let router = router(operations);
    if let Some(listen) = facts.admin_listen {
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("the admin API cannot listen on {listen}"))?;
        addresses.admin = Some(listener.local_addr()?);
        let tls = remote::server_config(identity)?;
        tasks.spawn(serve_tls(listener, tls, littoral_mesh::admin::is_admin, router.clone(), stop.clone()));
    }
    tasks.spawn(serve_unix(socket, router, stop.clone()));
    Ok(())
}
