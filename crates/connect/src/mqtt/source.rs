//! Takes the messages of topics as records. A message of quality 1 is acknowledged once its record is committed.
//!
//! The broker keeps a session for the source: what was not acknowledged it sends again. Of that, what is committed already is told by the
//! numbers of the messages, where these are the broker's own count: the position has those of which it is not known that the broker has
//! seen the acknowledgement. Numbers that are given again to other messages as soon as they are free say nothing. As many are free as
//! messages may be on their way, so numbers up to that are not trusted.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_flow::stats::now_us;
use littoral_model::manifest::{self, MqttVersion};
use littoral_model::topic::TopicPattern;
use littoral_model::work::WorkId;
use serde::{Deserialize, Serialize};

use super::connection::Session;
use super::packet::{Message, PacketId, Received, Sent};
use super::{Connection, WINDOW, client_id};
use crate::{BATCH_BYTES, BATCH_RECORDS, Machine, Record, Source, Taken, Trouble};

/// The version of the form of positions.
const VERSION: u32 = 1;
/// The longest record.
const RECORD_BYTES_MAX: usize = 1 << 20;
/// How many numbers of messages a position has at most.
const UNCONFIRMED_MAX: usize = 2 * WINDOW as usize;
/// The numbers of the only packets that are answered but messages.
const SUBSCRIBE: PacketId = NonZeroU16::MIN;
const UNSUBSCRIBE: PacketId = NonZeroU16::MAX;

/// Topics of a broker.
pub(crate) struct MqttSource {
    connection: Connection,
    qos: u8,
    patterns: Vec<TopicPattern>,
    place: Place,
    /// What the broker may send again although it is committed.
    known: BTreeMap<u16, u32>,
    /// What is taken and not given yet.
    taken: Taken,
    taken_bytes: usize,
    /// The messages of what was taken last.
    unacknowledged: Vec<PacketId>,
    /// A sign of life, and how many of the place's numbers are confirmed by it.
    confirming: Option<(u64, usize)>,
    /// Something was given since it was opened.
    has_begun: bool,
}

/// What is committed of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    version: u32,
    /// The filters that it is subscribed to.
    filters: Vec<String>,
    /// The numbers and checksums of messages that are committed, and which the broker may not know to be acknowledged.
    unconfirmed: Vec<(u16, u32)>,
}

impl MqttSource {
    pub(crate) async fn open(
        work: &WorkId,
        settings: &manifest::MqttSource,
        machine: &Arc<dyn Machine>,
        position: Option<&[u8]>,
    ) -> Result<Self, Trouble> {
        let mut place = match position {
            None => Place { version: VERSION, ..Place::default() },
            Some(position) => {
                serde_json::from_slice::<Place>(position).ok().filter(|at| at.version == VERSION).ok_or_else(|| {
                    Trouble("its position is not that of topics: declare it under another name".to_owned())
                })?
            }
        };
        let patterns: Result<Vec<TopicPattern>, _> = settings.topics.iter().map(|topic| topic.parse()).collect();
        let patterns = patterns.map_err(|error| Trouble(error.to_string()))?;
        let is_kept = settings.qos > 0;
        let expiry_s = settings.session_expiry.as_micros().div_ceil(1_000_000);
        let expiry_s = if is_kept { u32::try_from(expiry_s).unwrap_or(u32::MAX) } else { 0 };
        let session = Session { is_clean: !is_kept, expiry_s, window: WINDOW };
        let connection =
            Connection::open(&settings.broker, client_id(work, &settings.broker), session, machine).await?;
        if !connection.greeting.has_session {
            if is_kept && !place.filters.is_empty() {
                tracing::warn!(%work, "the broker knows the source no more: what it had kept for it is lost");
            }
            place = Place { version: VERSION, ..Place::default() };
        }
        let is_counted = settings.broker.version == MqttVersion::V5;
        let known = place.unconfirmed.iter().copied().filter(|(id, _)| is_counted && *id > WINDOW).collect();
        Ok(Self {
            connection,
            qos: settings.qos,
            patterns,
            place,
            known,
            taken: Taken::default(),
            taken_bytes: 0,
            unacknowledged: Vec::new(),
            confirming: None,
            has_begun: false,
        })
    }

    /// Has the broker send the topics, and no others.
    async fn subscribe(&mut self) -> Result<(), Trouble> {
        let filters: Vec<String> = self.patterns.iter().map(|pattern| pattern.filter().to_string()).collect();
        if self.place.filters == filters {
            return Ok(());
        }
        let gone: Vec<String> = self.place.filters.iter().filter(|filter| !filters.contains(filter)).cloned().collect();
        let mut is_awaited = [true, !gone.is_empty()];
        if !gone.is_empty() {
            self.connection.say(Sent::Unsubscribe { id: UNSUBSCRIBE, filters: gone });
        }
        self.connection.say(Sent::Subscribe { id: SUBSCRIBE, filters: filters.clone(), qos: self.qos });
        while is_awaited != [false, false] {
            match self.connection.answer().await? {
                Received::Subscribed(granted) => {
                    for (filter, granted) in filters.iter().zip(granted) {
                        self.check(filter, granted)?;
                    }
                    is_awaited = [false, is_awaited[1]];
                }
                Received::Unsubscribed => is_awaited = [is_awaited[0], false],
                other => self.take(other)?,
            }
        }
        self.place.filters = filters;
        Ok(())
    }

    fn check(&self, filter: &str, granted: Result<u8, String>) -> Result<(), Trouble> {
        match granted {
            Ok(qos) if qos >= self.qos => Ok(()),
            Ok(qos) => Err(self.connection.trouble(format!(
                "it hands over {filter} with quality {qos}, by which messages may be lost; say `qos = {qos}` if they may"
            ))),
            Err(why) => Err(self.connection.trouble(format!("it does not hand over {filter}: {why}"))),
        }
    }

