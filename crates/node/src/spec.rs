//! What a manifest asks for, as placement needs it.

use std::collections::BTreeMap;
use std::time::Duration;

use littoral_mesh::Members;
use littoral_model::id::{AppId, ConnectorName, FunctionName, NodeId, StreamName, TenantId};
use littoral_model::manifest::{self, Manifest, Partitioning};
use littoral_model::unit::Bandwidth;
use littoral_plan::profile::RECORDS_FEW;
use littoral_plan::{
    Ack, AppSpec, ConnectorSpec, Constraints, Direction, FlowSpec, FunctionSpec, Interface, PartitionsBefore,
    QueueSpec, Role, SAME_PERMILLE, Sink, StreamSpec,
};

use crate::intent::App;
use crate::report::Report;

/// The artefact of a function that is not built yet, for planning.
const NOT_BUILT: &str = "";

/// What one partition of the stage of a flow in SQL may take: a batch and what becomes of it, and the groups of windows. A
/// component's instance is given as much unless its manifest says otherwise.
const QUERY_MEMORY_BYTES: u64 = 64 << 20;

/// The label of nodes that run containers, which they give themselves, and with which functions of images ask for them.
pub(crate) const CONTAINER_LABEL: (&str, &str) = ("littoral-container", "yes");
/// The same for processes.
pub(crate) const PROCESS_LABEL: (&str, &str) = ("littoral-process", "yes");

/// What the manifest asks for. `artifacts` has the digest of each function that is built; one that is not can be planned.
pub(crate) fn app_spec(manifest: &Manifest, artifacts: &BTreeMap<String, String>) -> AppSpec {
    let functions = manifest.functions.iter().map(|(name, function)| {
        let is_stage = manifest.flows.values().any(|flow| {
            flow.stages.contains(name) || matches!(&flow.sink, Some(manifest::Sink::Function(sink)) if sink == name)
        });
        // What expressions call is in their stages, and nowhere by itself.
        let is_stage = is_stage || manifest.called.contains(name);
        let spec = FunctionSpec {
            artifact: artifacts.get(&function.chosen_artifact(name)).map_or(NOT_BUILT, String::as_str).to_owned(),
            interface: if is_stage { Interface::Stage } else { Interface::Http },
            memory_bytes: u64::from(function.memory) * u64::from(function.instances_min().max(1)),
            placement: placement(function),
            // `take_measured` fills it in.
            execution_us: None,
            // A component keeps a state for each partition, and knows that.
            partitioning: Partitioning::Any,
            output_permille: SAME_PERMILLE,
        };
        (name.clone(), spec)
    });
    let queries = manifest.queries.iter().map(|(name, query)| {
        let called = || query.functions.iter().filter_map(|name| Some((name, manifest.functions.get(name)?)));
        let digest = |(name, of): (&FunctionName, &manifest::Function)| {
            artifacts.get(&of.chosen_artifact(name)).map_or(NOT_BUILT, String::as_str)
        };
        let spec = FunctionSpec {
            artifact: query.artifact(called().map(digest)),
            interface: Interface::Stage,
            memory_bytes: QUERY_MEMORY_BYTES + called().map(|(_, of)| u64::from(of.memory)).sum::<u64>(),
            // Where these contradict one another the app is refused, see `composition`.
            placement: query_placement(manifest, query).unwrap_or_else(|_| Constraints::from(&query.placement)),
            execution_us: None,
            partitioning: query.partitioning,
            output_permille: query.output_permille,
        };
        (name.clone(), spec)
    });
    let streams = manifest.streams.iter().map(|(name, stream)| {
        let ack = stream.ack.map(ack_of);
        let placement = Constraints::from(&stream.placement);
        let rate_bps = stream.rate.map(Bandwidth::as_bits_per_second);
        (name.clone(), StreamSpec { partitions: stream.partitions, placement, ack, rate_bps, before: None })
    });
    let flows = manifest.flows.iter().map(|(name, flow)| {
        let sink = flow.sink.as_ref().map(|sink| match sink {
            manifest::Sink::Stream(stream) => Sink::Stream(stream.clone()),
            manifest::Sink::Function(function) => Sink::Function(function.clone()),
        });
        let spec = FlowSpec {
            source: flow.source.clone(),
            stages: flow.stages.clone(),
            sink,
            outputs: flow.outputs.clone(),
            dead_letter: flow.dead_letter.clone(),
            slo_us: flow.slo.map(|slo| u64::try_from(Duration::from(slo).as_micros()).unwrap_or(u64::MAX)),
        };
        (name.clone(), spec)
    });
    let queues = manifest.functions.iter().filter_map(|(name, function)| {
        let of_it = manifest.triggers.iter().filter(|trigger| trigger.function == *name);
        let streams = of_it.filter_map(|trigger| trigger.stream.clone()).collect();
        Some((name.clone(), QueueSpec { ack: function.later.as_ref()?.ack.map(ack_of), streams }))
    });
    AppSpec {
        app: app_id(manifest),
        queues: queues.collect(),
        functions: functions.chain(queries).collect(),
        streams: streams.collect(),
        flows: flows.collect(),
        connectors: connectors(manifest),
        objectives: manifest.objectives.unwrap_or_default(),
    }
}

