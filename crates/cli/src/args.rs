//! The command line: every command with its flags, its help and an example.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use littoral_model::condition::Network;
use littoral_model::grant::Peer;
use littoral_model::id::{AppName, FunctionName, NodeId, SiteId, Tier};
use littoral_model::invocation::InvocationName;
use littoral_node::run_component::{Device, Directory};
use rustix::fs::{Mode, OFlags};

/// A serverless fabric in which the edge is a peer of the cloud.
///
/// Every machine, from a sensor gateway to a cloud VM, runs `littoral node`. An app declares functions, streams and
/// flows in one manifest, each with the objectives that it must meet; the fabric decides where code runs and where
/// data lives.
#[derive(Debug, Parser)]
#[command(
    name = "littoral",
    version,
    max_term_width = 110,
    after_long_help = "\
Examples:
  littoral new my-app                 a working app from a template
  littoral dev my-app                 a continuum on this machine, with the app on it
  littoral get flows --watch          where its stages run, and how they fare"
)]
pub(crate) struct Cli {
    /// The context that says which node to ask (see `littoral context`).
    #[arg(long, global = true, env = "LITTORAL_CONTEXT", value_name = "NAME", help_heading = "Which node to ask")]
    pub(crate) context: Option<String>,
    /// The Unix socket of the node to ask; it is `admin.sock` in a node's data directory.
    #[arg(
        long,
        global = true,
        env = "LITTORAL_SOCKET",
        value_name = "PATH",
        conflicts_with = "context",
        help_heading = "Which node to ask"
    )]
    pub(crate) socket: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a working app from a template.
    #[command(after_long_help = "\
Examples:
  littoral new my-app && cd my-app && littoral dev .
  littoral new my-app --lang python")]
    New(NewArgs),
    /// Run a whole continuum on this machine, with an app deployed on it.
    ///
    /// Starts a process per node of the manifest's topology, with shaped links between them, deploys the app, and
    /// stops everything at the end.
    #[command(after_long_help = "\
Examples:
  littoral dev my-app
  littoral dev examples/machine-health --once --sensors 100 --fault kill:edge-1@50%")]
    Dev(DevArgs),
    /// Make a fabric: its root of trust, a first node, and a token with which another node may join.
    #[command(after_long_help = "\
Example:
  littoral init --data /var/lib/littoral --advertise cloud.example.org:7447
  littoral node --data /var/lib/littoral")]
    Init(InitArgs),
    /// Run a node until it is told to stop (SIGTERM, SIGINT).
    ///
    /// The first start joins a fabric with a token; every later one needs only the data directory, and no network.
    #[command(after_long_help = "\
Examples:
  littoral node --tier edge --site hall-7 --join \"$TOKEN\" --data /var/lib/littoral
  littoral node --data /var/lib/littoral")]
    Node(NodeArgs),
    /// Manage tokens with which nodes join.
    #[command(subcommand, after_long_help = "Example:\n  littoral token create --ttl 10min")]
    Token(TokenCommand),
    /// Build the functions of an app, as its manifest says.
    #[command(after_long_help = "Example:\n  littoral build my-app")]
    Build(BuildArgs),
    /// Deploy an app and wait until it is healthy.
    #[command(after_long_help = "\
Examples:
  littoral deploy my-app
  littoral deploy my-app --dry-run        what would run where, and nothing else")]
    Deploy(DeployArgs),
    /// Push components to an OCI registry, and print the references to name in a manifest.
    #[command(after_long_help = "\
Examples:
  littoral push target/score.wasm ghcr.io/acme/score:1.2
  littoral push my-app ghcr.io/acme/my-app      each function, as ghcr.io/acme/my-app/FUNCTION:VERSION")]
    Push(PushArgs),
    /// Fetch a component or an image from an OCI registry, verify it, and print its reference with the digest.
    #[command(after_long_help = "\
Examples:
  littoral pull ghcr.io/acme/score:1.2                    the digest that the tag has now
  littoral pull ghcr.io/acme/score:1.2 -o score.wasm")]
    Pull(PullArgs),
    /// Show where everything of an app would run, why, and what would violate its objectives.
    #[command(after_long_help = "Example:\n  littoral plan my-app")]
    Plan(PlanArgs),
    /// Show nodes, sites, apps, functions, flows, streams, sources or sinks.
    #[command(after_long_help = "\
Examples:
  littoral get nodes
  littoral get flows my-app/health -o wide --watch
  littoral get streams -o json")]
    Get(GetArgs),
    /// Call a function, wherever it runs.
    ///
    /// With --async it is accepted and made later, as often as it takes; see also `littoral queue`.
    #[command(after_long_help = "\
