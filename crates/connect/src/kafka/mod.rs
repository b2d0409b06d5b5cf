//! Apache Kafka: a source takes the records of a topic, a sink writes rows to one in transactions.
//!
//! The packets are a crate's. A [`Link`](link::Link) is a connection to one broker, a [`Cluster`](cluster::Cluster) finds the brokers
//! that lead partitions or coordinate transactions, `batch` takes apart what is fetched. Each broker that another one names is granted
//! and resolved like any other host. Nothing has a task of its own: who is not polled asks for nothing, which is the back-pressure.

mod batch;
mod cluster;
mod link;
mod scram;
mod sink;
mod source;

use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use littoral_model::manifest;
use littoral_model::work::WorkId;

use crate::{Machine, Sink, Source, Trouble};

/// The longest answer: some batches of a broker's largest size.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// The largest batch once it is decompressed.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// How many partitions of a topic are read or written.
const PARTITIONS_MAX: usize = 1_024;

/// Opens a source.
pub(crate) async fn open_source(
    settings: &manifest::KafkaSource,
    machine: &Arc<dyn Machine>,
    position: Option<&[u8]>,
) -> Result<Box<dyn Source>, Trouble> {
    Ok(Box::new(source::KafkaSource::open(settings, machine, position).await?))
}

/// Opens a sink.
pub(crate) async fn open_sink(
    work: &WorkId,
    settings: &manifest::KafkaSink,
    machine: &Arc<dyn Machine>,
    committed: Option<&[u8]>,
) -> Result<Box<dyn Sink>, Trouble> {
    Ok(Box::new(sink::KafkaSink::open(work, settings, machine, committed).await?))
}

/// What a broker has answered, if it is an error.
fn checked(what: &str, code: i16) -> Result<(), Trouble> {
    match ResponseError::try_from_code(code) {
        None => Ok(()),
        Some(error) => Err(Trouble(format!("{what}: {}", said(error)))),
    }
}

/// An error by its name in the protocol, and what to do about it.
fn said(error: ResponseError) -> String {
    let help = match error {
        ResponseError::UnknownTopicOrPartition => "; create the topic",
        ResponseError::TopicAuthorizationFailed
        | ResponseError::GroupAuthorizationFailed
        | ResponseError::TransactionalIdAuthorizationFailed
        | ResponseError::ClusterAuthorizationFailed => "; let the user do it, in the brokers' access lists",
        ResponseError::ProducerFenced | ResponseError::InvalidProducerEpoch => {
            "; somebody else writes under this transactional id, give another `transactional-id` if it is not this sink"
        }
        ResponseError::UnsupportedVersion => "; the brokers must be of Kafka 2.5 or newer",
        _ => "",
    };
    format!("{error:?} ({}){help}", error.code())
}
