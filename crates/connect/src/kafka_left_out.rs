//! What a build without the feature `kafka` says of sources and sinks of Kafka.

use std::sync::Arc;

use littoral_model::manifest;
use littoral_model::work::WorkId;

use crate::{Machine, Sink, Source, Trouble};

fn left_out() -> Trouble {
    Trouble(
        "this node was built without Kafka: run one that is built with `cargo build --package littoral-cli --features kafka`, and say which \
         by `node` or `placement`"
            .to_owned(),
    )
}

pub(crate) async fn open_source(
    _: &manifest::KafkaSource,
    _: &Arc<dyn Machine>,
    _: Option<&[u8]>,
) -> Result<Box<dyn Source>, Trouble> {
    Err(left_out())
}

pub(crate) async fn open_sink(
    _: &WorkId,
    _: &manifest::KafkaSink,
    _: &Arc<dyn Machine>,
    _: Option<&[u8]>,
) -> Result<Box<dyn Sink>, Trouble> {
    Err(left_out())
}
