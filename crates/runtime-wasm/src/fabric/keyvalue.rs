//! `wasi:keyvalue`: buckets of the app on this node.

use bytes::Bytes;
use littoral_model::id::BucketName;
use wasmtime::component::Resource;

use super::bindings::proposals::wasi::keyvalue::{atomics, batch, store};
use super::grants::Wanted;
use super::{Attached, BucketError, Changes};
use crate::host::Host;

/// The longest key of a bucket, in bytes.
const KEY_BYTES_MAX: usize = 1 << 10;
/// The longest value, in bytes.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// How many keys one call may name: what it does is one entry of the log.
const KEYS_MAX: usize = 1_000;
/// How many bytes the values of one call may have, written or read.
const VALUES_BYTES_MAX: usize = 4 << 20;

/// A bucket that a guest has opened.
#[derive(Clone)]
#[allow(unreachable_pub, reason = "the generated bindings export it")]
pub struct Bucket {
    name: BucketName,
    attached: Attached,
}

type Answer<T> = wasmtime::Result<Result<T, store::Error>>;

impl store::Host for Host {
    async fn open(&mut self, identifier: String) -> Answer<Resource<Bucket>> {
        let Ok((attached, name)) = self.granted(Wanted::KeyValue, &self.access().keyvalue, &identifier) else {
            return Ok(Err(store::Error::AccessDenied));
        };
        let bucket = Bucket { name: name.clone(), attached: attached.clone() };
        Ok(Ok(self.table().push(bucket)?))
    }
}

impl store::HostBucket for Host {
    async fn get(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<Option<Vec<u8>>> {
        let bucket = self.bucket(&bucket)?;
        let values = read(&bucket, vec![key]).await;
        Ok(values.map(|values| values.into_iter().next().flatten().map(Vec::from)))
    }

    async fn set(&mut self, bucket: Resource<Bucket>, key: String, value: Vec<u8>) -> Answer<()> {
        let bucket = self.bucket(&bucket)?;
        Ok(change(&bucket, vec![(key, Some(value.into()))]).await)
    }

    async fn delete(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<()> {
        let bucket = self.bucket(&bucket)?;
        Ok(change(&bucket, vec![(key, None)]).await)
    }

    async fn exists(&mut self, bucket: Resource<Bucket>, key: String) -> Answer<bool> {
        let bucket = self.bucket(&bucket)?;
        let values = read(&bucket, vec![key]).await;
        Ok(values.map(|values| values.iter().any(Option::is_some)))
    }

    async fn list_keys(&mut self, bucket: Resource<Bucket>, cursor: Option<u64>) -> Answer<store::KeyResponse> {
        let Bucket { name, attached } = self.bucket(&bucket)?;
        let found = attached.fabric.keys(&attached.place, &name, cursor.unwrap_or_default()).await;
        Ok(found.map(|found| store::KeyResponse { keys: found.keys, cursor: found.next }).map_err(other))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.table().delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for Host {
    async fn increment(&mut self, bucket: Resource<Bucket>, key: String, delta: u64) -> Answer<u64> {
        let Bucket { name, attached } = self.bucket(&bucket)?;
        if let Err(error) = check([(&key, 0)]) {
            return Ok(Err(error));
        }
        Ok(attached.fabric.increment(&attached.place, &name, key, delta).await.map_err(other))
    }
}

impl batch::Host for Host {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> Answer<Vec<Option<(String, Vec<u8>)>>> {
        let bucket = self.bucket(&bucket)?;
        let values = match read(&bucket, keys.clone()).await {
            Ok(values) => values,
            Err(error) => return Ok(Err(error)),
        };
        let pairs = keys.into_iter().zip(values).map(|(key, value)| Some((key, Vec::from(value?))));
        Ok(Ok(pairs.collect()))
    }

    async fn set_many(&mut self, bucket: Resource<Bucket>, key_values: Vec<(String, Vec<u8>)>) -> Answer<()> {
        let bucket = self.bucket(&bucket)?;
        Ok(change(&bucket, key_values.into_iter().map(|(key, value)| (key, Some(value.into()))).collect()).await)
    }

    async fn delete_many(&mut self, bucket: Resource<Bucket>, keys: Vec<String>) -> Answer<()> {
        let bucket = self.bucket(&bucket)?;
        Ok(change(&bucket, keys.into_iter().map(|key| (key, None)).collect()).await)
    }
}

impl Host {
    fn bucket(&mut self, bucket: &Resource<Bucket>) -> wasmtime::Result<Bucket> {
        Ok(self.table().get(bucket)?.clone())
    }
}

async fn read(bucket: &Bucket, keys: Vec<String>) -> Result<Vec<Option<Bytes>>, store::Error> {
    check(keys.iter().map(|key| (key, 0)))?;
    let Bucket { name, attached } = bucket;
    let values = attached.fabric.get(&attached.place, name, keys).await.map_err(other)?;
    let bytes: usize = values.iter().flatten().map(Bytes::len).sum();
    if bytes > VALUES_BYTES_MAX {
        return Err(store::Error::Other(format!(
            "the values have {bytes} bytes, more than {VALUES_BYTES_MAX}; ask for fewer keys at once"
        )));
    }
    Ok(values)
}

async fn change(bucket: &Bucket, changes: Changes) -> Result<(), store::Error> {
    check(changes.iter().map(|(key, value)| (key, value.as_ref().map_or(0, Bytes::len))))?;
    let Bucket { name, attached } = bucket;
    attached.fabric.change(&attached.place, name, changes).await.map_err(other)
}

/// Whether keys and the sizes of their values are within the bounds.
fn check<'k>(pairs: impl IntoIterator<Item = (&'k String, usize)>) -> Result<(), store::Error> {
    let (mut count, mut bytes) = (0, 0);
    for (key, value) in pairs {
        if !(1..=KEY_BYTES_MAX).contains(&key.len()) {
            return Err(store::Error::Other(format!("a key has 1 to {KEY_BYTES_MAX} bytes, not {}", key.len())));
        }
        if value > VALUE_BYTES_MAX {
            return Err(store::Error::Other(format!("a value has {value} bytes; {VALUE_BYTES_MAX} are allowed")));
        }
        count += 1;
        bytes += value;
    }
    if count > KEYS_MAX || bytes > VALUES_BYTES_MAX {
        return Err(store::Error::Other(format!(
            "{count} keys with {bytes} bytes of values are too many; {KEYS_MAX} and {VALUES_BYTES_MAX} are allowed at once"
        )));
    }
    Ok(())
}

fn other(error: BucketError) -> store::Error {
    store::Error::Other(error.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_bounded() {
        let key = |bytes: usize| "k".repeat(bytes);
        assert!(check([(&key(KEY_BYTES_MAX), VALUE_BYTES_MAX)]).is_ok());
        assert!(check([(&key(0), 0)]).is_err());
        assert!(check([(&key(KEY_BYTES_MAX + 1), 0)]).is_err());
        assert!(check([(&key(1), VALUE_BYTES_MAX + 1)]).is_err());
        assert!(check(vec![(&key(1), 0); KEYS_MAX + 1]).is_err());
        assert!(check(vec![(&key(1), VALUE_BYTES_MAX); 5]).is_err());
    }
}
