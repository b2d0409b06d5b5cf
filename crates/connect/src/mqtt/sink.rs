//! Publishes rows, a message each, in their order. They are safe once the broker has acknowledged them.
//!
//! What was not acknowledged when the connection broke is published again: a broker gives no way to know whether it has a message already.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU16;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::manifest;
use littoral_model::topic::TopicPattern;
use littoral_model::work::WorkId;
use serde_json::{Map, Value};

use super::connection::Session;
use super::packet::{Message, PacketId, Received, Sent};
use super::{Connection, WINDOW, client_id};
use crate::{Flushed, Machine, Part, Rows, Sink, Trouble};

/// The form of what it must know, which is nothing.
const FORM: &[u8] = b"mqtt 1";

/// A topic of a broker that rows are published to.
pub(crate) struct MqttSink {
    connection: Connection,
    pattern: TopicPattern,
    qos: u8,
    is_retained: bool,
    /// How many messages may be on their way.
    window: usize,
    next: PacketId,
    /// Messages that the broker has not acknowledged, with their topics.
    unacknowledged: VecDeque<(PacketId, String)>,
    passed_over: Option<(u64, String)>,
}

impl MqttSink {
    pub(crate) async fn open(
        work: &WorkId,
        settings: &manifest::MqttSink,
        machine: &Arc<dyn Machine>,
        committed: Option<&[u8]>,
    ) -> Result<Self, Trouble> {
        if committed.is_some_and(|committed| committed != FORM) {
            return Err(Trouble("what it has written went to no topics: declare it under another name".to_owned()));
        }
        let pattern = settings.topic.parse().map_err(|error| Trouble::of("its topic is none", error))?;
        let session = Session { is_clean: true, expiry_s: 0, window: WINDOW };
        let connection =
            Connection::open(&settings.broker, client_id(work, &settings.broker), session, machine).await?;
        let greeting = connection.greeting;
        if settings.retain && !greeting.keeps_retained {
            return Err(connection.trouble("the broker retains nothing; drop `retain`"));
        }
        if settings.qos > greeting.qos_max {
            return Err(connection.trouble("the broker acknowledges nothing; say `qos = 0` if messages may be lost"));
        }
        Ok(Self {
            pattern,
            qos: settings.qos,
            is_retained: settings.retain,
            window: usize::from(greeting.window.min(WINDOW)),
            next: NonZeroU16::MIN,
            unacknowledged: VecDeque::new(),
            passed_over: None,
            connection,
        })
    }

    async fn publish(&mut self, topic: String, payload: Bytes) -> Result<(), Trouble> {
        while self.unacknowledged.len() >= self.window {
            self.acknowledged().await?;
        }
        let id = (self.qos > 0).then_some(self.next);
        let message = Message { topic: topic.clone(), payload, id, is_retained: self.is_retained, is_repeated: false };
        if self.connection.send(Sent::Publish(message)).is_err() {
            self.pass_over(format!("a message to {topic} is larger than the broker takes any"));
            return Ok(());
        }
        if let Some(id) = id {
            self.unacknowledged.push_back((id, topic));
            self.next = id.checked_add(1).unwrap_or(NonZeroU16::MIN);
        }
        if self.connection.is_laden() {
            self.connection.flush().await?;
        }
        Ok(())
    }

    /// Waits until the broker has acknowledged one more.
    async fn acknowledged(&mut self) -> Result<(), Trouble> {
        let (id, refused) = match self.connection.answer().await? {
            Received::Acknowledged { id, refused } => (id, refused),
            Received::Pong => return Ok(()),
            other => return Err(self.connection.trouble(format!("it sends what nobody asked for: {other:?}"))),
        };
        let place = self.unacknowledged.iter().position(|(waiting, _)| *waiting == id);
        let acknowledged = place.and_then(|place| self.unacknowledged.remove(place));
        let (_, topic) = acknowledged.ok_or_else(|| self.connection.trouble("it acknowledges what was not sent"))?;
        match refused {
            None => Ok(()),
            Some(refused) if refused.is_final => {
                self.pass_over(format!("the broker refuses a message to {topic}: {}", refused.why));
                Ok(())
            }
            Some(refused) => {
                Err(self.connection.trouble(format!("it does not take messages to {topic}: {}", refused.why)))
            }
        }
    }

    fn pass_over(&mut self, why: String) {
        let before = self.passed_over.take().map_or(0, |(count, _)| count);
        self.passed_over = Some((before + 1, why));
    }
}

#[async_trait]
impl Sink for MqttSink {
    async fn write(&mut self, part: &Part) -> Result<(), Trouble> {
        for rows in &part.rows {
            for line in rows.lines()?.lines() {
                match message(rows, line, &self.pattern) {
                    Ok((topic, payload)) => self.publish(topic, payload).await?,
                    Err(why) => self.pass_over(why),
                }
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<Flushed, Trouble> {
        self.connection.flush().await?;
        while !self.unacknowledged.is_empty() {
            self.acknowledged().await?;
        }
        Ok(Flushed { known: Bytes::from_static(FORM), passed_over: self.passed_over.take() })
    }

    async fn committed(&mut self) -> Result<(), Trouble> {
        Ok(())
    }

    async fn tend(&mut self) -> Trouble {
        loop {
            match self.connection.receive().await {
                Ok(Received::Pong) => {}
                Ok(other) => return self.connection.trouble(format!("it sends what nobody asked for: {other:?}")),
                Err(trouble) => return trouble,
            }
        }
    }
}

/// What is published of a row: a record's value, any other row as JSON.
fn message(rows: &Rows, line: &str, pattern: &TopicPattern) -> Result<(String, Bytes), String> {
    let row: Map<String, Value> = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let texts: HashMap<&str, String> = row
        .iter()
        .filter_map(|(name, value)| match value {
            Value::String(text) => Some((name.as_str(), text.clone())),
            Value::Number(_) | Value::Bool(_) => Some((name.as_str(), value.to_string())),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        })
        .collect();
    let topic = pattern.topic_of(|name| texts.get(name).map(String::as_str));
    let topic = topic.ok_or_else(|| format!("a row has no topic `{}`: {}", pattern.as_str(), shown(line)))?;
    let payload = match row.get("value") {
        Some(Value::String(value)) if rows.is_record() => value.clone(),
        _ => line.to_owned(),
    };
    Ok((topic, Bytes::from(payload)))
}

/// The beginning of a row, for people.
fn shown(line: &str) -> String {
    line.chars().take(200).collect()
}
