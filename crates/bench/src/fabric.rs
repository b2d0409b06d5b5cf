//! A fabric of real node processes with mutual TLS between them, driven through the `littoral` command.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// How long anything may take.
const TIMEOUT: Duration = Duration::from_secs(120);
/// How often is looked whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Where the kernel chooses a port.
const ANY_PORT: &str = "127.0.0.1:0";

/// One node: name, tier, and the nodes that it connects to.
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) tier: &'static str,
    pub(crate) connect: &'static [&'static str],
}

/// Running nodes; they end with this.
pub(crate) struct Fabric {
    littoral: PathBuf,
    folder: tempfile::TempDir,
    nodes: Vec<(&'static str, Child)>,
}

impl Drop for Fabric {
    fn drop(&mut self) {
        for (_, child) in &mut self.nodes {
            // It may have ended already.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Fabric {
    /// Starts nodes in this order; the first one makes the fabric.
    pub(crate) fn start(littoral: &Path, specs: &[Spec]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut fabric = Self { littoral: littoral.to_owned(), folder, nodes: Vec::new() };
        for spec in specs {
            let data = fabric.data(spec.name);
            let mut node = fabric.command();
            node.arg("node").arg("--data").arg(&data).arg("--stop-on-stdin-close");
            if fabric.nodes.is_empty() {
                let place = ["--site", spec.name, "--tier", spec.tier, "--node", spec.name];
                let ports = ["--listen", ANY_PORT, "--join-listen", ANY_PORT, "--http", ANY_PORT];
                run(fabric.command().arg("init").arg("--data").arg(&data).args(place).args(ports))?;
            } else {
                let token = fabric.ask(&["token", "create", "-o", "json"])?;
                node.env("LITTORAL_JOIN", token.get("token").and_then(Value::as_str).context("no token")?);
                node.args(["--name", spec.name, "--tier", spec.tier, "--site", spec.name, "--http", ANY_PORT]);
                if spec.tier != "device" {
                    node.args(["--listen", ANY_PORT]);
                }
                for other in spec.connect {
                    node.args(["--connect", &fabric.mesh(other)?]);
                }
            }
            let log = std::fs::File::create(fabric.folder.path().join(format!("{}.log", spec.name)))?;
            let child = node.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).spawn()?;
            fabric.nodes.push((spec.name, child));
            wait(|| data.join("addresses.json").exists(), &format!("{} does not start", spec.name))?;
        }
        let all = specs.len();
        wait(
            || {
                fabric.nodes.iter().all(|(name, _)| {
                    let nodes = fabric.ask_node(name, &["get", "nodes", "-o", "json"]);
                    nodes.is_ok_and(|nodes| nodes.as_array().is_some_and(|nodes| nodes.len() == all))
                })
            },
            "the nodes do not find one another",
        )?;
        Ok(fabric)
    }

    /// The data directory of a node.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.littoral);
        // Nothing of the user's is read or written.
        command.env("HOME", self.folder.path()).env("XDG_STATE_HOME", self.folder.path());
        command
    }

    fn mesh(&self, name: &str) -> anyhow::Result<String> {
        self.address(name, "/mesh/0")
    }

    /// Where a node serves HTTP.
    pub(crate) fn http(&self, name: &str) -> anyhow::Result<SocketAddr> {
        Ok(self.address(name, "/http")?.parse()?)
    }

    /// The Unix socket of a node's admin API.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.data(name).join("admin.sock")
    }

    /// A node's process.
    pub(crate) fn process(&self, name: &str) -> anyhow::Result<u32> {
        let node = self.nodes.iter().find(|(node, _)| *node == name);
        Ok(node.with_context(|| format!("there is no node {name}"))?.1.id())
    }

    fn address(&self, name: &str, pointer: &str) -> anyhow::Result<String> {
        let addresses: Value = serde_json::from_slice(&std::fs::read(self.data(name).join("addresses.json"))?)?;
        let address = addresses.pointer(pointer).and_then(Value::as_str);
        Ok(address.with_context(|| format!("{name} does not listen"))?.to_owned())
    }

    /// Deploys the app in a folder, whose components are built, and waits until it is healthy.
    pub(crate) fn deploy(&self, app: &Path) -> anyhow::Result<()> {
        let app = app.to_str().context("the folder's name is not text")?;
        // Compiling many components takes minutes.
        self.ask(&["deploy", app, "--no-build", "--timeout", "30min", "-o", "json"]).map(drop)
    }

    /// Runs a command at the first node, which answers in JSON.
    pub(crate) fn ask(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let (first, _) = self.nodes.first().context("there is no node")?;
        self.ask_node(first, arguments)
    }

    /// Runs a command at a node, which answers in JSON.
    pub(crate) fn ask_node(&self, name: &str, arguments: &[&str]) -> anyhow::Result<Value> {
        let text = self.tell(name, arguments)?;
        serde_json::from_str(&text)
            .with_context(|| format!("`littoral {}` did not answer in JSON", arguments.join(" ")))
    }

    /// Runs a command at a node.
    pub(crate) fn tell(&self, name: &str, arguments: &[&str]) -> anyhow::Result<String> {
        run(self.command().arg("--socket").arg(self.socket(name)).args(arguments))
    }
}

/// Runs a command to its end; what it printed.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Waits until something holds.
pub(crate) fn wait(mut holds: impl FnMut() -> bool, otherwise: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while !holds() {
        anyhow::ensure!(Instant::now() < deadline, "{otherwise} within {} s", TIMEOUT.as_secs());
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
