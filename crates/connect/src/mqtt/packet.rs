//! What a client says to a broker and hears from it, whatever the version of the protocol; the codec turns it into bytes and back.

use std::num::NonZeroU16;

use bytes::{Buf as _, Bytes, BytesMut};
use littoral_model::manifest::MqttVersion;
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::{v3, v5};
use tokio_util::codec::{Decoder as _, Encoder as _};

/// The number of a packet that is answered.
pub(super) type PacketId = NonZeroU16;

/// The largest packet that is taken: a record of a mebibyte with its topic and properties. Of a larger message the payload is passed over.
pub(super) const PACKET_BYTES_MAX: usize = (1 << 20) + (128 << 10);

/// What a client sends.
#[derive(Debug)]
pub(super) enum Sent {
    Connect(Box<Connect>),
    Subscribe { id: PacketId, filters: Vec<String>, qos: u8 },
    Unsubscribe { id: PacketId, filters: Vec<String> },
    Publish(Message),
    Acknowledge(PacketId),
    Ping,
}

/// The first packet.
#[derive(Debug)]
pub(super) struct Connect {
    pub(super) client: String,
    pub(super) is_clean: bool,
    pub(super) keep_alive_s: u16,
    pub(super) expiry_s: u32,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) window: u16,
}

/// A message, in either direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    /// None where nobody acknowledges it.
    pub(super) id: Option<PacketId>,
    pub(super) is_retained: bool,
    /// It may have been sent before.
    pub(super) is_repeated: bool,
}

/// What a broker sends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Connected(Greeting),
    /// The client is not let in.
    Refused(String),
    Message(Message),
    /// A message of so many bytes, which are not kept.
    TooLarge {
        topic: String,
        id: Option<PacketId>,
        bytes: usize,
    },
    Acknowledged {
        id: PacketId,
        refused: Option<Refused>,
    },
    /// For each filter the quality that is granted, or why none is.
    Subscribed(Vec<Result<u8, String>>),
    Unsubscribed,
    Pong,
    Disconnected(String),
    /// What no broker may send, or not to us.
    Other(&'static str),
}

/// What the broker says of itself and the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) has_session: bool,
    /// How many messages it takes that it has not acknowledged.
    pub(super) window: u16,
    pub(super) qos_max: u8,
    pub(super) packet_bytes_max: Option<u32>,
    pub(super) keeps_retained: bool,
    pub(super) keep_alive_s: Option<u16>,
}

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) why: String,
    /// It is the message's fault, which would be refused again.
    pub(super) is_final: bool,
}

/// A packet is larger than the broker takes it; nothing of it was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Packets to bytes and back.
#[derive(Debug)]
pub(super) struct Codec {
    wire: Wire,
    /// How many bytes that come next are of a message that is too large.
    skipped: usize,
    /// The largest packet that the broker takes.
    pub(super) sent_bytes_max: usize,
}

#[derive(Debug)]
enum Wire {
    V3(v3::Codec),
    V5(Box<v5::Codec>),
}

impl Codec {
    pub(super) fn new(version: MqttVersion) -> Self {
        let wire = match version {
            MqttVersion::V3 => Wire::V3(v3::Codec::default()),
            MqttVersion::V5 => Wire::V5(Box::default()),
        };
        Self { wire, skipped: 0, sent_bytes_max: usize::MAX }
    }

    /// Takes the next packet from what has arrived, if it is whole.
    pub(super) fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Received>, String> {
        let skipped = self.skipped.min(bytes.len());
        bytes.advance(skipped);
        self.skipped -= skipped;
        let Some(header) = Header::of(bytes)? else { return Ok(None) };
        if header.body > PACKET_BYTES_MAX {
            let Some((topic, id)) = header.message(bytes)? else { return Ok(None) };
            self.skipped = header.length + header.body;
            return Ok(Some(Received::TooLarge { topic, id, bytes: header.body }));
        }
        if bytes.len() < header.length + header.body {
            return Ok(None);
        }
        let packet = match &mut self.wire {
            Wire::V3(codec) => codec.decode(bytes).map(|packet| packet.map(|(packet, _)| from_v3(packet))),
            Wire::V5(codec) => codec.decode(bytes).map(|packet| packet.map(|(packet, _)| from_v5(packet))),
        };
        packet.map_err(|error| error.to_string())
    }

