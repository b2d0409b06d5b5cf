//! The mesh over Zenoh, with mutual TLS on every link.
//!
//! Nodes of the edge, region and cloud tiers are routers and have one session. A device is a client; as a Zenoh client
//! has one router at a time, it opens one session per gateway and is reachable, and reaches others, by each of them. So
//! when a gateway dies the way by the other one is already there.
//!
//! Keys: `littoral/<fabric>/<tenant>/<site>/<node>/call/<line>` answers calls, and the liveliness token
//! `littoral/<fabric>/<tenant>/<site>/<node>/alive/<incarnation>/<line>` tells who is present, where `line` is the number
//! of the node's session; a session that declares itself anew has another number (see `keys`).
//! `config` holds every Zenoh setting and why it is so,
//! `keys` the keys, `lines` the sessions, `wire` how bytes get in and out. Calls of functions between neighbours go beside Zenoh,
//! by `direct`.

mod config;
mod direct;
mod keys;
mod lines;
mod runtimes;
mod wire;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::digest::NodeDigest;
use littoral_model::id::{InvocationId, NodeId, TenantId, Tier};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio_util::sync::CancellationToken;

use self::config::{Settings, line_config};
use self::direct::Direct;
pub use self::direct::DirectLines;
use self::keys::NodeKeys;
use self::lines::Lines;
pub use self::runtimes::share_threads;
use crate::agent::{Agent, Handle};
use crate::call::Priority;
use crate::carrier::{Carrier, Presence, Receiver, RouteId};
use crate::frame::{Envelope, ReplyError};
use crate::identity::Identity;
use crate::mesh::{Mesh, MeshError, Service};
use crate::revocation::excluding;
use crate::threads::{Own, Threads};

/// How often a port of the kernel's choice is tried anew when somebody else took it in between.
const PORT_ATTEMPTS: usize = 8;

/// How a node takes part in the mesh.
pub struct MeshOptions {
    /// Who it proves to be.
    pub identity: Identity,
    /// Whose mesh keys it uses.
    pub tenant: TenantId,
    /// Where it accepts links; port 0 for one of the kernel's choice. Devices accept none.
    pub listen: Vec<SocketAddr>,
    /// Where it makes links to, `host:port`: a device to its gateways, others to nodes of their own and other sites.
    pub connect: Vec<String>,
    /// The nodes that are shut out: no link is made with them.
    pub revoked: BTreeSet<NodeId>,
    /// What it says of itself. Its tier decides how it takes part; its incarnation must rise with each start.
    pub digest: NodeDigest,
    /// What answers calls.
    pub service: Arc<dyn Service>,
    /// Where lines to neighbours are read; on the runtime that it is opened on if there are no others.
    pub threads: Option<Arc<dyn Threads>>,
}

/// A node's end of the mesh over Zenoh.
pub struct ZenohMesh {
    mesh: Arc<dyn Mesh>,
    direct: Arc<Direct>,
    listening: Vec<SocketAddr>,
}

impl ZenohMesh {
    /// Opens it. Links are made in the background and remade for ever, so a node opens with no network at all. Needs a
    /// multi-threaded tokio runtime, on which it does its work from then on.
    ///
    /// # Errors
    /// When the settings contradict one another or it cannot listen.
    pub async fn open(options: MeshOptions) -> Result<Self, MeshError> {
        let wrong = |reason: String| MeshError::Open { reason };
        let MeshOptions { identity, tenant, mut listen, connect, revoked, digest, service, threads } = options;
        if digest.node != identity.node {
            return Err(wrong(format!("the identity is for node {}, not {}", identity.node, digest.node)));
        }
        let device = digest.tier == Tier::Device;
        if device && (connect.is_empty() || !listen.is_empty()) {
            return Err(wrong("a device needs gateways to connect to and accepts no links".to_owned()));
        }
        let fabric = identity.fabric().map_err(|error| wrong(error.to_string()))?;
        let keys = NodeKeys::new(&fabric, &tenant, &digest);
        let cancel = CancellationToken::new();
        let threads = threads.unwrap_or_else(|| Arc::new(Own(tokio::runtime::Handle::current())));
        let direct = Arc::new(Direct::new(digest.node.clone(), fabric.clone(), threads, cancel.clone()));
        let lines = Arc::new(Lines::new(keys, Arc::clone(&direct), cancel.clone()));
        let trusted_pem = excluding(&identity.root_pem, &revoked).map_err(|error| wrong(error.to_string()))?;
        let tls = direct::tls_config(&identity, &trusted_pem).map_err(|error| wrong(error.to_string()))?;
        let settings = Settings { fabric, identity, trusted_pem, device };
        let agent =
            Agent::new(digest, ZenohCarrier { lines: Arc::clone(&lines), cancel }, service, Box::new(invocation));
        let receiver: Arc<dyn Receiver> = Arc::<Agent<ZenohCarrier>>::clone(&agent);
        lines.attach(&Arc::downgrade(&receiver));
        if device {
            for (line, gateway) in connect.iter().enumerate() {
                let config = line_config(&settings, &lines.zid(line), &[], std::slice::from_ref(gateway))?;
                tokio::spawn(Arc::clone(&lines).open_for_ever(line, config));
            }
        } else {
            let apart = direct::listen();
            listen = open_router(&lines, &settings, &listen, &apart.setting(), &connect).await?;
            tokio::spawn(direct::accept(Arc::clone(&direct), apart));
        }
        for endpoint in &connect {
            direct::lines_of(&direct, &tls, endpoint, device, &lines.is_linked());
        }
        tokio::spawn(Arc::clone(&lines).watch_neighbours());
        if !connect.is_empty() {
            tokio::spawn(Arc::clone(&lines).explain(settings.identity, connect));
        }
        tokio::spawn(Arc::clone(&agent).run());
        let mesh = Arc::new(Handle(agent));
        revoked.iter().for_each(|node| mesh.refuse(node));
        Ok(Self { mesh, direct, listening: listen })
    }

