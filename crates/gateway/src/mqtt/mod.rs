//! The MQTT way in and out: clients publish to streams and subscribe to what is appended to them, over MQTT 3.1.1 and 5.
//!
//! `session` decides, and is pure: packets in, actions out. `connection` carries them out, one task for each client;
//! `packet` has the words of both versions, by the codec. What happens to messages, who is let in, and where sessions are
//! kept is not known here: whoever starts the [`Server`] supplies [`Topics`], [`Access`] and [`Keep`].
//!
//! Streams are durable, so nothing that is to be sent is queued: a client has a place in each feed, and reads on from there
//! when it returns. Everything that a client decides is bounded: the packet, what is under way to the streams (beyond which
//! its connection is not read), what waits for its acknowledgement (beyond which its feeds are not read).

mod access;
mod connection;
mod deliveries;
mod packet;
mod reason;
mod registry;
mod server;
mod session;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use littoral_model::entry::Position;
use littoral_model::topic::TopicFilter;
use tokio::sync::watch;

pub use access::{Access, Rights, Shown};
pub use deliveries::StoredFeed;
pub use reason::Reason;
pub use registry::SessionKey;
pub use server::{Parts, Server};
pub use session::{Message, Stored};

/// A record as a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in its feed.
    pub place: Position,
    /// Its topic.
    pub topic: Arc<str>,
    /// What it says.
    pub payload: Bytes,
}

/// Records of a feed, from a place on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Records {
    /// The records that are messages, in their order.
    pub records: Vec<Record>,
    /// Where to read on.
    pub next: Position,
}

/// Where a feed begins for somebody who subscribes now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Everything before this is past.
    pub at: Position,
    /// The last record of each topic that is asked for, where the app wants that.
    pub retained: Vec<Record>,
}

/// Why messages were not stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No app has a stream for the topic.
    #[error("no app takes messages of the topic {0}; `[mqtt]` in its manifest says which it takes")]
    NoStream(String),
    /// The stream does not take it.
    #[error("{0}")]
    Refused(String),
    /// It cannot be stored now, or it is not known whether it was.
    #[error("{0}; send it again")]
    Unavailable(String),
}

/// A feed cannot be read now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FeedError(pub String);

/// What topics lead to.
#[async_trait]
pub trait Topics: Send + Sync + 'static {
    /// Appends messages to the streams of their topics; says of each, in their order, whether it is durable.
    async fn publish(&self, messages: Vec<Message>) -> Vec<Result<(), PublishError>>;

    /// The feeds in which there may be messages for a filter.
    fn feeds(&self, filter: &TopicFilter) -> Vec<Arc<dyn Feed>>;

    /// Changes whenever other feeds may be there.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// The records of one partition of a stream as messages of one pattern of topics.
#[async_trait]
pub trait Feed: Send + Sync + 'static {
    /// Tells it from others, also after a restart.
    fn id(&self) -> &str;

    /// Where it begins for somebody who subscribes with these filters.
    ///
    /// # Errors
    /// When its owner cannot be asked.
    async fn begin(&self, filters: &[TopicFilter]) -> Result<Beginning, FeedError>;

    /// Reads on, waiting a while for a first record.
    ///
    /// # Errors
    /// When its owner cannot be asked.
    async fn read(&self, from: Position) -> Result<Records, FeedError>;
}

/// A session could not be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeepError(pub String);

/// Where the sessions of clients are kept that went and may return.
#[async_trait]
pub trait Keep: Send + Sync + 'static {
    /// What is kept of a client, unless its time is over.
    ///
    /// # Errors
    /// When it cannot be read.
    async fn load(&self, session: &SessionKey) -> Result<Option<Stored>, KeepError>;

    /// Keeps a session; it is durable when this returns.
    ///
    /// # Errors
    /// When it cannot be kept: the disk fails, or there are too many.
    async fn save(&self, session: &SessionKey, stored: Stored) -> Result<(), KeepError>;

    /// Forgets a session.
    ///
    /// # Errors
    /// When it cannot be forgotten.
    async fn remove(&self, session: &SessionKey) -> Result<(), KeepError>;
}
