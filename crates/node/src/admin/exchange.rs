//! The shapes of what is sent to and fro over the admin API: bundles, records, calls, logs, tokens.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use littoral_model::edit::{Edit, EditId};
use littoral_model::id::NodeId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An app to deploy: its manifest, and the digests of the artefacts that the manifest names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AppBundle {
    /// The text of `littoral.toml`.
    pub manifest: String,
    /// For each function: the SHA-256 of its component, 64 lower-case hexadecimal digits.
    pub artifacts: BTreeMap<String, String>,
    /// Which edit of the app it is: the next after what holds. Not needed for planning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<Edit>,
    /// The tenant's signature of all that; a bundle without one is not deployed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<BundleSignature>,
}

/// Ends an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AppEnd {
    /// Which edit of the app it is.
    pub edit: Edit,
    /// The tenant's signature of that.
    pub signature: Option<BundleSignature>,
}

/// Moves stages of a flow, or partitions of a stream, to a node of their site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MoveRequest {
    /// The flow or the stream.
    pub name: String,
    /// Whether it is a stream.
    #[serde(default)]
    pub is_stream: bool,
    /// Which partition; all of them if none is said.
    #[serde(default)]
    pub partition: Option<u32>,
    /// Which node is to have them.
    pub to: NodeId,
}

/// What became of a [`MoveRequest`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MoveReport {
    /// Each unit of work that is now there, in the order in which they were moved.
    pub works: Vec<MovedWork>,
}

/// A unit of work that a node has as it was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MovedWork {
    /// The stage, as `health.0`, or the stream.
    pub work: String,
    /// Which partition.
    pub partition: u32,
    /// Which node had it.
    pub from: String,
    /// Which node has it.
    pub to: String,
    /// For how long at most nobody worked on it, in milliseconds: from before its keeper was asked until the asked node
    /// knew that the new owner is ready. Nothing if it was there already.
    pub pause_ms: Option<f64>,
}

/// Shuts a node out of the fabric, for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Revocation {
    /// The form in which it is written; 1.
    pub format: u32,
    /// Which node.
    pub node: NodeId,
    /// Who shuts it out, for people.
    pub author: String,
    /// When, microseconds since 1970.
    pub time_us: u64,
    /// An administrator's signature of that.
    pub signature: BundleSignature,
}

/// What was wanted of an app, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AppEdit {
    /// Its id.
    pub id: EditId,
    /// Its place among the others, and its author.
    pub edit: Edit,
    /// What it deployed; none if it ended the app.
    pub bundle: Option<AppBundle>,
}

/// What holds of an app, and what lost to it without its author knowing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AppHistory {
    /// What holds; none of an app that was never deployed.
    pub holds: Option<AppEdit>,
    /// What lost to it, until somebody who was shown it edits the app.
    pub lost: Vec<AppEdit>,
}

impl AppHistory {
    /// The edit to sign next, by somebody who was shown this.
    #[must_use]
    pub fn next(&self, ends: bool, now_us: u64, author: String) -> Edit {
        let shown: Vec<EditId> = self.lost.iter().map(|lost| lost.id).collect();
        match &self.holds {
            Some(holds) => holds.edit.next(holds.id, &shown, ends, now_us, author),
            None => Edit { ends, ..Edit::first(now_us, author) },
        }
    }
}

/// A signature of a bundle, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BundleSignature {
    /// The certificate of the tenant's key, signed by the fabric's root; in PEM.
    pub certificate: String,
    /// ECDSA over P-256 with SHA-256, in ASN.1.
    pub signature_base64: Base64Bytes,
}

/// A record to publish.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishRecord {
    /// Records with the same key keep their order; also spreads them over partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The time of the event, microseconds since 1970; the time of arrival if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_us: Option<i64>,
    /// The record.
    pub value: String,
}

/// What became of a publication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Published {
    /// How many records are durable now.
    pub stored: u64,
    /// How many of these had been stored before, by the producer's numbers.
    pub repeated: u64,
}

/// A record read from a stream: its columns, and `_partition` and `_index` for its place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct TailRow(pub serde_json::Map<String, serde_json::Value>);

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    /// When, microseconds since 1970.
    pub time_us: i64,
    /// On which node.
    pub node: String,
    /// Of which app, if of one.
    pub app: Option<String>,
    /// Of which function, if of one.
    pub function: Option<String>,
    /// From where.
    pub stream: LogStream,
    /// The line, without its end.
    pub text: String,
}

/// Where a line of a log comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogStream {
    /// The function's standard output.
    Stdout,
    /// The function's standard error.
    Stderr,
    /// What the node says about it.
    System,
}

/// The lifetime of a token that does not name one, in seconds: an hour is enough to set up a machine.
pub const TOKEN_TTL_SECONDS_DEFAULT: u64 = 3_600;

/// Asks for a token with which one node may join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenRequest {
    /// How long it is good for, in seconds.
    pub ttl_seconds: u64,
}

impl Default for TokenRequest {
    fn default() -> Self {
        Self { ttl_seconds: TOKEN_TTL_SECONDS_DEFAULT }
    }
}

/// A token to join with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TokenGrant {
    /// The token; a secret.
    pub token: String,
    /// When it ends, seconds since 1970.
    pub expires_s: u64,
}

/// The answer to an uploaded artefact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoredArtifact {
    /// Its SHA-256, 64 lower-case hexadecimal digits.
    pub digest: String,
}

/// Whether a node can do its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Readiness {
    /// Whether it can.
    pub ready: bool,
    /// Why not, or what is impaired; one sentence each.
    pub reasons: Vec<String>,
}

/// The digest of an artefact: its SHA-256, 64 lower-case hexadecimal digits.
#[must_use]
pub fn artifact_digest(artifact: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, artifact);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes, as base64 in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
pub struct Base64Bytes(#[schemars(with = "String")] pub Bytes);

impl Serialize for Base64Bytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(&text).map(|bytes| Self(bytes.into())).map_err(serde::de::Error::custom)
    }
}

/// A call of a function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CallRequest {
    /// The HTTP method.
    pub method: String,
    /// The path and query, from `/`.
    pub path: String,
    /// The headers: name and value.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// The body.
    #[serde(default)]
    pub body_base64: Base64Bytes,
}

/// What a function answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CallResponse {
    /// The HTTP status.
    pub status: u16,
    /// The headers: name and value.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body_base64: Base64Bytes,
}
