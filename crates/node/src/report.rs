//! What a node tells another one of the work it holds, and the gathering of that from all live nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use littoral_flow::stats::Snapshot;
use littoral_mesh::{CallError, Mesh, Method, Priority};
use littoral_model::id::{AppId, Epoch, FunctionName, NodeId};
use littoral_model::wire;
use littoral_model::work::{Assignment, WorkId};
use littoral_runtime::latency::Quantiles;
use littoral_store::consensus;
use littoral_store::replica::Works;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::functions::{ChosenVariant, Functions, Standing};
use crate::groups::Groups;
use crate::runner::{Run, Runner};
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
    /// How its functions stand; sent beside the report, as [`Asked`] says.
    #[serde(skip)]
    pub(crate) scales: Vec<Scale>,
    /// Its site's keeper group as it knows it; sent beside the report, too.
    #[serde(skip)]
    pub(crate) group: Option<Group>,
    /// Which variant answers for its functions that have two; sent beside the report, too.
    #[serde(skip)]
    pub(crate) variants: Vec<ServedVariant>,
    /// The stages that take rows here; sent beside the report, too.
    #[serde(skip)]
    pub(crate) runs: Vec<Run>,
    /// What works put out; sent beside the report, too.
    #[serde(skip)]
    pub(crate) sent: Vec<Sent>,
}

/// How much a work has put out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sent {
    pub(crate) work: WorkId,
    /// Encoded bytes, by port.
    pub(crate) bytes: BTreeMap<String, u64>,
}

/// A site's keeper group as a node of it knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub(crate) status: consensus::Status,
    /// Whether its voters are decided.
    pub(crate) has_settled: bool,
}

/// Which variant of a function answers on a node, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServedVariant {
    pub(crate) app: AppId,
    pub(crate) function: FunctionName,
    pub(crate) chosen: ChosenVariant,
}

/// How a function stands on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scale {
    pub(crate) app: AppId,
    pub(crate) function: FunctionName,
    /// Nothing where one simply stays loaded.
    pub(crate) standing: Option<Standing>,
    /// Why the version that is deployed is not the one that answers.
    pub(crate) refused: Option<String>,
    /// Why it is held still for others of higher priority, if it is.
    pub(crate) held: Option<String>,
}

