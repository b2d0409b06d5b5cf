//! Puts together what `get` shows: what is deployed, beside what the nodes report.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use littoral_control::scaling::Reason;
use littoral_mesh::Members;
use littoral_model::condition::{Condition, Served};
use littoral_model::digest::NodeDigest;
use littoral_model::entry::{COUNTED_AS_SHED, PORT_MAIN};
use littoral_model::id::{FunctionName, NodeId, StreamName};
use littoral_model::manifest::{self, Partition, PartitionPolicy};
use littoral_model::unit::Time;
use littoral_model::work::{Assignment, WorkId};
use littoral_plan::{PlacedWork, Role};
use littoral_runtime::latency;

use crate::admin::exchange::artifact_digest;
use crate::admin::types::{
    AppStatus, ConditionStatus, ConnectorDirection, ConnectorStatus, FlowStatus, FunctionStatus, Health,
    InstancesStatus, LinkStatus, NodeState, NodeStatus, PartitionStatus, Quantiles, RescaledStatus, RunStatus,
    ServedStatus, SinkStatus, StageStatus, StreamStatus, VariantStatus,
};
use crate::fidelity;
use crate::functions::Standing;
use crate::intent::{App, Apps};
use crate::report::{OwnedWork, Report, Scale, assignments};

/// What is deployed and what the nodes report of it, at one moment.
pub(crate) struct Picture {
    apps: Arc<Apps>,
    assignments: BTreeMap<WorkId, Assignment>,
    owned: HashMap<WorkId, (NodeId, OwnedWork)>,
    reports: Vec<(NodeId, Report)>,
}

impl Picture {
    pub(crate) fn new(apps: Arc<Apps>, reports: Vec<(NodeId, Report)>) -> Self {
        let assignments = assignments(&reports);
        let mut owned: HashMap<WorkId, (NodeId, OwnedWork)> = HashMap::new();
        for (node, report) in &reports {
            for work in &report.works {
                let newer = owned.get(&work.work).is_none_or(|(_, known)| known.epoch < work.epoch);
                if newer {
                    owned.insert(work.work.clone(), (node.clone(), work.clone()));
                }
            }
        }
        for (node, sent) in reports.iter().flat_map(|(node, report)| report.sent.iter().map(move |sent| (node, sent))) {
            let work = owned.get_mut(&sent.work).filter(|(owner, _)| owner == node);
            if let Some(stats) = work.and_then(|(_, work)| work.stats.as_mut()) {
                stats.bytes_out.clone_from(&sent.bytes);
            }
        }
        Self { apps, assignments, owned, reports }
    }

    /// The apps.
    pub(crate) fn apps(&self) -> Vec<AppStatus> {
        self.apps.apps.values().map(|app| self.app(app)).collect()
    }

    /// One app.
    pub(crate) fn app(&self, app: &App) -> AppStatus {
        let mut reasons: Vec<String> = app.placement.works.iter().filter_map(|placed| self.lacks(placed)).collect();
        // A singleton is served by one of them, whichever.
        let is_singleton = app.manifest.partition == Partition::Named(PartitionPolicy::Singleton);
        for instance in &app.placement.instances {
            let serve = self.served(app, instance.function.as_str()).filter(|(_, ready, _)| *ready);
            let serve: Vec<&NodeId> = serve.map(|(node, ..)| node).collect();
            // Others may serve it in place of nodes that do not satisfy its constraints any more.
            let wanted = app.placement.serving.iter().find(|serving| serving.function == instance.function);
            let enough = wanted.is_some_and(|wanted| serve.len() >= wanted.wanted as usize);
            let is_served = if is_singleton { !serve.is_empty() } else { enough || serve.contains(&&instance.node) };
            if !is_served {
                let errors = self.served(app, instance.function.as_str()).filter_map(|(_, _, error)| error);
                let why = errors.map(|error| format!(": {error}")).next().unwrap_or_default();
                reasons.push(format!("function {} is not served by {} yet{why}", instance.function, instance.node));
            }
        }
        AppStatus {
            name: app.id.app.to_string(),
            version: app.manifest.version.clone(),
            description: app.manifest.description.clone(),
            digest: artifact_digest(app.bundle.manifest.as_bytes()),
            state: self.health(app, &reasons),
            reasons,
            functions: app.manifest.functions.keys().map(ToString::to_string).collect(),
            flows: app.manifest.flows.keys().map(ToString::to_string).collect(),
            streams: app.manifest.streams.keys().map(ToString::to_string).collect(),
            routes: app.manifest.routes.iter().map(|route| route.path.clone()).collect(),
            generation: app.edit.generation,
            author: app.edit.author.clone(),
            notes: app.lost.clone(),
        }
    }

