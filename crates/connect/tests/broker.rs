//! What a source and a sink do with what a broker says, whose part is played here: messages that come again, refusals, silence.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, StringArray};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use littoral_connect::{Machine, Part, Rows, Sink, Source, Trouble, open_sink, open_source};
use littoral_model::entry::Position;
use littoral_model::grant::Peer;
use littoral_model::id::Epoch;
use littoral_model::manifest::{SinkConnector, SourceConnector};
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v5::{self, ConnectAck, Packet, PublishAck, PublishAckReason};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::codec::{Decoder as _, Encoder as _};

struct Loopback(SocketAddr);

#[async_trait]
impl Machine for Loopback {
    fn folder(&self, path: &Path) -> Result<OwnedFd, Trouble> {
        Err(Trouble(format!("{} is not offered", path.display())))
    }

    async fn addresses(&self, _: &[Peer], _: &str, _: u16) -> Result<Vec<SocketAddr>, Trouble> {
        Ok(vec![self.0])
    }

    async fn secret(&self, name: &str) -> Result<String, Trouble> {
        Err(Trouble(format!("{name} is not offered")))
    }
}

/// The broker's end of a connection.
struct Broker {
    stream: TcpStream,
    codec: v5::Codec,
    bytes: BytesMut,
}

impl Broker {
    /// Lets a client in.
    async fn accept(listener: &TcpListener, greeting: ConnectAck) -> Self {
        let (stream, _) = listener.accept().await.unwrap();
        let mut broker = Self { stream, codec: v5::Codec::new(0, 0), bytes: BytesMut::new() };
        let Packet::Connect(connect) = broker.next().await else { panic!("it begins with something else") };
        assert_eq!((&*connect.client_id, connect.keep_alive), ("littoral.default.a.source.s", 30));
        assert!(!connect.clean_start && connect.session_expiry_interval_secs == 7 * 86_400);
        broker.send(Packet::ConnectAck(Box::new(greeting))).await;
        broker
    }

    async fn next(&mut self) -> Packet {
        loop {
            if let Some((packet, _)) = self.codec.decode(&mut self.bytes).unwrap() {
                return packet;
            }
            assert!(self.stream.read_buf(&mut self.bytes).await.unwrap() > 0, "the client has gone");
        }
    }

    async fn send(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        self.codec.encode(packet, &mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn message(&mut self, id: u16, payload: &'static str, is_repeated: bool) {
        let message = Publish {
            dup: is_repeated,
            retain: false,
            qos: QoS::AtLeastOnce,
            topic: "a/7".into(),
            packet_id: NonZeroU16::new(id),
            payload: Bytes::from_static(payload.as_bytes()),
            properties: None,
        };
        self.send(Packet::Publish(Box::new(message))).await;
    }

    /// The client subscribes, and is granted that.
    async fn subscribed(&mut self) {
        let Packet::Subscribe(subscribe) = self.next().await else { panic!("it does not subscribe") };
        assert_eq!(subscribe.topic_filters[0].0, "a/+");
        let status = vec![v5::SubscribeAckReason::GrantedQos1];
        let (packet_id, properties) = (subscribe.packet_id, Vec::new());
        self.send(Packet::SubscribeAck(v5::SubscribeAck { packet_id, properties, reason_string: None, status })).await;
    }

    async fn acknowledged(&mut self) -> u16 {
        match self.next().await {
            Packet::PublishAck(acknowledged) => acknowledged.packet_id.get(),
            other => panic!("it sends {other:?}"),
        }
    }
}

fn greeting(has_session: bool) -> ConnectAck {
    ConnectAck { session_present: has_session, ..ConnectAck::default() }
}

/// A source with the broker's end of its connection; it has said that nothing is the matter.
async fn source(listener: &TcpListener, greeting: ConnectAck, position: Option<&Bytes>) -> (Box<dyn Source>, Broker) {
    let machine: Arc<dyn Machine> = Arc::new(Loopback(listener.local_addr().unwrap()));
    let settings: SourceConnector = serde_json::from_value(json!({
        "stream": "s",
        "mqtt": { "topics": ["a/{key}"], "broker": { "url": "mqtt://b.example", "grants": ["b.example"] } },
    }))
    .unwrap();
    let is_new = !greeting.session_present;
    let work = "default/a/source/s/0@hall".parse().unwrap();
    let opening = async {
        let mut source = open_source(&work, &settings, &machine, position.map(|position| &position[..])).await.unwrap();
        assert!(source.next().await.unwrap().records.is_empty());
        source
    };
    let serving = async {
        let mut broker = Broker::accept(listener, greeting).await;
        if is_new {
            broker.subscribed().await;
        }
        broker
    };
    tokio::join!(opening, serving)
}

/// So many records, and the position behind them.
async fn taken(source: &mut dyn Source, count: usize) -> (Vec<String>, Bytes) {
    let (mut values, mut position) = (Vec::new(), Bytes::new());
    while values.len() < count {
        let taken = source.next().await.unwrap();
        values.extend(taken.records.into_iter().map(|record| record.value));
        position = taken.position;
    }
    (values, position)
}

#[tokio::test]
async fn a_message_that_comes_again_is_known_where_the_broker_counts_its_messages() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut first, mut broker) = source(&listener, greeting(false), None).await;
    for (id, payload) in [(600, "a"), (601, "b"), (3, "c")] {
        broker.message(id, payload, false).await;
    }
    let (values, position) = taken(&mut *first, 3).await;
    assert_eq!(values, ["a", "b", "c"]);
    // It is committed, and killed before it has acknowledged anything.
    drop(first);

