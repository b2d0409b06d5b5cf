//! The twelve nodes, each a process with a disk of its own, and the links between their sites, each a proxy that can be cut.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use littoral_mesh::shaper::{LinkShape, Shaper};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::schedule::{Disturbance, Kind};
use super::wire;
use crate::client::Place;
use crate::fabric::run;

/// How long a node may take to start, and how long all may take to find one another.
const START: Duration = Duration::from_secs(60);
/// How often is looked whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a node may take to say something of itself.
const ANSWER: Duration = Duration::from_secs(5);
/// Where the kernel chooses a port.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A place in the continuum.
pub(super) struct Role {
    pub(super) name: &'static str,
    pub(super) tier: &'static str,
    pub(super) site: &'static str,
    /// The hall that it is in or beside; none for what is outside.
    pub(super) hall: Option<&'static str>,
    /// Whom it connects to: those of its site directly, all others over a link that can be cut.
    connect: &'static [&'static str],
}

const fn role(
    name: &'static str,
    tier: &'static str,
    site: &'static str,
    hall: Option<&'static str>,
    connect: &'static [&'static str],
) -> Role {
    Role { name, tier, site, hall, connect }
}

/// A cloud of three nodes, which has copies and votes enough to lose one; a region; a hall of three edge nodes and one of
/// two, which borrows a vote from the region or the cloud; three devices with two gateways each.
pub(super) const ROLES: [Role; 12] = [
    role("cloud-1", "cloud", "cloud", None, &[]),
    role("cloud-2", "cloud", "cloud", None, &["cloud-1"]),
    role("cloud-3", "cloud", "cloud", None, &["cloud-1", "cloud-2"]),
    role("region-1", "region", "north", None, &["cloud-1", "cloud-2"]),
    role("edge-a1", "edge", "hall-a", Some("hall-a"), &["region-1", "cloud-1"]),
    role("edge-a2", "edge", "hall-a", Some("hall-a"), &["edge-a1", "region-1", "cloud-2"]),
    role("edge-a3", "edge", "hall-a", Some("hall-a"), &["edge-a1", "edge-a2", "region-1", "cloud-3"]),
    role("edge-b1", "edge", "hall-b", Some("hall-b"), &["region-1", "cloud-1"]),
    role("edge-b2", "edge", "hall-b", Some("hall-b"), &["edge-b1", "region-1", "cloud-2"]),
    role("device-a1", "device", "machine-a1", Some("hall-a"), &["edge-a1", "edge-a2"]),
    role("device-a2", "device", "machine-a2", Some("hall-a"), &["edge-a2", "edge-a3"]),
    role("device-b1", "device", "machine-b1", Some("hall-b"), &["edge-b1", "edge-b2"]),
];

/// The number of a role.
pub(super) fn slot_of(name: &str) -> anyhow::Result<usize> {
    ROLES.iter().position(|role| role.name == name).with_context(|| format!("there is no node {name}"))
}

/// What stands in a role now.
struct Slot {
    /// Its name: that of the role, with a number once it was replaced.
    node: String,
    replaced: u32,
    mesh: Option<String>,
    http: SocketAddr,
    child: Child,
}

struct Link {
    from: usize,
    to: usize,
    shaper: Shaper,
}

/// All nodes; they end with this.
pub(super) struct Nodes {
    littoral: PathBuf,
    folder: PathBuf,
    slots: Vec<Slot>,
    links: Vec<Link>,
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for slot in &mut self.slots {
            // It may have ended already.
            slot.child.kill().ok();
            slot.child.wait().ok();
        }
    }
}

