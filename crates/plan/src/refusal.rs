//! Why an app cannot be placed.

use std::fmt;

use littoral_model::id::NodeId;
use serde::{Deserialize, Serialize};

/// An app cannot be placed: everything that stands in the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the app cannot be placed: {}", list(.findings))]
pub struct Refusal {
    /// What cannot be placed; at least one.
    pub findings: Vec<Unplaceable>,
}

/// One thing that cannot be placed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unplaceable {
    /// What, as `function clean` or `stream alerts`.
    pub what: String,
    /// The constraint that cannot be met, as `tier=edge`.
    pub constraint: String,
    /// The node that comes closest; none if no node is alive, or if it is not for want of a node.
    pub nearest_miss: Option<NearestMiss>,
}

/// The node that comes closest to what was asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NearestMiss {
    /// Which node.
    pub node: NodeId,
    /// What it lacks.
    pub why: String,
}

impl fmt::Display for Unplaceable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} needs {}", self.what, self.constraint)?;
        match &self.nearest_miss {
            Some(miss) => write!(f, "; the nearest miss is {}, which {}", miss.node, miss.why),
            None => Ok(()),
        }
    }
}

fn list(findings: &[Unplaceable]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
