//! What a source and a sink of Kafka do with what brokers say and fail to say, whose part is played here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod kafka_broker;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use async_trait::async_trait;
use bytes::Bytes;
use kafka_broker::Broker;
use kafka_protocol::messages::ApiKey;
use littoral_connect::{Machine, Part, Record, Rows, Sink, Source, Trouble, open_sink, open_source};
use littoral_flow::batch;
use littoral_model::entry::Position;
use littoral_model::grant::Peer;
use littoral_model::id::Epoch;
use littoral_model::manifest::{SinkConnector, SourceConnector};
use serde_json::{Value, json};

/// A machine that lets who is granted be talked to, by address.
struct Loopback;

#[async_trait]
impl Machine for Loopback {
    fn folder(&self, path: &Path) -> Result<OwnedFd, Trouble> {
        Err(Trouble(format!("{} is not offered", path.display())))
    }

    async fn addresses(&self, grants: &[Peer], host: &str, port: u16) -> Result<Vec<SocketAddr>, Trouble> {
        let address = SocketAddr::new(host.parse().unwrap(), port);
        match grants.iter().any(|peer| peer.grants(host, address)) {
            true => Ok(vec![address]),
            false => Err(Trouble(format!("{address} is not granted"))),
        }
    }

    async fn secret(&self, name: &str) -> Result<String, Trouble> {
        Ok(format!("the secret {name}"))
    }
}

fn machine() -> Arc<dyn Machine> {
    Arc::new(Loopback)
}

fn cluster(broker: &Broker) -> Value {
    json!({ "brokers": [broker.address.to_string()], "grants": [broker.address.to_string()], "timeout": "20s" })
}

async fn source(broker: &Broker, from: &str, position: Option<&Bytes>) -> Result<Box<dyn Source>, Trouble> {
    let settings = json!({ "stream": "s", "kafka": { "topic": "t", "from": from, "cluster": cluster(broker) } });
    let settings: SourceConnector = serde_json::from_value(settings).unwrap();
    let work = "default/a/source/s/0@hall".parse().unwrap();
    open_source(&work, &settings, &machine(), position.map(|position| &**position)).await
}

async fn sink(broker: &Broker, known: Option<&Bytes>) -> Result<Box<dyn Sink>, Trouble> {
    let settings = json!({ "stream": "s", "kafka": { "topic": "t", "key": "n", "cluster": cluster(broker) } });
    let settings: SinkConnector = serde_json::from_value(settings).unwrap();
    let work = "default/a/sink/s/0@hall".parse().unwrap();
    open_sink(&work, &settings, &machine(), known.map(|known| &**known)).await
}

/// Rows with such numbers.
fn part(numbers: std::ops::Range<i64>) -> Part {
    let column: ArrayRef = Arc::new(Int64Array::from_iter_values(numbers.clone()));
    let position = |number: i64| Position { index: number.try_into().unwrap(), row: 0 };
    Part {
        work: "default/a/stream/s/0@hall".parse().unwrap(),
        epoch: Epoch(1),
        from: position(numbers.start),
        next: position(numbers.end),
        rows: vec![Rows(RecordBatch::try_from_iter([("n", column)]).unwrap())],
    }
}

/// What a topic has that is committed, until there is nothing more.
async fn all(broker: &Broker) -> Vec<Record> {
    let mut source = source(broker, "earliest", None).await.unwrap();
    source.next().await.unwrap();
    let mut records = Vec::new();
    loop {
        let taken = source.next().await.unwrap().records;
        if taken.is_empty() {
            return records;
        }
        records.extend(taken);
    }
}

