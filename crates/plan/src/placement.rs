//! Where everything of an app is to run, and what is expected of it.

use std::collections::BTreeMap;

use littoral_model::id::{AppId, ConnectorName, FlowName, FunctionName, NodeId, StreamName};
use littoral_model::work::WorkId;
use serde::{Deserialize, Serialize};

use crate::instances::Serving;
use crate::links::Basis;
use crate::reason::Reason;
use crate::spec::{Ack, Constraints};

/// Where everything of an app is to run, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// Whose app.
    pub app: AppId,
    /// Its units of work, sorted by name.
    pub works: Vec<PlacedWork>,
    /// Which nodes serve its HTTP functions, sorted by function, the best node first.
    pub instances: Vec<PlacedFunction>,
    /// What is wanted of its HTTP functions, by which nodes find out as things change whether they serve them; sorted by
    /// function. Without an entry, as in placements of older versions, exactly the nodes of `instances` serve.
    #[serde(default)]
    pub serving: Vec<Serving>,
    /// What is expected of its flows: one line per flow, of its slowest partition.
    pub predictions: Vec<FlowPrediction>,
    /// Units of work that exist and that this placement has no use for; their keepers are to forget them.
    pub retired: Vec<WorkId>,
}

/// One unit of work, placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedWork {
    /// Its name; the site in it is its owner's.
    pub work: WorkId,
    /// Its first owner.
    pub owner: NodeId,
    /// Who is to hold its log, the owner first.
    pub replicas: Vec<NodeId>,
    /// When an entry of its log counts as committed.
    pub ack: Ack,
    /// What it does.
    pub role: Role,
    /// What any owner or replica has to satisfy.
    pub requires: Constraints,
    /// The memory that its instances may take, in bytes.
    pub memory_bytes: u64,
    /// Why it is where it is.
    pub reasons: Vec<Reason>,
}

/// What a unit of work does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// It is a partition of a stream.
    StreamPartition {
        /// Which stream.
        stream: StreamName,
        /// What it takes in from flows; rows published from outside come on top.
        sources: Vec<Source>,
    },
    /// It runs consecutive stages of a flow as one.
    Stage {
        /// Which flow.
        flow: FlowName,
        /// Its functions, in order.
        functions: Vec<StageFunction>,
        /// What it reads.
        input: Source,
        /// Which port's rows go to which stream. Without an entry for the main port, the next stage reads it.
        outputs: BTreeMap<String, StreamName>,
        /// If the number of partitions by key changes while it runs: what it has to know of that.
        #[serde(default)]
        rescaling: Option<Box<Rescaling>>,
    },
    /// It makes records of a stream of what is outside.
    Source {
        /// Which source.
        source: ConnectorName,
        /// The stream.
        stream: StreamName,
        /// The partitions of it that it feeds.
        partitions: Vec<u32>,
    },
    /// It hands the records of a stream to what is outside.
    Sink {
        /// Which sink.
        sink: ConnectorName,
        /// The stream's partitions.
        sources: Vec<Source>,
    },
    /// It holds asynchronous invocations of a function, and has them run.
    Queue {
        /// Which function.
        function: FunctionName,
        /// The streams' partitions whose records call the function.
        sources: Vec<Source>,
    },
}

impl Role {
    /// What it reads of other works.
    pub fn inputs(&self) -> impl Iterator<Item = &Source> {
        let (all, changes): (&[Source], Option<&Source>) = match self {
            Self::StreamPartition { sources, .. } | Self::Queue { sources, .. } | Self::Sink { sources, .. } => {
                (sources, None)
            }
            Self::Source { .. } => (&[], None),
            Self::Stage { input, rescaling, .. } => {
                (std::slice::from_ref(input), rescaling.as_ref().and_then(|of| of.changes.as_ref()))
            }
        };
        all.iter().chain(changes)
    }
}

/// What a stage knows of changes of the number of partitions by key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rescaling {
    /// How many there were before the first change.
    pub first: u32,
    /// How many this placement has of the stream between, and of the stages behind it.
    pub most: u32,
    /// Where changes are announced, if it is one of those that spread rows by their keys.
    pub changes: Option<Source>,
}

/// One function of a stage.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StageFunction {
    /// Its name.
    pub function: FunctionName,
    /// The digest of its artefact.
    pub artifact: String,
}

/// A port of a work's log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Source {
    /// Whose log.
    pub work: WorkId,
    /// Which port's rows.
    pub port: String,
}

/// A node that serves an HTTP function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedFunction {
    /// Which function.
    pub function: FunctionName,
    /// The digest of its artefact.
    pub artifact: String,
    /// Where.
    pub node: NodeId,
    /// Why there.
    pub reasons: Vec<Reason>,
}

/// What is expected of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowPrediction {
    /// Which flow.
    pub flow: FlowName,
    /// Which partition of its source; the slowest.
    pub partition: u32,
    /// The time from the source to the sink at the 95th percentile, in microseconds; the sum of the hops.
    pub p95_us: u64,
    /// Where the time goes.
    pub hops: Vec<Hop>,
    /// The objective, in microseconds.
    pub slo_us: Option<u64>,
    /// Whether the objective is met; true without one.
    pub within_slo: bool,
}

/// One part of the way through a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// What happens.
    pub step: Step,
    /// On which node; for a link, the one it leads to.
    pub node: NodeId,
    /// How long it takes at the 95th percentile, in microseconds.
    pub p95_us: u64,
}

/// What happens at a [`Hop`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// A record is made durable, after it waited for other work of the node.
    Commit,
    /// A record crosses a link.
    Link {
        /// Where it comes from.
        from: NodeId,
        /// The link's round-trip time, in microseconds.
        rtt_us: u64,
        /// What that figure rests on.
        basis: Basis,
    },
    /// A function runs.
    Execute {
        /// Which.
        function: FunctionName,
    },
}

impl Placement {
    /// The work of that name.
    #[must_use]
    pub fn work(&self, work: &WorkId) -> Option<&PlacedWork> {
        self.works.binary_search_by(|placed| placed.work.cmp(work)).ok().and_then(|at| self.works.get(at))
    }
}
