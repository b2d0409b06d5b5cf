//! Room on the disk: what the owner of a work lets go of, and who waits while it may not.
//!
//! An entry is needed until it is in the derived state, every consumer has committed that it has it, and every replica that
//! keeps up holds it. What is not needed goes when it is too old, or when a work with a limit (`WorkConfig::bytes_max`) has
//! no room for the next entry. While such a work holds nothing but what a consumer still needs, publications are turned down
//! (for replicas and the derived state, which catch up, they wait), and what this node appends itself waits: nothing that was acknowledged is dropped, and the disk does not fill.

use std::time::Duration;

use littoral_model::id::NodeId;
use littoral_model::work::WorkId;

use super::owner::{Inner, Ownership};
use super::{Retention, WriteError};
use crate::error::StoreError;
use crate::log::record_size;

/// When room is made, one part in so many of the limit is freed, for each time costs a record of the log.
const FREED_FRACTION: u64 = 16;
/// How long at least whoever waits for room waits before looking again: what it is waiting for may change all the time.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Whether there is room for an entry.
pub(super) enum Room {
    /// There is.
    Enough,
    /// What is held is not in the derived state, or not on all replicas, but will be.
    Soon,
    /// A consumer has not read the oldest yet.
    Full { held: u64, bytes_max: u64, consumer: WorkId },
}

impl Inner {
    /// The first index that is needed here or by a replica. One that is not in sync yet is given the state where entries are gone:
    /// it holds up no publication.
    fn needed_by_copies(&self, applied: u64, makes_room: bool) -> u64 {
        let counts = |node: &NodeId| !makes_room || self.in_sync.contains(node) || self.asked.contains(node);
        let followers = self.followers.iter().filter(|(node, follower)| !follower.silent && counts(node));
        followers.map(|(_, follower)| follower.matched + 1).fold(applied + 1, u64::min)
    }

    /// The first index that a consumer needs, and which.
    fn needed_by_consumers(&self) -> Option<(u64, &WorkId)> {
        let consumers = self.config.iter().flat_map(|config| &config.consumers);
        let place = |consumer| self.consumers.get(consumer).map_or(0, |position| position.index);
        consumers.map(|consumer| (place(consumer), consumer)).min_by_key(|(index, _)| *index)
    }

    fn needed(&self, applied: u64, makes_room: bool) -> u64 {
        let copies = self.needed_by_copies(applied, makes_room);
        self.needed_by_consumers().map_or(copies, |(index, _)| index.min(copies))
    }

    fn bytes_max(&self) -> Option<u64> {
        self.config.as_ref().and_then(|config| config.bytes_max)
    }
}

impl Ownership {
    /// Up to below which index the log may forget now; none while it is not known how the work is kept. `old` says
    /// which entries a retention allows to forget.
    pub(super) fn forgettable(&self, old: impl FnOnce(Retention) -> u64) -> Option<u64> {
        let mut inner = self.inner();
        let config = inner.config.as_ref()?;
        let crowded = config.bytes_max.map_or(0, |bytes_max| self.shared.log.first_within(&self.name, bytes_max));
        let allowed = config.retention.map_or(u64::MAX, |retention| old(retention).max(crowded));
        let below = inner.needed(self.applied(), false).min(allowed);
        inner.trim_below = inner.trim_below.max(below);
        Some(below)
    }

    /// Looks whether there is room for an entry with a payload of so many bytes; makes some where that may be.
    pub(super) fn room(&self, payload_bytes: usize) -> Result<Room, StoreError> {
        let mut inner = self.inner();
        let Some(bytes_max) = inner.bytes_max() else { return Ok(Room::Enough) };
        let (log, name) = (&self.shared.log, &self.name);
        let wanted = u64::from(record_size(u32::try_from(payload_bytes).unwrap_or(u32::MAX)));
        let held = log.bytes_held(name);
        // One that is larger than the limit is taken when nothing else is held.
        if held == 0 || held + wanted <= bytes_max {
            return Ok(Room::Enough);
        }
        let left = bytes_max.saturating_sub(wanted);
        let enough = log.first_within(name, left);
        let applied = self.applied();
        let needed = inner.needed(applied, true);
        if needed >= enough {
            let generous = log.first_within(name, left.saturating_sub(bytes_max / FREED_FRACTION));
            let below = generous.min(needed);
            inner.trim_below = inner.trim_below.max(below);
            drop(inner);
            log.trim(name, below)?;
            return Ok(Room::Enough);
        }
        match inner.needed_by_consumers() {
            Some((index, consumer)) if index < enough => Ok(Room::Full { held, bytes_max, consumer: consumer.clone() }),
            _ => {
                if applied < inner.committed {
                    self.shared.apply_now.notify_one();
                }
                Ok(Room::Soon)
            }
        }
    }

    /// Waits until there is room for an entry. What comes from outside does not wait for consumers or for space on the disk,
    /// which can take days.
    pub(super) async fn wait_for_room(&self, payload_bytes: usize, from_outside: bool) -> Result<(), WriteError> {
        loop {
            // Enlisted before looking, so that room that comes in between is not missed.
            let changed = self.room_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if from_outside {
                self.shared.log.check_space()?;
            }
            match self.room(payload_bytes)? {
                Room::Enough => return Ok(()),
                Room::Full { held, bytes_max, consumer } if from_outside => {
                    let (work, consumer) = (self.id.clone(), Box::new(consumer));
                    return Err(WriteError::Full { work, held, bytes_max, consumer });
                }
                Room::Full { .. } | Room::Soon => {}
            }
            tokio::select! {
                () = changed => tokio::time::sleep(LOOK_AGAIN).await,
                () = self.lost() => return Err(self.fenced()),
            }
        }
    }
}