    fn take(&mut self, packet: Received) -> Result<(), Trouble> {
        match packet {
            Received::Message(message) => self.message(message),
            Received::TooLarge { topic, id, bytes } => {
                self.unacknowledged.extend(id);
                self.pass_over(format!("a message of {topic} has {bytes} bytes"));
            }
            Received::Pong => self.confirmed(),
            Received::Unsubscribed | Received::Subscribed(_) => {}
            other => return Err(self.connection.trouble(format!("it sends what nobody asked for: {other:?}"))),
        }
        Ok(())
    }

    fn message(&mut self, message: Message) {
        if let Some(id) = message.id {
            let checksum = checksum(&message);
            if !message.is_repeated {
                // What is sent again comes first (MQTT 5.0, section 4.6).
                self.known.clear();
            }
            if self.known.remove(&id.get()) == Some(checksum) {
                return self.connection.say(Sent::Acknowledge(id));
            }
            self.unacknowledged.push(id);
            self.place.unconfirmed.push((id.get(), checksum));
        }
        match record(&self.patterns, &message) {
            Ok(record) => {
                self.taken_bytes += record.value.len();
                self.taken.records.push(record);
            }
            Err(why) => self.pass_over(format!("a message of {} is none: {why}", message.topic)),
        }
    }

    fn pass_over(&mut self, why: String) {
        let before = self.taken.passed_over.take().map_or(0, |(count, _)| count);
        self.taken.passed_over = Some((before + 1, why));
    }

    /// The broker has read what was sent before the last sign of life that was asked for.
    fn confirmed(&mut self) {
        if let Some((ping, count)) = self.confirming
            && self.connection.pongs() >= ping
        {
            self.confirming = None;
            self.place.unconfirmed.drain(..count.min(self.place.unconfirmed.len()));
        }
    }

    fn give(&mut self) -> Result<Taken, Trouble> {
        let surplus = self.place.unconfirmed.len().saturating_sub(UNCONFIRMED_MAX);
        self.place.unconfirmed.drain(..surplus);
        self.confirming = self.confirming.map(|(ping, count)| (ping, count.saturating_sub(surplus)));
        let position = serde_json::to_vec(&self.place).map_err(|error| self.connection.trouble(error))?;
        let mut taken = std::mem::take(&mut self.taken);
        (taken.position, self.taken_bytes, self.has_begun) = (Bytes::from(position), 0, true);
        Ok(taken)
    }

    fn is_full(&self) -> bool {
        let is_unacknowledged = self.unacknowledged.len() >= usize::from(WINDOW);
        is_unacknowledged || self.taken.records.len() >= BATCH_RECORDS || self.taken_bytes >= BATCH_BYTES
    }
}

#[async_trait]
impl Source for MqttSource {
    async fn next(&mut self) -> Result<Taken, Trouble> {
        self.subscribe().await?;
        if !self.has_begun {
            return self.give();
        }
        while self.taken.is_empty() {
            let packet = self.connection.receive().await?;
            self.take(packet)?;
        }
        while !self.is_full()
            && let Some(packet) = self.connection.arrived()?
        {
            self.take(packet)?;
        }
        self.give()
    }

    async fn committed(&mut self) -> Result<(), Trouble> {
        if self.unacknowledged.is_empty() {
            return Ok(());
        }
        for id in self.unacknowledged.drain(..) {
            self.connection.say(Sent::Acknowledge(id));
        }
        if self.confirming.is_none() {
            self.confirming = Some((self.connection.ping(), self.place.unconfirmed.len()));
        }
        self.connection.flush().await
    }

    async fn tend(&mut self) -> Trouble {
        self.connection.keep_alive().await
    }
}

fn record(patterns: &[TopicPattern], message: &Message) -> Result<Record, String> {
    let key = patterns.iter().find_map(|pattern| pattern.key_of(&message.topic));
    let key = key.ok_or("it is of no topic that is asked for")?;
    if message.payload.len() > RECORD_BYTES_MAX {
        return Err(format!("it has {} bytes", message.payload.len()));
    }
    let value = std::str::from_utf8(&message.payload).map_err(|error| error.to_string())?;
    Ok(Record { key: Some(key.to_owned()), time_us: now_us(), value: value.to_owned() })
}

/// Tells a message from others of that number.
fn checksum(message: &Message) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(message.topic.as_bytes()), &message.payload)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_an_older_version_has_committed_is_read() {
        let place: Place = serde_json::from_str(r#"{"version":1,"filters":["a/+"],"unconfirmed":[[700,12]]}"#).unwrap();
        assert_eq!(place, Place { version: 1, filters: vec!["a/+".to_owned()], unconfirmed: vec![(700, 12)] });
    }

    #[test]
    fn a_message_is_a_record_by_its_topic() {
        let patterns = ["a/{key}/t".parse().unwrap(), "b/#".parse().unwrap()];
        let message = |topic: &str, payload: &'static [u8]| Message {
            topic: topic.to_owned(),
            payload: Bytes::from_static(payload),
            id: None,
            is_retained: false,
            is_repeated: false,
        };
        let key = |topic: &str| record(&patterns, &message(topic, b"x")).map(|record| record.key.unwrap());
        assert_eq!(key("a/7/t").as_deref(), Ok("7"));
        assert_eq!(key("b/7/t").as_deref(), Ok("b/7/t"));
        assert!(key("c").is_err() && record(&patterns, &message("b", b"\xff")).is_err());
        assert_ne!(checksum(&message("a", b"bc")), checksum(&message("a", b"bd")));
    }
}