    /// Writes a packet.
    pub(super) fn encode(&mut self, packet: Sent, bytes: &mut BytesMut) -> Result<(), TooLarge> {
        let before = bytes.len();
        let written = match &mut self.wire {
            Wire::V3(codec) => codec.encode(to_v3(packet), bytes),
            Wire::V5(codec) => codec.encode(to_v5(packet), bytes),
        };
        if written.is_err() || bytes.len() - before > self.sent_bytes_max {
            bytes.truncate(before);
            return Err(TooLarge);
        }
        Ok(())
    }
}

/// How each packet begins (MQTT 5.0, section 2.1).
struct Header {
    first: u8,
    /// How many bytes it has itself.
    length: usize,
    /// How many bytes follow it.
    body: usize,
}

impl Header {
    /// That of the packet that has begun, once it is whole.
    fn of(bytes: &[u8]) -> Result<Option<Self>, String> {
        let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
        let mut body = 0;
        for (place, byte) in rest.iter().take(4).enumerate() {
            body |= usize::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(Some(Self { first: *first, length: place + 2, body }));
            }
        }
        if rest.len() < 4 { Ok(None) } else { Err("the length of a packet is none".to_owned()) }
    }

    /// The topic and the number of a message, of which the payload need not be there.
    fn message(&self, bytes: &[u8]) -> Result<Option<(String, Option<PacketId>)>, String> {
        if self.first >> 4 != 3 {
            return Err(format!("a packet has {} bytes", self.body));
        }
        let rest = bytes.get(self.length..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk() else { return Ok(None) };
        let Some((topic, rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))) else {
            return Ok(None);
        };
        let topic = String::from_utf8_lossy(topic).into_owned();
        if self.first & 0b110 == 0 {
            return Ok(Some((topic, None)));
        }
        let Some((id, _)) = rest.split_first_chunk() else { return Ok(None) };
        let id = PacketId::new(u16::from_be_bytes(*id)).ok_or("a message has no number")?;
        Ok(Some((topic, Some(id))))
    }
}

fn from_v3(packet: v3::Packet) -> Received {
    match packet {
        v3::Packet::ConnectAck(answer) if answer.return_code == v3::ConnectAckReason::ConnectionAccepted => {
            Received::Connected(Greeting {
                has_session: answer.session_present,
                window: u16::MAX,
                qos_max: 2,
                packet_bytes_max: None,
                keeps_retained: true,
                keep_alive_s: None,
            })
        }
        v3::Packet::ConnectAck(answer) => Received::Refused(answer.return_code.reason().to_owned()),
        v3::Packet::Publish(message) => received(*message),
        v3::Packet::PublishAck { packet_id } => Received::Acknowledged { id: packet_id, refused: None },
        v3::Packet::SubscribeAck { status, .. } => {
            let granted = status.into_iter().map(|status| match status {
                v3::SubscribeReturnCode::Success(qos) => Ok(qos.value()),
                v3::SubscribeReturnCode::Failure => Err("refused".to_owned()),
            });
            Received::Subscribed(granted.collect())
        }
        v3::Packet::UnsubscribeAck { .. } => Received::Unsubscribed,
        v3::Packet::PingResponse => Received::Pong,
        v3::Packet::Connect(_) => Received::Other("CONNECT"),
        v3::Packet::PublishReceived { .. } => Received::Other("PUBREC"),
        v3::Packet::PublishRelease { .. } => Received::Other("PUBREL"),
        v3::Packet::PublishComplete { .. } => Received::Other("PUBCOMP"),
        v3::Packet::Subscribe { .. } => Received::Other("SUBSCRIBE"),
        v3::Packet::Unsubscribe { .. } => Received::Other("UNSUBSCRIBE"),
        v3::Packet::PingRequest => Received::Other("PINGREQ"),
        v3::Packet::Disconnect => Received::Other("DISCONNECT"),
    }
}

