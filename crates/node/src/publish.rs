//! Appends records from outside to a stream, wherever its partitions are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use littoral_flow::batch;
use littoral_flow::stats::now_us;
use littoral_mesh::{Mesh, Method, Priority};
use littoral_model::entry::{PORT_MAIN, PortBatch, ProducerSequence};
use littoral_model::id::{AppId, SiteId, StreamName};
use littoral_model::wire::{PublishReply, PublishRequest};
use littoral_model::work::{WorkId, WorkKind};
use littoral_store::replica::Works;
use tokio::time::Instant;

use crate::admin::types::{AdminError, PublishRecord, Published};
use crate::directory::Directory;
use crate::gathered::Gathered;
use crate::intent::IntentStore;
use crate::wiring::ask;

/// How long a publication is tried: longer than it takes to notice that an owner died and to have another one.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long one owner may take.
const TRY: Duration = Duration::from_secs(8);
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// Publishes to streams.
pub(crate) struct Publisher {
    pub(crate) site: SiteId,
    pub(crate) mesh: Arc<dyn Mesh>,
    pub(crate) works: Arc<Works>,
    pub(crate) intent: Arc<IntentStore>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) gathered: Gathered,
}

impl Publisher {
    /// Appends records; answers once all are durable. Each goes to the partition of its key: among those of this node's
    /// site if it has any, so that what a sensor says stays near it.
    pub(crate) async fn publish(
        self: &Arc<Self>,
        app: &AppId,
        stream: &StreamName,
        records: Vec<PublishRecord>,
        producer: Option<ProducerSequence>,
    ) -> Result<Published, AdminError> {
        let partitions = self.partitions(app, stream)?;
        let now = now_us();
        let mut published = Published { stored: 0, repeated: 0 };
        let spread = spread(&self.site, &partitions, records, now);
        if producer.is_none() {
            let count: u64 = spread.values().map(|rows| rows.len() as u64).sum();
            let stored = join_all(spread.into_iter().map(|(work, rows)| self.store_gathered(work, rows, now))).await;
            let (stored, failed): (Vec<_>, Vec<_>) = stored.into_iter().partition(Result::is_ok);
            published.stored = stored.into_iter().flatten().sum();
            return match failed.into_iter().find_map(Result::err) {
                None => Ok(published),
                Some(error) => Err(partly(error, (published.stored, count))),
            };
        }
        for (work, rows) in spread {
            let count = rows.len() as u64;
            let batch = encode(&rows, now)?;
            let request = PublishRequest { work, batch, producer: producer.clone() };
            let repeated = self.send(request).await?;
            published.stored += count;
            published.repeated += if repeated { count } else { 0 };
        }
        Ok(published)
    }

    /// Stores rows together with what others publish to the same partition at the same time; how many these were.
    async fn store_gathered(self: &Arc<Self>, work: WorkId, rows: Vec<Row>, now: i64) -> Result<u64, AdminError> {
        let count = rows.len() as u64;
        let (stored, turn) = self.gathered.add(&work, rows, now)?;
        if turn {
            // In a task of its own: it goes on with what others have published, whoever waits for this.
            let this = Arc::clone(self);
            tokio::spawn(async move {
                this.gathered.in_turns(&work, |rows, oldest| this.store(&work, rows, oldest)).await;
            });
        }
        let stopped = || unknown("the node is stopping");
        stored.await.unwrap_or_else(|_| Err(stopped())).map(|()| count)
    }

    async fn store(&self, work: &WorkId, rows: Vec<Row>, oldest: i64) -> Result<(), AdminError> {
        let batch = encode(&rows, oldest)?;
        // They are copied by now.
        drop(rows);
        self.send(PublishRequest { work: work.clone(), batch, producer: None }).await.map(drop)
    }

    /// The partitions of a stream, in their order.
    pub(crate) fn partitions(&self, app: &AppId, stream: &StreamName) -> Result<Vec<WorkId>, AdminError> {
        let apps = self.intent.now();
        let known = apps.apps.get(app).ok_or_else(|| {
            AdminError::not_found(format!("there is no app {}", app.app))
                .hint("`littoral get apps` lists those there are")
        })?;
        let of_stream = |work: &&WorkId| work.kind == WorkKind::Stream && work.name == stream.as_str();
        let mut partitions: Vec<WorkId> =
            known.placement.works.iter().map(|placed| &placed.work).filter(of_stream).cloned().collect();
        partitions.sort_by_key(|work| work.partition);
        if partitions.is_empty() {
            return Err(AdminError::not_found(format!("there is no stream {}/{stream}", app.app))
                .hint("`littoral get streams` lists those there are"));
        }
        Ok(partitions)
    }