/// Asks for a report: the highest form that the asker reads. A node that sends nothing in its place reads the report alone; from form 2
/// on, [`Scale`]s follow it, from form 4 on the keeper group, the variants and the stages that take rows, from form 5 on what was sent.
type Asked = u8;
/// The form that this program reads.
const FORM: Asked = 5;
/// The form without what was sent.
const FORM_OF_RUNS: Asked = 4;
/// The form without the keeper group; nodes of the form between them are told it, and ask for it then.
const FORM_OF_SCALES: Asked = 2;

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
            let bytes = stats.as_ref().map(|stats| stats.bytes_out.clone()).unwrap_or_default();
            if !bytes.is_empty() {
                report.sent.push(Sent { work: standing.work.clone(), bytes });
            }
            report.works.push(OwnedWork {
                work: standing.work,
                epoch: owned.epoch,
                leads: standing.leads,
                first: standing.first,
                committed: standing.committed,
                stats,
            });
        }
        for ((app, function), fares) in self.functions.all() {
            let (ready, stats) = (fares.stats.is_some(), fares.stats.unwrap_or_default());
            let key = (app.clone(), function.clone());
            let held = self.functions.held(&key);
            if fares.standing.is_some() || fares.refused.is_some() || held.is_some() {
                let (standing, refused) = (fares.standing, fares.refused.clone());
                report.scales.push(Scale { app: key.0, function: key.1, standing, refused, held });
            }
            if let Some(chosen) = fares.chosen {
                report.variants.push(ServedVariant { app: app.clone(), function: function.clone(), chosen });
            }
            report.functions.push(ServedFunction {
                app,
                function,
                ready,
                errors: stats.errors,
                latency: stats.latency,
                last_error: fares.refused.or(fares.error).or(stats.last_error),
            });
        }
        report.runs = self.runner.runs();
        if let Some(group) = self.groups.own() {
            report.assignments = group.assignments().borrow().values().cloned().collect();
            report.group = Some(Group { status: group.status(), has_settled: group.has_settled() });
        }
        report
    }

    /// One node's report, if it answers in time.
    pub(crate) async fn of(&self, node: &NodeId) -> Option<Report> {
        if node == self.mesh.node() { Some(self.own()) } else { self.ask(node).await.ok() }
    }

    /// The reports of all live nodes that answer in time, this one's among them.
    pub(crate) async fn gather(&self) -> Vec<(NodeId, Report)> {
        let members = self.mesh.members().borrow().clone();
        let asked = members.keys().map(|node| async move {
            let report = self.of(node).await;
            if report.is_none() {
                tracing::debug!(%node, "a node does not report");
            }
            Some((node.clone(), report?))
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    async fn ask(&self, node: &NodeId) -> Result<Report, CallError> {
        // None where it knows no such form.
        let known = |answered: Result<Report, CallError>| match answered {
            Err(CallError::Failed(_) | CallError::Refused { .. }) => None,
            answered => Some(answered),
        };
        let newest = self.ask_in(node, &FORM).await.map(|(report, scales, group, variants, runs, sent)| Report {
            scales,
            group,
            variants,
            runs,
            sent,
            ..report
        });
        if let Some(answered) = known(newest) {
            return answered;
        }
        let of_runs = self.ask_in(node, &FORM_OF_RUNS).await.map(|(report, scales, group, variants, runs)| Report {
            scales,
            group,
            variants,
            runs,
            ..report
        });
        if let Some(answered) = known(of_runs) {
            return answered;
        }
        let of_scales = self.ask_in(node, &FORM_OF_SCALES).await;
        match known(of_scales.map(|(report, scales)| Report { scales, ..report })) {
            Some(answered) => answered,
            None => self.ask_in(node, &()).await,
        }
    }

    async fn ask_in<T: DeserializeOwned>(&self, node: &NodeId, form: &impl Serialize) -> Result<T, CallError> {
        ask(&self.mesh, node, Method::Admin, Priority::Control, REPORT_DEADLINE, form).await
    }

    /// Answers another node's [`Method::Admin`].
    pub(crate) fn answer(&self, payload: &Bytes) -> Result<Bytes, String> {
        in_form(payload, self.own())
    }
}

/// A report in the form that was asked for.
fn in_form(payload: &Bytes, report: Report) -> Result<Bytes, String> {
    let encoded = match wire::decode::<()>(payload) {
        Ok(()) => wire::encode(&report),
        Err(_) => match wire::decode::<Asked>(payload).map_err(|error| error.to_string())? {
            ..FORM_OF_RUNS => wire::encode(&(&report, &report.scales)),
            FORM_OF_RUNS => wire::encode(&(&report, &report.scales, &report.group, &report.variants, &report.runs)),
            FORM.. => {
                let Report { scales, group, variants, runs, sent, .. } = &report;
                wire::encode(&(&report, scales, group, variants, runs, sent))
            }
        },
    };
    encoded.map_err(|error| error.to_string())
}

/// The newest assignment of each work that is in any of the reports.
pub(crate) fn assignments(reports: &[(NodeId, Report)]) -> BTreeMap<WorkId, Assignment> {
    let mut newest: BTreeMap<WorkId, Assignment> = BTreeMap::new();
    for assignment in reports.iter().flat_map(|(_, report)| &report.assignments) {
        match newest.get(&assignment.work) {
            Some(known) if known.epoch > assignment.epoch => {}
            _ => drop(newest.insert(assignment.work.clone(), assignment.clone())),
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use littoral_control::variants::Variant;
    use littoral_flow::stats::{Changes, Rescaled};
    use littoral_model::id::TenantId;
    use littoral_model::work::WorkKind;
    use littoral_sql::Change;

    use super::*;

    #[test]
    fn nodes_of_older_forms_are_told_what_they_read() {
        let scale = Scale {
            app: AppId { tenant: TenantId::default_tenant(), app: "shop".parse().unwrap() },
            function: "web".parse().unwrap(),
            standing: Some(Standing { ready: 2, ..Standing::default() }),
            refused: None,
            held: Some("for others".to_owned()),
        };
        let status = consensus::Status {
            leader: None,
            term: 3,
            voters: [NodeId::new("edge-1").unwrap()].into(),
            learners: [].into(),
            applied: 7,
        };
        let variant = ServedVariant {
            app: scale.app.clone(),
            function: scale.function.clone(),
            chosen: ChosenVariant { variant: Variant::Container, reason: "it is tried".to_owned() },
        };
        let group = Some(Group { status, has_settled: true });
        let work = "health.0".to_owned();
        let work = WorkId {
            app: scale.app.clone(),
            kind: WorkKind::Stage,
            name: work,
            partition: 1,
            site: "hall".parse().unwrap(),
        };
        let change = Change { generation: 1, from: 2, to: 3 };
        let changes = Changes { rescaled: Some(Rescaled { change, pause_us: None }), settled: Some(3) };
        let artifacts = vec!["ab".to_owned()];
        let sent = vec![Sent { work: work.clone(), bytes: [("main".to_owned(), 9)].into() }];
        let runs = vec![Run { work, epoch: Epoch(2), artifacts, pause_us: Some(9_000), changes }];
        let report = Report { scales: vec![scale], group, variants: vec![variant], runs, sent, ..Report::default() };
        let old = in_form(&wire::encode(&()).unwrap(), report.clone()).unwrap();
        assert_eq!(wire::decode::<Report>(&old).unwrap().scales, []);
        let newer = in_form(&wire::encode(&FORM_OF_SCALES).unwrap(), report.clone()).unwrap();
        let (_, scales): (Report, Vec<Scale>) = wire::decode(&newer).unwrap();
        assert_eq!(scales, report.scales);
        type OfRuns = (Report, Vec<Scale>, Option<Group>, Vec<ServedVariant>, Vec<Run>);
        let of_runs = in_form(&wire::encode(&FORM_OF_RUNS).unwrap(), report.clone()).unwrap();
        let (_, scales, group, variants, runs): OfRuns = wire::decode(&of_runs).unwrap();
        let expected = (report.scales.clone(), report.group.clone(), report.variants.clone(), report.runs.clone());
        assert_eq!((&scales, &group, &variants, &runs), (&expected.0, &expected.1, &expected.2, &expected.3));
        type Newest = (Report, Vec<Scale>, Option<Group>, Vec<ServedVariant>, Vec<Run>, Vec<Sent>);
        let newest = in_form(&wire::encode(&FORM).unwrap(), report.clone()).unwrap();
        let (_, scales, group, variants, runs, sent): Newest = wire::decode(&newest).unwrap();
        assert_eq!(((scales, group, variants, runs), sent), (expected, report.sent));
        // Such a node takes what it does not know for malformed, and is asked again.
        assert!(wire::decode::<()>(&wire::encode(&FORM).unwrap()).is_err());
    }
}
