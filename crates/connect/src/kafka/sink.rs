//! Writes rows in transactions, of which each has all rows of one commit of the sink, and the number of that commit.
//!
//! Which rows go together is committed before they are written (the sink is planned). The number is an offset of a group of consumers
//! that has none, under the transactional id's name: Kafka commits it with the rows or not at all. After a failure it says whether the
//! rows that are given again are there already. To begin, the producer is given a new epoch, which ends what its former owner has begun
//! and fences that owner off.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{Array as _, StringArray, TimestampMicrosecondArray};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, EndTxnRequest, GroupId, InitProducerIdRequest,
    OffsetFetchRequest, ProduceRequest, TransactionalId, TxnOffsetCommitRequest,
};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};
use littoral_flow::stats::now_us;
use littoral_model::manifest;
use littoral_model::work::WorkId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::cluster::{Cluster, Coordinated, all_checked, is_over};
use super::{checked, said};
use crate::{Flushed, Machine, Part, Rows, Sink, Trouble, key_of};

/// The version of the form of what it must know, here and in the group.
const VERSION: u32 = 1;
/// How many bytes of rows are sent at once; a broker takes about a mebibyte.
const SENT_BYTES: usize = 512 << 10;
/// After how long the brokers end a transaction that nobody ends, as its sink was killed and does not come back. Readers wait for it.
const TRANSACTION_MS: i32 = 60_000;
/// Of the topic's partitions, the one that the number of the last transaction stands with in the group.
const NUMBERED: i32 = 0;

/// A topic that is written to.
pub(super) struct KafkaSink {
    cluster: Cluster,
    id: String,
    key: Option<String>,
    /// What is committed of the sink.
    known: Known,
    /// The rows that come next are there already.
    is_there: bool,
    producer: Producer,
    /// Rows that are not sent, by partition.
    rows: BTreeMap<i32, Vec<Record>>,
    rows_bytes: usize,
    /// Something was written since it was flushed.
    is_begun: bool,
    passed_over: Option<(u64, String)>,
}

/// What the sink must know: as which it writes, which another one of its name is not, and how many transactions it has made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Known {
    version: u32,
    token: String,
    count: i64,
}

/// The right to write, until somebody else is given it.
struct Producer {
    coordinator: i32,
    group: i32,
    id: i64,
    epoch: i16,
    /// The number of the next record in each partition.
    sequences: BTreeMap<i32, i32>,
    /// The partitions that belong to the transaction.
    added: Vec<i32>,
}

impl KafkaSink {
    pub(super) async fn open(
        work: &WorkId,
        settings: &manifest::KafkaSink,
        machine: &Arc<dyn Machine>,
        committed: Option<&[u8]>,
    ) -> Result<Self, Trouble> {
        let known = match committed {
            Some(committed) => known(committed)?,
            None => Known { version: VERSION, token: format!("{:016x}", rand::random::<u64>()), count: 0 },
        };
        let id = settings.transactional_id.clone().unwrap_or_else(|| named(work));
        let mut cluster = Cluster::open(&settings.cluster, &settings.topic, machine).await?;
        let producer = Producer::open(&mut cluster, &id).await?;
        let last = last(&mut cluster, producer.group, &id).await?;
        let is_there = match last.filter(|last| last.token == known.token) {
            // Nothing was written yet, or the group has forgotten it: brokers do after a week in which nothing was written.
            None => false,
            Some(last) if last.count == known.count => false,
            Some(last) if last.count == known.count + 1 => true,
            Some(last) => {
                return Err(Trouble(format!(
                    "the brokers have transaction {} of this sink and it knows of {}; they or its log were put back to an older state: \
                     declare it under another name",
                    last.count, known.count
                )));
            }
        };
        let (rows, key) = (BTreeMap::new(), settings.key.clone());
        Ok(Self {
            cluster,
            id,
            key,
            known,
            is_there,
            producer,
            rows,
            rows_bytes: 0,
            is_begun: false,
            passed_over: None,
        })
    }

    /// Sends the rows that have been taken, to each partition its own.
    async fn send(&mut self) -> Result<(), Trouble> {
        self.rows_bytes = 0;
        let rows = std::mem::take(&mut self.rows);
        if self.is_there {
            return Ok(());
        }
        let partitions: Vec<i32> = rows.keys().copied().collect();
        self.producer.add(&mut self.cluster, &self.id, &partitions).await?;
        for (partition, records) in rows {
            // What is still to be sent, the first at the end.
            let mut left = vec![records];
            while let Some(mut records) = left.pop() {
                match self.produce(partition, &mut records).await? {
                    None => {}
                    Some(_) if records.len() > 1 => {
                        let behind = records.split_off(records.len() / 2);
                        left.extend([behind, records]);
                    }
                    Some(error) => self.pass_over(format!("the brokers do not take a row: {}", said(error))),
                }
            }
        }
        Ok(())
    }

