//! What topics of MQTT lead to: the streams of all apps that say so in their manifests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, RecordBatch};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use littoral_flow::batch;
use littoral_flow::reader::Source;
use littoral_gateway::mqtt::{Beginning, Feed, FeedError, Message, PublishError, Record, Records, Topics};
use littoral_model::entry::{PORT_MAIN, PortBatch, Position};
use littoral_model::id::{AppId, Epoch, StreamName};
use littoral_model::topic::{KEY, TopicFilter, TopicPattern};
use littoral_model::wire::{FetchReply, FetchRequest};
use littoral_model::work::WorkId;
use serde_json::{Map, Value};
use tokio::sync::watch;

use crate::admin::types::{AdminErrorKind, PublishRecord};
use crate::intent::Apps;
use crate::mqtt::Retained;
use crate::publish::Publisher;
use crate::sync::lock;

/// About how many bytes of messages are one publication.
const PUBLISH_BYTES: usize = 2 << 20;
/// About how many bytes of rows are read at once for one client.
const READ_BYTES: u32 = 256 << 10;
/// About how many bytes of rows are read at once to find out what is retained.
const RETAINED_READ_BYTES: u32 = 2 << 20;
/// How long an owner waits for new rows before it answers without.
const WAIT_MS: u32 = 1_000;

/// A pattern of an app.
#[derive(Debug)]
struct Binding {
    app: AppId,
    pattern: TopicPattern,
    stream: StreamName,
    takes: bool,
    gives: bool,
    retains: bool,
}

/// The streams of all apps, by topics.
pub(crate) struct AppTopics {
    publisher: Arc<Publisher>,
    source: Arc<dyn Source>,
    bindings: RwLock<Arc<Vec<Binding>>>,
    changes: watch::Sender<u64>,
    /// What is retained, by feed.
    retained: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Retained>>>>,
}

impl AppTopics {
    pub(crate) fn new(publisher: Arc<Publisher>, source: Arc<dyn Source>) -> Self {
        let (changes, _) = watch::channel(0);
        Self { publisher, source, bindings: RwLock::default(), changes, retained: Mutex::default() }
    }

    /// Takes the topics of what is deployed now.
    pub(crate) fn take(&self, apps: &Apps) {
        let mut bindings = Vec::new();
        for app in apps.apps.values() {
            for (text, topic) in &app.manifest.mqtt {
                let Ok(pattern) = text.parse::<TopicPattern>() else { continue };
                bindings.push(Binding {
                    app: app.id.clone(),
                    takes: topic.takes_messages(&pattern),
                    gives: topic.gives_messages(),
                    retains: topic.retain,
                    stream: topic.stream.clone(),
                    pattern,
                });
            }
        }
        *self.bindings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(bindings);
        let feeds = "#".parse().map(|all: TopicFilter| self.feeds(&all)).unwrap_or_default();
        lock(&self.retained).retain(|id, _| feeds.iter().any(|feed| feed.id() == id));
        self.changes.send_modify(|change| *change = change.wrapping_add(1));
    }

