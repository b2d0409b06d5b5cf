//! The part of a broker of Kafka, for tests: topics in memory, and transactions that are atomic. It answers the requests and versions
//! that sources and sinks use, checks producers' epochs and numbers as brokers do, and answers now and then, as brokers do, that it is to be asked again.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::fetch_response::{AbortedTransaction, FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::offset_fetch_response::{OffsetFetchResponsePartition, OffsetFetchResponseTopic};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable as _, Request, StrBytes};
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

const OUT_OF_RANGE: i16 = 1;
const OUT_OF_ORDER: i16 = 45;
const FENCED: i16 = 47;
const NOT_IN_TRANSACTION: i16 = 48;
const CONCURRENT: i16 = 51;
const NOT_LET_IN: i16 = 58;

#[derive(Default)]
struct Log {
    batches: Vec<Batch>,
    start: i64,
    end: i64,
    /// The first offsets of transactions that have not ended, by producer.
    open: BTreeMap<i64, i64>,
    /// First offsets, last offsets and producers of transactions that were aborted.
    aborted: Vec<(i64, i64, i64)>,
    sequences: BTreeMap<(i64, i16), i32>,
}

struct Batch {
    base: i64,
    last: i64,
    bytes: Bytes,
}

impl Log {
    fn append(&mut self, bytes: &[u8], count: i64) -> i64 {
        let mut bytes = BytesMut::from(bytes);
        bytes[..8].copy_from_slice(&self.end.to_be_bytes());
        let base = self.end;
        self.end += count;
        self.batches.push(Batch { base, last: self.end - 1, bytes: bytes.freeze() });
        base
    }

    fn stable(&self) -> i64 {
        self.open.values().min().copied().unwrap_or(self.end)
    }

    fn finish(&mut self, producer: i64, epoch: i16, is_committed: bool) {
        let Some(first) = self.open.remove(&producer) else { return };
        if !is_committed {
            self.aborted.push((first, self.end - 1, producer));
        }
        let mark = record(Some(Bytes::from(vec![0, 0, 0, u8::from(is_committed)])), None, producer, epoch, true);
        self.append(&encoded(&[mark]), 1);
    }
}

/// A partition of a topic, as a group knows it.
type Numbered = (String, String, i32);

#[derive(Default)]
struct Producer {
    id: i64,
    epoch: i16,
    partitions: BTreeSet<(String, i32)>,
    numbers: Vec<(Numbered, (i64, String))>,
    is_begun: bool,
    /// Its last transaction is still being ended: it is to ask again.
    is_ending: bool,
}

#[derive(Default)]
struct State {
    partitions: i32,
    topics: BTreeMap<String, Vec<Log>>,
    producers: BTreeMap<String, Producer>,
    numbers: BTreeMap<Numbered, (i64, String)>,
    user: Option<(String, String)>,
    /// The connection is closed in place of the answer to the next request of this kind.
    lost: Option<i16>,
    asked: BTreeMap<i16, usize>,
    is_down: bool,
    named: Option<(String, u16)>,
}

/// A broker that listens on an address of the loopback interface, and ends with the process.
#[derive(Clone)]
pub struct Broker {
    state: Arc<(Mutex<State>, Condvar)>,
    pub address: SocketAddr,
}

