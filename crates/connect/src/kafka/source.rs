//! Takes the records of a topic. The position is the offset of each of its partitions, so that a record is in the stream once; there is
//! no group of consumers, and nothing is committed at the brokers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::select_all;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{FetchRequest, FetchResponse, ListOffsetsRequest};
use littoral_flow::stats::now_us;
use littoral_model::manifest::{self, KafkaStart};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::batch::{Fetched, Found};
use super::cluster::{Cluster, all_checked};
use super::{checked, said};
use crate::{BATCH_BYTES, BATCH_RECORDS, Machine, Record, Source, Taken, Trouble};

/// The version of the form of positions.
const VERSION: u32 = 1;
/// The longest record.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// How long a broker may wait for records before it answers that there are none.
const WAIT: Duration = Duration::from_millis(500);
/// How often it is asked which partitions there are.
const REFRESH: Duration = Duration::from_secs(30);
/// The version of what is asked for records; from this on it names all compressions.
const FETCH_VERSION: i16 = 10;
/// Only what was committed is read.
const READ_COMMITTED: i8 = 1;
/// Moments that the protocol has numbers for.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// A topic.
pub(super) struct KafkaSource {
    cluster: Cluster,
    place: Place,
    /// What was fetched and not taken yet, by partition.
    fetched: VecDeque<(i32, Fetched)>,
    /// The brokers that have been asked and have not answered.
    asked: BTreeMap<i32, Instant>,
    refreshed: Instant,
    passed_over: Option<(u64, String)>,
    /// The position was given since it was opened.
    has_begun: bool,
}

/// Where the source is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    version: u32,
    topic: String,
    /// The next offset of each partition.
    offsets: BTreeMap<i32, i64>,
}

impl KafkaSource {
    pub(super) async fn open(
        settings: &manifest::KafkaSource,
        machine: &Arc<dyn Machine>,
        position: Option<&[u8]>,
    ) -> Result<Self, Trouble> {
        let place = position.map(|position| place_of(position, &settings.topic)).transpose()?;
        let cluster = Cluster::open(&settings.cluster, &settings.topic, machine).await?;
        let is_new = place.is_none();
        let place = place.unwrap_or_else(|| Place {
            version: VERSION,
            topic: settings.topic.clone(),
            offsets: BTreeMap::new(),
        });
        let mut source = Self {
            cluster,
            place,
            fetched: VecDeque::new(),
            asked: BTreeMap::new(),
            refreshed: Instant::now(),
            passed_over: None,
            has_begun: false,
        };
        let from = if is_new && settings.from == KafkaStart::Latest { LATEST } else { EARLIEST };
        source.begin(from).await?;
        Ok(source)
    }

    /// Finds out where partitions begin that are new.
    async fn begin(&mut self, from: i64) -> Result<(), Trouble> {
        let new = self.cluster.leaders.keys().filter(|partition| !self.place.offsets.contains_key(partition));
        let new: Vec<i32> = new.copied().collect();
        let offsets = self.offsets(&new, from).await?;
        self.place.offsets.extend(offsets);
        Ok(())
    }

    /// The offsets of partitions at a moment.
    async fn offsets(&mut self, partitions: &[i32], at: i64) -> Result<BTreeMap<i32, i64>, Trouble> {
        let mut offsets = BTreeMap::new();
        for (leader, led) in self.led(partitions) {
            let asked = led
                .iter()
                .map(|partition| ListOffsetsPartition::default().with_partition_index(*partition).with_timestamp(at));
            let topic =
                ListOffsetsTopic::default().with_name(self.cluster.topic.clone()).with_partitions(asked.collect());
            let request = ListOffsetsRequest::default()
                .with_replica_id((-1).into())
                .with_isolation_level(READ_COMMITTED)
                .with_topics(vec![topic]);
            let answer = self.cluster.link(leader).await?.call(&request, 2).await?;
            let answers: Vec<_> = answer.topics.iter().flat_map(|topic| &topic.partitions).collect();
            all_checked("where partitions begin", answers.iter().map(|answer| answer.error_code))?;
            offsets.extend(answers.iter().map(|answer| (answer.partition_index, answer.offset)));
        }
        match partitions.iter().find(|partition| !offsets.contains_key(partition)) {
            Some(partition) => Err(Trouble(format!("nobody says where partition {partition} begins"))),
            None => Ok(offsets),
        }
    }

