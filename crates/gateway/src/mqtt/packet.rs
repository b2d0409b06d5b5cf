//! Packets as the rest knows them, whatever the version of the protocol; the codec turns bytes into them and back.

use std::num::NonZeroU16;

use bytes::{Bytes, BytesMut};
use rmqtt_codec::error::DecodeError;
use rmqtt_codec::types::{MQTT_LEVEL_31, Publish as WirePublish, QoS};
use rmqtt_codec::version::{ProtocolVersion, VersionCodec};
use rmqtt_codec::{v3, v5};
use tokio_util::codec::{Decoder as _, Encoder as _};

use super::reason::Reason;

/// The number of a packet that is acknowledged.
pub(crate) type PacketId = NonZeroU16;

/// How surely a message arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Qos {
    /// At most once.
    Zero,
    /// At least once.
    One,
    /// Exactly once; nobody is given it here.
    Two,
}

impl Qos {
    /// The number that stands for it.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Zero => 0,
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

impl From<QoS> for Qos {
    fn from(qos: QoS) -> Self {
        match qos {
            QoS::AtMostOnce => Self::Zero,
            QoS::AtLeastOnce => Self::One,
            QoS::ExactlyOnce => Self::Two,
        }
    }
}

/// The versions of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// 3.1.1.
    V3,
    /// 5.0.
    V5,
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Connect(Box<Connect>),
    Publish(Published),
    Acknowledged(PacketId),
    Subscribe {
        id: PacketId,
        has_identifier: bool,
        filters: Vec<Asked>,
    },
    Unsubscribe {
        id: PacketId,
        filters: Vec<String>,
    },
    Ping,
    /// `expiry_s`: how long to keep the session, if the client says so now.
    Disconnect {
        wants_will: bool,
        expiry_s: Option<u32>,
    },
    /// What no client may send, or not now.
    Other(&'static str),
}

/// The first packet of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) client: String,
    pub(crate) is_clean: bool,
    pub(crate) keep_alive_s: u16,
    /// How long to keep the session; `u32::MAX` for ever.
    pub(crate) expiry_s: u32,
    /// How many messages may wait for its acknowledgement.
    pub(crate) window: u16,
    /// The largest packet that it takes, in bytes.
    pub(crate) packet_bytes_max: Option<u32>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Bytes>,
    pub(crate) has_method: bool,
    pub(crate) will: Option<Will>,
}

/// What is published when a client's connection ends without a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) qos: Qos,
    /// How long after that.
    pub(crate) delay_s: u32,
}

/// A message from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    pub(crate) qos: Qos,
    /// There is one unless `qos` is 0.
    pub(crate) id: Option<PacketId>,
    pub(crate) has_alias: bool,
}

/// One filter of a SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) filter: String,
    pub(crate) qos: Qos,
    pub(crate) no_local: bool,
    pub(crate) retained: Retained,
}

/// When who subscribes gets what is retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retained {
    Always,
    IfNew,
    Never,
}

/// What a client is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Connected(Box<Connected>),
    Refused {
        reason: Reason,
        text: &'static str,
    },
    Publish(Box<Delivery>),
    Acknowledge {
        id: PacketId,
        reason: Reason,
    },
    /// For each filter the quality that is granted, or why none is.
    Subscribed {
        id: PacketId,
        granted: Vec<Result<Qos, Reason>>,
    },
    /// For each filter whether there was such a subscription.
    Unsubscribed {
        id: PacketId,
        existed: Vec<bool>,
    },
    Pong,
    Disconnect {
        reason: Reason,
        text: &'static str,
    },
}

/// The answer to a client that is let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connected {
    pub(crate) session_present: bool,
    pub(crate) assigned_client: Option<String>,
    /// How long the session is kept, where that is not as long as was asked.
    pub(crate) expiry_s: Option<u32>,
    /// How often the client has to be heard of, where that is not as it said.
    pub(crate) keep_alive_s: Option<u16>,
    /// How many messages the client may send that are not acknowledged.
    pub(crate) window: u16,
    pub(crate) packet_bytes_max: u32,
}

/// A message for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) topic: String,
    pub(crate) payload: Bytes,
    /// None where it need not be acknowledged.
    pub(crate) id: Option<PacketId>,
    pub(crate) is_repeated: bool,
    pub(crate) is_retained: bool,
}

/// Bytes to packets and back, of the version that the client's first packet says.
#[derive(Debug)]
pub(crate) struct Codec {
    wire: Wire,
    /// The largest packet that is taken, in bytes.
    bytes_max: u32,
    /// The largest packet that the client takes, in bytes.
    client_bytes_max: usize,
}

#[derive(Debug)]
enum Wire {
    /// Nothing was said yet.
    Unknown,
    V3(v3::Codec),
    V5(v5::Codec),
}

