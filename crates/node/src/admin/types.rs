//! The shapes of what the admin API shows: nodes, apps, functions, flows, streams, plans.
//!
//! JSON with `snake_case` names. Names of nodes, apps and the like are text here: they are for showing, and a client
//! of another version must be able to show what it does not know. Fields may be added; none is removed or changes its
//! meaning within `/v1`. What is sent to and fro is in [`exchange`](super::exchange), errors in
//! [`error`](super::error); both are re-exported here.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::error::{AdminError, AdminErrorKind, FindingReport};
pub use super::exchange::{
    AppBundle, AppEdit, AppEnd, AppHistory, Base64Bytes, BundleSignature, CallRequest, CallResponse, LogLine,
    LogStream, MoveReport, MoveRequest, MovedWork, PublishRecord, Published, Readiness, Revocation, StoredArtifact,
    TOKEN_TTL_SECONDS_DEFAULT, TailRow, TokenGrant, TokenRequest,
};

/// A node, as the asked node knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// Its name.
    pub id: String,
    /// Its tier.
    pub tier: String,
    /// Its site.
    pub site: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it says of its situation, a text for each thing.
    #[serde(default)]
    pub situation: Vec<String>,
    /// The version of its program.
    pub version: String,
    /// Whether it is there.
    pub state: NodeState,
    /// How many units of work it owns.
    pub works: u32,
    /// The functions it serves, `app/function`.
    pub functions: Vec<String>,
    /// Where its HTTP ingress listens, `host:port`.
    pub http: Option<String>,
    /// What it has measured of its links.
    pub links: Vec<LinkStatus>,
    /// Whether it was shut out of the fabric.
    #[serde(default)]
    pub revoked: bool,
    /// How it is.
    #[serde(default)]
    pub condition: ConditionStatus,
}

/// How a node is, as it was told last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConditionStatus {
    /// The share of its CPU time that was busy, in percent.
    pub busy_percent: f64,
    /// How many threads were ready to run and had no core.
    pub run_queue: u16,
    /// Memory that is free for new work, in bytes.
    pub memory_free_bytes: u64,
    /// How many times as long its work takes as it would alone on the machine.
    pub slowdown: f64,
    /// How the functions fare that it serves.
    pub served: Vec<ServedStatus>,
}

/// How a function fares on a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ServedStatus {
    /// `tenant/app/function`.
    pub function: String,
    /// Half of its calls took no longer than this, in milliseconds.
    pub p50_ms: f64,
    /// 95 of 100 took no longer than this.
    pub p95_ms: f64,
    /// How many calls that rests on.
    pub samples: u32,
    /// How many calls it had at once.
    pub queue: u32,
}

/// Whether a node is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It is reachable.
    Alive,
    /// It said that it is stopping.
    Stopping,
    /// It was a member and does not answer any more.
    Lost,
}

/// One measured link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LinkStatus {
    /// The node at the other end.
    pub peer: String,
    /// The smoothed round-trip time, in milliseconds.
    pub rtt_ms: f64,
    /// The highest rate seen of late, in bits per second.
    pub bandwidth_bps: Option<u64>,
}

/// A site, and who decides there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SiteStatus {
    /// Its name.
    pub name: String,
    /// Its nodes that are alive.
    pub nodes: Vec<String>,
    /// Who leads its keeper group; nobody, or nobody who is reached.
    pub leader: Option<String>,
    /// Who votes in the group. One of another site is lent by it.
    pub voters: Vec<VoterStatus>,
    /// Whether a majority of the voters is alive: without it nothing gets a new owner here.
    pub decides: bool,
    /// Whether its voters are agreed on: while they are being replaced, one more of them may be needed.
    pub settled: bool,
    /// Why it stands as it does, if not well.
    pub reasons: Vec<String>,
}

/// A voter of a site's keeper group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VoterStatus {
    /// The node.
    pub node: String,
    /// Whether it is alive, as the asked node sees it.
    pub alive: bool,
}

/// How an app or a flow fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Everything runs where it should.
    Healthy,
    /// Parts are still being loaded or placed.
    Starting,
    /// It works, but a part is missing, unreachable or outside its objective.
    Degraded,
    /// It cannot run: a hard constraint cannot be met, or an artefact does not load.
    Refused,
    /// It is being removed.
    Deleting,
}