impl Broker {
    /// Topics have so many partitions, and are there once they are asked for.
    pub fn start(partitions: i32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { partitions, ..State::default() };
        let broker = Self { state: Arc::new((Mutex::new(state), Condvar::new())), address };
        let accepting = broker.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let broker = accepting.clone();
                thread::spawn(move || broker.serve(stream.unwrap()));
            }
        });
        broker
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap()
    }

    /// Lets in this user only.
    pub fn let_in(&self, user: &str, password: &str) {
        self.state().user = Some((user.to_owned(), password.to_owned()));
    }

    /// Carries out the next request of this kind, and closes the connection in place of the answer.
    pub fn lose_answer_of(&self, kind: ApiKey) {
        self.state().lost = Some(kind as i16);
    }

    /// How many requests of a kind there were.
    pub fn asked(&self, kind: ApiKey) -> usize {
        self.state().asked.get(&(kind as i16)).copied().unwrap_or_default()
    }

    /// Whether it closes all connections.
    pub fn set_down(&self, is_down: bool) {
        self.state().is_down = is_down;
    }

    /// Gives topics more partitions.
    pub fn grow(&self, partitions: i32) {
        let mut state = self.state();
        state.partitions = partitions;
        for logs in state.topics.values_mut() {
            logs.resize_with(usize::try_from(partitions).unwrap(), Log::default);
        }
    }

    /// Appends records without a transaction.
    pub fn append(&self, topic: &str, partition: i32, values: &[(Option<&str>, Option<&[u8]>)]) {
        let records: Vec<Record> = values
            .iter()
            .map(|(key, value)| {
                let bytes = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
                record(key.map(|key| bytes(key.as_bytes())), value.map(bytes), -1, -1, false)
            })
            .collect();
        let mut state = self.state();
        state.log(topic, partition).append(&encoded(&records), values.len() as i64);
        self.state.1.notify_all();
    }

    /// Forgets what is before an offset.
    pub fn forget(&self, topic: &str, partition: i32, before: i64) {
        let mut state = self.state();
        let log = state.log(topic, partition);
        log.start = before;
        log.batches.retain(|batch| batch.last >= before);
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut is_known = self.state().user.is_none();
        stream.set_nodelay(true).unwrap();
        loop {
            let mut length = [0; 4];
            if stream.read_exact(&mut length).is_err() {
                return;
            }
            let mut request = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
            if stream.read_exact(&mut request).is_err() || self.state().is_down {
                return;
            }
            let Some(answer) = self.answer(Bytes::from(request), &mut is_known) else { return };
            if self.state().is_down {
                return;
            }
            let length = i32::try_from(answer.len()).unwrap().to_be_bytes();
            if stream.write_all(&length).and_then(|()| stream.write_all(&answer)).is_err() {
                return;
            }
        }
    }

    fn answer(&self, mut request: Bytes, is_known: &mut bool) -> Option<BytesMut> {
        let header = kafka_protocol::protocol::decode_request_header_from_buffer(&mut request).unwrap();
        let (kind, version) = (header.request_api_key, header.request_api_version);
        *self.state().asked.entry(kind).or_default() += 1;
        let key = ApiKey::try_from(kind).unwrap();
        assert!(*is_known || matches!(key, ApiKey::SaslHandshake | ApiKey::SaslAuthenticate), "{key:?} by nobody");
        let mut body = BytesMut::new();
        let answered = ResponseHeader::default().with_correlation_id(header.correlation_id);
        answered.encode(&mut body, key.response_header_version(version)).unwrap();
        let mut with = Exchange { request, body: &mut body, version };
        match key {
            ApiKey::SaslHandshake => with.answer(|asked: SaslHandshakeRequest| {
                let is_plain = asked.mechanism.as_str() == "PLAIN";
                SaslHandshakeResponse::default()
                    .with_error_code(if is_plain { 0 } else { 33 })
                    .with_mechanisms(vec![StrBytes::from_static_str("PLAIN")])
            }),
            ApiKey::SaslAuthenticate => with.answer(|asked: SaslAuthenticateRequest| {
                let (user, password) = self.state().user.clone().unwrap();
                *is_known = *asked.auth_bytes == *format!("\0{user}\0{password}").as_bytes();
                SaslAuthenticateResponse::default().with_error_code(if *is_known { 0 } else { NOT_LET_IN })
            }),
            ApiKey::Metadata => with.answer(|asked| self.metadata(asked)),
            ApiKey::ListOffsets => with.answer(|asked| self.offsets(asked)),
            ApiKey::Fetch => with.answer(|asked| self.fetch(asked)),
            ApiKey::Produce => with.answer(|asked| self.produce(asked)),
            ApiKey::FindCoordinator => with.answer(|_: FindCoordinatorRequest| {
                let (host, port) = self.named();
                FindCoordinatorResponse::default().with_node_id(1.into()).with_host(host).with_port(port)
            }),
            ApiKey::InitProducerId => with.answer(|asked| self.state().begin(asked)),
            ApiKey::AddPartitionsToTxn => with.answer(|asked| self.state().add(asked)),
            ApiKey::AddOffsetsToTxn => with.answer(|asked: AddOffsetsToTxnRequest| {
                let mut state = self.state();
                let code = state.producer(&asked.transactional_id, asked.producer_id.0, asked.producer_epoch).err();
                AddOffsetsToTxnResponse::default().with_error_code(code.unwrap_or_default())
            }),
            ApiKey::TxnOffsetCommit => with.answer(|asked| self.state().number(asked)),
            ApiKey::EndTxn => with.answer(|asked| self.end(asked)),
            ApiKey::OffsetFetch => with.answer(|asked| self.state().numbered(asked)),
            other => panic!("nobody needs {other:?}"),
        }
        let mut state = self.state();
        if state.lost == Some(kind) {
            state.lost = None;
            return None;
        }
        drop(state);
        Some(body)
    }

    /// Has it name itself so to its clients.
    pub fn name_as(&self, host: &str, port: u16) {
        self.state().named = Some((host.to_owned(), port));
    }

    fn named(&self) -> (StrBytes, i32) {
        let named = self.state().named.clone();
        let (host, port) = named.unwrap_or_else(|| (self.address.ip().to_string(), self.address.port()));
        (StrBytes::from_string(host), port.into())
    }

    fn metadata(&self, asked: MetadataRequest) -> MetadataResponse {
        let (host, port) = self.named();
        let broker = MetadataResponseBroker::default().with_node_id(1.into()).with_host(host).with_port(port);
        let mut state = self.state();
        let topics = asked.topics.unwrap().into_iter().map(|topic| {
            let name = topic.name.unwrap();
            let count = state.logs(name.as_str()).len();
            let partitions = (0..i32::try_from(count).unwrap())
                .map(|index| MetadataResponsePartition::default().with_partition_index(index).with_leader_id(1.into()));
            MetadataResponseTopic::default().with_name(Some(name)).with_partitions(partitions.collect())
        });
        MetadataResponse::default().with_topics(topics.collect()).with_brokers(vec![broker])
    }

    fn offsets(&self, asked: ListOffsetsRequest) -> ListOffsetsResponse {
        let mut state = self.state();
        let topics = asked.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let log = state.log(topic.name.as_str(), partition.partition_index);
                let offset = if partition.timestamp == -2 { log.start } else { log.stable() };
                ListOffsetsPartitionResponse::default()
                    .with_partition_index(partition.partition_index)
                    .with_offset(offset)
            });
            let partitions = partitions.collect();
            ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions)
        });
        ListOffsetsResponse::default().with_topics(topics.collect())
    }

    fn fetch(&self, asked: FetchRequest) -> FetchResponse {
        let deadline = Instant::now() + Duration::from_millis(asked.max_wait_ms.try_into().unwrap());
        let mut state = self.state();
        loop {
            let mut has_some = false;
            let topics = asked.topics.iter().map(|topic| {
                let partitions = topic.partitions.iter().map(|partition| {
                    let log = state.log(topic.topic.as_str(), partition.partition);
                    let data = read(log, partition.fetch_offset, asked.max_bytes);
                    has_some |=
                        data.error_code != 0 || data.records.as_ref().is_some_and(|records| !records.is_empty());
                    data.with_partition_index(partition.partition)
                });
                let partitions = partitions.collect();
                FetchableTopicResponse::default().with_topic(topic.topic.clone()).with_partitions(partitions)
            });
            let answer = FetchResponse::default().with_responses(topics.collect());
            let left = deadline.saturating_duration_since(Instant::now());
            if has_some || left.is_zero() {
                return answer;
            }
            state = self.state.1.wait_timeout(state, left).unwrap().0;
        }
    }

    fn produce(&self, asked: ProduceRequest) -> ProduceResponse {
        assert_eq!(asked.acks, -1, "it is safe once all replicas have it");
        let id = asked.transactional_id.unwrap();
        let mut state = self.state();
        let topics = asked.topic_data.into_iter().map(|topic| {
            let partitions = topic.partition_data.iter().map(|data| {
                let taken = state.take(&id, topic.name.as_str(), data.index, data.records.as_ref().unwrap());
                PartitionProduceResponse::default()
                    .with_index(data.index)
                    .with_error_code(taken.err().unwrap_or_default())
            });
            let partitions = partitions.collect();
            TopicProduceResponse::default().with_name(topic.name).with_partition_responses(partitions)
        });
        ProduceResponse::default().with_responses(topics.collect())
    }

    fn end(&self, asked: EndTxnRequest) -> EndTxnResponse {
        let mut state = self.state();
        let code = match state.producer(&asked.transactional_id, asked.producer_id.0, asked.producer_epoch) {
            Ok(_) => {
                state.finish(asked.transactional_id.as_str(), asked.committed);
                0
            }
            Err(code) => code,
        };
        self.state.1.notify_all();
        EndTxnResponse::default().with_error_code(code)
    }
}