/// The numbers of rows that a topic has, in order.
async fn numbers(broker: &Broker) -> Vec<i64> {
    let number = |record: &Record| serde_json::from_str::<Value>(&record.value).unwrap()["n"].as_i64().unwrap();
    let mut numbers: Vec<i64> = all(broker).await.iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

async fn write(sink: &mut Box<dyn Sink>, part: &Part) -> Result<Bytes, Trouble> {
    sink.write(part).await?;
    Ok(sink.flush().await?.known)
}

#[tokio::test]
async fn a_source_goes_on_where_its_position_says_and_passes_over_what_is_no_record() {
    let broker = Broker::start(2);
    broker.append("t", 0, &[(Some("a"), Some(b"1")), (None, None), (Some("b"), Some(b"\xff")), (None, Some(b"2"))]);
    let mut first = source(&broker, "earliest", None).await.unwrap();
    let begun = first.next().await.unwrap();
    assert!(begun.records.is_empty() && !begun.position.is_empty(), "where it begins is committed first");
    let taken = first.next().await.unwrap();
    let record = |key: Option<&str>, value: &str| Record {
        key: key.map(str::to_owned),
        time_us: 1_700_000_000_000_000,
        value: value.to_owned(),
    };
    assert_eq!(taken.records, [record(Some("a"), "1"), record(None, "2")]);
    let (count, why) = taken.passed_over.unwrap();
    assert!(count == 2 && why.contains("offset 2 of partition 0"), "{count}: {why}");
    broker.append("t", 1, &[(None, Some(b"3"))]);
    broker.grow(3);
    broker.append("t", 2, &[(None, Some(b"4"))]);
    let mut again = source(&broker, "earliest", Some(&taken.position)).await.unwrap();
    again.next().await.unwrap();
    let taken = again.next().await.unwrap();
    assert_eq!(taken.records, [record(None, "3"), record(None, "4")], "of the partition that is new, all");
}

#[tokio::test]
async fn a_source_that_runs_finds_new_partitions() {
    let broker = Broker::start(1);
    let mut source = source(&broker, "latest", None).await.unwrap();
    source.next().await.unwrap();
    broker.grow(2);
    broker.append("t", 1, &[(None, Some(b"new"))]);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    let mut records = Vec::new();
    while records.is_empty() {
        records = source.next().await.unwrap().records;
    }
    assert_eq!(records[0].value, "new");
}

#[tokio::test]
async fn what_the_brokers_have_deleted_is_told_and_what_is_behind_it_taken() {
    let broker = Broker::start(1);
    let mut source = source(&broker, "latest", None).await.unwrap();
    let position = source.next().await.unwrap().position;
    broker.append("t", 0, &[(None, Some(b"0")), (None, Some(b"1")), (None, Some(b"2"))]);
    broker.append("t", 0, &[(None, Some(b"3"))]);
    broker.forget("t", 0, 3);
    let mut source = self::source(&broker, "latest", Some(&position)).await.unwrap();
    let (mut records, mut passed_over) = (Vec::new(), 0);
    source.next().await.unwrap();
    while records.is_empty() {
        let taken = source.next().await.unwrap();
        passed_over += taken.passed_over.map_or(0, |(count, _)| count);
        records = taken.records;
    }
    assert_eq!((passed_over, records[0].value.as_str()), (3, "3"));
}

#[tokio::test]
async fn rows_are_there_once_whichever_answer_is_lost() {
    let lost = [
        None,
        Some(ApiKey::EndTxn),
        Some(ApiKey::Produce),
        Some(ApiKey::AddPartitionsToTxn),
        Some(ApiKey::TxnOffsetCommit),
        Some(ApiKey::InitProducerId),
    ];
    for lost in lost {
        let broker = Broker::start(3);
        let mut open = sink(&broker, None).await.unwrap();
        // What is committed before anything is written.
        let mut known = open.flush().await.unwrap().known;
        for (begin, fails) in [(0, false), (100, true), (200, false)] {
            if let Some(kind) = lost.filter(|_| fails) {
                broker.lose_answer_of(kind);
                if kind == ApiKey::InitProducerId {
                    assert!(sink(&broker, Some(&known)).await.is_err());
                } else {
                    let told = write(&mut open, &part(begin..begin + 100)).await.unwrap_err();
                    assert!(told.0.contains("closed the connection"), "{told}");
                }
                open = sink(&broker, Some(&known)).await.unwrap();
            }
            known = write(&mut open, &part(begin..begin + 100)).await.unwrap();
            open.committed().await.unwrap();
        }
        assert!(numbers(&broker).await == (0..300).collect::<Vec<_>>(), "{lost:?}");
    }
}

#[tokio::test]
async fn rows_that_are_being_written_are_not_seen_and_a_former_owner_writes_no_more() {
    let broker = Broker::start(1);
    let mut former = sink(&broker, None).await.unwrap();
    let known = former.flush().await.unwrap().known;
    let rows = part(0..10);
    former.write(&rows).await.unwrap();
    let mut owner = sink(&broker, Some(&known)).await.unwrap();
    let told = former.flush().await.unwrap_err();
    assert!(told.0.contains("InvalidProducerEpoch"), "{told}");
    assert_eq!(numbers(&broker).await, Vec::<i64>::new());
    write(&mut owner, &rows).await.unwrap();
    assert_eq!(numbers(&broker).await, (0..10).collect::<Vec<_>>());
    assert_eq!(broker.asked(ApiKey::EndTxn), 1, "nothing is written where the offsets are not sent");
}

#[tokio::test]
async fn a_sink_of_the_same_name_that_begins_anew_is_not_taken_for_the_one_before() {
    let broker = Broker::start(1);
    for begin in [0, 10] {
        let mut anew = sink(&broker, None).await.unwrap();
        anew.flush().await.unwrap();
        write(&mut anew, &part(begin..begin + 10)).await.unwrap();
    }
    assert_eq!(numbers(&broker).await, (0..20).collect::<Vec<_>>());
    // A log that was put back to an older state.
    let mut third = sink(&broker, None).await.unwrap();
    let old = third.flush().await.unwrap().known;
    for begin in [20, 30] {
        write(&mut third, &part(begin..begin + 10)).await.unwrap();
    }
    let told = sink(&broker, Some(&old)).await.map(|_| ()).unwrap_err();
    assert!(told.0.contains("an older state"), "{told}");
}

#[tokio::test]
async fn records_of_a_stream_keep_their_keys_and_times() {
    let broker = Broker::start(4);
    let settings = json!({ "stream": "s", "kafka": { "topic": "t", "cluster": cluster(&broker) } });
    let settings: SinkConnector = serde_json::from_value(settings).unwrap();
    let work = "default/a/sink/s/0@hall".parse().unwrap();
    let mut sink = open_sink(&work, &settings, &machine(), None).await.unwrap();
    let rows: Vec<_> = (0..50).map(|n| (Some(format!("k{}", n % 5)), 1_000 * n, format!("{n}"))).collect();
    let rows = Part { rows: vec![Rows(batch::records(&rows).unwrap())], ..part(0..1) };
    write(&mut sink, &rows).await.unwrap();
    let records = all(&broker).await;
    assert_eq!(records.len(), 50);
    for key in 0..5 {
        let key = format!("k{key}");
        let of_key: Vec<i64> =
            records.iter().filter(|r| r.key.as_ref() == Some(&key)).map(|r| r.time_us / 1_000).collect();
        assert!(of_key.len() == 10 && of_key.is_sorted(), "{key}: {of_key:?}");
    }
}

#[tokio::test]
async fn brokers_are_reached_if_they_are_granted_and_let_the_user_in() {
    let broker = Broker::start(1);
    let address = broker.address.to_string();
    let open = async |more: Value| {
        let mut cluster = cluster(&broker);
        cluster.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let settings = json!({ "stream": "s", "kafka": { "topic": "t", "cluster": cluster } });
        let settings: SourceConnector = serde_json::from_value(settings).unwrap();
        let work = "default/a/source/s/0@hall".parse().unwrap();
        open_source(&work, &settings, &machine(), None).await.map(|_| ()).map_err(|trouble| trouble.0)
    };
    open(json!({})).await.unwrap();
    let told = open(json!({ "grants": ["10.0.0.1:9092"] })).await.unwrap_err();
    assert!(told.contains(&address) && told.contains("is not granted"), "{told}");
    // Whom a broker names is granted like any other, or not talked to.
    broker.name_as("10.0.0.1", 9_092);
    let told = sink(&broker, None).await.map(|_| ()).unwrap_err().0;
    assert!(told.contains("10.0.0.1:9092 is not granted"), "{told}");
    broker.name_as(&broker.address.ip().to_string(), broker.address.port());
    broker.let_in("littoral", "the secret kafka");
    let told = open(json!({ "user": "littoral", "password": "wrong" })).await.unwrap_err();
    assert!(told.contains("does not let the user in"), "{told}");
    open(json!({ "user": "littoral", "password": "secret:kafka" })).await.unwrap();
    broker.set_down(true);
    let told = open(json!({})).await.unwrap_err();
    assert!(told.contains("closed the connection"), "{told}");
}
