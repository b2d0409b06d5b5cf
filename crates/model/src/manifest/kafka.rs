//! What a manifest says of Apache Kafka outside the fabric: how its brokers are reached, which topic becomes records, and to which
//! topic records go. Every build knows it; only one with the feature `kafka` carries it out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::grant::Peer;
use crate::unit::Time;

/// The most brokers that are named; the others are learned from these.
pub const BROKERS_MAX: usize = 16;
/// The longest name of a topic.
pub const TOPIC_BYTES_MAX: usize = 249;
/// The longest transactional id, in bytes.
pub const TRANSACTIONAL_ID_BYTES_MAX: usize = 256;

/// Brokers of Kafka, and as whom they are talked to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct KafkaCluster {
    /// Some of its brokers, as `broker.example.com:9092`; these name the others.
    pub brokers: Vec<String>,
    /// Where connections may go: to these brokers, and to all that they name.
    pub grants: Vec<Peer>,
    /// Whether connections are encrypted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tls: bool,
    /// Who vouches for the brokers, as PEM or `secret:NAME`; if left out, the public authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The certificate that the client shows, as PEM or `secret:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The private key of that certificate, as PEM or `secret:NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How the user is let in.
    #[serde(default, skip_serializing_if = "KafkaSasl::is_plain")]
    pub sasl: KafkaSasl,
    /// The name of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The user's password: a text, or `secret:NAME` for a secret of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// How long it may take to connect, and to answer.
    #[serde(default = "default_timeout")]
    pub timeout: Time,
}

/// The host and the port that a broker is named by, which both must be said.
#[must_use]
pub fn host_and_port(broker: &str) -> Option<(&str, u16)> {
    let (host, port) = match broker.strip_prefix('[') {
        Some(rest) => rest.split_once("]:")?,
        None => broker.split_once(':')?,
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    (!host.is_empty() && host.chars().all(is_plain)).then_some((host, port.parse().ok().filter(|port| *port > 0)?))
}

fn default_timeout() -> Time {
    Time::from_micros(30_000_000)
}

/// How a user shows who it is (SASL).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KafkaSasl {
    /// By saying the password.
    #[default]
    Plain,
    /// By showing that it is known, with SHA-256.
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    /// The same with SHA-512.
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
}

impl KafkaSasl {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
    fn is_plain(&self) -> bool {
        *self == Self::Plain
    }

    /// Its name in the protocol.
    #[must_use]
    pub fn mechanism(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// A topic, each record of which is one of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct KafkaSource {
    /// The brokers.
    pub cluster: KafkaCluster,
    /// The name of the topic.
    pub topic: String,
    /// Where it begins when it reads the topic for the first time.
    #[serde(default)]
    pub from: KafkaStart,
}

/// Where a topic is read from at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum KafkaStart {
    /// With what is there.
    #[default]
    Earliest,
    /// With what comes.
    Latest,
}

/// A topic that rows are written to, in transactions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct KafkaSink {
    /// The brokers.
    pub cluster: KafkaCluster,
    /// The name of the topic, which must be there.
    pub topic: String,
    /// The column whose value is the key of a record; of records of a stream, their own key if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// How the producer names itself, and the group that has how far it is; if left out, after the app and the sink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transactional_id: Option<String>,
}
