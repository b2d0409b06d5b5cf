//! What a node tells another one of the work it holds, and the gathering of that from all live nodes.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use littoral_flow::stats::Snapshot;
use littoral_mesh::{Mesh, Method, Priority};
use littoral_model::id::{AppId, Epoch, FunctionName, NodeId};
use littoral_model::work::{Assignment, WorkId};
use littoral_runtime::latency::Quantiles;
use littoral_store::replica::Works;
use serde::{Deserialize, Serialize};

use crate::functions::Functions;
use crate::groups::Groups;
use crate::runner::Runner;
use crate::wiring::ask;

/// How long a node may take to report; one that does not is left out, so that an answer never waits long.
const REPORT_DEADLINE: Duration = Duration::from_millis(1_500);

/// A unit of work that a node owns.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct OwnedWork {
    pub(crate) work: WorkId,
    pub(crate) epoch: Epoch,
    /// Whether it is ready to be written.
    pub(crate) leads: bool,
    pub(crate) first: u64,
    pub(crate) committed: u64,
    /// None if it does not run.
    pub(crate) stats: Option<Snapshot>,
}

/// An HTTP function that a node serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ServedFunction {
    pub(crate) app: AppId,
    pub(crate) function: FunctionName,
    /// Whether it is loaded.
    pub(crate) ready: bool,
    pub(crate) errors: u64,
    pub(crate) latency: Quantiles,
    pub(crate) last_error: Option<String>,
}

/// What one node reports.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) works: Vec<OwnedWork>,
    pub(crate) functions: Vec<ServedFunction>,
    /// The assignments of its own site, as far as it knows.
    pub(crate) assignments: Vec<Assignment>,
}

/// What a report is made from.
pub(crate) struct Reporter {
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) works: Arc<Works>,
    pub(crate) groups: Arc<Groups>,
    pub(crate) runner: Arc<Runner>,
    pub(crate) functions: Arc<Functions>,
}

impl Reporter {
    /// This node's report.
    pub(crate) fn own(&self) -> Report {
        let mut snapshots = self.runner.snapshots();
        let mut report = Report::default();
        for standing in self.works.standings() {
            let owned = self.groups.assignment(&standing.work).filter(|held| held.owner == *self.mesh.node());
            let Some(owned) = owned else { continue };
            let stats = snapshots.remove(&standing.work).map(|(_, stats)| stats);
            report.works.push(OwnedWork {
                work: standing.work,
                epoch: owned.epoch,
                leads: standing.leads,
                first: standing.first,
                committed: standing.committed,
                stats,
            });
        }
        for ((app, function), loaded, error) in self.functions.all() {
            let (ready, stats) = (loaded.is_some(), loaded.unwrap_or_default());
            report.functions.push(ServedFunction {
                app,
                function,
                ready,
                errors: stats.errors,
                latency: stats.latency,
                last_error: error.or(stats.last_error),
            });
        }
        if let Some(group) = self.groups.own() {
            report.assignments = group.assignments().borrow().values().cloned().collect();
        }
        report
    }

    /// The reports of all live nodes that answer in time, this one's among them.
    pub(crate) async fn gather(&self) -> Vec<(NodeId, Report)> {
        let members = self.mesh.members().borrow().clone();
        let asked = members.keys().map(|node| async move {
            if node == self.mesh.node() {
                return Some((node.clone(), self.own()));
            }
            match ask(&self.mesh, node, Method::Admin, Priority::Control, REPORT_DEADLINE, &()).await {
                Ok(report) => Some((node.clone(), report)),
                Err(error) => {
                    tracing::debug!(%node, %error, "a node does not report");
                    None
                }
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

/// The newest assignment of each work that is in any of the reports.
pub(crate) fn assignments(reports: &[(NodeId, Report)]) -> std::collections::BTreeMap<WorkId, Assignment> {
    let mut newest: std::collections::BTreeMap<WorkId, Assignment> = std::collections::BTreeMap::new();
    for assignment in reports.iter().flat_map(|(_, report)| &report.assignments) {
        match newest.get(&assignment.work) {
            Some(known) if known.epoch > assignment.epoch => {}
            _ => drop(newest.insert(assignment.work.clone(), assignment.clone())),
        }
    }
    newest
}