Examples:
  littoral call my-app/score --data @record.json
  littoral call my-app/report --data @month.json --async --key 2026-11
  littoral call --result default.my-app.report.cloud.0.01JD3ZK9M8Q5W2X7Y4V6T1R0PA --wait 10min")]
    Call(CallArgs),
    /// Show asynchronous invocations, run dead letters once more, forget them.
    #[command(
        subcommand,
        after_long_help = "\
Examples:
  littoral queue ls my-app --state dead
  littoral queue retry --dead my-app/report"
    )]
    Queue(QueueCommand),
    /// Publish to streams and read them.
    #[command(
        subcommand,
        after_long_help = "\
Examples:
  littoral stream publish my-app/readings --file readings.csv
  littoral stream tail -f my-app/alerts"
    )]
    Stream(StreamCommand),
    /// Show what flows come to.
    #[command(
        subcommand,
        after_long_help = "\
Examples:
  littoral flow explain
  littoral flow explain ./my-app alerts -o json"
    )]
    Flow(FlowCommand),
    /// Show operators that apps share, and what each may be told.
    ///
    /// An app names one as a function's component, `library:anomaly@1`. They are looked for in the folders that LITTORAL_LIBRARY names,
    /// in a folder `library` in the app's folder or above it, in the user's own (`~/.config/littoral/library`), and in the one that
    /// was installed with this program.
    #[command(
        subcommand,
        after_long_help = "\
Examples:
  littoral library ls
  littoral library show anomaly@1"
    )]
    Library(LibraryCommand),
    /// Show what an app's functions log; without an app, what the system does.
    #[command(after_long_help = "Example:\n  littoral logs -f my-app")]
    Logs(LogsArgs),
    /// Show what happened: objectives violated and restored, what was done about it and why.
    ///
    /// Where a flow with an objective ends, its node watches how long records take. Each event has the measurement that caused
    /// it. Nodes keep their last thousand events.
    #[command(after_long_help = "\
Examples:
  littoral events --since 1h
  littoral events --app my-app -o json")]
    Events(EventsArgs),
    /// Show what functions have used: CPU time, memory times time, bytes and calls, beside what the nodes themselves used.
    ///
    /// Each node measures and keeps this, a record a minute; what was used since the last record is shown, too. A function's
    /// bytes are those of the bodies of requests and responses, or of the rows that a stage took and put out.
    #[command(after_long_help = "\
Examples:
  littoral usage --since 1h
  littoral usage --since 7d --app my-app -o json
  littoral usage --verify                 check that no record was altered")]
    Usage(UsageArgs),
    /// Serve one wasi:http component or run one wasi:cli command, without a manifest and without a fabric.
    ///
    /// Components of WASI 0.2 and 0.3 and command modules of preview 1 run. A server prints a line with its address on
    /// standard error once it listens; a command has this one's standard input and output, and its exit status is this
    /// one's. Both reach nothing outside themselves but what is allowed here.
    #[command(after_long_help = "\
Examples:
  littoral run handler.wasm --addr 127.0.0.1:8080 --env GREETING=hello
  littoral run --dir ./data::/data:ro tool.wasm --verbose /data/input.csv")]
    Run(RunArgs),
    /// Put another component in the place of a function's, while its flows run.
    ///
    /// It is fetched and compiled first, while the one before goes on; then each stage goes on with its state, from the record
    /// after the last one committed. Shows for how long each paused. The app's files are as they were: deploy them with the
    /// component there, or they take this back.
    #[command(after_long_help = "\
Examples:
  littoral swap machine-health/score target/wasm32-wasip2/release/score.wasm
  littoral swap machine-health/score score-low.wasm -o json
  littoral swap machine-health/score --variant coarse")]
    Swap(SwapArgs),
    /// Move the stages of a flow, or the partitions of a stream, to another node of their site.
    ///
    /// A node that has no copy of their state gets one first, while they go on. Shows for how long each paused. They stay there
    /// until something else is asked for, the node is lost, or an objective is violated.
    #[command(after_long_help = "\
