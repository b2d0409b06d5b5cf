//! Why a flow is late: which of its parts adds most time against what was predicted for it.

use std::collections::BTreeMap;
use std::fmt;

use littoral_control::fidelity::is_of_functions;
use littoral_flow::stats::Recent;
use littoral_model::id::{FlowName, NodeId};
use littoral_model::work::WorkId;
use littoral_plan::reason::Milliseconds;
use littoral_plan::{PlacedWork, Role};

use crate::intent::App;
use crate::report::Report;

/// The part of a flow that adds most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) work: WorkId,
    pub(super) owner: NodeId,
    /// What it does, for people.
    what: String,
    /// What it adds to the end-to-end time at the 95th percentile, in microseconds: about, for percentiles do not add up.
    adds_us: u64,
    /// How long its functions take for a batch, in microseconds.
    process_us: u64,
    /// What was predicted on its node, in microseconds.
    predicted_us: u64,
}

impl Cause {
    /// Whether cheaper functions may help an objective of so many microseconds.
    pub(super) fn is_of_functions(&self, limit_us: u64) -> bool {
        is_of_functions(self.process_us, self.adds_us, limit_us)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {} adds {} at p95", self.what, self.owner, Milliseconds(self.adds_us))?;
        if self.process_us > 0 {
            write!(f, ", {} of it in its functions", Milliseconds(self.process_us.min(self.adds_us)))?;
        }
        write!(f, "; {} was predicted", Milliseconds(self.predicted_us))
    }
}

/// The stage, of those that lead to `end`, that adds most above what was predicted. None if nothing was measured of late.
pub(super) fn find(app: &App, flow: &FlowName, end: &WorkId, reports: &[(NodeId, Report)]) -> Option<Cause> {
    let measured: BTreeMap<&WorkId, (&NodeId, Recent)> = reports
        .iter()
        .flat_map(|(node, report)| report.works.iter().map(move |work| (node, work)))
        .filter_map(|(node, work)| Some((&work.work, (node, work.stats.as_ref()?.recent))))
        .collect();
    let mut causes = Vec::new();
    for placed in way(app, end) {
        let Role::Stage { functions, input, .. } = &placed.role else { continue };
        let Some((owner, recent)) = measured.get(&placed.work) else { continue };
        let before = measured.get(&input.work).map_or(0, |(_, recent)| recent.end_to_end.p95_us);
        let names: Vec<&str> = functions.iter().map(|stage| stage.function.as_str()).collect();
        causes.push(Cause {
            work: placed.work.clone(),
            owner: NodeId::clone(owner),
            what: format!("stage {}", names.join(" + ")),
            adds_us: recent.end_to_end.p95_us.saturating_sub(before),
            process_us: recent.process.p95_us,
            predicted_us: predicted_us(app, flow, placed),
        });
    }
    causes.into_iter().max_by_key(|cause| cause.adds_us.saturating_sub(cause.predicted_us)).filter(|c| c.adds_us > 0)
}

/// The works through which records come to `end`, it included. Bounded by the number of works.
pub(super) fn way<'a>(app: &'a App, end: &WorkId) -> Vec<&'a PlacedWork> {
    let mut way: Vec<&PlacedWork> = Vec::new();
    let mut next = vec![end];
    while let Some(work) = next.pop() {
        let Some(placed) = app.placement.work(work) else { continue };
        if way.iter().any(|known| known.work == placed.work) {
            continue;
        }
        way.push(placed);
        next.extend(placed.role.inputs().map(|source| &source.work));
    }
    way
}

/// What was predicted for a stage: its link, its functions and its commit.
fn predicted_us(app: &App, flow: &FlowName, placed: &PlacedWork) -> u64 {
    let Some(prediction) = app.placement.predictions.iter().find(|prediction| prediction.flow == *flow) else {
        return 0;
    };
    let hops = prediction.hops.iter().filter(|hop| hop.node == placed.owner);
    hops.fold(0, |sum, hop| sum.saturating_add(hop.p95_us))
}
