//! How answers look.
#![allow(clippy::unwrap_used)]

use littoral_node::admin::types::{
    ConditionStatus, LinkStatus, PartitionStatus, PlacementRow, PredictionRow, RefusalRow, SinkStatus, StageStatus,
};

use super::*;
use crate::args::Format;
use crate::output::render;

fn node() -> NodeStatus {
    NodeStatus {
        id: "edge-1".to_owned(),
        tier: "edge".to_owned(),
        site: "hall-7".to_owned(),
        labels: [("gpu".to_owned(), "none".to_owned())].into(),
        situation: vec!["battery 73%".to_owned()],
        version: "0.1.0".to_owned(),
        state: NodeState::Alive,
        works: 4,
        functions: vec!["health/score".to_owned()],
        http: Some("127.0.0.1:8080".to_owned()),
        revoked: false,
        links: vec![LinkStatus { peer: "cloud-1".to_owned(), rtt_ms: 40.24, bandwidth_bps: None }],
        condition: ConditionStatus::default(),
    }
}

fn flow() -> FlowStatus {
    FlowStatus {
        app: "machine".to_owned(),
        name: "health".to_owned(),
        state: Health::Degraded,
        reasons: vec!["edge-2 is lost".to_owned()],
        stages: vec![StageStatus {
            name: "health.0".to_owned(),
            functions: vec!["clean".to_owned(), "score".to_owned()],
            partition: 1,
            site: "hall-7".to_owned(),
            owner: Some("edge-1".to_owned()),
            epoch: 2,
            in_sync: vec!["edge-1".to_owned()],
            rows_in: 100,
            bytes_in: 12_000,
            rows_on: 1,
            bytes_on: 300,
            rows_out: 98,
            rows_rejected: 2,
            rows_shed: 0,
            first_commit_us: None,
            last_commit_us: None,
            latency: Quantiles { count: 10, p50_ms: 1.5, p95_ms: 12.0, p99_ms: 120.0 },
            runs: None,
            reasons: vec!["tier=edge".to_owned(), "least latency".to_owned()],
        }],
        sinks: vec![SinkStatus {
            name: "alerts".to_owned(),
            rows: 98,
            bytes: 900,
            last_commit_us: None,
            latency: Quantiles::default(),
            slo_p95_ms: Some(500.0),
            slo_met: None,
        }],
    }
}

#[test]
fn nodes() {
    assert_eq!(
        vec![node()].table(false),
        "\
NODE    TIER  SITE    STATE  WORKS  HTTP            NEIGHBOURS
edge-1  edge  hall-7  alive  4      127.0.0.1:8080  cloud-1 40.2ms
"
    );
    assert!(vec![node()].table(true).contains("gpu=none"));
}

#[test]
fn sites() {
    let voter = |name: &str, alive| VoterStatus { node: name.to_owned(), alive };
    let site = SiteStatus {
        name: "hall-7".to_owned(),
        nodes: vec!["edge-1".to_owned()],
        leader: Some("edge-1".to_owned()),
        voters: vec![voter("edge-1", true), voter("edge-2", false), voter("region-1", true)],
        decides: true,
        settled: true,
        reasons: vec!["edge-2 is missing".to_owned()],
    };
    assert_eq!(
        vec![site].table(false),
        "\
SITE    NODES   LEADER  VOTERS                              DECIDES
hall-7  edge-1  edge-1  edge-1, edge-2 (missing), region-1  yes

hall-7: edge-2 is missing
"
    );
}

#[test]
fn flows() {
    assert_eq!(
        vec![flow()].table(false),
        "\
FLOW            STATE     STAGE              FUNCTIONS      NODE    IN   OUT  REJECTED  P50 / P95 / P99
machine/health  degraded  health.0/1@hall-7  clean > score  edge-1  100  98   2         1.50ms / 12.0ms / 120ms

SINK                     ROWS  AGE P50 / P95 / P99  OBJECTIVE    MET
machine/health > alerts  98    -                    p95 < 500ms  -

machine/health: edge-2 is lost
"
    );
    assert!(vec![flow()].table(true).contains("least latency"));
}