Examples:
  littoral move machine-health/alerts --to edge-2
  littoral move machine-health/scores --stream --partition 1 --to edge-2")]
    Move(MoveArgs),
    /// End an app and forget its streams.
    #[command(after_long_help = "Example:\n  littoral delete my-app")]
    Delete(DeleteArgs),
    /// Show which edit of an app holds, and which lost to it while parts of the fabric were cut off from one another.
    #[command(after_long_help = "Example:\n  littoral history my-app")]
    History(HistoryArgs),
    /// Deploy an edit that lost once more, after the one that holds.
    #[command(after_long_help = "Example:\n  littoral reapply my-app 3f2a91")]
    Reapply(ReapplyArgs),
    /// Manage contexts: named nodes to administer, here or far away.
    #[command(
        subcommand,
        after_long_help = "\
Examples:
  littoral context add plant --address edge-1.example.org:7449 --credentials ~/plant-admin
  littoral context use plant"
    )]
    Context(ContextCommand),
    /// Compile the component on standard input to standard output; the node calls this.
    #[command(hide = true)]
    CompileComponent {
        /// How; as the runtime says it.
        recipe: Vec<String>,
    },
    /// Be one of the processes beside containers; the node calls this.
    #[command(hide = true)]
    ContainerProcess {
        /// Which.
        role: String,
        /// The folder of all containers, or of the one.
        folder: PathBuf,
    },
    /// Print the JSON Schema of `littoral.toml`, for editors.
    #[command(after_long_help = "Example:\n  littoral schema > littoral.schema.json")]
    Schema,
    /// Print the completion script of a shell.
    #[command(
        after_long_help = "Example:\n  littoral completion bash > ~/.local/share/bash-completion/completions/littoral"
    )]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table for people.
    #[default]
    Table,
    /// A table with everything there is.
    Wide,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// `littoral new`.
#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Where to make it; the last part becomes the app's name.
    pub(crate) path: PathBuf,
    /// The app's name, if it is not that of the folder.
    #[arg(long)]
    pub(crate) name: Option<AppName>,
    /// The language of its functions.
    #[arg(long, value_name = "LANGUAGE", value_enum, default_value_t)]
    pub(crate) lang: Language,
}

/// A language that there is a template for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    /// An HTTP function and a flow, in Rust.
    #[default]
    Rust,
    /// An HTTP function in Python.
    Python,
    /// An HTTP function in JavaScript.
    Js,
    /// An HTTP function in C.
    C,
}

/// `littoral dev`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DevArgs {
    /// The app's folder, or its manifest.
    #[arg(default_value = ".")]
    pub(crate) app: PathBuf,
    /// Replay the example's input once, check the result, stop, and say by the exit status whether all held.
    #[arg(long)]
    pub(crate) once: bool,
    /// How many sensors replay the input.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) sensors: Option<u32>,
    /// Strike a node while records flow: `kill:NODE@50%`, `pause:NODE@50%+20s`, `wipe:NODE@50%`,
    /// `cut:SITE@30%..70%` or `slow:NODE@20%..80%`; percentages are of the records published.
    #[arg(long, value_name = "FAULT")]
    pub(crate) fault: Vec<String>,
    /// Run the demonstration: paced first, then at full speed, then a report.
    #[arg(long)]
    pub(crate) demo: bool,
    /// Records a second, over all sensors.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: Option<u64>,
    /// How long the paced replay takes at least, for instance `60s`.
    #[arg(long, value_name = "TIME")]
    pub(crate) duration: Option<String>,
    /// The seed of everything that is drawn.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// A folder or device of this machine that functions may be granted, and sources and sinks use, on each node; may be given several
    /// times.
    #[arg(long, value_name = "PATH")]
    pub(crate) offer: Vec<PathBuf>,
    /// Keep the nodes' data directories.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Where inputs, outputs and the report go [default: a folder for temporary files].
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Write the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
}

/// `littoral init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The first node's data directory [default: /var/lib/littoral for root, else ~/.local/share/littoral].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The first node's name [default: this machine's].
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<NodeId>,
    /// The first node's tier.
    #[arg(long, default_value = "cloud")]
    pub(crate) tier: Tier,
    /// The first node's site.
    #[arg(long, default_value = "cloud")]
    pub(crate) site: SiteId,
    /// Where the first node listens for other nodes; may be given several times.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7447")]
    pub(crate) listen: Vec<SocketAddr>,
    /// Where the first node admits joining nodes.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:7448")]
    pub(crate) join_listen: SocketAddr,
    /// Where the first node serves HTTP.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) http: SocketAddr,
    /// An address, `host:port`, under which other nodes reach the first one; may be given several times. Needed
    /// where it listens on all interfaces or behind a translation of addresses.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Vec<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// What is done to another node.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeAction {
    /// Shut a node out of the fabric, for good: a machine that was stolen or taken over.
    ///
    /// Every node that hears of it refuses the node. It cannot be taken back: a machine that is to come back joins under another
    /// name.
    #[command(after_long_help = "Example:\n  littoral node revoke edge-3 --key ~/plant-admin")]
    Revoke(RevokeArgs),
}

