//! Buckets: keyed values of the app that outlive the function, durable on the node that runs it (`wasi:keyvalue`).
//!
//! Granted by `keyvalue = ["NAME"]`. A function that runs on several nodes has a bucket of the same name on each.
//!
//! ```no_run
//! use littoral_sdk::keyvalue::Bucket;
//!
//! fn visits() -> littoral_sdk::Result<String> {
//!     let bucket = Bucket::open("counters")?;
//!     Ok(format!("visit {}", bucket.increment("visits", 1)?))
//! }
//! ```

use crate::Result;

/// A bucket of the app.
#[derive(Debug)]
pub struct Bucket(component::Bucket);

impl Bucket {
    /// Opens a bucket; it is there from its first use on.
    ///
    /// # Errors
    /// When it is not granted.
    pub fn open(name: &str) -> Result<Self> {
        component::open(name).map(Self)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When the key is empty or has more than 1 KiB, or the disk fails.
    pub fn get(&self, key: &str) -> Result<Option<Vec<u8>>> {
        component::get(&self.0, key)
    }

    /// Sets a value; it is on disk when this returns.
    ///
    /// # Errors
    /// When the value has more than 1 MiB, the bucket more than 64 MiB or 100,000 keys, or the disk fails.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        component::set(&self.0, key, value)
    }

    /// Removes a key, if it is there.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn delete(&self, key: &str) -> Result<()> {
        component::delete(&self.0, key)
    }

    /// Adds to a decimal number, which is 0 at first; answers the sum. Who adds at the same time is counted, too.
    ///
    /// # Errors
    /// When the value is no decimal number, or the disk fails.
    pub fn increment(&self, key: &str, delta: u64) -> Result<u64> {
        component::increment(&self.0, key, delta)
    }

    /// Some keys, and the cursor for the next ones, if there are more.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn keys(&self, cursor: Option<u64>) -> Result<(Vec<String>, Option<u64>)> {
        component::keys(&self.0, cursor)
    }
}

#[cfg(target_arch = "wasm32")]
mod component {
    use crate::fabric_bindings::wasi::keyvalue::{atomics, store};
    use crate::{Error, Result};

    pub(super) use store::Bucket;

    pub(super) fn open(name: &str) -> Result<Bucket> {
        store::open(name).map_err(|error| match error {
            store::Error::AccessDenied => {
                Error::new(format!("the bucket `{name}` is not granted; the function's log says what is missing"))
            }
            error => text(error),
        })
    }

    pub(super) fn get(bucket: &Bucket, key: &str) -> Result<Option<Vec<u8>>> {
        bucket.get(key).map_err(text)
    }

    pub(super) fn set(bucket: &Bucket, key: &str, value: &[u8]) -> Result<()> {
        bucket.set(key, value).map_err(text)
    }

    pub(super) fn delete(bucket: &Bucket, key: &str) -> Result<()> {
        bucket.delete(key).map_err(text)
    }

    pub(super) fn increment(bucket: &Bucket, key: &str, delta: u64) -> Result<u64> {
        atomics::increment(bucket, key, delta).map_err(text)
    }

    pub(super) fn keys(bucket: &Bucket, cursor: Option<u64>) -> Result<(Vec<String>, Option<u64>)> {
        bucket.list_keys(cursor).map(|response| (response.keys, response.cursor)).map_err(text)
    }

    fn text(error: store::Error) -> Error {
        match error {
            store::Error::NoSuchStore => Error::new("there is no such bucket"),
            store::Error::AccessDenied => Error::new("the bucket is not granted"),
            store::Error::Other(text) => Error::new(text),
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod component {
    //! A test on the host has no buckets.

    use crate::{Error, Result};

    /// Never made.
    #[derive(Debug)]
    pub(super) enum Bucket {}

    pub(super) fn open(name: &str) -> Result<Bucket> {
        Err(Error::new(format!(
            "there is no bucket `{name}` outside of a component; put what uses it behind a trait of your own"
        )))
    }

    pub(super) fn get(bucket: &Bucket, _: &str) -> Result<Option<Vec<u8>>> {
        match *bucket {}
    }

    pub(super) fn set(bucket: &Bucket, _: &str, _: &[u8]) -> Result<()> {
        match *bucket {}
    }

    pub(super) fn delete(bucket: &Bucket, _: &str) -> Result<()> {
        match *bucket {}
    }

    pub(super) fn increment(bucket: &Bucket, _: &str, _: u64) -> Result<u64> {
        match *bucket {}
    }

    pub(super) fn keys(bucket: &Bucket, _: Option<u64>) -> Result<(Vec<String>, Option<u64>)> {
        match *bucket {}
    }
}