fn from_v5(packet: v5::Packet) -> Received {
    match packet {
        v5::Packet::ConnectAck(answer) if answer.reason_code == v5::ConnectAckReason::Success => {
            Received::Connected(Greeting {
                has_session: answer.session_present,
                window: answer.receive_max.get(),
                qos_max: answer.max_qos.value(),
                packet_bytes_max: answer.max_packet_size,
                keeps_retained: answer.retain_available,
                keep_alive_s: answer.server_keepalive_sec,
            })
        }
        v5::Packet::ConnectAck(answer) => Received::Refused(said(answer.reason_code, answer.reason_string.as_deref())),
        v5::Packet::Publish(message) => received(*message),
        v5::Packet::PublishAck(answer) => {
            let code = answer.reason_code;
            let is_refused = u8::from(code) >= 0x80;
            let is_final =
                matches!(code, v5::PublishAckReason::TopicNameInvalid | v5::PublishAckReason::PayloadFormatInvalid);
            let refused = is_refused.then(|| Refused { why: said(code, answer.reason_string.as_deref()), is_final });
            Received::Acknowledged { id: answer.packet_id, refused }
        }
        v5::Packet::SubscribeAck(answer) => {
            let granted = |code: v5::SubscribeAckReason| match u8::from(code) {
                qos @ 0..=2 => Ok(qos),
                _ => Err(said(code, answer.reason_string.as_deref())),
            };
            Received::Subscribed(answer.status.iter().copied().map(granted).collect())
        }
        v5::Packet::UnsubscribeAck(_) => Received::Unsubscribed,
        v5::Packet::PingResponse => Received::Pong,
        v5::Packet::Disconnect(told) => Received::Disconnected(said(told.reason_code, told.reason_string.as_deref())),
        v5::Packet::Connect(_) => Received::Other("CONNECT"),
        v5::Packet::PublishReceived(_) => Received::Other("PUBREC"),
        v5::Packet::PublishRelease(_) => Received::Other("PUBREL"),
        v5::Packet::PublishComplete(_) => Received::Other("PUBCOMP"),
        v5::Packet::Subscribe(_) => Received::Other("SUBSCRIBE"),
        v5::Packet::Unsubscribe(_) => Received::Other("UNSUBSCRIBE"),
        v5::Packet::PingRequest => Received::Other("PINGREQ"),
        v5::Packet::Auth(_) => Received::Other("AUTH"),
    }
}

/// A reason by its name and number, and what the broker adds to it.
fn said(code: impl std::fmt::Debug + Copy + Into<u8>, more: Option<&str>) -> String {
    let more = more.map(|more| format!(", {more}")).unwrap_or_default();
    format!("{code:?} (0x{:02x}){more}", code.into())
}

fn received(message: Publish) -> Received {
    match message.qos {
        QoS::ExactlyOnce => Received::Other("PUBLISH of quality 2"),
        QoS::AtMostOnce | QoS::AtLeastOnce => Received::Message(Message {
            topic: message.topic.to_string(),
            payload: message.payload,
            id: message.packet_id,
            is_retained: message.retain,
            is_repeated: message.dup,
        }),
    }
}

fn to_wire(message: Message) -> Box<Publish> {
    Box::new(Publish {
        dup: message.is_repeated,
        retain: message.is_retained,
        qos: if message.id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce },
        topic: message.topic.into(),
        packet_id: message.id,
        payload: message.payload,
        properties: None,
    })
}

fn wire_qos(qos: u8) -> QoS {
    if qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }
}

