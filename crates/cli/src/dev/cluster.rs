//! The continuum's processes: a node each, with a data directory of its own, and the shaped links between them.
//!
//! A node's standard input stays open in this process: however it ends, the nodes see that and stop.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use littoral_mesh::shaper::Shaper;
use littoral_mesh::tenant::TenantKey;
use littoral_model::id::{NodeId, Tier};
use littoral_model::manifest::DevNode;
use littoral_node::admin::types::TokenRequest;
use littoral_node::{Addresses, DataDir, InitSettings};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::topology::Topology;
use crate::client::{Client, Target};

/// How long a node may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the nodes may take to find one another.
const MEET_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the nodes may take to stop before they are killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
/// How often is looked whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a join token is good for, in seconds.
const TOKEN_TTL: u64 = 600;
/// How many lines of a node's log are shown when it failed.
const LOG_LINES_SHOWN: usize = 15;
/// Where the kernel chooses a port.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// One node's process.
pub(super) struct Process {
    pub(super) spec: DevNode,
    data: DataDir,
    log: PathBuf,
    child: Option<Child>,
    addresses: Addresses,
    connect: Vec<String>,
    offer: Vec<PathBuf>,
    /// Where its situation is written down, if the topology says something of it.
    situation: Option<PathBuf>,
    /// Where it says which node was started last; none for where `littoral get` looks for it.
    state: Option<PathBuf>,
}

/// A link between two nodes that is shaped.
pub(super) struct Link {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) shaper: Shaper,
}

/// All nodes and links.
pub(super) struct Cluster {
    pub(super) topology: Topology,
    pub(super) processes: BTreeMap<NodeId, Process>,
    pub(super) links: Vec<Link>,
    folder: PathBuf,
    settings: Settings,
}

/// What all nodes are started with.
pub(super) struct Settings {
    /// Other commands of this user ask these nodes from now on.
    pub(super) found: bool,
    /// The first node listens for clients of MQTT, whoever they are.
    pub(super) mqtt: bool,
    /// What of this machine they offer.
    pub(super) offer: Vec<PathBuf>,
}

impl Process {
    /// Asks the node through its own socket.
    pub(super) fn client(&self) -> Client {
        Client::new(Target::Unix(self.data.admin_socket()))
    }

    /// Where it serves HTTP.
    pub(super) fn http(&self) -> Option<SocketAddr> {
        self.addresses.http
    }

    /// Where it listens for clients of MQTT.
    pub(super) fn mqtt(&self) -> Option<SocketAddr> {
        self.addresses.mqtt
    }

    /// Where its data is.
    pub(super) fn data(&self) -> &Path {
        self.data.path()
    }

    fn spawn(&mut self, arguments: &[String], token: Option<&str>) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        match std::fs::remove_file(self.data.addresses()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.arg("node").arg("--data").arg(self.data.path()).arg("--stop-on-stdin-close").args(arguments);
        for address in &self.connect {
            command.arg("--connect").arg(address);
        }
        for path in &self.offer {
            command.arg("--offer").arg(path);
        }
        if let Some(situation) = &self.situation {
            command.arg("--situation").arg(situation);
        }
        if let Some(token) = token {
            command.env("LITTORAL_JOIN", token);
        }
        if let Some(state) = &self.state {
            command.env("XDG_STATE_HOME", state);
        }
        // A process group of its own: an interrupt at the terminal is for this process, which stops the nodes in order.
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true).process_group(0);
        self.child = Some(command.spawn().context("cannot start a node")?);
        Ok(())
    }

    /// Waits until the node listens.
    async fn started(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Ok(text) = std::fs::read(self.data.addresses())
                && let Ok(addresses) = serde_json::from_slice(&text)
            {
                self.addresses = addresses;
                return Ok(());
            }
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?,
                None => None,
            };
            if ended.is_some() || Instant::now() >= deadline {
                bail!(
                    "node {} did not start; the end of its log, {}:\n{}",
                    self.spec.name,
                    self.log.display(),
                    self.last_lines()
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(LOG_LINES_SHOWN)..).unwrap_or_default().join("\n")
    }

    /// Sends the process a signal.
    pub(super) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("node {} does not run", self.spec.name))?;
        kill_process(pid, signal).with_context(|| format!("cannot signal node {}", self.spec.name))
    }

    /// Kills the process at once.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.with_context(|| format!("cannot kill node {}", self.spec.name))?;
        }
        Ok(())
    }

    /// Starts a node that was killed from what is on its disk.
    pub(super) async fn restart(&mut self) -> anyhow::Result<()> {
        // Where it was, so that the others find it.
        let mut arguments: Vec<String> =
            self.addresses.mesh.iter().flat_map(|address| ["--listen".to_owned(), address.to_string()]).collect();
        if let Some(http) = self.addresses.http {
            arguments.extend(["--http".to_owned(), http.to_string()]);
        }
        if let Some(mqtt) = self.addresses.mqtt {
            arguments.extend(["--mqtt".to_owned(), mqtt.to_string()]);
        }
        self.spawn(&arguments, None)?;
        self.started().await
    }
}

