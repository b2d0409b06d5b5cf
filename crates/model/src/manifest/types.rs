//! The shapes of `littoral.toml`. Their docs are the descriptions in its JSON Schema.

use std::collections::{BTreeMap, BTreeSet};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::connector::{SinkConnector, SourceConnector};
use super::fidelity::StageVariant;
use super::later::{Later, Trigger};
use super::limits::Limits;
use super::mqtt::Topic;
use super::scale::Scale;
use crate::grant::Peer;
use crate::id::{
    AcceleratorName, AppName, BucketName, ConnectorName, FlowName, FunctionName, NodeId, RegionId, SiteId, SqlName,
    StreamName, Tier,
};
use crate::library::LibraryReference;
use crate::oci::OciReference;
use crate::situation::{FailureDomain, Position};
use crate::unit::{Bandwidth, Distance, Ratio, Size, Time};

/// An app: functions, streams and flows, and where they may be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Manifest {
    /// The app's name.
    pub name: AppName,
    /// The app's version, for people.
    pub version: String,
    /// What the app is for, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The app's code, by name.
    #[serde(default)]
    pub functions: BTreeMap<FunctionName, Function>,
    /// The app's streams, by name.
    #[serde(default)]
    pub streams: BTreeMap<StreamName, Stream>,
    /// The app's flows, by name: from a stream through functions to a stream.
    #[serde(default)]
    pub flows: BTreeMap<FlowName, Flow>,
    /// Streams, functions and flows in SQL, by the name of the file; those of files `*.sql` beside the manifest are added when it is
    /// deployed.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sql: BTreeMap<SqlName, Sql>,
    /// The stages of flows in SQL, which nodes run without a component: `littoral-sql` fills it from the statements.
    #[serde(skip)]
    pub queries: BTreeMap<FunctionName, Query>,
    /// The functions that expressions in SQL may call: they run in the stages of the flows that do, and nowhere else.
    /// `littoral-sql` fills it, too.
    #[serde(skip)]
    pub called: BTreeSet<FunctionName>,
    /// What outside the fabric becomes records of streams, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<ConnectorName, SourceConnector>,
    /// What outside the fabric takes the records of streams, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sinks: BTreeMap<ConnectorName, SinkConnector>,
    /// What is reachable over HTTP, on any node.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// What is reachable over MQTT, on any node that listens for it: by the topic, a filter of topics, or a topic with
    /// columns of the records in braces.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mqtt: BTreeMap<String, Topic>,
    /// What calls functions by itself: schedules and streams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<Trigger>,
    /// What the app does while parts of the fabric are cut off from one another: `keep` going everywhere, be served by
    /// one node at a time as a `singleton`, or stop after a while out of contact.
    #[serde(default, skip_serializing_if = "Partition::is_default")]
    pub partition: Partition,
    /// What to weigh where several nodes would do; the time alone if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objectives: Option<Objectives>,
    /// The continuum that `littoral dev` makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<Dev>,
}

/// Statements in SQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sql {
    /// `CREATE STREAM`, `CREATE FUNCTION` and `CREATE FLOW`, each ended by a semicolon.
    pub text: String,
}

/// The stage of a flow in SQL, as far as placement goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// Where it may run.
    pub placement: Placement,
    /// Stands for the digest of an artefact: another one when the query does something else.
    pub fingerprint: String,
    /// What it asks of the partitions of what it reads.
    pub partitioning: Partitioning,
    /// The functions of the app that it calls, each once, in order.
    pub functions: Vec<FunctionName>,
    /// How many bytes it is expected to put out for a thousand that it takes in; a guess.
    pub output_permille: u32,
}

impl Query {
    /// Stands between its fingerprint and the digests of what it calls.
    const SEPARATOR: char = '+';