/// A packet is larger than its receiver takes it; nothing of it was written.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

impl Codec {
    /// A codec that takes packets of so many bytes.
    pub(crate) fn new(bytes_max: u32) -> Self {
        Self { wire: Wire::Unknown, bytes_max, client_bytes_max: usize::MAX }
    }

    /// Sets the largest packets in both directions.
    pub(crate) fn set_bytes_max(&mut self, bytes_max: u32, client_bytes_max: Option<u32>) {
        self.bytes_max = bytes_max;
        match &mut self.wire {
            Wire::Unknown => {}
            Wire::V3(codec) => codec.set_max_size(bytes_max),
            Wire::V5(codec) => codec.set_max_inbound_size(bytes_max),
        }
        // What the codec of version 5 has for this underflows where the client takes next to nothing.
        self.client_bytes_max = client_bytes_max.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
    }

    /// Takes the next packet from what has arrived, if it is whole.
    pub(crate) fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Received>, Reason> {
        if matches!(self.wire, Wire::Unknown) {
            let version = VersionCodec.decode(bytes).map_err(|error| match error {
                DecodeError::InvalidProtocol if names_protocol(bytes) => Reason::UnsupportedVersion,
                error => reason_of(&error),
            })?;
            self.wire = match version {
                None if bytes.len() > FIRST_BYTES => return Err(Reason::Malformed),
                None => return Ok(None),
                Some(ProtocolVersion::MQTT3) => Wire::V3(v3::Codec::new(self.bytes_max)),
                Some(ProtocolVersion::MQTT5) => Wire::V5(v5::Codec::new(self.bytes_max, 0)),
            };
        }
        let packet = match &mut self.wire {
            Wire::Unknown => None,
            Wire::V3(codec) => {
                codec.decode(bytes).map_err(|error| reason_of(&error))?.map(|(packet, _)| from_v3(packet))
            }
            Wire::V5(codec) => {
                codec.decode(bytes).map_err(|error| reason_of(&error))?.map(|(packet, _)| from_v5(packet))
            }
        };
        packet.transpose()
    }

    /// Writes a packet; what the client's version has no words for is left out.
    pub(crate) fn encode(&mut self, packet: Sent, bytes: &mut BytesMut) -> Result<(), TooLarge> {
        let before = bytes.len();
        let written = match &mut self.wire {
            Wire::V5(codec) => codec.encode(to_v5(packet), bytes),
            Wire::V3(codec) => to_v3(packet).map_or(Ok(()), |packet| codec.encode(packet, bytes)),
            Wire::Unknown => to_v3(packet).map_or(Ok(()), |packet| v3::Codec::default().encode(packet, bytes)),
        };
        if written.is_err() || bytes.len() - before > self.client_bytes_max {
            bytes.truncate(before);
            return Err(TooLarge);
        }
        Ok(())
    }
}

/// By so many bytes of a first packet its version is known: a header of five, a name of six with its length, a level.
const FIRST_BYTES: usize = 16;

/// Whether a first packet names the protocol, whatever its level.
fn names_protocol(bytes: &[u8]) -> bool {
    let length = bytes.iter().skip(1).take_while(|byte| **byte & 0x80 != 0).count();
    bytes.get(length + 2..).is_some_and(|rest| rest.starts_with(b"\0\x04MQTT"))
}

fn reason_of(error: &DecodeError) -> Reason {
    match error {
        DecodeError::InvalidProtocol | DecodeError::UnsupportedPacketType => Reason::ProtocolError,
        DecodeError::UnsupportedProtocolLevel => Reason::UnsupportedVersion,
        DecodeError::InvalidClientId => Reason::ClientInvalid,
        DecodeError::MaxSizeExceeded { .. } => Reason::PacketTooLarge,
        DecodeError::InvalidTopicFilter => Reason::ProtocolError,
        DecodeError::InvalidTopicName => Reason::TopicInvalid,
        _ => Reason::Malformed,
    }
}