/// `littoral node revoke`.
#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// The node.
    pub(crate) node: NodeId,
    /// The folder with the administrator's key [default: `admin` beside the node's socket, or the context's credentials].
    #[arg(long, value_name = "DIR", env = "LITTORAL_KEY")]
    pub(crate) key: Option<PathBuf>,
    /// Who you are, for those who see it [default: your user's name at this machine's].
    #[arg(long, value_name = "NAME", env = "LITTORAL_AUTHOR")]
    pub(crate) author: Option<String>,
}

/// `littoral node`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    pub(crate) action: Option<NodeAction>,
    /// The node's data directory [default: /var/lib/littoral for root, else ~/.local/share/littoral].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The token to join with; on the first start only. It is a secret: prefer the environment to the command line.
    #[arg(long, value_name = "TOKEN", env = "LITTORAL_JOIN", hide_env_values = true)]
    pub(crate) join: Option<String>,
    /// The node's name [default: as at the last start, or this machine's].
    #[arg(long)]
    pub(crate) name: Option<NodeId>,
    /// The node's tier [default: as at the last start]: device, edge, region or cloud.
    #[arg(long)]
    pub(crate) tier: Option<Tier>,
    /// The node's site [default: as at the last start].
    #[arg(long)]
    pub(crate) site: Option<SiteId>,
    /// A label for placement; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) label: Vec<(String, String)>,
    /// Where to listen for other nodes; may be given several times.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listen: Vec<SocketAddr>,
    /// A node to connect to, `host:port`; may be given several times.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) connect: Vec<String>,
    /// Where to serve HTTP: functions and routes of apps.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) http: Option<SocketAddr>,
    /// Where to listen for clients of MQTT; `mqtt.toml` in the data directory says who may connect.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) mqtt: Option<SocketAddr>,
    /// Where to serve the admin API to remote administrators, with mutual TLS.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) admin_listen: Option<SocketAddr>,
    /// Where to admit joining nodes; on a node of `littoral init` only.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) join_listen: Option<SocketAddr>,
    /// An address, `host:port`, under which others reach this node; may be given several times.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Vec<String>,
    /// A network whose clients are near to this node, as 192.0.2.0/24; may be given several times.
    #[arg(long, value_name = "CIDR")]
    pub(crate) clients: Vec<Network>,
    /// A folder or device of this machine that functions may be granted, and sources and sinks use; may be given several times.
    #[arg(long, value_name = "PATH")]
    pub(crate) offer: Vec<PathBuf>,
    /// A file that states the node's situation: region, position, accelerators, power, prices, failure domains. It is read
    /// anew when it changes [default: `situation.toml` in the data directory].
    #[arg(long, value_name = "FILE")]
    pub(crate) situation: Option<PathBuf>,
    /// How often what functions use is written down, at the most each second.
    #[arg(long, value_name = "TIME", default_value = "1min")]
    pub(crate) usage_period: String,
    /// What to log, as in `info` or `littoral_flow=debug,warn`.
    #[arg(
        long,
        value_name = "FILTER",
        env = "LITTORAL_LOG",
        default_value = "info,openraft=off,zenoh=warn,zenoh_link_tls=error"
    )]
    pub(crate) log: String,
    /// Log as JSON, one object a line.
    #[arg(long)]
    pub(crate) log_json: bool,
    /// Stop when standard input is closed: a node that another program starts ends with it, however that one ends.
    #[arg(long)]
    pub(crate) stop_on_stdin_close: bool,
}

/// `littoral token`.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Grant a token and print it.
    #[command(after_long_help = "Example:\n  littoral token create --ttl 10min")]
    Create {
        /// How long it is good for.
        #[arg(long, default_value = "1h", value_name = "TIME")]
        ttl: String,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

/// `littoral build`.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// The app's folder, or its manifest.
    #[arg(default_value = ".")]
    pub(crate) app: PathBuf,
}

