//! What is deployed on the simulated fabric.

use std::collections::BTreeMap;

use littoral_model::id::{AppId, AppName, FlowName, FunctionName, StreamName, TenantId, Tier};
use littoral_model::manifest::{Objectives, Partitioning};
use littoral_plan::{Ack, AppSpec, Constraints, FlowSpec, FunctionSpec, Interface, SAME_PERMILLE, Sink, StreamSpec};

/// What a function may use.
const MEMORY_BYTES: u64 = 128 << 20;
/// What a machine has.
pub const MACHINE_BYTES: u64 = 1 << 30;

/// How many partitions have what is collected.
pub const COLLECTED: u32 = 3;

/// An app of the default tenant.
#[must_use]
pub fn app(name: &str) -> AppId {
    AppId { tenant: TenantId::default_tenant(), app: AppName::new(name).unwrap() }
}

/// The main one: a stream on the device, one on the edge that a flow takes to the cloud, and an HTTP function.
#[must_use]
pub fn main() -> AppSpec {
    let flow = FlowSpec {
        source: stream("events"),
        stages: vec![function("clean")],
        sink: Some(Sink::Stream(stream("alerts"))),
        outputs: BTreeMap::new(),
        dead_letter: None,
        slo_us: None,
    };
    AppSpec {
        app: app("main"),
        functions: BTreeMap::from([
            (function("clean"), function_spec(Interface::Stage, labelled("cpu", "fast"))),
            (function("api"), function_spec(Interface::Http, Constraints::tier(Tier::Edge))),
        ]),
        streams: BTreeMap::from([
            (stream("readings"), stream_spec(1, Constraints::tier(Tier::Device), Ack::Local)),
            (stream("events"), stream_spec(2, Constraints::tier(Tier::Edge), Ack::Site)),
            (stream("alerts"), stream_spec(1, Constraints::tier(Tier::Cloud), Ack::Site)),
        ]),
        flows: BTreeMap::from([(FlowName::new("detect").unwrap(), flow)]),
        queues: BTreeMap::new(),
        connectors: Vec::new(),
        objectives: Objectives::default(),
    }
}

/// One whose flow takes what is published on the edge to the cloud; its stage runs on this tier.
#[must_use]
pub fn collecting(stage: Tier) -> AppSpec {
    let mut spec = main();
    spec.app = app("collecting");
    spec.functions = BTreeMap::from([(function("clean"), function_spec(Interface::Stage, Constraints::tier(stage)))]);
    spec.streams = BTreeMap::from([
        (stream("events"), stream_spec(COLLECTED, Constraints::tier(Tier::Edge), Ack::Local)),
        (stream("alerts"), stream_spec(1, Constraints::tier(Tier::Cloud), Ack::Local)),
    ]);
    spec
}

/// A small one, which comes and goes.
#[must_use]
pub fn small(name: &str, tier: Tier) -> AppSpec {
    AppSpec {
        app: app(name),
        functions: BTreeMap::from([(function("page"), function_spec(Interface::Http, Constraints::tier(tier)))]),
        streams: BTreeMap::from([(stream("jobs"), stream_spec(1, Constraints::tier(tier), Ack::Site))]),
        flows: BTreeMap::new(),
        queues: BTreeMap::new(),
        connectors: Vec::new(),
        objectives: Objectives::default(),
    }
}

/// One of whose nodes a single one serves, and only with a majority of its site.
#[must_use]
pub fn singleton() -> AppSpec {
    AppSpec { streams: BTreeMap::new(), ..small("one", Tier::Edge) }
}

/// Whether an app's manifest would say `partition = "singleton"`.
#[must_use]
pub fn is_singleton(app: &AppId) -> bool {
    app.app.as_str() == "one"
}

/// One that would fit if nothing else ran on the edge.
#[must_use]
pub fn greedy(name: &str) -> AppSpec {
    let mut spec = small(name, Tier::Edge);
    spec.functions.values_mut().for_each(|function| function.memory_bytes = MACHINE_BYTES);
    spec
}

fn stream(name: &str) -> StreamName {
    StreamName::new(name).unwrap()
}

fn function(name: &str) -> FunctionName {
    FunctionName::new(name).unwrap()
}

fn labelled(key: &str, value: &str) -> Constraints {
    Constraints { labels: BTreeMap::from([(key.to_owned(), value.to_owned())]), ..Constraints::tier(Tier::Edge) }
}

fn function_spec(interface: Interface, placement: Constraints) -> FunctionSpec {
    FunctionSpec {
        artifact: "sha256:0".to_owned(),
        interface,
        memory_bytes: MEMORY_BYTES,
        placement,
        execution_us: None,
        partitioning: Partitioning::Any,
        output_permille: SAME_PERMILLE,
    }
}

fn stream_spec(partitions: u32, placement: Constraints, ack: Ack) -> StreamSpec {
    // A stream that devices write has a partition on each.
    let partitions = (!placement.tiers.contains(&Tier::Device)).then_some(partitions);
    StreamSpec { partitions, placement, ack: Some(ack), ..StreamSpec::default() }
}