    fn bindings(&self) -> Arc<Vec<Binding>> {
        Arc::clone(&self.bindings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Publishes to one stream, in the order of the messages; a part fails as a whole, and what follows it is not tried.
    async fn publish_to(
        &self,
        app: &AppId,
        stream: &StreamName,
        records: Vec<PublishRecord>,
    ) -> Vec<Result<(), PublishError>> {
        let mut outcomes = Vec::with_capacity(records.len());
        for part in parts(records) {
            let count = part.len();
            let published = match outcomes.last() {
                Some(Err(PublishError::Unavailable(reason))) => Err(PublishError::Unavailable(reason.clone())),
                _ => {
                    self.publisher.publish(app, stream, part, None).await.map(drop).map_err(|error| match error.kind {
                        AdminErrorKind::NotFound => PublishError::NoStream(stream.to_string()),
                        AdminErrorKind::Invalid => PublishError::Refused(error.to_string()),
                        // A log that cannot be written to refuses, too: the client is to keep the message.
                        AdminErrorKind::Refused
                        | AdminErrorKind::Unavailable
                        | AdminErrorKind::Conflict
                        | AdminErrorKind::Internal => PublishError::Unavailable(error.to_string()),
                    })
                }
            };
            outcomes.extend(std::iter::repeat_n(published, count));
        }
        outcomes
    }
}

#[async_trait]
impl Topics for AppTopics {
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<(), PublishError>> {
        let bindings = self.bindings();
        let mut outcomes: Vec<Result<(), PublishError>> = Vec::with_capacity(messages.len());
        let mut streams: Vec<(&Binding, Vec<usize>, Vec<PublishRecord>)> = Vec::new();
        for (place, Message { topic, payload }) in messages.into_iter().enumerate() {
            let keyed = |binding: &'_ &Binding| binding.takes && binding.pattern.key_of(&topic).is_some();
            let Some(binding) = bindings.iter().find(keyed) else {
                outcomes.push(Err(PublishError::NoStream(topic)));
                continue;
            };
            outcomes.push(Ok(()));
            let key = binding.pattern.key_of(&topic).map(str::to_owned);
            let record = PublishRecord { key, time_us: None, value: payload };
            let same = |(of, ..): &&mut (&Binding, _, _)| of.app == binding.app && of.stream == binding.stream;
            match streams.iter_mut().find(same) {
                Some((_, places, records)) => {
                    places.push(place);
                    records.push(record);
                }
                None => streams.push((binding, vec![place], vec![record])),
            }
        }
        let published = streams.into_iter().map(|(binding, places, records)| async move {
            (places, self.publish_to(&binding.app, &binding.stream, records).await)
        });
        for (places, of_stream) in join_all(published).await {
            for (place, outcome) in places.into_iter().zip(of_stream) {
                if let Some(slot) = outcomes.get_mut(place) {
                    *slot = outcome;
                }
            }
        }
        outcomes
    }

    fn feeds(&self, filter: &TopicFilter) -> Vec<Arc<dyn Feed>> {
        let mut feeds: Vec<Arc<dyn Feed>> = Vec::new();
        for binding in
            self.bindings().iter().filter(|binding| binding.gives && binding.pattern.filter().overlaps(filter))
        {
            // An app whose stream is not placed yet is heard of again once it is.
            for work in self.publisher.partitions(&binding.app, &binding.stream).unwrap_or_default() {
                let id = format!("{work} {}", binding.pattern.as_str());
                let retained = binding.retains.then(|| Arc::clone(lock(&self.retained).entry(id.clone()).or_default()));
                feeds.push(Arc::new(PartitionFeed {
                    id,
                    work,
                    pattern: binding.pattern.clone(),
                    source: Arc::clone(&self.source),
                    retained,
                    epoch: Mutex::default(),
                }));
            }
        }
        feeds
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Records in parts that fit into one publication.
fn parts(records: Vec<PublishRecord>) -> Vec<Vec<PublishRecord>> {
    let mut parts: Vec<Vec<PublishRecord>> = Vec::new();
    let mut bytes = 0;
    for record in records {
        let size = record.value.len() + record.key.as_ref().map_or(0, String::len);
        match parts.last_mut() {
            Some(part) if bytes + size <= PUBLISH_BYTES => {
                bytes += size;
                part.push(record);
            }
            _ => {
                bytes = size;
                parts.push(vec![record]);
            }
        }
    }
    parts
}

/// A partition as messages.
struct PartitionFeed {
    id: String,
    work: WorkId,
    pattern: TopicPattern,
    source: Arc<dyn Source>,
    /// Where the app wants it.
    retained: Option<Arc<tokio::sync::Mutex<Retained>>>,
    /// The highest that an owner has shown: one with a lower epoch was replaced, and does not know it.
    epoch: Mutex<Epoch>,
}

impl PartitionFeed {
    async fn fetch(&self, from: Position, bytes_max: u32, wait_ms: u32) -> Result<Records, FeedError> {
        let request = FetchRequest {
            work: self.work.clone(),
            port: PORT_MAIN.to_owned(),
            consumer: None,
            from,
            committed: Position::default(),
            bytes_max,
            wait_ms,
        };
        match self.source.fetch(request).await {
            Ok(FetchReply::Rows { epoch, batches, next, .. }) => {
                {
                    let mut seen = lock(&self.epoch);
                    if epoch < *seen {
                        return Err(FeedError(format!("the owner of {} was replaced", self.work)));
                    }
                    *seen = epoch;
                }
                let records = self.records(&batches, from)?;
                Ok(Records { records, next })
            }
            Ok(FetchReply::Trimmed(next)) => {
                tracing::debug!(work = %self.work, "records that a client of MQTT has not read are not kept any more");
                Ok(Records { records: Vec::new(), next })
            }
            Ok(FetchReply::NotOwner(_)) => Err(FeedError(format!("{} is moving to another owner", self.work))),
            Err(error) => Err(FeedError(error.to_string())),
        }
    }

    fn records(&self, batches: &[(u64, PortBatch)], from: Position) -> Result<Vec<Record>, FeedError> {
        let mut records = Vec::new();
        // Where the next batch begins. An entry comes whole.
        let mut place = Position::default();
        for (index, rows) in batches {
            let row = if place.index == *index { place.row } else { 0 };
            place = Position { index: *index, row: row.saturating_add(rows.rows) };
            let unreadable =
                |error: &dyn std::fmt::Display| FeedError(format!("entry {index} of {}: {error}", self.work));
            let decoded = batch::decode(rows).map_err(|error| unreadable(&error))?;
            let found = messages(&decoded, &self.pattern).map_err(|error| unreadable(&error))?;
            let placed = found.into_iter().zip(row..).filter_map(|(message, row)| {
                let (topic, payload) = message?;
                Some(Record { place: Position { index: *index, row }, topic: Arc::from(topic), payload })
            });
            records.extend(placed.filter(|record| record.place >= from));
        }
        Ok(records)
    }
}

#[async_trait]
impl Feed for PartitionFeed {
    fn id(&self) -> &str {
        &self.id
    }

    async fn begin(&self, filters: &[TopicFilter]) -> Result<Beginning, FeedError> {
        let Some(retained) = self.retained.as_ref().filter(|_| !filters.is_empty()) else {
            let at = self.fetch(Position::END, 0, 0).await?.next;
            return Ok(Beginning { at, retained: Vec::new() });
        };
        let mut retained = retained.lock().await;
        loop {
            let Records { records, next } = self.fetch(retained.next, RETAINED_READ_BYTES, 0).await?;
            let is_new = next > retained.next;
            records.into_iter().for_each(|record| retained.take(record));
            retained.next = retained.next.max(next);
            if !is_new {
                return Ok(Beginning { at: retained.next, retained: retained.matching(filters) });
            }
        }
    }

    async fn read(&self, from: Position) -> Result<Records, FeedError> {
        self.fetch(from, READ_BYTES, WAIT_MS).await
    }
}

/// Each row as a message: of a published record its value, of any other the row in JSON.
fn messages(rows: &RecordBatch, pattern: &TopicPattern) -> Result<Vec<Option<(String, Bytes)>>, batch::BatchError> {
    if rows.schema() == batch::record_schema() {
        let column = |name: &str| rows.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
        if let (Some(keys), Some(values)) = (column(KEY), column("value")) {
            let message = |row: usize| {
                let key = (!keys.is_null(row)).then(|| keys.value(row));
                let value = values.value(row);
                let topic = pattern.topic_of(|name| match name {
                    KEY => key,
                    "value" => Some(value),
                    _ => None,
                })?;
                Some((topic, Bytes::copy_from_slice(value.as_bytes())))
            };
            return Ok((0..rows.num_rows()).map(message).collect());
        }
    }
    let lines = batch::to_json_lines(rows)?;
    Ok(lines.lines().map(|line| message_of_line(line, pattern)).collect())
}

fn message_of_line(line: &str, pattern: &TopicPattern) -> Option<(String, Bytes)> {
    let row: Map<String, Value> = serde_json::from_str(line).ok()?;
    let texts: HashMap<&str, String> = row
        .iter()
        .filter_map(|(name, value)| match value {
            Value::String(text) => Some((name.as_str(), text.clone())),
            Value::Number(_) | Value::Bool(_) => Some((name.as_str(), value.to_string())),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        })
        .collect();
    let topic = pattern.topic_of(|name| texts.get(name).map(String::as_str))?;
    Some((topic, Bytes::copy_from_slice(line.as_bytes())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn texts(found: Vec<Option<(String, Bytes)>>) -> Vec<Option<(String, String)>> {
        let text = |(topic, payload): (String, Bytes)| (topic, String::from_utf8(payload.into()).unwrap());
        found.into_iter().map(|message| message.map(text)).collect()
    }

    fn message(topic: &str, payload: &str) -> Option<(String, String)> {
        Some((topic.to_owned(), payload.to_owned()))
    }

    #[test]
    fn a_published_record_is_its_value_on_the_topic_that_its_key_says() {
        let keys = [Some("7"), None, Some("a/b"), Some("8")];
        let rows: Vec<_> = keys.iter().zip(1..).map(|(key, n)| (key.map(str::to_owned), n, format!("v{n}"))).collect();
        let rows = batch::records(&rows).unwrap();
        let found = texts(messages(&rows, &"s/{key}/t".parse().unwrap()).unwrap());
        assert_eq!(found, [message("s/7/t", "v1"), None, None, message("s/8/t", "v4")]);
        let found = texts(messages(&rows, &"a/+".parse().unwrap()).unwrap());
        assert_eq!(found, [None, None, message("a/b", "v3"), None]);
        assert_eq!(messages(&rows, &"all".parse().unwrap()).unwrap().into_iter().flatten().count(), 4);
    }

    #[test]
    fn a_row_of_a_flow_is_json_on_the_topic_that_its_columns_say() {
        let letter = batch::DeadLetter { stage: "clean".to_owned(), reason: "odd".to_owned(), row: "{}".to_owned() };
        let rows = batch::dead_letters(&[letter]).unwrap();
        let found = texts(messages(&rows, &"bad/{stage}".parse().unwrap()).unwrap());
        assert_eq!(found, [message("bad/clean", r#"{"stage":"clean","reason":"odd","row":"{}"}"#)]);
        assert_eq!(messages(&rows, &"bad/{machine}".parse().unwrap()).unwrap(), [None]);
    }

    #[test]
    fn publications_are_bounded_and_keep_their_order() {
        let record = |n: usize| PublishRecord { key: None, time_us: None, value: n.to_string().repeat(900_000) };
        let parts = parts((0..5).map(record).collect());
        assert_eq!(parts.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
        assert!(parts.into_iter().flatten().zip(0..).all(|(found, n)| found == record(n)));
    }
}