    /// What its stage runs, where a component has its digest: what it does, and the components, of these digests, that it calls.
    pub fn artifact<'a>(&self, called: impl Iterator<Item = &'a str>) -> String {
        called.fold(self.fingerprint.clone(), |artifact, digest| format!("{artifact}{}{digest}", Self::SEPARATOR))
    }

    /// Whether what a stage runs is a component, or a query that calls it.
    #[must_use]
    pub fn is_made_of(artifact: &str, digest: &str) -> bool {
        artifact.split(Self::SEPARATOR).any(|part| part == digest)
    }
}

/// What a stage asks of the partitions of the stream that it reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Partitioning {
    /// Nothing: it takes each by itself.
    #[default]
    Any,
    /// That all rows are in one, for it groups them.
    Single,
    /// That there are so many, of which it spreads the rows over those of its sink by their keys: those of each partition
    /// of the sink leave on [a port of their own](crate::entry::partition_port).
    ByKey(u32),
}

/// What an app does in a cut: a word, or a table with the time after which it stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Partition {
    /// One of two ways.
    Named(PartitionPolicy),
    /// To stop after a while.
    StopAfter(StopAfter),
}

/// What an app does in a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionPolicy {
    /// It goes on wherever it is.
    Keep,
    /// One node of the site serves its functions, as long as it has a majority of the site.
    Singleton,
}

/// To stop in a cut.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StopAfter {
    /// After so long without most of the nodes that the app is placed on, its functions and stages stop on a node; they
    /// go on when most are reached again.
    pub stop_after: Time,
}

impl Default for Partition {
    fn default() -> Self {
        Self::Named(PartitionPolicy::Keep)
    }
}

impl Partition {
    /// Whether the app simply goes on.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A unit of code: a WebAssembly component, a container's image, or a program that runs as a process; or a component and one of the
/// other two, of which that answers which costs less under the load that there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Function {
    /// The component's file, from the app's folder; or one in a registry, `oci://HOST/REPOSITORY@sha256:DIGEST`; or an operator of a library,
    /// `library:NAME@VERSION`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub component: String,
    /// Cheaper variants of the component of a stage of flows, in order of their fidelity: `littoral swap --variant` has a stage go on with
    /// another one, with its state.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<StageVariant>,
    /// Which variant runs; the function's own component, by the name of the function, if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<FunctionName>,
    /// In place of a component, or beside it: a container's image, an OCI layout's folder or an archive of one, from the app's folder. It serves HTTP
    /// on the port that the variable `PORT` says, and runs on nodes that have a container runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// In place of a component, or beside it: an executable file from the app's folder, a binary of Linux or a script that begins with `#!`. It serves HTTP
    /// on the port that the variable `PORT` says, and runs as a confined process on nodes whose kernel can confine it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// What the program of a process is given when it is started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<String>,
    /// The path that an image or a process answers with a status below 500 once it is ready; `/` if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// The command that builds it, run in the app's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// The memory that one instance may take; 1MiB to 4GiB. The files in memory of a container or process are part of it.
    #[serde(default = "default_memory")]
    pub memory: Size,
    /// How long one call may take.
    #[serde(default = "default_timeout")]
    pub timeout: Time,
    /// Which functions go first where a node has not enough for all.
    #[serde(default, skip_serializing_if = "Priority::is_default")]
    pub priority: Priority,
    /// What else an instance may use: CPU time, requests at once, bodies, lines of its log, tables.
    #[serde(default, skip_serializing_if = "Limits::is_default")]
    pub limits: Limits,
    /// How many instances of it a node has.
    #[serde(default, skip_serializing_if = "Scale::is_default")]
    pub scale: Scale,
    /// The objective for the time of a call, at the 95th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<Time>,
    /// Where it may run.
    #[serde(default)]
    pub placement: Placement,
    /// What it is given by name: a text, or `secret:NAME` for a secret of the node. An HTTP function finds it in its
    /// environment, too.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// What it may reach outside itself; nothing by default.
    #[serde(default, skip_serializing_if = "Grants::is_empty")]
    pub grants: Grants,
    /// Which function's export an interface that it imports is, by the interface's name: where several functions of the
    /// app export it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub imports: BTreeMap<String, FunctionName>,
    /// How it is called asynchronously (`Prefer: respond-async`); not at all if left out.
    #[serde(default, rename = "async", skip_serializing_if = "Option::is_none")]
    pub later: Option<Later>,
}