    /// Sends records; the error if there are too many, or one that is never taken.
    async fn produce(&mut self, partition: i32, records: &mut [Record]) -> Result<Option<ResponseError>, Trouble> {
        let begin = self.producer.sequences.get(&partition).copied().unwrap_or_default();
        for (place, record) in (0..).zip(records.iter_mut()) {
            (record.offset, record.sequence) = (place.into(), begin.wrapping_add(place));
            (record.producer_id, record.producer_epoch) = (self.producer.id, self.producer.epoch);
        }
        let mut bytes = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut bytes, records.iter(), &options).map_err(|error| Trouble(error.to_string()))?;
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(bytes.freeze()));
        let topic = TopicProduceData::default().with_name(self.cluster.topic.clone()).with_partition_data(vec![data]);
        let patience_ms = i32::try_from(self.cluster.patience().as_millis()).unwrap_or(i32::MAX);
        let request = ProduceRequest::default()
            .with_transactional_id(Some(transactional(&self.id)))
            .with_acks(-1)
            .with_timeout_ms(patience_ms)
            .with_topic_data(vec![topic]);
        let leader = self.cluster.leaders.get(&partition).copied().unwrap_or_default();
        let answer = self.cluster.link(leader).await?.call(&request, 7).await?;
        let answers = answer.responses.iter().flat_map(|topic| &topic.partition_responses);
        let codes: Vec<i16> = answers.map(|answer| answer.error_code).collect();
        let Some(code) = codes.first() else {
            return Err(Trouble("a broker says nothing of what it was sent".to_owned()));
        };
        let error = ResponseError::try_from_code(*code);
        let is_final = matches!(
            error,
            Some(ResponseError::MessageTooLarge | ResponseError::RecordListTooLarge | ResponseError::InvalidRecord)
        );
        if !is_final {
            checked(&format!("partition {partition}"), *code)?;
            let count = i32::try_from(records.len()).unwrap_or(i32::MAX);
            self.producer.sequences.insert(partition, begin.wrapping_add(count));
        }
        Ok(error)
    }

    fn pass_over(&mut self, why: String) {
        let before = self.passed_over.take().map_or(0, |(count, _)| count);
        self.passed_over = Some((before + 1, why));
    }

    fn take(&mut self, record: Record) {
        self.rows_bytes += record.value.as_ref().map_or(0, Bytes::len) + record.key.as_ref().map_or(0, Bytes::len);
        let partition = match &record.key {
            Some(key) => partition_of(key, self.cluster.leaders.len()),
            // All of a transaction together, the next one elsewhere.
            None => usize::try_from(self.known.count).unwrap_or_default() % self.cluster.leaders.len().max(1),
        };
        let partition = self.cluster.leaders.keys().nth(partition).copied().unwrap_or_default();
        self.rows.entry(partition).or_default().push(record);
    }
}