    /// Partitions by their leaders.
    fn led(&self, partitions: &[i32]) -> BTreeMap<i32, Vec<i32>> {
        let mut led: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for partition in partitions {
            if let Some(leader) = self.cluster.leaders.get(partition) {
                led.entry(*leader).or_default().push(*partition);
            }
        }
        led
    }

    /// Fetches until there is something to take, or a broker has said that there is nothing.
    async fn fetch(&mut self) -> Result<(), Trouble> {
        if self.asked.is_empty() && self.refreshed.elapsed() >= REFRESH {
            self.cluster.refresh().await?;
            self.begin(EARLIEST).await?;
            self.refreshed = Instant::now();
        }
        // A broker that is late is not asked for partitions anew before it has answered.
        if self.refreshed.elapsed() < REFRESH {
            self.ask().await?;
        }
        let patience = self.cluster.patience() + WAIT;
        let earliest = self.asked.values().min().copied().unwrap_or_else(Instant::now);
        let asked = &self.asked;
        let answers =
            self.cluster.links().filter(|(broker, _)| asked.contains_key(broker)).map(|(broker, link)| {
                Box::pin(async move { (broker, link.receive::<FetchRequest>(FETCH_VERSION).await) })
            });
        let answers: Vec<_> = answers.collect();
        if answers.is_empty() {
            return Err(Trouble("no broker leads a partition".to_owned()));
        }
        let left = patience.saturating_sub(earliest.elapsed());
        let ((broker, answer), ..) = timeout(left, select_all(answers))
            .await
            .map_err(|_| Trouble(format!("no answer within {} s", patience.as_secs_f64())))?;
        self.asked.remove(&broker);
        self.arrived(answer?).await
    }

    /// Asks those brokers that are not asked already.
    async fn ask(&mut self) -> Result<(), Trouble> {
        let partitions: Vec<i32> = self.place.offsets.keys().copied().collect();
        for (leader, led) in self.led(&partitions) {
            if self.asked.contains_key(&leader) {
                continue;
            }
            let wanted = led.iter().filter_map(|partition| {
                let offset = self.place.offsets.get(partition)?;
                let wanted = FetchPartition::default().with_partition(*partition).with_fetch_offset(*offset);
                Some(wanted.with_partition_max_bytes(BATCH_BYTES as i32))
            });
            let topic = FetchTopic::default().with_topic(self.cluster.topic.clone()).with_partitions(wanted.collect());
            let request = FetchRequest::default()
                .with_max_wait_ms(i32::try_from(WAIT.as_millis()).unwrap_or(i32::MAX))
                .with_min_bytes(1)
                .with_max_bytes(BATCH_BYTES as i32)
                .with_isolation_level(READ_COMMITTED)
                .with_topics(vec![topic]);
            self.cluster.link(leader).await?.send(&request, FETCH_VERSION)?;
            self.asked.insert(leader, Instant::now());
        }
        Ok(())
    }

    async fn arrived(&mut self, answer: FetchResponse) -> Result<(), Trouble> {
        checked("records", answer.error_code)?;
        let topic = self.cluster.topic.clone();
        for partition in
            answer.responses.into_iter().filter(|answer| answer.topic == topic).flat_map(|it| it.partitions)
        {
            let index = partition.partition_index;
            let Some(offset) = self.place.offsets.get(&index).copied() else { continue };
            match ResponseError::try_from_code(partition.error_code) {
                None => self.fetched.push_back((index, fetched(partition, offset))),
                Some(ResponseError::OffsetOutOfRange) => self.reset(index, offset).await?,
                Some(error) => {
                    return Err(Trouble(format!("partition {index} of {}: {}", topic.as_str(), said(error))));
                }
            }
        }
        Ok(())
    }

    /// Goes on with what there is of a partition that forgot records before they were read.
    async fn reset(&mut self, partition: i32, offset: i64) -> Result<(), Trouble> {
        let earliest = self.offsets(&[partition], EARLIEST).await?.get(&partition).copied().unwrap_or_default();
        let lost = u64::try_from(earliest - offset).unwrap_or_default();
        if lost == 0 {
            return Err(Trouble(format!(
                "partition {partition} of {} ends before offset {offset}, up to which it was read; if the topic was created anew, declare \
                 the source under another name",
                self.place.topic
            )));
        }
        self.pass_over(lost, format!("the brokers had deleted records of partition {partition} before they were read"));
        self.place.offsets.insert(partition, earliest);
        Ok(())
    }

    fn pass_over(&mut self, count: u64, why: String) {
        let before = self.passed_over.take().map_or(0, |(count, _)| count);
        self.passed_over = Some((before + count, why));
    }