/// Its sources and sinks.
fn connectors(manifest: &Manifest) -> Vec<ConnectorSpec> {
    let spec = |direction, name: &ConnectorName, stream: &StreamName, node: &Option<NodeId>, placement| ConnectorSpec {
        name: name.clone(),
        direction,
        stream: stream.clone(),
        placement: Constraints { nodes: node.iter().cloned().collect(), ..Constraints::from(placement) },
    };
    let sources = manifest
        .sources
        .iter()
        .map(|(name, source)| spec(Direction::In, name, &source.stream, &source.node, &source.placement));
    let sinks =
        manifest.sinks.iter().map(|(name, sink)| spec(Direction::Out, name, &sink.stream, &sink.node, &sink.placement));
    sources.chain(sinks).collect()
}

fn ack_of(ack: manifest::Ack) -> Ack {
    match ack {
        manifest::Ack::Local => Ack::Local,
        manifest::Ack::Site => Ack::Site,
    }
}

/// Fills in what the app's functions take where they run already: what 95 of 100 executions took on the node that tells of
/// most of them, for there it is known best.
pub(crate) fn take_measured(spec: &mut AppSpec, reports: &[(NodeId, Report)], live: &Members) {
    let app = &spec.app;
    for (name, function) in &mut spec.functions {
        let works = reports.iter().flat_map(|(_, report)| &report.works).filter(|owned| owned.work.app == *app);
        let stages = works.filter_map(|owned| owned.stats.as_ref()?.functions.get(name.as_str()));
        let stages = stages.map(|stage| (stage.process.count, stage.process.p95_us));
        let called = format!("{app}/{name}");
        let served =
            live.values().flat_map(|digest| &digest.condition.served).filter(|served| served.function == called);
        let served = served.map(|served| (u64::from(served.samples), u64::from(served.p95_us)));
        let known = stages.chain(served).filter(|(samples, _)| *samples >= u64::from(RECORDS_FEW));
        function.execution_us = known.max().map(|(_, p95_us)| p95_us.max(1));
    }
}

/// Where a function may run: what its manifest says, and where there is a runtime for it. One that is a component, too, runs anywhere.
fn placement(function: &manifest::Function) -> Constraints {
    let mut placement = Constraints::from(&function.placement);
    if function.is_hybrid() {
        return placement;
    }
    for (is_asked, (label, value)) in
        [(function.image.is_some(), CONTAINER_LABEL), (function.process.is_some(), PROCESS_LABEL)]
    {
        if is_asked {
            placement.labels.insert(label.to_owned(), value.to_owned());
        }
    }
    placement
}

/// Where the stage of a query may run: where all may that it calls, too.
///
/// # Errors
/// Names the first function that may not be where the others are.
pub(crate) fn query_placement<'m>(
    manifest: &'m Manifest,
    query: &'m manifest::Query,
) -> Result<Constraints, &'m FunctionName> {
    let mut all = Constraints::from(&query.placement);
    for name in &query.functions {
        let Some(function) = manifest.functions.get(name) else { continue };
        all = all.and(&Constraints::from(&function.placement)).ok_or(name)?;
    }
    Ok(all)
}