    /// An app is starting until all of its work had an owner once, and degraded when a part is missing after that.
    fn health(&self, app: &App, reasons: &[String]) -> Health {
        let is_new = |placed: &PlacedWork| !self.assignments.contains_key(&placed.work);
        if reasons.is_empty() {
            Health::Healthy
        } else if app.placement.works.iter().any(is_new) || self.has_failed(app) {
            Health::Starting
        } else {
            Health::Degraded
        }
    }

    fn has_failed(&self, app: &App) -> bool {
        let mut owned = app.placement.works.iter().filter_map(|placed| self.owned.get(&placed.work));
        owned.any(|(_, work)| !work.leads)
    }

    /// What a work lacks to be healthy.
    fn lacks(&self, placed: &PlacedWork) -> Option<String> {
        let title = placed.title();
        let Some(assignment) = self.assignments.get(&placed.work) else {
            return Some(format!("{title} has no owner yet"));
        };
        let Some((node, work)) = self.owned.get(&placed.work) else {
            let owner = &assignment.owner;
            let answers = self.reports.iter().any(|(node, _)| node == owner);
            let what = if answers { "is being taken over by" } else { "is owned by a node that does not answer:" };
            return Some(format!("{title} {what} {owner}"));
        };
        let failed = work.stats.as_ref().and_then(|stats| stats.last_error.clone());
        match failed {
            Some(error) => Some(format!("{title} fails on {node}: {error}")),
            None if !work.leads => Some(format!("{title} is being taken over by {node}")),
            None if work.stats.is_none() => Some(format!("{title} is being started on {node}")),
            None => None,
        }
    }