/// `littoral deploy`.
#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    /// The app's folder, or its manifest.
    #[arg(default_value = ".")]
    pub(crate) app: PathBuf,
    /// Do not build; deploy the components that are there.
    #[arg(long)]
    pub(crate) no_build: bool,
    /// Do not wait until the app is healthy.
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Only show what would run where, and whether it would be refused.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Deploy only if the app has this generation now; 0 if it must not exist. Without this the last to deploy wins.
    #[arg(long, value_name = "GENERATION")]
    pub(crate) if_generation: Option<u64>,
    #[command(flatten)]
    pub(crate) sign: SignArgs,
    /// Ask registries without TLS, and so without knowing who answers; never needed for one on this machine.
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// How long to wait.
    #[arg(long, default_value = "2min", value_name = "TIME")]
    pub(crate) timeout: String,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `littoral push`.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// A component's file, or an app's folder or manifest.
    #[arg(value_name = "FILE|APP")]
    pub(crate) what: PathBuf,
    /// Where to, as `ghcr.io/acme/score:1.2`. Of an app, what the repositories of its functions begin with. The tag is
    /// `latest`, or the app's version, if none is given.
    pub(crate) reference: String,
    /// Do not build an app; push the components that are there.
    #[arg(long)]
    pub(crate) no_build: bool,
    /// Do without TLS, and so without knowing who answers; never needed for a registry on this machine.
    #[arg(long)]
    pub(crate) plain_http: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `littoral pull`.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Which component or image, as `ghcr.io/acme/score:1.2`, or with `@sha256:DIGEST` instead of the tag.
    pub(crate) reference: String,
    /// Where to write it, an image as an archive of its layout; without this it is verified and not kept.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Do without TLS, and so without knowing who answers; never needed for a registry on this machine.
    #[arg(long)]
    pub(crate) plain_http: bool,
}

/// `littoral plan`.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    /// The app's folder, or its manifest.
    #[arg(default_value = ".")]
    pub(crate) app: PathBuf,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// What `littoral get` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// The nodes of the fabric.
    #[value(alias = "node")]
    Nodes,
    /// The sites, with who decides there.
    #[value(alias = "site")]
    Sites,
    /// The apps.
    #[value(alias = "app")]
    Apps,
    /// The functions of all apps.
    #[value(alias = "function")]
    Functions,
    /// The flows of all apps, stage by stage.
    #[value(alias = "flow")]
    Flows,
    /// The streams of all apps.
    #[value(alias = "stream")]
    Streams,
    /// The sources of all apps, and how they fare.
    #[value(alias = "source")]
    Sources,
    /// The sinks of all apps, and how they fare.
    #[value(alias = "sink")]
    Sinks,
}

/// `littoral get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// What to show.
    #[arg(value_enum)]
    pub(crate) kind: Kind,
    /// Only this one: a name, an app's name, or APP/NAME.
    pub(crate) name: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
    /// Show it again whenever it changes, until interrupted.
    #[arg(short, long)]
    pub(crate) watch: bool,
}

/// `littoral call`.
#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    /// The function, APP/FUNCTION.
    #[arg(value_name = "APP/FUNCTION", required_unless_present = "result")]
    pub(crate) function: Option<AppPath>,
    /// Have it accepted and made later; print its id. The function needs an `async` table in the manifest.
    #[arg(long = "async")]
    pub(crate) later: bool,
    /// With --async: the same key is the same call, for as long as its result is kept.
    #[arg(long, value_name = "KEY", requires = "later")]
    pub(crate) key: Option<String>,
    /// Wait for the end of an asynchronous call, and print the function's answer.
    #[arg(long, value_name = "ID", conflicts_with_all = ["function", "later", "data", "method", "header"])]
    pub(crate) result: Option<InvocationName>,
    /// How long to wait for that at most.
    #[arg(long, value_name = "TIME", default_value = "1min")]
    pub(crate) wait: String,
    /// The body: text, `@FILE`, or `@-` for standard input.
    #[arg(short, long, value_name = "DATA")]
    pub(crate) data: Option<String>,
    /// The HTTP method [default: POST with data, else GET].
    #[arg(short = 'X', long)]
    pub(crate) method: Option<String>,
    /// The path and query.
    #[arg(long, default_value = "/")]
    pub(crate) path: String,
    /// A header, `name: value`; may be given several times.
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) header: Vec<(String, String)>,
    /// Print the status and the headers before the body.
    #[arg(short, long)]
    pub(crate) include: bool,
}

/// `littoral queue`.
#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List asynchronous invocations: those that wait, dead letters, and those whose results are kept.
    #[command(after_long_help = "\
Examples:
  littoral queue ls my-app --state dead
  littoral queue ls my-app/report -o json")]
    Ls(QueueListArgs),
    /// Show one.
    #[command(
        after_long_help = "Example:\n  littoral queue show default.my-app.report.cloud.0.01JD3ZK9M8Q5W2X7Y4V6T1R0PA"
    )]
    Show {
        /// Its id, as `littoral call --async` and `littoral queue ls` print it.
        id: InvocationName,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Run dead letters once more, with all their tries before them.
    #[command(after_long_help = "\
Examples:
  littoral queue retry default.my-app.report.cloud.0.01JD3ZK9M8Q5W2X7Y4V6T1R0PA
  littoral queue retry --dead my-app/report")]
    Retry(ChosenInvocations),
    /// Forget invocations: what waits is not run any more, results and keys are not known any more.
    #[command(after_long_help = "\
Examples:
  littoral queue drop default.my-app.report.cloud.0.01JD3ZK9M8Q5W2X7Y4V6T1R0PA
  littoral queue drop --dead my-app")]
    Drop(ChosenInvocations),
}

