//! Who is let in, and what they may do.

use bytes::Bytes;
use littoral_model::topic::TopicFilter;

use super::reason::Reason;

/// What a client shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// The user that it says it is.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Bytes>,
    /// Its certificate, which is one of those that are let in.
    pub certificate: Option<Bytes>,
}

/// Who is let in.
pub trait Access: Send + Sync + 'static {
    /// What a client may do.
    ///
    /// # Errors
    /// When it is not let in.
    fn admit(&self, shown: &Shown) -> Result<Rights, Reason>;
}

/// What a client may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Who it is; sessions are of a user.
    pub user: String,
    /// What it may publish to.
    pub publish: Vec<TopicFilter>,
    /// What it may receive.
    pub subscribe: Vec<TopicFilter>,
}

impl Rights {
    pub(crate) fn may_publish(&self, topic: &str) -> bool {
        self.publish.iter().any(|filter| filter.matches(topic))
    }

    pub(crate) fn may_subscribe(&self, asked: &TopicFilter) -> bool {
        self.subscribe.iter().any(|filter| filter.overlaps(asked))
    }

    pub(crate) fn may_receive(&self, topic: &str) -> bool {
        self.subscribe.iter().any(|filter| filter.matches(topic))
    }
}
