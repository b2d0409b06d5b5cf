//! Why something is where it is, in words that a user can act on.

use std::fmt;

use littoral_model::id::{FunctionName, NodeId};
use serde::{Deserialize, Serialize};

use crate::links::Basis;
use crate::objective::Weighed;

/// One reason for a placement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The node satisfies this constraint.
    Satisfies {
        /// The constraint, as `tier=edge`.
        constraint: String,
    },
    /// The input comes from there.
    Near {
        /// The node with the input.
        node: NodeId,
        /// The round trip to it, in microseconds.
        rtt_us: u64,
        /// What that figure rests on.
        basis: Basis,
    },
    /// It lies on the node that writes it.
    Beside {
        /// What writes it.
        writer: String,
    },
    /// These functions run as one, which saves a hop and a commit.
    Fused {
        /// The functions.
        functions: Vec<FunctionName>,
    },
    /// It ran there already.
    Stays,
    /// It ran elsewhere, and this node holds every record it acknowledged.
    Moved {
        /// Where it ran.
        from: NodeId,
        /// Why it cannot stay there.
        because: String,
    },
    /// It ran where it may not run, and starts anew.
    Replaced {
        /// Where it ran.
        from: NodeId,
        /// Why it cannot stay there.
        because: String,
    },
    /// Its owner is down, and nobody else that may hold it has all it acknowledged.
    Waits,
    /// One partition for each node that matches.
    OnePerNode,
    /// Another node would have been slower, or as fast and busier.
    Alternative {
        /// The function that would have run there; none for a stream.
        function: Option<FunctionName>,
        /// The other node.
        node: NodeId,
        /// By how much the flow would have been slower, in microseconds.
        slower_us: u64,
        /// By how much it would have been worse where other objectives than the time are weighed.
        #[serde(default)]
        weighed: Option<Weighed>,
    },
    /// Another node does not satisfy a constraint.
    Excluded {
        /// The other node.
        node: NodeId,
        /// Why not.
        because: String,
    },
    /// What a function takes was measured; without this a conservative guess was made.
    Measured {
        /// Which function.
        function: FunctionName,
        /// What 95 of 100 executions took no longer than, in microseconds.
        p95_us: u64,
    },
    /// With another node, the flow would take longer than its objective.
    TooSlow {
        /// The function that would have run there; none for a stream.
        function: Option<FunctionName>,
        /// The other node.
        node: NodeId,
        /// What the flow would take at the 95th percentile, in microseconds.
        p95_us: u64,
        /// Its objective, in microseconds.
        slo_us: u64,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Satisfies { constraint } => write!(f, "satisfies {constraint}"),
            Self::Near { node, basis: Basis::SameNode, .. } => write!(f, "reads from {node} itself"),
            Self::Near { node, rtt_us, basis } => {
                write!(f, "{} from {node}", Milliseconds(*rtt_us))?;
                match basis {
                    Basis::Default => f.write_str(" (assumed, not measured)"),
                    Basis::Coordinates => f.write_str(" (by network coordinates)"),
                    Basis::Path => f.write_str(" (by way of other sites)"),
                    _ => Ok(()),
                }
            }
            Self::Beside { writer } => write!(f, "beside its writer {writer}"),
            Self::Fused { functions } => {
                let names: Vec<&str> = functions.iter().map(FunctionName::as_str).collect();
                write!(f, "{} fused: no hop and one commit", names.join(" + "))
            }
            Self::Stays => f.write_str("runs there already"),
            Self::Moved { from, because } => write!(f, "holds a copy; {from} {because}"),
            Self::Replaced { from, because } => write!(f, "starts anew; {from} {because}"),
            Self::Measured { function, p95_us } => write!(f, "{function} takes {p95_us} µs, as measured"),
            Self::Waits => f.write_str("is down and alone has its records: waits for its return"),
            Self::OnePerNode => f.write_str("one partition on each node that matches"),
            Self::Alternative { function, node, slower_us, weighed } => {
                if let Some(function) = function {
                    write!(f, "{function} on ")?;
                }
                match (weighed, slower_us) {
                    (Some(weighed), _) => write!(f, "{node} rejected ({weighed})"),
                    (None, 0) => write!(f, "{node} no faster: passed over by load, then name"),
                    (None, _) => write!(f, "{node} rejected (+{})", Milliseconds(*slower_us)),
                }
            }
            Self::TooSlow { function, node, p95_us, slo_us } => {
                if let Some(function) = function {
                    write!(f, "{function} on ")?;
                }
                let (p95, slo) = (Milliseconds(*p95_us), Milliseconds(*slo_us));
                write!(f, "{node} rejected (the flow would take {p95}, its objective is {slo})")
            }
            Self::Excluded { node, because } => write!(f, "{node} excluded: it {because}"),
        }
    }
}

/// Microseconds, shown as milliseconds with one digit.
#[derive(Clone, Copy, Debug)]
pub struct Milliseconds(
    /// How many microseconds.
    pub u64,
);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = self.0.saturating_add(50) / 100;
        write!(f, "{}.{} ms", tenths / 10, tenths % 10)
    }
}