/// `littoral queue ls`.
#[derive(Debug, Args)]
pub(crate) struct QueueListArgs {
    /// Of this app, or of one function of it: APP or APP/FUNCTION [default: of all].
    #[arg(value_name = "APP[/FUNCTION]", value_parser = app_or_function)]
    pub(crate) of: Option<String>,
    /// Those that stand so.
    #[arg(long, value_enum)]
    pub(crate) state: Option<StateFilter>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// Where an invocation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum StateFilter {
    /// It is to be run, or runs.
    Waiting,
    /// The function has answered.
    Done,
    /// It was given up.
    Dead,
}

/// `littoral queue retry` and `littoral queue drop`.
#[derive(Debug, Args)]
pub(crate) struct ChosenInvocations {
    /// The invocations.
    #[arg(value_name = "ID", required_unless_present = "dead", conflicts_with = "dead")]
    pub(crate) ids: Vec<InvocationName>,
    /// All dead letters of this app, or of one function of it.
    #[arg(long, value_name = "APP[/FUNCTION]", value_parser = app_or_function)]
    pub(crate) dead: Option<String>,
}

/// `littoral library`.
#[derive(Debug, Subcommand)]
pub(crate) enum LibraryCommand {
    /// List operators.
    #[command(after_long_help = "Examples:\n  littoral library ls\n  littoral library ls nearest -o json")]
    Ls {
        /// Only those in whose name or description each of these words is.
        words: Vec<String>,
        /// The app's folder, beside and above which libraries are looked for.
        #[arg(long, default_value = ".", value_name = "FOLDER")]
        app: PathBuf,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Show what an operator takes, puts out and may be told.
    #[command(after_long_help = "Example:\n  littoral library show anomaly@1")]
    Show {
        /// Its name, with what its version begins with (`anomaly@1`) or without: then it is the newest.
        operator: String,
        /// The app's folder, beside and above which libraries are looked for.
        #[arg(long, default_value = ".", value_name = "FOLDER")]
        app: PathBuf,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
}

/// `littoral flow`.
#[derive(Debug, Subcommand)]
pub(crate) enum FlowCommand {
    /// Print the graph of an app's flows, their stages, where they would run, what is predicted and what is measured.
    ///
    /// A flow that is deployed is shown with what its stages took in, put out and rejected.
    #[command(after_long_help = "\
Examples:
  littoral flow explain
  littoral flow explain ./my-app alerts -o json
  littoral flow explain --svg flows.svg")]
    Explain(ExplainArgs),
}

/// `littoral flow explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The app's folder, or its manifest.
    #[arg(default_value = ".")]
    pub(crate) app: PathBuf,
    /// One flow of it; all if left out.
    pub(crate) flow: Option<String>,
    /// Also draw them into this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `littoral stream`.
#[derive(Debug, Subcommand)]
pub(crate) enum StreamCommand {
    /// Append records to a stream: of a file, of --value, or of standard input, one a line.
    #[command(after_long_help = "\
Examples:
  littoral stream publish my-app/readings --value '21.5' --key hall-7
  littoral stream publish my-app/readings --file readings.csv
  sensor | littoral stream publish my-app/readings")]
    Publish(PublishArgs),
    /// Print a stream's records as JSON, one a line.
    #[command(after_long_help = "\
Examples:
  littoral stream tail my-app/alerts --last 10
  littoral stream tail -f my-app/readings --from end")]
    Tail(TailArgs),
}

/// `littoral stream publish`.
#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    /// The stream, APP/STREAM.
    #[arg(value_name = "APP/STREAM")]
    pub(crate) stream: AppPath,
    /// A record; may be given several times.
    #[arg(long, conflicts_with = "file", allow_hyphen_values = true)]
    pub(crate) value: Vec<String>,
    /// A file of records, one a line.
    #[arg(long)]
    pub(crate) file: Option<PathBuf>,
    /// The records' key: records with the same key keep their order.
    #[arg(long, conflicts_with = "ndjson")]
    pub(crate) key: Option<String>,
    /// Each line is a JSON object with `value` and, if wanted, `key` and `time_us`.
    #[arg(long)]
    pub(crate) ndjson: bool,
}

/// Where `littoral stream tail` begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum From {
    /// With the oldest record that is held.
    Start,
    /// With the next record that arrives.
    End,
}

