//! `place`: how many placements a node's scheduler makes in a second among 256 candidates, and how far they are from the
//! best there is: on small random cases every assignment of stages to nodes is tried.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use littoral_model::condition::Coordinate;
use littoral_model::digest::LinkReport;
use littoral_model::id::{AppId, AppName, FlowName, FunctionName, NodeId, SiteId, StreamName, TenantId, Tier};
use littoral_model::manifest::{Objectives, Partitioning};
use littoral_model::situation::Situation;
use littoral_plan::coordinate::estimate_us;
use littoral_plan::{
    Ack, AppSpec, Constraints, Fabric, FlowSpec, FunctionSpec, Interface, NodeView, SAME_PERMILLE, Sink, StreamSpec,
    compile,
};

use crate::results::{Results, Series, load, quantile};

/// How many nodes the scheduler chooses from.
const CANDIDATES: usize = 256;
/// For how long placements are counted, and in the short form.
const MEASURE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1));
/// How many small cases, and in the short form.
const CASES: (usize, usize) = (1_000, 50);
/// The nodes of a small case, besides the one with the source.
const SMALL_NODES: usize = 4;
/// The stages of a small case: with [`SMALL_NODES`], at most 125 assignments.
const STAGES: usize = 3;
/// How many links each node of a large case has measured.
const LINKS_MEASURED: usize = 16;
/// The label that pins a function to a node.
const PIN: &str = "pin";

/// Runs the benchmark.
pub(crate) fn run(short: bool) -> anyhow::Result<()> {
    let mut results = Results::begin("place", short);
    let mut random = Random(20_261_121);
    let large = case(&mut random, CANDIDATES)?;
    let mut speed = Series::new(
        format!("{STAGES} stages among {CANDIDATES} candidates"),
        "what the digests say to a placement, one thread",
        "placements_per_s",
    );
    let measure = if short { MEASURE.1 } else { MEASURE.0 };
    let (begun, mut placements) = (Instant::now(), 0_u32);
    while begun.elapsed() < measure {
        // A scheduler takes in the digests anew for each deployment: that counts.
        compile(&large.spec, &large.fabric(), &[]).context("the large case has no placement")?;
        placements += 1;
    }
    let per_s = f64::from(placements) / begun.elapsed().as_secs_f64();
    speed.note(per_s, &[]);
    let cases = if short { CASES.1 } else { CASES.0 };
    let mut gaps = Vec::new();
    while gaps.len() < cases {
        let small = case(&mut random, SMALL_NODES)?;
        match (predicted_us(&small.spec, &small.fabric()), best_us(&small)) {
            (Some(ours), Some(best)) => gaps.push((ours as f64 / best as f64 - 1.0) * 100.0),
            (None, Some(best)) => anyhow::bail!("a case was refused that can be placed, with {best} us"),
            // Too little memory anywhere: no case.
            (_, None) => {}
        }
    }
    let mut gap = Series::new(
        format!("gap to the best of all assignments, {cases} random cases"),
        format!(
            "{STAGES} stages, {SMALL_NODES} nodes of random tiers, links of up to 120 ms, memory for one to three stages"
        ),
        "median_percent",
    );
    let (median, worst) = (quantile(&gaps, 0.5), quantile(&gaps, 1.0));
    gap.note(median, &[("p95_percent", quantile(&gaps, 0.95)), ("max_percent", worst)]);
    results.series.extend([speed, gap]);
    results.ratios.insert("place_per_s".to_owned(), per_s);
    results.ratios.insert("place_gap_median_percent".to_owned(), median);
    results.load.1 = load();
    results.publish()
}

/// What is known of a fabric, and an app with one flow.
struct Case {
    spec: AppSpec,
    views: Vec<NodeView>,
    reports: Vec<(NodeId, LinkReport)>,
    coordinates: Vec<(NodeId, Coordinate)>,
}

impl Case {
    fn fabric(&self) -> Fabric {
        let fabric = Fabric::new(self.views.clone(), self.reports.clone());
        Fabric { links: fabric.links.located(self.coordinates.clone()), ..fabric }
    }
}

