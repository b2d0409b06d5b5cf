//! What everything else of a node stands on: its disk, the mesh, consensus, and the works it holds.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use littoral_flow::reader::Source;
use littoral_mesh::identity::Identity;
use littoral_mesh::{Mesh, MeshOptions, Service, ZenohMesh};
use littoral_model::digest::NodeDigest;
use littoral_model::id::TenantId;
use littoral_model::wire::VersionRange;
use littoral_runtime::{CompilerProcess, Runtime, RuntimeOptions, Shards};
use littoral_store::buckets::Buckets;
use littoral_store::consensus::SiteGroup;
use littoral_store::replica::Works;
use littoral_store::{Derived, Log, LogOptions};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::artifacts::Artifacts;
use crate::data_dir::{DataDir, Facts};
use crate::directory::Directory;
use crate::dispatch::Dispatch;
use crate::groups::{BORROWED_MAX, Groups};
use crate::init::reachable;
use crate::intent::IntentStore;
use crate::logs::Logs;
use crate::metering::Metering;
use crate::signing::Verifier;
use crate::wiring::{MeshKeeper, MeshPeers, MeshRaft, MeshSource};

/// The share of the machine's memory that functions may use; the rest is for the node, its caches and the system.
const MEMORY_SHARE: (u64, u64) = (3, 4);
/// The memory that functions may use where the machine does not say how much it has.
const MEMORY_UNKNOWN: u64 = 1 << 30;

/// The foundation of a running node.
pub(crate) struct Core {
    pub(crate) facts: Facts,
    pub(crate) data: DataDir,
    pub(crate) identity: Identity,
    pub(crate) log: Log,
    pub(crate) intent: Arc<IntentStore>,
    /// Checks the bundles in it.
    pub(crate) verifier: Verifier,
    pub(crate) logs: Arc<Logs>,
    pub(crate) metering: Arc<Metering>,
    pub(crate) artifacts: Artifacts,
    pub(crate) runtime: Runtime,
    pub(crate) shards: Shards,
    /// Where HTTP is to be served; part of the digest, so that it is known before the mesh is opened.
    pub(crate) http: Option<SocketAddr>,
    /// What the node says of itself, to begin with.
    pub(crate) digest: NodeDigest,
    pub(crate) mesh: Arc<dyn Mesh>,
    /// Where the mesh listens.
    pub(crate) listening: Vec<SocketAddr>,
    pub(crate) dispatch: Arc<Dispatch>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) works: Arc<Works>,
    pub(crate) buckets: Arc<Buckets>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) source: Arc<dyn Source>,
}

impl Core {
    /// Opens what is on the disk and joins the mesh; needs no network. Also gives the consensus groups, as they start.
    pub(crate) async fn open(
        facts: Facts,
        data: DataDir,
        compiler: Option<CompilerProcess>,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Arc<SiteGroup>>)> {
        let identity = Identity::load(&data.identity())?;
        let verifier = Verifier::new(identity.root_pem.clone(), !facts.signed_only);
        let disk = Disk::open(&data, &facts, verifier.clone()).await?;
        let artifacts = Artifacts::open(data.artifacts()).context("cannot open the folder of artefacts")?;
        let runtime =
            Runtime::new(RuntimeOptions { cache_dir: Some(data.cache()), compiler, ..RuntimeOptions::default() })?;
        let shards = Shards::for_this_machine().context("cannot start the data-plane threads")?;
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
        let buckets = Arc::new(Buckets::new(disk.log.clone(), disk.derived.clone()));
        let works = Works::new(facts.node.clone(), disk.log.clone(), disk.derived, peers, keeper)?;
        let directory = Arc::new(Directory::new(Arc::clone(&mesh), Arc::clone(&groups)));
        let source =
            MeshSource { mesh: Arc::clone(&mesh), works: Arc::clone(&works), directory: Arc::clone(&directory) };
        let core = Self {
            logs: Arc::new(Logs::new(facts.node.clone())),
            metering: disk.metering,
            facts,
            data,
            identity,
            log: disk.log,
            intent: disk.intent,
            verifier,
            artifacts,
            runtime,
            shards,
            http,
            digest,
            mesh,
            listening: opened.listening().to_vec(),
            dispatch,
            groups,
            works,
            buckets,
            directory,
            source: Arc::new(source),
        };
        Ok((core, new_groups))
    }
}

/// What is on the node's disk, opened.
struct Disk {
    log: Log,
    derived: Derived,
    intent: Arc<IntentStore>,
    metering: Arc<Metering>,
}

impl Disk {
    async fn open(data: &DataDir, facts: &Facts, verifier: Verifier) -> anyhow::Result<Self> {
        let (data, node) = (data.clone(), facts.node.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let log = Log::open(&data.log(), LogOptions::default())?;
            let (derived, discarded) = Derived::open_or_discard(&data.derived())?;
            if discarded {
                tracing::warn!("the derived state was damaged and is built anew from the log and from replicas");
            }
            let metering = Arc::new(Metering::open(node.clone(), &data)?);
            let intent = Arc::new(IntentStore::open(node, log.clone(), verifier)?);
            Ok::<_, anyhow::Error>(Self { log, derived, intent, metering })
        });
        opened.await?
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