    fn served<'a>(
        &'a self,
        app: &'a App,
        function: &'a str,
    ) -> impl Iterator<Item = (&'a NodeId, bool, Option<&'a String>)> {
        self.reports
            .iter()
            .flat_map(|(node, report)| report.functions.iter().map(move |served| (node, served)))
            .filter_map(move |(node, served)| {
                let same = served.app == app.id && served.function.as_str() == function;
                same.then_some((node, served.ready, served.last_error.as_ref()))
            })
    }

    /// The functions of all apps.
    pub(crate) fn functions(&self) -> Vec<FunctionStatus> {
        let all = self.apps.apps.values().flat_map(|app| app.manifest.functions.keys().map(move |name| (app, name)));
        all.map(|(app, name)| self.function(app, name)).collect()
    }

    fn function(&self, app: &App, id: &FunctionName) -> FunctionStatus {
        let name = id.as_str();
        let mut status = FunctionStatus {
            app: app.id.app.to_string(),
            name: name.to_owned(),
            nodes: Vec::new(),
            invocations: 0,
            errors: 0,
            latency: Quantiles::default(),
            slo_p95_ms: slo_ms(app.manifest.functions.get(id).and_then(|function| function.slo)),
            slo_met: None,
            last_error: None,
            instances: Vec::new(),
            priority: app.manifest.functions.get(id).map(|function| function.priority).unwrap_or_default().to_string(),
            held: Vec::new(),
            variants: Vec::new(),
        };
        for (node, report) in &self.reports {
            for scale in report.scales.iter().filter(|scale| scale.app == app.id && scale.function == *id) {
                status.instances.extend(instances(node, scale));
                status.held.extend(scale.held.as_ref().map(|why| format!("{node}: {why}")));
            }
            let chosen = report.variants.iter().filter(|served| served.app == app.id && served.function == *id);
            status.variants.extend(chosen.map(|served| VariantStatus {
                node: node.to_string(),
                variant: served.chosen.variant.to_string(),
                reason: served.chosen.reason.clone(),
            }));
            let served =
                report.functions.iter().filter(|served| served.app == app.id && served.function.as_str() == name);
            for served in served {
                status.nodes.push(node.to_string());
                status.invocations += served.latency.count;
                status.errors += served.errors;
                worse(&mut status.latency, served.latency);
                status.last_error = status.last_error.or_else(|| served.last_error.clone());
            }
            for work in report.works.iter().filter(|work| work.work.app == app.id) {
                let Some(stats) = &work.stats else { continue };
                let Some(inside) = stats.functions.get(name) else { continue };
                status.nodes.push(node.to_string());
                status.invocations += inside.rows;
                status.errors += inside.rejected;
                worse(&mut status.latency, inside.process);
                status.last_error = status.last_error.or_else(|| stats.last_error.clone());
            }
        }
        // A stage that has had no rows yet is where its work is.
        let calls =
            |stage: &FunctionName| app.manifest.queries.get(stage).is_some_and(|query| query.functions.contains(id));
        let has_it = |placed: &&PlacedWork| runs(placed, |stage| stage == id || calls(stage));
        let stages = app.placement.works.iter().filter(has_it);
        status.nodes.extend(stages.filter_map(|placed| Some(self.assignments.get(&placed.work)?.owner.to_string())));
        status.nodes.sort();
        status.nodes.dedup();
        status.slo_met = met(status.slo_p95_ms, status.latency);
        status
    }

    /// The flows of all apps.
    pub(crate) fn flows(&self) -> Vec<FlowStatus> {
        let all = self.apps.apps.values().flat_map(|app| app.manifest.flows.iter().map(move |flow| (app, flow)));
        all.map(|(app, (name, flow))| self.flow(app, name.as_str(), flow)).collect()
    }

    fn flow(&self, app: &App, name: &str, flow: &manifest::Flow) -> FlowStatus {
        let stages: Vec<&PlacedWork> = app.placement.works.iter().filter(|placed| is_of_flow(placed, name)).collect();
        let reasons: Vec<String> = stages.iter().filter_map(|placed| self.lacks(placed)).collect();
        let sinks = self.sinks(app, name, flow);
        let mut state = self.health(app, &reasons);
        if state == Health::Healthy && sinks.iter().any(|sink| sink.slo_met == Some(false)) {
            state = Health::Degraded;
        }
        FlowStatus {
            app: app.id.app.to_string(),
            name: name.to_owned(),
            state,
            reasons,
            stages: stages.iter().map(|placed| self.stage(app, placed)).collect(),
            sinks,
        }
    }

    fn stage(&self, app: &App, placed: &PlacedWork) -> StageStatus {
        let assignment = self.assignments.get(&placed.work);
        let stats = self.owned.get(&placed.work).and_then(|(_, work)| work.stats.clone()).unwrap_or_default();
        let on =
            |by_port: &BTreeMap<String, u64>| by_port.iter().filter(|(port, _)| is_main(port)).map(|(_, of)| of).sum();
        let functions = match &placed.role {
            Role::Stage { functions, .. } => functions.iter().map(|stage| stage.function.to_string()).collect(),
            Role::StreamPartition { .. } | Role::Queue { .. } | Role::Source { .. } | Role::Sink { .. } => Vec::new(),
        };
        StageStatus {
            name: placed.work.name.clone(),
            functions,
            partition: placed.work.partition,
            site: placed.work.site.to_string(),
            owner: assignment.map(|assignment| assignment.owner.to_string()),
            epoch: assignment.map_or(0, |assignment| assignment.epoch.0),
            in_sync: assignment.map(names).unwrap_or_default(),
            rows_in: stats.rows_in,
            bytes_in: stats.bytes_in,
            rows_out: stats.rows_out.iter().filter(|(port, _)| *port != COUNTED_AS_SHED).map(|(_, rows)| rows).sum(),
            rows_on: on(&stats.rows_out),
            bytes_on: on(&stats.bytes_out),
            rows_rejected: stats.rejected,
            rows_shed: stats.rows_out.get(COUNTED_AS_SHED).copied().unwrap_or_default(),
            first_commit_us: stats.first_us,
            last_commit_us: stats.last_us,
            latency: shown(stats.process),
            runs: self.runs(app, placed),
            reasons: crate::plan_report::told(&placed.reasons, false),
        }
    }

    /// What takes rows at the owner of a work.
    fn runs(&self, app: &App, placed: &PlacedWork) -> Option<RunStatus> {
        let work = &placed.work;
        let (owner, _) = self.owned.get(work)?;
        let (_, report) = self.reports.iter().find(|(node, _)| node == owner)?;
        let run = report.runs.iter().find(|run| run.work == *work)?;
        let pause_ms = run.pause_us.map(|pause_us| pause_us as f64 / 1e3);
        let rescaled = run.changes.rescaled.map(|rescaled| RescaledStatus {
            generation: rescaled.change.generation,
            from: rescaled.change.from,
            to: rescaled.change.to,
            pause_ms: rescaled.pause_us.map(|pause_us| pause_us as f64 / 1e3),
        });
        let variants = fidelity::running(app, &placed.role, &run.artifacts);
        let variants = variants.into_iter().map(|(function, variant)| (function.to_string(), variant.to_string()));
        Some(RunStatus {
            artifacts: run.artifacts.clone(),
            variants: variants.collect(),
            pause_ms,
            rescaled,
            partitions: run.changes.settled,
        })
    }

    /// What arrives at the streams that a flow writes to; latencies are those of the slowest partition.
    fn sinks(&self, app: &App, flow_name: &str, flow: &manifest::Flow) -> Vec<SinkStatus> {
        let sink = match &flow.sink {
            Some(manifest::Sink::Stream(stream)) => Some(stream),
            _ => None,
        };
        let others = flow.outputs.values().chain(&flow.dead_letter);
        let mut streams: Vec<&StreamName> = sink.into_iter().chain(others).collect();
        let mut seen = std::collections::BTreeSet::new();
        streams.retain(|stream| seen.insert(*stream));
        let slo_ms = slo_ms(flow.slo);
        let mut found = Vec::with_capacity(streams.len());
        for stream in streams {
            let (mut rows, mut bytes, mut quantiles, mut last_commit_us) = (0, 0, Quantiles::default(), None);
            for placed in app.placement.works.iter().filter(|placed| is_fed_by(placed, stream, flow_name)) {
                let Some((_, work)) = self.owned.get(&placed.work) else { continue };
                let Some(stats) = &work.stats else { continue };
                rows += stats.rows_in;
                bytes += stats.bytes_in;
                last_commit_us = last_commit_us.max(stats.last_us);
                worse(&mut quantiles, stats.end_to_end);
            }
            let slo_p95_ms = slo_ms.filter(|_| Some(stream) == sink);
            let slo_met = met(slo_p95_ms, quantiles);
            found.push(SinkStatus {
                name: stream.to_string(),
                rows,
                bytes,
                last_commit_us,
                latency: quantiles,
                slo_p95_ms,
                slo_met,
            });
        }
        found
    }

    /// The streams of all apps.
    pub(crate) fn streams(&self) -> Vec<StreamStatus> {
        let all = self.apps.apps.values().flat_map(|app| app.manifest.streams.keys().map(move |stream| (app, stream)));
        let status = all.map(|(app, stream)| {
            let of_stream = |placed: &&PlacedWork| matches!(&placed.role, Role::StreamPartition { stream: name, .. } if name == stream);
            let partitions = app.placement.works.iter().filter(of_stream).map(|placed| self.partition(placed));
            let mut partitions: Vec<PartitionStatus> = partitions.collect();
            partitions.sort_by_key(|partition| partition.partition);
            StreamStatus { app: app.id.app.to_string(), name: stream.to_string(), partitions }
        });
        status.collect()
    }

    /// The sources and sinks of all apps.
    pub(crate) fn connectors(&self) -> Vec<ConnectorStatus> {
        let all = self.apps.apps.values().flat_map(|app| app.placement.works.iter().map(move |placed| (app, placed)));
        all.filter_map(|(app, placed)| self.connector(app, placed)).collect()
    }

    fn connector(&self, app: &App, placed: &PlacedWork) -> Option<ConnectorStatus> {
        let (direction, name, stream) = match &placed.role {
            Role::Source { source, stream, .. } => (ConnectorDirection::In, source, stream),
            Role::Sink { sink, .. } => (ConnectorDirection::Out, sink, &app.manifest.sinks.get(sink)?.stream),
            _ => return None,
        };
        let assignment = self.assignments.get(&placed.work);
        let stats = self.owned.get(&placed.work).and_then(|(_, work)| work.stats.clone()).unwrap_or_default();
        let lacks: Vec<String> = self.lacks(placed).into_iter().collect();
        Some(ConnectorStatus {
            app: app.id.app.to_string(),
            name: name.to_string(),
            direction,
            stream: stream.to_string(),
            state: self.health(app, &lacks),
            owner: assignment.map(|assignment| assignment.owner.to_string()),
            epoch: assignment.map_or(0, |assignment| assignment.epoch.0),
            in_sync: assignment.map(names).unwrap_or_default(),
            records: stats.rows_in,
            bytes: stats.bytes_in,
            passed_over: stats.rejected,
            last_us: stats.last_us,
            reason: lacks.into_iter().next(),
        })
    }

    fn partition(&self, placed: &PlacedWork) -> PartitionStatus {
        let assignment = self.assignments.get(&placed.work);
        let owned = self.owned.get(&placed.work).map(|(_, work)| work);
        PartitionStatus {
            partition: placed.work.partition,
            site: placed.work.site.to_string(),
            owner: assignment.map(|assignment| assignment.owner.to_string()),
            epoch: assignment.map_or(0, |assignment| assignment.epoch.0),
            in_sync: assignment.map(names).unwrap_or_default(),
            first: owned.map_or(0, |work| work.first),
            next: owned.map_or(0, |work| work.committed + 1),
        }
    }
}

