//! Runs a source: commits what it gives, with the position behind it, as one entry of the source's own log.
//!
//! A record is thus there once, whatever fails: what was not committed is read again, what was is not. The source waits for each commit, which
//! waits for room while the stream's partitions do not take what is there already.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use littoral_flow::batch;
use littoral_flow::stats::{Stats, Step};
use littoral_flow::{Ended, stats};
use littoral_model::entry::{Commit, PortBatch, partition_port};
use littoral_model::manifest::SourceConnector;
use littoral_store::replica::Owned;

use crate::backoff::Backoff;
use crate::{Machine, Record, Source, Taken, Trouble, open_source};

/// The key group of the log that has the source's position.
const POSITION: u32 = 0;

/// Everything that a running source needs.
pub struct SourceWork {
    /// The right to write its log.
    pub owned: Owned,
    /// What is to be read.
    pub source: SourceConnector,
    /// The partitions of the stream that it feeds.
    pub partitions: Vec<u32>,
    /// The machine that it is read on.
    pub machine: Arc<dyn Machine>,
    /// Where it reports.
    pub stats: Arc<Stats>,
}

/// Runs a source until it has another owner.
pub async fn run(work: SourceWork) -> Ended {
    let lost = work.owned.clone();
    tokio::select! {
        ended = feed(work) => ended,
        () = lost.lost() => Ended::Fenced,
    }
}

async fn feed(work: SourceWork) -> Ended {
    let SourceWork { owned, source, partitions, machine, stats } = work;
    let restored = match owned.restore().await {
        Ok(restored) => restored,
        Err(error) => return error.into(),
    };
    let mut position = restored.state.into_iter().find(|(group, _)| *group == POSITION).map(|(_, bytes)| bytes);
    let mut backoff = Backoff::default();
    stats.runs();
    loop {
        let mut opened = match open_source(owned.work(), &source, &machine, position.as_deref()).await {
            Ok(opened) => opened,
            Err(trouble) => {
                backoff.wait(&stats, &trouble).await;
                continue;
            }
        };
        let trouble = loop {
            let taken = match opened.next().await {
                Ok(taken) => taken,
                Err(trouble) => break trouble,
            };
            backoff.over(&stats);
            let is_known = taken.position.is_empty() || position.as_ref() == Some(&taken.position);
            if taken.is_empty() && is_known {
                continue;
            }
            let committing = commit(&owned, &partitions, &taken, &stats);
            let (committed, trouble) = tending(&mut *opened, committing).await;
            if let Err(ended) = committed {
                return ended;
            }
            position = Some(taken.position);
            if let Some(trouble) = trouble {
                break trouble;
            }
            if let Err(trouble) = opened.committed().await {
                break trouble;
            }
        };
        let rest = opened.rest();
        backoff.wait(&stats, &trouble).await;
        tokio::time::sleep(rest).await;
    }
}

/// Waits for a commit, with the source kept alive; also with what trouble that ended.
async fn tending<T>(source: &mut dyn Source, committing: impl Future<Output = T>) -> (T, Option<Trouble>) {
    tokio::pin!(committing);
    tokio::select! {
        committed = &mut committing => (committed, None),
        trouble = source.tend() => (committing.await, Some(trouble)),
    }
}

async fn commit(owned: &Owned, partitions: &[u32], taken: &Taken, stats: &Stats) -> Result<(), Ended> {
    let outputs = outputs(partitions, &taken.records).map_err(|trouble| Ended::Failed(trouble.to_string()))?;
    let (rejected, why) = taken.passed_over.clone().unwrap_or_default();
    let step = Step {
        rows_in: taken.records.len() as u64,
        bytes_in: taken.records.iter().map(|record| record.value.len() as u64).sum(),
        rows_out: outputs.iter().map(|batch| (batch.port.clone(), u64::from(batch.rows))).collect(),
        rejected,
        ..Step::default()
    };
    let state = vec![(POSITION, Bytes::clone(&taken.position))];
    owned.append(Commit { outputs, state, ..Commit::default() }).await?.await?;
    stats.committed(&step);
    if rejected > 0 {
        tracing::warn!(work = %owned.work(), rejected, "records of the source were passed over: {why}");
    }
    Ok(())
}

/// The records on the ports of the partitions that they go to: as what is published without a source, by their keys.
fn outputs(partitions: &[u32], records: &[Record]) -> Result<Vec<PortBatch>, Trouble> {
    let mut spread: BTreeMap<u32, Vec<(Option<String>, i64, String)>> = BTreeMap::new();
    for record in records {
        let keyed = record.key.as_deref().unwrap_or(&record.value);
        let place = match partitions.len() {
            0 => return Err(Trouble("the stream has no partition yet".to_owned())),
            count => crc32c::crc32c(keyed.as_bytes()) as usize % count,
        };
        let rows = spread.entry(partitions.get(place).copied().unwrap_or_default()).or_default();
        rows.push((record.key.clone(), record.time_us, record.value.clone()));
    }
    let now_us = stats::now_us();
    let encoded = spread.into_iter().map(|(partition, rows)| {
        let rows = batch::records(&rows)?;
        batch::encode(&partition_port(partition), &rows, Some(now_us))
    });
    encoded.collect::<Result<_, _>>().map_err(|error| Trouble(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn records_of_a_key_stay_together_and_all_are_there() {
        let record =
            |number: usize| Record { key: Some(format!("k{}", number % 20)), time_us: 1, value: format!("{number}") };
        let records: Vec<Record> = (0..500).map(record).collect();
        let outputs = outputs(&[3, 5, 8], &records).unwrap();
        let ports: Vec<&str> = outputs.iter().map(|batch| batch.port.as_str()).collect();
        assert_eq!(ports, ["main.3", "main.5", "main.8"]);
        let lines: Vec<String> =
            outputs.iter().map(|rows| batch::to_json_lines(&batch::decode(rows).unwrap()).unwrap()).collect();
        assert_eq!(lines.iter().map(|text| text.lines().count()).sum::<usize>(), 500);
        for key in 0..20 {
            let key = format!("\"k{key}\"");
            assert_eq!(lines.iter().filter(|text| text.contains(&key)).count(), 1, "{key}");
        }
        assert!(super::outputs(&[], &records).is_err());
    }
}