/// Which functions go first where a node is saturated; in ascending order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// It gives way to all others, and gets what they leave.
    Low,
    /// It gives way to those of high priority.
    #[default]
    Normal,
    /// It gives way to none.
    High,
}

impl Priority {
    /// Whether it is that of a function of which nothing is said.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Display for Priority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::Normal => "normal",
            Self::High => "high",
        })
    }
}

/// What a function may reach outside itself. What is left out is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Grants {
    /// Where it may send HTTP requests. A name reaches public addresses only; private ones are granted by address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<Peer>,
    /// What it may connect its sockets to, over TCP and UDP.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<Peer>,
    /// The folders of its node that it sees, by the path under which it sees them: files of sensors.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub directories: BTreeMap<String, Directory>,
    /// The devices of its node that it may open, as serial lines, by their paths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// The functions of the app that it may call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub call: Vec<FunctionName>,
    /// The streams of the app that it may publish to.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<StreamName>,
    /// The key-value buckets of the app that it may use, by any name; those who name the same one share it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keyvalue: Vec<BucketName>,
}

impl Grants {
    /// Whether nothing is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A folder of the node: its path, or a table if it may be written to as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Directory {
    /// To read from.
    Read(String),
    /// With more to say.
    Access(DirectoryAccess),
}

/// A folder, and what may be done in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DirectoryAccess {
    /// Its path on the node.
    pub path: String,
    /// Whether it may be written to.
    #[serde(default)]
    pub write: bool,
}

impl Directory {
    /// Its path on the node.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::Read(path) => path,
            Self::Access(access) => &access.path,
        }
    }

    /// Whether it may be written to.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        matches!(self, Self::Access(DirectoryAccess { write: true, .. }))
    }
}

impl Function {
    /// The registry's component, if it comes from a registry and not from the app's folder.
    #[must_use]
    pub fn registry(&self) -> Option<OciReference> {
        OciReference::is_meant(&self.component).then(|| self.component.parse().ok()).flatten()
    }

    /// The operator of a library, if that is what its component is.
    #[must_use]
    pub fn operator(&self) -> Option<LibraryReference> {
        LibraryReference::is_meant(&self.component).then(|| self.component.parse().ok()).flatten()
    }

    /// The registry's image, if it comes from a registry and not from the app's folder.
    #[must_use]
    pub fn image_registry(&self) -> Option<OciReference> {
        self.image.as_deref().filter(|image| OciReference::is_meant(image)).and_then(|image| image.parse().ok())
    }
}

fn default_memory() -> Size {
    Size::from_bytes(64 << 20)
}

fn default_timeout() -> Time {
    Time::from_micros(1_000_000)
}

/// Where something may be placed. What is left out does not constrain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Placement {
    /// The tier, or one of several.
    pub tier: OneOrMany<Tier>,
    /// The site, or one of several.
    pub site: OneOrMany<SiteId>,
    /// The region, or one of several, that it and its data must not leave.
    pub region: OneOrMany<RegionId>,
    /// Labels that the node must have.
    pub labels: BTreeMap<String, String>,
    /// Accelerators that the node must have.
    pub accelerators: Vec<AcceleratorName>,
    /// A position, and how far from it the node may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<Within>,
    /// Not on a battery that is as empty as this; a node on the mains will do at any level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub battery_above: Option<Ratio>,
    /// Only while the node is on the mains.
    pub mains_only: bool,
    /// Only while the node does not move.
    pub stationary: bool,
    /// As near as possible to this stream's partitions.
    pub near: Option<StreamName>,
    /// On this tier, if a node of it will do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefer: Option<Tier>,
    /// What it must be together with.
    pub affinity: Vec<Affinity>,
    /// What it must be apart from.
    pub anti_affinity: Vec<Affinity>,
    /// What its copies or instances must not share, so that they do not fail together.
    pub spread: Vec<FailureDomain>,
}