fn from_v3(packet: v3::Packet) -> Result<Received, Reason> {
    Ok(match packet {
        v3::Packet::Connect(connect) if connect.protocol.level() == MQTT_LEVEL_31 => {
            return Err(Reason::UnsupportedVersion);
        }
        v3::Packet::Connect(connect) => Received::Connect(Box::new(Connect {
            version: Version::V3,
            client: connect.client_id.to_string(),
            is_clean: connect.clean_session,
            keep_alive_s: connect.keep_alive,
            expiry_s: if connect.clean_session { 0 } else { u32::MAX },
            window: u16::MAX,
            packet_bytes_max: None,
            user: connect.username.map(|user| user.to_string()),
            password: connect.password,
            has_method: false,
            will: connect.last_will.map(|will| Will {
                topic: will.topic.to_string(),
                payload: will.message,
                // This version cannot be told that there is no more than 1.
                qos: Qos::from(will.qos).min(Qos::One),
                delay_s: 0,
            }),
        })),
        v3::Packet::Publish(message) => Received::Publish(published(*message)),
        v3::Packet::PublishAck { packet_id } => Received::Acknowledged(packet_id),
        v3::Packet::Subscribe { packet_id, topic_filters } => {
            let asked = topic_filters.into_iter().map(|(filter, qos)| Asked {
                filter: filter.to_string(),
                qos: qos.into(),
                no_local: false,
                retained: Retained::Always,
            });
            Received::Subscribe { id: packet_id, has_identifier: false, filters: asked.collect() }
        }
        v3::Packet::Unsubscribe { packet_id, topic_filters } => {
            Received::Unsubscribe { id: packet_id, filters: topic_filters.iter().map(ToString::to_string).collect() }
        }
        v3::Packet::PingRequest => Received::Ping,
        v3::Packet::Disconnect => Received::Disconnect { wants_will: false, expiry_s: None },
        v3::Packet::ConnectAck(_) => Received::Other("CONNACK"),
        v3::Packet::PublishReceived { .. } => Received::Other("PUBREC"),
        v3::Packet::PublishRelease { .. } => Received::Other("PUBREL"),
        v3::Packet::PublishComplete { .. } => Received::Other("PUBCOMP"),
        v3::Packet::SubscribeAck { .. } => Received::Other("SUBACK"),
        v3::Packet::UnsubscribeAck { .. } => Received::Other("UNSUBACK"),
        v3::Packet::PingResponse => Received::Other("PINGRESP"),
    })
}

fn from_v5(packet: v5::Packet) -> Result<Received, Reason> {
    Ok(match packet {
        v5::Packet::Connect(connect) => Received::Connect(Box::new(connect_of(*connect))),
        v5::Packet::Publish(message) => Received::Publish(published(*message)),
        // Whatever it says: the client is not to be sent it again.
        v5::Packet::PublishAck(acknowledged) => Received::Acknowledged(acknowledged.packet_id),
        v5::Packet::Subscribe(subscribe) => {
            let (id, has_identifier) = (subscribe.packet_id, subscribe.id.is_some());
            let asked = subscribe.topic_filters.into_iter().map(|(filter, options)| Asked {
                filter: filter.to_string(),
                qos: options.qos.into(),
                no_local: options.no_local,
                retained: match options.retain_handling {
                    v5::RetainHandling::AtSubscribe => Retained::Always,
                    v5::RetainHandling::AtSubscribeNew => Retained::IfNew,
                    v5::RetainHandling::NoAtSubscribe => Retained::Never,
                },
            });
            Received::Subscribe { id, has_identifier, filters: asked.collect() }
        }
        v5::Packet::Unsubscribe(unsubscribe) => Received::Unsubscribe {
            id: unsubscribe.packet_id,
            filters: unsubscribe.topic_filters.iter().map(ToString::to_string).collect(),
        },
        v5::Packet::PingRequest => Received::Ping,
        v5::Packet::Disconnect(disconnect) => Received::Disconnect {
            wants_will: disconnect.reason_code != v5::DisconnectReasonCode::NormalDisconnection,
            expiry_s: disconnect.session_expiry_interval_secs,
        },
        v5::Packet::Auth(_) => Received::Other("AUTH"),
        v5::Packet::ConnectAck(_) => Received::Other("CONNACK"),
        v5::Packet::PublishReceived(_) => Received::Other("PUBREC"),
        v5::Packet::PublishRelease(_) => Received::Other("PUBREL"),
        v5::Packet::PublishComplete(_) => Received::Other("PUBCOMP"),
        v5::Packet::SubscribeAck(_) => Received::Other("SUBACK"),
        v5::Packet::UnsubscribeAck(_) => Received::Other("UNSUBACK"),
        v5::Packet::PingResponse => Received::Other("PINGRESP"),
    })
}

fn connect_of(connect: v5::Connect) -> Connect {
    Connect {
        version: Version::V5,
        client: connect.client_id.to_string(),
        is_clean: connect.clean_start,
        keep_alive_s: connect.keep_alive,
        expiry_s: connect.session_expiry_interval_secs,
        window: connect.receive_max.map_or(u16::MAX, NonZeroU16::get),
        packet_bytes_max: connect.max_packet_size.map(std::num::NonZeroU32::get),
        user: connect.username.map(|user| user.to_string()),
        password: connect.password,
        has_method: connect.auth_method.is_some(),
        will: connect.last_will.map(|will| Will {
            topic: will.topic.to_string(),
            payload: will.message,
            qos: will.qos.into(),
            delay_s: will.will_delay_interval_sec.unwrap_or(0),
        }),
    }
}