impl Nodes {
    /// Starts all nodes and waits until each sees all.
    pub(super) async fn start(littoral: &Path, folder: &Path) -> anyhow::Result<Self> {
        let mut nodes =
            Self { littoral: littoral.to_owned(), folder: folder.to_owned(), slots: Vec::new(), links: Vec::new() };
        for (number, role) in ROLES.iter().enumerate() {
            for other in role.connect {
                nodes.link(number, slot_of(other)?).await?;
            }
            let arguments = nodes.first_start(number, role.name, None)?;
            let child = nodes.spawn(number, &arguments)?;
            let http = ANY_PORT;
            nodes.slots.push(Slot { node: role.name.to_owned(), replaced: 0, mesh: None, http, child });
            nodes.started(number).await?;
        }
        let deadline = Instant::now() + START;
        for number in 0..ROLES.len() {
            loop {
                let seen = wire::get(&nodes.admin(number), "/v1/nodes", ANSWER).await;
                if seen.is_ok_and(|seen| seen.as_array().is_some_and(|seen| seen.len() == ROLES.len())) {
                    break;
                }
                anyhow::ensure!(
                    Instant::now() < deadline,
                    "the nodes do not find one another within {} s",
                    START.as_secs()
                );
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
        Ok(nodes)
    }

    /// Makes the link over which a node connects to one of another site.
    async fn link(&mut self, from: usize, to: usize) -> anyhow::Result<()> {
        if site(from) != site(to) {
            let target =
                self.slots.get(to).and_then(|slot| slot.mesh.clone()).context("a device takes no connections")?;
            let shaper =
                Shaper::start(ANY_PORT, target.parse()?, LinkShape::default(), self.links.len() as u64).await?;
            self.links.push(Link { from, to, shaper });
        }
        Ok(())
    }

    /// Where a node's admin API is.
    pub(super) fn admin(&self, number: usize) -> Place {
        Place::Unix(self.data(number).join("admin.sock"))
    }

    /// Where a node serves HTTP.
    pub(super) fn http(&self, number: usize) -> Place {
        Place::Tcp(self.slots.get(number).map_or(ANY_PORT, |slot| slot.http))
    }

    /// The name of what stands in a role now.
    pub(super) fn name(&self, number: usize) -> &str {
        self.slots.get(number).map_or("", |slot| &slot.node)
    }

    /// The process of a node.
    pub(super) fn process(&self, number: usize) -> u32 {
        self.slots.get(number).map_or(0, |slot| slot.child.id())
    }

    /// Runs a command at the first node.
    pub(super) fn tell(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run(self.command().arg("--socket").arg(self.data(0).join("admin.sock")).args(arguments))
    }

    /// Where a node's data is.
    pub(super) fn data(&self, number: usize) -> PathBuf {
        self.folder.join(ROLES.get(number).map_or("", |role| role.name))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.littoral);
        // Nothing of the user's is read or written.
        command.env("HOME", &self.folder).env("XDG_STATE_HOME", &self.folder);
        command
    }

    /// What a node is started with on an empty disk; `at` has the addresses of the one that it replaces.
    fn first_start(&self, number: usize, node: &str, at: Option<&Slot>) -> anyhow::Result<Vec<String>> {
        let role = ROLES.get(number).context("there is no such node")?;
        let listen = at.and_then(|slot| slot.mesh.clone()).unwrap_or_else(|| ANY_PORT.to_string());
        let http = at.map_or(ANY_PORT, |slot| slot.http).to_string();
        let place = ["--tier", role.tier, "--site", role.site];
        let mut arguments: Vec<&str> = Vec::new();
        let token;
        if number == 0 {
            let ports = ["--listen", &listen, "--join-listen", &listen, "--http", &http];
            run(self.command().args(["init", "--node", node, "--data"]).arg(self.data(0)).args(place).args(ports))?;
        } else {
            let granted: Value = serde_json::from_str(&self.tell(&["token", "create", "-o", "json"])?)?;
            token = granted.get("token").and_then(Value::as_str).context("no token")?.to_owned();
            arguments.extend(["--name", node, "--http", &http, "--join", &token]);
            arguments.extend(place);
            if role.tier != "device" {
                arguments.extend(["--listen", &listen]);
            }
        }
        let mut arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        if let Some(hall) = role.hall {
            arguments.extend(["--label".to_owned(), format!("hall={hall}")]);
        }
        Ok(arguments)
    }

    fn spawn(&self, number: usize, arguments: &[String]) -> anyhow::Result<Child> {
        let role = ROLES.get(number).context("there is no such node")?;
        let log = File::options().create(true).append(true).open(self.folder.join(format!("{}.log", role.name)))?;
        std::fs::remove_file(self.data(number).join("addresses.json")).ok();
        let mut command = self.command();
        command.args(["node", "--stop-on-stdin-close", "--data"]).arg(self.data(number)).args(arguments);
        for other in role.connect {
            let to = slot_of(other)?;
            let link = self.links.iter().find(|link| (link.from, link.to) == (number, to));
            let direct = || self.slots.get(to).and_then(|slot| slot.mesh.clone());
            let address = link.map(|link| link.shaper.address().to_string()).or_else(direct);
            command.args(["--connect", &address.context("a node does not listen")?]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn().context("cannot start a node")
    }

    /// Waits until a node listens.
    async fn started(&mut self, number: usize) -> anyhow::Result<()> {
        let file = self.data(number).join("addresses.json");
        let deadline = Instant::now() + START;
        loop {
            let slot = self.slots.get_mut(number).context("there is no such node")?;
            if let Some(addresses) =
                std::fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok())
            {
                let text = |pointer: &str| addresses.pointer(pointer).and_then(Value::as_str);
                slot.mesh = text("/mesh/0").map(str::to_owned);
                slot.http = text("/http").context("a node serves no HTTP")?.parse()?;
                return Ok(());
            }
            let ended = slot.child.try_wait()?.is_some();
            let log = self.folder.join(format!("{}.log", ROLES.get(number).map_or("", |role| role.name)));
            anyhow::ensure!(
                !ended && Instant::now() < deadline,
                "node {} does not start; see {}",
                slot.node,
                log.display()
            );
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Begins a disturbance.
    pub(super) fn strike(&mut self, disturbance: Disturbance) -> anyhow::Result<()> {
        let number = disturbance.slot;
        match disturbance.kind {
            Kind::Cut => self.pull(number, true),
            Kind::Pause => self.signal(number, Signal::STOP)?,
            Kind::Kill | Kind::Wipe => {
                let slot = self.slots.get_mut(number).context("there is no such node")?;
                slot.child.kill()?;
                slot.child.wait()?;
            }
        }
        if disturbance.kind == Kind::Wipe {
            std::fs::remove_dir_all(self.data(number)).context("cannot delete the node's data")?;
        }
        Ok(())
    }

    /// Ends a disturbance.
    pub(super) async fn mend(&mut self, disturbance: Disturbance) -> anyhow::Result<()> {
        let number = disturbance.slot;
        match disturbance.kind {
            Kind::Cut => self.pull(number, false),
            Kind::Pause => self.signal(number, Signal::CONT)?,
            Kind::Kill => {
                let slot = self.slots.get(number).context("there is no such node")?;
                let mut arguments = vec!["--http".to_owned(), slot.http.to_string()];
                arguments.extend(slot.mesh.iter().flat_map(|mesh| ["--listen".to_owned(), mesh.clone()]));
                self.restart(number, &arguments).await?;
            }
            Kind::Wipe => {
                // As an operator would: the name is shut out for good, and a new machine takes the address.
                let slot = self.slots.get_mut(number).context("there is no such node")?;
                slot.replaced += 1;
                let lost = slot.node.clone();
                slot.node = format!("{}-{}", ROLES.get(number).map_or("", |role| role.name), slot.replaced + 1);
                self.tell(&["node", "revoke", &lost])?;
                let slot = self.slots.get(number);
                let arguments = self.first_start(number, slot.map_or("", |slot| &slot.node), slot)?;
                self.restart(number, &arguments).await?;
            }
        }
        Ok(())
    }

    async fn restart(&mut self, number: usize, arguments: &[String]) -> anyhow::Result<()> {
        let child = self.spawn(number, arguments)?;
        self.slots.get_mut(number).context("there is no such node")?.child = child;
        self.started(number).await
    }

    fn signal(&self, number: usize, signal: Signal) -> anyhow::Result<()> {
        let process =
            i32::try_from(self.process(number)).ok().and_then(Pid::from_raw).context("the node does not run")?;
        kill_process(process, signal).context("cannot signal a node")
    }

    /// Cuts, or heals, all links between the site of a node, with the devices beside it, and all others.
    fn pull(&self, number: usize, cut: bool) {
        let inside =
            |slot| site(slot) == site(number) || ROLES.get(slot).and_then(|role| role.hall) == Some(site(number));
        for link in self.links.iter().filter(|link| inside(link.from) != inside(link.to)) {
            if cut { link.shaper.cut() } else { link.shaper.heal() }
        }
    }
}

fn site(number: usize) -> &'static str {
    ROLES.get(number).map_or("", |role| role.site)
}
