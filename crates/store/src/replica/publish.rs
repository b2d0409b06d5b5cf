//! Rows from outside, each publication once.

use std::collections::{BTreeMap, HashMap};

use littoral_model::entry::{Commit, PORT_MAIN, PortBatch, ProducerSequence};
use littoral_model::wire::{PublishReply, PublishRequest};
use littoral_model::work::WorkKind;

use super::WriteError;
use super::keys::{self, Published};
use super::owner::{Appended, Ownership};
use crate::error::StoreError;

/// How many producers of a work are remembered. Beyond that, the one that has not published for longest is forgotten;
/// if it repeats its latest publication then, that is stored twice.
const PRODUCERS_MAX: usize = 4_096;
/// The longest name of a producer.
const PRODUCER_BYTES_MAX: usize = 128;

/// The latest publication of each producer.
#[derive(Default)]
pub(super) struct Producers {
    by_name: HashMap<String, Published>,
    /// An entry holds one publication.
    by_index: BTreeMap<u64, String>,
}

/// Why a publication is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TurnedDown {
    /// It, or a later one, is stored in this entry.
    Repeated(u64),
    /// The producer has started anew since, with this epoch.
    Replaced(u64),
}

impl Producers {
    pub(super) fn restore(&mut self, published: BTreeMap<String, Published>) {
        self.by_index = published.iter().map(|(name, published)| (published.index, name.clone())).collect();
        self.by_name = published.into_iter().collect();
    }

    /// Whether a publication is new; then also which producer is to be forgotten for it.
    pub(super) fn admit(&self, publication: &ProducerSequence) -> Result<Option<ProducerSequence>, TurnedDown> {
        match self.by_name.get(&publication.producer) {
            Some(known) if publication.epoch < known.epoch => Err(TurnedDown::Replaced(known.epoch)),
            Some(known) if publication.epoch == known.epoch && publication.sequence <= known.sequence => {
                Err(TurnedDown::Repeated(known.index))
            }
            None if self.by_name.len() >= PRODUCERS_MAX => {
                Ok(self.by_index.first_key_value().map(|(_, name)| keys::forgotten(name.clone())))
            }
            _ => Ok(None),
        }
    }

    /// Takes note of an admitted publication.
    pub(super) fn published(&mut self, publication: &ProducerSequence, index: u64) {
        let ProducerSequence { producer, epoch, sequence } = publication.clone();
        let before = self.by_name.insert(producer.clone(), Published { epoch, sequence, index });
        if let Some(before) = before {
            self.by_index.remove(&before.index);
        } else if self.by_name.len() > PRODUCERS_MAX
            && let Some((_, oldest)) = self.by_index.pop_first()
        {
            self.by_name.remove(&oldest);
        }
        self.by_index.insert(index, producer);
    }
}

impl Ownership {
    /// Stores rows unless they are a repeat; answers once they count. None when the ownership ends meanwhile.
    pub(super) async fn publish(&self, request: PublishRequest) -> Option<PublishReply> {
        if let Err(reason) = check(&request) {
            return Some(PublishReply::Refused(reason));
        }
        if !self.ready().await {
            return None;
        }
        let batch = PortBatch { port: PORT_MAIN.to_owned(), ..request.batch };
        let producers = request.producer.iter().cloned().collect();
        let commit = Commit { outputs: vec![batch], producers, ..Commit::default() };
        let stored = match self.append(commit, request.producer.as_ref(), None).await {
            Ok(Appended::Entry(committing)) => committing.await.map(|index| (index, false)),
            Ok(Appended::TurnedDown(TurnedDown::Repeated(index))) => {
                self.is_committed(index).await.then_some((index, true)).ok_or_else(|| self.fenced())
            }
            Ok(Appended::TurnedDown(TurnedDown::Replaced(epoch))) => {
                let reason = format!("the producer has started anew with epoch {epoch}; take a higher one");
                return Some(PublishReply::Refused(reason));
            }
            Err(error) => Err(error),
        };
        match stored {
            Ok((index, repeated)) => Some(PublishReply::Stored { index, repeated }),
            Err(WriteError::Fenced { .. }) => None,
            Err(error @ (WriteError::Full { .. } | WriteError::Store(StoreError::Full { .. }))) => {
                metrics::counter!("littoral_publish_full_total").increment(1);
                Some(PublishReply::Full(error.to_string()))
            }
            Err(error) => Some(PublishReply::Refused(error.to_string())),
        }
    }

    /// Waits until an entry is committed. False when the ownership ends before.
    async fn is_committed(&self, index: u64) -> bool {
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|progress| progress.committed >= index || progress.lost).await;
        reached.is_ok_and(|progress| progress.committed >= index)
    }
}

fn check(request: &PublishRequest) -> Result<(), String> {
    if request.work.kind != WorkKind::Stream {
        return Err(format!("{} is a stage; publish to the stream that it reads", request.work));
    }
    if request.batch.rows == 0 {
        return Err("there are no rows to publish".to_owned());
    }
    let Some(producer) = &request.producer else { return Ok(()) };
    if producer.producer.is_empty() || producer.producer.len() > PRODUCER_BYTES_MAX {
        return Err(format!("a producer's name has 1 to {PRODUCER_BYTES_MAX} bytes"));
    }
    if producer.epoch == u64::MAX {
        return Err("the producer's epoch is too high; begin with 1".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(producer: &str, epoch: u64, sequence: u64) -> ProducerSequence {
        ProducerSequence { producer: producer.to_owned(), epoch, sequence }
    }

    #[test]
    fn repeats_and_old_producers_are_told_apart() {
        let mut producers = Producers::default();
        assert_eq!(producers.admit(&publication("a", 1, 5)), Ok(None));
        producers.published(&publication("a", 1, 5), 10);
        assert_eq!(producers.admit(&publication("a", 1, 5)), Err(TurnedDown::Repeated(10)));
        assert_eq!(producers.admit(&publication("a", 1, 4)), Err(TurnedDown::Repeated(10)));
        assert_eq!(producers.admit(&publication("a", 1, 6)), Ok(None));
        assert_eq!(producers.admit(&publication("a", 0, 9)), Err(TurnedDown::Replaced(1)));
        assert_eq!(producers.admit(&publication("a", 2, 0)), Ok(None));
    }

    #[test]
    fn the_quietest_producer_is_forgotten() {
        let mut producers = Producers::default();
        for number in 0..PRODUCERS_MAX as u64 {
            producers.published(&publication(&number.to_string(), 1, 1), number + 1);
        }
        producers.published(&publication("0", 1, 2), 9_000);
        assert_eq!(producers.admit(&publication("new", 1, 1)), Ok(Some(keys::forgotten("1".to_owned()))));
        producers.published(&publication("new", 1, 1), 9_001);
        assert_eq!(producers.by_name.len(), PRODUCERS_MAX);
        assert!(!producers.by_name.contains_key("1"));
    }
}