/// An app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AppStatus {
    /// Its name.
    pub name: String,
    /// Its version, from the manifest.
    pub version: String,
    /// What it is for, from the manifest.
    pub description: Option<String>,
    /// The digest of its bundle.
    pub digest: String,
    /// How it fares.
    pub state: Health,
    /// Why it is not healthy; one sentence each.
    pub reasons: Vec<String>,
    /// Its functions' names.
    pub functions: Vec<String>,
    /// Its flows' names.
    pub flows: Vec<String>,
    /// Its streams' names.
    pub streams: Vec<String>,
    /// Its HTTP routes, as in the manifest.
    pub routes: Vec<String>,
    /// How often it was edited up to what holds now.
    #[serde(default)]
    pub generation: u64,
    /// Who made the edit that holds.
    #[serde(default)]
    pub author: String,
    /// What people should know though it is no fault: edits that lost; one sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Quantiles of a time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quantiles {
    /// How many were measured.
    pub count: u64,
    /// The median.
    pub p50_ms: f64,
    /// 95 of 100 are below.
    pub p95_ms: f64,
    /// 99 of 100 are below.
    pub p99_ms: f64,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FunctionStatus {
    /// Its app.
    pub app: String,
    /// Its name.
    pub name: String,
    /// The nodes that serve it.
    pub nodes: Vec<String>,
    /// How often it was called; for a stage, how many rows it processed.
    pub invocations: u64,
    /// How many of these failed; for a stage, how many rows it rejected.
    pub errors: u64,
    /// How long an invocation takes, for a stage a batch; of the slowest of its instances.
    pub latency: Quantiles,
    /// The objective for the 95th percentile, in milliseconds, if the function has one.
    pub slo_p95_ms: Option<f64>,
    /// Whether the objective is met; none without one or before anything was measured.
    pub slo_met: Option<bool>,
    /// What the last failure said.
    pub last_error: Option<String>,
    /// Its instances node by node, where they come and go; where a component simply stays loaded, nothing.
    #[serde(default)]
    pub instances: Vec<InstancesStatus>,
    /// Which variant answers on each node, and why, of one that is a component and a container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<VariantStatus>,
    /// Its priority where a node is saturated: `low`, `normal` or `high`.
    #[serde(default)]
    pub priority: String,
    /// The nodes that hold it still for others of higher priority, each with the reason.
    #[serde(default)]
    pub held: Vec<String>,
}

/// Which variant of a function answers on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VariantStatus {
    /// The node.
    pub node: String,
    /// `component` or `container`.
    pub variant: String,
    /// Why.
    pub reason: String,
}

/// The instances of a function on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct InstancesStatus {
    /// The node.
    pub node: String,
    /// How many take requests.
    pub ready: u32,
    /// How many are being started.
    pub starting: u32,
    /// How many there are to be.
    pub wanted: u32,
    /// Why so many.
    pub reason: String,
    /// How many requests found none, and waited until one was started.
    pub cold: u64,
    /// Why the version that is deployed does not answer, but the one before it; nothing if it does.
    pub refused: Option<String>,
}

/// A flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowStatus {
    /// Its app.
    pub app: String,
    /// Its name.
    pub name: String,
    /// How it fares.
    pub state: Health,
    /// Why it is not healthy; one sentence each.
    pub reasons: Vec<String>,
    /// Its stages, partition by partition.
    pub stages: Vec<StageStatus>,
    /// What arrives at its sinks, and how late.
    pub sinks: Vec<SinkStatus>,
}

/// One partition's run of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StageStatus {
    /// The stage: the flow's name, a dot, its position.
    pub name: String,
    /// The functions fused in it, in order.
    pub functions: Vec<String>,
    /// The partition.
    pub partition: u32,
    /// The site whose keeper assigns it.
    pub site: String,
    /// The node that runs it; none while it has no owner.
    pub owner: Option<String>,
    /// The owner's epoch.
    pub epoch: u64,
    /// The nodes that hold all that it committed.
    pub in_sync: Vec<String>,
    /// Rows taken in.
    pub rows_in: u64,
    /// The bytes of those, as they are encoded.
    #[serde(default)]
    pub bytes_in: u64,
    /// Rows put out.
    pub rows_out: u64,
    /// Those of them that go on to the flow's next stage or its sink.
    #[serde(default)]
    pub rows_on: u64,
    /// The bytes of those, as they are encoded.
    #[serde(default)]
    pub bytes_on: u64,
    /// Rows rejected to the dead-letter stream.
    pub rows_rejected: u64,
    /// Rows passed over since they were too old for the objective, since it runs on that node.
    #[serde(default)]
    pub rows_shed: u64,
    /// When it committed its first rows since it was started there, microseconds since 1970.
    pub first_commit_us: Option<i64>,
    /// When it last committed rows, microseconds since 1970.
    pub last_commit_us: Option<i64>,
    /// How long its functions take for a batch, counted for each row.
    pub latency: Quantiles,
    /// What takes rows there, if something does.
    #[serde(default)]
    pub runs: Option<RunStatus>,
    /// Why it is placed there; one sentence each.
    pub reasons: Vec<String>,
}

