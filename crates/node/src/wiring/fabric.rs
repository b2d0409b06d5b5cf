//! What functions are given of their fabric: calls of one another, publications, buckets.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::id::{BucketName, StreamName};
use littoral_runtime::fabric::{
    BucketError, CallError, Changes, Fabric, Keys, Message, Outgoing, Payload, Place, PublishError,
};
use littoral_store::buckets::Buckets;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::admin::types::{AdminError, AdminErrorKind, PublishRecord};
use crate::functions::Functions;
use crate::publish::Publisher;

/// The fabric as the functions of this node see it.
pub(crate) struct NodeFabric {
    buckets: Arc<Buckets>,
    /// Whatever talks to other nodes runs there, not on the threads that run functions.
    control: Handle,
    /// Functions need the fabric to be loaded, and the fabric needs them to be called: these come later.
    parts: OnceLock<(Weak<Functions>, Arc<Publisher>)>,
}

impl NodeFabric {
    pub(crate) fn new(buckets: Arc<Buckets>) -> Self {
        Self { buckets, control: Handle::current(), parts: OnceLock::new() }
    }

    /// The rest is there. Until then, functions are told to try again.
    pub(crate) fn is_ready(&self, functions: &Arc<Functions>, publisher: &Arc<Publisher>) {
        // Set once, while the node starts.
        let _ = self.parts.set((Arc::downgrade(functions), Arc::clone(publisher)));
    }

    fn functions(&self) -> Result<Arc<Functions>, CallError> {
        let functions = self.parts.get().and_then(|(functions, _)| functions.upgrade());
        functions.ok_or_else(|| CallError::Unavailable("this node is starting or stopping; try again".to_owned()))
    }
}

#[async_trait]
impl Fabric for NodeFabric {
    async fn call(&self, from: &Place, call: Outgoing) -> Result<Payload, CallError> {
        let functions = self.functions()?;
        let (app, within, called) = (from.app.clone(), call.within, call.function.clone());
        let deadline = Instant::now() + within;
        let calling = functions.call_between(&app, call, deadline);
        let called = tokio::time::timeout_at(deadline.into(), calling).await.map_err(|_| called);
        called.unwrap_or_else(|function| {
            Err(CallError::TimedOut(format!("{function} did not answer within {within:?}; it may have run")))
        })
    }

    async fn publish(&self, from: &Place, stream: &StreamName, messages: Vec<Message>) -> Result<u64, PublishError> {
        let starting = || PublishError::Unavailable("this node is starting; try again".to_owned());
        let publisher = self.parts.get().map(|(_, publisher)| Arc::clone(publisher)).ok_or_else(starting)?;
        let (app, stream) = (from.app.clone(), stream.clone());
        let record =
            |message: Message| PublishRecord { key: message.key, time_us: message.time_us, value: message.value };
        let records = messages.into_iter().map(record).collect();
        let publishing = self.control.spawn(async move { publisher.publish(&app, &stream, records, None).await });
        match AbortOnDropHandle::new(publishing).await {
            Ok(Ok(published)) => Ok(published.stored),
            Ok(Err(error)) => Err(publish_error(&error)),
            Err(_) => Err(PublishError::Unavailable("this node is stopping".to_owned())),
        }
    }

    async fn get(
        &self,
        from: &Place,
        bucket: &BucketName,
        keys: Vec<String>,
    ) -> Result<Vec<Option<Bytes>>, BucketError> {
        self.buckets.get(&from.app, bucket, keys).await.map_err(bucket_error)
    }

    async fn change(&self, from: &Place, bucket: &BucketName, changes: Changes) -> Result<(), BucketError> {
        self.buckets.change(&from.app, bucket, changes).await.map_err(bucket_error)
    }

    async fn increment(&self, from: &Place, bucket: &BucketName, key: String, delta: u64) -> Result<u64, BucketError> {
        self.buckets.increment(&from.app, bucket, key, delta).await.map_err(bucket_error)
    }

    async fn keys(&self, from: &Place, bucket: &BucketName, skip: u64) -> Result<Keys, BucketError> {
        let found = self.buckets.keys(&from.app, bucket, skip).await.map_err(bucket_error)?;
        Ok(Keys { keys: found.keys, next: found.next })
    }
}

fn publish_error(error: &AdminError) -> PublishError {
    let text = error.message.clone();
    match error.kind {
        AdminErrorKind::NotFound => PublishError::NotFound(text),
        AdminErrorKind::Invalid | AdminErrorKind::Refused => PublishError::Invalid(text),
        AdminErrorKind::Unavailable | AdminErrorKind::Conflict | AdminErrorKind::Internal => {
            PublishError::Unavailable(text)
        }
    }
}

fn bucket_error(error: littoral_store::buckets::BucketError) -> BucketError {
    BucketError(error.to_string())
}