impl Cluster {
    /// Starts all nodes, each connected as the topology says, and waits until all see one another.
    pub(super) async fn start(
        topology: Topology,
        folder: &Path,
        seed: u64,
        settings: Settings,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder.join("logs"))?;
        let mut cluster =
            Self { topology, processes: BTreeMap::new(), links: Vec::new(), folder: folder.to_owned(), settings };
        let nodes = cluster.topology.nodes.clone();
        let mut first: Option<NodeId> = None;
        for spec in nodes {
            let name = spec.name.clone();
            cluster.start_node(spec, first.as_ref(), seed).await?;
            first.get_or_insert(name);
        }
        cluster.meet().await?;
        Ok(cluster)
    }

    async fn start_node(&mut self, spec: DevNode, first: Option<&NodeId>, seed: u64) -> anyhow::Result<()> {
        let name = spec.name.clone();
        let mut process = Process {
            data: DataDir::new(self.folder.join(name.as_str())),
            log: self.folder.join("logs").join(format!("{name}.log")),
            child: None,
            addresses: Addresses::default(),
            connect: self.connect(&name, seed).await?,
            offer: self.settings.offer.clone(),
            situation: self.situation(&spec)?,
            // Others ask the first one, beside which the key is that deployments are signed with.
            state: (!self.settings.found || first.is_some()).then(|| self.folder.clone()),
            spec,
        };
        let labels =
            process.spec.labels.iter().flat_map(|(key, value)| ["--label".to_owned(), format!("{key}={value}")]);
        let mut arguments: Vec<String> = labels.collect();
        match first {
            None => {
                littoral_node::init(InitSettings {
                    data: process.data().to_owned(),
                    name: name.clone(),
                    tier: process.spec.tier,
                    site: process.spec.site.clone(),
                    listen: vec![ANY_PORT],
                    http: Some(ANY_PORT),
                    join_listen: Some(ANY_PORT),
                    advertise: Vec::new(),
                })
                .await?;
                if self.settings.mqtt {
                    // They listen on this machine only.
                    std::fs::write(process.data.mqtt(), "anonymous = true\n").context("cannot write mqtt.toml")?;
                    arguments.extend(["--mqtt".to_owned(), ANY_PORT.to_string()]);
                }
                process.spawn(&arguments, None)?;
            }
            Some(first) => {
                let inviting = self.process(first)?;
                let token = inviting.client().token(&TokenRequest { ttl_seconds: TOKEN_TTL }).await?;
                let spec = &process.spec;
                let told = [
                    ("--name", name.to_string()),
                    ("--tier", spec.tier.to_string()),
                    ("--site", spec.site.to_string()),
                ];
                arguments.extend(told.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
                arguments.extend(["--http".to_owned(), ANY_PORT.to_string()]);
                if spec.tier != Tier::Device {
                    arguments.extend(["--listen".to_owned(), ANY_PORT.to_string()]);
                }
                process.spawn(&arguments, Some(&token.token))?;
            }
        }
        process.started().await?;
        self.processes.insert(name, process);
        Ok(())
    }

    /// Writes down what the topology says of a node's situation, if it says something; where.
    fn situation(&self, spec: &DevNode) -> anyhow::Result<Option<PathBuf>> {
        let Some(region) = &spec.region else { return Ok(None) };
        let file = self.folder.join(format!("{}-situation.toml", spec.name));
        std::fs::write(&file, format!("region = \"{region}\"\n"))
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Some(file))
    }

    /// Makes the links of a node; where it is to connect.
    async fn connect(&mut self, name: &NodeId, seed: u64) -> anyhow::Result<Vec<String>> {
        let mut addresses = Vec::new();
        for dial in self.topology.dials.iter().filter(|dial| dial.from == *name) {
            let target = self.process(&dial.to)?.addresses.mesh.first().copied();
            let target = target.with_context(|| format!("node {} does not listen", dial.to))?;
            let Some(shape) = dial.shape else {
                addresses.push(target.to_string());
                continue;
            };
            let number = self.links.len() as u64;
            let shaper = Shaper::start(ANY_PORT, target, shape, seed.wrapping_add(number)).await?;
            addresses.push(shaper.address().to_string());
            self.links.push(Link { from: dial.from.clone(), to: dial.to.clone(), shaper });
        }
        Ok(addresses)
    }

    /// Waits until every node sees all.
    async fn meet(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + MEET_TIMEOUT;
        for process in self.processes.values() {
            loop {
                let seen = process.client().nodes().await.map_or(0, |nodes| nodes.len());
                if seen >= self.processes.len() {
                    break;
                }
                if Instant::now() >= deadline {
                    let all = self.processes.len();
                    bail!(
                        "node {} sees {seen} of {all} nodes after {} s; the logs are in {}",
                        process.spec.name,
                        MEET_TIMEOUT.as_secs(),
                        self.folder.join("logs").display()
                    );
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(())
    }

    /// A node's process.
    pub(super) fn process(&self, name: &NodeId) -> anyhow::Result<&Process> {
        self.processes.get(name).with_context(|| format!("there is no node {name}"))
    }

    /// A node's process, to be changed.
    pub(super) fn process_mut(&mut self, name: &NodeId) -> anyhow::Result<&mut Process> {
        self.processes.get_mut(name).with_context(|| format!("there is no node {name}"))
    }

    /// What the fabric's apps are signed with; the node that made the fabric has it.
    pub(super) fn tenant_key(&self) -> anyhow::Result<TenantKey> {
        let folders = self.processes.values().map(|process| process.data.admin_credentials());
        let folder = folders.into_iter().find(|folder| TenantKey::exists(folder)).context("no node made the fabric")?;
        Ok(TenantKey::load(&folder)?)
    }

    /// A running node to ask, one of those that are not named, of the outermost tier that is no device's.
    pub(super) fn witness(&self, struck: &[NodeId]) -> anyhow::Result<&Process> {
        let candidates =
            self.processes.values().filter(|process| process.child.is_some() && !struck.contains(&process.spec.name));
        let best = candidates.min_by_key(|process| (process.spec.tier == Tier::Device, process.spec.tier));
        best.context("no node is left to ask")
    }

    /// Bytes that crossed the shaped links between two tiers so far.
    pub(super) fn bytes_between(&self, a: Tier, b: Tier) -> u64 {
        let is_between = |link: &&Link| {
            let tiers = (self.topology.tier(&link.from), self.topology.tier(&link.to));
            tiers == (Some(a), Some(b)) || tiers == (Some(b), Some(a))
        };
        let bytes = self.links.iter().filter(is_between).map(|link| link.shaper.bytes());
        bytes.map(|(up, down)| up + down).sum()
    }

    /// Stops all nodes in order, those last that the others depend on.
    pub(super) async fn stop(mut self) {
        let order: Vec<NodeId> = self.topology.nodes.iter().rev().map(|node| node.name.clone()).collect();
        let mut children = Vec::new();
        for name in order {
            if let Some(mut child) = self.processes.get_mut(&name).and_then(|process| process.child.take()) {
                drop(child.stdin.take());
                children.push((name, child));
            }
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        for (name, mut child) in children {
            if !matches!(tokio::time::timeout_at(deadline, child.wait()).await, Ok(Ok(_))) {
                eprintln!("node {name} does not stop and is killed");
                if let Err(error) = child.kill().await {
                    eprintln!("node {name} cannot be killed: {error}");
                }
            }
        }
    }
}
