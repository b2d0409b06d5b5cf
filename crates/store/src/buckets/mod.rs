//! Keyed values of apps, on this node alone.
//!
//! Each bucket is a work of the node's log (`bucket`). A write is acknowledged, and shown to readers, once its entry is
//! on disk. The entries since the last time that all values were written anew hold the whole bucket, so that the derived
//! state, which answers reads, can be built from the log again.

mod bucket;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use littoral_model::id::{AppId, BucketName};
use littoral_model::wire::WireError;
use tokio::sync::OnceCell;

use crate::derived::Derived;
use crate::error::StoreError;
use crate::log::Log;
use bucket::Bucket;

/// The most bytes of keys and values in one bucket: what a device can spare, and write anew in about a second.
pub const BUCKET_BYTES_MAX: u64 = 64 << 20;
/// The most keys in one bucket: listing them passes over all that were listed before.
pub const BUCKET_KEYS_MAX: u64 = 100_000;
/// The most keys that one listing answers.
pub const KEYS_LISTED_MAX: usize = 1_000;
/// What the works of buckets begin with in the log.
const WORK_PREFIX: &str = "~bucket/";

/// Keys with their new values; none removes the key.
pub type Changes = Vec<(String, Option<Bytes>)>;

/// Why a bucket does not do what it is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BucketError {
    /// It has no room.
    #[error(
        "the bucket {bucket} would have {keys} keys and {bytes} bytes; {BUCKET_KEYS_MAX} and {BUCKET_BYTES_MAX} are allowed: delete some"
    )]
    Full {
        /// Which bucket.
        bucket: String,
        /// How many keys it would have.
        keys: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// What is to be added to is no number.
    #[error("the value of `{key}` is no decimal number of 64 bits; delete it to begin with 0")]
    NotANumber {
        /// Which value.
        key: String,
    },
    /// The sum is too large.
    #[error("the value of `{key}` would have more than 64 bits; delete it to begin with 0")]
    Overflow {
        /// Which value.
        key: String,
    },
    /// The app was deleted.
    #[error("the bucket is forgotten, because its app was deleted")]
    Forgotten,
    /// What is to be written, or was, is no valid message.
    #[error(transparent)]
    Message(#[from] WireError),
    /// The disk failed, or does not keep up.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Some keys of a bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// In their order.
    pub keys: Vec<String>,
    /// How many keys to skip for the next ones, if there are more.
    pub next: Option<u64>,
}

/// The buckets of a node. A bucket is there from its first use on. Call the methods on a tokio runtime.
pub struct Buckets {
    log: Log,
    derived: Derived,
    open: Mutex<HashMap<String, Arc<OnceCell<Arc<Bucket>>>>>,
}

impl std::fmt::Debug for Buckets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buckets").finish_non_exhaustive()
    }
}

impl Buckets {
    /// The buckets of this log and derived state.
    #[must_use]
    pub fn new(log: Log, derived: Derived) -> Self {
        Self { log, derived, open: Mutex::default() }
    }

    /// The values of keys, in their order; what is not on disk yet is not seen.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn get(
        &self,
        app: &AppId,
        bucket: &BucketName,
        keys: Vec<String>,
    ) -> Result<Vec<Option<Bytes>>, BucketError> {
        self.bucket(app, bucket).await?.get(keys).await
    }

    /// Changes values, all or none of them, and returns once that is on disk. Of one key that is there twice, the last
    /// value counts.
    ///
    /// # Errors
    /// [`BucketError::Full`], or when the disk fails or does not keep up; nothing was changed then.
    pub async fn change(&self, app: &AppId, bucket: &BucketName, changes: Changes) -> Result<(), BucketError> {
        self.bucket(app, bucket).await?.change(changes).await
    }

    /// Adds to a decimal number, which is 0 at first, and returns the sum once it is on disk.
    ///
    /// # Errors
    /// [`BucketError::NotANumber`], [`BucketError::Overflow`], or as for [`change`](Self::change).
    pub async fn increment(
        &self,
        app: &AppId,
        bucket: &BucketName,
        key: String,
        delta: u64,
    ) -> Result<u64, BucketError> {
        self.bucket(app, bucket).await?.increment(key, delta).await
    }

    /// Up to [`KEYS_LISTED_MAX`] keys, after skipping others.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn keys(&self, app: &AppId, bucket: &BucketName, skip: u64) -> Result<Keys, BucketError> {
        self.bucket(app, bucket).await?.keys(skip).await
    }

    /// Forgets all buckets of an app. Who still uses one gets [`BucketError::Forgotten`].
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn forget(&self, app: &AppId) -> Result<(), BucketError> {
        let prefix = format!("{WORK_PREFIX}{app}/");
        for work in self.log.works().into_iter().filter(|work| work.starts_with(&prefix)) {
            self.open(work.clone()).await?.forget().await?;
            self.lock().remove(&work);
        }
        Ok(())
    }

    /// The apps that have buckets here.
    #[must_use]
    pub fn apps(&self) -> BTreeSet<String> {
        let works = self.log.works().into_iter();
        let apps = works.filter_map(|work| Some(work.strip_prefix(WORK_PREFIX)?.rsplit_once('/')?.0.to_owned()));
        apps.collect()
    }

    async fn bucket(&self, app: &AppId, bucket: &BucketName) -> Result<Arc<Bucket>, BucketError> {
        self.open(format!("{WORK_PREFIX}{app}/{bucket}")).await
    }

    async fn open(&self, work: String) -> Result<Arc<Bucket>, BucketError> {
        let slot = Arc::clone(self.lock().entry(work.clone()).or_default());
        let (log, derived) = (self.log.clone(), self.derived.clone());
        let opened = slot.get_or_try_init(|| blocking(move || Bucket::open(work, log, derived).map(Arc::new)));
        opened.await.cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<OnceCell<Arc<Bucket>>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does something that waits for the disk, away from the thread that runs guests.
async fn blocking<T, E>(act: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, BucketError>
where
    T: Send + 'static,
    E: Into<BucketError> + Send + 'static,
{
    match tokio::task::spawn_blocking(act).await {
        Ok(done) => done.map_err(Into::into),
        // The runtime is shut down.
        Err(_) => Err(StoreError::Closed.into()),
    }
}

#[cfg(test)]
mod tests;