/// A circle on the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Within {
    /// Its centre: latitude and longitude in degrees.
    pub position: Position,
    /// Its radius.
    pub radius: Distance,
}

/// Together with, or apart from, another function or stream of the app.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Affinity {
    /// The other function or stream.
    #[schemars(with = "StreamName")]
    pub with: String,
    /// Whether it is about nodes or about sites.
    #[serde(default)]
    pub scope: Scope,
}

/// How close is together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// On one node.
    #[default]
    Node,
    /// In one site.
    Site,
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Site => "site",
        })
    }
}

/// What to weigh where several nodes would do: whole numbers, of which only the proportions matter. What is left out
/// weighs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Objectives {
    /// The time that a record or a request takes.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000))]
    pub latency: u32,
    /// What the cores and their power cost.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000))]
    pub cost: u32,
    /// The power that is drawn.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000))]
    pub energy: u32,
    /// The carbon dioxide that is emitted.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000))]
    pub carbon: u32,
    /// That data stays in its site, and in its region.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000))]
    pub locality: u32,
}

impl Default for Objectives {
    /// The time alone: what an app gets that states no objectives.
    fn default() -> Self {
        Self { latency: 1, cost: 0, energy: 0, carbon: 0, locality: 0 }
    }
}

impl Objectives {
    /// Whether nothing but time is weighed.
    #[must_use]
    pub fn is_time_alone(self) -> bool {
        [self.cost, self.energy, self.carbon, self.locality] == [0; 4]
    }
}

/// One, or a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One.
    One(T),
    /// Any of these; without any, it does not constrain.
    Many(Vec<T>),
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> OneOrMany<T> {
    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        match self {
            Self::One(one) => std::slice::from_ref(one).iter(),
            Self::Many(many) => many.iter(),
        }
    }
}

/// A durable, partitioned, ordered log of records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Stream {
    /// How many partitions, 1 to 1024. Left out: one for each matching node if it is published to on devices, else one.
    #[schemars(range(min = 1, max = 1024))]
    pub partitions: Option<u32>,
    /// How long records are kept: an age, a size, or both. A week if left out.
    pub retention: Retention,
    /// When a record counts as stored: on its owner's disk (`local`), or on two disks of the site (`site`). Left out:
    /// `site` where the site has two nodes or more that may hold it.
    pub ack: Option<Ack>,
    /// How much is published to each partition, at most. Flows are only placed over links that have so much left, and it
    /// is not promised twice. Left out: nothing is known of it.
    pub rate: Option<Bandwidth>,
    /// Where it may lie.
    pub placement: Placement,
}

/// How long records are kept; they may be forgotten once one of the limits is passed and all that read the stream have them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "RetentionText", into = "RetentionText")]
pub struct Retention {
    /// Older records may be forgotten.
    pub age: Option<Time>,
    /// What a partition may take of the disk. The oldest records make room for new ones once they are read; until then nothing more is taken.
    pub size: Option<Size>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age: Some(Time::from_micros(7 * 86_400_000_000)), size: None }
    }
}

/// An age, a size, or a table of both.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum RetentionText {
    Age(Time),
    Size(Size),
    Both(RetentionLimits),
}

/// Both limits.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RetentionLimits {
    /// Older records may be forgotten.
    age: Option<Time>,
    /// What a partition may take of the disk. The oldest records make room for new ones once they are read; until then nothing more is taken.
    size: Option<Size>,
}

impl From<RetentionText> for Retention {
    fn from(text: RetentionText) -> Self {
        match text {
            RetentionText::Age(age) => Self { age: Some(age), size: None },
            RetentionText::Size(size) => Self { age: None, size: Some(size) },
            RetentionText::Both(RetentionLimits { age, size }) => Self { age, size },
        }
    }
}

impl From<Retention> for RetentionText {
    fn from(retention: Retention) -> Self {
        Self::Both(RetentionLimits { age: retention.age, size: retention.size })
    }
}