/// A request, and where its answer goes.
struct Exchange<'b> {
    request: Bytes,
    body: &'b mut BytesMut,
    version: i16,
}

impl Exchange<'_> {
    fn answer<R: Request>(&mut self, answer: impl FnOnce(R) -> R::Response) {
        let request = R::decode(&mut self.request, self.version).unwrap();
        assert!(self.request.is_empty(), "there is more behind the request");
        answer(request).encode(self.body, self.version).unwrap();
    }
}

impl State {
    fn logs(&mut self, topic: &str) -> &mut Vec<Log> {
        let partitions = usize::try_from(self.partitions).unwrap();
        self.topics.entry(topic.to_owned()).or_insert_with(|| {
            let mut logs = Vec::new();
            logs.resize_with(partitions, Log::default);
            logs
        })
    }

    fn log(&mut self, topic: &str, partition: i32) -> &mut Log {
        &mut self.logs(topic)[usize::try_from(partition).unwrap()]
    }

    fn producer(&mut self, id: &TransactionalId, producer: i64, epoch: i16) -> Result<&mut Producer, i16> {
        let known = self.producers.get_mut(id.as_str()).unwrap();
        if (known.id, known.epoch) == (producer, epoch) { Ok(known) } else { Err(FENCED) }
    }

    fn begin(&mut self, asked: InitProducerIdRequest) -> InitProducerIdResponse {
        let id = asked.transactional_id.unwrap();
        let count = self.producers.len() as i64;
        let known = self
            .producers
            .entry(id.as_str().to_owned())
            .or_insert_with(|| Producer { id: 1_000 + count, ..Producer::default() });
        if known.is_begun {
            known.epoch += 1;
            self.finish(id.as_str(), false);
            return InitProducerIdResponse::default().with_error_code(CONCURRENT);
        }
        known.is_ending = false;
        known.epoch += 1;
        InitProducerIdResponse::default().with_producer_id(known.id.into()).with_producer_epoch(known.epoch)
    }

