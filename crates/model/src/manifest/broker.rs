//! What a manifest says of a broker of MQTT outside the fabric: how it is reached, which of its topics become records, and to which
//! topics records go.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::grant::Peer;
use crate::unit::Time;

/// The most topics that a source has.
pub const SOURCE_TOPICS_MAX: usize = 64;
/// The longest identifier of a client, in bytes: brokers need not take more than 23.
pub const CLIENT_ID_BYTES_MAX: usize = 256;

/// A broker of MQTT, and as whom it is talked to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Broker {
    /// Where it is, as `mqtts://broker.example.com`, or `mqtt://…` for one without TLS. The port is 8883 or 1883 if it says none.
    pub url: String,
    /// Where the connection may go; the URL's host must be among them.
    pub grants: Vec<Peer>,
    /// The version of the protocol.
    #[serde(default)]
    pub version: MqttVersion,
    /// How the client names itself, which nobody else may; if left out, after the app and the source or sink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The name of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The user's password: a text, or `secret:NAME` for a secret of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Who vouches for the broker, as PEM or `secret:NAME`; if left out, the public authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The certificate that the client shows, as PEM or `secret:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The private key of that certificate, as PEM or `secret:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How long it may take to connect, and to answer.
    #[serde(default = "default_timeout")]
    pub timeout: Time,
}

fn default_timeout() -> Time {
    Time::from_micros(10_000_000)
}

/// A version of MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MqttVersion {
    /// Version 5.0.
    #[default]
    #[serde(rename = "5")]
    V5,
    /// Version 3.1.1.
    #[serde(rename = "3.1.1")]
    V3,
}

/// Topics of a broker, each message of which is a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MqttSource {
    /// The broker.
    pub broker: Broker,
    /// The topics: as `sensors/7`, `sensors/+`, or `sensors/{key}/temperature`, where a level is the record's key.
    pub topics: Vec<String>,
    /// How surely the broker hands them over: 0, what comes while nobody reads is lost; 1, it is kept.
    #[serde(default = "default_qos")]
    #[schemars(range(min = 0, max = 1))]
    pub qos: u8,
    /// For how long the broker keeps messages while nobody reads them. Version 3.1.1 cannot say so: the broker decides.
    #[serde(default = "default_session_expiry")]
    pub session_expiry: Time,
}

fn default_session_expiry() -> Time {
    Time::from_micros(7 * 86_400_000_000)
}

/// A topic of a broker that rows are published to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct MqttSink {
    /// The broker.
    pub broker: Broker,
    /// The topic, with columns of the rows in braces in place of levels, as `alerts/{machine}`.
    pub topic: String,
    /// How surely the broker gets them: 0, what is on its way when the connection breaks is lost; 1, it is sent again.
    #[serde(default = "default_qos")]
    #[schemars(range(min = 0, max = 1))]
    pub qos: u8,
    /// Whether the broker keeps the last message of each topic for who subscribes later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retain: bool,
}

fn default_qos() -> u8 {
    1
}
