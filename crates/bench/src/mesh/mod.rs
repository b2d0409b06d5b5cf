//! `mesh`: a call of a function on another node, beside a raw Zenoh query over mutual TLS and a NATS request over TLS,
//! with the same payload there and back. One call after the other; every contestant is two processes (NATS three).
//!
//! Ours is measured where its callers are: in a function of one node that calls a function of the other. It pays for a
//! fresh instance of the called one, which the peers' echo does not. The same call from outside, as a client of one
//! node's HTTP, and at the node that has the function, shows what HTTP adds and what the mesh does.

mod nats;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;

use crate::client::{Connection, Place};
use crate::fabric::{self, Fabric, Spec};
use crate::guests::guest;
use crate::peers;
use crate::results::{Results, Series, load, quantile};
use crate::server::{Server, free_address};

/// What goes there and back.
const PAYLOADS: [(&str, usize); 3] = [("64 B", 64), ("8 KiB", 8 << 10), ("256 KiB", 256 << 10)];
/// How many rounds; each calls every contestant.
const ROUNDS: usize = 5;
/// How many calls in a round.
const CALLS: usize = 2_000;
/// The same in the short form.
const CALLS_SHORT: usize = 200;
const NODES: [Spec; 2] = [
    Spec { name: "cloud-1", tier: "cloud", connect: &[] },
    Spec { name: "edge-1", tier: "edge", connect: &["cloud-1"] },
];
/// The function is in the cloud, the one that calls it at the edge.
const MANIFEST: &str = r#"
name = "bench"
version = "1.0.0"

[functions.echo]
component = "echo.wasm"
placement = { tier = "cloud" }

[functions.caller]
component = "caller.wasm"
placement = { tier = "edge" }
timeout = "60s"
grants = { call = ["echo"] }

[[routes]]
path = "/echo"
function = "echo"

[[routes]]
path = "/caller"
function = "caller"
"#;
const UNIT: &str = "p50_us";
/// How long the caller of NATS waits for its responder to be there.
const RESPONDER_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs the benchmark.
pub(crate) fn run(short: bool) -> anyhow::Result<()> {
    let mut results = Results::begin("mesh", short);
    let folder = tempfile::tempdir()?;
    let mut contestants = contestants(folder.path())?;
    let calls = if short { CALLS_SHORT } else { CALLS };
    let mut worst = [0.0_f64; 2];
    for (what, bytes) in PAYLOADS {
        let series = contestants.iter().map(|c| Series::new(format!("{what}: {}", c.name), &c.about, UNIT));
        let mut series: Vec<Series> = series.collect();
        for contestant in &mut contestants {
            contestant.caller.call(bytes, calls / 10)?;
        }
        for round in 0..ROUNDS {
            let mut turns: Vec<_> = contestants.iter_mut().zip(&mut series).collect();
            if round % 2 == 1 {
                turns.reverse();
            }
            for (contestant, series) in turns {
                let times_us = contestant.caller.call(bytes, calls)?;
                series.note(quantile(&times_us, 0.5), &[("p99_us", quantile(&times_us, 0.99))]);
            }
        }
        if let [ours, _, _, zenoh, nats] = series.as_mut_slice() {
            for (worst, peer) in worst.iter_mut().zip([&*zenoh, &*nats]) {
                *worst = worst.max(ours.compare(peer, UNIT));
            }
        }
        eprintln!("{what}: measured");
        results.series.append(&mut series);
    }
    let [zenoh, nats] = worst;
    results.ratios.insert("mesh_call_rtt_vs_zenoh".to_owned(), zenoh);
    results.ratios.insert("mesh_call_rtt_vs_nats".to_owned(), nats);
    results.load.1 = load();
    results.publish()
}

/// Answers NATS requests; a process of its own.
pub(crate) fn nats_echo(address: &str, identity: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { nats::Client::connect(address, Path::new(identity)).await?.echo().await })
}

/// Somebody to call.
struct Contestant {
    name: &'static str,
    about: String,
    caller: Box<dyn Caller>,
}

/// Calls, one after the other.
trait Caller {
    /// How long each took, in microseconds.
    fn call(&mut self, bytes: usize, count: usize) -> anyhow::Result<Vec<f64>>;
}

/// Ours first, then the same call without the mesh, then the peers.
fn contestants(folder: &Path) -> anyhow::Result<Vec<Contestant>> {
    let example = std::env::current_exe()?.with_file_name("examples").join("zenoh_query");
    let identities = folder.join("identities");
    fabric::run(Command::new(&example).arg("identities").arg(&identities))
        .context("`cargo build --release -p littoral-mesh --example zenoh_query` builds it")?;
    let fabric = std::sync::Arc::new(Fabric::start(&peers::littoral()?, &NODES)?);
    let app = folder.join("app");
    fs::create_dir(&app)?;
    for name in ["echo", "caller"] {
        fs::copy(guest(name)?, app.join(name).with_extension("wasm"))?;
    }
    fs::write(app.join("littoral.toml"), MANIFEST)?;
    fabric.deploy(&app)?;
    let version = peers::version(&peers::littoral()?)?;
    let ours = |node: &str| -> anyhow::Result<Box<dyn Caller>> {
        let connection = Connection::open(&Place::Tcp(fabric.http(node)?))?;
        Ok(Box::new(Function { _fabric: std::sync::Arc::clone(&fabric), connection }))
    };
    Ok(vec![
        Contestant {
            name: "function on another node",
            about: format!("{version}, two nodes with mutual TLS, called by a function"),
            caller: Box::new(Inside {
                connection: Connection::open(&Place::Tcp(fabric.http("edge-1")?))?,
                _fabric: std::sync::Arc::clone(&fabric),
            }),
        },
        Contestant {
            name: "(the same over HTTP)",
            about: format!("{version}, two nodes with mutual TLS, HTTP to the one without the function"),
            caller: ours("edge-1")?,
        },
        Contestant {
            name: "(over HTTP, without a mesh)",
            about: format!("{version}, HTTP to the node with the function"),
            caller: ours("cloud-1")?,
        },
        Contestant {
            name: "zenoh query",
            about: "zenoh 1.10.2, two peers with mutual TLS over TCP, queryable and get".to_owned(),
            caller: Box::new(Zenoh::start(&example, &identities, folder)?),
        },
        Contestant {
            name: "nats request",
            about: format!("{}, mutual TLS, core request and reply", peers::version(&peers::nats_server()?)?),
            caller: Box::new(Nats::start(&identities, folder)?),
        },
    ])
}

