//! Messages that nodes of other versions send and logs hold: each is kept as it was written, and must stay readable.
//! `LITTORAL_BLESS=1` writes them anew: only together with a new protocol version and a folder of its own.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use bytes::Bytes;
use littoral_model::composition::{ComposeReply, ComposeRequest, ComposedCall};
use littoral_model::condition::{Condition, Coordinate, Machine, Runtimes, Served};
use littoral_model::digest::{LinkReport, NodeDigest};
use littoral_model::entry::{Commit, Entry, InputPosition, PORT_MAIN, PortBatch, Position, ProducerSequence};
use littoral_model::id::{AppId, Epoch, InvocationId, NodeId, Tier};
use littoral_model::invocation::{
    Answer, QueueAsk, QueueReply, QueueRequest, Record, Request, State, StateKind, Stored,
};
use littoral_model::situation::{FailureDomain, Power, PowerSource, Situation};
use littoral_model::wire::{
    FetchReply, FetchRequest, InstallRequest, PublishReply, PublishRequest, ReplicateReply, ReplicateRequest,
    VersionRange, decode, encode,
};
use littoral_model::work::{Assignment, KeeperAnswer, KeeperCommand, WorkId, WorkKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

const FOLDER: &str = "tests/golden/wire-v2";
/// What the version before wrote.
const OLDER: &str = "tests/golden/wire-v1";

/// Checks that the file is read as `expected`, and `expected` written as the file; and that what the version before
/// wrote is read as the same.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, expected: &T) {
    if support::repository(&format!("{OLDER}/{name}.bin")).exists() {
        let older = support::read(&format!("{OLDER}/{name}.bin"));
        assert_eq!(&decode::<T>(&older).unwrap(), expected, "{name} of the version before is read differently now");
    }
    let written = encode(expected).unwrap();
    let held = support::blessed(&format!("{FOLDER}/{name}.bin"), &written);
    assert_eq!(&decode::<T>(&held).unwrap(), expected, "{name} is read differently now");
    assert!(held == written, "{name} is written differently now: keep the old form readable and raise the version");
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn work() -> WorkId {
    let app = AppId { tenant: "default".parse().unwrap(), app: "machine-health".parse().unwrap() };
    WorkId { app, kind: WorkKind::Stage, name: "health.0".to_owned(), partition: 3, site: "hall-7".parse().unwrap() }
}

fn stream() -> WorkId {
    WorkId { kind: WorkKind::Stream, name: "readings".to_owned(), ..work() }
}

fn assignment() -> Assignment {
    Assignment {
        work: work(),
        owner: node("edge-1"),
        epoch: Epoch(300),
        replicas: vec![node("edge-1"), node("edge-2")],
        in_sync: vec![node("edge-1")],
    }
}

fn batch() -> PortBatch {
    PortBatch {
        port: PORT_MAIN.to_owned(),
        rows: 2,
        origin_us: Some(-1_500_000),
        arrow: Bytes::from_static(b"\x00arrow\xff"),
    }
}

fn producer() -> ProducerSequence {
    ProducerSequence { producer: "device-1/temperature".to_owned(), epoch: 4, sequence: u64::MAX }
}

fn commit() -> Commit {
    Commit {
        inputs: vec![InputPosition { work: stream(), epoch: Epoch(7), position: Position { index: 128, row: 5 } }],
        state: vec![(63, Bytes::from_static(b"group")), (0, Bytes::new())],
        outputs: vec![batch()],
        producers: vec![producer()],
        watermark_us: Some(1_700_000_000_000_000),
    }
}

fn entry() -> Entry {
    Entry { index: 1_000, epoch: Epoch(2), payload: Bytes::from_static(b"payload") }
}

#[test]
fn log_entries() {
    check("position-start", &Position::START);
    check("position-end", &Position::END);
    check("port-batch", &batch());
    check("input-position", &commit().inputs.first().unwrap().clone());
    check("producer-sequence", &producer());
    check("commit", &commit());
    check("commit-empty", &Commit::default());
    check("entry", &entry());
}

#[test]
fn ids_and_assignments() {
    check("work-stage", &work());
    check("work-stream", &stream());
    check("invocation", &InvocationId::from_parts(1_700_000_000_000, 0xfedc_ba98_7654_3210));
    check("version-range", &VersionRange { min: 1, max: 2 });
    check("assignment", &assignment());
}

#[test]
fn keeper_commands() {
    let (work, epoch) = (work(), Epoch(300));
    let both = || vec![node("edge-1"), node("edge-2")];
    check("keeper-create", &KeeperCommand::Create { work: work.clone(), owner: node("edge-1"), replicas: both() });
    let owner = node("edge-2");
    check("keeper-move", &KeeperCommand::Move { work: work.clone(), epoch, owner, exclude_old: true });
    let in_sync = vec![node("edge-1")];
    check("keeper-resync", &KeeperCommand::Resync { work: work.clone(), epoch, replicas: both(), in_sync });
    check("keeper-remove", &KeeperCommand::Remove { work: work.clone() });
    check("keeper-replicas", &KeeperCommand::Replicas { work, epoch, replicas: both() });
    check("keeper-applied", &KeeperAnswer::Applied(Some(assignment())));
    check("keeper-refused", &KeeperAnswer::Refused(None));
}

#[test]
fn fetching() {
    let request = FetchRequest {
        work: stream(),
        port: PORT_MAIN.to_owned(),
        consumer: Some(work()),
        from: Position { index: 9, row: 1 },
        committed: Position { index: 8, row: 0 },
        bytes_max: 1 << 20,
        wait_ms: 1_000,
    };
    check("fetch-request", &request);
    check("fetch-request-tail", &FetchRequest { consumer: None, from: Position::END, ..request });
    let next = Position { index: 10, row: 0 };
    let rows = FetchReply::Rows { epoch: Epoch(7), batches: vec![(9, batch())], next, watermark_us: None };
    check("fetch-rows", &rows);
    check("fetch-not-owner", &FetchReply::NotOwner(Some(assignment())));
    check("fetch-trimmed", &FetchReply::Trimmed(Position { index: 77, row: 0 }));
}

#[test]
fn publishing() {
    check("publish-request", &PublishRequest { work: stream(), batch: batch(), producer: Some(producer()) });
    check("publish-stored", &PublishReply::Stored { index: 12, repeated: true });
    check("publish-not-owner", &PublishReply::NotOwner(None));
    check("publish-refused", &PublishReply::Refused("the disk is full".to_owned()));
    check("publish-full", &PublishReply::Full("2 of 2 bytes".to_owned()));
}

#[test]
fn queues() {
    let id = InvocationId::from_parts(1_795_219_200_000, 7);
    let headers = vec![("content-type".to_owned(), Bytes::from_static(b"text/plain"))];
    let request = Request {
        method: "POST".to_owned(),
        uri: "/report?month=11".to_owned(),
        headers: headers.clone(),
        body: Bytes::from_static(b"november"),
    };
    let answer = Answer { status: 200, headers, body: Some(Bytes::from_static(b"done")) };
    let record = Record {
        id,
        key: Some("2026-11".to_owned()),
        fingerprint: request.fingerprint(),
        accepted_us: 1_795_219_200_000_000,
        request: Some(request.clone()),
        state: State::Pending { due_us: 1_795_219_201_000_000 },
        attempts: 2,
        unanswered: 1,
        error: Some("the function answered 500: no".to_owned()),
    };
    let done = Record { request: None, state: State::Done { at_us: 9, answer }, error: None, ..record.clone() };
    let dead = Record { key: None, state: State::Dead { at_us: 9 }, ..record.clone() };
    check("queue-record-pending", &Stored::V1(record));
    check("queue-record-done", &Stored::V1(done.clone()));
    check("queue-record-dead", &Stored::V1(dead.clone()));
    check("queue-ticks", &Stored::TicksV1(vec![("*/5 * * * * UTC".to_owned(), 1_795_219_200_000_000)]));
    let ask = |ask| QueueRequest { queue: "default/shop/queue/report/1@hall-7".parse().unwrap(), ask };
    check("queue-add", &ask(QueueAsk::Add { id, key: Some("2026-11".to_owned()), request }));
    check("queue-show", &ask(QueueAsk::Show { id, wait_ms: 5_000 }));
    check("queue-list", &ask(QueueAsk::List { limit: 1_000 }));
    check("queue-retry", &ask(QueueAsk::Retry { id }));
    check("queue-drop", &ask(QueueAsk::Drop { id }));
    check("queue-list-of", &ask(QueueAsk::ListOf { state: StateKind::Dead, limit: 1_000 }));
    check("queue-accepted", &QueueReply::Accepted { id, repeated: true });
    check("queue-full", &QueueReply::Full("10000 calls".to_owned()));
    check("queue-key-taken", &QueueReply::KeyTaken);
    check("queue-shown", &QueueReply::Shown(Some(done)));
    check("queue-listed", &QueueReply::Listed(vec![dead]));
    check("queue-changed", &QueueReply::Changed(true));
    check("queue-not-owner", &QueueReply::NotOwner(Some(assignment())));
}

#[test]
fn replicating() {
    let request = ReplicateRequest {
        work: work(),
        owner: node("edge-1"),
        epoch: Epoch(300),
        previous: (999, Epoch(2)),
        entries: vec![entry()],
        committed: 998,
        trim_below: 500,
        last: 1_000,
    };
    check("replicate-request", &request);
    check("replicate-stored", &ReplicateReply::Stored { last: 1_000 });
    check("replicate-mismatch", &ReplicateReply::Mismatch { from: 990 });
    check("replicate-fenced", &ReplicateReply::Fenced { epoch: Epoch(301) });
    check("replicate-ahead", &ReplicateReply::Ahead { last: 1_001 });
    let state = vec![(Bytes::from_static(b"key"), Bytes::from_static(b"value"))];
    check("install-request", &InstallRequest { work: work(), epoch: Epoch(300), last: (1_000, Epoch(2)), state });
}

#[test]
fn digests() {
    let digest = NodeDigest {
        node: node("edge-1"),
        tier: Tier::Edge,
        site: "hall-7".parse().unwrap(),
        labels: BTreeMap::from([("gpu".to_owned(), "yes".to_owned())]),
        incarnation: 3,
        sequence: 41,
        protocol: VersionRange { min: 1, max: 1 },
        program: "0.1.0".to_owned(),
        cores: 8,
        memory_bytes: 16 << 30,
        works: 5,
        http: Some("10.0.0.1:8080".to_owned()),
        functions: vec!["default/machine-health/score".to_owned()],
        links: vec![link()],
        intent: u64::MAX,
        situation: Situation::default(),
        condition: Condition::default(),
    };
    check("node-digest", &digest);
    let protocol = VersionRange { min: 1, max: 2 };
    check("node-digest-situation", &NodeDigest { protocol, situation: situation(), condition: condition(), ..digest });
    check("link-report", &link());
}

fn situation() -> Situation {
    Situation {
        region: Some("eu-north".parse().unwrap()),
        position: Some("59.3293,-18.0686".parse().unwrap()),
        moving: true,
        accelerators: BTreeSet::from(["gpu".parse().unwrap(), "npu".parse().unwrap()]),
        power: Power {
            source: PowerSource::Battery,
            battery_percent: Some(73),
            kwh_price_micros: Some(210_000),
            carbon_g_per_kwh: Some(41),
            core_milliwatts: Some(4_500),
        },
        core_hour_price_micros: Some(38_000),
        domains: BTreeMap::from([
            (FailureDomain::Power, "circuit-a".parse().unwrap()),
            (FailureDomain::Uplink, "fibre-1".parse().unwrap()),
        ]),
    }
}

fn condition() -> Condition {
    let served = Served {
        function: "default/machine-health/score".to_owned(),
        p50_us: 1_200,
        p95_us: 9_000,
        samples: 310,
        queue: 2,
    };
    Condition {
        coordinate: Some(Coordinate { point_us: [-12_000, 3, 40_000], height_us: 900, error_permille: 120 }),
        machine: Machine { arch: "x86_64".to_owned(), steps_per_us: 740 },
        busy_permille: 310,
        run_queue: 4,
        memory_free_bytes: 3 << 30,
        slowdown_permille: 1_080,
        ready: Runtimes { wasm: true, ..Runtimes::default() },
        served: vec![served],
        artifacts: vec![0x0a0b_0c0d, u32::MAX],
        clients: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
    }
}

fn link() -> LinkReport {
    LinkReport { peer: node("cloud-1"), rtt_us: 40_000, bandwidth_bps: Some(50_000_000) }
}

#[test]
fn composing() {
    let call = ComposedCall {
        interface: "acme:vision/detect@1.0.0".to_owned(),
        name: "detect".to_owned(),
        signature: 0xfedc_ba98_7654_3210,
        depth: 2,
        remaining_us: 900_000,
        arguments: Bytes::from_static(b"arguments"),
    };
    let request = ComposeRequest { app: work().app, function: "detector".parse().unwrap(), call };
    check("compose-request", &request);
    check("compose-returned", &ComposeReply::Returned(Bytes::from_static(b"results")));
    check("compose-failed", &ComposeReply::Failed("it trapped".to_owned()));
    check("compose-not-served", &ComposeReply::NotServed);
}

#[test]
fn every_kept_file_is_checked() {
    let source = include_str!("wire_golden.rs");
    for folder in [FOLDER, OLDER] {
        for file in std::fs::read_dir(support::repository(folder)).unwrap() {
            let name = file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
            assert!(source.contains(&format!("check(\"{name}\"")), "{folder}/{name}.bin is checked by no test");
        }
    }
}