impl JsonSchema for Retention {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Retention".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        RetentionText::json_schema(generator)
    }
}

/// When a record counts as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// When it is on its owner's disk.
    Local,
    /// When it is on two disks of the site.
    Site,
}

/// A dataflow from a stream through functions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Flow {
    /// The stream that it reads.
    pub source: StreamName,
    /// The functions that records go through, in this order.
    #[schemars(length(min = 1, max = 64))]
    pub stages: Vec<FunctionName>,
    /// The stream or the function that takes what the last stage puts out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink: Option<Sink>,
    /// The streams that take what stages put out on other ports: port and stream.
    #[serde(default)]
    pub outputs: BTreeMap<String, StreamName>,
    /// The stream that takes rejected records, with the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<StreamName>,
    /// The objective for the time from publication to the sink, at the 95th percentile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<Time>,
    /// Whether records that are too old for `slo` are passed over and counted, where nothing else makes it hold again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shed: bool,
}

/// Where a flow ends. It is written as a name, which is one of the app's streams or functions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Sink {
    /// In a stream.
    Stream(StreamName),
    /// In a function, which runs as the flow's last stage.
    Function(FunctionName),
}

impl TryFrom<String> for Sink {
    type Error = crate::id::InvalidName;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        StreamName::new(name).map(Self::Stream)
    }
}

impl From<Sink> for String {
    fn from(sink: Sink) -> Self {
        match sink {
            Sink::Stream(stream) => stream.to_string(),
            Sink::Function(function) => function.to_string(),
        }
    }
}

impl JsonSchema for Sink {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sink".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "name", "description": "A stream or a function of the app." })
    }
}

/// A path under which a function or a stream is reachable over HTTP: exactly one of both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Route {
    /// The path, from `/`; with `/*` at its end, everything below it.
    pub path: String,
    /// The function that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionName>,
    /// The stream whose last records are answered, and to which what is posted is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamName>,
    /// The header that keeps requests on one instance of the function: those with the same value go to the same one. A
    /// client may do so by itself with the header `Littoral-Key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<String>,
    /// Whether another instance of the function is asked as well when the first takes longer than it nearly always does;
    /// the first answer counts. Only requests with an idempotent method are asked twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hedge: bool,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// To a function.
    Function(FunctionName),
    /// To a stream.
    Stream(StreamName),
}

impl Route {
    /// Where it leads; none only for a route that a valid manifest does not have.
    #[must_use]
    pub fn target(&self) -> Option<RouteTarget> {
        let function = self.function.clone().map(RouteTarget::Function);
        function.or_else(|| self.stream.clone().map(RouteTarget::Stream))
    }
}

/// The continuum of `littoral dev`: each node is a process of its own, each link is shaped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Dev {
    /// The nodes.
    pub nodes: Vec<DevNode>,
    /// The links between them; a link that is left out is not shaped within a site, and does not exist between sites.
    pub links: Vec<DevLink>,
    /// What is published while it runs.
    pub sensors: Vec<Sensor>,
}

/// A node of `littoral dev`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DevNode {
    /// Its name.
    pub name: NodeId,
    /// Its tier.
    pub tier: Tier,
    /// Its site.
    pub site: SiteId,
    /// The region whose law its data is under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionId>,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A link of `littoral dev`, for every pair of nodes that its ends name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DevLink {
    /// The two ends: each a node, a site or a tier.
    pub between: [String; 2],
    /// The round-trip time that the link adds.
    #[serde(default)]
    pub round_trip: Time,
    /// The rate in each direction; unlimited if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Bandwidth>,
    /// The share of packets that are lost and sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<Ratio>,
}

/// A sensor of `littoral dev`: replays a file into a stream, on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Sensor {
    /// Its name; the key of its records.
    pub name: String,
    /// The node that it is attached to.
    pub node: NodeId,
    /// The stream that it publishes to.
    pub stream: StreamName,
    /// A CSV file with `timestamp` and `value`, from the app's folder.
    pub file: String,
    /// A JSON file with the labelled failures of the series, from the app's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
}
