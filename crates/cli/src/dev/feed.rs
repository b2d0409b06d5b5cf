//! The records that sensors publish: the rows of their files, with malformed ones in between.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use littoral_model::id::NodeId;
use littoral_model::manifest::Sensor;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;

/// The largest file of a sensor, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// A record, as it is published and as it is written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Record {
    pub(super) key: String,
    pub(super) value: String,
}

/// The series of one file: time and value of each row, as they are written.
pub(super) type Series = Arc<Vec<(String, String)>>;

/// Reads a CSV file with a header and two columns.
pub(super) fn read_series(path: &Path) -> anyhow::Result<Series> {
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    anyhow::ensure!(size <= FILE_BYTES_MAX, "{} has more than 256 MiB", path.display());
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let rows = text.lines().skip(1).filter(|line| !line.trim().is_empty()).enumerate().map(|(place, line)| {
        let (time, value) =
            line.split_once(',').with_context(|| format!("{}:{}: expected time,value", path.display(), place + 2))?;
        Ok((time.trim().to_owned(), value.trim().to_owned()))
    });
    Ok(Arc::new(rows.collect::<anyhow::Result<_>>()?))
}

/// One sensor of a node.
struct Replayed {
    key: String,
    series: Series,
    /// Whether it is one that the manifest names, not one more like it.
    is_named: bool,
    next: usize,
    /// How many of its rows are published.
    count: usize,
}

impl Replayed {
    fn record(&mut self) -> Option<Record> {
        if self.next >= self.count {
            return None;
        }
        let (time, value) = self.series.get(self.next)?;
        self.next += 1;
        Some(Record { key: self.key.clone(), value: format!("{},{time},{value}", self.next) })
    }
}

/// Everything that one node publishes to one stream, row by row over its sensors.
pub(super) struct Feed {
    pub(super) node: NodeId,
    pub(super) stream: String,
    sensors: Vec<Replayed>,
    turn: usize,
    given: usize,
    malformed_at: BTreeSet<usize>,
    random: StdRng,
}

/// How much is published.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount {
    /// How many sensors, those of the manifest and more like them; none for those alone.
    pub(super) sensors: Option<u32>,
    /// How many well-formed records at the most.
    pub(super) records_max: usize,
    /// How many malformed records.
    pub(super) malformed: usize,
    pub(super) seed: u64,
}

/// The feeds of all nodes with sensors.
pub(super) fn feeds(sensors: &[Sensor], series: &[Series], amount: Amount) -> Vec<Feed> {
    let wanted = amount.sensors.map_or(sensors.len(), |wanted| wanted as usize).max(usize::from(!sensors.is_empty()));
    let mut feeds: Vec<Feed> = Vec::new();
    let rows_each = amount.records_max.div_ceil(wanted.max(1));
    for number in 0..wanted {
        let Some((sensor, series)) = sensors.iter().zip(series).nth(number % sensors.len().max(1)) else { continue };
        let copy = number / sensors.len().max(1);
        let key = if copy == 0 { sensor.name.clone() } else { format!("{}-{:03}", sensor.name, copy + 1) };
        let count = series.len().min(rows_each);
        let replayed = Replayed { key, series: Arc::clone(series), is_named: copy == 0, next: 0, count };
        let stream = sensor.stream.to_string();
        match feeds.iter_mut().find(|feed| feed.node == sensor.node && feed.stream == stream) {
            Some(feed) => feed.sensors.push(replayed),
            None => {
                let random = StdRng::seed_from_u64(amount.seed.wrapping_add(feeds.len() as u64));
                let (node, sensors) = (sensor.node.clone(), vec![replayed]);
                feeds.push(Feed { node, stream, sensors, turn: 0, given: 0, malformed_at: BTreeSet::new(), random });
            }
        }
    }
    let nodes = feeds.len();
    for (place, feed) in feeds.iter_mut().enumerate() {
        let share = amount.malformed / nodes + usize::from(place < amount.malformed % nodes);
        feed.mix_in(share);
    }
    feeds
}

impl Feed {
    /// Chooses where malformed records come in between.
    fn mix_in(&mut self, count: usize) {
        let total = self.well_formed() + count;
        while self.malformed_at.len() < count.min(total) {
            self.malformed_at.insert(self.random.random_range(0..total));
        }
    }