/// What of a stage takes rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunStatus {
    /// The digests of its functions' artefacts, in order.
    pub artifacts: Vec<String>,
    /// Which variant runs of each function that has some, or is called and has some; the function's own component by its name.
    #[serde(default)]
    pub variants: BTreeMap<String, String>,
    /// From when what ran there before was stopped until it took rows, in milliseconds; nothing if nothing ran there.
    pub pause_ms: Option<f64>,
    /// The last change of the number of partitions by key that it is done with since it was started.
    #[serde(default)]
    pub rescaled: Option<RescaledStatus>,
    /// Of the first partition of a flow whose number of partitions by key is or was changed: how many there are, if no change is under way.
    #[serde(default)]
    pub partitions: Option<u32>,
}

/// A change of the number of partitions by key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RescaledStatus {
    /// Which change of the flow it is, from 1.
    pub generation: u32,
    /// How many there were.
    pub from: u32,
    /// How many there are.
    pub to: u32,
    /// From when all that spread rows had switched until the stage took rows again, in milliseconds; nothing if it has none any more, or
    /// was started anew since.
    pub pause_ms: Option<f64>,
}

/// What arrives at one sink of a flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SinkStatus {
    /// The sink: a stream or a function.
    pub name: String,
    /// Rows that arrived.
    pub rows: u64,
    /// The bytes of those, as they are encoded.
    #[serde(default)]
    pub bytes: u64,
    /// When the last rows arrived, microseconds since 1970.
    pub last_commit_us: Option<i64>,
    /// How old a record is when it is safe in the sink, since it was published at the source; of the slowest partition.
    pub latency: Quantiles,
    /// The objective for the 95th percentile, in milliseconds, if the flow has one.
    pub slo_p95_ms: Option<f64>,
    /// Whether the objective is met; none without one or before anything was measured.
    pub slo_met: Option<bool>,
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StreamStatus {
    /// Its app.
    pub app: String,
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: Vec<PartitionStatus>,
}

/// A source or a sink.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectorStatus {
    /// Its app.
    pub app: String,
    /// Its name.
    pub name: String,
    /// Whether records come in by it, or go out.
    pub direction: ConnectorDirection,
    /// The stream that it feeds or reads.
    pub stream: String,
    /// How it fares.
    pub state: Health,
    /// The node that runs it.
    pub owner: Option<String>,
    /// The owner's epoch.
    pub epoch: u64,
    /// The nodes that know how far it has come.
    pub in_sync: Vec<String>,
    /// How many records have passed since its owner began.
    pub records: u64,
    /// How many bytes those had.
    pub bytes: u64,
    /// How many records from outside could not be taken.
    pub passed_over: u64,
    /// When the last record passed, in microseconds since 1970.
    pub last_us: Option<i64>,
    /// What it lacks, and what to do.
    pub reason: Option<String>,
}

/// Whether records come into the fabric, or leave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectorDirection {
    /// By a source.
    In,
    /// By a sink.
    Out,
}

/// A partition of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PartitionStatus {
    /// Which one, from 0.
    pub partition: u32,
    /// The site whose keeper assigns it.
    pub site: String,
    /// The node that writes it; none while it has no owner.
    pub owner: Option<String>,
    /// The owner's epoch.
    pub epoch: u64,
    /// The nodes that hold every acknowledged record.
    pub in_sync: Vec<String>,
    /// The index of the first entry still held.
    pub first: u64,
    /// The index that the next entry will get.
    pub next: u64,
}

/// Where everything of an app would run, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlanReport {
    /// The app.
    pub app: String,
    /// Whether it can be deployed now.
    pub accepted: bool,
    /// Where things would go.
    pub placements: Vec<PlacementRow>,
    /// How long records are predicted to take from source to sink.
    pub predictions: Vec<PredictionRow>,
    /// What cannot be placed; empty exactly if it is accepted.
    pub refusals: Vec<RefusalRow>,
}

/// Where one thing would go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PlacementRow {
    /// What kind of thing: `stream`, `stage` or `function`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The partition, of what has partitions.
    pub partition: Option<u32>,
    /// The node that would own it, or the nodes that would serve it.
    pub nodes: Vec<String>,
    /// The other nodes that would hold copies.
    pub replicas: Vec<String>,
    /// Why there; one sentence each.
    pub reasons: Vec<String>,
    /// Which nodes could not be chosen, and why not; one sentence each.
    pub excluded: Vec<String>,
}

/// A predicted latency beside its objective.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PredictionRow {
    /// The flow.
    pub flow: String,
    /// The sink.
    pub sink: String,
    /// The predicted 95th percentile, in milliseconds.
    pub predicted_p95_ms: f64,
    /// The objective, in milliseconds, if there is one.
    pub slo_p95_ms: Option<f64>,
    /// What the prediction is made of, in order; one part each.
    pub parts: Vec<String>,
}

/// What cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RefusalRow {
    /// What: kind and name.
    pub subject: String,
    /// The constraint that cannot be met, as in the manifest.
    pub constraint: String,
    /// Why it cannot be met, node by node where that helps.
    pub message: String,
    /// What to do.
    pub hint: String,
}