/// A function that calls the other one and says how long that took.
struct Inside {
    /// The nodes run as long as somebody calls them.
    _fabric: std::sync::Arc<Fabric>,
    connection: Connection,
}

impl Caller for Inside {
    fn call(&mut self, bytes: usize, count: usize) -> anyhow::Result<Vec<f64>> {
        let path = format!("/caller?bytes={bytes}&count={count}");
        let (status, answer) = self.connection.ask(&path, Bytes::new())?;
        let answer = String::from_utf8(answer.to_vec())?;
        anyhow::ensure!(status.is_success(), "the calling function answered {status}: {answer}");
        let times: Vec<f64> = answer.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        anyhow::ensure!(times.len() == count, "{} of {count} calls were measured", times.len());
        Ok(times.into_iter().map(|ns| ns / 1e3).collect())
    }
}

/// A function behind a node's HTTP.
struct Function {
    /// The nodes run as long as somebody calls them.
    _fabric: std::sync::Arc<Fabric>,
    connection: Connection,
}

impl Caller for Function {
    fn call(&mut self, bytes: usize, count: usize) -> anyhow::Result<Vec<f64>> {
        let payload = Bytes::from(vec![b'x'; bytes]);
        (0..count).map(|_| Ok(self.connection.time("/echo", payload.clone())? * 1e3)).collect()
    }
}

/// Two processes of `crates/mesh/examples/zenoh_query.rs`.
struct Zenoh {
    _responder: Server,
    caller: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Drop for Zenoh {
    fn drop(&mut self) {
        // It may have ended already.
        self.caller.kill().ok();
        self.caller.wait().ok();
    }
}

impl Zenoh {
    fn start(example: &Path, identities: &Path, folder: &Path) -> anyhow::Result<Self> {
        let address = free_address()?;
        let command = |what: &str| {
            let mut command = Command::new(example);
            command.arg(what).arg(identities).arg(address.to_string());
            command
        };
        let responder = Server::start(command("serve"), address, &folder.join("zenoh.log"))?;
        let mut caller = command("call").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = caller.stdin.take().context("no standard input")?;
        let answers = BufReader::new(caller.stdout.take().context("no standard output")?);
        Ok(Self { _responder: responder, caller, orders, answers })
    }
}

impl Caller for Zenoh {
    fn call(&mut self, bytes: usize, count: usize) -> anyhow::Result<Vec<f64>> {
        writeln!(self.orders, "{bytes} {count}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).context("the caller of Zenoh ended")
    }
}

/// A server, a responder, and ourselves as the caller.
struct Nats {
    runtime: tokio::runtime::Runtime,
    client: nats::Client,
    responder: Child,
    _server: Server,
}

impl Drop for Nats {
    fn drop(&mut self) {
        // It may have ended already.
        self.responder.kill().ok();
        self.responder.wait().ok();
    }
}

impl Nats {
    fn start(identities: &Path, folder: &Path) -> anyhow::Result<Self> {
        let address = free_address()?;
        let config = folder.join("nats.conf");
        fs::write(&config, nats_config(address, &identities.join("one")))?;
        let mut server = Command::new(peers::nats_server()?);
        server.arg("-c").arg(&config);
        let server = Server::start(server, address, &folder.join("nats.log"))?;
        let identity: PathBuf = identities.join("two");
        let mut responder = Command::new(std::env::current_exe()?);
        responder.arg("nats-echo").arg(address.to_string()).arg(&identity);
        let responder = responder.stdin(Stdio::null()).spawn()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(async {
            let mut client = nats::Client::connect(&address.to_string(), &identity).await?;
            client.listen().await?;
            // The responder may not be there yet: what nobody listens to is dropped.
            let deadline = Instant::now() + RESPONDER_TIMEOUT;
            loop {
                match tokio::time::timeout(Duration::from_millis(100), client.request(b"")).await {
                    Ok(answered) => break answered?,
                    Err(_) => anyhow::ensure!(Instant::now() < deadline, "the responder does not answer"),
                }
            }
            anyhow::Ok(client)
        })?;
        Ok(Self { runtime, client, responder, _server: server })
    }
}

impl Caller for Nats {
    fn call(&mut self, bytes: usize, count: usize) -> anyhow::Result<Vec<f64>> {
        let payload = vec![b'x'; bytes];
        let client = &mut self.client;
        self.runtime.block_on(async {
            let mut times_us = Vec::with_capacity(count);
            for _ in 0..count {
                let begun = Instant::now();
                client.request(&payload).await?;
                times_us.push(begun.elapsed().as_secs_f64() * 1e6);
            }
            Ok(times_us)
        })
    }
}

fn nats_config(address: SocketAddr, identity: &Path) -> String {
    let identity = identity.display();
    format!(
        "listen: \"{address}\"\ntls {{\n  cert_file: \"{identity}/node.crt\"\n  key_file: \"{identity}/node.key\"\n  \
         ca_file: \"{identity}/root.crt\"\n  verify: true\n}}\n"
    )
}