    /// How many well-formed records it has in all.
    fn well_formed(&self) -> usize {
        self.sensors.iter().map(|sensor| sensor.count).sum()
    }

    /// How many records it has in all.
    pub(super) fn total(&self) -> usize {
        self.well_formed() + self.malformed_at.len()
    }

    /// The next record; in the order of rows over all sensors, or over those that the manifest names.
    pub(super) fn next(&mut self, named_only: bool) -> Option<Record> {
        let record = if self.malformed_at.contains(&self.given) {
            let place = self.random.random_range(0..self.sensors.len().max(1));
            let sensor = self.sensors.get(if named_only { 0 } else { place })?;
            let (key, shape) = (sensor.key.clone(), self.random.random_range(0..MALFORMED.len()));
            let value = MALFORMED.get(shape).map(|make| make(self.given)).unwrap_or_default();
            Some(Record { key, value })
        } else {
            self.well_formed_record(named_only)
        };
        self.given += usize::from(record.is_some());
        record
    }

    fn well_formed_record(&mut self, named_only: bool) -> Option<Record> {
        let count = self.sensors.len();
        for _ in 0..count {
            let place = self.turn % count;
            self.turn += 1;
            let sensor = self.sensors.get_mut(place).filter(|sensor| sensor.is_named || !named_only);
            if let Some(record) = sensor.and_then(Replayed::record) {
                return Some(record);
            }
        }
        None
    }
}

/// What sensors send when something is wrong with them; each is malformed in another way.
const MALFORMED: [fn(usize) -> String; 7] = [
    |number| format!("{number},2014-01-01 00:00:00"),
    |number| format!("{number},2014-01-01 00:00:00,n/a"),
    |number| format!("{number},2014-13-45 99:00:00,73.5"),
    |number| format!("\u{1}\u{7f}\u{fffd}#{number}"),
    |number| format!("{number},2014-01-01 00:00:00,1e999"),
    |number| format!("{number},2014-01-01 00:00:00,73.5,again"),
    |number| format!("minus {number},2014-01-01 00:00:00,73.5"),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sensors() -> (Vec<Sensor>, Vec<Series>) {
        let sensor = |name: &str, node: &str| Sensor {
            name: name.to_owned(),
            node: NodeId::new(node).unwrap(),
            stream: "readings".parse().unwrap(),
            file: "f".to_owned(),
            labels: None,
        };
        let series: Series = Arc::new((0..50).map(|n| (format!("t{n}"), n.to_string())).collect());
        (vec![sensor("a", "d1"), sensor("b", "d2")], vec![Arc::clone(&series), series])
    }

    fn amount(sensors: Option<u32>) -> Amount {
        Amount { sensors, records_max: usize::MAX, malformed: 5, seed: 1 }
    }

    #[test]
    fn every_row_is_published_once_and_the_malformed_on_top() {
        let (sensors, series) = sensors();
        let mut feeds = feeds(&sensors, &series, amount(Some(6)));
        assert_eq!(feeds.iter().map(Feed::total).sum::<usize>(), 6 * 50 + 5);
        let mut seen = BTreeSet::new();
        let mut count = 0;
        for feed in &mut feeds {
            while let Some(record) = feed.next(false) {
                count += 1;
                seen.insert((record.key, record.value));
            }
        }
        assert_eq!((count, seen.len()), (305, 305));
    }

    #[test]
    fn named_sensors_go_first_and_the_rest_follows() {
        let (sensors, series) = sensors();
        let mut feeds = feeds(&sensors, &series, amount(Some(4)));
        let feed = feeds.first_mut().unwrap();
        let first: Vec<Record> = (0..10).filter_map(|_| feed.next(true)).collect();
        assert!(first.iter().all(|record| record.key == "a"));
        let rest = std::iter::from_fn(|| feed.next(false)).count();
        assert_eq!(first.len() + rest, feed.total());
    }

    #[test]
    fn the_same_seed_gives_the_same_records() {
        let (sensors, series) = sensors();
        let all = || {
            let mut feeds = feeds(&sensors, &series, amount(None));
            feeds
                .iter_mut()
                .flat_map(|feed| std::iter::from_fn(|| feed.next(false)).collect::<Vec<_>>())
                .collect::<Vec<_>>()
        };
        assert_eq!(all(), all());
    }
}