/// `littoral stream tail`.
#[derive(Debug, Args)]
pub(crate) struct TailArgs {
    /// The stream, APP/STREAM.
    #[arg(value_name = "APP/STREAM")]
    pub(crate) stream: AppPath,
    /// Where to begin [default: end with --follow, else start].
    #[arg(long, value_enum, conflicts_with = "last")]
    pub(crate) from: Option<From>,
    /// Begin with the last N records of each partition.
    #[arg(long, value_name = "N")]
    pub(crate) last: Option<u64>,
    /// Go on with the records to come.
    #[arg(short, long)]
    pub(crate) follow: bool,
}

/// `littoral logs`.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// The app; the system's own lines if none.
    pub(crate) app: Option<AppName>,
    /// Go on with the lines to come.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many past lines.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) last: u32,
    /// How to print: a line each, or JSON.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `littoral events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// How far to look back.
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub(crate) since: String,
    /// Only events of this app.
    #[arg(long, value_name = "APP")]
    pub(crate) app: Option<AppName>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `littoral usage`.
#[derive(Debug, Args)]
pub(crate) struct UsageArgs {
    /// How far to look back; whole records are counted.
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub(crate) since: String,
    /// Only functions of this app.
    #[arg(long, value_name = "APP", conflicts_with = "verify")]
    pub(crate) app: Option<AppName>,
    /// Only what this live node has.
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<NodeId>,
    /// Check instead that all records that are kept follow one another and none was altered; fails if one was.
    #[arg(long, conflicts_with = "since")]
    pub(crate) verify: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `littoral run`.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The component, or a module of WASI preview 1.
    pub(crate) component: PathBuf,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) addr: SocketAddr,
    /// A variable of the component's environment; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) env: Vec<(String, String)>,
    /// A host that it may send HTTP requests to, as `api.example.com:443` or `10.0.0.0/8`; may be given several times.
    #[arg(long, value_name = "HOST")]
    pub(crate) allow_http: Vec<Peer>,
    /// A host that its sockets may talk to or listen at; may be given several times.
    #[arg(long, value_name = "HOST")]
    pub(crate) allow_socket: Vec<Peer>,
    /// A folder that it sees, and where it sees it if elsewhere; may be given several times.
    #[arg(long, value_name = "PATH[::SEEN_AT][:ro]", value_parser = directory)]
    pub(crate) dir: Vec<Directory>,
    /// A device that it may open, as a serial line; may be given several times.
    #[arg(long, value_name = "PATH", value_parser = device)]
    pub(crate) device: Vec<Device>,
    /// The memory that one invocation may use.
    #[arg(long, default_value = "128MiB", value_name = "SIZE")]
    pub(crate) memory: String,
    /// How long one invocation may take [default: 30s for requests, as long as it takes for a command].
    #[arg(long, value_name = "TIME")]
    pub(crate) timeout: Option<String>,
    /// How much CPU time one invocation may use [default: as much as it has time for].
    #[arg(long, value_name = "TIME")]
    pub(crate) cpu: Option<String>,
    /// How many requests are answered at once; more are answered with 503.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) concurrency: u32,
    /// The longest body of a request, at most 8MiB; longer ones are answered with 413.
    #[arg(long, default_value = "8MiB", value_name = "SIZE")]
    pub(crate) max_request: String,
    /// The longest body of a response; a longer one breaks off.
    #[arg(long, default_value = "64MiB", value_name = "SIZE")]
    pub(crate) max_response: String,
    /// How many lines a second it may log for ever, after a burst of ten seconds' worth.
    #[arg(long, value_name = "LINES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) log_rate: u32,
    /// A command's arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) arguments: Vec<String>,
}