#[test]
fn streams_and_functions() {
    let stream = StreamStatus {
        app: "machine".to_owned(),
        name: "readings".to_owned(),
        partitions: vec![PartitionStatus {
            partition: 0,
            site: "shop".to_owned(),
            owner: None,
            epoch: 1,
            in_sync: Vec::new(),
            first: 1,
            next: 9,
        }],
    };
    assert_eq!(
        vec![stream].table(false),
        "\
STREAM            PARTITION  NODE  FIRST  NEXT
machine/readings  0@shop     -     1      9
"
    );
    let function = FunctionStatus {
        app: "machine".to_owned(),
        name: "score".to_owned(),
        nodes: vec!["edge-1".to_owned(), "edge-2".to_owned()],
        invocations: 7,
        errors: 1,
        latency: Quantiles::default(),
        slo_p95_ms: Some(20.0),
        slo_met: None,
        last_error: Some("it ran out of memory".to_owned()),
        instances: vec![InstancesStatus {
            node: "edge-1".to_owned(),
            ready: 1,
            starting: 2,
            wanted: 3,
            reason: "the load of the last minute".to_owned(),
            cold: 1,
            refused: None,
        }],
        priority: "low".to_owned(),
        held: Vec::new(),
        variants: Vec::new(),
    };
    assert_eq!(
        vec![function].table(true),
        "\
FUNCTION       NODES           CALLS  ERRORS  P50 / P95 / P99  OBJECTIVE     MET  INSTANCES                                                 VARIANT  PRIORITY  HELD  LAST ERROR
machine/score  edge-1, edge-2  7      1       -                p95 < 20.0ms  -    edge-1: 1 of 3, 2 starting (the load of the last minute)  -        low       -     it ran out of memory
"
    );
}

#[test]
fn plans() {
    let report = PlanReport {
        app: "machine".to_owned(),
        accepted: false,
        placements: vec![PlacementRow {
            kind: "stage".to_owned(),
            name: "health.0".to_owned(),
            partition: Some(0),
            nodes: vec!["edge-1".to_owned()],
            replicas: vec!["edge-2".to_owned()],
            reasons: vec!["tier=edge".to_owned(), "3 ms from device-1".to_owned()],
            excluded: vec!["cloud-1 excluded: it is of tier cloud".to_owned()],
        }],
        predictions: vec![PredictionRow {
            flow: "health".to_owned(),
            sink: "alerts".to_owned(),
            predicted_p95_ms: 61.0,
            slo_p95_ms: Some(50.0),
            parts: vec!["device-1 to edge-1 3ms".to_owned(), "edge-1 to cloud-1 40ms".to_owned()],
        }],
        refusals: vec![RefusalRow {
            subject: "function train".to_owned(),
            constraint: "label gpu=yes".to_owned(),
            message: "no node has it".to_owned(),
            hint: "start a node with --label gpu=yes".to_owned(),
        }],
    };
    assert_eq!(
        report.table(false),
        "\
KIND   NAME        NODES   WHY
stage  health.0/0  edge-1  tier=edge
                           3 ms from device-1

FLOW    SINK    PREDICTED P95  OBJECTIVE        MADE OF
health  alerts  61.0ms         50.0ms VIOLATED  device-1 to edge-1 3ms + edge-1 to cloud-1 40ms

refused: function train cannot be placed: no node has it
  constraint: label gpu=yes
  help: start a node with --label gpu=yes
"
    );
}

#[test]
fn json_and_yaml_have_everything() {
    let flows = vec![flow()];
    let json: Vec<FlowStatus> = serde_json::from_str(&render(&flows, Format::Json).unwrap()).unwrap();
    let yaml: Vec<FlowStatus> = serde_yaml_ng::from_str(&render(&flows, Format::Yaml).unwrap()).unwrap();
    assert_eq!((json, yaml), (flows.clone(), flows));
}
