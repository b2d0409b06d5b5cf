//! The last record of each topic of a partition: built from the stream when somebody first asks, and caught up with it
//! whenever somebody asks again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use littoral_gateway::mqtt::Record;
use littoral_model::entry::Position;
use littoral_model::topic::TopicFilter;

/// The most topics of a partition of which the last record is known; beyond that, those that were silent for longest are
/// forgotten.
const TOPICS_MAX: usize = 10_000;
/// The most bytes of them.
const BYTES_MAX: usize = 16 << 20;

/// The last records of a partition.
#[derive(Debug)]
pub(crate) struct Retained {
    /// Everything before this is known.
    pub(crate) next: Position,
    last: HashMap<Arc<str>, Record>,
    /// The topics by the places of their last records.
    by_place: BTreeMap<Position, Arc<str>>,
    bytes: usize,
}

impl Default for Retained {
    fn default() -> Self {
        Self { next: Position::START, last: HashMap::new(), by_place: BTreeMap::new(), bytes: 0 }
    }
}

impl Retained {
    /// Takes the next record; an empty one says that nothing is retained of its topic any more.
    pub(crate) fn take(&mut self, record: Record) {
        if let Some(before) = self.last.remove(&record.topic) {
            self.by_place.remove(&before.place);
            self.bytes -= size(&before);
        }
        if record.payload.is_empty() {
            return;
        }
        self.bytes += size(&record);
        self.by_place.insert(record.place, Arc::clone(&record.topic));
        self.last.insert(Arc::clone(&record.topic), record);
        while self.last.len() > TOPICS_MAX || self.bytes > BYTES_MAX {
            let Some((_, oldest)) = self.by_place.pop_first() else { return };
            if let Some(forgotten) = self.last.remove(&oldest) {
                self.bytes -= size(&forgotten);
            }
        }
    }

    /// Those of which a filter matches the topic, in the order in which they came.
    pub(crate) fn matching(&self, filters: &[TopicFilter]) -> Vec<Record> {
        let topics = self.by_place.values().filter(|topic| filters.iter().any(|filter| filter.matches(topic)));
        topics.filter_map(|topic| self.last.get(topic).cloned()).collect()
    }
}

fn size(record: &Record) -> usize {
    record.topic.len() + record.payload.len()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use bytes::Bytes;

    use super::*;

    fn record(index: u64, topic: &str, payload: &str) -> Record {
        let place = Position { index, row: 0 };
        Record { place, topic: Arc::from(topic), payload: Bytes::copy_from_slice(payload.as_bytes()) }
    }

    #[test]
    fn the_last_record_of_each_topic_is_retained() {
        let mut retained = Retained::default();
        for (index, topic, payload) in [(1, "a/1", "x"), (2, "a/2", "y"), (3, "a/1", "z"), (4, "b", "w"), (5, "b", "")]
        {
            retained.take(record(index, topic, payload));
        }
        let all = retained.matching(&["#".parse().unwrap()]);
        assert_eq!(all, [record(2, "a/2", "y"), record(3, "a/1", "z")]);
        assert_eq!(retained.matching(&["a/1".parse().unwrap(), "+/1".parse().unwrap()]).len(), 1);
        assert_eq!(retained.bytes, 8);
    }

    #[test]
    fn what_is_retained_is_bounded() {
        let mut retained = Retained::default();
        for index in 0..TOPICS_MAX as u64 + 5 {
            retained.take(record(index, &format!("t/{index}"), "x"));
        }
        let all = retained.matching(&["#".parse().unwrap()]);
        assert_eq!((all.len(), &*all[0].topic), (TOPICS_MAX, "t/5"));
        retained.take(record(1 << 20, "large", &"x".repeat(BYTES_MAX - 5)));
        assert_eq!(retained.matching(&["#".parse().unwrap()]).len(), 1);
        assert_eq!((retained.by_place.len(), retained.bytes), (1, BYTES_MAX));
    }
}