/// The nodes that hold all that was acknowledged.
fn names(assignment: &Assignment) -> Vec<String> {
    assignment.in_sync.iter().map(ToString::to_string).collect()
}

fn instances(node: &NodeId, scale: &Scale) -> Option<InstancesStatus> {
    if scale.standing.is_none() && scale.refused.is_none() {
        return None;
    }
    // One that stays loaded.
    let loaded = || Standing { ready: 1, wanted: 1, reason: Reason::Minimum.to_string(), ..Standing::default() };
    let Standing { ready, starting, wanted, reason, cold, .. } = scale.standing.clone().unwrap_or_else(loaded);
    let refused = scale.refused.clone();
    Some(InstancesStatus { node: node.to_string(), ready, starting, wanted, reason, cold, refused })
}

fn runs(placed: &PlacedWork, is_it: impl Fn(&FunctionName) -> bool) -> bool {
    matches!(&placed.role, Role::Stage { functions, .. } if functions.iter().any(|stage| is_it(&stage.function)))
}

fn is_of_flow(placed: &PlacedWork, name: &str) -> bool {
    matches!(&placed.role, Role::Stage { flow, .. } if flow.as_str() == name)
}

/// Whether a work is a partition of the stream that takes in rows of the flow's stages.
fn is_fed_by(placed: &PlacedWork, name: &StreamName, flow: &str) -> bool {
    let Role::StreamPartition { stream, sources } = &placed.role else { return false };
    let of_flow =
        |source: &littoral_plan::Source| source.work.name.rsplit_once('.').is_some_and(|(name, _)| name == flow);
    stream == name && sources.iter().any(of_flow)
}

