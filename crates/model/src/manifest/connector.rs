//! What a manifest says of sources and sinks: what outside the fabric becomes records of a stream, and where its records go.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::broker::{MqttSink, MqttSource};
use super::kafka::{KafkaSink, KafkaSource};
use super::types::Placement;
use crate::grant::Peer;
use crate::id::{NodeId, StreamName};
use crate::unit::{Size, Time};

/// The most fields that a generator makes.
pub const GENERATOR_FIELDS_MAX: usize = 64;
/// How large a sink's file may be before the next one is begun, in bytes.
pub const ROTATE_BYTES: std::ops::RangeInclusive<u64> = 1 << 10..=4 << 30;
/// For how long a sink may write to a file that nobody can read meanwhile, in microseconds.
pub const ROTATE_EVERY_US: std::ops::RangeInclusive<u64> = 1_000_000..=86_400_000_000;

/// Something outside the fabric whose records become those of a stream, each once. It is of exactly one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SourceConnector {
    /// The stream that takes its records.
    pub stream: StreamName,
    /// The node that reads it, for what is on one machine only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Where it may be read.
    #[serde(default)]
    pub placement: Placement,
    /// Records that are made up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator: Option<Generator>,
    /// The lines of a file that grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSource>,
    /// What a URL answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
    /// Topics of a broker of MQTT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<MqttSource>,
    /// A topic of Apache Kafka.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSource>,
}

/// Something outside the fabric that takes the records of a stream. It is of exactly one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SinkConnector {
    /// The stream whose records it takes.
    pub stream: StreamName,
    /// The node that writes it, for what is on one machine only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Where it may be written.
    #[serde(default)]
    pub placement: Placement,
    /// Files in a folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSink>,
    /// A URL that rows are posted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSink>,
    /// A topic of a broker of MQTT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<MqttSink>,
    /// A topic of Apache Kafka.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSink>,
}

/// Records that are made up, the same ones for the same seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Generator {
    /// How many records a second.
    #[serde(default = "default_rate")]
    #[schemars(range(min = 1, max = 100_000))]
    pub rate: u32,
    /// What the values are drawn from: with another seed they are others.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub seed: u32,
    /// How many records there are in all; without an end if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub count: Option<u64>,
    /// The field whose value is the key of a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The fields of a record, which is a JSON object.
    pub fields: BTreeMap<String, GeneratorField>,
}

fn default_rate() -> u32 {
    1
}

/// What a field of a made-up record holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum GeneratorField {
    /// The number of the record.
    Named(GeneratorValue),
    /// One of these texts.
    OneOf(Vec<String>),
    /// A whole number of a range.
    Range(GeneratorRange),
}

/// A value that needs no more said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GeneratorValue {
    /// The number of the record, from 0.
    Sequence,
}

/// A range of whole numbers, with both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GeneratorRange {
    /// The least.
    pub from: i64,
    /// The greatest.
    pub to: i64,
}

/// How the records stand in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FileFormat {
    /// A JSON value a line (JSON Lines).
    #[default]
    JsonLines,
    /// Values separated by commas, with their names in the first line (RFC 4180).
    Csv,
    /// Columns with their types (Apache Parquet), in files that can be read once they are whole.
    Parquet,
}

impl FileFormat {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::JsonLines, Self::Csv, Self::Parquet];

    /// What the names of such files end in.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::JsonLines => "jsonl",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        }
    }
}

/// The lines of a file that grows: each that is complete is a record. Where another file takes its place, it is read to its end first.
/// Or the rows of whole Parquet files, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileSource {
    /// The file's path on its node, which must offer the folder. For Parquet, also that of a folder.
    pub path: String,
    /// How the records stand in it.
    #[serde(default)]
    pub format: FileFormat,
    /// The member or column whose value is the key of a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Files in a folder, each of which is begun when the one before has its size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct FileSink {
    /// The folder's path on its node, which must offer it.
    pub path: String,
    /// How the records stand in them.
    #[serde(default)]
    pub format: FileFormat,
    /// How large a file gets before the next one is begun, 1KiB to 4GiB.
    #[serde(default = "default_rotate")]
    pub rotate: Size,
    /// For how long a Parquet file is written to at most, 1s to 1d; 1min if left out. Until then nobody can read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate_every: Option<Time>,
}

fn default_rotate() -> Size {
    Size::from_bytes(64 << 20)
}

/// A URL that is asked again and again. Each answer that is another one than the one before is a record; of a list, each element.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HttpSource {
    /// Where it is, as `https://api.example.com/readings`. It answers JSON.
    pub url: String,
    /// Where its requests may go; its host must be among them.
    pub grants: Vec<Peer>,
    /// How often it is asked.
    #[serde(default = "default_every")]
    pub every: Time,
    /// What each request has besides: a text, or `secret:NAME` for a secret of the node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// How long it may take to answer.
    #[serde(default = "default_answer")]
    pub timeout: Time,
    /// The member whose value is the key of a record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A URL that rows are posted to, many at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HttpSink {
    /// Where it is, as `https://api.example.com/readings`.
    pub url: String,
    /// Where its requests may go; its host must be among them.
    pub grants: Vec<Peer>,
    /// What each request has besides: a text, or `secret:NAME` for a secret of the node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// How long it may take to answer.
    #[serde(default = "default_answer")]
    pub timeout: Time,
}

fn default_every() -> Time {
    Time::from_micros(10_000_000)
}

fn default_answer() -> Time {
    Time::from_micros(30_000_000)
}
