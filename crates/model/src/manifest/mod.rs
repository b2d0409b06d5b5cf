//! The manifest of an app, `littoral.toml`: its shapes, and everything that can be wrong with it.
//!
//! [`parse`] reads a text and reports all mistakes at once, each with its place: what the TOML parser finds (`recover`), what the
//! JSON Schema does not admit (`shape`), and what no schema can say (`meaning`). The schema is made from `types`.

pub mod broker;
pub mod connector;
mod cycles;
pub mod fidelity;
mod finding;
pub mod kafka;
mod later;
pub mod limits;
mod meaning;
mod mqtt;
mod recover;
pub mod scale;
mod shape;
mod sql;
mod types;

use schemars::{Schema, schema_for};
use serde_json::{Map, Value};
use toml::de::DeTable;

pub use broker::{Broker, MqttSink, MqttSource, MqttVersion};
pub use connector::{
    FileFormat, FileSink, FileSource, Generator, GeneratorField, GeneratorRange, GeneratorValue, HttpSink, HttpSource,
    SinkConnector, SourceConnector,
};
pub use fidelity::{Fidelity, StageVariant, with_variant};
pub use finding::{Adding, FINDINGS_MAX, Finding, Findings, Report, nearest};
pub use kafka::{KafkaCluster, KafkaSasl, KafkaSink, KafkaSource, KafkaStart};
pub use later::{KeyScope, Later, Trigger};
pub use limits::Limits;
pub use mqtt::{Topic, TopicUse};
pub use scale::Scale;
pub use types::{
    Ack, Affinity, Dev, DevLink, DevNode, Flow, Function, Grants, Manifest, Objectives, OneOrMany, Partition,
    PartitionPolicy, Partitioning, Placement, Priority, Query, Retention, Route, RouteTarget, Scope, Sensor, Sink, Sql,
    StopAfter, Stream, Within,
};

use crate::id::FunctionName;

/// The largest manifest, in bytes: no person writes more, and what is deployed must fit an admin request.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;

/// Reads a manifest; `file` is its name in findings.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(file: &str, text: &str) -> Result<Manifest, Findings> {
    let mut report = Report::new(file, text);
    if text.len() > MANIFEST_BYTES_MAX {
        let message = format!("the manifest has {} bytes", text.len());
        report.add("too-large", 0..0, message).expected(format!("at most {MANIFEST_BYTES_MAX} bytes"));
        return Err(Findings::new(report.into_findings()));
    }
    let (readable, broken) = recover::syntax(text, &mut report);
    let (root, _) = DeTable::parse_recoverable(&readable);
    let schema = schema().to_value();
    let none = Map::new();
    let definitions = schema.get("$defs").and_then(Value::as_object).unwrap_or(&none);
    let mut shape = shape::Shape { definitions, report: &mut report };
    shape.table(root.get_ref(), 0..0, &schema, "a manifest");
    meaning::check(root.get_ref(), &mut report);
    if !report.is_empty() {
        let findings = report.into_findings().into_iter().filter(|finding| !broken.explains(finding));
        return Err(Findings::new(findings.collect()));
    }
    match toml::from_str::<Manifest>(text) {
        Ok(manifest) => Ok(resolve_sinks(manifest)),
        Err(error) => {
            report.add("invalid", error.span().unwrap_or(0..0), error.message());
            Err(Findings::new(report.into_findings()))
        }
    }
}

/// A sink is read as a stream; what is none is a function.
fn resolve_sinks(mut manifest: Manifest) -> Manifest {
    for flow in manifest.flows.values_mut() {
        if let Some(Sink::Stream(name)) = &flow.sink
            && !manifest.streams.contains_key(name)
            && let Ok(function) = FunctionName::new(name)
        {
            flow.sink = Some(Sink::Function(function));
        }
    }
    manifest
}

/// The JSON Schema of a manifest.
#[must_use]
pub fn schema() -> Schema {
    schema_for!(Manifest)
}

#[cfg(test)]
mod tests;