#[async_trait]
impl Sink for KafkaSink {
    async fn write(&mut self, part: &Part) -> Result<(), Trouble> {
        for rows in &part.rows {
            for (place, line) in rows.lines()?.lines().enumerate() {
                self.is_begun = true;
                match record(rows, place, line, self.key.as_deref()) {
                    Ok(record) => self.take(record),
                    Err(why) => self.pass_over(why),
                }
                if self.rows_bytes >= SENT_BYTES {
                    self.send().await?;
                }
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<Flushed, Trouble> {
        if self.is_begun {
            self.send().await?;
            let next = Known { count: self.known.count + 1, ..self.known.clone() };
            if !self.is_there {
                self.producer.end(&mut self.cluster, &self.id, &next).await?;
            }
            (self.known, self.is_there, self.is_begun) = (next, false, false);
        }
        let known = serde_json::to_vec(&self.known).map_err(|error| Trouble(error.to_string()))?;
        Ok(Flushed { known: Bytes::from(known), passed_over: self.passed_over.take() })
    }

    async fn committed(&mut self) -> Result<(), Trouble> {
        Ok(())
    }
}

impl Producer {
    /// Takes the right to write over from whoever had it; what that has not committed is ended.
    async fn open(cluster: &mut Cluster, id: &str) -> Result<Self, Trouble> {
        let coordinator = cluster.coordinator(Coordinated::Transaction, id).await?;
        let group = cluster.coordinator(Coordinated::Group, id).await?;
        let patience = cluster.patience();
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(transactional(id)))
            .with_transaction_timeout_ms(TRANSACTION_MS);
        let deadline = Instant::now() + patience;
        loop {
            let answer = cluster.link(coordinator).await?.call(&request, 1).await?;
            if is_over(answer.error_code, deadline).await {
                checked(&format!("the transactions of {id}"), answer.error_code)?;
                let (sequences, added) = (BTreeMap::new(), Vec::new());
                let (id, epoch) = (answer.producer_id.0, answer.producer_epoch);
                return Ok(Self { coordinator, group, id, epoch, sequences, added });
            }
        }
    }

    /// Has partitions belong to the transaction.
    async fn add(&mut self, cluster: &mut Cluster, id: &str, partitions: &[i32]) -> Result<(), Trouble> {
        let new: Vec<i32> = partitions.iter().copied().filter(|partition| !self.added.contains(partition)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let topic = AddPartitionsToTxnTopic::default().with_name(cluster.topic.clone()).with_partitions(new.clone());
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(transactional(id))
            .with_v3_and_below_producer_id(self.id.into())
            .with_v3_and_below_producer_epoch(self.epoch)
            .with_v3_and_below_topics(vec![topic]);
        let deadline = Instant::now() + cluster.patience();
        loop {
            let answer = cluster.link(self.coordinator).await?.call(&request, 1).await?;
            let results = answer.results_by_topic_v3_and_below.iter().flat_map(|topic| &topic.results_by_partition);
            let codes: Vec<i16> = results.map(|result| result.partition_error_code).collect();
            let first = codes.iter().copied().find(|code| *code != 0).unwrap_or_default();
            if is_over(first, deadline).await {
                all_checked("a transaction", codes)?;
                self.added.extend(new);
                return Ok(());
            }
        }
    }

    /// Commits the transaction, and with it how many there were.
    async fn end(&mut self, cluster: &mut Cluster, id: &str, known: &Known) -> Result<(), Trouble> {
        let deadline = Instant::now() + cluster.patience();
        let request = AddOffsetsToTxnRequest::default()
            .with_transactional_id(transactional(id))
            .with_producer_id(self.id.into())
            .with_producer_epoch(self.epoch)
            .with_group_id(group(id));
        loop {
            let answer = cluster.link(self.coordinator).await?.call(&request, 1).await?;
            if is_over(answer.error_code, deadline).await {
                checked("a transaction", answer.error_code)?;
                break;
            }
        }
        let told = serde_json::to_string(known).map_err(|error| Trouble(error.to_string()))?;
        let partition = TxnOffsetCommitRequestPartition::default()
            .with_partition_index(NUMBERED)
            .with_committed_offset(known.count)
            .with_committed_metadata(Some(StrBytes::from_string(told)));
        let topic =
            TxnOffsetCommitRequestTopic::default().with_name(cluster.topic.clone()).with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(transactional(id))
            .with_group_id(group(id))
            .with_producer_id(self.id.into())
            .with_producer_epoch(self.epoch)
            .with_topics(vec![topic]);
        loop {
            let answer = cluster.link(self.group).await?.call(&request, 2).await?;
            let answers = answer.topics.iter().flat_map(|topic| &topic.partitions);
            let code = answers.map(|answer| answer.error_code).find(|code| *code != 0).unwrap_or_default();
            if is_over(code, deadline).await {
                checked("the number of a transaction", code)?;
                break;
            }
        }
        let request = EndTxnRequest::default()
            .with_transactional_id(transactional(id))
            .with_producer_id(self.id.into())
            .with_producer_epoch(self.epoch)
            .with_committed(true);
        loop {
            let answer = cluster.link(self.coordinator).await?.call(&request, 1).await?;
            if is_over(answer.error_code, deadline).await {
                checked("the end of a transaction", answer.error_code)?;
                self.added.clear();
                return Ok(());
            }
        }
    }
}

/// What the group says of the last transaction.
async fn last(cluster: &mut Cluster, coordinator: i32, id: &str) -> Result<Option<Known>, Trouble> {
    let topic =
        OffsetFetchRequestTopic::default().with_name(cluster.topic.clone()).with_partition_indexes(vec![NUMBERED]);
    // Not before what is being committed is there, or is not.
    let request =
        OffsetFetchRequest::default().with_group_id(group(id)).with_topics(Some(vec![topic])).with_require_stable(true);
    let deadline = Instant::now() + cluster.patience();
    loop {
        let answer = cluster.link(coordinator).await?.call(&request, 7).await?;
        let found = answer.topics.iter().flat_map(|topic| &topic.partitions).next();
        let code = found.map_or(answer.error_code, |found| found.error_code);
        if is_over(code, deadline).await {
            all_checked("the number of the last transaction", [code, answer.error_code])?;
            let told = found.filter(|found| found.committed_offset >= 0).and_then(|found| found.metadata.as_ref());
            let told = told.filter(|told| !told.is_empty());
            return told.map(|told| known(told.as_bytes())).transpose();
        }
    }
}

fn known(bytes: &[u8]) -> Result<Known, Trouble> {
    let known = serde_json::from_slice::<Known>(bytes).ok().filter(|known| known.version == VERSION);
    known.ok_or_else(|| {
        Trouble("what was committed of it is not of a sink of Kafka: declare it under another name, or with another `transactional-id`".to_owned())
    })
}

/// How the producer is named if nothing else is said: the same whichever node has it, so that one fences off the other.
fn named(work: &WorkId) -> String {
    let work = work.to_string();
    let (name, _) = work.rsplit_once('/').unwrap_or((&work, ""));
    format!("littoral.{}", name.replace('/', "."))
}

fn transactional(id: &str) -> TransactionalId {
    TransactionalId(StrBytes::from_string(id.to_owned()))
}

fn group(id: &str) -> GroupId {
    GroupId(StrBytes::from_string(id.to_owned()))
}

/// What is written of a row: of a record its key, time and value, of any other the row as JSON.
fn record(rows: &Rows, place: usize, line: &str, key: Option<&str>) -> Result<Record, String> {
    let row: Map<String, Value> = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let named = key.or_else(|| rows.is_record().then_some("key"));
    let key = match named {
        None => None,
        Some(named) => match row.get(named) {
            None => {
                return Err(format!("a row has no column `{named}`: {}", line.chars().take(200).collect::<String>()));
            }
            value => key_of(value),
        },
    };
    let (time_us, value) = match rows.is_record() {
        true => (column::<TimestampMicrosecondArray>(rows, "time").map(|times| times.value(place)), text(rows, place)),
        false => (None, None),
    };
    Ok(Record {
        transactional: true,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset: 0,
        sequence: 0,
        timestamp: time_us.unwrap_or_else(now_us) / 1_000,
        key: key.map(Bytes::from),
        value: Some(Bytes::from(value.unwrap_or_else(|| line.to_owned()))),
        headers: Default::default(),
    })
}

fn column<'r, A: 'static>(rows: &'r Rows, name: &str) -> Option<&'r A> {
    rows.0.column_by_name(name)?.as_any().downcast_ref()
}

fn text(rows: &Rows, place: usize) -> Option<String> {
    column::<StringArray>(rows, "value").map(|values| values.value(place).to_owned())
}

/// The partition of a key as producers of Kafka choose it unless they are told otherwise, so that a key stays in one whoever writes it.
fn partition_of(key: &[u8], partitions: usize) -> usize {
    (murmur2(key) & 0x7fff_ffff) as usize % partitions.max(1)
}

/// MurmurHash2 as Kafka has it, of 32 bits with a seed of its own (`org.apache.kafka.common.utils.Utils`).
fn murmur2(bytes: &[u8]) -> u32 {
    const FACTOR: u32 = 0x5bd1_e995;
    let (blocks, rest) = bytes.as_chunks::<4>();
    let mut hash = 0x9747_b28c ^ u32::try_from(bytes.len()).unwrap_or_default();
    for block in blocks {
        let mixed = u32::from_le_bytes(*block).wrapping_mul(FACTOR);
        hash = hash.wrapping_mul(FACTOR) ^ (mixed ^ mixed >> 24).wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(FACTOR);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(FACTOR);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use littoral_flow::batch;

    use super::*;

    #[test]
    fn keys_are_hashed_as_by_other_clients() {
        // From the tests of Apache Kafka, `UtilsTest.testMurmur2`.
        let known = [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in known {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn of_a_record_its_key_time_and_value_are_written() {
        let rows = batch::records(&[(None, 1, "x".to_owned()), (Some("k".to_owned()), 7_000, "{\"m\":5}".to_owned())]);
        let rows = Rows(rows.unwrap());
        let lines = rows.lines().unwrap();
        let written = record(&rows, 1, lines.lines().nth(1).unwrap(), None).unwrap();
        assert_eq!((written.key.as_deref(), written.timestamp), (Some(b"k".as_slice()), 7));
        assert_eq!(written.value.as_deref(), Some(b"{\"m\":5}".as_slice()));
        assert!(record(&rows, 0, lines.lines().next().unwrap(), Some("machine")).unwrap_err().contains("`machine`"));
    }

    #[test]
    fn what_an_older_version_has_committed_is_read() {
        let read = known(br#"{"version":1,"token":"00ff","count":3}"#).unwrap();
        assert_eq!(read, Known { version: 1, token: "00ff".to_owned(), count: 3 });
        assert!(known(b"http 1").is_err());
    }
}
