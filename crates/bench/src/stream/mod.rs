//! `stream`: durable publishing and consuming, beside Redis Streams, NATS JetStream and Mosquitto as Debian packages them.
//!
//! Everybody is one server process on this machine, begun anew for each round, and spoken to in the clear over TCP by clients that do as
//! little as they can: publications are made beforehand, and what comes back is only counted. A publisher has a window of records under
//! way: it sends them with one write, waits until all are acknowledged, and sends the next. Ours takes a window as one request (records as
//! lines of JSON, posted to a route of the stream), the peers as that many commands. First one publisher with a window of one, then 50 with
//! larger ones, on one thread; then one consumer reads all of it from the beginning.
//!
//! Ours and Redis have a record synced to the disk before they acknowledge it. The other two have not, whatever they are told.

mod mosquitto;
mod nats;
mod ours;
mod publishers;
mod redis;
mod socket;

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;

use crate::results::{Results, Series, load};
use publishers::{Load, publish};

/// A size of records, what it is called, how many a publisher of 50 has under way, and how many are published by them and by one alone.
struct Cell {
    name: &'static str,
    bytes: usize,
    window: usize,
    records: usize,
    records_of_one: usize,
}

/// Windows are of at most half a MiB, so that what 50 publishers have under way fits every server's buffers.
const CELLS: [Cell; 3] = [
    Cell { name: "100 B", bytes: 100, window: 16, records: 400_000, records_of_one: 4_000 },
    Cell { name: "8 KiB", bytes: 8 << 10, window: 16, records: 40_000, records_of_one: 2_000 },
    Cell { name: "256 KiB", bytes: 256 << 10, window: 2, records: 2_000, records_of_one: 500 },
];
/// How many publish at the same time.
const PUBLISHERS: usize = 50;
/// How many rounds; each starts every server once for each size.
const ROUNDS: usize = 5;
/// The same in the short form, which also publishes so many times fewer records.
const ROUNDS_SHORT: usize = 2;
const SHORT: usize = 8;
/// About how many bytes a consumer asks for at once, as ours answers with.
const ANSWER_BYTES: usize = 2 << 20;
const UNIT: &str = "records/s";
const BY_ONE: &str = "by_one_per_s";
const CONSUMED: &str = "consumed_per_s";

/// A server that keeps records, and how it is spoken to.
trait Queue: Sync {
    /// Where it listens.
    fn address(&self) -> std::net::SocketAddr;

    /// What a publisher sends first; empty if nothing.
    fn greeting(&self, publisher: usize) -> Vec<u8>;

    /// Whether the greeting is answered; takes the answer off what was received.
    fn greeted(&self, received: &mut bytes::BytesMut) -> anyhow::Result<bool>;

    /// What publishes so many records with this payload, in one write.
    fn publication(&self, publisher: usize, payload: &str, count: usize) -> Vec<u8>;

    /// How many records whole acknowledgements acknowledge, which are taken off what was received.
    fn acknowledged(&self, received: &mut bytes::BytesMut) -> anyhow::Result<usize>;

    /// Consumes so many records of that size from the beginning; fails if others come.
    fn consume(&self, records: usize, bytes: usize) -> anyhow::Result<()>;
}

type Start = fn(&Path) -> anyhow::Result<Box<dyn Queue>>;

/// Who takes part: the name, the version with its configuration, and how it is started; ours first, then Redis.
fn contestants() -> anyhow::Result<Vec<(&'static str, String, Start)>> {
    Ok(vec![
        ("littoral", ours::about()?, ours::start),
        ("redis", redis::about()?, redis::start),
        ("nats jetstream (no sync)", nats::about()?, nats::start),
        ("mosquitto (no sync)", mosquitto::about()?, mosquitto::start),
    ])
}

/// Runs the benchmark.
pub(crate) fn run(short: bool) -> anyhow::Result<()> {
    let mut results = Results::begin("stream", short);
    let contestants = contestants()?;
    let (rounds, share) = if short { (ROUNDS_SHORT, SHORT) } else { (ROUNDS, 1) };
    for cell in CELLS {
        let named =
            |(name, about, _): &(&str, String, Start)| Series::new(format!("{}: {name}", cell.name), about, UNIT);
        let mut series: Vec<Series> = contestants.iter().map(named).collect();
        for round in 0..rounds {
            let mut turns: Vec<_> = contestants.iter().zip(&mut series).collect();
            if round % 2 == 1 {
                turns.reverse();
            }
            for ((name, _, start), series) in turns {
                let folder = tempfile::tempdir()?;
                let sample = start(folder.path()).and_then(|queue| measure(queue.as_ref(), &cell, share));
                let [by_many, by_one, consumed] = sample.with_context(|| format!("{}: {name}", cell.name))?;
                eprintln!(
                    "{}: {name}: {by_many:.0} records/s by {PUBLISHERS}, {by_one:.0} by one, {consumed:.0} consumed",
                    cell.name
                );
                series.note(by_many, &[(BY_ONE, by_one), (CONSUMED, consumed)]);
            }
        }
        if let [ours, redis, ..] = series.as_mut_slice() {
            for (key, of) in [
                ("stream_publish_50_vs_redis", UNIT),
                ("stream_consume_vs_redis", CONSUMED),
                ("stream_publish_1_vs_redis", BY_ONE),
            ] {
                let ratio = ours.compare(redis, of);
                let worst = results.ratios.entry(key.to_owned()).or_insert(ratio);
                *worst = worst.min(ratio);
            }
        }
        results.series.append(&mut series);
    }
    results.load.1 = load();
    results.publish()
}

/// Records a second: published by many, by one, and consumed.
fn measure(queue: &dyn Queue, cell: &Cell, share: usize) -> anyhow::Result<[f64; 3]> {
    let one = Load { publishers: 1, window: 1, records: cell.records_of_one / share, bytes: cell.bytes };
    let many = Load { publishers: PUBLISHERS, window: cell.window, records: cell.records / share, bytes: cell.bytes };
    let (by_one, first) = publish(queue, &one)?;
    let (by_many, second) = publish(queue, &many)?;
    let begun = Instant::now();
    queue.consume(first + second, cell.bytes)?;
    Ok([by_many, by_one, (first + second) as f64 / begun.elapsed().as_secs_f64()])
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    /// Counts the acknowledgements in bytes that come one by one; all must have been taken.
    pub(super) fn in_pieces(bytes: &[u8], count: fn(&mut BytesMut) -> anyhow::Result<usize>) -> anyhow::Result<usize> {
        let (mut received, mut counted) = (BytesMut::new(), 0);
        for byte in bytes {
            received.extend_from_slice(&[*byte]);
            counted += count(&mut received)?;
        }
        anyhow::ensure!(received.is_empty(), "{} bytes are left", received.len());
        Ok(counted)
    }
}