    fn add(&mut self, asked: AddPartitionsToTxnRequest) -> AddPartitionsToTxnResponse {
        let (id, producer) = (asked.v3_and_below_transactional_id, asked.v3_and_below_producer_id.0);
        let code = match self.producer(&id, producer, asked.v3_and_below_producer_epoch) {
            Err(code) => code,
            Ok(known) if known.is_ending => {
                known.is_ending = false;
                CONCURRENT
            }
            Ok(known) => {
                known.is_begun = true;
                for topic in &asked.v3_and_below_topics {
                    let name = topic.name.as_str();
                    known.partitions.extend(topic.partitions.iter().map(|index| (name.to_owned(), *index)));
                }
                0
            }
        };
        let topics = asked.v3_and_below_topics.into_iter().map(|topic| {
            let results = topic.partitions.iter().map(|index| {
                AddPartitionsToTxnPartitionResult::default()
                    .with_partition_index(*index)
                    .with_partition_error_code(code)
            });
            let results = results.collect();
            AddPartitionsToTxnTopicResult::default().with_name(topic.name).with_results_by_partition(results)
        });
        AddPartitionsToTxnResponse::default().with_results_by_topic_v3_and_below(topics.collect())
    }

    fn take(&mut self, id: &TransactionalId, topic: &str, partition: i32, bytes: &[u8]) -> Result<i64, i16> {
        let i64_at = |at: usize| i64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        let i32_at = |at: usize| i32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let epoch = i16::from_be_bytes(bytes[51..53].try_into().unwrap());
        let (producer, sequence, count) = (i64_at(43), i32_at(53), i32_at(57));
        assert_eq!(usize::try_from(i32_at(8)).unwrap() + 12, bytes.len(), "one batch at a time");
        assert_eq!(u32::from_be_bytes(bytes[17..21].try_into().unwrap()), crc32c::crc32c(&bytes[21..]));
        let known = self.producer(id, producer, epoch)?;
        if !known.partitions.contains(&(topic.to_owned(), partition)) {
            return Err(NOT_IN_TRANSACTION);
        }
        let log = self.log(topic, partition);
        if log.sequences.get(&(producer, epoch)).copied().unwrap_or_default() != sequence {
            return Err(OUT_OF_ORDER);
        }
        log.sequences.insert((producer, epoch), sequence + count);
        let base = log.append(bytes, count.into());
        log.open.entry(producer).or_insert(base);
        Ok(base)
    }

