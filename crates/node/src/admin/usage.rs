//! The shapes of what the admin API says about usage: what functions have used, and whether the records of it are whole.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was used on the nodes of the fabric.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UsageReport {
    /// Node by node.
    pub nodes: Vec<NodeUsage>,
    /// The live nodes that did not answer, and why; what they know is missing here.
    pub missing: Vec<String>,
}

/// What was used on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeUsage {
    /// The node.
    pub node: String,
    /// Where the first span begins that reaches into the time that was asked for, microseconds since 1970.
    pub from_us: i64,
    /// Where the last one ends: now.
    pub until_us: i64,
    /// Function by function; those that used nothing are left out.
    pub functions: Vec<FunctionUsage>,
    /// CPU time of the guests of all functions, in microseconds, whether they are listed or not.
    pub functions_cpu_us: u64,
    /// CPU time of the node's threads outside guests, from the threads' own clocks, in microseconds.
    pub host_cpu_us: u64,
    /// CPU time of the whole process as the system counts it, in microseconds. Functions and host make it up.
    pub process_cpu_us: u64,
}

impl NodeUsage {
    /// By how much functions and host together differ from the process, as a share of the process; 0 if that used nothing.
    #[must_use]
    pub fn difference(&self) -> f64 {
        if self.process_cpu_us == 0 {
            return 0.0;
        }
        let parts = self.functions_cpu_us.saturating_add(self.host_cpu_us);
        (parts as f64 - self.process_cpu_us as f64) / self.process_cpu_us as f64
    }
}

/// What one function used on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FunctionUsage {
    /// Whose it is.
    pub tenant: String,
    /// Its app.
    pub app: String,
    /// Its name.
    pub function: String,
    /// CPU time of its guests, in microseconds.
    pub cpu_us: u64,
    /// What its instances' memories held, times how long, in byte-seconds.
    pub memory_byte_s: u64,
    /// Bytes of the bodies of requests; for a stage, of the rows that it took.
    pub bytes_in: u64,
    /// Bytes of the bodies of responses; for a stage, of the rows that it put out.
    pub bytes_out: u64,
    /// How many requests it took; for a stage, batches of rows.
    pub invocations: u64,
}

impl FunctionUsage {
    /// Of a function that has used nothing.
    pub(crate) fn new(tenant: &str, app: &str, function: &str) -> Self {
        let (tenant, app, function) = (tenant.to_owned(), app.to_owned(), function.to_owned());
        Self { tenant, app, function, ..Self::default() }
    }
}

/// What a check of a node's usage records found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChainReport {
    /// The node.
    pub node: String,
    /// How many records can be read.
    pub records: u64,
    /// The number of the first that is kept.
    pub first: Option<u64>,
    /// The number of the last.
    pub last: Option<u64>,
    /// The SHA-256 of the last one, in hexadecimal digits. Whoever notes it can tell later that nothing before was altered.
    pub head: Option<String>,
    /// What is wrong, a sentence each; nothing if the chain is whole.
    pub problems: Vec<String>,
}

/// What checks of the nodes' usage records found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChainReports {
    /// Node by node.
    pub nodes: Vec<ChainReport>,
    /// The live nodes that did not answer, and why.
    pub missing: Vec<String>,
}
