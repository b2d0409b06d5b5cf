//! A placement as text, for people.

use std::fmt::Write as _;

use littoral_model::id::NodeId;

use crate::placement::{FlowPrediction, PlacedFunction, PlacedWork, Placement, Role, Step};
use crate::reason::{Milliseconds, Reason};

impl Placement {
    /// The placement as a table with reasons and predictions.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut rows = vec![["WHAT", "NODE", "COPIES", "WHY"].map(str::to_owned)];
        for placed in &self.works {
            let copies = placed.replicas.iter().filter(|node| **node != placed.owner);
            let copies = copies.map(NodeId::as_str).collect::<Vec<_>>().join(",");
            let copies = if copies.is_empty() { "-".to_owned() } else { copies };
            rows.push([placed.title(), placed.owner.to_string(), copies, join(&placed.reasons)]);
        }
        for instance in &self.instances {
            let what = format!("function {}", instance.function);
            rows.push([what, instance.node.to_string(), "-".to_owned(), join(&instance.reasons)]);
        }
        let mut text = table(&rows);
        for prediction in &self.predictions {
            text.push_str(&prediction.to_text());
        }
        text
    }
}

impl PlacedWork {
    /// What it is, as `stage clean+score of health/0` or `stream alerts/0`.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.role {
            Role::StreamPartition { stream, .. } => format!("stream {stream}/{}", self.work.partition),
            Role::Queue { function, .. } => format!("queue {function}/{}", self.work.partition),
            Role::Source { source, .. } => format!("source {source}"),
            Role::Sink { sink, .. } => format!("sink {sink}"),
            Role::Stage { flow, functions, .. } => {
                let names: Vec<&str> = functions.iter().map(|stage| stage.function.as_str()).collect();
                format!("stage {} of {flow}/{}", names.join("+"), self.work.partition)
            }
        }
    }

    /// Its node and the reasons, in a line.
    #[must_use]
    pub fn explain(&self) -> String {
        format!("{}: {}", self.owner, join(&self.reasons))
    }
}

impl PlacedFunction {
    /// Its node and the reasons, in a line.
    #[must_use]
    pub fn explain(&self) -> String {
        format!("{}: {}", self.node, join(&self.reasons))
    }
}

impl FlowPrediction {
    /// The prediction and where the time goes.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!("flow {}: {} at the 95th percentile", self.flow, Milliseconds(self.p95_us));
        match self.slo_us {
            Some(slo) if self.within_slo => _ = write!(text, ", within its objective of {}", Milliseconds(slo)),
            Some(slo) => _ = write!(text, ", VIOLATES its objective of {}", Milliseconds(slo)),
            None => text.push_str(", no objective"),
        }
        text.push('\n');
        for hop in &self.hops {
            let what = match &hop.step {
                Step::Commit => format!("commit on {}", hop.node),
                Step::Link { from, .. } => format!("{from} to {}", hop.node),
                Step::Execute { function } => format!("{function} on {}", hop.node),
            };
            _ = writeln!(text, "  {:>10}  {what}", Milliseconds(hop.p95_us).to_string());
        }
        text
    }
}

/// What the table says of a node's choice. That other nodes are excluded follows from the constraints that are named;
/// the JSON has it in full.
fn join(reasons: &[Reason]) -> String {
    let shown = reasons.iter().filter(|reason| !matches!(reason, Reason::Excluded { .. }));
    shown.map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Columns as wide as their widest cell, the last one as long as it likes.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0usize; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}