    fn number(&mut self, asked: TxnOffsetCommitRequest) -> TxnOffsetCommitResponse {
        let group = asked.group_id.as_str().to_owned();
        let result = self.producer(&asked.transactional_id, asked.producer_id.0, asked.producer_epoch);
        let code = match result {
            Err(code) => code,
            Ok(known) => {
                known.is_begun = true;
                for topic in &asked.topics {
                    known.numbers.extend(topic.partitions.iter().map(|partition| {
                        let key = (group.clone(), topic.name.as_str().to_owned(), partition.partition_index);
                        let told = partition.committed_metadata.as_ref().map_or("", |told| told.as_str());
                        (key, (partition.committed_offset, told.to_owned()))
                    }));
                }
                0
            }
        };
        let topics = asked.topics.into_iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                TxnOffsetCommitResponsePartition::default()
                    .with_partition_index(partition.partition_index)
                    .with_error_code(code)
            });
            let partitions = partitions.collect();
            TxnOffsetCommitResponseTopic::default().with_name(topic.name).with_partitions(partitions)
        });
        TxnOffsetCommitResponse::default().with_topics(topics.collect())
    }

    fn finish(&mut self, id: &str, is_committed: bool) {
        let known = self.producers.get_mut(id).unwrap();
        let (producer, epoch) = (known.id, known.epoch);
        let (partitions, numbers) = (std::mem::take(&mut known.partitions), std::mem::take(&mut known.numbers));
        (known.is_begun, known.is_ending) = (false, true);
        for (topic, partition) in partitions {
            self.log(&topic, partition).finish(producer, epoch, is_committed);
        }
        if is_committed {
            self.numbers.extend(numbers);
        }
    }

    fn numbered(&self, asked: OffsetFetchRequest) -> OffsetFetchResponse {
        assert!(asked.require_stable, "what is being committed is waited for");
        let group = asked.group_id.as_str();
        let topics = asked.topics.unwrap().into_iter().map(|topic| {
            let partitions = topic.partition_indexes.iter().map(|index| {
                let number = self.numbers.get(&(group.to_owned(), topic.name.as_str().to_owned(), *index)).cloned();
                let (offset, told) = number.unwrap_or((-1, String::new()));
                OffsetFetchResponsePartition::default()
                    .with_partition_index(*index)
                    .with_committed_offset(offset)
                    .with_metadata(Some(StrBytes::from_string(told)))
            });
            let partitions = partitions.collect();
            OffsetFetchResponseTopic::default().with_name(topic.name).with_partitions(partitions)
        });
        OffsetFetchResponse::default().with_topics(topics.collect())
    }
}

/// What is there from an offset on, up to the first transaction that has not ended.
fn read(log: &Log, from: i64, bytes_max: i32) -> PartitionData {
    let data = PartitionData::default();
    if from < log.start || from > log.end {
        return data.with_error_code(OUT_OF_RANGE);
    }
    let mut bytes = BytesMut::new();
    let stable = log.stable();
    let mut last = from;
    for batch in log.batches.iter().filter(|batch| batch.last >= from && batch.base < stable) {
        if !bytes.is_empty() && bytes.len() + batch.bytes.len() > usize::try_from(bytes_max).unwrap() {
            break;
        }
        bytes.extend_from_slice(&batch.bytes);
        last = batch.last;
    }
    let aborted = log.aborted.iter().filter(|(first, end, _)| *end >= from && *first <= last);
    let aborted = aborted.map(|(first, _, producer)| {
        AbortedTransaction::default().with_producer_id((*producer).into()).with_first_offset(*first)
    });
    data.with_high_watermark(log.end)
        .with_last_stable_offset(stable)
        .with_aborted_transactions(Some(aborted.collect()))
        .with_records(Some(bytes.freeze()))
}

fn record(key: Option<Bytes>, value: Option<Bytes>, producer_id: i64, producer_epoch: i16, control: bool) -> Record {
    Record {
        transactional: control,
        control,
        delete_horizon: false,
        partition_leader_epoch: 0,
        producer_id,
        producer_epoch,
        timestamp_type: TimestampType::Creation,
        offset: 0,
        sequence: -1,
        timestamp: 1_700_000_000_000,
        key,
        value,
        headers: Default::default(),
    }
}

fn encoded(records: &[Record]) -> Bytes {
    let numbered =
        (0..).zip(records).map(|(place, record)| Record { offset: place, sequence: place as i32, ..record.clone() });
    let numbered: Vec<Record> = numbered.collect();
    let mut bytes = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut bytes, &numbered, &options).unwrap();
    bytes.freeze()
}
