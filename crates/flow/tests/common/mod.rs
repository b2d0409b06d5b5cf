//! One node's works in a temporary directory, and guests that count, double, reject and trap on purpose.
#![allow(dead_code, unreachable_pub)]

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_array::cast::AsArray as _;
use arrow_array::{ArrayRef, BooleanArray, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use async_trait::async_trait;
use bytes::Bytes;
use littoral_flow::batch;
use littoral_flow::chain::{Operator, Operators};
use littoral_flow::reader::{Input, Source, SourceError};
use littoral_model::entry::{PORT_MAIN, Position};
use littoral_model::id::{Epoch, NodeId};
use littoral_model::wire::{
    FetchReply, FetchRequest, InstallRequest, PublishReply, PublishRequest, ReplicateReply, ReplicateRequest,
};
use littoral_model::work::{Assignment, KeeperAnswer, WorkId};
use littoral_runtime::Fault;
use littoral_runtime::stage::{Rejection, StageError, StageOutput};
use littoral_store::replica::{Ack, Keeper, KeeperError, Owned, PeerError, Peers, Retention, WorkConfig, Works};
use littoral_store::{Derived, Log, LogOptions};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A node without any other.
struct Alone;

#[async_trait]
impl Peers for Alone {
    async fn replicate(&self, _: &NodeId, _: ReplicateRequest) -> Result<ReplicateReply, PeerError> {
        Err(PeerError("there is nobody else".to_owned()))
    }
    async fn install(&self, _: &NodeId, _: InstallRequest) -> Result<(), PeerError> {
        Err(PeerError("there is nobody else".to_owned()))
    }
}

/// A keeper that says how works are assigned, and changes nothing.
#[derive(Default)]
struct Fixed(Mutex<HashMap<WorkId, Assignment>>);

impl Fixed {
    fn answer(&self, work: &WorkId) -> KeeperAnswer {
        KeeperAnswer::Refused(self.0.lock().unwrap().get(work).cloned())
    }
}

#[async_trait]
impl Keeper for Fixed {
    async fn resync(
        &self,
        work: &WorkId,
        _: Epoch,
        _: Vec<NodeId>,
        _: Vec<NodeId>,
    ) -> Result<KeeperAnswer, KeeperError> {
        Ok(self.answer(work))
    }
    async fn hand_over(&self, work: &WorkId, _: Epoch, _: NodeId) -> Result<KeeperAnswer, KeeperError> {
        Ok(self.answer(work))
    }
}

/// One node.
pub struct Node {
    pub works: Arc<Works>,
    keeper: Arc<Fixed>,
    _folder: tempfile::TempDir,
}

/// Reads the node's own works.
struct Here(Arc<Works>);

#[async_trait]
impl Source for Here {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchReply, SourceError> {
        Ok(self.0.fetch(request).await)
    }
}

pub fn work(text: &str) -> WorkId {
    format!("default/app/{text}/0@hall").parse().unwrap()
}

impl Node {
    pub fn start() -> Self {
        Self::with(LogOptions::small())
    }

    /// With a log of its own size.
    pub fn with(options: LogOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::open(&folder.path().join("log"), options).unwrap();
        let derived = Derived::open(&folder.path().join("derived")).unwrap();
        let keeper = Arc::new(Fixed::default());
        let works =
            Works::new(NodeId::new("n").unwrap(), log, derived, Arc::new(Alone), Arc::<Fixed>::clone(&keeper)).unwrap();
        Self { works, keeper, _folder: folder }
    }

    /// Makes the node a work's owner under an epoch, which ends its earlier ownership.
    pub async fn own(&self, work: &WorkId, epoch: u64) -> Owned {
        let node = NodeId::new("n").unwrap();
        let (replicas, in_sync) = (vec![node.clone()], vec![node.clone()]);
        // Nothing is forgotten: what reads it in these tests is not registered.
        let config = WorkConfig { ack: Ack::Local, retention: Some(Retention::default()), ..WorkConfig::default() };
        self.works.configure(work, config);
        let assignment = Assignment { work: work.clone(), owner: node, epoch: Epoch(epoch), replicas, in_sync };
        self.keeper.0.lock().unwrap().insert(work.clone(), assignment.clone());
        self.works.assigned(assignment);
        tokio::time::timeout(PATIENCE, self.works.lead(work)).await.unwrap().unwrap()
    }

    pub fn source(&self) -> Arc<dyn Source> {
        Arc::new(Here(Arc::clone(&self.works)))
    }

    /// Publishes values to a stream that the node owns, as one entry of long ago.
    pub async fn publish(&self, work: &WorkId, values: &[String]) {
        self.publish_at(work, values, 1).await;
    }

    /// The same at a moment, in microseconds since 1970.
    pub async fn publish_at(&self, work: &WorkId, values: &[String], at_us: i64) {
        let rows: Vec<_> = values.iter().map(|value| (None, 1, value.clone())).collect();
        let rows = batch::encode(PORT_MAIN, &batch::records(&rows).unwrap(), Some(at_us)).unwrap();
        let request = PublishRequest { work: work.clone(), batch: rows, producer: None };
        assert!(matches!(self.works.publish(request).await, PublishReply::Stored { .. }));
    }

    /// The texts of a column on a port of a work, in order, once there are `count`.
    pub async fn texts(&self, work: &WorkId, port: &str, column: &str, count: usize) -> Vec<String> {
        let (mut texts, mut from) = (Vec::new(), Position::START);
        let all = async {
            while texts.len() < count {
                let request = FetchRequest {
                    work: work.clone(),
                    port: port.to_owned(),
                    consumer: None,
                    from,
                    committed: Position::default(),
                    bytes_max: 1 << 20,
                    wait_ms: 1_000,
                };
                if let FetchReply::Rows { batches, next, .. } = self.works.fetch(request).await {
                    from = next;
                    for (_, rows) in batches {
                        let rows = batch::decode(&rows).unwrap();
                        let column = rows.column_by_name(column).unwrap().as_string::<i32>().clone();
                        texts.extend(column.iter().flatten().map(str::to_owned));
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, all).await.unwrap();
        texts
    }
}

pub fn input(work: &WorkId, port: &str) -> Input {
    Input { work: work.clone(), port: port.to_owned() }
}

/// A guest that appends to each value how many rows it has seen, its state. It traps on rows with `poison`, rejects those with
/// `bad`, and of `later N` puts out so many rows more, one at a time.
struct Counting {
    seen: u64,
    left: u64,
    batches: Arc<AtomicUsize>,
    gone: bool,
    lacks: bool,
}

#[async_trait(?Send)]
impl Operator for Counting {
    async fn open(&mut self, _: &Schema) -> Result<(), StageError> {
        Ok(())
    }

    async fn process(&mut self, rows: &RecordBatch, _: i64) -> Result<StageOutput, StageError> {
        assert!(!self.gone, "an instance that trapped is not used again");
        self.batches.fetch_add(1, Ordering::SeqCst);
        let values = rows.column_by_name("value").unwrap().as_string::<i32>();
        let (mut out, mut rejected) = (Vec::new(), Vec::new());
        for (row, value) in values.iter().flatten().enumerate() {
            if value.contains("poison") {
                // Half of the batch is done already: nothing of that may stay.
                self.gone = true;
                return Err(Fault::Protocol { reason: "poisoned".to_owned() });
            }
            if self.lacks && value.contains("wanting") {
                return Err(Fault::Unready { reason: "what it calls is not there".to_owned() });
            }
            if value.contains("bad") {
                rejected.push(Rejection { row: u32::try_from(row).unwrap(), reason: "bad".to_owned() });
                continue;
            }
            self.seen += 1;
            self.left += value.strip_prefix("later ").and_then(|more| more.parse::<u64>().ok()).unwrap_or_default();
            // So many mebibytes more.
            let more = value.strip_prefix("large ").map_or(0, |mebibytes| mebibytes.parse().unwrap());
            out.push((None, 1, format!("{value}#{}{}", self.seen, " ".repeat(more << 20))));
        }
        let runs = out.chunk_by(|(.., one), (.., next)| one.contains("wide") == next.contains("wide"));
        let outputs = runs.map(|run| {
            let rows = batch::records(run).unwrap();
            (PORT_MAIN.to_owned(), if run[0].2.contains("wide") { widened(&rows) } else { rows })
        });
        Ok(StageOutput { outputs: outputs.collect(), rejected, dirty: vec![3], timer_us: None })
    }

    async fn on_timer(&mut self, _: i64) -> Result<StageOutput, StageError> {
        Ok(StageOutput::default())
    }

    async fn on_idle(&mut self) -> Result<StageOutput, StageError> {
        let rows = batch::records(&[(None, 1, "nothing comes".to_owned())]).unwrap();
        Ok(StageOutput { outputs: vec![(PORT_MAIN.to_owned(), rows)], ..StageOutput::default() })
    }

    fn has_more(&self) -> bool {
        self.left > 0
    }

    async fn go_on(&mut self) -> Result<StageOutput, StageError> {
        self.left -= 1;
        let rows = batch::records(&[(None, 1, format!("{} left", self.left))]).unwrap();
        Ok(StageOutput { outputs: vec![(PORT_MAIN.to_owned(), rows)], dirty: vec![3], ..StageOutput::default() })
    }

    async fn snapshot(&mut self, groups: &[u32]) -> Result<Vec<(u32, Bytes)>, StageError> {
        assert_eq!(groups, [3]);
        Ok(vec![(3, [self.seen.to_be_bytes(), self.left.to_be_bytes()].concat().into())])
    }

    async fn restore(&mut self, groups: Vec<(u32, Bytes)>) -> Result<(), StageError> {
        let groups: BTreeMap<u32, Bytes> = groups.into_iter().collect();
        let of = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().unwrap());
        (self.seen, self.left) = (of(&groups[&3][..8]), of(&groups[&3][8..]));
        Ok(())
    }
}

/// The same rows with one column more.
fn widened(rows: &RecordBatch) -> RecordBatch {
    let more: ArrayRef = Arc::new(BooleanArray::from(vec![true; rows.num_rows()]));
    let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("wide", DataType::Boolean, false)));
    let columns = rows.columns().iter().cloned().chain([more]).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// A chain of such guests.
pub struct Guests {
    pub names: Vec<String>,
    pub batches: Arc<AtomicUsize>,
    /// Fails when an instance is to be made.
    pub broken: bool,
    /// Cannot take rows with `wanting`, for it cannot call what they need.
    pub lacks: bool,
    /// After how long without rows it wants to be told.
    pub idle_after: Option<Duration>,
}

impl Guests {
    pub fn new(names: &[&str]) -> Self {
        Self {
            names: names.iter().map(ToString::to_string).collect(),
            batches: Arc::default(),
            broken: false,
            lacks: false,
            idle_after: None,
        }
    }
}

#[async_trait(?Send)]
impl Operators for Guests {
    fn names(&self) -> &[String] {
        &self.names
    }
    fn idle_after(&self) -> Option<Duration> {
        self.idle_after
    }
    fn may_have_more(&self, _: usize, has_state: bool) -> bool {
        has_state
    }
    async fn make(&self, _: usize) -> Result<Box<dyn Operator>, StageError> {
        if self.broken {
            return Err(Fault::Protocol { reason: "it exports nothing".to_owned() });
        }
        let batches = Arc::clone(&self.batches);
        Ok(Box::new(Counting { seen: 0, left: 0, batches, gone: false, lacks: self.lacks }))
    }
}