    let (mut second, mut broker) = source(&listener, greeting(true), Some(&position)).await;
    for (id, payload) in [(600, "a"), (601, "other"), (3, "c")] {
        broker.message(id, payload, true).await;
    }
    broker.message(602, "d", false).await;
    let (values, _) = taken(&mut *second, 3).await;
    assert_eq!(values, ["other", "c", "d"], "a low number, or another text, may be another message");
    second.committed().await.unwrap();
    for expected in [600, 601, 3, 602] {
        assert_eq!(broker.acknowledged().await, expected);
    }

    // What is new is no message that comes again, whatever its number.
    let (mut third, mut broker) = source(&listener, greeting(true), Some(&position)).await;
    broker.message(600, "a", false).await;
    assert_eq!(taken(&mut *third, 1).await.0, ["a"]);
    // A broker that has forgotten the session begins to count anew.
    let (mut fourth, mut broker) = source(&listener, greeting(false), Some(&position)).await;
    broker.message(600, "a", true).await;
    assert_eq!(taken(&mut *fourth, 1).await.0, ["a"]);
}

#[tokio::test]
async fn numbers_are_forgotten_once_the_broker_has_seen_that_they_are_acknowledged() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut source, mut broker) = source(&listener, greeting(false), None).await;
    broker.message(700, "a", false).await;
    let (_, position) = taken(&mut *source, 1).await;
    assert!(String::from_utf8_lossy(&position).contains("[700,"));
    source.committed().await.unwrap();
    assert_eq!(broker.acknowledged().await, 700);
    assert_eq!(broker.next().await, Packet::PingRequest);
    broker.message(701, "b", false).await;
    let (_, position) = taken(&mut *source, 1).await;
    assert!(String::from_utf8_lossy(&position).contains("[700,"), "it may not have seen it yet");
    broker.send(Packet::PingResponse).await;
    broker.message(702, "c", false).await;
    let (_, position) = taken(&mut *source, 1).await;
    let position = String::from_utf8_lossy(&position).into_owned();
    assert!(!position.contains("[700,") && position.contains("[701,") && position.contains("[702,"), "{position}");
}

#[tokio::test]
async fn a_source_that_waits_for_its_commit_is_heard_of_and_reads_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let greeting = ConnectAck { server_keepalive_sec: Some(1), ..greeting(false) };
    let (mut source, mut broker) = source(&listener, greeting, None).await;
    broker.message(1, "a", false).await;
    assert_eq!(taken(&mut *source, 1).await.0, ["a"]);
    let heard = async {
        // And acknowledges nothing.
        assert_eq!(broker.next().await, Packet::PingRequest);
        assert_eq!(broker.next().await, Packet::PingRequest);
        drop(broker);
    };
    let (trouble, ()) = tokio::join!(source.tend(), heard);
    assert!(trouble.0.starts_with("mqtt://b.example: "), "{trouble}");
}