    /// The mesh.
    #[must_use]
    pub fn mesh(&self) -> Arc<dyn Mesh> {
        Arc::clone(&self.mesh)
    }

    /// Its direct lines to neighbours.
    #[must_use]
    pub fn direct(&self) -> DirectLines {
        self.direct.report()
    }

    /// Where it accepts links.
    #[must_use]
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }
}

/// Opens a router's one session; where it listens. Zenoh does not tell which port of 127.0.0.1 the kernel chose, so a
/// free one is found first.
async fn open_router(
    lines: &Arc<Lines>,
    settings: &Settings,
    listen: &[SocketAddr],
    setting: &str,
    connect: &[String],
) -> Result<Vec<SocketAddr>, MeshError> {
    let chosen_by_kernel = listen.iter().any(|address| address.port() == 0);
    let mut attempt = 0;
    loop {
        attempt += 1;
        let ports = listen.iter().map(free_port).collect::<std::io::Result<Vec<_>>>();
        let listening = ports.map_err(|error| MeshError::Open { reason: format!("no port is free: {error}") })?;
        let endpoints: Vec<_> = listening.iter().map(|address| format!("{address}#{setting}")).collect();
        let config = line_config(settings, &lines.zid(0), &endpoints, connect)?;
        match lines.open(0, config).await {
            Ok(()) => return Ok(listening),
            Err(error) if chosen_by_kernel && attempt < PORT_ATTEMPTS => {
                tracing::debug!(%error, "a free port was taken; trying another");
            }
            Err(reason) => return Err(MeshError::Open { reason }),
        }
    }
}

fn free_port(address: &SocketAddr) -> std::io::Result<SocketAddr> {
    if address.port() != 0 {
        return Ok(*address);
    }
    std::net::TcpListener::bind(address)?.local_addr()
}

#[allow(clippy::disallowed_methods)] // Ids carry real time, so that they sort; nothing depends on it.
fn invocation() -> InvocationId {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut random = [0u8; 16];
    if SystemRandom::new().fill(&mut random).is_err() {
        tracing::error!("the system gives no random numbers: invocation ids may repeat");
    }
    InvocationId::from_parts(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), u128::from_le_bytes(random))
}

/// The sessions, as the agent uses them.
struct ZenohCarrier {
    lines: Arc<Lines>,
    cancel: CancellationToken,
}

impl Drop for ZenohCarrier {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[async_trait]
impl Carrier for ZenohCarrier {
    fn presences(&self) -> Vec<Presence> {
        self.lines.presences()
    }

    async fn request(
        &self,
        route: RouteId,
        envelope: &Envelope,
        payload: Bytes,
        priority: Priority,
        timeout: Duration,
    ) -> Option<Result<Bytes, ReplyError>> {
        self.lines.request(route, envelope, payload, priority, timeout).await
    }

    fn is_neighbour(&self, node: &NodeId) -> bool {
        self.lines.is_neighbour(node)
    }

    async fn declare_anew(&self) {
        self.lines.declare_anew().await;
    }

    fn refuse(&self, node: &NodeId) {
        self.lines.refuse(node);
    }

    async fn close(&self) {
        self.lines.close().await;
    }
}

#[cfg(test)]
mod tests;