/// The app that a manifest is of.
pub(crate) fn app_id(manifest: &Manifest) -> AppId {
    AppId { tenant: TenantId::default_tenant(), app: manifest.name.clone() }
}

/// How many partitions a stream of a deployed app has had, where their number was changed, or is to be now.
pub(crate) fn partitions_before(deployed: &App, stream: &StreamName, wanted: Option<u32>) -> Option<PartitionsBefore> {
    let roles = || deployed.placement.works.iter().map(|placed| (placed.work.partition, &placed.role));
    let first = roles().find_map(|(_, role)| match role {
        Role::Stage { input, rescaling: Some(of), .. } if input.work.name == stream.as_str() => Some(of.first),
        _ => None,
    });
    let before = deployed.manifest.streams.get(stream)?.partitions;
    let first = first.or_else(|| before.filter(|before| wanted.is_some_and(|wanted| wanted != *before)))?;
    let is_its = |role: &Role| matches!(role, Role::StreamPartition { stream: of, .. } if of == stream);
    let most = roles().filter(|(_, role)| is_its(role)).map(|(partition, _)| partition + 1).max();
    Some(PartitionsBefore { first, most: most.unwrap_or_default() })
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use std::sync::Arc;

    use littoral_flow::stats::{FunctionSnapshot, Snapshot};
    use littoral_model::condition::{Condition, Served};
    use littoral_model::digest::NodeDigest;
    use littoral_model::id::{Epoch, Tier};
    use littoral_model::situation::Situation;
    use littoral_model::wire::VersionRange;
    use littoral_runtime::latency::Quantiles;

    use super::*;
    use crate::report::OwnedWork;

    const MANIFEST: &str = r#"
name = "shop"
version = "1.0.0"
[functions.clean]
component = "clean.wasm"
[functions.page]
component = "page.wasm"
[functions.new]
component = "new.wasm"
[streams.orders]
[flows.sell]
source = "orders"
stages = ["clean"]
"#;

    fn owned(work: &str, function: &str, count: u64, p95_us: u64) -> OwnedWork {
        let process = Quantiles { count, p95_us, ..Quantiles::default() };
        let inside = FunctionSnapshot { rows: count, process, ..FunctionSnapshot::default() };
        let functions = BTreeMap::from([(function.to_owned(), inside)]);
        OwnedWork {
            work: work.parse().unwrap(),
            epoch: Epoch(1),
            leads: true,
            first: 0,
            committed: 0,
            stats: Some(Snapshot { functions, ..Snapshot::default() }),
        }
    }

    /// What a node of a site says of itself.
    pub(crate) fn digest(node: &str, site: &str) -> NodeDigest {
        NodeDigest {
            node: node.parse().unwrap(),
            tier: Tier::Edge,
            site: site.parse().unwrap(),
            labels: BTreeMap::new(),
            incarnation: 1,
            sequence: 1,
            protocol: VersionRange::OURS,
            program: String::new(),
            cores: 2,
            memory_bytes: 1,
            works: 0,
            http: None,
            functions: Vec::new(),
            links: Vec::new(),
            intent: 0,
            situation: Situation::default(),
            condition: Condition::default(),
        }
    }

    #[test]
    fn what_was_measured_often_enough_takes_the_place_of_the_guess() {
        let manifest = manifest::parse("littoral.toml", MANIFEST).unwrap();
        let mut spec = app_spec(&manifest, &BTreeMap::new());
        let works = vec![
            owned("default/shop/stage/sell.0/0@hall", "clean", 100, 3_000),
            // Another one of which less is known, and another app's of the same name.
            owned("default/shop/stage/sell.0/1@hall", "clean", 99, 9_000),
            owned("default/other/stage/sell.0/0@hall", "clean", 500, 1),
        ];
        let reports = [("a".parse().unwrap(), Report { works, ..Report::default() })];
        let served = |name: &str, samples| Served {
            function: format!("default/shop/{name}"),
            p50_us: 1_000,
            p95_us: 4_000,
            samples,
            queue: 0,
        };
        let mut live = digest("a", "hall");
        live.condition.served = vec![served("page", 8), served("new", 7)];
        let live = Members::from([(live.node.clone(), Arc::new(live))]);
        take_measured(&mut spec, &reports, &live);
        let of = |name: &str| spec.functions[&name.parse::<FunctionName>().unwrap()].execution_us;
        assert_eq!((of("clean"), of("page"), of("new")), (Some(3_000), Some(4_000), None));
    }

    #[test]
    fn a_flow_in_sql_is_a_stage_without_an_artefact() {
        let text = "CREATE STREAM raw (a bigint) PARTITIONS 2; \
                    CREATE FLOW f WITHIN '2 s' KEEP IN REGION 'eu' PREFER edge DEAD LETTER INTO bad AS SELECT a FROM raw WHERE a > 0";
        let text = format!("{MANIFEST}[sql.flows]\ntext = \"{text}\"\n[[routes]]\npath = \"/f\"\nstream = \"f\"\n");
        let (manifest, program) = crate::intent::read_manifest(&text).unwrap();
        let spec = app_spec(&manifest, &BTreeMap::new());
        let name: FunctionName = "f".parse().unwrap();
        let function = &spec.functions[&name];
        assert_eq!((function.interface, function.placement.prefer), (Interface::Stage, Some(Tier::Edge)));
        assert_eq!(function.artifact, format!("sql:{:016x}", program.stage(&name).unwrap().fingerprint()));
        let flow = &spec.flows[&"f".parse().unwrap()];
        assert_eq!((flow.stages.as_slice(), flow.slo_us), ([name].as_slice(), Some(2_000_000)));
        for (stream, partitions, regions) in [("raw", Some(2), 0), ("f", None, 1), ("bad", None, 1)] {
            let stream = &spec.streams[&stream.parse().unwrap()];
            assert_eq!((stream.partitions, stream.placement.regions.len()), (partitions, regions));
        }
        let mistaken = text.replace("a > 0", "b > 0");
        let findings = crate::intent::read_manifest(&mistaken).unwrap_err();
        assert_eq!(findings.to_string(), "flows.sql:1:151: there is no column `b`");
    }

    #[test]
    fn what_a_query_calls_is_part_of_its_stage() {
        let text = "CREATE STREAM raw (a bigint); CREATE FUNCTION judge (value bigint) RETURNS bigint; \
                    CREATE FUNCTION unused () RETURNS bigint AS 'page'; \
                    CREATE FLOW f KEEP IN REGION 'eu' AS SELECT judge(a) AS b FROM raw";
        let function = "[functions.judge]\ncomponent = \"judge.wasm\"\nmemory = \"32MiB\"\nplacement = { tier = \"edge\", region = \"eu\" }\n";
        let text = format!("{MANIFEST}{function}[sql.flows]\ntext = \"{text}\"\n");
        let (manifest, program) = crate::intent::read_manifest(&text).unwrap();
        let spec = app_spec(&manifest, &BTreeMap::from([("judge".to_owned(), "0123".to_owned())]));
        let of = |name: &str| &spec.functions[&name.parse::<FunctionName>().unwrap()];
        let plan = program.stage(&"f".parse().unwrap()).unwrap();
        assert_eq!(of("f").artifact, format!("sql:{:016x}+0123", plan.fingerprint()));
        assert!(
            manifest::Query::is_made_of(&of("f").artifact, "0123")
                && !manifest::Query::is_made_of(&of("f").artifact, "012")
        );
        assert_eq!(of("f").memory_bytes, QUERY_MEMORY_BYTES + (32 << 20));
        assert_eq!((of("f").placement.tiers.len(), of("f").placement.regions.len()), (1, 1));
        // Neither what is called nor what may be is served by itself.
        assert_eq!((of("judge").interface, of("page").interface), (Interface::Stage, Interface::Stage));
        let (manifest, _) = crate::intent::read_manifest(&text.replace("region = \"eu\"", "region = \"us\"")).unwrap();
        let apart = query_placement(&manifest, &manifest.queries[&"f".parse().unwrap()]).unwrap_err();
        assert_eq!(apart.as_str(), "judge");
    }
}