/// An objective, in milliseconds.
fn slo_ms(slo: Option<Time>) -> Option<f64> {
    slo.map(|slo| std::time::Duration::from(slo).as_secs_f64() * 1_000.0)
}

/// Whether an objective is met, once there is one and something was measured.
fn met(slo_p95_ms: Option<f64>, measured: Quantiles) -> Option<bool> {
    slo_p95_ms.filter(|_| measured.count > 0).map(|slo| measured.p95_ms <= slo)
}

fn shown(quantiles: latency::Quantiles) -> Quantiles {
    let ms = |us: u64| us as f64 / 1_000.0;
    Quantiles {
        count: quantiles.count,
        p50_ms: ms(quantiles.p50_us),
        p95_ms: ms(quantiles.p95_us),
        p99_ms: ms(quantiles.p99_us),
    }
}

/// Takes in another place's quantiles: counts add up, and of the latencies the slowest place's are shown.
fn worse(quantiles: &mut Quantiles, other: latency::Quantiles) {
    let other = shown(other);
    quantiles.count += other.count;
    quantiles.p50_ms = quantiles.p50_ms.max(other.p50_ms);
    quantiles.p95_ms = quantiles.p95_ms.max(other.p95_ms);
    quantiles.p99_ms = quantiles.p99_ms.max(other.p99_ms);
}