fn published(message: WirePublish) -> Published {
    Published {
        topic: message.topic.to_string(),
        payload: message.payload,
        qos: message.qos.into(),
        id: message.packet_id,
        has_alias: message.properties.is_some_and(|properties| properties.topic_alias.is_some()),
    }
}

fn to_wire(delivery: Delivery) -> Box<WirePublish> {
    Box::new(WirePublish {
        dup: delivery.is_repeated,
        retain: delivery.is_retained,
        qos: if delivery.id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce },
        topic: delivery.topic.into(),
        packet_id: delivery.id,
        payload: delivery.payload,
        properties: None,
    })
}

/// None where this version has no such packet.
fn to_v3(packet: Sent) -> Option<v3::Packet> {
    Some(match packet {
        Sent::Connected(connected) => v3::Packet::ConnectAck(v3::ConnectAck {
            return_code: v3::ConnectAckReason::ConnectionAccepted,
            session_present: connected.session_present,
        }),
        Sent::Refused { reason, .. } => {
            v3::Packet::ConnectAck(v3::ConnectAck { return_code: reason.of_v3()?, session_present: false })
        }
        Sent::Publish(delivery) => v3::Packet::Publish(to_wire(*delivery)),
        Sent::Acknowledge { id, .. } => v3::Packet::PublishAck { packet_id: id },
        Sent::Subscribed { id, granted } => v3::Packet::SubscribeAck {
            packet_id: id,
            status: granted
                .into_iter()
                .map(|granted| match granted {
                    Ok(qos) => v3::SubscribeReturnCode::Success(wire_qos(qos)),
                    Err(_) => v3::SubscribeReturnCode::Failure,
                })
                .collect(),
        },
        Sent::Unsubscribed { id, .. } => v3::Packet::UnsubscribeAck { packet_id: id },
        Sent::Pong => v3::Packet::PingResponse,
        Sent::Disconnect { .. } => return None,
    })
}

fn to_v5(packet: Sent) -> v5::Packet {
    match packet {
        Sent::Connected(connected) => v5::Packet::ConnectAck(Box::new(v5::ConnectAck {
            session_present: connected.session_present,
            session_expiry_interval_secs: connected.expiry_s,
            receive_max: NonZeroU16::new(connected.window).unwrap_or(NonZeroU16::MIN),
            max_qos: QoS::AtLeastOnce,
            max_packet_size: Some(connected.packet_bytes_max),
            assigned_client_id: connected.assigned_client.map(Into::into),
            subscription_identifiers_available: false,
            shared_subscription_available: false,
            server_keepalive_sec: connected.keep_alive_s,
            ..v5::ConnectAck::default()
        })),
        Sent::Refused { reason, text } => v5::Packet::ConnectAck(Box::new(v5::ConnectAck {
            reason_code: reason.code().try_into().unwrap_or(v5::ConnectAckReason::UnspecifiedError),
            reason_string: Some(text.into()),
            ..v5::ConnectAck::default()
        })),
        Sent::Publish(delivery) => v5::Packet::Publish(to_wire(*delivery)),
        Sent::Acknowledge { id, reason } => v5::Packet::PublishAck(v5::PublishAck {
            packet_id: id,
            reason_code: reason.code().try_into().unwrap_or(v5::PublishAckReason::UnspecifiedError),
            properties: Vec::new(),
            reason_string: None,
        }),
        Sent::Subscribed { id, granted } => {
            let status = |granted: Result<Qos, Reason>| match granted {
                Ok(qos) => qos.number().try_into(),
                Err(reason) => reason.code().try_into(),
            };
            let status = granted.into_iter().map(status);
            let status = status.map(|status| status.unwrap_or(v5::SubscribeAckReason::UnspecifiedError)).collect();
            v5::Packet::SubscribeAck(v5::SubscribeAck {
                packet_id: id,
                properties: Vec::new(),
                reason_string: None,
                status,
            })
        }
        Sent::Unsubscribed { id, existed } => {
            let status = |existed| match existed {
                true => v5::UnsubscribeAckReason::Success,
                false => v5::UnsubscribeAckReason::NoSubscriptionExisted,
            };
            v5::Packet::UnsubscribeAck(v5::UnsubscribeAck {
                packet_id: id,
                properties: Vec::new(),
                reason_string: None,
                status: existed.into_iter().map(status).collect(),
            })
        }
        Sent::Pong => v5::Packet::PingResponse,
        Sent::Disconnect { reason, text } => v5::Packet::Disconnect(v5::Disconnect {
            reason_string: Some(text.into()),
            ..v5::Disconnect::new(reason.code().try_into().unwrap_or(v5::DisconnectReasonCode::UnspecifiedError))
        }),
    }
}

fn wire_qos(qos: Qos) -> QoS {
    match qos {
        Qos::Zero => QoS::AtMostOnce,
        Qos::One | Qos::Two => QoS::AtLeastOnce,
    }
}
