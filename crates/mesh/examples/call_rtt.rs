//! What a call between two neighbours costs in the mesh alone, without functions: by a direct line, and by way of Zenoh. Beside
//! `zenoh_query` it tells what the mesh adds to Zenoh, and what a direct line takes away.
//!
//! - `zenoh_query identities FOLDER` makes the certificates.
//! - `call_rtt serve FOLDER ADDRESS` answers calls with their own payload.
//! - `call_rtt call FOLDER ADDRESS COUNT` prints the median round trip of 64 B, 8 KiB and 256 KiB, in microseconds.
//!
//! Both sides call and answer on threads of their own, as nodes do.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use littoral_mesh::identity::Identity;
use littoral_mesh::{Call, Incoming, Mesh, MeshOptions, Method, Priority, Reading, Service, Threads, ZenohMesh};
use littoral_model::digest::NodeDigest;
use littoral_model::id::{NodeId, SiteId, TenantId, Tier};
use littoral_model::wire::VersionRange;
use tokio::runtime::Handle;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// How many threads call and answer, as on a machine with two cores.
const THREADS: usize = 2;
const PAYLOADS_BYTES: [usize; 3] = [64, 8 << 10, 256 << 10];
const TIMEOUT: Duration = Duration::from_secs(10);

thread_local! {
    static HERE: Cell<Option<usize>> = const { Cell::new(None) };
}

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["serve", folder, address] => runtime.block_on(async {
            let _mesh = open(&Path::new(folder).join("one"), Some(address.parse()?), &[]).await?;
            std::future::pending().await
        }),
        ["call", folder, address, count] => {
            let count: usize = count.parse()?;
            let connect = [(*address).to_owned()];
            let (mesh, shards) = runtime.block_on(open(&Path::new(folder).join("two"), None, &connect))?;
            let calling = call(mesh.mesh(), "one".parse()?, count);
            let shard = shards.0.first().ok_or("there are no threads")?;
            let calling = shard.spawn(calling);
            println!("{}", runtime.block_on(calling)??);
            println!("over direct lines: {:?}", mesh.direct());
            Ok(())
        }
        _ => Err("usage: call_rtt serve FOLDER ADDRESS | call FOLDER ADDRESS COUNT".into()),
    }
}

async fn call(mesh: Arc<dyn Mesh>, to: NodeId, count: usize) -> Outcome<String> {
    mesh.members().wait_for(|members| members.contains_key(&to)).await?;
    // Lines come about soon after the link.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut said = String::new();
    for bytes in PAYLOADS_BYTES {
        for (name, method) in [("direct", Method::Call), ("by Zenoh", Method::Fetch)] {
            let mut times_us = Vec::with_capacity(count);
            for _ in 0..count {
                let payload = Bytes::from(vec![b'x'; bytes]);
                let begun = Instant::now();
                let call = Call::new(method, payload, Priority::Data, TIMEOUT, mesh.invocation());
                let reply = mesh.call(&to, call).await?;
                times_us.push(begun.elapsed().as_secs_f64() * 1e6);
                if reply.len() != bytes {
                    return Err(format!("{} bytes came back", reply.len()).into());
                }
            }
            times_us.sort_by(f64::total_cmp);
            let median = times_us.get(count / 2).copied().unwrap_or_default();
            said.push_str(&format!("{bytes} B {name}: {median:.0} us\n"));
        }
    }
    Ok(said)
}

async fn open(identity: &Path, listen: Option<SocketAddr>, connect: &[String]) -> Outcome<(ZenohMesh, Arc<Shards>)> {
    let identity = Identity::load(identity)?;
    let shards = Arc::new(Shards::start()?);
    let opened = ZenohMesh::open(MeshOptions {
        digest: digest(&identity.node)?,
        identity,
        tenant: TenantId::default_tenant(),
        listen: vec![listen.unwrap_or(([127, 0, 0, 1], 0).into())],
        connect: connect.to_vec(),
        revoked: Default::default(),
        service: Arc::new(Echo),
        threads: Some(Arc::<Shards>::clone(&shards)),
    });
    Ok((opened.await?, shards))
}

struct Echo;

#[async_trait]
impl Service for Echo {
    async fn handle(&self, _from: NodeId, call: Incoming) -> Result<Bytes, String> {
        Ok(call.payload)
    }
}

/// Threads with a runtime each.
struct Shards(Vec<Handle>);

impl Shards {
    fn start() -> Outcome<Self> {
        let start = |number| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            std::thread::spawn(move || {
                HERE.set(Some(number));
                runtime.block_on(std::future::pending::<()>());
            });
            Ok(handle)
        };
        (0..THREADS).map(start).collect::<Outcome<_>>().map(Self)
    }
}

impl Threads for Shards {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn here(&self) -> Option<usize> {
        HERE.get()
    }

    fn run(&self, thread: usize, reading: Reading) {
        if let Some(shard) = self.0.get(thread) {
            drop(shard.spawn(reading));
        }
    }
}

fn digest(node: &NodeId) -> Outcome<NodeDigest> {
    Ok(NodeDigest {
        node: node.clone(),
        tier: Tier::Edge,
        site: SiteId::new("here")?,
        labels: Default::default(),
        incarnation: 1,
        sequence: 0,
        protocol: VersionRange::OURS,
        program: "call_rtt".to_owned(),
        cores: 1,
        memory_bytes: 1,
        works: 0,
        http: None,
        functions: Vec::new(),
        links: Vec::new(),
        intent: 0,
        situation: Default::default(),
        condition: Default::default(),
    })
}
