//! A node's data directory: what lies where in it, and what the node was told when it joined.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use littoral_model::condition::Network;
use littoral_model::id::{AppId, NodeId, SiteId, Tier};
use serde::{Deserialize, Serialize};

use crate::artifacts::write_durably;

/// The folder of containers in a data directory.
pub const CONTAINERS: &str = "containers";

/// What a node is and was told; kept on its disk, so that it starts again with no network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) fabric: String,
    pub(crate) node: NodeId,
    pub(crate) tier: Tier,
    pub(crate) site: SiteId,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) listen: Vec<SocketAddr>,
    pub(crate) connect: Vec<String>,
    pub(crate) advertise: Vec<String>,
    pub(crate) http: Option<SocketAddr>,
    #[serde(default)]
    pub(crate) mqtt: Option<SocketAddr>,
    pub(crate) admin_listen: Option<SocketAddr>,
    pub(crate) join_listen: Option<SocketAddr>,
    /// Whether it is the first node of its site, which founds the site's consensus group.
    pub(crate) founder: bool,
    /// Tells its starts apart; rises with each, also when the clock was set back or the disk was lost.
    pub(crate) incarnation: u64,
    /// Whether everything on this disk was taken by a program that takes signed bundles only. Directories that are older
    /// lack this, and keep the unsigned apps that they have until these are deployed again.
    #[serde(default)]
    pub(crate) signed_only: bool,
    /// The networks whose clients are near to it.
    #[serde(default)]
    pub(crate) clients: Vec<Network>,
}

impl Facts {
    /// What a node is; where it listens and what it connects to is to be added.
    pub(crate) fn new(fabric: String, node: NodeId, tier: Tier, site: SiteId, founder: bool) -> Self {
        Self {
            fabric,
            node,
            tier,
            site,
            founder,
            labels: BTreeMap::new(),
            listen: Vec::new(),
            connect: Vec::new(),
            advertise: Vec::new(),
            http: None,
            mqtt: None,
            admin_listen: None,
            join_listen: None,
            incarnation: 0,
            signed_only: true,
            clients: Vec::new(),
        }
    }
}

/// The addresses on which a running node really listens.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// For other nodes.
    pub mesh: Vec<SocketAddr>,
    /// For functions and routes.
    pub http: Option<SocketAddr>,
    /// For clients of MQTT.
    pub mqtt: Option<SocketAddr>,
    /// For nodes that want to join.
    pub join: Option<SocketAddr>,
    /// For remote administration.
    pub admin: Option<SocketAddr>,
}

/// The paths in a data directory.
#[derive(Debug, Clone)]
pub struct DataDir(PathBuf);

/// The first bytes of the file of facts.
const FACTS_MAGIC: [u8; 8] = *b"LITNODE\0";
/// The version of its content.
const FACTS_VERSION: u32 = 1;

impl DataDir {
    /// Names a data directory; nothing is read.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The Unix socket of the admin API.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.0.join("admin.sock")
    }

    /// Where the running node writes its [`Addresses`], as JSON.
    #[must_use]
    pub fn addresses(&self) -> PathBuf {
        self.0.join("addresses.json")
    }

    /// The node's own key and certificate.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.0.join("identity")
    }

    /// The fabric's root key; only on the node that admits others.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    /// The credentials of the fabric's administrator; only where the fabric was made.
    #[must_use]
    pub fn admin_credentials(&self) -> PathBuf {
        self.0.join("admin")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    pub(crate) fn derived(&self) -> PathBuf {
        self.0.join("derived")
    }

    /// What functions have used, minute by minute.
    pub(crate) fn usage(&self) -> PathBuf {
        self.0.join("usage")
    }

    pub(crate) fn tokens(&self) -> PathBuf {
        self.0.join("tokens")
    }

    /// The folder of secrets that functions of an app are given by name, one file each.
    pub(crate) fn secrets(&self, app: &AppId) -> PathBuf {
        self.0.join("secrets").join(app.tenant.as_str()).join(app.app.as_str())
    }

    /// What is stated of the node's situation, unless it is stated elsewhere; there is none unless somebody makes it.
    pub(crate) fn situation(&self) -> PathBuf {
        self.0.join("situation.toml")
    }

    /// Who may connect over MQTT, and how it is encrypted; there is none unless somebody makes it.
    #[must_use]
    pub fn mqtt(&self) -> PathBuf {
        self.0.join("mqtt.toml")
    }

    /// The sessions of clients of MQTT that may return.
    pub(crate) fn mqtt_sessions(&self) -> PathBuf {
        self.0.join("mqtt-sessions")
    }

    /// What this node shows to registries, in the form of Docker's `config.json`; there is none unless somebody makes it.
    pub(crate) fn registries(&self) -> PathBuf {
        self.0.join("registries.json")
    }

    pub(crate) fn artifacts(&self) -> PathBuf {
        self.0.join("artifacts")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    fn facts(&self) -> PathBuf {
        self.0.join("node.facts")
    }

    /// What the node was told, if it has joined.
    pub(crate) fn read_facts(&self) -> anyhow::Result<Option<Facts>> {
        let path = self.facts();
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let body = littoral_model::file_header::open(&bytes, FACTS_MAGIC, FACTS_VERSION, &path.display().to_string())?;
        Ok(Some(
            serde_json::from_slice(body)
                .with_context(|| format!("{} is damaged; restore it or join anew", path.display()))?,
        ))
    }

    /// Keeps what the node was told.
    pub(crate) fn write_facts(&self, facts: &Facts) -> anyhow::Result<()> {
        let body = serde_json::to_vec_pretty(facts)?;
        let sealed = littoral_model::file_header::seal(FACTS_MAGIC, FACTS_VERSION, &body);
        write_durably(&self.facts(), &sealed).with_context(|| format!("cannot write {}", self.facts().display()))
    }
}