/// A device with the source, and so many nodes somewhere in a cube of 60 ms. Each has measured its links to every
/// other one of a small case, and to some of a large one.
fn case(random: &mut Random, nodes: usize) -> anyhow::Result<Case> {
    const TIERS: [Tier; 3] = [Tier::Edge, Tier::Region, Tier::Cloud];
    let stage_mib = |random: &mut Random| 16 + random.below(112);
    let mut views = vec![view("source", Tier::Device, 64)?];
    for number in 0..nodes {
        let tier = TIERS.get(usize::try_from(random.below(3))?).copied().unwrap_or(Tier::Edge);
        let mut node = view(&format!("n{number}"), tier, 64 + random.below(256))?;
        node.works = u32::try_from(random.below(6))?;
        node.cores = 1 + u32::try_from(random.below(4))?;
        views.push(node);
    }
    let mut place = || Coordinate {
        point_us: [0; 3].map(|_| i32::try_from(random.below(60_000)).unwrap_or_default()),
        height_us: u32::try_from(100 + random.below(10_000)).unwrap_or_default(),
        error_permille: 100,
    };
    let coordinates: Vec<(NodeId, Coordinate)> = views.iter().map(|view| (view.node.clone(), place())).collect();
    let mut reports = Vec::new();
    for (at, (from, place)) in coordinates.iter().enumerate() {
        for (to, other) in coordinates.iter().skip(at + 1).take(LINKS_MEASURED) {
            let report = LinkReport {
                peer: to.clone(),
                rtt_us: estimate_us(place, other) * (90 + random.below(40)) / 100,
                bandwidth_bps: Some(1_000_000 * (1 + random.below(1_000))),
            };
            reports.push((from.clone(), report));
        }
    }
    let names: Vec<FunctionName> =
        (0..STAGES).map(|stage| FunctionName::new(format!("f{stage}"))).collect::<Result<_, _>>()?;
    let function = |name: &FunctionName, random: &mut Random| FunctionSpec {
        artifact: name.to_string(),
        interface: Interface::Stage,
        memory_bytes: stage_mib(random) << 20,
        placement: Constraints::any(),
        execution_us: Some(100 + random.below(20_000)),
        partitioning: Partitioning::Any,
        output_permille: SAME_PERMILLE,
    };
    let functions = names.iter().map(|name| (name.clone(), function(name, random))).collect();
    let stream = |tier| StreamSpec {
        partitions: Some(1),
        placement: Constraints::tier(tier),
        ack: Some(Ack::Local),
        ..StreamSpec::default()
    };
    let (source, sink) = (StreamName::new("source")?, StreamName::new("sink")?);
    let flow = FlowSpec {
        source: source.clone(),
        stages: names,
        sink: Some(Sink::Stream(sink.clone())),
        outputs: BTreeMap::new(),
        dead_letter: None,
        slo_us: None,
    };
    let spec = AppSpec {
        app: AppId { tenant: TenantId::default_tenant(), app: AppName::new("bench")? },
        functions,
        queues: BTreeMap::new(),
        connectors: Vec::new(),
        objectives: Objectives::default(),
        streams: BTreeMap::from([
            (source, stream(Tier::Device)),
            (sink, StreamSpec { placement: Constraints::any(), ..stream(Tier::Device) }),
        ]),
        flows: BTreeMap::from([(FlowName::new("flow")?, flow)]),
    };
    Ok(Case { spec, views, reports, coordinates })
}

/// A node of a site of its own, labelled with its name.
fn view(name: &str, tier: Tier, memory_mib: u64) -> anyhow::Result<NodeView> {
    Ok(NodeView {
        node: NodeId::new(name)?,
        tier,
        site: SiteId::new(name)?,
        labels: BTreeMap::from([(PIN.to_owned(), name.to_owned())]),
        situation: Situation::default(),
        cores: 1,
        memory_bytes: memory_mib << 20,
        memory_promised_bytes: 0,
        works: 0,
        alive: true,
    })
}

/// What the placement that is chosen is predicted to take.
fn predicted_us(spec: &AppSpec, fabric: &Fabric) -> Option<u64> {
    let placement = compile(spec, fabric, &[]).ok()?;
    placement.predictions.first().map(|prediction| prediction.p95_us)
}

/// The least of all assignments of stages to nodes.
fn best_us(case: &Case) -> Option<u64> {
    let fabric = case.fabric();
    let nodes: Vec<&NodeId> = fabric.nodes.keys().collect();
    let assignments = (0..nodes.len().checked_pow(u32::try_from(STAGES).ok()?)?).filter_map(|mut number| {
        let mut spec = case.spec.clone();
        for function in spec.functions.values_mut() {
            let node = nodes.get(number % nodes.len())?;
            function.placement.labels.insert(PIN.to_owned(), node.to_string());
            number /= nodes.len();
        }
        predicted_us(&spec, &fabric)
    });
    assignments.min()
}

/// Numbers that look random and are the same in each run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }
}