/// `littoral swap`.
#[derive(Debug, Args)]
pub(crate) struct SwapArgs {
    /// The function, as APP/FUNCTION.
    pub(crate) of: AppPath,
    /// The file of the component.
    #[arg(value_name = "COMPONENT", required_unless_present = "variant", conflicts_with = "variant")]
    pub(crate) component: Option<PathBuf>,
    /// Which of the function's variants is to run from now on; its own component by the name of the function.
    #[arg(long, value_name = "VARIANT")]
    pub(crate) variant: Option<FunctionName>,
    /// How long to wait until all stages run it.
    #[arg(long, default_value = "2min", value_name = "TIME")]
    pub(crate) timeout: String,
    #[command(flatten)]
    pub(crate) sign: SignArgs,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `littoral move`.
#[derive(Debug, Args)]
pub(crate) struct MoveArgs {
    /// The flow, or with --stream the stream, as APP/NAME.
    pub(crate) of: AppPath,
    /// Which node is to have it.
    #[arg(long, value_name = "NODE")]
    pub(crate) to: NodeId,
    /// It is a stream.
    #[arg(long)]
    pub(crate) stream: bool,
    /// This partition only.
    #[arg(long, value_name = "NUMBER")]
    pub(crate) partition: Option<u32>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `littoral delete`.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The app.
    pub(crate) app: AppName,
    #[command(flatten)]
    pub(crate) sign: SignArgs,
}

/// How edits are signed.
#[derive(Debug, Default, Args)]
pub(crate) struct SignArgs {
    /// The folder with the tenant's key, with which what is deployed or deleted is signed [default: `admin` beside the
    /// node's socket, or the context's credentials].
    #[arg(long, value_name = "DIR", env = "LITTORAL_KEY")]
    pub(crate) key: Option<PathBuf>,
    /// Who you are, for those who see the edit [default: your user's name at this machine's].
    #[arg(long, value_name = "NAME", env = "LITTORAL_AUTHOR")]
    pub(crate) author: Option<String>,
}

/// `littoral history`.
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The app; one that was deleted has a history, too.
    pub(crate) app: AppName,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// `littoral reapply`.
#[derive(Debug, Args)]
pub(crate) struct ReapplyArgs {
    /// The app.
    pub(crate) app: AppName,
    /// The first digits of the edit's id; not needed where only one lost.
    pub(crate) edit: Option<String>,
    #[command(flatten)]
    pub(crate) sign: SignArgs,
}

/// `littoral context`.
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    /// Name a node to administer: one on this machine by its socket, or a remote one by address and credentials.
    #[command(after_long_help = "\
Examples:
  littoral context add here --unix /var/lib/littoral/admin.sock
  littoral context add plant --address edge-1.example.org:7449 --credentials ~/plant-admin")]
    Add {
        /// The context's name.
        name: String,
        /// The node's Unix socket.
        #[arg(long, value_name = "PATH", conflicts_with = "address", required_unless_present = "address")]
        unix: Option<PathBuf>,
        /// The node's admin address, `host:port`.
        #[arg(long, value_name = "HOST:PORT", requires = "credentials")]
        address: Option<String>,
        /// The folder with the administrator's credentials, as `littoral init` wrote it.
        #[arg(long, value_name = "DIR", requires = "address")]
        credentials: Option<PathBuf>,
        /// The node's name, where the address does not tell which node it is (its certificate has its name and addresses).
        #[arg(long, value_name = "NAME", requires = "address")]
        node: Option<NodeId>,
    },
    /// Use a context from now on.
    #[command(after_long_help = "Example:\n  littoral context use plant")]
    Use {
        /// The context's name.
        name: String,
    },
    /// Show the contexts.
    #[command(after_long_help = "Example:\n  littoral context list -o yaml")]
    List {
        /// How to print.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Forget a context.
    #[command(after_long_help = "Example:\n  littoral context remove plant")]
    Remove {
        /// The context's name.
        name: String,
    },
}

/// Something of an app: `APP/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AppPath {
    /// The app.
    pub(crate) app: AppName,
    /// What of it.
    pub(crate) name: String,
}

impl std::str::FromStr for AppPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (app, name) = text.split_once('/').ok_or("give it as APP/NAME, for instance my-app/readings")?;
        littoral_model::id::check_name(name).map_err(|error| error.to_string())?;
        let app = AppName::new(app).map_err(|error| error.to_string())?;
        Ok(Self { app, name: name.to_owned() })
    }
}

/// An app, or a function of it.
fn app_or_function(text: &str) -> Result<String, String> {
    for name in text.splitn(2, '/') {
        littoral_model::id::check_name(name).map_err(|error| error.to_string())?;
    }
    Ok(text.to_owned())
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("give it as KEY=VALUE".to_owned()),
    }
}

/// A folder as `PATH`, `PATH::SEEN_AT`, either with `:ro` after it if it may only be read.
fn directory(text: &str) -> Result<Directory, String> {
    let (text, writable) = text.strip_suffix(":ro").map_or((text, true), |text| (text, false));
    let (path, seen_at) = text.split_once("::").unwrap_or((text, text));
    if path.is_empty() || seen_at.is_empty() {
        return Err("give it as PATH or PATH::SEEN_AT".to_owned());
    }
    Ok(Directory { path: path.into(), seen_at: seen_at.to_owned(), writable })
}

/// A device by its path.
fn device(text: &str) -> Result<Device, String> {
    let path = text.to_owned();
    let open = move || {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&path, flags, Mode::empty())?)
    };
    Ok(Device { path: text.to_owned(), open: std::sync::Arc::new(open) })
}

fn header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        _ => Err("give it as `name: value`".to_owned()),
    }
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
