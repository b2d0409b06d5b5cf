//! What everything else of a node stands on: its disk, the mesh, consensus, and the works it holds.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use littoral_flow::reader::Source;
use littoral_gateway::Gateway;
use littoral_mesh::identity::Identity;
use littoral_mesh::{Mesh, MeshOptions, Service, ZenohMesh};
use littoral_model::condition::Condition;
use littoral_model::digest::NodeDigest;
use littoral_model::id::{NodeId, TenantId};
use littoral_model::situation::Situation;
use littoral_model::wire::VersionRange;
use littoral_runtime::container::{Containers, HostProcess};
use littoral_runtime::{CompilerProcess, Runtime, RuntimeOptions, Shards};
use littoral_store::buckets::Buckets;
use littoral_store::consensus::SiteGroup;
use littoral_store::replica::Works;
use littoral_store::{Derived, Log, LogOptions};
use tokio::sync::mpsc;

use crate::artifacts::Artifacts;
use crate::condition::machine;
use crate::data_dir::{DataDir, Facts};
use crate::directory::Directory;
use crate::dispatch::Dispatch;
use crate::events::Events;
use crate::groups::{BORROWED_MAX, Groups};
use crate::init::reachable;
use crate::intent::IntentStore;
use crate::logs::Logs;
use crate::metering::Metering;
use crate::signing::Verifier;
use crate::spec::{CONTAINER_LABEL, PROCESS_LABEL};
use crate::surveyor::Surveyor;
use crate::wiring::{MeshKeeper, MeshPeers, MeshRaft, MeshSource, MeshThreads};

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
    pub(crate) events: Arc<Events>,
    pub(crate) artifacts: Artifacts,
    pub(crate) runtime: Runtime,
    /// What runs images, if this machine does.
    pub(crate) containers: Option<Arc<Containers>>,
    pub(crate) shards: Shards,
    /// Where HTTP is to be served; its address is part of the digest, so that it is taken before the mesh is opened.
    pub(crate) http: Option<TcpListener>,
    /// What the node says of itself, to begin with.
    pub(crate) digest: NodeDigest,
    /// What finds out about its situation.
    pub(crate) surveyor: Surveyor,
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
        host: Option<Arc<HostProcess>>,
        mut surveyor: Surveyor,
    ) -> anyhow::Result<(Self, mpsc::Receiver<Arc<SiteGroup>>)> {
        let identity = Identity::load(&data.identity())?;
        let verifier = Verifier::new(identity.root_pem.clone(), !facts.signed_only);
        let logs = Arc::new(Logs::new(facts.node.clone()));
        let disk = Disk::open(&data, &facts, verifier.clone(), Arc::clone(&logs)).await?;
        let revoked = Arc::clone(&disk.intent.now().revoked);
        anyhow::ensure!(
            !revoked.contains(&facts.node),
            "{} was shut out of the fabric; to let the machine in again, join under another name with an empty --data",
            facts.node
        );
        let artifacts = Artifacts::open(data.artifacts()).context("cannot open the folder of artefacts")?;
        let runtime =
            Runtime::new(RuntimeOptions { cache_dir: Some(data.cache()), compiler, ..RuntimeOptions::default() })?;
        let containers = host.map(Containers::open).transpose().context("cannot open the folder of containers")?;
        let shards = Shards::for_this_machine().context("cannot start the data-plane threads")?;
        let http = match facts.http {
            Some(address) => Some(Gateway::listen(address)?),
            None => None,
        };
        let dispatch = Arc::new(Dispatch::default());
        let situation = surveyor.survey(Duration::ZERO);
        let address = http.as_ref().map(TcpListener::local_addr).transpose()?;
        let mut digest = digest(&facts, address, &disk.intent, situation);
        let abilities = containers.as_ref().map(Containers::abilities);
        let runs = [
            (abilities.is_some_and(|abilities| abilities.images.is_ok()), CONTAINER_LABEL),
            (abilities.is_some_and(|abilities| abilities.programs.is_ok()), PROCESS_LABEL),
        ];
        for (_, (label, value)) in runs.into_iter().filter(|(is_able, _)| *is_able) {
            digest.labels.insert(label.to_owned(), value.to_owned());
        }
        let answering = (Arc::clone(&dispatch), shards.clone());
        let opened = open_mesh(&facts, &identity, &revoked, digest.clone(), answering).await?;
        let mesh = opened.mesh();

        let (opened_groups, new_groups) = mpsc::channel(BORROWED_MAX + 1);
        let raft = Arc::new(MeshRaft(Arc::clone(&mesh)));
        let groups = Groups::start(&facts, disk.log.clone(), raft, mesh.members(), opened_groups).await?;
        dispatch.consensus_is_ready(Arc::clone(&groups));
        let keeper = Arc::new(MeshKeeper(Arc::clone(&groups)));
        let peers = Arc::new(MeshPeers(Arc::clone(&mesh)));
        let buckets = Arc::new(Buckets::new(disk.log.clone(), disk.derived.clone()));
        let works = Works::new(facts.node.clone(), disk.log.clone(), disk.derived, peers, keeper)?;
        let directory = Arc::new(Directory::new(Arc::clone(&mesh), Arc::clone(&groups)));
        let source =
            MeshSource { mesh: Arc::clone(&mesh), works: Arc::clone(&works), directory: Arc::clone(&directory) };
        let core = Self {
            logs,
            metering: disk.metering,
            events: disk.events,
            facts,
            data,
            identity,
            log: disk.log,
            intent: disk.intent,
            verifier,
            artifacts,
            runtime,
            containers: containers.map(Arc::new),
            shards,
            http,
            digest,
            surveyor,
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
    events: Arc<Events>,
}

impl Disk {
    async fn open(data: &DataDir, facts: &Facts, verifier: Verifier, logs: Arc<Logs>) -> anyhow::Result<Self> {
        let (data, node) = (data.clone(), facts.node.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let log = Log::open(&data.log(), LogOptions::default())?;
            let (derived, discarded) = Derived::open_or_discard(&data.derived())?;
            if discarded {
                tracing::warn!("the derived state was damaged and is built anew from the log and from replicas");
            }
            let metering = Arc::new(Metering::open(node.clone(), &data)?);
            let events = Arc::new(Events::open(node, log.clone())?);
            let intent = Arc::new(IntentStore::open(log.clone(), verifier, logs)?);
            Ok::<_, anyhow::Error>(Self { log, derived, intent, metering, events })
        });
        opened.await?
    }
}

async fn open_mesh(
    facts: &Facts,
    identity: &Identity,
    revoked: &BTreeSet<NodeId>,
    digest: NodeDigest,
    (dispatch, shards): (Arc<Dispatch>, Shards),
) -> anyhow::Result<ZenohMesh> {
    let service: Arc<dyn Service> = dispatch;
    let options = MeshOptions {
        identity: identity.clone(),
        tenant: TenantId::default_tenant(),
        listen: facts.listen.clone(),
        connect: facts.connect.clone(),
        revoked: revoked.clone(),
        digest,
        service,
        threads: Some(Arc::new(MeshThreads(shards))),
    };
    Ok(ZenohMesh::open(options).await?)
}

fn digest(facts: &Facts, http: Option<SocketAddr>, intent: &IntentStore, situation: Situation) -> NodeDigest {
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
        situation,
        condition: Condition { machine: machine(), clients: facts.clients.clone(), ..Condition::default() },
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