    /// Sends to whoever owns the partition until it is stored. Whether it had been before.
    async fn send(&self, request: PublishRequest) -> Result<bool, AdminError> {
        let deadline = Instant::now() + DEADLINE;
        // Without a producer's number a repeat could not be told: what may have been stored is not sent again.
        let may_repeat = request.producer.is_some();
        loop {
            let reason = match self.try_send(&request).await {
                Ok(PublishReply::Stored { repeated, .. }) => return Ok(repeated),
                Ok(PublishReply::Refused(reason)) => return Err(AdminError::refused(reason)),
                // Not tried again here: it may take long, and whoever publishes is to know.
                Ok(PublishReply::Full(reason)) => {
                    let hint = if may_repeat {
                        "publish it again later, with the same number"
                    } else {
                        "nothing of it was stored; publish it again later"
                    };
                    return Err(AdminError::unavailable(reason).hint(hint));
                }
                Ok(PublishReply::NotOwner(_)) => "the partition is moving to another owner".to_owned(),
                Err(Unsent::Nowhere(reason)) => reason,
                Err(Unsent::Unknown(reason)) if may_repeat => reason,
                Err(Unsent::Unknown(reason)) => {
                    return Err(unknown(&reason));
                }
            };
            if Instant::now() >= deadline {
                return Err(AdminError::unavailable(format!("{}: {reason}", request.work)).hint("try again"));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn try_send(&self, request: &PublishRequest) -> Result<PublishReply, Unsent> {
        let nobody = || Unsent::Nowhere(format!("nobody at {} can be reached", request.work.site));
        let owner = self.directory.owner(&request.work).await.ok_or_else(nobody)?;
        if owner == *self.mesh.node() {
            return Ok(self.works.publish(request.clone()).await);
        }
        if !self.mesh.members().borrow().contains_key(&owner) {
            // A call would wait for it to return, while the work may have another owner by now.
            self.directory.forget(&request.work);
            return Err(Unsent::Nowhere(format!("{owner}, which owns {}, is not reachable", request.work)));
        }
        match ask(&self.mesh, &owner, Method::Publish, Priority::Data, TRY, request).await {
            Ok(PublishReply::NotOwner(hint)) => {
                self.directory.forget(&request.work);
                if let Some(assignment) = &hint {
                    self.directory.learn(assignment);
                }
                Ok(PublishReply::NotOwner(hint))
            }
            Ok(reply) => Ok(reply),
            Err(error) => {
                self.directory.forget(&request.work);
                match error {
                    littoral_mesh::CallError::Refused { .. } | littoral_mesh::CallError::Version { .. } => {
                        Err(Unsent::Nowhere(error.to_string()))
                    }
                    error => Err(Unsent::Unknown(error.to_string())),
                }
            }
        }
    }
}

/// A record: its key, its time in microseconds since 1970, and its value.
pub(crate) type Row = (Option<String>, i64, String);

/// Which partition each record goes to. Depends on nothing that changes by itself, so that a repeat goes where the first
/// try went, and records with the same key that are published in one site keep their order.
fn spread(site: &SiteId, partitions: &[WorkId], records: Vec<PublishRecord>, now: i64) -> BTreeMap<WorkId, Vec<Row>> {
    let near: Vec<&WorkId> = partitions.iter().filter(|work| work.site == *site).collect();
    let candidates = if near.is_empty() { partitions.iter().collect() } else { near };
    let mut spread: Vec<Vec<Row>> = candidates.iter().map(|_| Vec::new()).collect();
    for record in records {
        let keyed = record.key.as_deref().unwrap_or(&record.value);
        let place = match candidates.len() {
            0 | 1 => 0,
            count => crc32c::crc32c(keyed.as_bytes()) as usize % count,
        };
        let row = (record.key, record.time_us.unwrap_or(now), record.value);
        if let Some(rows) = spread.get_mut(place) {
            rows.push(row);
        }
    }
    let filled = candidates.into_iter().zip(spread).filter(|(_, rows)| !rows.is_empty());
    filled.map(|(work, rows)| (work.clone(), rows)).collect()
}

/// Says that nobody knows whether records were stored.
fn unknown(reason: &str) -> AdminError {
    let text = format!("it is not known whether the records were stored: {reason}");
    AdminError::unavailable(text).hint("publish with a producer and a sequence: then a repeat is dropped")
}

/// What failed in one partition, with how many records others have stored.
fn partly(error: AdminError, (stored, count): (u64, u64)) -> AdminError {
    if stored == 0 {
        return error;
    }
    let text = format!("{stored} of {count} records were stored, those of other partitions not: {}", error.message);
    AdminError::new(error.kind, text)
        .hint("publish with a producer and a sequence: then a repeat of all is dropped where it was stored")
}

/// Why a publication has no answer.
enum Unsent {
    /// It certainly had no effect.
    Nowhere(String),
    /// It may have been stored.
    Unknown(String),
}

fn encode(rows: &[Row], now: i64) -> Result<PortBatch, AdminError> {
    let records = batch::records(rows).map_err(|error| AdminError::invalid(error.to_string()))?;
    batch::encode(PORT_MAIN, &records, Some(now)).map_err(|error| AdminError::invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn records(count: usize) -> Vec<PublishRecord> {
        let record = |number: usize| PublishRecord {
            key: Some(format!("k{}", number % 50)),
            time_us: None,
            value: "v".to_owned(),
        };
        (0..count).map(record).collect()
    }

    fn partitions(sites: &[&str]) -> Vec<WorkId> {
        let work = |(place, site): (usize, &&str)| format!("default/a/stream/s/{place}@{site}").parse().unwrap();
        sites.iter().enumerate().map(work).collect()
    }

    #[test]
    fn keys_spread_over_all_partitions_of_a_site_and_stay_together() {
        let hall = SiteId::new("hall").unwrap();
        let spread = spread(&hall, &partitions(&["hall", "hall", "hall", "hall"]), records(1_000), 0);
        assert_eq!(spread.len(), 4);
        for key in 0..50 {
            let holds = |rows: &&Vec<Row>| rows.iter().any(|row| row.0.as_deref() == Some(&format!("k{key}")));
            assert_eq!(spread.values().filter(holds).count(), 1, "k{key}");
        }
    }

    #[test]
    fn what_is_published_in_a_site_with_partitions_stays_there() {
        let (device, cloud) = (SiteId::new("machine-1").unwrap(), SiteId::new("cloud").unwrap());
        let all = partitions(&["machine-1", "machine-2"]);
        assert_eq!(spread(&device, &all, records(100), 0).keys().collect::<Vec<_>>(), [&all[0]]);
        assert_eq!(spread(&cloud, &all, records(100), 0).len(), 2);
    }
}