/// Rows of `m`, which makes the topic, and of so many letters besides.
fn part(rows: &[(Option<&str>, usize)]) -> Part {
    let topics: StringArray = rows.iter().map(|(topic, _)| *topic).collect();
    let texts: StringArray = rows.iter().map(|(_, letters)| Some("x".repeat(*letters))).collect();
    let columns: [(&str, ArrayRef); 2] = [("m", Arc::new(topics)), ("x", Arc::new(texts))];
    let rows = vec![Rows(RecordBatch::try_from_iter(columns).unwrap())];
    let work = "default/a/stream/s/0@hall".parse().unwrap();
    Part { work, epoch: Epoch(1), from: Position::START, next: Position::START, rows }
}

/// A sink of a broker that takes packets of so many bytes, with the broker's end of its connection.
async fn sink(listener: &TcpListener) -> (Box<dyn Sink>, Broker) {
    let machine: Arc<dyn Machine> = Arc::new(Loopback(listener.local_addr().unwrap()));
    let settings: SinkConnector = serde_json::from_value(json!({
        "stream": "s",
        "mqtt": { "topic": "out/{m}", "broker": { "url": "mqtt://b.example", "grants": ["b.example"] } },
    }))
    .unwrap();
    let work = "default/a/sink/s/0@hall".parse().unwrap();
    let opening = open_sink(&work, &settings, &machine, None);
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut broker = Broker { stream, codec: v5::Codec::new(0, 0), bytes: BytesMut::new() };
        let Packet::Connect(connect) = broker.next().await else { panic!("it begins with something else") };
        assert!(connect.clean_start);
        let greeting = ConnectAck { max_packet_size: Some(64), ..greeting(false) };
        broker.send(Packet::ConnectAck(Box::new(greeting))).await;
        broker
    };
    let (sink, broker) = tokio::join!(opening, serving);
    (sink.unwrap(), broker)
}

#[tokio::test]
async fn what_a_broker_never_takes_is_passed_over_and_what_it_does_not_take_now_is_trouble() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (mut sink, mut broker) = sink(&listener).await;
    let rows = part(&[(Some("a"), 0), (None, 0), (Some("b"), 64), (Some("c"), 0)]);
    let answers = async {
        for (topic, reason_code) in
            [("out/a", PublishAckReason::PayloadFormatInvalid), ("out/c", PublishAckReason::NoMatchingSubscribers)]
        {
            let Packet::Publish(message) = broker.next().await else { panic!("it does not publish") };
            assert_eq!((&*message.topic, message.qos), (topic, QoS::AtLeastOnce));
            let packet_id = message.packet_id.unwrap();
            let answer = PublishAck { packet_id, reason_code, properties: Vec::new(), reason_string: None };
            broker.send(Packet::PublishAck(answer)).await;
        }
        broker
    };
    let writing = async {
        sink.write(&rows).await.unwrap();
        sink.flush().await.unwrap()
    };
    let (flushed, mut broker) = tokio::join!(writing, answers);
    let (count, why) = flushed.passed_over.unwrap();
    assert!(count == 3 && why.contains("out/a") && why.contains("PayloadFormatInvalid"), "{count} {why}");

    let refusing = async {
        let Packet::Publish(message) = broker.next().await else { panic!("it does not publish") };
        let answer = PublishAck {
            packet_id: message.packet_id.unwrap(),
            reason_code: PublishAckReason::NotAuthorized,
            properties: Vec::new(),
            reason_string: None,
        };
        broker.send(Packet::PublishAck(answer)).await;
    };
    let writing = async {
        sink.write(&part(&[(Some("d"), 0)])).await.unwrap();
        sink.flush().await.unwrap_err()
    };
    let (trouble, ()) = tokio::join!(writing, refusing);
    assert!(trouble.0.contains("out/d") && trouble.0.contains("NotAuthorized (0x87)"), "{trouble}");
}