/// A node, from its digest.
pub(crate) fn node(digest: &NodeDigest, state: NodeState) -> NodeStatus {
    NodeStatus {
        id: digest.node.to_string(),
        tier: digest.tier.to_string(),
        site: digest.site.to_string(),
        labels: digest.labels.clone(),
        situation: digest.situation.describe(),
        version: digest.program.clone(),
        state,
        works: digest.works,
        functions: digest.functions.clone(),
        http: digest.http.clone(),
        revoked: false,
        links: digest
            .links
            .iter()
            .map(|link| LinkStatus {
                peer: link.peer.to_string(),
                rtt_ms: link.rtt_us as f64 / 1_000.0,
                bandwidth_bps: link.bandwidth_bps,
            })
            .collect(),
        condition: condition(&digest.condition),
    }
}

fn condition(condition: &Condition) -> ConditionStatus {
    let served = |served: &Served| ServedStatus {
        function: served.function.clone(),
        p50_ms: f64::from(served.p50_us) / 1_000.0,
        p95_ms: f64::from(served.p95_us) / 1_000.0,
        samples: served.samples,
        queue: served.queue,
    };
    ConditionStatus {
        busy_percent: f64::from(condition.busy_permille) / 10.0,
        run_queue: condition.run_queue,
        memory_free_bytes: condition.memory_free_bytes,
        slowdown: f64::from(condition.slowdown_permille) / 1_000.0,
        served: condition.served.iter().map(served).collect(),
    }
}

/// All nodes that are known: the live ones and those that were.
pub(crate) fn nodes(live: &Members, lost: &BTreeMap<NodeId, Arc<NodeDigest>>) -> Vec<NodeStatus> {
    let alive = live.values().map(|digest| node(digest, NodeState::Alive));
    let gone =
        lost.iter().filter(|(name, _)| !live.contains_key(*name)).map(|(_, digest)| node(digest, NodeState::Lost));
    let mut all: Vec<NodeStatus> = alive.chain(gone).collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// Whether a port is that of a stage's result, or of the part of it for one partition.
fn is_main(port: &str) -> bool {
    port.split('.').next() == Some(PORT_MAIN)
}