fn to_v3(packet: Sent) -> v3::Packet {
    match packet {
        Sent::Connect(connect) => v3::Packet::Connect(Box::new(v3::Connect {
            clean_session: connect.is_clean,
            keep_alive: connect.keep_alive_s,
            client_id: connect.client.into(),
            username: connect.user.map(Into::into),
            password: connect.password.map(Bytes::from),
            ..v3::Connect::default()
        })),
        Sent::Subscribe { id, filters, qos } => v3::Packet::Subscribe {
            packet_id: id,
            topic_filters: filters.into_iter().map(|filter| (filter.into(), wire_qos(qos))).collect(),
        },
        Sent::Unsubscribe { id, filters } => {
            v3::Packet::Unsubscribe { packet_id: id, topic_filters: filters.into_iter().map(Into::into).collect() }
        }
        Sent::Publish(message) => v3::Packet::Publish(to_wire(message)),
        Sent::Acknowledge(id) => v3::Packet::PublishAck { packet_id: id },
        Sent::Ping => v3::Packet::PingRequest,
    }
}

fn to_v5(packet: Sent) -> v5::Packet {
    match packet {
        Sent::Connect(connect) => v5::Packet::Connect(Box::new(v5::Connect {
            clean_start: connect.is_clean,
            keep_alive: connect.keep_alive_s,
            session_expiry_interval_secs: connect.expiry_s,
            receive_max: NonZeroU16::new(connect.window),
            client_id: connect.client.into(),
            username: connect.user.map(Into::into),
            password: connect.password.map(Bytes::from),
            ..v5::Connect::default()
        })),
        Sent::Subscribe { id, filters, qos } => {
            // What is retained comes with a new subscription only, not each time that it is said again.
            let options = v5::SubscriptionOptions {
                qos: wire_qos(qos),
                retain_handling: v5::RetainHandling::AtSubscribeNew,
                ..v5::SubscriptionOptions::default()
            };
            let topic_filters = filters.into_iter().map(|filter| (filter.into(), options)).collect();
            v5::Packet::Subscribe(v5::Subscribe { packet_id: id, id: None, user_properties: Vec::new(), topic_filters })
        }
        Sent::Unsubscribe { id, filters } => v5::Packet::Unsubscribe(v5::Unsubscribe {
            packet_id: id,
            user_properties: Vec::new(),
            topic_filters: filters.into_iter().map(Into::into).collect(),
        }),
        Sent::Publish(message) => v5::Packet::Publish(to_wire(message)),
        Sent::Acknowledge(id) => v5::Packet::PublishAck(v5::PublishAck {
            packet_id: id,
            reason_code: v5::PublishAckReason::Success,
            properties: Vec::new(),
            reason_string: None,
        }),
        Sent::Ping => v5::Packet::PingRequest,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn published(topic: &str, payload: Vec<u8>) -> BytesMut {
        let mut bytes = BytesMut::new();
        let message = Message {
            topic: topic.to_owned(),
            payload: payload.into(),
            id: NonZeroU16::new(9),
            is_retained: false,
            is_repeated: false,
        };
        Codec::new(MqttVersion::V5).encode(Sent::Publish(message), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn of_a_message_that_is_too_large_the_next_is_found_however_it_arrives() {
        let mut all = published("a/b", vec![b'x'; PACKET_BYTES_MAX + 1]);
        let (length, next) = (all.len(), published("c", b"y".to_vec()));
        all.extend_from_slice(&next);
        for piece in [1 << 16, 7, length, all.len()] {
            let (mut codec, mut bytes, mut found) = (Codec::new(MqttVersion::V5), BytesMut::new(), Vec::new());
            for part in all.chunks(piece) {
                bytes.extend_from_slice(part);
                found.extend(std::iter::from_fn(|| codec.decode(&mut bytes).unwrap()));
                assert!(bytes.len() < 2 * piece, "what is passed over is not kept");
            }
            let id = NonZeroU16::new(9);
            let [Received::TooLarge { topic, id: large, .. }, Received::Message(message)] = &found[..] else {
                panic!("{found:?}");
            };
            assert_eq!((&**topic, *large, &*message.topic, message.id), ("a/b", id, "c", id));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes: Vec<u8>, is_v5: bool) {
            let mut codec = Codec::new(if is_v5 { MqttVersion::V5 } else { MqttVersion::V3 });
            let mut bytes = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = codec.decode(&mut bytes) {}
        }
    }
}