    /// Records of what was fetched, as many as are committed at once.
    fn take(&mut self) -> Result<Vec<Record>, Trouble> {
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some((partition, mut fetched)) = self.fetched.pop_front() {
            let taken = loop {
                if bytes >= BATCH_BYTES || records.len() >= BATCH_RECORDS {
                    break false;
                }
                let found = fetched.take();
                let found =
                    found.map_err(|why| Trouble(format!("partition {partition} of {}: {why}", self.place.topic)))?;
                let Some(found) = found else { break true };
                let offset = found.offset;
                match record(found) {
                    Ok(record) => {
                        bytes += record.value.len() + record.key.as_ref().map_or(0, String::len);
                        records.push(record);
                    }
                    Err(why) => {
                        self.pass_over(1, format!("offset {offset} of partition {partition} is no record: {why}"))
                    }
                }
            };
            self.place.offsets.insert(partition, fetched.next);
            if !taken {
                self.fetched.push_front((partition, fetched));
                break;
            }
        }
        Ok(records)
    }

    fn give(&mut self, records: Vec<Record>) -> Result<Taken, Trouble> {
        let position = serde_json::to_vec(&self.place).map_err(|error| Trouble(error.to_string()))?;
        self.has_begun = true;
        Ok(Taken { records, position: Bytes::from(position), passed_over: self.passed_over.take() })
    }
}

#[async_trait]
impl Source for KafkaSource {
    async fn next(&mut self) -> Result<Taken, Trouble> {
        // Where it begins is committed before anything is read: `latest` means the same after a failure.
        if !self.has_begun {
            return self.give(Vec::new());
        }
        if self.fetched.is_empty() {
            self.fetch().await?;
        }
        let records = self.take()?;
        self.give(records)
    }
}

fn place_of(position: &[u8], topic: &str) -> Result<Place, Trouble> {
    let place = serde_json::from_slice::<Place>(position).ok().filter(|place| place.version == VERSION);
    let place = place.filter(|place| place.topic == topic);
    place.ok_or_else(|| Trouble(format!("its position is not that of {topic}: declare it under another name")))
}

fn fetched(partition: PartitionData, offset: i64) -> Fetched {
    let aborted = partition.aborted_transactions.unwrap_or_default();
    let aborted = aborted.into_iter().map(|aborted| (aborted.first_offset, aborted.producer_id.0)).collect();
    Fetched::new(partition.records.unwrap_or_default(), aborted, offset)
}

fn record(found: Found) -> Result<Record, String> {
    let bytes = found.value.ok_or("it has no value, as what marks a key as deleted")?;
    if bytes.len() + found.key.as_ref().map_or(0, Bytes::len) > RECORD_BYTES_MAX {
        return Err(format!("it has {} bytes", bytes.len()));
    }
    let text = |what: &str, bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(format!("its {what} is no text: {error}")),
    };
    let key = found.key.map(|key| text("key", &key)).transpose()?;
    let time_us = if found.time_ms < 0 { now_us() } else { found.time_ms.saturating_mul(1_000) };
    Ok(Record { key, time_us, value: text("value", &bytes)? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_an_older_version_has_committed_is_read_and_of_another_topic_refused() {
        let place = place_of(br#"{"version":1,"topic":"t","offsets":{"0":7,"1":9}}"#, "t").unwrap();
        assert_eq!(place.offsets, BTreeMap::from([(0, 7), (1, 9)]));
        assert!(place_of(br#"{"version":1,"topic":"t","offsets":{}}"#, "other").is_err());
        assert!(place_of(br#"{"version":2,"topic":"t","offsets":{}}"#, "t").is_err());
    }

    #[test]
    fn what_is_no_text_or_has_no_value_is_no_record() {
        let found = |key: Option<&'static [u8]>, value: Option<&'static [u8]>| Found {
            offset: 3,
            time_ms: 5,
            key: key.map(Bytes::from_static),
            value: value.map(Bytes::from_static),
        };
        let good = record(found(Some(b"k"), Some(b"v"))).unwrap();
        assert_eq!(good, Record { key: Some("k".to_owned()), time_us: 5_000, value: "v".to_owned() });
        assert!(record(found(None, None)).unwrap_err().contains("no value"));
        assert!(record(found(Some(b"\xff"), Some(b"v"))).unwrap_err().contains("key"));
        assert!(record(found(None, Some(b"\xff"))).unwrap_err().contains("value"));
    }
}
